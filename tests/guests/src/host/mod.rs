//! What the test hosts share: pages to give away, hypercalls by name, a digest of everything that
//! EL2's audit shows, and VMs made of it.

mod vm;

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyp_abi::{Hypercall, PAGE_SIZE, PageState, Refusal};

use crate::hcall::{self, Answer};
use crate::{probe, report};

pub use vm::{Vm, World};

const PAGES: usize = 1408;

#[repr(C, align(8192))]
struct Arena(UnsafeCell<[[u8; 4096]; PAGES]>);
// SAFETY:
// 1. No Rust reference into it is ever made: pages are handed out as addresses, read and written
//    by `probe`.
unsafe impl Sync for Arena {}
static ARENA: Arena = Arena(UnsafeCell::new([[0; 4096]; PAGES]));
static NEXT: AtomicU64 = AtomicU64::new(0);

/// `n` adjacent fresh zero pages, at a multiple of their size; answers the address. Pages are not
/// given out twice, so a test never meets another's leftovers.
pub fn pages(n: u64) -> u64 {
    adjacent(n, n)
}

/// `n` such pages, the first at a multiple of `of` pages.
pub fn adjacent(n: u64, of: u64) -> u64 {
    let base = ARENA.0.get() as u64;
    let first = NEXT.load(Relaxed).next_multiple_of(of);
    NEXT.store(first + n, Relaxed);
    if first + n > PAGES as u64 {
        crate::println!("the arena is too small for this test");
        report::abandon();
    }
    base + first * PAGE_SIZE
}

/// One page, as a page number.
pub fn pfn() -> u64 {
    pages(1) >> 12
}

/// Reads a word of memory that Rust does not own; a fault is a failed test.
#[must_use]
pub fn peek(addr: u64) -> u64 {
    probe::load64(addr).unwrap_or(0xdead_dead_dead_dead)
}

/// Writes one.
pub fn poke(addr: u64, value: u64) {
    // A fault shows as a wrong value in what follows.
    let _ = probe::store64(addr, value);
}

/// A hypercall that must succeed; its x1.
pub fn must(which: Hypercall, args: [u64; 4]) -> u64 {
    let answer = hcall::call(which, args);
    if answer.x0 != 0 || answer.x1 < 0 {
        crate::println!("{}{args:x?} answered {answer:x?}", which.name());
        crate::check!(false, "{} succeeds", which.name());
    }
    answer.x1 as u64
}

/// The answer of a refusal.
#[must_use]
pub const fn refusal(code: Refusal) -> Answer {
    Answer { x0: 0, x1: code.code(), rest: [0; 4] }
}

/// One run of EL2's ownership table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First page.
    pub pfn: u64,
    /// Number of pages.
    pub nr: u64,
    /// The host's state.
    pub host: PageState,
    /// EL2's state.
    pub hyp: PageState,
    /// Share count.
    pub shares: u64,
    /// Pins.
    pub pins: u64,
}

/// Walks the ownership table, adjacent runs of one state joined.
pub fn audit_host(each: impl FnMut(Run)) {
    audit_from(0, u64::MAX, each);
}

/// As [`audit_host`], from page `first` to before page `end`; the last run may go on behind that.
pub fn audit_from(first: u64, end: u64, mut each: impl FnMut(Run)) {
    let mut at = first;
    let mut last: Option<Run> = None;
    // More calls than any machine here needs; a stream that does not end is a failure.
    for _ in 0..1_000_000 {
        let a = hcall::call(Hypercall::AuditHost, [at, 0, 0, 0]);
        if a.x1 < 0 {
            if let Some(run) = last {
                each(run);
            }
            if a != refusal(Refusal::NotFound) {
                crate::check!(false, "the audit of the host ends with -ENOENT, not {a:x?}");
            }
            return;
        }
        let [pfn, states, counts, next] = a.rest;
        let run = Run {
            pfn,
            nr: a.x1 as u64,
            host: PageState::from_bits(states),
            hyp: PageState::from_bits(states >> 8),
            shares: counts & 0xffff_ffff,
            pins: counts >> 32,
        };
        last = match last {
            Some(l) if (Run { pfn: l.pfn, nr: l.nr, ..run }) == l && l.pfn + l.nr == pfn => {
                Some(Run { nr: l.nr + run.nr, ..l })
            }
            Some(l) => {
                each(l);
                Some(run)
            }
            None => Some(run),
        };
        if next <= at && at != 0 {
            break;
        }
        at = next;
        if at >= end {
            if let Some(run) = last {
                each(run);
            }
            return;
        }
    }
    crate::check!(false, "the audit of the host makes progress");
}

/// Walks a VM's stage 2: (gfn, pfn, pages, attributes).
pub fn audit_vm(handle: u64, mut each: impl FnMut(u64, u64, u64, u64)) {
    let mut at = 0;
    for _ in 0..1_000_000 {
        let a = hcall::call(Hypercall::AuditVm, [handle, at, 0, 0]);
        if a.x1 < 0 {
            if a != refusal(Refusal::NotFound) {
                crate::check!(false, "the audit of a VM ends with -ENOENT, not {a:x?}");
            }
            return;
        }
        let [gfn, pfn, attrs, next] = a.rest;
        if a.x1 > 0 {
            each(gfn, pfn, a.x1 as u64, attrs);
        }
        if next <= at {
            break;
        }
        at = next;
    }
    crate::check!(false, "the audit of a VM makes progress");
}

/// A digest of everything that can be seen of EL2's state: the ownership table, and the stage 2 and
/// the table counts of each VM of `vms`.
#[must_use]
pub fn digest(vms: &[u64]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| {
        for byte in word.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    audit_host(|r| {
        mix(r.pfn);
        mix(r.nr);
        mix(r.host.bits() | r.hyp.bits() << 8);
        mix(r.shares | r.pins << 32);
    });
    for handle in vms {
        audit_vm(*handle, |gfn, pfn, nr, attrs| {
            mix(gfn);
            mix(pfn);
            mix(nr);
            mix(attrs);
        });
        let stats = hcall::call(Hypercall::VmStats, [*handle, 0, 0, 0]);
        mix(stats.x1 as u64);
        mix(stats.rest[0]);
        mix(stats.rest[1]);
    }
    hash
}

/// The state of one page.
#[must_use]
pub fn page_state(pfn: u64) -> Option<Run> {
    let mut found = None;
    audit_host(|r| {
        if (r.pfn..r.pfn + r.nr).contains(&pfn) {
            found = Some(r);
        }
    });
    found
}

/// A page that is in no RAM: the first there is, or the one after the last of RAM.
#[must_use]
pub fn no_ram() -> u64 {
    let (mut first, mut end) = (u64::MAX, 0);
    audit_host(|r| {
        first = first.min(r.pfn);
        end = r.pfn + r.nr;
    });
    if first > 0 { 0 } else { end }
}

/// A page of EL2's own, as the audit shows it.
#[must_use]
pub fn el2_pfn() -> u64 {
    let mut found = 0;
    audit_host(|r| {
        if r.host == PageState::NoPage && found == 0 {
            found = r.pfn;
        }
    });
    found
}
