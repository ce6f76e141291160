//! What `[nat]` says of packets that are no part of a connection: `late-packets` and `source-routes`.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_testkit::Packet;

use crate::{
    case::Case,
    network::{CLIENT, RS1},
};

const CLIENT_PORT: &str = "192.168.1.200:4000";
const HTTP: &str = "192.168.1.100:80";
const SERVER: &str = "192.168.2.210:80";

/// One service, and hosts inside that no SNAT rule covers.
const SERVICE: &str = r#"
    [[service]]
    vip = "192.168.1.100:80"
    scheduler = "rr"
    server = [{ address = "192.168.2.210" }]
"#;

/// A segment of the server's, whose connection is gone.
fn late() -> Packet {
    Packet::tcp(SERVER, CLIENT_PORT).seq(901).ack(101).payload("late")
}

/// What ends the connection at the server.
fn reset() -> Packet {
    Packet::tcp(CLIENT_PORT, SERVER).rst().seq(101).id(0).window(0)
}

fn one_reset() -> PipelineCounters {
    PipelineCounters { resets: 1, ..PipelineCounters::default() }
}

#[test]
fn late_packets_are_answered_as_unknown_segments_are() {
    Case::new("a server learns that its connection is gone, and its client hears nothing")
        .rules(SERVICE)
        .arrives(RS1.sends(late()))
        .leaves(RS1.gets(reset()))
        .drops(DropReason::Refused, 1)
        .pipeline(one_reset())
        .run();
    Case::new("or is left in the dark, if unknown segments are")
        .nat_keys("on-unknown = \"drop\"")
        .rules(SERVICE)
        .arrives(RS1.sends(late()))
        .drops(DropReason::LatePacket, 1)
        .run();
}

#[test]
fn late_packets_are_treated_as_the_key_says() {
    Case::new("a reset, though unknown segments are dropped")
        .nat_keys("on-unknown = \"drop\"\nlate-packets = \"reset\"")
        .rules(SERVICE)
        .arrives(RS1.sends(late()))
        .leaves(RS1.gets(reset()))
        .drops(DropReason::Refused, 1)
        .pipeline(one_reset())
        .run();
    Case::new("nothing, though unknown segments are reset; and the key changes with the file")
        .nat_keys("late-packets = \"drop\"")
        .rules(SERVICE)
        .arrives(RS1.sends(late()))
        .changes_nat_keys_to("late-packets = \"forward\"")
        .arrives(RS1.sends(late()))
        .leaves(CLIENT.gets(late().ttl(63)))
        .drops(DropReason::LatePacket, 1)
        .run();
}

#[test]
fn source_routes_pass_where_the_file_allows_them() {
    let route = [131, 7, 4, 192, 168, 2, 220, 0];
    let to_server = || Packet::tcp(CLIENT_PORT, "192.168.2.210:22").syn().options(&route);
    let to_service = |destination| Packet::tcp(CLIENT_PORT, destination).syn().options(&route);
    Case::new("dropped, then passed on with the option as it came, then dropped again")
        .rules(SERVICE)
        .arrives(CLIENT.sends(to_server()))
        .changes_nat_keys_to("source-routes = \"forward\"")
        .arrives(CLIENT.sends(to_server()))
        .leaves(RS1.gets(to_server().ttl(63)))
        .arrives(CLIENT.sends(to_service(HTTP)))
        .leaves(RS1.gets(to_service(SERVER).ttl(63)))
        .changes_nat_keys_to("source-routes = \"drop\"")
        .arrives(CLIENT.sends(to_server()))
        .drops(DropReason::SourceRoute, 2)
        .opens(1)
        .run();
    Case::new("options that make no sense are dropped whatever the file says")
        .nat_keys("source-routes = \"forward\"")
        .rules(SERVICE)
        .arrives(CLIENT.sends(to_server().options(&[131, 0, 0, 0])))
        .drops(DropReason::Ipv4Options, 1)
        .run();
}
