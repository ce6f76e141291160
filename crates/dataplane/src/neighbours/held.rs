//! Packets that wait for neighbours: a fixed number of places for all of them.

/// No place.
const NONE: u16 = u16::MAX;

/// Two classes of packets, each with an order of arrival.
const CLASSES: usize = 2;

/// The packets that wait for one neighbour, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    first: u16,
    last: u16,
    len: u16,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { first: NONE, last: NONE, len: 0 }
    }
}

impl Queue {
    pub(super) fn len(self) -> usize {
        usize::from(self.len)
    }

    pub(super) fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// All packets that wait. `O` is what they wait for.
#[derive(Debug)]
pub(super) struct HeldPackets<T, O> {
    places: Vec<Option<Held<T, O>>>,
    free: Vec<u16>,
    /// By class, all packets in the order in which they came.
    orders: [Queue; CLASSES],
}

#[derive(Debug)]
struct Held<T, O> {
    item: T,
    owner: O,
    class: usize,
    /// The owner's next one.
    next: u16,
    /// Neighbours in the order of its class.
    earlier: u16,
    later: u16,
}

impl<T, O: Copy> HeldPackets<T, O> {
    pub(super) fn with_capacity(packets: u16) -> HeldPackets<T, O> {
        HeldPackets {
            places: (0..packets).map(|_| None).collect(),
            free: (0..packets).rev().collect(),
            orders: Default::default(),
        }
    }

    /// Packets that wait.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Packets of a class.
    pub(super) fn count(&self, class: usize) -> usize {
        self.orders[class].len()
    }

    /// Who waits for the oldest packet of a class.
    pub(super) fn oldest(&self, class: usize) -> Option<O> {
        self.places.get(usize::from(self.orders[class].first))?.as_ref().map(|held| held.owner)
    }

    /// Puts a packet at the end of its owner's queue. There must be a place.
    pub(super) fn push(&mut self, queue: &mut Queue, owner: O, class: usize, item: T) {
        let place = self.free.pop().expect("whoever pushes has made room");
        let order = &mut self.orders[class];
        let earlier = order.last;
        append(order, place);
        let last = queue.last;
        append(queue, place);
        if let Some(held) = self.at(last) {
            held.next = place;
        }
        if let Some(held) = self.at(earlier) {
            held.later = place;
        }
        self.places[usize::from(place)] =
            Some(Held { item, owner, class, next: NONE, earlier, later: NONE });
    }

    /// Takes the oldest packet of a queue.
    pub(super) fn pop(&mut self, queue: &mut Queue) -> Option<T> {
        let place = queue.first;
        let held = self.places.get_mut(usize::from(place))?.take()?;
        queue.first = held.next;
        queue.len -= 1;
        if queue.is_empty() {
            *queue = Queue::default();
        }
        match self.at(held.earlier) {
            Some(earlier) => earlier.later = held.later,
            None => self.orders[held.class].first = held.later,
        }
        match self.at(held.later) {
            Some(later) => later.earlier = held.earlier,
            None => self.orders[held.class].last = held.earlier,
        }
        self.orders[held.class].len -= 1;
        self.free.push(place);
        Some(held.item)
    }

    fn at(&mut self, place: u16) -> Option<&mut Held<T, O>> {
        self.places.get_mut(usize::from(place))?.as_mut()
    }
}

fn append(queue: &mut Queue, place: u16) {
    queue.last = place;
    if queue.is_empty() {
        queue.first = place;
    }
    queue.len += 1;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against plain lists: queues keep their order, and so do classes.
        #[test]
        fn agrees_with_lists(steps in prop::collection::vec((any::<bool>(), 0..4usize), 1..200)) {
            let mut held = HeldPackets::with_capacity(10);
            let mut queues = [Queue::default(); 4];
            let mut model: Vec<(usize, usize)> = Vec::new();
            for (number, (is_push, owner)) in steps.into_iter().enumerate() {
                if is_push && !held.is_full() {
                    held.push(&mut queues[owner], owner, owner % 2, number);
                    model.push((owner, number));
                } else if !is_push {
                    let at = model.iter().position(|(other, _)| *other == owner);
                    let expected = at.map(|at| model.remove(at).1);
                    prop_assert_eq!(held.pop(&mut queues[owner]), expected);
                }
                prop_assert_eq!(held.len(), model.len());
                for class in 0..2 {
                    let its: Vec<_> = model.iter().filter(|(o, _)| o % 2 == class).collect();
                    prop_assert_eq!(held.count(class), its.len());
                    prop_assert_eq!(held.oldest(class), its.first().map(|(owner, _)| *owner));
                }
                for (owner, queue) in queues.iter().enumerate() {
                    let waiting = model.iter().filter(|(other, _)| *other == owner).count();
                    prop_assert_eq!(queue.len(), waiting);
                }
            }
        }
    }
}
