//! What a command prints. Nothing here panics when it can't be written, as `println!` would.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

use anyhow::Context;

/// Prints to standard output. A reader that has gone away, as in `shunt check … | head`, has read
/// what it wanted: that is no error.
pub(crate) fn print(text: impl Display) -> anyhow::Result<()> {
    write_to(&mut io::stdout().lock(), text).context("standard output can't be written")
}

/// Says on standard error why a command failed. Where that can't be written, the exit status is all
/// there is left to say.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "shunt: {text:#}");
}

fn write_to(output: &mut impl Write, text: impl Display) -> io::Result<()> {
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_reader_that_has_gone_is_no_error() {
        assert!(write_to(&mut Failing(ErrorKind::BrokenPipe), "text").is_ok());
        let error = write_to(&mut Failing(ErrorKind::StorageFull), "text").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
