//! Reports an exception and ends the machine: none is expected at EL1.
//!
//! Interrupts are polled (see `gic`), so even an IRQ here is a bug. An abort that EL2 injects,
//! because the host touched what is not its own, arrives like any other.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{ELR_EL1, ESR_EL1, FAR_EL1, Readable, SPSR_EL1};

use super::{barrier, firmware};

/// x0..x30 and the stack pointer, as boot/el1_vectors.S stores them.
#[repr(C)]
struct Frame {
    x: [u64; 31],
    sp: u64,
}

const _: () = assert!(size_of::<Frame>() == 256);

/// The CPU that reports, plus one.
static REPORTER: AtomicU64 = AtomicU64::new(NOBODY);
const NOBODY: u64 = 0;
/// Exceptions that it has taken.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// Bits of a syndrome that say what happened (DDI0487 D24.2.40).
const EC_SHIFT: u64 = 26;
const EC_UNKNOWN: u64 = 0x00;

fn class(esr: u64) -> &'static str {
    match esr >> EC_SHIFT & 0x3f {
        EC_UNKNOWN => "undefined instruction",
        0x07 => "floating point (never used here)",
        0x15 => "supervisor call",
        0x16 => "hypervisor call refused",
        0x17 => "secure monitor call refused",
        0x18 => "system register access refused",
        0x20 | 0x21 => "instruction abort",
        0x22 => "misaligned pc",
        0x24 | 0x25 => "data abort",
        0x26 => "misaligned stack pointer",
        0x2f => "system error",
        0x3c => "breakpoint instruction",
        _ => "exception of another class",
    }
}

/// What the fault status of an abort means; others have none.
fn abort_reason(esr: u64) -> &'static str {
    if !matches!(esr >> EC_SHIFT & 0x3f, 0x20 | 0x21 | 0x24 | 0x25) {
        return "";
    }
    match esr & 0x3f {
        0x04..=0x07 => ": nothing is mapped there",
        0x09..=0x0b => ": access flag",
        0x0d..=0x0f => ": permission",
        0x10 => ": refused by EL2 or by the bus",
        0x14..=0x17 => ": refused by EL2 or by the bus, in a table walk",
        0x21 => ": misaligned",
        _ => "",
    }
}

/// Entered from the vectors, on the exception stack.
#[unsafe(no_mangle)]
extern "C" fn el1_exception(kind: u64, frame: &Frame) -> ! {
    let own = super::boot::own_mpidr() + 1;
    let first = REPORTER.compare_exchange(NOBODY, own, Ordering::Relaxed, Ordering::Relaxed);
    if first.is_err_and(|reporter| reporter != own) {
        // Another CPU is about to say why the machine ends; if this one ended it, nobody would.
        barrier::park();
    }
    match TAKEN.fetch_add(1, Ordering::Relaxed) {
        0 => {}
        // The report itself faulted: a second one would only fault again.
        1 => firmware::power_off(),
        // So did the way out.
        _ => barrier::park(),
    }
    crate::console::emergency_line();
    let (esr, elr) = (ESR_EL1.get(), ELR_EL1.get());
    if kind & 3 == 0 && firmware::probing() && esr >> EC_SHIFT & 0x3f == EC_UNKNOWN {
        crate::console::emergency(format_args!("[host] error: {}\n", firmware::NO_EL2));
        firmware::power_off();
    }
    let what = match kind & 3 {
        0 => class(esr),
        1 => "interrupt, though all are masked",
        2 => "fast interrupt, though all are masked",
        _ => "system error",
    };
    let far = FAR_EL1.get();
    if super::boot::layout().is_guard(far) {
        crate::console::emergency(format_args!("[host] the stack has run into its guard page\n"));
    }
    crate::console::emergency(format_args!(
        "[host] exception {kind}: {what}{}\n\
         [host]   ESR {esr:#010x} FAR {far:#018x} ELR {elr:#018x} (image + {:#x}) SPSR {:#x} SP {:#x}\n",
        abort_reason(esr),
        elr.wrapping_sub(super::boot::layout().start),
        SPSR_EL1.get(),
        frame.sp,
    ));
    for (i, four) in frame.x.chunks(4).enumerate() {
        crate::console::emergency(format_args!("[host]   x{:<2}", i * 4));
        for x in four {
            crate::console::emergency(format_args!(" {x:016x}"));
        }
        crate::console::emergency(format_args!("\n"));
    }
    barrier::dsb();
    panic!("an exception was taken at EL1");
}
