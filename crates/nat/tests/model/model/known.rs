//! Packets of connections that are known, errors about them, and fragments.

use std::net::{IpAddr, SocketAddrV4};

use shunt_nat::{
    ConnectionState::{self, Close},
    Direction::{self, Inbound},
    DropReason, Reply, Side, Topology,
};

use super::{Arrival, Model, Service};
use crate::{
    connection::{Connection, Owner},
    flow::Flow,
    fragments::{Counted, Fate},
    outcome::Outcome::{self, *},
    rewrite::{translated, translated_error},
    setup::Lab,
    state::{is_half_open, is_over},
    wire::{self, Content, ICMP, Ip, Kind, RST, Segment, TCP, UDP, v4},
    witness::Witness,
};

impl Model {
    /// A packet with its transport header.
    pub(super) fn receive_whole(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        witness: Witness<'_>,
    ) -> Outcome {
        let segment = match wire::read(packet) {
            Ok(Content::Segment(segment)) => segment,
            Ok(Content::IcmpError) => return self.receive_icmp_error(arrival, packet),
            Ok(Content::Redirect) => return Dropped(DropReason::IcmpRedirect),
            Ok(Content::Other) => return self.leave_alone(arrival, packet),
            Err(malformed) => return Dropped(DropReason::Malformed(malformed)),
        };
        if let Some((at, direction)) = self.find(arrival.worker, &segment.flow) {
            let goes_there = match segment.kind {
                Kind::Query => direction == Inbound,
                Kind::Reply => direction == Direction::Outbound,
                Kind::Tcp { .. } | Kind::Udp | Kind::Other => true,
            };
            // RFC 6191: the endpoints of a connection that is over may be used again.
            let begins_anew = segment.flow.protocol == TCP
                && segment.opens()
                && is_over(self.connections[at].state);
            if goes_there && !begins_anew {
                let connection = &self.connections[at];
                let is_unanswered = match connection.state {
                    ConnectionState::UdpOneWay => true,
                    _ => !connection.is_answered(),
                };
                let is_try = direction == Inbound && segment.opens() && is_unanswered;
                let (is_refused, is_gone) = match connection.owner {
                    Owner::Service(service, server) if is_try => {
                        let Service { listed, .. } = self.service(service);
                        (self.server(server).real.weight == 0, !listed.contains(&server))
                    }
                    _ => (false, false),
                };
                if !is_gone || packet.ttl() <= 1 {
                    return self.receive_known(
                        arrival.now,
                        packet,
                        &segment,
                        at,
                        direction,
                        !is_refused,
                    );
                }
                self.counters.rescheduled += 1;
                let gone = self.connections[at].clone();
                self.remove(arrival.now, &gone);
            }
        }
        self.receive_unknown(arrival, packet, &segment, witness)
    }

    fn receive_known(
        &mut self,
        now: u64,
        packet: Ip<'_>,
        segment: &Segment,
        at: usize,
        direction: Direction,
        is_sign_of_life: bool,
    ) -> Outcome {
        if packet.ttl() <= 1 {
            return Answered(Reply::TimeExceeded);
        }
        let before = self.connections[at].state;
        let is_believed =
            !is_sign_of_life || self.connections[at].see(direction, segment.kind, now);
        let Connection { owner, state, .. } = self.connections[at];
        if state != before {
            self.connections[at].timeout = self.timeout(owner, state);
        }
        let is_answered = is_half_open(before) && !is_half_open(state) && state != Close;
        if let Owner::Service(service, server) = owner
            && is_answered
            && let Some(persistence) = self.persistence(service)
            && self.scheduled(service).contains(&server)
        {
            let client = *self.connections[at].flow(Inbound).src.ip();
            self.clients.connect(service, persistence, client, server);
            self.connections[at].binds_client = true;
        }
        let leaves_as = self.connections[at].leaves_as(direction);
        if !is_believed {
            match segment.kind {
                Kind::Tcp { flags, .. } if flags & RST == 0 => {
                    self.counters.out_of_window_fins += 1;
                }
                _ => self.counters.out_of_window_resets += 1,
            }
        }
        self.count(owner, direction, packet);
        self.recount();
        Sent(translated(packet.0, &leaves_as, self.mss_limit(owner)), Vec::new())
    }

    fn receive_icmp_error(&mut self, arrival: Arrival, packet: Ip<'_>) -> Outcome {
        let Some(quoted) = wire::quoted_flow(packet) else {
            return self.leave_alone(arrival, packet);
        };
        let Some(original) = self.before_it_left(arrival, &quoted) else {
            return match leads_out(arrival, packet) && self.is_server(&quoted.reverse()) {
                true => Dropped(DropReason::LatePacket),
                false => self.leave_alone(arrival, packet),
            };
        };
        // Errors are short, and whole or nothing.
        if packet.is_fragment() {
            return Dropped(DropReason::FragmentRefused);
        }
        if packet.ttl() <= 1 {
            return Answered(Reply::TimeExceeded);
        }
        self.counters.icmp_errors += 1;
        Forwarded(translated_error(packet.0, &quoted, &original))
    }

