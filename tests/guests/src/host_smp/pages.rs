//! All CPUs want the same pages at the same time: each page has one winner, and EL2's table says who.

use hyp_abi::{Hypercall as H, PageState};

use super::crew;
use crate::host::{self, audit_host};
use crate::{check_eq, hcall};

/// Pages that are raced for at once.
const PAGES: u64 = 32;
const ROUNDS: u64 = 8;

/// Calls `which` for each page of those at `first`; answers in which of them it succeeded.
fn each(which: H, first: u64) -> u64 {
    crew::together();
    let mut won = 0;
    for n in 0..PAGES {
        // Everybody begins elsewhere, and meets the others.
        let n = (n + 7 * crate::cpu::me() as u64) % PAGES;
        let answer = hcall::call(which, [first + n, 0, 0, 0]);
        won |= u64::from(answer.x0 == 0 && answer.x1 == 0) << n;
    }
    won
}

fn share(first: u64) -> u64 {
    each(H::ShareHyp, first)
}

fn unshare(first: u64) -> u64 {
    each(H::UnshareHyp, first)
}

/// Gives and takes back, without looking; answers how often both went well.
fn churn(first: u64) -> u64 {
    crew::together();
    let mut both = 0;
    for n in 0..PAGES * 8 {
        let page = first + n % PAGES;
        let shared = hcall::call(H::ShareHyp, [page, 0, 0, 0]).x1 == 0;
        let unshared = hcall::call(H::UnshareHyp, [page, 0, 0, 0]).x1 == 0;
        both += u64::from(shared && unshared);
    }
    both
}

/// Whether each page was won by one CPU, no more and no less.
fn one_winner_each(won: &[u64]) -> bool {
    let mut seen = 0;
    let twice = won.iter().any(|won| {
        let twice = seen & won != 0;
        seen |= won;
        twice
    });
    !twice && seen == (1 << PAGES) - 1
}

/// Whether EL2's table says this of all the pages, and no pins.
fn all_are(first: u64, host: PageState, hyp: PageState) -> bool {
    let mut good = 0;
    audit_host(|run| {
        if (run.host, run.hyp, run.pins) == (host, hyp, 0) {
            let (start, end) = (run.pfn.max(first), (run.pfn + run.nr).min(first + PAGES));
            good += end.saturating_sub(start);
        }
    });
    good == PAGES
}

/// The part.
pub fn run() {
    let first = host::pages(PAGES) >> 12;
    let (mut lent, mut back) = (0, 0);
    for _ in 0..ROUNDS {
        let won = crew::all(share, first);
        let table = all_are(first, PageState::SharedOwned, PageState::SharedBorrowed);
        lent += u64::from(one_winner_each(&won) && table);
        let won = crew::all(unshare, first);
        let table = all_are(first, PageState::Owned, PageState::NoPage);
        back += u64::from(one_winner_each(&won) && table);
    }
    check_eq!(lent, ROUNDS, "each page is lent to EL2 once, {ROUNDS} times");
    check_eq!(back, ROUNDS, "and taken back once");
    crew::all(churn, first);
    // Whoever lost a race of both kinds has left the page lent.
    crew::all(unshare, first);
    let free = all_are(first, PageState::Owned, PageState::NoPage);
    check_eq!(free, true, "a free-for-all leaves every page in one state, and free in the end");
}
