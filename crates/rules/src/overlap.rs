//! Ranges of ports that overlap, found without comparing each with each other.

use std::{net::IpAddr, ops::RangeInclusive};

use hashbrown::{HashMap, hash_map::Entry};

use crate::{Protocol, VirtualEndpoint};

/// An endpoint of a service: the service's index, and the endpoint's within it.
pub(crate) type EndpointIndex = (usize, usize);

/// What a service is dialled by.
pub(crate) struct Dialled<'a> {
    pub(crate) protocols: &'a [Protocol],
    pub(crate) endpoints: &'a [VirtualEndpoint],
}

/// Two endpoints of different services, of one protocol, that have ports in common although neither
/// encloses the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
    pub(crate) protocol: Protocol,
    pub(crate) later: EndpointIndex,
    pub(crate) earlier: EndpointIndex,
}

/// Every endpoint, in order, that clashes with one of an earlier service.
pub(crate) fn clashes(services: &[Dialled<'_>]) -> Vec<Clash> {
    let mut groups: HashMap<(IpAddr, Protocol), Vec<EndpointIndex>> = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        for protocol in service.protocols {
            for (endpoint, VirtualEndpoint { address, .. }) in service.endpoints.iter().enumerate()
            {
                groups.entry((*address, *protocol)).or_default().push((index, endpoint));
            }
        }
    }
    let mut clashes = Vec::new();
    for ((_, protocol), members) in groups {
        let is_alone = members.iter().all(|(service, _)| *service == members[0].0);
        if !is_alone {
            let ports = |&(service, endpoint): &EndpointIndex| {
                services[service].endpoints[endpoint].ports.clone()
            };
            clashes.extend(clashes_within(protocol, &members, ports));
        }
    }
    clashes.sort_by_key(|clash| (clash.later, clash.protocol as u8));
    clashes.dedup_by_key(|clash| clash.later);
    clashes
}

/// The clashes of one protocol at one address.
fn clashes_within(
    protocol: Protocol,
    members: &[EndpointIndex],
    ports: impl Fn(&EndpointIndex) -> RangeInclusive<u16>,
) -> Vec<Clash> {
    let mut equal: HashMap<RangeInclusive<u16>, EndpointIndex> = HashMap::new();
    // Of the ranges that begin at a port, how far they go; of those that end at one, from how far below.
    let (mut ends, mut starts) = (RangeMax::default(), RangeMax::default());
    let bound = |range: RangeInclusive<u16>| (u32::from(*range.start()), u32::from(*range.end()));
    let mut clashes = Vec::new();
    for service in members.chunk_by(|one, other| one.0 == other.0) {
        for later in service {
            let range = ports(later);
            let (first, last) = bound(range.clone());
            let across_last =
                || ends.max(first + 1..last + 1).filter(|(end, _)| *end > last).map(|(_, id)| id);
            let across_first = || {
                let farthest = starts.max(first..last).map(|(start, id)| (u32::MAX - start, id));
                farthest.filter(|(start, _)| *start < first).map(|(_, id)| id)
            };
            let earlier = equal.get(&range).copied().or_else(across_last).or_else(across_first);
            clashes.extend(earlier.map(|earlier| Clash { protocol, later: *later, earlier }));
        }
        for member in service {
            let range = ports(member);
            let (first, last) = bound(range.clone());
            equal.entry(range).or_insert(*member);
            ends.raise(first, last, *member);
            starts.raise(last, u32::MAX - first, *member);
        }
    }
    clashes
}

