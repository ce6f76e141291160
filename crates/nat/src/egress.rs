use std::num::NonZeroU16;

/// How many bits an [`EgressId`] has: those that a connection's record has to spare.
pub(crate) const SPARE_BITS: u32 = 12;

/// The caller's number for a way out of the director: a port and the neighbour behind it. Connections
/// remember one for each direction, and servers one, so that no packet but the first has to be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EgressId(NonZeroU16);

impl EgressId {
    /// The first number there is: 1.
    pub const FIRST: EgressId = EgressId(NonZeroU16::MIN);

    /// The last one: 4095.
    pub const LAST: EgressId =
        EgressId(NonZeroU16::new(u16::MAX >> (u16::BITS - SPARE_BITS)).unwrap());

    /// The way out with this number, if that is one.
    #[inline]
    #[must_use]
    pub fn new(number: u16) -> Option<EgressId> {
        let number = NonZeroU16::new(number)?;
        (number <= EgressId::LAST.0).then_some(EgressId(number))
    }

    /// Its number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}
