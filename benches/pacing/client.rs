//! The client: asks at a steady pace over many connections, and says how long each answer took.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::{network::VIP, server};

/// Connections that take turns.
const CONNECTIONS: u32 = 50;

/// Prints how many nanoseconds each request took, one a line.
pub(crate) fn ask(rate: u32, length: Duration) -> anyhow::Result<()> {
    let streams = (0..CONNECTIONS).map(|_| connect()).collect::<anyhow::Result<Vec<_>>>()?;
    // Then all have been looked up, and the server waits for each.
    thread::sleep(Duration::from_millis(200));
    let period = Duration::from_secs(1) * CONNECTIONS / rate;
    let start = Instant::now();
    let askers: Vec<_> = (0..)
        .zip(streams)
        .map(|(number, stream)| {
            let first = start + period * number / CONNECTIONS;
            thread::spawn(move || ask_by(stream, first, period, start + length))
        })
        .collect();
    let mut report = String::new();
    for asker in askers {
        let times = asker.join().expect("no panic")?;
        times.iter().for_each(|time| report += &format!("{}\n", time.as_nanos()));
    }
    print!("{report}");
    Ok(())
}

fn connect() -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect((VIP, server::PORT)).context("no connection to the VIP")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// Asks by one connection, and returns how long each answer took from the moment it was asked for.
fn ask_by(
    mut stream: TcpStream,
    first: Instant,
    period: Duration,
    end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut answer = [0; server::ANSWER];
    let mut next = first;
    while next < end {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        stream.write_all(b"GET\n")?;
        stream.read_exact(&mut answer).context("an answer is missing")?;
        times.push(asked.elapsed());
        next += period;
    }
    Ok(times)
}

/// Reads what [`ask`] printed.
pub(crate) fn read(report: &str) -> anyhow::Result<Histogram<u64>> {
    let mut histogram = Histogram::new(3)?;
    for line in report.lines() {
        histogram.record(line.parse()?)?;
    }
    Ok(histogram)
}
