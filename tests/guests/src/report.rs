//! The verdict. Each check prints one line; the payload ends with a count and a status.
//!
//! Where the command line contains `verdict=semihosting` (our own payload alone under QEMU) the
//! status is QEMU's exit status. Otherwise the last console line is the verdict and the machine is
//! switched off by PSCI. EL2's test hosts always use semihosting: they have no shim above them.

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{machine, println, psci};

static PASSED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);
static BY_STATUS: AtomicU64 = AtomicU64::new(0);

/// Notes the result of one check.
pub fn check(ok: bool, sentence: core::fmt::Arguments<'_>) {
    if ok {
        PASSED.fetch_add(1, Relaxed);
        println!("  ok    {sentence}");
    } else {
        FAILED.fetch_add(1, Relaxed);
        println!("  FAIL  {sentence}");
    }
}

/// How many checks failed so far.
#[must_use]
pub fn failures() -> u64 {
    FAILED.load(Relaxed)
}

/// `check!(condition, "what is true", ...)`: one line, counted.
#[macro_export]
macro_rules! check {
    ($cond:expr, $($sentence:tt)+) => {
        $crate::report::check($cond, format_args!($($sentence)+))
    };
}

/// `check_eq!(found, expected, "what is true")`: prints both when they differ.
#[macro_export]
macro_rules! check_eq {
    ($found:expr, $expected:expr, $($sentence:tt)+) => {{
        let (found, expected) = (&$found, &$expected);
        let equal = found == expected;
        $crate::report::check(equal, format_args!($($sentence)+));
        if !equal {
            $crate::println!("        found {found:x?}, expected {expected:x?}");
        }
    }};
}

/// Ends the payload with its verdict.
pub fn finish(name: &str) -> ! {
    let (passed, failed) = (PASSED.load(Relaxed), FAILED.load(Relaxed));
    if failed == 0 {
        println!("{name}: ok, {passed} checks");
    } else {
        println!("{name}: FAILED, {failed} of {} checks", passed + failed);
    }
    end(u64::from(failed != 0))
}

/// Ends the payload at once, as failed.
pub fn abandon() -> ! {
    println!("FAILED: gave up");
    end(2)
}

/// The verdict is always QEMU's exit status: for test hosts, which nobody runs above them.
pub fn by_exit_status() {
    BY_STATUS.store(1, Relaxed);
}

fn end(status: u64) -> ! {
    if machine::get().semihosting || BY_STATUS.load(Relaxed) != 0 {
        exit(status);
    }
    psci::system_off();
    loop {
        // SAFETY:
        // 1. Waits; touches nothing.
        unsafe { asm!("wfi", options(nomem, nostack)) }
    }
}

/// Semihosting `SYS_EXIT_EXTENDED`: QEMU ends with this status. Returns (by way of an undefined
/// instruction) where semihosting is off.
pub fn exit(status: u64) {
    const SYS_EXIT_EXTENDED: u64 = 0x20;
    const APPLICATION_EXIT: u64 = 0x2_0026;
    let block = [APPLICATION_EXIT, status];
    crate::trap::arm();
    // SAFETY:
    // 1. QEMU reads `block` and ends, or HLT is undefined and the armed trap steps over it.
    unsafe {
        asm!("hlt #0xf000", inout("x0") SYS_EXIT_EXTENDED => _, in("x1") &raw const block, options(nostack));
    }
    crate::trap::disarm();
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    exit(101);
    end(101)
}
