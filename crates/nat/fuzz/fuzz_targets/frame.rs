//! An Ethernet frame, into a director that has seen all sorts of traffic; then twice more in one burst,
//! by the fast path if that is open to it now. The first byte of the input says on which side it
//! arrives, and whether its checksums are mended: else hardly any would get far.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shunt_nat::Side;
use shunt_nat_fuzz::{Director, mend};
use shunt_packet::ethernet;

fuzz_target!(|input: &[u8]| {
    let Some((how, frame)) = input.split_first() else { return };
    let side = if how & 1 == 0 { Side::Outside } else { Side::Inside };
    let mut frame = frame.to_vec();
    if how & 2 == 0
        && let Some(packet) = frame.get_mut(ethernet::HEADER_LEN..)
    {
        mend(packet);
    }
    let mut director = Director::experienced();
    director.receive(side, &frame);
    director.begin_burst(2);
    director.receive(side, &frame);
    director.receive(side, &frame);
    director.end();
});
