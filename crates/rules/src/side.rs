use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// Which of the director's two networks.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum Side {
    /// Where the clients are.
    Outside,
    /// Where the real servers are.
    Inside,
}

impl Side {
    /// Both, outside first.
    pub const BOTH: [Side; 2] = [Side::Outside, Side::Inside];
}
