//! What there is to see when something has gone wrong.

use std::{
    panic::{self, AssertUnwindSafe},
    thread,
};

use super::{Host, Lab, director::Shunt, footprint, note, quote};

impl Lab {
    /// Prints what the director said, what was captured, and what the hosts know.
    pub fn show_state(&self) {
        const LAST_WORDS: usize = 40;
        const LAST_FRAMES: usize = 30;

        let shunt = self.running.as_ref().and_then(|running| running.shunt.as_ref());
        if let Some(shunt) = shunt {
            println!("\nthe last words of the director:");
            quote(&last(LAST_WORDS, shunt.log().lines()));
        }
        for number in 0..self.captures.get() {
            for host in Host::ALL {
                let file = self.dir().join(format!("{}-{number}.pcap", host.name()));
                let Ok(frames) = crate::pcap::try_read(&file) else { continue };
                println!(
                    "\ncaptured on {}: {} frames, the last of them:",
                    host.name(),
                    frames.len()
                );
                let frames: Vec<String> =
                    frames.iter().map(|frame| crate::describe(frame)).collect();
                quote(&last(LAST_FRAMES, frames.iter().map(String::as_str)));
            }
        }
        for host in Host::ALL.into_iter().filter(|&host| self.namespace(host).exists()) {
            println!("\n{}:", host.name());
            for command in ["ip -s -brief link", "ip -brief address", "ip neigh", "ss -Hntu"] {
                note(command);
                quote(&self.run(host, &command.split(' ').collect::<Vec<_>>()).text);
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        footprint::wait_if_ending();
        if thread::panicking() {
            // A second panic, for nobody reads what is printed, must not keep the rest from going.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| {
                // What it counted is worth seeing, too.
                let shunt = self.running.as_mut().and_then(|running| running.shunt.as_mut());
                shunt.into_iter().for_each(Shunt::end);
                self.show_state();
            }));
        }
    }
}

fn last<'a>(count: usize, lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<&str> = lines.collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
