use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

/// Turns in proportion to weights, without end: yields indexes of `weights`.
///
/// Stride scheduling (Waldspurger, Weihl: Stride Scheduling, MIT 1995): a turn moves its server
/// forward by the inverse of its weight, and the one that is furthest behind is next. So all get
/// one turn first, equal weights take turns strictly, and the order of turns between two servers
/// depends on these two alone: one that leaves does not disturb it.
///
/// When every server has had as many turns as its weight, divided by what all weights have in common, all
/// have come equally far, and the same turns follow again: most weights are such that this happens long
/// before a table is full.
#[derive(Debug)]
pub(super) enum Turns {
    /// The turns that repeat, and the next one.
    Cycle { order: Vec<usize>, next: usize },
    /// The furthest behind first.
    Endless(BinaryHeap<Reverse<Position>>),
}

/// How far a server has come: `turns` divided by `weight`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    turns: u64,
    weight: u64,
    index: usize,
}

impl Ord for Position {
    fn cmp(&self, other: &Position) -> Ordering {
        let distances = (self.turns * other.weight).cmp(&(other.turns * self.weight));
        distances.then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Position) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Position {
    fn eq(&self, other: &Position) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Position {}

impl Turns {
    /// Turns of which `count` are wanted. Weights of 0 take none.
    pub(super) fn new(weights: &[u16], count: usize) -> Turns {
        let weights = weights.iter().map(|weight| u64::from(*weight)).enumerate();
        let weights = weights.filter(|(_, weight)| *weight > 0);
        let start = |(index, weight)| Reverse(Position { turns: 0, weight, index });
        let mut endless = Turns::Endless(weights.clone().map(start).collect());
        let (sum, common) = weights.fold((0, 0), |(sum, common), (_, weight)| {
            (sum + weight, greatest_common_divisor(weight, common))
        });
        let repeats_after = sum.checked_div(common).unwrap_or(0);
        if repeats_after as usize >= count {
            return endless;
        }
        let order = endless.by_ref().take(repeats_after as usize).collect();
        Turns::Cycle { order, next: 0 }
    }
}

impl Iterator for Turns {
    type Item = usize;

    /// `None` only if all weights are 0.
    fn next(&mut self) -> Option<usize> {
        match self {
            Turns::Cycle { order, next } => {
                let turn = *order.get(*next)?;
                *next = if *next + 1 == order.len() { 0 } else { *next + 1 };
                Some(turn)
            }
            Turns::Endless(behind) => {
                let mut furthest_behind = behind.peek_mut()?;
                let Reverse(position) = &mut *furthest_behind;
                position.turns += 1;
                Some(position.index)
            }
        }
    }
}

/// Of two numbers of which one may be 0.
fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::{super::testing::counts, *};

    fn turns(weights: &[u16], count: usize) -> Vec<usize> {
        Turns::new(weights, count).take(count).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(turns(&[7, 0, 7, 7], 7), [0, 2, 3, 0, 2, 3, 0]);
    }

    #[test]
    fn all_get_one_turn_first_then_in_proportion() {
        assert_eq!(turns(&[4, 1], 10), [0, 1, 0, 0, 0, 0, 1, 0, 0, 0]);
        let counts = counts(&turns(&[65535, 1, 32768], 65537), 3);
        assert!(counts[0].abs_diff(43691) <= 2 && counts[1] >= 1, "{counts:?}");
    }

    #[test]
    fn turns_that_repeat_are_those_that_would_come() {
        for weights in [&[3, 1, 2][..], &[100, 0, 50, 75], &[7, 7], &[1], &[65535, 32768, 9]] {
            // None is wanted: none is prepared.
            let heap = Turns::new(weights, 0);
            assert!(matches!(heap, Turns::Endless(_)));
            let would_come: Vec<_> = heap.take(300_000).collect();
            assert!(matches!(Turns::new(weights, 300_000), Turns::Cycle { .. }), "{weights:?}");
            assert!(turns(weights, 300_000) == would_come, "{weights:?}");
        }
    }

    #[test]
    fn nobody_no_turn() {
        assert_eq!(turns(&[], 1), []);
        assert_eq!(turns(&[0, 0], 1), []);
    }
}
