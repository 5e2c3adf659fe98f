//! A guest's stage 2: 4 KiB pages that the host lends, page by page.
//!
//! Each operation checks first and changes afterwards; a plan borrows the map, so check and change
//! cannot drift apart. Callers hold the VM's lock.
//!
//! Every operation understands block leaves, although nothing here maps one yet.

use hyp_abi::{Gfn, Pfn};

use crate::desc::{Attrs, Desc, Kind, Rights};
use crate::edit::{Mmu, count_roots};
use crate::geometry::{Geometry, Level, Span};
use crate::hw::{Regime, Tables, Tlb};
use crate::source::{Bundle, Refs, TableSource};
use crate::walk::{Path, Space, Visit};

/// Most pages that one ageing call answers for: the bits of its bitmap.
pub const AGE_PAGES: u64 = 64;

/// The tables of one VM.
#[derive(Debug)]
pub struct GuestMap {
    space: Space,
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

/// Why rights cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelaxRefusal {
    /// The gfn is beyond the IPA space.
    OutOfRange,
    /// Nothing is mapped there: the caller lost a race.
    Absent,
}

/// The supply of table pages is short; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTables;

/// Pages with adjacent gfn and pfn and equal attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First page.
    pub gfn: Gfn,
    /// Its frame.
    pub pfn: Pfn,
    /// How many.
    pub pages: u64,
    /// Attributes of each.
    pub attrs: Attrs,
}

/// Answer of [`GuestMap::next_run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A run; page number to go on with (it may be the end of the IPA space).
    Run(Run, u64),
    /// The budget ended before anything mapped was found; page number to go on with.
    More(u64),
    /// Nothing more is mapped.
    End,
}

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

    /// Takes the right to write away from every leaf that reaches into the span, visiting at most
    /// `budget` entries. Returns how many pages of the span are done. TLBs keep what they have:
    /// flush the VMID before trusting that nothing is written.
    pub fn wrprotect<H, R>(&mut self, mmu: Mmu<'_, H, R>, span: Span, budget: usize) -> u64
    where
        H: Tables + Tlb,
        R: Refs,
    {
        let mut done = 0u64;
        for visit in self.space.walk(mmu.hw, span).take(budget) {
            mmu.amend(visit.slot, visit.desc, Desc::read_only);
            done = done.saturating_add(visit.pages());
        }
        done
    }
    /// Which of the first 64 pages of the span were accessed since they were last aged: bit i is
    /// page i. `mkold` ages them, without invalidation: a stale "young" is allowed.
    pub fn age<H, R>(&mut self, mmu: Mmu<'_, H, R>, span: Span, mkold: bool) -> u64
    where
        H: Tables + Tlb,
        R: Refs,
    {
        let mut bitmap = 0;
        for visit in self.space.walk(mmu.hw, span.truncated(AGE_PAGES)) {
            let change = if mkold { Desc::old } else { |desc| desc };
            let before = mmu.amend(visit.slot, visit.desc, change);
            if before.is_some_and(|desc| desc != desc.old()) {
                bitmap |= bits(visit.start.saturating_sub(span.start()), visit.pages());
            }
        }
        bitmap
    }
    /// Adds rights to the leaf at `gfn`; this CPU sees them at once, others may fault once more.
    ///
    /// # Errors
    /// See [`RelaxRefusal`].
    pub fn relax<H, R>(
        &mut self,
        mmu: Mmu<'_, H, R>,
        gfn: Gfn,
        more: Rights,
    ) -> Result<(), RelaxRefusal>
    where
        H: Tables + Tlb,
        R: Refs,
    {
        if !self.geometry().contains(gfn) {
            return Err(RelaxRefusal::OutOfRange);
        }
        let path = self.space.descend(mmu.hw, gfn);
        mmu.amend(path.last, path.desc, |desc| desc.relaxed(more)).ok_or(RelaxRefusal::Absent)?;
        mmu.hw.publish();
        let level = Some(path.last.level.number());
        mmu.hw.inval_ipa_local(self.regime(), gfn.ipa(), level);
        Ok(())
    }
    /// Sets the access flag of the leaf at `gfn`; returns whether there is one.
    pub fn mkyoung<H, R>(&mut self, mmu: Mmu<'_, H, R>, gfn: Gfn) -> bool
    where
        H: Tables + Tlb,
        R: Refs,
    {
        let Some(visit) = self.visit(mmu.hw, gfn) else { return false };
        let leaf = mmu.amend(visit.slot, visit.desc, Desc::young);
        // A leaf without access flag is in no TLB (D8.5.1): visible is enough.
        mmu.hw.publish();
        leaf.is_some()
    }

    /// The first run of pages at or after page number `from`, visiting at most `budget` entries.
    pub fn next_run<H: Tables>(&self, hw: &H, from: Gfn, budget: usize) -> Scan {
        let frames = self.geometry().frames();
        let rest = frames.checked_sub(from.raw());
        let Some(span) = rest.and_then(|nr| self.geometry().span(from, nr)) else {
            return Scan::End;
        };
        let mut next = from.raw();
        let mut found: Option<Run> = None;
        for visit in self.space.walk(hw, span).take(budget) {
            match (&mut found, run_of(&visit)) {
                (None, run) => found = run,
                (Some(run), Some(more)) if run.continues_in(&more) => {
                    run.pages = run.pages.saturating_add(more.pages);
                }
                (Some(run), _) => return Scan::Run(*run, next),
            }
            next = visit.end;
        }
        match found {
            Some(run) => Scan::Run(run, next),
            None if next < frames => Scan::More(next),
            None => Scan::End,
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
        self.path.last.level.above_pages()
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

impl Run {
    fn continues_in(&self, next: &Self) -> bool {
        self.attrs == next.attrs
            && self.gfn.add(self.pages) == Some(next.gfn)
            && self.pfn.add(self.pages) == Some(next.pfn)
    }
}

fn leaf_of(visit: &Visit) -> Option<Leaf> {
    let (pfn, attrs) = visit.leaf()?;
    Some(Leaf { pfn, attrs, level: visit.slot.level })
}

fn run_of(visit: &Visit) -> Option<Run> {
    let (pfn, attrs) = visit.leaf()?;
    Some(Run { gfn: Gfn::new(visit.start)?, pfn, pages: visit.pages(), attrs })
}

/// `n` bits from bit `first` on; those beyond 63 fall off.
fn bits(first: u64, n: u64) -> u64 {
    let ones = if n >= 64 { u64::MAX } else { (1u64 << n).wrapping_sub(1) };
    u32::try_from(first).ok().and_then(|first| ones.checked_shl(first)).unwrap_or(0)
}
