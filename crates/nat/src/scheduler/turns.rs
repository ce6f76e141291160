use std::{cmp::Reverse, collections::BinaryHeap};

/// Turns in proportion to weights, without end: yields indexes of `weights`.
///
/// Stride scheduling (Waldspurger, Weihl: Stride Scheduling, MIT 1995): a turn moves its server
/// forward by the inverse of its weight, and the one that is furthest behind is next. So all get
/// one turn first, equal weights take turns strictly, and the order of turns between two servers
/// depends on these two alone: one that leaves does not disturb it.
#[derive(Debug)]
pub(super) enum Turns {
    /// All weights are equal: who takes part, and who is next.
    Equal { order: Vec<usize>, next: usize },
    /// How far each has come, its index, and how far a turn moves it.
    Uneven(BinaryHeap<Reverse<(u64, usize, u64)>>),
}

/// How far a turn moves a server of weight 1. Weights up to 65535 divide it closely, and
/// 2^23 turns of weight 1 fit 64 bits.
const STRIDE: u64 = 1 << 40;

impl Turns {
    /// Weights of 0 take no turns.
    pub(super) fn new(weights: &[u16]) -> Turns {
        let order: Vec<usize> = (0..weights.len()).filter(|index| weights[*index] > 0).collect();
        if order.windows(2).all(|pair| weights[pair[0]] == weights[pair[1]]) {
            return Turns::Equal { order, next: 0 };
        }
        let start = |index: usize| Reverse((0, index, STRIDE / u64::from(weights[index])));
        Turns::Uneven(order.into_iter().map(start).collect())
    }
}

impl Iterator for Turns {
    type Item = usize;

    /// `None` only if all weights are 0.
    fn next(&mut self) -> Option<usize> {
        match self {
            Turns::Equal { order, next } => {
                let turn = *order.get(*next)?;
                *next = if *next + 1 == order.len() { 0 } else { *next + 1 };
                Some(turn)
            }
            Turns::Uneven(behind) => {
                let mut furthest_behind = behind.peek_mut()?;
                let Reverse((distance, index, stride)) = &mut *furthest_behind;
                *distance += *stride;
                Some(*index)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::counts, *};

    fn turns(weights: &[u16], count: usize) -> Vec<usize> {
        Turns::new(weights).take(count).collect()
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
    fn nobody_no_turn() {
        assert_eq!(turns(&[], 1), []);
        assert_eq!(turns(&[0, 0], 1), []);
    }
}
