//! The last lines: what happened, and whether every page is the host's again.

use alloc::format;
use alloc::string::String;
use core::fmt;

use hyp_abi::run::Exit;
use hyp_abi::{Hypercall, Refusal};
use log::{error, info};

use crate::console::say;
use crate::el2::{El2, GRANTED, MADE};
use crate::ledger::Ledger;
use crate::outcome::Outcome;
use crate::words::Words;

/// Stretches of missing pages that are named one by one.
const NAMED: usize = 16;

/// Says it all, and the verdict if one was asked for.
pub fn speak(outcome: &Outcome, before: &Ledger, words: &Words<'_>) {
    info!("exits:{}", Exits(outcome));
    info!("hypercalls:{}", Calls);
    let (shared, back) = (GRANTED.of(Hypercall::ShareGuest), GRANTED.of(Hypercall::UnshareGuest));
    info!("pages shared with guests {shared}, returned {back}");
    // Two root pages a VM, the rest one by one.
    let donated = GRANTED.of(Hypercall::MemcacheTopup) + 2 * GRANTED.of(Hypercall::InitVm);
    let back = GRANTED.of(Hypercall::ReclaimVmPage) + 2 * GRANTED.of(Hypercall::FinalizeTeardownVm);
    info!("table pages donated {donated}, returned {back}");

    let away = pages_away(before);
    let Some(nonce) = words.nonce else { return };
    // Said whatever the log level is: somebody has asked for it.
    match (away, outcome.bad.as_slice()) {
        (Ok(0), []) => {
            let s = if outcome.good == 1 { "" } else { "s" };
            let good = outcome.good;
            say(format_args!("redan {nonce}: ok {good} VM{s} ended well, every page is back"));
        }
        (Ok(0), [first, more @ ..]) => {
            let more = match more.len() {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            say(format_args!("redan {nonce}: FAILED {first}{more}; every page is back"));
        }
        (Ok(pages), _) => {
            say(format_args!("redan {nonce}: FAILED {pages} pages are not the host's again"));
        }
        (Err(why), _) => {
            say(format_args!("redan {nonce}: FAILED the ownership table is closed: {why:?}"));
        }
    }
}

/// Walks the ownership table: how many pages are not as they were before the first VM?
fn pages_away(before: &Ledger) -> Result<u64, Refusal> {
    let now = Ledger::take(&El2).inspect_err(|why| error!("EL2 refuses the last walk: {why:?}"))?;
    let owned = before.own_pages();
    if now == *before {
        info!("all {owned} pages are the host's again");
        return Ok(0);
    }
    let mut away = 0;
    for (n, stretch) in now.unlike(before).enumerate() {
        away += stretch.pages();
        if n < NAMED {
            let (host, el2, shares, pins) = stretch.state;
            error!(
                "page {:#x}, {} pages: host {host:?}, EL2 {el2:?}, shared {shares}, pinned {pins}",
                stretch.first,
                stretch.pages(),
            );
        }
    }
    // A table that leaves pages out hides them.
    let away = away.max(owned.abs_diff(now.own_pages())).max(1);
    error!("{away} of {owned} pages are not the host's again");
    Ok(away)
}

struct Exits<'a>(&'a Outcome);

impl fmt::Display for Exits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sum = 0;
        for (kind, n) in Exit::ALL.iter().zip(self.0.exits) {
            sum += n;
            if n > 0 {
                write!(f, " {kind:?} {n},")?;
            }
        }
        write!(f, " {} of them for device models, {sum} in all", self.0.mmio)
    }
}

struct Calls;

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sum = 0;
        for (call, n) in MADE.iter().filter(|(_, n)| *n > 0) {
            sum += n;
            write!(f, " {} {n},", call.name())?;
        }
        write!(f, " {sum} in all")
    }
}
