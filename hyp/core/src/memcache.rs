//! A vCPU's store of pages for stage-2 tables, filled by the host one page at a time.
//!
//! Knows: which frames, at most [`CAPACITY`]. Must not know: their contents, or who owned them.

use hyp_abi::Pfn;

/// Most pages in a memcache: many times what one fault can need (three).
pub const CAPACITY: usize = 32;

/// Page frames, last in, first out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memcache {
    pages: [Option<Pfn>; CAPACITY],
    len: usize,
}

impl Memcache {
    /// An empty store.
    #[must_use]
    pub const fn new() -> Self {
        Self { pages: [None; CAPACITY], len: 0 }
    }

    /// How many pages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no page fits any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len >= CAPACITY
    }

    /// Adds a page; a full store is left as it is and says `false`.
    #[must_use]
    pub fn push(&mut self, pfn: Pfn) -> bool {
        let Some(place) = self.pages.get_mut(self.len) else { return false };
        *place = Some(pfn);
        self.len = self.len.saturating_add(1);
        true
    }

    /// Takes the page that came last.
    pub fn pop(&mut self) -> Option<Pfn> {
        let last = self.len.checked_sub(1)?;
        self.len = last;
        self.pages.get_mut(last)?.take()
    }
}

impl Default for Memcache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_in_reverse_and_the_last_place_is_the_last() {
        let mut cache = Memcache::new();
        assert!(cache.is_empty() && !cache.is_full());
        for n in 0..CAPACITY {
            assert_eq!(cache.len(), n);
            assert!(!cache.is_full());
            assert!(cache.push(Pfn::new(n as u64).unwrap()));
        }
        assert!(cache.is_full() && !cache.is_empty());
        let before = cache.clone();
        assert!(!cache.push(Pfn::new(99).unwrap()));
        assert_eq!(cache, before);
        for n in (0..CAPACITY).rev() {
            assert_eq!(cache.pop(), Pfn::new(n as u64));
        }
        assert_eq!(cache.pop(), None);
        assert_eq!(cache, Memcache::new());
    }
}
