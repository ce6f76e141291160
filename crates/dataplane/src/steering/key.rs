//! The RSS keys of the two ports.
//!
//! A connection's packets must reach one worker from both sides. All that they share is the *peer
//! endpoint*: it is the source of what arrives outside, and the destination of what arrives inside.
//! So the outside port gets a key under which only the source moves the hash, the inside port one
//! under which only the destination does, and both come to the same value.
//!
//! Toeplitz's hash of an input is the XOR, over its bits that are set, of the 32 key bits from the
//! bit's own position on: input bit `i` adds key bits `i..i+32`. A table of 2ⁿ entries looks at the
//! last `n` bits of the hash, so all that matters of bit `i` are the last `n` bits of its window: key
//! bits `i+32-n ..= i+31`. An IPv4 packet's input is
//!
//! ```text
//!   field            input bits   key bits that it sees
//!   source address     0..=31       32-n ..=  62
//!   destination       32..=63       64-n ..=  94
//!   source port       64..=79       96-n ..= 110
//!   destination port  80..=95      112-n ..= 126
//! ```
//!
//! Neighbours overlap by n-1 bits. What only the source sees, and does not share with a neighbour,
//! is bits `..= 63-n` and `95 ..= 111-n`; those are the outside key's. The inside key has the same
//! bits where the destination sees them in the same way, 32 and 16 further on. For the outside key's
//! lowest bit that is 63, the first that the source address does not see: so it starts at 31. All
//! other bits are zero, and with them all other fields are without effect.
//!
//! Fragments and what is neither TCP nor UDP are hashed without ports, which is the same as with
//! ports of zero.

use shunt_nat::Side;

/// The most bits of a hash that may index a table: more would leave too little of the key.
pub(crate) const MAX_INDEX_BITS: u32 = 9;

/// Bytes of the key that are ever looked at: 12 of input, and one word more.
pub(crate) const MIN_KEY_LEN: usize = 16;

/// Where the outside key's bits for addresses and for ports begin.
const ADDRESS_AT: u32 = 31;
const PORT_AT: u32 = 95;

/// What the key's bits are: any mixture would do. The first bits of each are used, as many as there
/// is room for, and the last one of them is always set: it is the only one that the field's last bit
/// sees.
const ADDRESS_BITS: u32 = 0x9e37_79b9;
const PORT_BITS: u32 = 0xb4d9_0000;

/// The RSS key for the port on one side, `len` bytes long, for [`Owners`](super::Owners) of so many
/// `index_bits`.
///
/// # Panics
/// For more than 9 bits or none, and fewer than 16 bytes.
#[must_use]
pub fn rss_key(side: Side, index_bits: u32, len: usize) -> Vec<u8> {
    assert!((1..=MAX_INDEX_BITS).contains(&index_bits) && len >= MIN_KEY_LEN);
    let (address_at, port_at) = match side {
        Side::Outside => (ADDRESS_AT, PORT_AT),
        Side::Inside => (ADDRESS_AT + 32, PORT_AT + 16),
    };
    let mut key = vec![0; len];
    write(&mut key, address_at, ADDRESS_BITS, 33 - index_bits);
    write(&mut key, port_at, PORT_BITS, 17 - index_bits);
    key
}

/// Writes the first `count` of some bits to `at`, the last of them as a one.
fn write(key: &mut [u8], at: u32, bits: u32, count: u32) {
    for bit in 0..count {
        if bit == count - 1 || bits << bit & 1 << 31 != 0 {
            let place = at + bit;
            key[place as usize / 8] |= 0x80 >> (place % 8);
        }
    }
}

/// The 32 bits of a key from a position on: what the input bit of that position adds to the hash.
pub(crate) fn window(key: &[u8], position: usize) -> u32 {
    let first = position / 8;
    let bytes = key[first..first + 5].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    (bytes >> (8 - position % 8)) as u32
}
