//! One instruction at a time: loads, stores, fetches and register accesses whose faults are
//! caught and returned.

use core::arch::asm;

use crate::trap::{self, Fault};

/// What an access gave: a value, or the exception that it took.
pub type Outcome<T = u64> = Result<T, Fault>;

macro_rules! access {
    ($(#[$doc:meta])* load $name:ident $insn:literal) => {
        $(#[$doc])*
        #[inline(never)]
        pub fn $name(addr: u64) -> Outcome {
            trap::arm();
            let value: u64;
            // SAFETY:
            // 1. The trap is armed: a fault is recorded and this one instruction skipped.
            // 2. A load changes no memory of ours; a device at `addr` is the caller's test subject.
            unsafe { asm!($insn, a = in(reg) addr, v = inout(reg) 0u64 => value, options(nostack)) }
            trap::disarm().map_or(Ok(value), Err)
        }
    };
    ($(#[$doc:meta])* store $name:ident $insn:literal) => {
        $(#[$doc])*
        #[inline(never)]
        pub fn $name(addr: u64, value: u64) -> Outcome<()> {
            trap::arm();
            // SAFETY:
            // 1. The trap is armed: a fault is recorded and this one instruction skipped.
            // 2. The payload is alone on its machine; the test chose an address that no Rust
            //    reference covers (a device, another's page, or its own arena).
            unsafe { asm!($insn, a = in(reg) addr, v = in(reg) value, options(nostack)) }
            trap::disarm().map_or(Ok(()), Err)
        }
    };
}

access! { /// LDRB.
load load8 "ldrb {v:w}, [{a}]" }
access! { /// LDRH.
load load16 "ldrh {v:w}, [{a}]" }
access! { /// LDR Wt.
load load32 "ldr {v:w}, [{a}]" }
access! { /// LDR Xt.
load load64 "ldr {v}, [{a}]" }
access! { /// LDRSB Xt.
load load8s "ldrsb {v}, [{a}]" }
access! { /// LDRSH Xt.
load load16s "ldrsh {v}, [{a}]" }
access! { /// LDRSW.
load load32s "ldrsw {v}, [{a}]" }
access! { /// LDAXR: an exclusive load.
load load_exclusive "ldaxr {v}, [{a}]" }
access! { /// LDP: two registers, so an abort's syndrome cannot describe it.
load load_pair "ldp {v}, xzr, [{a}]" }
access! { /// STRB.
store store8 "strb {v:w}, [{a}]" }
access! { /// STRH.
store store16 "strh {v:w}, [{a}]" }
access! { /// STR Wt.
store store32 "str {v:w}, [{a}]" }
access! { /// STR Xt.
store store64 "str {v}, [{a}]" }
access! { /// STP.
store store_pair "stp {v}, {v}, [{a}]" }

/// Calls `addr`; answers whether the fetch faulted. Whatever is there must return.
#[inline(never)]
pub fn fetch(addr: u64) -> Outcome<()> {
    trap::arm();
    // SAFETY:
    // 1. The trap is armed: an aborted fetch continues after the `blr`.
    // 2. If the fetch succeeds, the code there is the test's own and follows the C ABI.
    unsafe { asm!("blr {a}", a = in(reg) addr, clobber_abi("C"), options(nostack)) }
    trap::disarm().map_or(Ok(()), Err)
}

/// Executes one instruction without operands, given as assembly text.
#[macro_export]
macro_rules! try_insn {
    ($insn:expr) => {{
        $crate::trap::arm();
        // SAFETY:
        // 1. The trap is armed: an exception is recorded and the instruction skipped.
        // 2. The instruction changes nothing that Rust relies on (the test's choice).
        unsafe { core::arch::asm!($insn, options(nostack)) }
        $crate::trap::disarm().map_or(Ok(()), Err)
    }};
    ($insn:expr, $arg:expr) => {{
        let arg: u64 = $arg;
        $crate::trap::arm();
        // SAFETY:
        // 1. The trap is armed: an exception is recorded and the instruction skipped.
        // 2. The instruction changes nothing that Rust relies on (the test's choice).
        unsafe { core::arch::asm!($insn, in(reg) arg, options(nostack)) }
        $crate::trap::disarm().map_or(Ok(()), Err)
    }};
}

/// Reads a system register, catching the exception.
#[macro_export]
macro_rules! try_read {
    ($($reg:tt)+) => {{
        $crate::trap::arm();
        let value: u64;
        // SAFETY:
        // 1. The trap is armed: an exception is recorded and the instruction skipped.
        unsafe {
            core::arch::asm!(concat!("mrs {v}, ", $($reg)+), v = inout(reg) 0u64 => value, options(nostack));
        }
        $crate::trap::disarm().map_or(Ok(value), Err)
    }};
}

/// Reads a system register that is known to exist.
#[macro_export]
macro_rules! read {
    ($reg:literal) => {{
        let value: u64;
        // SAFETY:
        // 1. Reading this register has no side effect on memory.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $reg), out(reg) value, options(nostack)) }
        value
    }};
}

/// Writes a system register that is known to exist; ISB follows.
#[macro_export]
macro_rules! write {
    ($reg:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY:
        // 1. The payload owns its EL1; the value keeps what Rust code needs (map, stack, vectors).
        unsafe {
            core::arch::asm!(concat!("msr ", $reg, ", {}"), "isb", in(reg) value, options(nostack));
        }
    }};
}
