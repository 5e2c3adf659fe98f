//! The only writer of descriptors: counts, barriers and invalidations in their order.
//!
//! Each change of a live descriptor goes through a type that stands for the step reached
//! (DDI0487 D8, "Using break-before-make"): [`Broken`] cannot exist before the invalidation is
//! complete, and [`Unlinked`] tables reach a source only through it.
//!
//! Invariants:
//! - I1: a descriptor never goes from valid to another output address or size but through invalid
//!   and a complete invalidation.
//! - I2: a table page is given back after the invalidation of the entry that pointed to it.
//! - I3: an operation that made something valid ends with `publish`.

use hyp_abi::Gfn;

use crate::desc::{Desc, Kind};
use crate::geometry::Level;
use crate::hw::{Regime, TablePfn, Tables, Tlb};
use crate::source::{Bundle, Refs, TableSource};
use crate::walk::{Path, Slot};

/// The hardware and the counts: what every changing operation needs.
#[derive(Debug)]
pub struct Mmu<'a, H, R> {
    /// Table memory and TLBs.
    pub hw: &'a H,
    /// Counts of table pages.
    pub refs: &'a R,
}

impl<H, R> Clone for Mmu<'_, H, R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<H, R> Copy for Mmu<'_, H, R> {}

impl<H: Tables + Tlb, R: Refs> Mmu<'_, H, R> {
    fn store(self, slot: Slot, desc: Desc) {
        self.hw.store(slot.table, slot.index, desc.raw());
    }
    /// Puts something into an empty slot. Nothing can be cached of it, so no invalidation.
    pub(crate) fn fill(self, slot: Slot, desc: Desc) {
        self.refs.set(slot.table, self.refs.get(slot.table).saturating_add(1));
        self.store(slot, desc);
        self.hw.publish();
    }
    /// Hangs `desc` (for `level`) below a slot of level `level - tables`: each of `tables` gets
    /// one entry. Returns what the slot has to hold; nothing is visible before it does.
    pub(crate) fn grow(self, tables: Bundle, gfn: Gfn, level: Level, desc: Desc) -> Desc {
        let levels = [Level::L3, Level::L2, Level::L1].into_iter().filter(|l| *l <= level);
        levels.zip(tables.into_tables()).fold(desc, |desc, (level, table)| {
            self.refs.set(table, 2);
            self.store(Slot { table, index: level.index(gfn), level }, desc);
            Desc::table(table)
        })
    }
    /// Makes a live slot invalid, everywhere. Its place stays counted.
    pub(crate) fn break_leaf(self, regime: Regime, slot: Slot, gfn: Gfn) -> Broken {
        self.store(slot, Desc::EMPTY);
        self.hw.inval_ipa(regime, gfn.ipa(), Some(slot.level.number()));
        Broken(slot)
    }
    /// Empties a slot; returns whether that leaves its table empty.
    fn vacate(self, slot: Slot) -> bool {
        let count = self.refs.get(slot.table).saturating_sub(1);
        self.store(slot, Desc::EMPTY);
        self.refs.set(slot.table, count);
        count == 1
    }
    /// Empties the last slot of a path, and unlinks every table that this leaves empty.
    pub(crate) fn prune(self, path: &Path) -> Unlinked {
        let mut tables = Bundle::default();
        let mut table = path.last.table;
        let mut empty = self.vacate(path.last);
        for parent in path.upwards() {
            if !empty {
                break;
            }
            tables.push(table);
            table = parent.table;
            empty = self.vacate(parent);
        }
        let leaf = path.desc.is_valid().then_some(path.last.level);
        Unlinked { tables, leaf }
    }
    /// Changes attributes that need no break-before-make. The hardware may set the access flag at
    /// any moment: compare and exchange, so that it is never lost. Returns the leaf before, or
    /// `None` if the slot holds none any more. Each failure means that another observer changed
    /// this descriptor; the hardware does so at most once for each time the flag is cleared.
    pub(crate) fn amend(
        self,
        slot: Slot,
        seen: Desc,
        change: impl Fn(Desc) -> Desc,
    ) -> Option<Desc> {
        let mut old = seen;
        loop {
            let Kind::Leaf(..) = old.kind(slot.level) else { return None };
            let new = change(old);
            if new == old {
                return Some(old);
            }
            match self.hw.compare_exchange(slot.table, slot.index, old.raw(), new.raw()) {
                Ok(()) => return Some(old),
                Err(found) => old = Desc::from_raw(found),
            }
        }
    }
}

/// A slot that was live, is invalid, and is in no TLB: the second half of break-before-make.
#[must_use = "the slot stays counted: make it something"]
#[derive(Debug)]
pub(crate) struct Broken(Slot);

impl Broken {
    /// Writes the new descriptor.
    pub(crate) fn make<H: Tables + Tlb, R: Refs>(self, mmu: Mmu<'_, H, R>, desc: Desc) {
        mmu.store(self.0, desc);
        mmu.hw.publish();
    }
}

/// A removed entry, and the tables that no descriptor points to any more; TLBs still may.
#[must_use = "TLBs still hold the entry"]
#[derive(Debug)]
pub(crate) struct Unlinked {
    tables: Bundle,
    /// Level of the leaf that was removed, if it was valid.
    leaf: Option<Level>,
}

impl Unlinked {
    /// Invalidates what was removed, then gives the tables back.
    pub(crate) fn settle<H, R, S>(self, mmu: Mmu<'_, H, R>, regime: Regime, gfn: Gfn, to: &mut S)
    where
        H: Tables + Tlb,
        R: Refs,
        S: TableSource,
    {
        match self.leaf {
            // Walks may have cached the table entries as well: no level hint.
            _ if !self.tables.is_empty() => mmu.hw.inval_ipa(regime, gfn.ipa(), None),
            Some(level) => mmu.hw.inval_ipa(regime, gfn.ipa(), Some(level.number())),
            // An annotation, in a table that stays: no walker ever saw it.
            None => return,
        }
        for table in self.tables.into_tables() {
            mmu.refs.set(table, 0);
            to.give(table);
        }
    }
}

/// Sets the counts of roots: each is a table without entries.
pub(crate) fn count_roots<R: Refs>(roots: impl Iterator<Item = TablePfn>, refs: &R) {
    roots.for_each(|root| refs.set(root, 1));
}
