use super::{ConnectionId, ConnectionTable};
use crate::state::ConnectionState;

/// How far a walk through all records is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ScanPosition(u32);

impl ConnectionTable {
    /// Looks at one record after the other: `Some(None)` is a free one, `None` the end. What is
    /// inserted during a walk may be missed.
    pub(crate) fn scan(&self, position: &mut ScanPosition) -> Option<Option<ConnectionId>> {
        let id = position.0;
        if id >= self.untouched {
            return None;
        }
        position.0 += 1;
        let is_free = self.records[id as usize].state() == ConnectionState::None;
        Some((!is_free).then_some(ConnectionId(id)))
    }
}
