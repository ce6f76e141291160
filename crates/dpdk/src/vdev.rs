//! Virtual devices that come and go while the program runs.

use std::ffi::CString;

use shunt_dpdk_sys as sys;

use crate::eal::Eal;
use crate::error::{EBUSY, EINVAL, ENODEV, Error};
use crate::port;
use crate::port_info::PortId;

impl Eal {
    /// Makes a virtual device from what would be EAL's `--vdev` argument, such as
    /// `net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap` (`rte_dev_probe`), and returns its port.
    ///
    /// # Errors
    /// What the driver reports (its log says more); `ENODEV` when the device is no Ethernet port.
    pub fn attach_vdev(&self, devargs: &str) -> Result<PortId, Error> {
        const CALL: &str = "rte_dev_probe";
        let c_devargs = CString::new(devargs).map_err(|_| Error::new(CALL, EINVAL))?;
        let _guard = port::running();
        // SAFETY: EAL is initialised, and DPDK copies the string.
        Error::check(CALL, unsafe { sys::rte_dev_probe(c_devargs.as_ptr()) })?;
        let name = devargs.split(',').next().unwrap_or_default();
        PortId::by_name(name).ok_or(Error::new(CALL, ENODEV))
    }

    /// Removes the virtual device of that name (`rte_eal_hotplug_remove`).
    ///
    /// # Errors
    /// `EBUSY` while its port runs; `ENODEV` or `EINVAL` when there is no such device.
    pub fn detach_vdev(&self, name: &str) -> Result<(), Error> {
        const CALL: &str = "rte_eal_hotplug_remove";
        let c_name = CString::new(name).map_err(|_| Error::new(CALL, EINVAL))?;
        let ports = port::running();
        if PortId::by_name(name).is_some_and(|id| ports.contains(&id)) {
            return Err(Error::new(CALL, EBUSY));
        }
        // SAFETY: EAL is initialised, DPDK reads the strings, and no queue of the device is polled.
        Error::check(CALL, unsafe {
            sys::rte_eal_hotplug_remove(c"vdev".as_ptr(), c_name.as_ptr())
        })
    }
}
