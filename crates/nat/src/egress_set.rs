use crate::egress::EgressId;

const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = (EgressId::LAST.get() as usize + 1).div_ceil(WORD_BITS);

/// A set of numbers of ways out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressSet([u64; WORDS]);

impl Default for EgressSet {
    fn default() -> EgressSet {
        EgressSet([0; WORDS])
    }
}

impl EgressSet {
    /// Puts a number in.
    pub fn insert(&mut self, egress: EgressId) {
        let (word, bit) = place(egress);
        self.0[word] |= bit;
    }

    /// Whether a number is in.
    #[must_use]
    pub fn contains(&self, egress: EgressId) -> bool {
        let (word, bit) = place(egress);
        self.0[word] & bit != 0
    }

    /// Puts in all numbers of another set.
    pub fn extend(&mut self, other: &EgressSet) {
        self.0.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
    }
}

impl FromIterator<EgressId> for EgressSet {
    fn from_iter<T: IntoIterator<Item = EgressId>>(egresses: T) -> EgressSet {
        let mut set = EgressSet::default();
        egresses.into_iter().for_each(|egress| set.insert(egress));
        set
    }
}

fn place(egress: EgressId) -> (usize, u64) {
    let number = usize::from(egress.get());
    (number / WORD_BITS, 1 << (number % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_put_in() {
        let all = |set: &EgressSet| -> Vec<u16> {
            let numbers = (1..=EgressId::LAST.get()).filter_map(EgressId::new);
            numbers.filter(|egress| set.contains(*egress)).map(EgressId::get).collect()
        };
        let set = |numbers: &[u16]| numbers.iter().copied().filter_map(EgressId::new).collect();
        let mut some: EgressSet = set(&[1, 63, 64, 4095]);
        assert_eq!(all(&some), [1, 63, 64, 4095]);
        some.extend(&set(&[64, 65]));
        assert_eq!(all(&some), [1, 63, 64, 65, 4095]);
        assert_eq!(all(&EgressSet::default()), []);
    }
}
