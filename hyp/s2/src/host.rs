//! The host's stage 2: an identity map, built on touch with the largest blocks that fit, and cut
//! to pages where a page is not the host's.
//!
//! Invariant: a page that is not the host's has an annotation at level 3, so no block can cover it
//! and a touch of it cannot be answered with a mapping. Callers hold the host lock.

use hyp_abi::{Gfn, Pfn};

use crate::desc::{Annotation, Attrs, Desc, Kind};
use crate::edit::{Mmu, count_roots};
use crate::geometry::{Geometry, Level, Span};
use crate::guest::NoTables;
use crate::hw::{Regime, Tables, Tlb};
use crate::source::{Bundle, Refs, TableSource};
use crate::walk::{Path, Space};

/// The host's tables.
#[derive(Debug)]
pub struct HostMap {
    space: Space,
}

/// What the tables say about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The host can reach it, by a leaf of this level.
    Valid(Level, Attrs),
    /// It is another's.
    Annotated(Annotation),
    /// Nothing there yet: the empty entry is one of this level.
    Absent(Level),
}

/// Why a touch cannot be answered with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TouchRefusal {
    /// Beyond the IPA space, or the caller allows not even one page.
    OutOfRange,
    /// The page is another's.
    Annotated(Annotation),
    /// Table pages are short.
    NoTables,
}

/// Why a page cannot be annotated, or its annotation removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotateRefusal {
    /// Beyond the IPA space.
    OutOfRange,
    /// It has an annotation already (or, to remove one, has none).
    WrongState,
}

impl HostMap {
    /// The host's map. The root pages are zeroed; `None` if they are not aligned to their number.
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
    /// What the tables say about a page; `None` beyond the IPA space.
    pub fn lookup<H: Tables>(&self, hw: &H, pfn: Pfn) -> Option<Lookup> {
        let gfn = self.identity(pfn)?;
        let path = self.space.descend(hw, gfn);
        Some(match path.kind() {
            Kind::Leaf(_, attrs) => Lookup::Valid(path.last.level, attrs),
            Kind::Donated(to) => Lookup::Annotated(to),
            Kind::Empty | Kind::Table(_) | Kind::Unknown => Lookup::Absent(path.last.level),
        })
    }
    /// The host page at a frame; `None` beyond the IPA space.
    fn identity(&self, pfn: Pfn) -> Option<Gfn> {
        Gfn::new(pfn.raw()).filter(|gfn| self.geometry().contains(*gfn))
    }

    /// Answers the host's touch of a page: maps the largest block around it that `fits` (first
    /// frame, number of pages) and that no existing entry stands in the way of. A page that is
    /// mapped already (another CPU was faster) is no error. Returns the level.
    ///
    /// # Errors
    /// See [`TouchRefusal`].
    pub fn touch<H, R, S>(
        &mut self,
        mmu: Mmu<'_, H, R>,
        source: &mut S,
        pfn: Pfn,
        attrs: Attrs,
        fits: impl Fn(Pfn, u64) -> bool,
    ) -> Result<Level, TouchRefusal>
    where
        H: Tables + Tlb,
        R: Refs,
        S: TableSource,
    {
        let gfn = self.identity(pfn).ok_or(TouchRefusal::OutOfRange)?;
        let path = self.space.descend(mmu.hw, gfn);
        match path.kind() {
            Kind::Empty => {}
            Kind::Leaf(..) => return Ok(path.last.level),
            Kind::Donated(to) => return Err(TouchRefusal::Annotated(to)),
            Kind::Table(_) | Kind::Unknown => return Err(TouchRefusal::OutOfRange),
        }
        let (level, first) = [Level::L1, Level::L2, Level::L3]
            .into_iter()
            .filter(|level| *level >= path.last.level)
            .filter_map(|level| Some((level, Pfn::new(level.first(pfn.raw()))?)))
            .find(|(level, first)| fits(*first, level.pages()))
            .ok_or(TouchRefusal::OutOfRange)?;
        let needed = path.last.level.tables_below().saturating_sub(level.tables_below());
        let tables = Bundle::take(needed, source).ok_or(TouchRefusal::NoTables)?;
        let entry = mmu.grow(tables, gfn, level, Desc::leaf(level, first, attrs));
        mmu.fill(path.last, entry);
        Ok(level)
    }

