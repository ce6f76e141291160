//! Capture files: microsecond pcap, Ethernet.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    time::Duration,
};

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

/// Writes frames to a pcap file, a millisecond apart.
///
/// # Panics
/// When the file can't be written.
pub fn write(path: &Path, frames: &[Vec<u8>]) {
    let file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut writer = PcapWriter::new(BufWriter::new(file)).expect("a pcap header");
    for (at, frame) in (0..).zip(frames) {
        let packet = PcapPacket::new(Duration::from_millis(at), frame.len() as u32, frame);
        writer.write_packet(&packet).expect("a pcap record");
    }
    writer.into_writer().flush().expect("a pcap file");
}

/// Reads the frames of a pcap file.
///
/// # Panics
/// When the file can't be read, or a frame in it is cut short.
#[must_use]
pub fn read(path: &Path) -> Vec<Vec<u8>> {
    try_read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads the frames of a pcap file.
///
/// # Errors
/// When the file can't be read, or a frame in it is cut short.
pub fn try_read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut reader = PcapReader::new(File::open(path)?).map_err(io::Error::other)?;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(io::Error::other)?;
        if packet.orig_len as usize != packet.data.len() {
            return Err(io::Error::other("a frame cut short"));
        }
        frames.push(packet.data.into_owned());
    }
    Ok(frames)
}
