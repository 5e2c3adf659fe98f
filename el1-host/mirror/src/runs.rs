//! Runs of pages: the map behind a mirror, and the three moves that keep it small.
//!
//! A run stands for adjacent gfns with adjacent pfns and equal rights. Moves that may allocate
//! ([`Runs::insert`], [`Runs::isolate`]) do not change what is mapped, so they can be made
//! before EL2 is asked; moves that follow EL2's answer ([`Runs::extend`], [`Runs::join`],
//! [`Runs::take_last`]) only change numbers in place or remove a node, which never allocates.
//!
//! Must not know: hypercalls, locks.
//!
//! Invariants: no run is empty or reaches beyond the last gfn; runs do not overlap. That
//! neighbours are joined is the caller's promise (I3 of the crate).

use alloc::collections::BTreeMap;

use hyp_abi::{Gfn, Pfn, Prot};

/// A run of adjacent pages, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Host frame of the first page; the others follow it.
    pub pfn: Pfn,
    /// Number of pages, at least 1.
    pub nr: u64,
    /// What the guest was granted: EL2's entries allow this, or less while write-protected.
    pub prot: Prot,
}

/// Runs by their first gfn.
#[derive(Debug, Default)]
pub(crate) struct Runs(BTreeMap<Gfn, Mapping>);

/// The gfn after the run, as a number: it may lie just beyond the address space.
fn end(start: Gfn, run: &Mapping) -> u64 {
    start.raw().saturating_add(run.nr)
}

impl Runs {
    pub fn new() -> Self {
        Self::default()
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn pages(&self) -> u64 {
        self.0.values().fold(0, |sum, run| sum.saturating_add(run.nr))
    }

    /// The run that contains `gfn`, with its start.
    fn containing(&self, gfn: Gfn) -> Option<(Gfn, Mapping)> {
        let (start, run) = self.0.range(..=gfn).next_back()?;
        (end(*start, run) > gfn.raw()).then_some((*start, *run))
    }

    /// The one page at `gfn`.
    pub fn get(&self, gfn: Gfn) -> Option<Mapping> {
        let (start, run) = self.containing(gfn)?;
        let pfn = run.pfn.add(gfn.since(start)?)?;
        Some(Mapping { pfn, nr: 1, prot: run.prot })
    }

    /// The first piece of a run inside `from..limit`: also of a run that starts before `from`.
    pub fn next_in(&self, from: Gfn, limit: u64) -> Option<(Gfn, Mapping)> {
        let (start, run) =
            self.containing(from).or_else(|| self.0.range(from..).next().map(|(g, m)| (*g, *m)))?;
        let first = start.max(from);
        let stop = end(start, &run).min(limit);
        let nr = stop.checked_sub(first.raw()).filter(|nr| *nr > 0)?;
        let pfn = run.pfn.add(first.since(start)?)?;
        Some((first, Mapping { pfn, nr, prot: run.prot }))
    }

    /// Puts a page in as a run of its own; the gfn must be free. May allocate.
    pub fn insert(&mut self, gfn: Gfn, page: Mapping) {
        let before = self.0.insert(gfn, page);
        debug_assert!(before.is_none(), "{gfn:?} was mapped");
    }

    /// Takes out a run that starts at `gfn`.
    pub fn remove(&mut self, gfn: Gfn) {
        self.0.remove(&gfn);
    }

    /// Whether a page fits at the end of the run before `gfn`.
    pub fn continues(&self, gfn: Gfn, page: Mapping) -> bool {
        self.0.range(..gfn).next_back().is_some_and(|(start, run)| follows(*start, run, gfn, &page))
    }

    /// Lengthens the run that ends before `gfn` by that page.
    pub fn extend(&mut self, gfn: Gfn) {
        if let Some((_, run)) = self.0.range_mut(..gfn).next_back() {
            run.nr = run.nr.saturating_add(1);
        }
    }

    /// Makes `at` a boundary: a run that reaches across it becomes two. May allocate.
    fn cut(&mut self, at: Gfn) {
        let Some((start, run)) = self.containing(at) else { return };
        let Some(head) = at.since(start).filter(|head| *head > 0) else { return };
        let Some(pfn) = run.pfn.add(head) else { return };
        let tail = Mapping { pfn, nr: run.nr.saturating_sub(head), prot: run.prot };
        self.0.insert(at, tail);
        if let Some(first) = self.0.get_mut(&start) {
            first.nr = head;
        }
    }

    /// Makes both ends of `from..limit` boundaries. May allocate.
    pub fn isolate(&mut self, from: Gfn, limit: u64) {
        self.cut(from);
        if let Some(limit) = Gfn::new(limit) {
            self.cut(limit);
        }
    }

    /// Joins the runs that meet at `at`, if they can be one. Nothing meets beyond the last gfn.
    pub fn join(&mut self, at: u64) {
        let Some(at) = Gfn::new(at) else { return };
        let Some(tail) = self.0.get(&at).copied() else { return };
        let Some((start, head)) = self.0.range_mut(..at).next_back() else { return };
        if follows(*start, head, at, &tail) {
            head.nr = head.nr.saturating_add(tail.nr);
            self.0.remove(&at);
        }
    }

    /// The last page inside `from..limit`.
    pub fn last_in(&self, from: u64, limit: u64) -> Option<(Gfn, Mapping)> {
        let (start, run) = match Gfn::new(limit) {
            Some(limit) => self.0.range(..limit).next_back(),
            None => self.0.last_key_value(),
        }?;
        let last = Gfn::new(end(*start, run).min(limit).checked_sub(1)?)?;
        let page = self.get(last)?;
        (last.raw() >= from).then_some((last, page))
    }

    /// Takes away the last page of the run that ends at `gfn`.
    pub fn take_last(&mut self, gfn: Gfn) {
        let Some((start, run)) = self.0.range_mut(..=gfn).next_back() else { return };
        let start = *start;
        run.nr = run.nr.saturating_sub(1);
        if run.nr == 0 {
            self.0.remove(&start);
        }
    }

    /// Gives the run that starts at `gfn` other rights.
    pub fn set_prot(&mut self, gfn: Gfn, prot: Prot) {
        if let Some(run) = self.0.get_mut(&gfn) {
            run.prot = prot;
        }
    }
}

fn follows(start: Gfn, run: &Mapping, at: Gfn, next: &Mapping) -> bool {
    end(start, run) == at.raw() && run.pfn.add(run.nr) == Some(next.pfn) && run.prot == next.prot
}
