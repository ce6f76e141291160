/// A place in a [`Fifo`], as [`Fifo::push`] gave it out; nobody's once it was removed from.
pub(super) type Place = usize;

/// A queue of fixed capacity from whose middle items can be taken: all operations are O(1), and
/// nothing is allocated after the start.
pub(super) struct Fifo<T> {
    /// Those that were ever used: memory is touched as the queue fills.
    nodes: Vec<Node<T>>,
    capacity: usize,
    oldest: Option<Place>,
    newest: Option<Place>,
    /// The first vacant node; the others follow through `newer`.
    vacant: Option<Place>,
    len: usize,
}

struct Node<T> {
    item: Option<T>,
    older: Option<Place>,
    newer: Option<Place>,
}

impl<T> Fifo<T> {
    /// Room for `capacity` items, at least one.
    pub(super) fn with_capacity(capacity: usize) -> Fifo<T> {
        let capacity = capacity.max(1);
        let nodes = Vec::with_capacity(capacity);
        Fifo { nodes, capacity, oldest: None, newest: None, vacant: None, len: 0 }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    pub(super) fn oldest(&self) -> Option<(Place, &T)> {
        let place = self.oldest?;
        Some((place, self.nodes[place].item.as_ref()?))
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut T {
        self.nodes[place].item.as_mut().expect(OCCUPIED)
    }

    /// Adds the newest item. The queue must not be full.
    pub(super) fn push(&mut self, item: T) -> Place {
        debug_assert!(!self.is_full(), "push to a full queue");
        let node = Node { item: Some(item), older: self.newest, newer: None };
        let place = match self.vacant {
            Some(place) => {
                self.vacant = self.nodes[place].newer;
                self.nodes[place] = node;
                place
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        match self.newest.replace(place) {
            Some(newest) => self.nodes[newest].newer = Some(place),
            None => self.oldest = Some(place),
        }
        self.len += 1;
        place
    }

    pub(super) fn remove(&mut self, place: Place) -> T {
        let node = &mut self.nodes[place];
        let item = node.item.take().expect(OCCUPIED);
        let (older, newer) = (node.older.take(), node.newer);
        node.newer = self.vacant.replace(place);
        match older {
            Some(older) => self.nodes[older].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.nodes[newer].older = older,
            None => self.newest = older,
        }
        self.len -= 1;
        item
    }
}

const OCCUPIED: &str = "a place that was not removed from";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Against a `VecDeque`: pushes (`None`), and removals from anywhere.
        #[test]
        fn behaves_like_a_queue(
            steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 1..100),
        ) {
            let mut fifo = Fifo::with_capacity(5);
            let mut model = VecDeque::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    None if model.len() < 5 => model.push_back((fifo.push(number), number)),
                    Some(index) if !model.is_empty() => {
                        let (place, number) = model.remove(index.index(model.len())).unwrap();
                        prop_assert_eq!(fifo.remove(place), number);
                    }
                    _ => {}
                }
                let oldest = fifo.oldest().map(|(place, number)| (place, *number));
                prop_assert_eq!(oldest, model.front().copied());
                prop_assert_eq!((fifo.len(), fifo.is_full()), (model.len(), model.len() == 5));
                for (place, number) in &model {
                    prop_assert_eq!(fifo.get_mut(*place), number);
                }
            }
            let rest = std::iter::from_fn(|| {
                let (place, _) = fifo.oldest()?;
                Some(fifo.remove(place))
            });
            prop_assert!(rest.eq(model.into_iter().map(|(_, number)| number)));
        }
    }
}
