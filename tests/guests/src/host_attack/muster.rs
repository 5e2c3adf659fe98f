//! What must hold of the pool, and of all that is in nobody's play, when all CPUs stand still, whatever the order was in which they came.

use hyp_abi::hcall::MAX_VCPUS;
use hyp_abi::{Hypercall as H, PageState};
use hyp_model::Page;

use super::Attack;
use super::canary::{POOL, POOL_FIRST, WORDS, whence};
use super::ledger::{self, Stage};
use super::oracle::outside;
use crate::{ensure, hcall, host};

/// As many words may be as they were in a page that EL2 has had: guests may have put them back.
const FEW: usize = 8;

/// What is known of one page.
#[derive(Clone, Copy)]
struct Sum {
    page: Page,
    mapped: u64,
    pinned: u64,
}

impl Attack {
    /// Looks at the pool, on one CPU, when the others are in no race; `end`: everything goes back.
    pub fn muster(&mut self, end: bool) {
        let mut sums = self.count();
        self.judge_pages(&sums);
        self.judge_contents(&sums);
        if end {
            self.empty_pool();
            sums = self.count();
            let all = sums.iter().all(|sum| sum.page == Page::HOST);
            ensure!(all, "a page of the pool has not come back");
        }
        self.renew(&sums);
    }

    /// Who has each page, by the audit; who maps and pins it, by what the VMs have.
    fn count(&self) -> [Sum; POOL] {
        let mut sums = [Sum { page: Page::HOST, mapped: 0, pinned: 0 }; POOL];
        let pages = &self.racer.pages;
        let digest = outside(self.racer.field, |pfn, run| {
            if let Some(sum) = pages.index(pfn).and_then(|page| sums.get_mut(page)) {
                sum.page.host = run.host;
                sum.page.hyp = run.hyp;
                sum.page.shares = run.shares as u32;
                sum.page.pins = run.pins as u16;
            }
        });
        ensure!(digest == self.outside, "the ownership of a page out of play has changed");
        for handle in ledger::live().filter(|handle| ledger::reached(*handle, Stage::Born)) {
            host::audit_vm(handle, |gfn, pfn, nr, attrs| {
                for n in 0..nr {
                    let sum = pages.index(pfn + n).and_then(|page| sums.get_mut(page));
                    let device = attrs >> 17 & 1 != 0;
                    ensure!(
                        sum.is_some() != device,
                        "gfn {:#x} of {handle:#x} is page {:#x}, which is not of the pool",
                        gfn + n,
                        pfn + n
                    );
                    if let Some(sum) = sum {
                        sum.mapped += 1;
                    }
                }
            });
            let runs = (0..MAX_VCPUS).filter_map(|idx| ledger::run_page(handle, idx));
            for page in runs {
                if let Some(sum) = sums.get_mut(page) {
                    sum.pinned += 1;
                }
            }
        }
        sums
    }

    /// Each page has one owner; as many share it as map it, and as many pin it as run on it; and EL2
    /// has as many as its VMs have tables.
    fn judge_pages(&self, sums: &[Sum; POOL]) {
        let mut el2s = 0;
        for (n, Sum { page, mapped, pinned }) in sums.iter().enumerate() {
            let pfn = self.racer.pages.pfn(n);
            let (shares, pins) = (u64::from(page.shares), u64::from(page.pins));
            ensure!(
                shares == *mapped && pins == *pinned,
                "page {pfn:#x} has {shares} shares and {pins} pins, but is mapped {mapped} times \
                 and the run page of {pinned} vCPUs"
            );
            let legal = match (page.host, page.hyp) {
                (PageState::NoPage, PageState::Owned) => {
                    el2s += 1;
                    shares == 0 && pins == 0
                }
                (PageState::Owned, PageState::NoPage) => shares == 0 && pins == 0,
                (PageState::SharedOwned, PageState::NoPage) => shares > 0 && pins == 0,
                (PageState::SharedOwned, PageState::SharedBorrowed) => shares == 0,
                _ => false,
            };
            ensure!(legal, "page {pfn:#x} is {page:?}");
        }
        let mut tables = 0;
        for handle in ledger::live() {
            let stats = hcall::call(H::VmStats, [handle, 0, 0, 0]);
            if stats.x1 >= 0 {
                tables += stats.x1 as u64 + stats.rest[0];
            }
        }
        ensure!(tables == el2s, "EL2 has {el2s} pages of the pool, its VMs have {tables}");
    }

    /// What nobody had has all its canaries, what EL2 had none, and no page has another CPU's.
    fn judge_contents(&self, sums: &[Sum; POOL]) {
        let pages = &self.racer.pages;
        for (page, Sum { page: state, .. }) in sums.iter().enumerate() {
            let pfn = pages.pfn(page);
            ensure!(
                *state != Page::EL2 || ledger::taken(page),
                "page {pfn:#x} is EL2's, and nobody gave it"
            );
            if *state == Page::EL2 {
                continue;
            }
            let own = pages.own_canaries(page);
            ensure!(
                own == WORDS || ledger::touched(page),
                "page {pfn:#x} was written by nobody who may"
            );
            ensure!(
                own < FEW || !ledger::taken(page),
                "page {pfn:#x} has {own} words of before it was EL2's"
            );
            for word in 0..WORDS {
                let number = whence(pages.read(page, word));
                let foreign = number.is_some_and(|number| number < POOL_FIRST);
                ensure!(!foreign, "page {pfn:#x} has a canary of page {number:?} of all");
            }
        }
    }

    /// Canaries for every page that is only the host's.
    fn renew(&mut self, sums: &[Sum; POOL]) {
        for (page, Sum { page: state, .. }) in sums.iter().enumerate() {
            if *state == Page::HOST {
                self.racer.pages.fill(page);
                ledger::renew(page);
            }
        }
    }
}
