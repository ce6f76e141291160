//! The kernel's side of a TAP: raw frames through an `AF_PACKET` socket (packet(7)).

use std::{
    ffi::CString,
    fs,
    io::{self, Read, Write},
    os::fd::{FromRawFd, OwnedFd},
};

/// Moves this thread, and those that it starts, to a network namespace of their own, which goes with
/// them. Its interfaces have no IPv6, so that the kernel sends nothing of its own.
pub(crate) fn enter_new_network_namespace() {
    // SAFETY: the call takes flags alone, and changes nothing that Rust relies on.
    let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(status, 0, "a network namespace needs root: {}", io::Error::last_os_error());
    // Where the kernel has no IPv6, there is nothing to switch off.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
}

/// Sends frames to the reader of a TAP, and receives what its writer writes.
pub(crate) struct PacketSocket(fs::File);

impl PacketSocket {
    /// A socket on the interface of that name.
    pub(crate) fn open(interface: &str) -> PacketSocket {
        let every_protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes numbers alone.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        assert!(fd >= 0, "an AF_PACKET socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor has just been opened, and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };

        let name = CString::new(interface).expect("a name without a NUL byte");
        // SAFETY: the name is a NUL-terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert_ne!(index, 0, "{interface}: {}", io::Error::last_os_error());
        // SAFETY: all of its fields are numbers, for which zeros are values.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every_protocol;
        address.sll_ifindex = index as i32;
        // SAFETY: the address is a sockaddr_ll of the length that is stated.
        let status = unsafe {
            libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        };
        assert_eq!(status, 0, "{interface}: {}", io::Error::last_os_error());
        PacketSocket(socket.into())
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!((&self.0).write(frame).expect("a frame is sent"), frame.len());
    }

    /// A frame that has come; `None` when there is none.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2048];
        match (&self.0).read(&mut frame) {
            Ok(len) => {
                frame.truncate(len);
                Some(frame)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("a frame is received: {error}"),
        }
    }
}
