//! The ownership table, walked at boot and again at the end.
//!
//! EL2 streams it as runs of pages in equal state (`audit_host`). The walk at boot tells what is
//! EL2's; the one at the end must find the same runs: whatever was lent or donated has come back.

use alloc::vec::Vec;

use host_mirror::{Calls, HostRun};
use hyp_abi::{PAGE_SIZE, PageState, Refusal};

use crate::ranges::{Range, Ranges};

/// What is compared: neighbouring runs in equal state are one, because EL2 may cut them anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First frame.
    pub first: u64,
    /// One past the last frame.
    pub end: u64,
    /// State seen from the host and from EL2, guest mappings, pins.
    pub state: (PageState, PageState, u32, u32),
}

impl Stretch {
    fn of(run: HostRun) -> Self {
        let first = run.pfn.raw();
        let state = (run.host, run.el2, run.shares, run.pins);
        Self { first, end: first.saturating_add(run.nr), state }
    }

    /// Pages in it.
    pub fn pages(&self) -> u64 {
        self.end - self.first
    }

    /// The bytes of it.
    pub fn range(&self) -> Range {
        Range {
            start: self.first.saturating_mul(PAGE_SIZE),
            end: self.end.saturating_mul(PAGE_SIZE),
        }
    }

    fn is_host_s(&self) -> bool {
        self.state == (PageState::Owned, PageState::NoPage, 0, 0)
    }
}

/// Walks the table, and shows each stretch to `see`.
fn walk(el2: &impl Calls, mut see: impl FnMut(Stretch)) -> Result<(), Refusal> {
    let mut open: Option<Stretch> = None;
    let mut at = 0;
    while let Some(run) = el2.audit_host(at)? {
        at = run.next;
        if run.nr == 0 {
            continue;
        }
        let new = Stretch::of(run);
        match &mut open {
            Some(last) if last.end == new.first && last.state == new.state => last.end = new.end,
            _ => {
                if let Some(done) = open.replace(new) {
                    see(done);
                }
            }
        }
    }
    if let Some(done) = open {
        see(done);
    }
    Ok(())
}

/// Takes from `ram` whatever EL2 does not call the host's own, or does not know at all. Needs no
/// heap.
pub fn keep_own(el2: &impl Calls, ram: &mut Ranges) -> Result<(), &'static str> {
    let mut end_of_own = 0;
    let mut fits = Ok(());
    let walked = walk(el2, |stretch| {
        let own = stretch.range();
        if stretch.is_host_s() && fits.is_ok() {
            fits = ram.remove(Range { start: end_of_own, end: own.start });
            end_of_own = own.end;
        }
    });
    walked.map_err(|_| "EL2 refuses to tell who owns what")?;
    fits.and_then(|()| ram.remove(Range { start: end_of_own, end: u64::MAX }))
        .map_err(|_| "the memory map has too many pieces")
}

/// The table at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Ledger(Vec<Stretch>);

impl Ledger {
    /// Walks the table and keeps it.
    pub fn take(el2: &impl Calls) -> Result<Self, Refusal> {
        let mut all = Vec::new();
        walk(el2, |stretch| all.push(stretch))?;
        Ok(Self(all))
    }

    /// Pages that are the host's own.
    pub fn own_pages(&self) -> u64 {
        self.0.iter().filter(|s| s.is_host_s()).map(Stretch::pages).sum()
    }

    /// What is not as it was at the time of `before`. Both ledgers are equal exactly if this is
    /// empty and both have as many pages of the host.
    pub fn unlike<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Stretch> {
        self.0.iter().filter(|new| {
            let same = |old: &Stretch| {
                old.first <= new.first && new.end <= old.end && old.state == new.state
            };
            !before.0.iter().any(same)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, keep_own};
    use crate::ranges::{Range, Ranges};
    use host_mirror::Hypercalls;
    use hyp_abi::{Hypercall, Refusal, Ret};
    use std::cell::RefCell;

    /// An EL2 that answers from a list of (pages, x3) and gives at most `batch` pages a call.
    struct Table {
        runs: RefCell<Vec<(u64, u64)>>,
        batch: u64,
    }

    const FIRST: u64 = 0x40000;

    impl Hypercalls for Table {
        fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
            assert_eq!(call, Hypercall::AuditHost);
            let mut first = FIRST;
            for &(pages, x3) in self.runs.borrow().iter() {
                let end = first + pages;
                if args[0] < end {
                    let x2 = args[0].max(first);
                    let nr = (end - x2).min(self.batch);
                    return Ret { x1: nr as i64, x2, x3, x4: 0, x5: x2 + nr };
                }
                first = end;
            }
            Ret { x1: Refusal::NotFound.code(), ..Ret::default() }
        }
    }

    const OWN: u64 = 3 << 8;
    const EL2S: u64 = 3;
    const SHARED: u64 = 1 | 2 << 8;

    fn table(batch: u64) -> Table {
        Table { runs: RefCell::new(vec![(512, OWN), (512, EL2S), (1024, OWN)]), batch }
    }

    #[test]
    fn what_is_el2_s_is_not_used_whatever_the_size_of_the_answers() {
        for batch in [1, 7, 4096] {
            let mut ram = Ranges::new();
            ram.add(Range { start: 0x4000_0000, end: 0x4080_0000 }).unwrap();
            keep_own(&table(batch), &mut ram).unwrap();
            let left: Vec<_> = ram.iter().map(|r| (r.start, r.end)).collect();
            assert_eq!(left, [(0x4000_0000, 0x4020_0000), (0x4040_0000, 0x4080_0000)]);
        }
    }

    #[test]
    fn memory_that_el2_does_not_know_is_not_used() {
        let mut ram = Ranges::new();
        ram.add(Range { start: 0x3fff_f000, end: 0x4080_1000 }).unwrap();
        ram.add(Range { start: 0x8000_0000, end: 0x9000_0000 }).unwrap();
        keep_own(&table(4096), &mut ram).unwrap();
        let left: Vec<_> = ram.iter().map(|r| (r.start, r.end)).collect();
        assert_eq!(left, [(0x4000_0000, 0x4020_0000), (0x4040_0000, 0x4080_0000)]);
    }

    #[test]
    fn a_page_that_stays_away_is_found_and_named() {
        let el2 = table(4096);
        let ledger = Ledger::take(&el2).unwrap();
        assert_eq!(ledger.own_pages(), 1536);
        el2.runs.replace(vec![(512, OWN), (512, EL2S), (9, OWN), (1, SHARED), (1014, OWN)]);
        let later = Ledger::take(&el2).unwrap();
        let away: Vec<_> = later.unlike(&ledger).map(|s| (s.first, s.pages())).collect();
        assert_eq!(away, [(FIRST + 1033, 1)]);
        assert_eq!(later.own_pages(), 1535);
        assert_eq!(Ledger::take(&table(3)).unwrap(), ledger);
    }
}
