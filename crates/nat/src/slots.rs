//! Items by number, for numbers that are given away, given back, and grow.

use std::{
    ops::{Index, IndexMut},
    sync::Arc,
};

/// Items that are kept together; a power of two.
const CHUNK: usize = 256;

/// Items that several threads see, and which never move: a growing collection gets further chunks. A
/// copy is another handle to the same items.
#[derive(Debug)]
pub(crate) struct SharedSlots<T>(Vec<Arc<[T; CHUNK]>>);

impl<T> Default for SharedSlots<T> {
    fn default() -> SharedSlots<T> {
        SharedSlots(Vec::new())
    }
}

impl<T> Clone for SharedSlots<T> {
    fn clone(&self) -> SharedSlots<T> {
        SharedSlots(self.0.clone())
    }
}

impl<T: Default> SharedSlots<T> {
    /// Makes room for `count` items; handles that were copied before don't see the new ones.
    pub(crate) fn grow_to(&mut self, count: usize) {
        let chunk = || Arc::new(std::array::from_fn(|_| T::default()));
        let missing = count.div_ceil(CHUNK).saturating_sub(self.0.len());
        self.0.extend(std::iter::repeat_with(chunk).take(missing));
    }
}

impl<T> Index<u32> for SharedSlots<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        &self.0[number as usize / CHUNK][number as usize % CHUNK]
    }
}

/// Items that one thread has for itself. Another thread makes room for more.
#[derive(Debug)]
pub(crate) struct OwnSlots<T>(Vec<Box<[T]>>);

impl<T> OwnSlots<T> {
    /// Room for `count` items, with new ones in it but for the first `existing`: the owner has those,
    /// and [takes them over](OwnSlots::take_over).
    pub(crate) fn beyond(existing: usize, count: usize, new: impl Fn() -> T) -> OwnSlots<T> {
        let there = existing.div_ceil(CHUNK);
        let chunk = |number| {
            let len = if number < there { 0 } else { CHUNK };
            std::iter::repeat_with(&new).take(len).collect()
        };
        OwnSlots((0..count.div_ceil(CHUNK).max(there)).map(chunk).collect())
    }

    /// Takes over the items that `before` has and this one hasn't: a few pointers.
    pub(crate) fn take_over(&mut self, before: &mut OwnSlots<T>) {
        for (after, before) in self.0.iter_mut().zip(&mut before.0) {
            if after.is_empty() {
                std::mem::swap(after, before);
            }
        }
    }
}

impl<T> Index<u32> for OwnSlots<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        &self.0[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for OwnSlots<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.0[number as usize / CHUNK][number as usize % CHUNK]
    }
}

/// Items with numbers, the lowest that is free for each new one.
#[derive(Debug)]
pub(crate) struct Numbered<T> {
    items: Vec<Option<T>>,
    free: std::collections::BTreeSet<u32>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Numbered<T> {
        Numbered { items: Vec::new(), free: Default::default() }
    }
}

impl<T> Numbered<T> {
    /// Gives an item a number.
    pub(crate) fn add(&mut self, item: T) -> u32 {
        match self.free.pop_first() {
            Some(number) => {
                self.items[number as usize] = Some(item);
                number
            }
            None => {
                self.items.push(Some(item));
                (self.items.len() - 1) as u32
            }
        }
    }

    /// Takes an item out, and its number back.
    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let removed = self.items.get_mut(number as usize)?.take()?;
        self.free.insert(number);
        Some(removed)
    }

    /// The item with this number.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.items.get(number as usize)?.as_ref()
    }

    /// The item with this number, to be changed.
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.items.get_mut(number as usize)?.as_mut()
    }

    /// One more than the highest number that was ever given.
    pub(crate) fn end(&self) -> usize {
        self.items.len()
    }

    /// Items and their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let items = (0..).zip(&self.items);
        items.filter_map(|(number, item)| Some((number, item.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[test]
    fn shared_items_stay_where_they_are() {
        let mut all = SharedSlots::<AtomicU32>::default();
        all.grow_to(1);
        let before = all.clone();
        all.grow_to(2 * CHUNK + 1);
        before[0].store(7, Relaxed);
        all[2 * CHUNK as u32].store(8, Relaxed);
        assert_eq!(all[0].load(Relaxed), 7);
        assert_eq!((all.0.len(), before.0.len()), (3, 1));
    }

    #[test]
    fn own_items_are_taken_over() {
        let mut first = OwnSlots::<u32>::beyond(0, 1, || 0);
        first[CHUNK as u32 - 1] = 7;
        let mut second = OwnSlots::<u32>::beyond(1, CHUNK + 1, || 0);
        second.take_over(&mut first);
        assert_eq!((second[CHUNK as u32 - 1], second[CHUNK as u32]), (7, 0));
        let mut third = OwnSlots::<u32>::beyond(CHUNK + 1, 1, || 0);
        third.take_over(&mut second);
        assert_eq!((third[CHUNK as u32 - 1], third[CHUNK as u32]), (7, 0), "it never shrinks");
    }

    #[test]
    fn a_number_is_found_at_once_among_many() {
        let mut items = Numbered::default();
        // Half of a million numbers come back, so that a search for free ones would take minutes.
        let count = 1_000_000;
        (0..count).for_each(|number| assert_eq!(items.add(number), number));
        (0..count).step_by(2).for_each(|number| assert_eq!(items.remove(number), Some(number)));
        (0..count).step_by(2).for_each(|number| assert_eq!(items.add(number), number));
        assert_eq!(items.add(count), count);
    }

    #[test]
    fn the_lowest_free_number_is_given() {
        let mut items = Numbered::default();
        assert_eq!([items.add('a'), items.add('b'), items.add('c')], [0, 1, 2]);
        assert_eq!(
            (items.remove(0), items.remove(1), items.remove(1)),
            (Some('a'), Some('b'), None)
        );
        assert_eq!([items.add('d'), items.add('e'), items.add('f')], [0, 1, 3]);
        assert_eq!(items.get(2), Some(&'c'));
        assert_eq!((items.end(), items.iter().count()), (4, 4));
    }
}