    /// A message about nothing that is known, from a host that hides behind SNAT, can't leave.
    fn leave_alone(&self, arrival: Arrival, packet: Ip<'_>) -> Outcome {
        let src = IpAddr::from(packet.src());
        let hides = self.rules.snat.iter().any(|rule| rule.from.contains(&src));
        match leads_out(arrival, packet) && hides {
            true => Dropped(DropReason::Untranslatable),
            false => Punted,
        }
    }

    /// What a packet that left here looked like when it arrived: its answers would arrive the other way
    /// round.
    fn before_it_left(&self, arrival: Arrival, left: &Flow) -> Option<Flow> {
        let answer = left.reverse();
        if let Some((at, direction)) = self.find(arrival.worker, &answer) {
            return Some(self.connections[at].flow(direction.opposite()));
        }
        let client = *left.src.ip();
        let is_outside = Lab.side_of(client) == Some(Side::Outside) && !Lab.is_local(client);
        let (_, answer_left) = self
            .one_packet_reply(&answer)
            .filter(|_| arrival.side == Side::Inside && is_outside)?;
        Some(answer_left.reverse())
    }

    pub(super) fn receive_fragment(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        witness: Witness<'_>,
    ) -> Outcome {
        if ![TCP, UDP, ICMP].contains(&packet.protocol()) {
            return self.receive_whole(arrival, packet, witness);
        }
        if !self.may_translate(packet) {
            return Punted;
        }
        match self.workers[arrival.worker].fragments.admit(packet, arrival.now) {
            Err(error) => Dropped(DropReason::Fragment(error)),
            Ok(Fate::Unknown) if packet.fragment_offset() == 0 => {
                self.receive_first_fragment(arrival, packet, witness)
            }
            Ok(Fate::Unknown) => Held,
            Ok(Fate::Translated(..)) if packet.ttl() <= 1 => Answered(Reply::TimeExceeded),
            Ok(Fate::Translated(to, counted)) => {
                Sent(self.follow(packet, &to, counted), Vec::new())
            }
            Ok(Fate::Punted) => Punted,
            Ok(Fate::Refused | Fate::Overlapped) => Dropped(DropReason::FragmentRefused),
        }
    }

    fn receive_first_fragment(
        &mut self,
        arrival: Arrival,
        packet: Ip<'_>,
        witness: Witness<'_>,
    ) -> Outcome {
        self.counted = None;
        let outcome = self.receive_whole(arrival, packet, witness);
        let counted = self.counted;
        let fragments = &mut self.workers[arrival.worker].fragments;
        match outcome {
            Sent(left, _) => {
                let to = endpoints(&left);
                let fate = Fate::Translated(to, counted);
                let waiting = fragments.decide(packet, fate, arrival.now);
                let followers = waiting.iter().map(|packet| self.follow(Ip(packet), &to, counted));
                Sent(left, followers.collect())
            }
            Punted => {
                fragments.decide(packet, Fate::Punted, arrival.now);
                Punted
            }
            other => {
                fragments.decide(packet, Fate::Refused, arrival.now);
                other
            }
        }
    }

    /// A later fragment leaves like the first one of its packet.
    fn follow(&mut self, packet: Ip<'_>, to: &Flow, counted: Counted) -> Vec<u8> {
        if let Some((server, direction)) = counted {
            self.count_for(server, direction, packet);
        }
        translated(packet.0, to, None)
    }

    /// Whether fragments of such a packet have to be looked at: it comes from or goes to somebody
    /// whose packets are translated, or has to be known for its answers' sake.
    fn may_translate(&self, packet: Ip<'_>) -> bool {
        let (src, dst) = (packet.src(), packet.dst());
        let is_virtual = self.services.iter().flatten().any(|service| {
            let mut endpoints = service.options.endpoints.iter();
            endpoints.any(|e| v4(e.address) == dst) || service.former_addresses.contains(&dst)
        });
        let snat = &self.rules.snat;
        let mut all_snat = snat.iter().chain(&self.former_snat);
        [TCP, UDP, ICMP].contains(&packet.protocol())
            && (is_virtual
                || all_snat.any(|rule| {
                    rule.from.contains(&IpAddr::from(src)) || rule.to.contains(&dst.into())
                })
                || snat.iter().any(|rule| rule.from.contains(&IpAddr::from(dst)))
                || self
                    .servers
                    .iter()
                    .flatten()
                    .any(|server| [src, dst].contains(&v4(server.real.address))))
    }
}

/// The addresses of a packet, as far as later fragments need them.
fn endpoints(packet: &[u8]) -> Flow {
    let ip = Ip(packet);
    let endpoint = |address| SocketAddrV4::new(address, 0);
    Flow { protocol: ip.protocol(), src: endpoint(ip.src()), dst: endpoint(ip.dst()) }
}

/// Whether a packet goes from the inside to the outside, and not to the director.
fn leads_out(arrival: Arrival, packet: Ip<'_>) -> bool {
    let to = packet.dst();
    arrival.side == Side::Inside && Lab.side_of(to) == Some(Side::Outside) && !Lab.is_local(to)
}
