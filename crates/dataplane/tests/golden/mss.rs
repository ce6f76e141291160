//! Clamping the maximum segment size.

use shunt_testkit::Packet;

use crate::{
    case::Case,
    network::{CLIENT, RS1},
};

const RULES: &str = r#"
    [[service]]
    vip = "192.168.1.100:80"
    scheduler = "rr"
    mss-clamp = 1360
    server = [{ address = "192.168.2.210" }]
"#;

const CLIENT_PORT: &str = "192.168.1.200:4000";
const HTTP: &str = "192.168.1.100:80";
const SERVER: &str = "192.168.2.210:80";

#[test]
fn both_ways() {
    let syn = |dst| Packet::tcp(CLIENT_PORT, dst).syn();
    let answer = |src| Packet::tcp(src, CLIENT_PORT).syn().ack(1001);
    Case::new("both ends announce more than passes: each hears less, also when it is repeated")
        .rules(RULES)
        .arrives(CLIENT.sends(syn(HTTP).mss(1460)))
        .arrives(CLIENT.sends(syn(HTTP).mss(1460)))
        .leaves(RS1.gets(syn(SERVER).mss(1360).ttl(63)))
        .leaves(RS1.gets(syn(SERVER).mss(1360).ttl(63)))
        .arrives(RS1.sends(answer(SERVER).mss(8960)))
        .leaves(CLIENT.gets(answer(HTTP).mss(1360).ttl(63)))
        .opens(1)
        .run();
}

#[test]
fn what_is_left_alone() {
    let segment = |dst| Packet::tcp(CLIENT_PORT, dst).ack(901).mss(1460);
    Case::new("an MSS that fits, none at all, and an option where it means nothing")
        .rules(RULES)
        .arrives(CLIENT.sends(Packet::tcp(CLIENT_PORT, HTTP).syn().mss(1360)))
        .arrives(CLIENT.sends(segment(HTTP)))
        .leaves(RS1.gets(Packet::tcp(CLIENT_PORT, SERVER).syn().mss(1360).ttl(63)))
        .leaves(RS1.gets(segment(SERVER).ttl(63)))
        .arrives(RS1.sends(Packet::tcp(SERVER, CLIENT_PORT).syn().ack(1001)))
        .leaves(CLIENT.gets(Packet::tcp(HTTP, CLIENT_PORT).syn().ack(1001).ttl(63)))
        .opens(1)
        .run();
}
