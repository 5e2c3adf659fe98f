//! The end: EL2 found a bug of its own.
//!
//! Says so without a lock, then turns the machine off, or stops. Nothing of EL1 runs again: the
//! state that isolates it is in doubt. Where the machine cannot be turned off, other CPUs stop as soon
//! as they come to EL2 ([`park_if_over`]).

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::arch::vectors::Frame;
use crate::arch::{boot, percpu, pm, smc, sysreg};
use crate::console::Raw;

/// What a debugger finds when there is no console: the beginning of the first panic's message.
#[used]
static EPITAPH: [AtomicU8; 256] = [const { AtomicU8::new(0) }; 256];

/// Writes to [`EPITAPH`], as far as it goes.
struct Epitaph(usize);

impl Write for Epitaph {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            EPITAPH.get(self.0).ok_or(fmt::Error)?.store(byte, Ordering::Relaxed);
            self.0 += 1;
        }
        Ok(())
    }
}

/// How many panics there were: a panic inside a panic says less, and the third nothing.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Stops this CPU if EL2 has panicked on another.
pub fn park_if_over() {
    if DEPTH.load(Ordering::Relaxed) > 0 {
        sysreg::park();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match DEPTH.fetch_add(1, Ordering::Relaxed) {
        // Neither can fail in a way that matters here.
        0 => {
            let _ = write!(Epitaph(0), "{info}");
            let _ = writeln!(Raw, "\n[EL2] {info}");
        }
        1 => {
            let _ = writeln!(Raw, "\n[EL2] panicked at a panic");
        }
        _ => sysreg::park(),
    }
    stop()
}

/// Turns the machine off if the firmware or the board can, else stops this CPU.
pub fn stop() -> ! {
    smc::system_off();
    pm::system_off();
    sysreg::park()
}

/// An exception that EL2 took from itself.
pub fn from_el2(kind: u64, frame: &Frame, sp: u64, esr: u64, far: u64) -> ! {
    let kind = ["synchronous exception", "IRQ", "FIQ", "SError"].get(kind as usize).unwrap_or(&"?");
    let _ = writeln!(Raw, "\n[EL2] {kind} in EL2: ESR {esr:#x} FAR {far:#x} SP {sp:#x}");
    let _ = writeln!(Raw, "[EL2] ELR {:#x} SPSR {:#x}", frame.elr, frame.spsr);
    for (n, four) in frame.gpr.chunks(4).enumerate() {
        let _ = write!(Raw, "[EL2] x{:<2}", 4 * n);
        for register in four {
            let _ = write!(Raw, " {register:016x}");
        }
        let _ = writeln!(Raw);
    }
    let (guard_end, _) = boot::stack(percpu::number());
    if (guard_end.saturating_sub(hyp_abi::PAGE_SIZE)..guard_end).contains(&far) {
        panic!("stack overflow");
    }
    panic!("unexpected exception");
}