    /// Checks that a page can be taken from the host's map.
    ///
    /// # Errors
    /// See [`AnnotateRefusal`].
    pub fn check_annotate<H: Tables>(
        &mut self,
        hw: &H,
        pfn: Pfn,
    ) -> Result<AnnotatePlan<'_>, AnnotateRefusal> {
        let gfn = self.identity(pfn).ok_or(AnnotateRefusal::OutOfRange)?;
        let path = self.space.descend(hw, gfn);
        match path.kind() {
            Kind::Empty | Kind::Leaf(..) => Ok(AnnotatePlan { map: self, gfn, path }),
            _ => Err(AnnotateRefusal::WrongState),
        }
    }
    /// Checks that an annotation can be removed.
    ///
    /// # Errors
    /// See [`AnnotateRefusal`].
    pub fn check_release<H: Tables>(
        &mut self,
        hw: &H,
        pfn: Pfn,
    ) -> Result<ReleasePlan<'_>, AnnotateRefusal> {
        let gfn = self.identity(pfn).ok_or(AnnotateRefusal::OutOfRange)?;
        let path = self.space.descend(hw, gfn);
        match path.kind() {
            Kind::Donated(annotation) => Ok(ReleasePlan { map: self, gfn, path, annotation }),
            _ => Err(AnnotateRefusal::WrongState),
        }
    }

    /// Drops every leaf that lies in the span and gives the empty tables back, to refill an empty
    /// pool; the host's next touch maps again. Annotations stay. Visits at most `budget` entries;
    /// returns the page number to go on with, or `None` at the end.
    pub fn zap<H, R, S>(
        &mut self,
        mmu: Mmu<'_, H, R>,
        span: Span,
        budget: usize,
        freed: &mut S,
    ) -> Option<u64>
    where
        H: Tables + Tlb,
        R: Refs,
        S: TableSource,
    {
        let mut at = span.start();
        for _ in 0..budget {
            if at >= span.end() {
                return None;
            }
            let gfn = Gfn::new(at)?;
            let path = self.space.descend(mmu.hw, gfn);
            let level = path.last.level;
            let inside = level.first(at) >= span.start() && level.after(at) <= span.end();
            if inside && matches!(path.kind(), Kind::Leaf(..)) {
                mmu.prune(&path).settle(mmu, self.regime(), gfn, freed);
            }
            at = level.after(at);
        }
        (at < span.end()).then_some(at)
    }
}

/// A page can be taken from the host's map.
#[must_use = "nothing has changed yet"]
#[derive(Debug)]
pub struct AnnotatePlan<'a> {
    map: &'a mut HostMap,
    gfn: Gfn,
    path: Path,
}

impl<'a> AnnotatePlan<'a> {
    /// How many table pages this takes: an annotation stands at level 3.
    #[must_use]
    pub const fn tables(&self) -> usize {
        self.path.last.level.tables_below()
    }
    /// Takes the tables.
    ///
    /// # Errors
    /// [`NoTables`] if there are not enough; then none is taken.
    pub fn reserve<S: TableSource>(self, source: &mut S) -> Result<Annotating<'a>, NoTables> {
        let tables = Bundle::take(self.tables(), source).ok_or(NoTables)?;
        Ok(Annotating { plan: self, tables })
    }
}

/// A page can be taken from the host's map and the tables are there.
#[must_use = "the tables taken would be lost"]
#[derive(Debug)]
pub struct Annotating<'a> {
    plan: AnnotatePlan<'a>,
    tables: Bundle,
}

impl Annotating<'_> {
    /// Takes the page: when this returns, no CPU can reach it through the host's map. Of a block
    /// around it the rest is dropped too, and comes back when the host touches it.
    pub fn commit<H, R>(self, mmu: Mmu<'_, H, R>, to: Annotation)
    where
        H: Tables + Tlb,
        R: Refs,
    {
        let AnnotatePlan { map, gfn, path } = self.plan;
        // Before the new tables are filled: they must not be reachable while a walker may still
        // see the block.
        if path.desc.is_valid() {
            let broken = mmu.break_leaf(map.regime(), path.last, gfn);
            let entry = mmu.grow(self.tables, gfn, Level::L3, Desc::donated(to));
            broken.make(mmu, entry);
        } else {
            let entry = mmu.grow(self.tables, gfn, Level::L3, Desc::donated(to));
            mmu.fill(path.last, entry);
        }
    }
}

/// An annotation can be removed.
#[must_use = "nothing has changed yet"]
#[derive(Debug)]
pub struct ReleasePlan<'a> {
    map: &'a mut HostMap,
    gfn: Gfn,
    path: Path,
    annotation: Annotation,
}

impl ReleasePlan<'_> {
    /// What the page is marked with.
    #[must_use]
    pub const fn annotation(&self) -> Annotation {
        self.annotation
    }
    /// Removes it and frees the tables that this leaves empty: the host may touch the page again.
    pub fn commit<H, R, S>(self, mmu: Mmu<'_, H, R>, freed: &mut S)
    where
        H: Tables + Tlb,
        R: Refs,
        S: TableSource,
    {
        mmu.prune(&self.path).settle(mmu, self.map.regime(), self.gfn, freed);
    }
}
