//! A guest's stage 2: 4 KiB pages that the host lends, page by page.
//!
//! Each operation checks first and changes afterwards; a plan borrows the map, so check and change
//! cannot drift apart. Callers hold the VM's lock.
//!
//! Every operation understands block leaves, although nothing here maps one yet.

mod attrs;
mod scan;

use hyp_abi::{Gfn, Pfn};

use crate::desc::{Attrs, Desc, Kind};
use crate::edit::{Mmu, count_roots};
use crate::geometry::{Geometry, Level};
use crate::hw::{Regime, Tables, Tlb};
use crate::source::{Bundle, Refs, TableSource};
use crate::walk::{Path, Space, Visit};

pub use attrs::{AGE_PAGES, RelaxRefusal};
pub use scan::{Run, Scan};

/// The tables of one VM.
#[derive(Debug)]
pub struct GuestMap {
    pub(crate) space: Space,
}

/// A mapped page (or its part of a block).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The frame behind the page that was asked for.
    pub pfn: Pfn,
    /// What the descriptor says besides.
    pub attrs: Attrs,
    /// 3 for a page, less for a block.
    pub level: Level,
}

/// Why a page cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapRefusal {
    /// The gfn is beyond the IPA space.
    OutOfRange,
    /// Something is mapped there.
    Taken,
}

/// Why a page cannot be unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapRefusal {
    /// The gfn is beyond the IPA space.
    OutOfRange,
    /// Nothing is mapped there.
    Absent,
    /// It is part of a block.
    WrongSize,
}

/// The supply of table pages is short; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTables;

impl GuestMap {
    /// A VM's map. The root pages are zeroed and the caller's to give; `None` if they are not
    /// aligned to their number.
    pub fn new<R: Refs>(geometry: Geometry, regime: Regime, refs: &R) -> Option<Self> {
        let space = Space::new(geometry, regime)?;
        count_roots(space.roots(), refs);
        Some(Self { space })
    }
    /// The shape.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.space.geometry()
    }
    /// VMID and root.
    #[must_use]
    pub const fn regime(&self) -> Regime {
        self.space.regime()
    }
    /// Whether nothing is mapped: the roots alone are left.
    pub fn is_empty<R: Refs>(&self, refs: &R) -> bool {
        self.space.roots().all(|root| refs.get(root) == 1)
    }
    /// What is mapped at `gfn`.
    pub fn leaf<H: Tables>(&self, hw: &H, gfn: Gfn) -> Option<Leaf> {
        self.visit(hw, gfn).and_then(|visit| leaf_of(&visit))
    }
    fn visit<H: Tables>(&self, hw: &H, gfn: Gfn) -> Option<Visit> {
        let span = self.geometry().span(gfn, 1)?;
        self.space.walk(hw, span).next()
    }

    /// Checks that a page can be mapped at `gfn`.
    ///
    /// # Errors
    /// See [`MapRefusal`].
    pub fn check_map<H: Tables>(&mut self, hw: &H, gfn: Gfn) -> Result<MapPlan<'_>, MapRefusal> {
        if !self.geometry().contains(gfn) {
            return Err(MapRefusal::OutOfRange);
        }
        let path = self.space.descend(hw, gfn);
        if !path.desc.is_empty() {
            return Err(MapRefusal::Taken);
        }
        Ok(MapPlan { _map: self, gfn, path })
    }
    /// Checks that a page can be unmapped at `gfn`.
    ///
    /// # Errors
    /// See [`UnmapRefusal`].
    pub fn check_unmap<H: Tables>(
        &mut self,
        hw: &H,
        gfn: Gfn,
    ) -> Result<UnmapPlan<'_>, UnmapRefusal> {
        if !self.geometry().contains(gfn) {
            return Err(UnmapRefusal::OutOfRange);
        }
        let path = self.space.descend(hw, gfn);
        match (path.kind(), path.last.level) {
            (Kind::Leaf(pfn, attrs), Level::L3) => {
                let leaf = Leaf { pfn, attrs, level: Level::L3 };
                Ok(UnmapPlan { map: self, gfn, path, leaf })
            }
            (Kind::Leaf(..), _) => Err(UnmapRefusal::WrongSize),
            _ => Err(UnmapRefusal::Absent),
        }
    }
}

/// A page can be mapped; holds the map still until it is.
#[must_use = "nothing is mapped yet"]
#[derive(Debug)]
pub struct MapPlan<'a> {
    _map: &'a mut GuestMap,
    gfn: Gfn,
    path: Path,
}

impl<'a> MapPlan<'a> {
    /// How many table pages this takes.
    #[must_use]
    pub const fn tables(&self) -> usize {
        self.path.last.level.tables_below()
    }
    /// Takes the tables.
    ///
    /// # Errors
    /// [`NoTables`] if there are not enough; then none is taken.
    pub fn reserve<S: TableSource>(self, source: &mut S) -> Result<Mapping<'a>, NoTables> {
        let tables = Bundle::take(self.tables(), source).ok_or(NoTables)?;
        Ok(Mapping { plan: self, tables })
    }
}

/// A page can be mapped and the tables are there: nothing can refuse any more.
#[must_use = "the tables taken would be lost"]
#[derive(Debug)]
pub struct Mapping<'a> {
    plan: MapPlan<'a>,
    tables: Bundle,
}

impl Mapping<'_> {
    /// Maps `pfn`.
    pub fn commit<H, R>(self, mmu: Mmu<'_, H, R>, pfn: Pfn, attrs: Attrs)
    where
        H: Tables + Tlb,
        R: Refs,
    {
        let page = Desc::leaf(Level::L3, pfn, attrs);
        let entry = mmu.grow(self.tables, self.plan.gfn, Level::L3, page);
        mmu.fill(self.plan.path.last, entry);
    }
}

/// A page can be unmapped.
#[must_use = "nothing is unmapped yet"]
#[derive(Debug)]
pub struct UnmapPlan<'a> {
    map: &'a mut GuestMap,
    gfn: Gfn,
    path: Path,
    leaf: Leaf,
}

impl UnmapPlan<'_> {
    /// What is mapped there.
    #[must_use]
    pub const fn leaf(&self) -> Leaf {
        self.leaf
    }
    /// Unmaps it everywhere, then frees the tables that this leaves empty.
    pub fn commit<H, R, S>(self, mmu: Mmu<'_, H, R>, freed: &mut S)
    where
        H: Tables + Tlb,
        R: Refs,
        S: TableSource,
    {
        mmu.prune(&self.path).settle(mmu, self.map.regime(), self.gfn, freed);
    }
}

fn leaf_of(visit: &Visit) -> Option<Leaf> {
    let (pfn, attrs) = visit.leaf()?;
    Some(Leaf { pfn, attrs, level: visit.slot.level })
}
