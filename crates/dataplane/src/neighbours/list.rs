//! Lists through the entries of a table: to be in one costs an entry two numbers, and to leave it
//! takes the same time wherever it stands.

/// The number of no entry.
pub(super) const NIL: u32 = 0;

/// An entry's neighbours in a list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    previous: u32,
    next: u32,
}

/// A list of entries, the oldest first. Its links are those that `links` of its functions names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl List {
    /// The oldest entry.
    pub(super) fn first(self) -> Option<u32> {
        (self.first != NIL).then_some(self.first)
    }

    pub(super) fn push<T>(&mut self, entries: &mut [T], links: fn(&mut T) -> &mut Links, id: u32) {
        *links(&mut entries[id as usize]) = Links { previous: self.last, next: NIL };
        match self.last {
            NIL => self.first = id,
            last => links(&mut entries[last as usize]).next = id,
        }
        self.last = id;
    }

    pub(super) fn remove<T>(
        &mut self,
        entries: &mut [T],
        links: fn(&mut T) -> &mut Links,
        id: u32,
    ) {
        let Links { previous, next } = std::mem::take(links(&mut entries[id as usize]));
        match previous {
            NIL => self.first = next,
            previous => links(&mut entries[previous as usize]).next = next,
        }
        match next {
            NIL => self.last = previous,
            next => links(&mut entries[next as usize]).previous = previous,
        }
    }
}
