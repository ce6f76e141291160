//! What a driver over an interface of the kernel's doesn't tell: which packets arrived unfinished.
//!
//! A sender whose interface claims to fill in checksums leaves them to it. Where that interface is a
//! pair of virtual ones (veth), nobody ever does, since the packet stays in the machine: the kernel marks it
//! instead. net_af_packet has no place for that mark, so it is looked for by a second packet socket
//! (`packet(7)`) on the same interface.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The socket option (`linux/if_packet.h`) that puts a `struct virtio_net_hdr` before each packet.
const PACKET_VNET_HDR: libc::c_int = 15;

/// Bytes of `struct virtio_net_hdr`, and its flag that a checksum is still to be filled in.
const HEADER: usize = 10;
const NEEDS_CSUM: u8 = 1;

/// The kernel makes the least of it that there is: room for two packets or three. What comes while
/// it is full is not even copied.
const RECEIVE_BUFFER: libc::c_int = 1;

/// A packet socket that sees a sample of the IPv4 packets that an interface receives.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket on an interface of this network namespace.
    ///
    /// # Errors
    /// What the kernel refuses; without `CAP_NET_RAW` it refuses the socket.
    pub fn open(interface: &str) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: the name ends in NUL.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes any numbers. With protocol 0 the socket gets nothing until it is bound.
        let socket = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor was just made, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER)?;

        // SAFETY: all of its fields are numbers.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        // Of one protocol, it sees what arrives and not what leaves.
        address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
        address.sll_ifindex = index as libc::c_int;
        let length = mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is as long as it is said to be, and the kernel copies it.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self { socket })
    }

    /// Whether the checksum of one of the packets seen since the last call is unfinished.
    pub fn saw_unfinished_checksum(&mut self) -> bool {
        let mut found = false;
        // The buffer holds a few packets, and the more that come meanwhile can wait for the next call.
        for _ in 0..16 {
            let mut packet = [0_u8; 64];
            // SAFETY: the kernel writes no more than the buffer's length.
            let received = unsafe {
                libc::recv(self.socket.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0)
            };
            match usize::try_from(received) {
                Ok(length) => found |= length >= HEADER && packet[0] & NEEDS_CSUM != 0,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => break,
                // The interface went down, or a packet has a shape that no header can say.
                Err(_) => {}
            }
        }
        found
    }
}

fn set(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value is as long as it is said to be, and the kernel copies it.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length)
    })?;
    Ok(())
}

fn check(status: libc::c_int) -> io::Result<libc::c_int> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}
