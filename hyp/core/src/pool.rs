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

    /// The page that came last.
    #[must_use]
    pub(crate) const fn head(&self) -> Option<Pfn> {
        self.head
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
    /// Tables that became empty.
    #[must_use]
    pub(crate) const fn freed(&self) -> &FreeList {
        &self.freed
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeMachine;
    use crate::machine::Frames;
    use crate::memmap::{MemMap, PageRange};
    use crate::owner::Word;

    const FIRST: u64 = 0x40000;

    fn pfn(n: u64) -> Pfn {
        Pfn::new(FIRST + n).unwrap()
    }
    /// Eight pages of EL2's, and eight of the host's.
    fn world() -> (MemMap, FakeMachine) {
        let map = MemMap::new(PageRange::of(pfn(0), 16)).unwrap();
        let machine = FakeMachine::new(&map, 1);
        let pages = Pages { machine: &machine, map: &map };
        (0..8).for_each(|n| pages.set_word(pfn(n), Word::HYP));
        (map, machine)
    }

    #[test]
    fn pages_come_back_zeroed_last_in_first_out() {
        let (map, machine) = world();
        let pages = Pages { machine: &machine, map: &map };
        let mut list = FreeList::new();
        for n in [0, 5, 2] {
            machine.write(pfn(n), 9, u64::MAX);
            assert!(list.push(pages, pfn(n)));
            assert!(pages.word(pfn(n)).unwrap().is_free());
        }
        assert_eq!(list.len(), 3);
        for (n, left) in [(2, 2), (5, 1), (0, 0)] {
            assert_eq!(list.pop(pages), Some(pfn(n)));
            assert!(machine.is_zero(pfn(n)));
            assert_eq!(pages.word(pfn(n)), Some(Word::HYP));
            assert_eq!(list.len(), left);
        }
        assert_eq!(list.pop(pages), None);
        assert_eq!(list, FreeList::new());
    }

    #[test]
    fn a_page_that_is_not_el2s_to_free_is_refused_and_nothing_changes() {
        let (map, machine) = world();
        let pages = Pages { machine: &machine, map: &map };
        let mut list = FreeList::new();
        assert!(list.push(pages, pfn(0)));
        pages.set_word(pfn(1), Word::HYP.with_pins(1));
        let before = machine.snapshot();
        // Free already, a table with entries, the host's, no RAM.
        for n in [0, 1, 8, 16] {
            assert!(!list.push(pages, pfn(n)), "{n}");
        }
        assert_eq!(list.len(), 1);
        assert_eq!(machine.snapshot(), before);
    }

    #[test]
    fn a_source_counts_what_is_out_and_freed_pages_go_first() {
        let (map, machine) = world();
        let pages = Pages { machine: &machine, map: &map };
        let (mut stock, mut cache) = (Stock::default(), FreeList::new());
        for n in 0..3 {
            assert!(cache.push(pages, pfn(n)));
            stock.note_given();
        }
        let mut source = stock.source(pages, Some(&mut cache));
        assert_eq!(source.available(), 3);
        let (a, b) = (source.take().unwrap(), source.take().unwrap());
        assert_eq!((a.pfn(), b.pfn()), (pfn(2), pfn(1)));
        assert_eq!(source.available(), 1);
        source.give(a);
        assert_eq!(source.available(), 2);
        source.give(a);
        assert_eq!(source.available(), 2, "given twice, there once");
        assert_eq!((stock.in_use(), stock.given(), cache.len()), (1, 3, 1));
        let mut source = stock.source(pages, Some(&mut cache));
        assert_eq!(source.take(), Some(a), "the freed one first");
        source.give(a);
        assert_eq!(stock.source(pages, None).available(), 1);
        // To the host: the freed one, then the memcache's; never what is in use.
        assert_eq!(stock.reclaim(pages, [&mut cache].into_iter()), Some(pfn(2)));
        assert_eq!(stock.reclaim(pages, [&mut cache].into_iter()), Some(pfn(0)));
        assert_eq!(stock.reclaim(pages, [&mut cache].into_iter()), None);
        assert_eq!((stock.in_use(), stock.given(), cache.len()), (1, 1, 0));
    }

    #[test]
    fn the_pool_counts_its_tables() {
        let (map, machine) = world();
        let pages = Pages { machine: &machine, map: &map };
        let mut pool = Pool::new();
        assert!(pool.add(pages, pfn(3)) && !pool.add(pages, pfn(3)));
        let table = pool.source(pages).take().unwrap();
        assert_eq!((pool.in_use(), pool.available()), (1, 0));
        assert_eq!(pool.source(pages).take(), None);
        pool.source(pages).give(table);
        assert_eq!((pool.in_use(), pool.available()), (0, 1));
    }
}