/// For every range that has ports in common with an earlier one at the same address: its index, and
/// that of an earlier one.
pub(crate) fn overlaps(endpoints: &[VirtualEndpoint]) -> Vec<(usize, usize)> {
    // Most services have one, and few have more than a handful.
    if endpoints.len() < 16 {
        let overlaps = endpoints.iter().enumerate().filter_map(|(index, endpoint)| {
            let earlier = endpoints[..index].iter().position(|other| other.overlaps(endpoint))?;
            Some((index, earlier))
        });
        return overlaps.collect();
    }
    let mut ends: HashMap<IpAddr, RangeMax<usize>> = HashMap::new();
    let mut overlaps = Vec::new();
    for (index, VirtualEndpoint { address, ports }) in endpoints.iter().enumerate() {
        let (first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
        let ends = ends.entry(*address).or_default();
        let reaching = ends.max(0..last + 1).filter(|(end, _)| *end >= first);
        overlaps.extend(reaching.map(|(_, earlier)| (index, earlier)));
        ends.raise(first, last, index);
    }
    overlaps
}

/// For each port a value, 0 at first, of which the largest within a range is found in logarithmic time: a
/// tree in which each node has the largest value below it. Only nodes that were raised exist.
struct RangeMax<T> {
    nodes: HashMap<u32, (u32, T)>,
}

impl<T> Default for RangeMax<T> {
    fn default() -> RangeMax<T> {
        RangeMax { nodes: HashMap::new() }
    }
}

impl<T: Copy> RangeMax<T> {
    /// Leaves are numbered from here: one for each port, and one more.
    const LEAVES: u32 = 1 << 17;

    /// Makes the value of a port at least so large, and remembers for whom.
    fn raise(&mut self, port: u32, value: u32, of: T) {
        let mut node = Self::LEAVES + port;
        while node > 0 {
            match self.nodes.entry(node) {
                // So is everything above.
                Entry::Occupied(largest) if largest.get().0 >= value => break,
                Entry::Occupied(mut largest) => _ = largest.insert((value, of)),
                Entry::Vacant(vacant) => _ = vacant.insert((value, of)),
            }
            node /= 2;
        }
    }

    /// The largest value of some ports, and whose it is.
    fn max(&self, ports: std::ops::Range<u32>) -> Option<(u32, T)> {
        let (mut from, mut to) = (Self::LEAVES + ports.start, Self::LEAVES + ports.end);
        let mut largest: Option<(u32, T)> = None;
        let mut consider = |node: u32| {
            if let Some((value, of)) = self.nodes.get(&node)
                && largest.is_none_or(|(largest, _)| largest < *value)
            {
                largest = Some((*value, *of));
            }
        };
        while from < to {
            if from % 2 == 1 {
                consider(from);
                from += 1;
            }
            if to % 2 == 1 {
                to -= 1;
                consider(to);
            }
            (from, to) = (from / 2, to / 2);
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::subsequence};
    use std::net::Ipv4Addr;

    /// Few addresses and ports, so that much overlaps.
    fn endpoint() -> impl Strategy<Value = VirtualEndpoint> {
        let port = prop_oneof![1..20u16, 65530..=65535u16];
        (0..3u8, port.clone(), port).prop_map(|(host, one, other)| VirtualEndpoint {
            address: Ipv4Addr::new(192, 0, 2, host).into(),
            ports: one.min(other)..=one.max(other),
        })
    }

    fn service() -> impl Strategy<Value = (Vec<Protocol>, Vec<VirtualEndpoint>)> {
        (subsequence(vec![Protocol::Tcp, Protocol::Udp], 0..=2), vec(endpoint(), 0..5))
    }

    fn clash(one: &VirtualEndpoint, other: &VirtualEndpoint) -> bool {
        one.overlaps(other) && !one.encloses(other) && !other.encloses(one)
    }

    proptest! {
        #[test]
        fn clashes_are_those_of_all_pairs(services in vec(service(), 0..12)) {
            let dialled: Vec<_> = services
                .iter()
                .map(|(protocols, endpoints)| Dialled { protocols, endpoints })
                .collect();
            let found = clashes(&dialled);
            let mut expected = Vec::new();
            for (index, (protocols, endpoints)) in services.iter().enumerate() {
                for (number, endpoint) in endpoints.iter().enumerate() {
                    let is_clash = services[..index].iter().any(|(others, earlier)| {
                        protocols.iter().any(|protocol| others.contains(protocol))
                            && earlier.iter().any(|other| clash(endpoint, other))
                    });
                    expected.extend(is_clash.then_some((index, number)));
                }
            }
            let later: Vec<_> = found.iter().map(|clash| clash.later).collect();
            prop_assert_eq!(later, expected);
            for Clash { protocol, later, earlier } in found {
                prop_assert!(earlier.0 < later.0);
                let of = |(service, endpoint): EndpointIndex| &services[service].1[endpoint];
                prop_assert!(clash(of(later), of(earlier)));
                for service in [later.0, earlier.0] {
                    prop_assert!(services[service].0.contains(&protocol));
                }
            }
        }

        #[test]
        fn overlaps_are_those_of_all_pairs(endpoints in vec(endpoint(), 0..40)) {
            let found = overlaps(&endpoints);
            let expected: Vec<_> = (0..endpoints.len())
                .filter(|index| {
                    endpoints[..*index].iter().any(|other| other.overlaps(&endpoints[*index]))
                })
                .collect();
            prop_assert_eq!(found.iter().map(|(later, _)| *later).collect::<Vec<_>>(), expected);
            for (later, earlier) in found {
                prop_assert!(earlier < later && endpoints[later].overlaps(&endpoints[earlier]));
            }
        }
    }
}
