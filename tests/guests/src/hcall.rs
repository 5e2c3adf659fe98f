//! Redan's hypercalls, raw: a test may put anything into the registers.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyp_abi::Hypercall;

use crate::psci;

/// x0..x5 after a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// SMCCC status.
    pub x0: u64,
    /// Result: a value or a negative refusal.
    pub x1: i64,
    /// x2..x5.
    pub rest: [u64; 4],
}

/// Calls made so far, but for those that only read.
static MADE: AtomicU64 = AtomicU64::new(0);

/// How many calls were made that may have changed something.
#[must_use]
pub fn made() -> u64 {
    MADE.load(Relaxed)
}

/// HVC #0 with this function id and x1..x4.
pub fn raw(id: u64, args: [u64; 4]) -> Answer {
    let reads = [Hypercall::AuditHost, Hypercall::AuditVm, Hypercall::VmStats];
    if !reads.iter().any(|call| call.function_id() == id) {
        MADE.fetch_add(1, Relaxed);
    }
    let mut regs = [0; 18];
    regs[0] = id;
    regs[1..5].copy_from_slice(&args);
    psci::hvc(&mut regs);
    Answer { x0: regs[0], x1: regs[1] as i64, rest: [regs[2], regs[3], regs[4], regs[5]] }
}

/// A hypercall of the table.
pub fn call(which: Hypercall, args: [u64; 4]) -> Answer {
    raw(which.function_id(), args)
}
