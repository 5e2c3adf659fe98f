//! The walker: finds descriptors. It never writes.
//!
//! Iterative, no allocation: one [`descend`](Space::descend) loads at most four descriptors, and a
//! [`Walk`] over a range steps over a whole absent table, or block, at once.

use hyp_abi::{Gfn, Pfn};

use crate::desc::{Desc, Kind};
use crate::geometry::{ENTRIES, Geometry, Level, Span};
use crate::hw::{Regime, TablePfn, Tables};

/// A place for a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) table: TablePfn,
    pub(crate) index: usize,
    pub(crate) level: Level,
}

impl Slot {
    /// Reads the descriptor.
    pub(crate) fn load<H: Tables>(self, hw: &H) -> Desc {
        Desc::from_raw(hw.load(self.table, self.index))
    }
}

/// A tree of tables: its shape, its root, its TLB tag.
#[derive(Debug)]
pub(crate) struct Space {
    geometry: Geometry,
    regime: Regime,
}

/// The slots from the root to the deepest one on the way to a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// Slots above `last`, root first.
    above: [Option<Slot>; 3],
    /// The first slot that does not lead further down.
    pub(crate) last: Slot,
    /// What it holds.
    pub(crate) desc: Desc,
}

impl Path {
    /// What the last slot holds.
    pub(crate) fn kind(&self) -> Kind {
        self.desc.kind(self.last.level)
    }
    /// The slots that point to tables, nearest to the last one first.
    pub(crate) fn upwards(&self) -> impl Iterator<Item = Slot> {
        self.above.into_iter().rev().flatten()
    }
}

impl Space {
    /// A tree with zeroed roots; `None` if these are not aligned to their number.
    pub(crate) fn new(geometry: Geometry, regime: Regime) -> Option<Self> {
        let root = regime.root.pfn();
        root.add(geometry.root_pages().checked_sub(1)?)?;
        // Concatenated tables are aligned to their total size; the last one must exist.
        let aligned = root.raw().is_multiple_of(geometry.root_pages());
        aligned.then_some(Self { geometry, regime })
    }
    pub(crate) const fn geometry(&self) -> Geometry {
        self.geometry
    }
    pub(crate) const fn regime(&self) -> Regime {
        self.regime
    }
    /// All root pages.
    pub(crate) fn roots(&self) -> impl Iterator<Item = TablePfn> {
        let root = self.regime.root.pfn();
        (0..self.geometry.root_pages()).filter_map(move |n| root.add(n)).map(TablePfn::new)
    }
    /// The slot of `gfn` at the start level.
    fn root_slot(&self, gfn: Gfn) -> Slot {
        let first = self.regime.root;
        // `new` has checked that every root page exists, and callers that `gfn` is in the space.
        let table = first.pfn().add(self.geometry.root_page(gfn)).map_or(first, TablePfn::new);
        let level = self.geometry.start();
        Slot { table, index: level.index(gfn), level }
    }
    /// Walks to the first descriptor that is no table. `gfn` must be in the space.
    pub(crate) fn descend<H: Tables>(&self, hw: &H, gfn: Gfn) -> Path {
        let mut last = self.root_slot(gfn);
        let mut above = [None; 3];
        let mut free = above.iter_mut();
        loop {
            let desc = last.load(hw);
            match (desc.kind(last.level), last.level.below(), free.next()) {
                (Kind::Table(table), Some(level), Some(place)) => {
                    *place = Some(last);
                    last = Slot { table, index: level.index(gfn), level };
                }
                _ => return Path { above, last, desc },
            }
        }
    }
    /// Visits a range.
    pub(crate) fn walk<'a, H: Tables>(&'a self, hw: &'a H, span: Span) -> Walk<'a, H> {
        Walk { space: self, hw, at: span.start(), end: span.end(), table: None }
    }
}

/// One descriptor that is no table, and the part of the range that it decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub(crate) slot: Slot,
    pub(crate) desc: Desc,
    /// First page of the range under it.
    pub(crate) start: u64,
    /// First page of the range that is not.
    pub(crate) end: u64,
}

impl Visit {
    /// Whether a device is mapped here.
    pub(crate) fn is_device(&self) -> bool {
        self.leaf().is_some_and(|(_, attrs)| attrs.device)
    }
    /// What is mapped at `start`, if anything is.
    pub(crate) fn leaf(&self) -> Option<(Pfn, crate::desc::Attrs)> {
        match self.desc.kind(self.slot.level) {
            Kind::Leaf(pfn, attrs) => {
                let inside = self.start.checked_sub(self.slot.level.first(self.start))?;
                Some((pfn.add(inside)?, attrs))
            }
            _ => None,
        }
    }
    pub(crate) const fn pages(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// Iterates over the descriptors of a range, in order, without gaps.
pub(crate) struct Walk<'a, H> {
    space: &'a Space,
    hw: &'a H,
    at: u64,
    end: u64,
    /// The table of the last visit, and where it ends: neighbours need no new descent.
    table: Option<(TablePfn, Level, u64)>,
}

impl<H: Tables> Iterator for Walk<'_, H> {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        if self.at >= self.end {
            return None;
        }
        let gfn = Gfn::new(self.at)?;
        let table = self.table.filter(|(.., end)| self.at < *end);
        let near = table.and_then(|(table, level, _)| {
            let slot = Slot { table, index: level.index(gfn), level };
            let desc = slot.load(self.hw);
            (!matches!(desc.kind(level), Kind::Table(_))).then_some((slot, desc))
        });
        let (slot, desc) = near.unwrap_or_else(|| {
            let path = self.space.descend(self.hw, gfn);
            (path.last, path.desc)
        });
        let table_pages = slot.level.pages().saturating_mul(ENTRIES as u64);
        let table_end = (self.at | table_pages.saturating_sub(1)).saturating_add(1);
        self.table = Some((slot.table, slot.level, table_end));
        let start = self.at;
        self.at = slot.level.after(start).min(self.end);
        Some(Visit { slot, desc, start, end: self.at })
    }
}
