//! What each CPU has to itself, found by its number.

use core::cell::UnsafeCell;

use aarch64_cpu::registers::TPIDR_EL2;
use hyp_core::CpuLocal;
use hyp_core::inject;
use hyp_core::speculation::Speculation;
use hyp_core::vcpu::Fp;
use tock_registers::interfaces::Readable;

use super::boot;
use super::cpu::Traps;

/// CPUs that EL2 runs on.
pub const CPUS: usize = hyp_core::MAX_CPUS;

/// State of one CPU.
pub struct PerCpu {
    /// The core's part.
    pub local: CpuLocal,
    /// Trap settings.
    pub traps: Traps,
    /// What an exception at EL1 does to PSTATE.
    pub at_el1: inject::Features,
    /// What EL1 is told about speculation.
    pub speculation: Speculation,
    /// The host's FP registers, while a guest has them.
    pub host_fp: Fp,
    /// The FP registers are the loaded vCPU's.
    pub fp_is_guests: bool,
}

struct Slot(UnsafeCell<Option<PerCpu>>);

// SAFETY: 1. Each CPU uses its own slot only, and has one way in ([`with`]).
unsafe impl Sync for Slot {}

static SLOTS: [Slot; CPUS] = [const { Slot(UnsafeCell::new(None)) }; CPUS];

/// Number of this CPU, from 0. TPIDR_EL2 is EL2's own, and holds where the CPU's stacks are.
pub fn number() -> usize {
    (TPIDR_EL2.get() / boot::STACKS) as usize
}

/// Sets this CPU's state up, whenever it comes up; the core's part is made the first time.
///
/// # Safety
/// No [`with`] is going on on this CPU.
pub unsafe fn init(traps: Traps, at_el1: inject::Features, speculation: Speculation) {
    let number = number();
    let Some(slot) = SLOTS.get(number) else { return };
    // SAFETY: 1. Only this CPU uses the slot, 2. and the caller says that it does not now.
    let state = unsafe { &mut *slot.0.get() };
    let local = state.take().map_or_else(|| CpuLocal::new(number), |before| before.local);
    let host_fp = Fp::default();
    *state = Some(PerCpu { local, traps, at_el1, speculation, host_fp, fp_is_guests: false });
}

/// Uses this CPU's state.
///
/// # Safety
/// Called once for each exception from a lower level: EL2 takes no exception from itself and
/// returns from it, so two uses never overlap.
pub unsafe fn with<X>(f: impl FnOnce(&mut PerCpu) -> X) -> X {
    let slot = SLOTS.get(number()).expect("CPU number");
    // SAFETY: 1. Only this CPU uses the slot, 2. and the caller says that it does not now.
    let state = unsafe { &mut *slot.0.get() };
    f(state.as_mut().expect("CPU state"))
}
