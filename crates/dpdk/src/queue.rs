//! The queues of a port. Each has one owner, who may take it to any thread.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use shunt_dpdk_sys as sys;

use crate::burst::Burst;
use crate::port::Running;
use crate::port_info::PortId;

/// A receive queue. It keeps its port running.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Running>,
    queue: u16,
    _not_sync: PhantomData<Cell<()>>,
}

impl RxQueue {
    pub(crate) fn new(port: Arc<Running>, queue: u16) -> Self {
        Self { port, queue, _not_sync: PhantomData }
    }

    /// The port that it belongs to.
    pub fn port(&self) -> PortId {
        self.port.id
    }

    /// Its number within the port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Adds received packets to a burst, as many as there are and fit, and returns how many
    /// (`rte_eth_rx_burst`). Does not wait. Some drivers receive in fours or eights, and nothing
    /// into a burst with less room; best give it an empty one.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the port runs as long as `self.port` lives, and has this queue, which nobody else
        // polls. DPDK hands over the mbufs that it counts.
        unsafe {
            burst.fill(|mbufs, count| sys::shunt_rx_burst(self.port.id.0, self.queue, mbufs, count))
        }
    }
}

/// A transmit queue. It keeps its port running.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Running>,
    queue: u16,
    _not_sync: PhantomData<Cell<()>>,
}

impl TxQueue {
    pub(crate) fn new(port: Arc<Running>, queue: u16) -> Self {
        Self { port, queue, _not_sync: PhantomData }
    }

    /// The port that it belongs to.
    pub fn port(&self) -> PortId {
        self.port.id
    }

    /// Its number within the port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Sends packets from the front of a burst, as many as the device takes, and returns how many
    /// (`rte_eth_tx_burst`). Does not wait. What it did not take stays in the burst, in order; the rest
    /// is the device's, which frees it some time after it is sent.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the port runs as long as `self.port` lives, and has this queue, which nobody else
        // uses. DPDK takes over the mbufs that it counts.
        unsafe {
            burst.take(|mbufs, count| sys::shunt_tx_burst(self.port.id.0, self.queue, mbufs, count))
        }
    }
}
