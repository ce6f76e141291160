//! RSS: net_null keeps a key and a redirection table, and does nothing with either.

mod support;

use shunt_dpdk::{DEFAULT_KEY_LEN, Port, PortConfig, RssConfig, RssHashTypes, softrss};
use support::{assert_all_free, eal, pool};

#[test]
fn a_port_takes_a_key_and_a_redirection_table() {
    let pool = pool("rss", 1023);
    let id = eal().attach_vdev("net_null_rss").unwrap();
    let info = id.info().unwrap();
    let hash_types = RssHashTypes::IPV4_TCP | RssHashTypes::IPV4_UDP;
    assert!(info.rss_hash_types.contains(hash_types), "{info:?}");
    let key: Vec<u8> = (0..DEFAULT_KEY_LEN as u8).map(|byte| byte.wrapping_mul(37)).collect();
    let rss = RssConfig { key: Some(key.clone()), hash_types };
    let config =
        PortConfig { rx_queues: 4, tx_queues: 4, rss: Some(rss.clone()), ..PortConfig::default() };
    let (mut port, rx, tx) = Port::start(eal(), id, &config, &pool).unwrap();
    assert_eq!(id.rss(DEFAULT_KEY_LEN as u8).unwrap().hash_types, hash_types);
    port.set_rss(&rss).unwrap();
    assert_eq!(id.rss(DEFAULT_KEY_LEN as u8).unwrap(), rss);
    let too_much = RssConfig { key: None, hash_types: RssHashTypes::FRAG_IPV4 };
    let expected = match info.rss_hash_types.contains(RssHashTypes::FRAG_IPV4) {
        true => None,
        false => Some(("rte_eth_dev_rss_hash_update", 22)),
    };
    let refused = port.set_rss(&too_much).err().map(|error| (error.call, error.errno));
    assert_eq!(refused, expected);

    let table: Vec<u16> = (0..info.reta_size).map(|entry| entry / 7 % 4).collect();
    port.set_redirection(&table).unwrap();
    assert_eq!(id.redirection(info.reta_size).unwrap(), table);
    let error = port.set_redirection(&table[1..]).unwrap_err();
    assert_eq!((error.call, error.errno), ("rte_eth_dev_rss_reta_update", 22));

    drop((port, rx, tx));
    eal().detach_vdev("net_null_rss").unwrap();
    assert_all_free(&pool);
}

#[test]
fn what_a_port_cannot_hash_is_refused() {
    let pool = pool("no rss", 1023);
    let id = eal().attach_vdev("net_ring_rss").unwrap();
    assert_eq!(id.info().unwrap().rss_hash_types, RssHashTypes::empty());
    let rss = RssConfig { key: None, hash_types: RssHashTypes::IPV4 };
    let config = PortConfig { rss: Some(rss), ..PortConfig::default() };
    let error = Port::start(eal(), id, &config, &pool).unwrap_err();
    assert_eq!((error.call, error.errno), ("rte_eth_dev_configure", 22));
    eal().detach_vdev("net_ring_rss").unwrap();
    assert_all_free(&pool);
}

/// From Microsoft's "Verifying the RSS hash calculation", under the key that is published there.
#[test]
fn softrss_is_toeplitz() {
    let key = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];
    let address = |a, b, c, d| u32::from_be_bytes([a, b, c, d]);
    let ports = |src, dst| u32::from(src) << 16 | dst;
    let (src, dst) = (address(66, 9, 149, 187), address(161, 142, 100, 80));
    assert_eq!(softrss(&[src, dst, ports(2794u16, 1766)], &key), 0x51cc_c178);
    assert_eq!(softrss(&[src, dst], &key), 0x323e_8fc2);
    let (src, dst) = (address(199, 92, 111, 2), address(65, 69, 140, 83));
    assert_eq!(softrss(&[src, dst, ports(14230, 4739)], &key), 0xc626_b0ea);
    assert_eq!(softrss(&[src, dst], &key), 0xd718_262a);
}
