//! The server: answers each line with a line.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use anyhow::Context;

/// What it listens on.
pub(crate) const PORT: u16 = 8080;

/// Bytes of an answer.
pub(crate) const ANSWER: usize = 256;

/// Serves until it is killed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).context("the server can't listen")?;
    println!("listening");
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

/// Answers until the client has gone.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    let mut answer = [b'x'; ANSWER];
    answer[ANSWER - 1] = b'\n';
    while requests.read_line(&mut line)? > 0 {
        stream.write_all(&answer)?;
        line.clear();
    }
    Ok(())
}
