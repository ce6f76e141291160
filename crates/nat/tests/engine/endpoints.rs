//! What a service listens to: ports, ranges of them, any port, several addresses and protocols.

use shunt_rules::Protocol;
use shunt_rules::VirtualService;

use crate::harness::*;

const SECOND_VIP: &str = "192.168.1.101";

fn listening(service: VirtualService, endpoints: &[(&str, u16, u16)]) -> VirtualService {
    let endpoints =
        endpoints.iter().map(|(address, first, last)| endpoint(address, *first..=*last)).collect();
    VirtualService { endpoints, ..service }
}

/// The same service, whose servers are dialled on the port that the client dialled.
fn on_dialled_port(mut service: VirtualService) -> VirtualService {
    service.servers.iter_mut().for_each(|server| server.port = None);
    service
}

fn vip(port: u16) -> String {
    format!("192.168.1.100:{port}")
}

#[test]
fn a_range_of_ports_has_its_ends() {
    let ftp = listening(rr(VIP, &[RS1]), &[(host(VIP), 1000, 2000)]);
    let mut director = Director::new(&[ftp], &[]);
    for port in [1000, 1500, 2000] {
        let client = format!("192.168.1.200:{port}");
        director.handshake(&client, &vip(port), RS1);
    }
    for port in [0, 999, 2001, 65_535] {
        director.outside(tcp(CLIENT, &vip(port)).syn()).is_punted();
    }
    assert_eq!(director.current(), [3]);
}

#[test]
fn a_server_without_a_port_gets_what_was_dialled() {
    let range = listening(rr(VIP, &[RS1, RS2]), &[(host(VIP), 1000, 2000)]);
    let mut director = Director::new(&[on_dialled_port(range)], &[]);
    director.handshake(CLIENT, &vip(1234), "192.168.2.210:1234");
    director.handshake(CLIENT, &vip(2000), "192.168.2.220:2000");
}

#[test]
fn any_port_is_any_port() {
    let all = listening(rr(VIP, &[RS1]), &[(host(VIP), 0, 65_535)]);
    let mut director = Director::new(&[on_dialled_port(all)], &[]);
    for port in [0, 1, 80, 65_535] {
        director.handshake(CLIENT, &vip(port), &format!("192.168.2.210:{port}"));
    }
    director.outside(tcp(CLIENT, "192.168.1.101:80").syn()).is_punted();
    director.outside(udp(CLIENT, VIP)).is_punted();
}

#[test]
fn the_narrower_endpoint_counts() {
    let (all, some, few, one) = (
        listening(rr(VIP, &["192.168.2.1:1"]), &[(host(VIP), 1, 65_535)]),
        listening(rr(VIP, &["192.168.2.2:2"]), &[(host(VIP), 1000, 2000)]),
        listening(rr(VIP, &["192.168.2.3:3"]), &[(host(VIP), 1500, 1600)]),
        rr(&vip(1550), &["192.168.2.4:4"]),
    );
    let in_order = [all.clone(), some.clone(), few.clone(), one.clone()];
    let the_other_way = [one, few, some, all];
    for services in [in_order, the_other_way] {
        let mut director = Director::new(&services, &[]);
        for (vport, real) in [
            (80, "192.168.2.1:1"),
            (1000, "192.168.2.2:2"),
            (1499, "192.168.2.2:2"),
            (1500, "192.168.2.3:3"),
            (1550, "192.168.2.4:4"),
            (1551, "192.168.2.3:3"),
            (2001, "192.168.2.1:1"),
        ] {
            let client = format!("192.168.1.200:{vport}");
            director.handshake(&client, &vip(vport), real);
        }
    }
}

#[test]
fn of_two_services_with_one_endpoint_the_later_counts() {
    for ports in [(80, 80), (80, 90)] {
        let here = [(host(VIP), ports.0, ports.1)];
        let services = [listening(rr(VIP, &[RS1]), &here), listening(rr(VIP, &[RS2]), &here)];
        Director::new(&services, &[]).handshake(CLIENT, VIP, RS2);
    }
}

#[test]
fn several_endpoints_are_scheduled_as_one() {
    let endpoints = [(host(VIP), 80, 80), (host(VIP), 443, 443), (SECOND_VIP, 8000, 8999)];
    let mut director = Director::new(&[listening(rr(VIP, &[RS1, RS2]), &endpoints)], &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.handshake(CLIENT, &vip(443), RS2);
    director.handshake("192.168.1.200:2", "192.168.1.101:8000", RS1);
    director.handshake("192.168.1.200:3", "192.168.1.101:8999", RS2);
    director.outside(tcp(CLIENT, "192.168.1.101:80").syn()).is_punted();
    assert_eq!((director.current(), director.service(0).connections), (vec![2, 2], 4));
}

#[test]
fn several_protocols_are_scheduled_as_one() {
    let protocols = vec![Protocol::Tcp, Protocol::Udp];
    let dns = VirtualService { protocols, ..rr(VIP, &[RS1, RS2]) };
    let mut director = Director::new(&[dns], &[]);
    director.handshake(CLIENT, VIP, RS1);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS2));
    director.inside(udp(RS2, CLIENT)).leaves_as(udp(VIP, CLIENT));
    assert_eq!((director.server(0).active, director.server(1).inactive), (1, 1));
}

#[test]
fn a_client_is_told_apart_by_what_it_dialled() {
    let range = listening(rr(VIP, &[RS1, RS2]), &[(host(VIP), 1000, 1001)]);
    let mut director = Director::new(&[range], &[]);
    director.handshake(CLIENT, &vip(1000), RS1);
    // RS1 could not tell these two apart, nor could RS2 a third.
    director.handshake(CLIENT, &vip(1001), RS2);
    director.inside(tcp(RS1, CLIENT).ack(9)).leaves_as(tcp(&vip(1000), CLIENT).ack(9));
    director.inside(tcp(RS2, CLIENT).ack(9)).leaves_as(tcp(&vip(1001), CLIENT).ack(9));
}
