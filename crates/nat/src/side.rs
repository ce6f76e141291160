/// Which of the director's two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the clients are.
    Outside,
    /// Where the real servers are.
    Inside,
}
