//! Exceptions taken to EL1. A test *arms* the trap, executes the one instruction that should
//! fault, and looks at what arrived: the handler records and steps over it. An exception nobody
//! waits for is a failure and ends the payload.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::cpu::{self, CPUS, PerCpu};
use crate::{gic, println, report};

/// Everything that `boot/guest.S` saves.
#[repr(C)]
pub struct Frame {
    /// x0..x30.
    pub x: [u64; 31],
    /// `ELR_EL1`.
    pub elr: u64,
    /// `SPSR_EL1`.
    pub spsr: u64,
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`.
    pub far: u64,
    _pad: u64,
}

/// Vector slot: synchronous, from EL1 on its own stack pointer.
pub const SYNC: u64 = 4;
/// Vector slot: IRQ from EL1.
pub const IRQ: u64 = 5;
/// Vector slot: FIQ from EL1.
pub const FIQ: u64 = 6;
/// Vector slot: synchronous, from EL0 in AArch64.
pub const SYNC_EL0: u64 = 8;

/// Exception classes (DDI0487 D24.2, `ESR_ELx`.EC).
pub mod ec {
    /// Unknown reason: undefined instruction.
    pub const UNDEF: u64 = 0x00;
    /// WFI or WFE trapped to EL1.
    pub const WFX: u64 = 0x01;
    /// FP or SIMD trapped by `CPACR_EL1`.
    pub const FP: u64 = 0x07;
    /// SVC.
    pub const SVC: u64 = 0x15;
    /// MRS, MSR or system instruction trapped.
    pub const SYSREG: u64 = 0x18;
    /// Instruction abort from EL0.
    pub const FETCH_EL0: u64 = 0x20;
    /// Instruction abort from EL1.
    pub const FETCH: u64 = 0x21;
    /// Data abort from EL1.
    pub const DATA: u64 = 0x25;
    /// BRK.
    pub const BRK: u64 = 0x3c;
}

/// Fault status code: synchronous external abort, not on a table walk.
pub const EXTERNAL: u64 = 0x10;
/// Fault status code: alignment fault.
pub const ALIGNMENT: u64 = 0x21;

/// An exception that was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Vector slot.
    pub kind: u64,
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`.
    pub far: u64,
    /// `ELR_EL1`.
    pub elr: u64,
}

impl Fault {
    /// Exception class.
    #[must_use]
    pub const fn ec(self) -> u64 {
        self.esr >> 26 & 0x3f
    }
    /// Fault status code of an abort.
    #[must_use]
    pub const fn fsc(self) -> u64 {
        self.esr & 0x3f
    }
    /// Write, not read (data aborts).
    #[must_use]
    pub const fn wnr(self) -> bool {
        self.esr & 1 << 6 != 0
    }
}

/// What one CPU waits for, and what came.
#[derive(Default)]
struct Trap {
    armed: AtomicBool,
    caught: AtomicBool,
    kind: AtomicU64,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
    /// Where to continue after the next caught exception; 0 = the next instruction.
    landing: AtomicU64,
}

static TRAP: PerCpu<Trap> = PerCpu(
    [const {
        Trap {
            armed: AtomicBool::new(false),
            caught: AtomicBool::new(false),
            kind: AtomicU64::new(0),
            esr: AtomicU64::new(0),
            far: AtomicU64::new(0),
            elr: AtomicU64::new(0),
            landing: AtomicU64::new(0),
        }
    }; CPUS],
);

/// From now on a synchronous exception is recorded and stepped over. An aborted instruction fetch
/// continues at x30.
pub fn arm() {
    TRAP.caught.store(false, Relaxed);
    TRAP.armed.store(true, Relaxed);
}

/// As [`arm`], but continues at `landing`, at EL1.
pub fn arm_landing(landing: u64) {
    TRAP.landing.store(landing, Relaxed);
    arm();
}

/// Ends what [`arm`] began: the first exception that came, if any.
pub fn disarm() -> Option<Fault> {
    TRAP.armed.store(false, Relaxed);
    TRAP.landing.store(0, Relaxed);
    TRAP.caught.load(Relaxed).then(|| Fault {
        kind: TRAP.kind.load(Relaxed),
        esr: TRAP.esr.load(Relaxed),
        far: TRAP.far.load(Relaxed),
        elr: TRAP.elr.load(Relaxed),
    })
}

/// Called by the vectors with the saved registers and the slot number.
pub extern "C" fn on_exception(frame: &mut Frame, kind: u64) {
    match kind {
        IRQ | FIQ => gic::on_interrupt(frame, kind == FIQ),
        _ if TRAP.armed.load(Relaxed) => caught(frame, kind),
        _ => {
            TRAP.armed.store(false, Relaxed);
            println!(
                "unexpected exception: vector {kind}, ESR {:#x}, FAR {:#x}, ELR {:#x}, CPU {}",
                frame.esr,
                frame.far,
                frame.elr,
                cpu::me()
            );
            report::abandon()
        }
    }
}

fn caught(frame: &mut Frame, kind: u64) {
    if !TRAP.caught.swap(true, Relaxed) {
        TRAP.kind.store(kind, Relaxed);
        TRAP.esr.store(frame.esr, Relaxed);
        TRAP.far.store(frame.far, Relaxed);
        TRAP.elr.store(frame.elr, Relaxed);
    }
    let class = frame.esr >> 26 & 0x3f;
    match TRAP.landing.load(Relaxed) {
        0 if class == ec::FETCH => frame.elr = frame.x[30],
        // SVC, HVC and SMC are taken with ELR already past them (DDI0487 D1.3.2).
        0 if matches!(class, 0x15..=0x17) => {}
        0 => frame.elr = frame.elr.wrapping_add(4),
        landing => {
            frame.elr = landing;
            frame.spsr = 0x3c5; // EL1h, all masked
        }
    }
}
