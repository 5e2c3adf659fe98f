//! Where table pages come from, and how many live entries each holds.
//!
//! Invariants:
//! - I1: a table's count is 1 for being a table plus 1 for each entry that is not zero: 513 when
//!   full. A table that is not a root and falls back to 1 is freed.
//! - I2: a page that is given back is all zero and no walker can reach it any more.

use crate::hw::TablePfn;

/// Counts of live entries, one for each table page. The core keeps them in page metadata.
pub trait Refs {
    /// The count of a table.
    fn get(&self, table: TablePfn) -> u16;
    /// Sets it.
    fn set(&self, table: TablePfn, count: u16);
}

/// A supply of pages for tables.
pub trait TableSource {
    /// How many calls of [`take`](Self::take) will succeed.
    fn available(&self) -> usize;
    /// A zeroed page, or `None` when the supply is empty.
    fn take(&mut self) -> Option<TablePfn>;
    /// Gives a page back. It is zero and unreachable.
    fn give(&mut self, table: TablePfn);
}

/// Most tables that one operation can take or free: those below a level 0 entry.
const MOST: usize = 3;

/// Tables on their way between a source and the tree.
#[derive(Debug, Default)]
pub(crate) struct Bundle {
    tables: [Option<TablePfn>; MOST],
}

impl Bundle {
    /// Takes `n` tables, or none.
    pub(crate) fn take<S: TableSource>(n: usize, source: &mut S) -> Option<Self> {
        if source.available() < n {
            return None;
        }
        let mut bundle = Self::default();
        for _ in 0..n {
            match source.take() {
                Some(table) => bundle.push(table),
                None => {
                    // The source promised more than it had: give back, change nothing.
                    bundle.give(source);
                    return None;
                }
            }
        }
        Some(bundle)
    }
    /// Adds one; a fourth cannot come from a walk of four levels, and would be lost.
    pub(crate) fn push(&mut self, table: TablePfn) {
        if let Some(place) = self.tables.iter_mut().find(|place| place.is_none()) {
            *place = Some(table);
        }
    }
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.iter().all(Option::is_none)
    }
    /// The tables, in the order they came.
    pub(crate) fn into_tables(self) -> impl Iterator<Item = TablePfn> {
        self.tables.into_iter().flatten()
    }
    /// Gives all to a source.
    pub(crate) fn give<S: TableSource>(self, source: &mut S) {
        self.into_tables().for_each(|table| source.give(table));
    }
}
