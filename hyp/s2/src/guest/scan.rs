//! A guest's mappings as a stream of runs, for the audit.

use hyp_abi::{Gfn, Pfn};

use super::GuestMap;
use crate::desc::Attrs;
use crate::hw::Tables;
use crate::walk::Visit;

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

impl Run {
    fn continues_in(&self, next: &Self) -> bool {
        self.attrs == next.attrs
            && self.gfn.add(self.pages) == Some(next.gfn)
            && self.pfn.add(self.pages) == Some(next.pfn)
    }
}

fn run_of(visit: &Visit) -> Option<Run> {
    let (pfn, attrs) = visit.leaf()?;
    Some(Run { gfn: Gfn::new(visit.start)?, pfn, pages: visit.pages(), attrs })
}
