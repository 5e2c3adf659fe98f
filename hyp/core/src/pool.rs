//! EL2's free pages, and the supplies of table pages made of them.
//!
//! A [`FreeList`] is a chain through the free pages themselves: word 0 of each names the next. The
//! host cannot reach them, for they are EL2's, so a link is as good as one in EL2's own memory.
//!
//! Invariants:
//! - I1: a page in a list is EL2's, has no table entries, and is marked free in its metadata; a
//!   page is in at most one list, and only once: a second `push` is refused.
//! - I2: a page that leaves a list is all zero.
//!
//! A list has no lock: it is inside what guards it (the host's pool in the host state, a VM's in
//! the VM, a memcache in its vCPU).

use hyp_abi::{PageState, Pfn};
use hyp_s2::{TablePfn, TableSource};

use crate::machine::Machine;
use crate::owner::Pages;

/// Pages to take from.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FreeList {
    head: Option<Pfn>,
    len: usize,
}

impl FreeList {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { head: None, len: 0 }
    }

    /// How many pages it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a page; `false`, and nothing changes, if it is not EL2's to free.
    #[must_use]
    pub fn push<M: Machine>(&mut self, pages: Pages<'_, M>, pfn: Pfn) -> bool {
        let Some(word) = pages.word(pfn) else { return false };
        if word.hyp() != PageState::Owned || word.is_free() || word.pins() > 0 {
            return false;
        }
        pages.set_word(pfn, word.with_free(true));
        // One more than the number, so that zero is the end.
        let link = self.head.map_or(0, |next| next.raw().saturating_add(1));
        pages.machine.write(pfn, 0, link);
        self.head = Some(pfn);
        self.len = self.len.saturating_add(1);
        true
    }

    /// Takes the page that came last, zeroed.
    pub fn pop<M: Machine>(&mut self, pages: Pages<'_, M>) -> Option<Pfn> {
        let pfn = self.head?;
        self.head = pages.machine.read(pfn, 0).checked_sub(1).and_then(Pfn::new);
        self.len = self.len.saturating_sub(1);
        pages.machine.zero(pfn);
        if let Some(word) = pages.word(pfn) {
            pages.set_word(pfn, word.with_free(false));
        }
        Some(pfn)
    }
}

/// EL2's own pool, for the host's tables.
#[derive(Debug)]
pub struct Pool {
    free: FreeList,
    in_use: usize,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub const fn new() -> Self {
        Self { free: FreeList::new(), in_use: 0 }
    }
    /// Adds a page of EL2's at boot; `false` if it is not EL2's or there already.
    #[must_use]
    pub fn add<M: Machine>(&mut self, pages: Pages<'_, M>, pfn: Pfn) -> bool {
        self.free.push(pages, pfn)
    }
    /// How many pages are tables now.
    #[must_use]
    pub const fn in_use(&self) -> usize {
        self.in_use
    }
    /// How many pages are free.
    #[must_use]
    pub const fn available(&self) -> usize {
        self.free.len()
    }
    /// As a supply for the walker.
    pub fn source<'a, M: Machine>(&'a mut self, pages: Pages<'a, M>) -> Source<'a, M> {
        Source { pages, first: &mut self.free, second: None, in_use: &mut self.in_use }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

/// The table pages of one VM, beside what is in its vCPUs' memcaches.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Tables that became empty; used again before any memcache is.
    freed: FreeList,
    /// Tables in use below the roots.
    in_use: usize,
    /// All pages that the host gave for tables and did not get back: in use, freed or in memcaches.
    given: usize,
}

impl Stock {
    /// Tables in use below the roots.
    #[must_use]
    pub const fn in_use(&self) -> usize {
        self.in_use
    }
    /// Pages that the host gave for tables and did not get back.
    #[must_use]
    pub const fn given(&self) -> usize {
        self.given
    }
    /// One page more came into a memcache.
    pub fn note_given(&mut self) {
        self.given = self.given.saturating_add(1);
    }
    /// Takes one page that is in no use any more, from the freed tables or from `caches`, zeroed,
    /// to give it back to the host.
    pub fn reclaim<'a, M: Machine>(
        &mut self,
        pages: Pages<'_, M>,
        mut caches: impl Iterator<Item = &'a mut FreeList>,
    ) -> Option<Pfn> {
        let pfn = self.freed.pop(pages).or_else(|| caches.find_map(|cache| cache.pop(pages)))?;
        self.given = self.given.saturating_sub(1);
        Some(pfn)
    }
    /// As a supply for the walker, with a vCPU's memcache behind it (to take from; what becomes free
    /// goes to the VM).
    pub fn source<'a, M: Machine>(
        &'a mut self,
        pages: Pages<'a, M>,
        memcache: Option<&'a mut FreeList>,
    ) -> Source<'a, M> {
        Source { pages, first: &mut self.freed, second: memcache, in_use: &mut self.in_use }
    }
}

/// A supply of table pages: a list, perhaps another behind it, and a count of what is out.
#[derive(Debug)]
pub struct Source<'a, M> {
    pages: Pages<'a, M>,
    first: &'a mut FreeList,
    second: Option<&'a mut FreeList>,
    in_use: &'a mut usize,
}

impl<M: Machine> TableSource for Source<'_, M> {
    fn available(&self) -> usize {
        let behind = self.second.as_ref().map_or(0, |list| list.len());
        self.first.len().saturating_add(behind)
    }
    fn take(&mut self) -> Option<TablePfn> {
        let pages = self.pages;
        let pfn =
            self.first.pop(pages).or_else(|| self.second.as_mut().and_then(|l| l.pop(pages)))?;
        *self.in_use = self.in_use.saturating_add(1);
        Some(TablePfn::new(pfn))
    }
    fn give(&mut self, table: TablePfn) {
        // Refused only if it is in a list already: then it must not be counted twice either.
        if self.first.push(self.pages, table.pfn()) {
            *self.in_use = self.in_use.saturating_sub(1);
        }
    }
}
