//! Did you mean …?

/// The candidate that `word` is most likely a misspelling of, if any is near.
///
/// Near is at most one edit for every three characters (at least one); capitals and the choice of
/// `_` or `-` don't count.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase().replace('_', "-");
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KEYS: [&str; 4] = ["address", "weight", "main-lcore", "worker-lcores"];

    #[test]
    fn finds_misspellings() {
        assert_eq!(nearest("adress", KEYS), Some("address"));
        assert_eq!(nearest("wieght", KEYS), Some("weight"));
        assert_eq!(nearest("worker_lcores", KEYS), Some("worker-lcores"));
        assert_eq!(nearest("Main-LCore", KEYS), Some("main-lcore"));
    }

    #[test]
    fn is_silent_when_nothing_is_near() {
        assert_eq!(nearest("backend", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
    }
}
