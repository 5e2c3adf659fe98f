//! The way to EL2 for everything above: counts each hypercall by kind and outcome.

use core::sync::atomic::{AtomicU64, Ordering};

use host_mirror::Hypercalls;
use hyp_abi::{Hypercall, Refusal, Ret};

use crate::arch::firmware;

const KINDS: usize = Hypercall::ALL.len();

/// Calls made, and calls that were not refused, for each row of the table.
static MADE: [AtomicU64; KINDS] = [const { AtomicU64::new(0) }; KINDS];
static GRANTED: [AtomicU64; KINDS] = [const { AtomicU64::new(0) }; KINDS];

/// EL2, by HVC.
#[derive(Clone, Copy)]
pub struct El2;

impl Hypercalls for El2 {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        let unknown = Ret { x1: Refusal::Invalid.code(), ..Ret::default() };
        let ret = firmware::hypercall(call, args).unwrap_or(unknown);
        MADE[row(call)].fetch_add(1, Ordering::Relaxed);
        if ret.x1 >= 0 {
            GRANTED[row(call)].fetch_add(1, Ordering::Relaxed);
        }
        ret
    }
}

/// The table is sorted and holds every call (a test of hyp-abi).
fn row(call: Hypercall) -> usize {
    Hypercall::ALL.binary_search(&call).unwrap_or_default()
}

/// How often each hypercall was made; those never made are left out.
pub fn made() -> impl Iterator<Item = (Hypercall, u64)> {
    let counts = MADE.iter().map(|n| n.load(Ordering::Relaxed));
    Hypercall::ALL.iter().copied().zip(counts).filter(|(_, n)| *n > 0)
}

/// How often EL2 did what a hypercall asked for.
pub fn granted(call: Hypercall) -> u64 {
    GRANTED[row(call)].load(Ordering::Relaxed)
}
