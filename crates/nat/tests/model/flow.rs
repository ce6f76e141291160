use std::{fmt, net::SocketAddrV4};

use shunt_nat::FlowKey;

/// Protocol, source and destination of a packet. An echo's identifier is the port of the one who
/// asks; the other port is 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    pub(crate) src: SocketAddrV4,
    pub(crate) dst: SocketAddrV4,
}

impl Flow {
    /// What goes the other way.
    pub(crate) fn reverse(self) -> Flow {
        Flow { src: self.dst, dst: self.src, ..self }
    }

    /// As the engine is asked for it.
    pub(crate) fn key(self) -> FlowKey {
        FlowKey::new(self.protocol, self.src, self.dst)
    }
}

impl From<FlowKey> for Flow {
    fn from(key: FlowKey) -> Flow {
        Flow { protocol: key.protocol(), src: key.src(), dst: key.dst() }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.src, self.dst)
    }
}
