//! Who owns each RAM page: the table of [`Word`]s, and who may change it.
//!
//! Knows: where a page's word is. Must not know: stage-2 tables, VMs. Guests' own view of a page is
//! in their stage-2 leaves.
//!
//! The host lock guards every word; the words of a VM's table pages, the VM's lock.

use core::marker::PhantomData;

use hyp_abi::{Pfn, Refusal};
use hyp_s2::{Mmu, Refs, TablePfn};

use crate::machine::{Machine, Meta};
use crate::memmap::MemMap;

pub use crate::word::Word;

/// The metadata of all pages, together with the machine.
#[derive(Debug)]
pub struct Pages<'a, M> {
    /// The hardware.
    pub machine: &'a M,
    /// Where RAM is.
    pub map: &'a MemMap,
}

impl<M> Clone for Pages<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M> Copy for Pages<'_, M> {}

impl<M: Meta> Pages<'_, M> {
    /// The word of a page; `None` if it is not RAM.
    #[must_use]
    pub fn word(self, pfn: Pfn) -> Option<Word> {
        self.map.index(pfn).map(|index| Word::from_raw(self.machine.meta_load(index)))
    }
    /// Sets the word of a page; what is not RAM has none.
    pub fn set_word(self, pfn: Pfn, word: Word) {
        if let Some(index) = self.map.index(pfn) {
            self.machine.meta_store(index, word.raw());
        }
    }
}

impl<M: Machine> Pages<'_, M> {
    /// The machine's tables with their counts.
    #[must_use]
    pub fn mmu(&self) -> Mmu<'_, M, Self> {
        Mmu { hw: self.machine, refs: self }
    }
}

impl<M: Meta> Refs for Pages<'_, M> {
    fn get(&self, table: TablePfn) -> u16 {
        self.word(table.pfn()).map_or(0, Word::pins)
    }
    fn set(&self, table: TablePfn, count: u16) {
        if let Some(word) = self.word(table.pfn()) {
            self.set_word(table.pfn(), word.with_pins(count));
        }
    }
}

/// The right to change ownership: it is inside what the host lock guards.
#[derive(Debug)]
pub struct Ownership(());

impl Ownership {
    /// For the one [`HostState`](crate::host::HostState).
    pub(crate) const fn new() -> Self {
        Self(())
    }

    /// Checks a transition of one page: reads only.
    ///
    /// # Errors
    /// `NotPermitted` if the page is not RAM, else what the transition says.
    pub fn check<M: Meta>(
        &self,
        pages: Pages<'_, M>,
        pfn: Pfn,
        transition: fn(Word) -> Result<Word, Refusal>,
    ) -> Result<Checked<'_>, Refusal> {
        let before = pages.word(pfn).ok_or(Refusal::NotPermitted)?;
        Ok(Checked { pfn, after: transition(before)?, _locked: PhantomData })
    }
}

/// A transition that is allowed; the ownership cannot change before it is committed or dropped.
#[must_use = "nothing has changed yet"]
#[derive(Debug)]
pub struct Checked<'a> {
    pfn: Pfn,
    after: Word,
    _locked: PhantomData<&'a Ownership>,
}

impl Checked<'_> {
    /// Makes the change.
    pub fn commit<M: Meta>(self, pages: Pages<'_, M>) {
        pages.set_word(self.pfn, self.after);
    }
}
