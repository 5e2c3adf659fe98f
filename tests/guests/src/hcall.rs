//! Redan's hypercalls, raw: a test may put anything into the registers.

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

/// HVC #0 with this function id and x1..x4.
pub fn raw(id: u64, args: [u64; 4]) -> Answer {
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
