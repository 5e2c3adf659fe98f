//! Exception vectors (boot/vectors.S), the frame they save, and where they lead.

use core::arch::global_asm;
use core::mem::offset_of;

use aarch64_cpu::registers::{ESR_EL2, FAR_EL2, HPFAR_EL2};
use hyp_core::esr::Esr;
use hyp_core::inject::pstate;
use hyp_core::speculation::workaround;
use hyp_core::vcpu::Context;
use tock_registers::interfaces::Readable;

use super::{boot, percpu, switch};
use crate::{panic, trap};

/// The registers of whoever was interrupted, as the vectors save and load them.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct Frame {
    /// x0..x30.
    pub gpr: [u64; 31],
    /// ELR_EL2.
    pub elr: u64,
    /// SPSR_EL2.
    pub spsr: u64,
}

const _: () = assert!(size_of::<Frame>() == 272);
const _: () = assert!(offset_of!(Frame, spsr) == offset_of!(Frame, elr) + 8);

global_asm!(
    include_str!("../../../boot/vectors.S"),
    FRAME_SIZE = const size_of::<Frame>(),
    FRAME_GPR = const offset_of!(Frame, gpr),
    FRAME_ELR = const offset_of!(Frame, elr),
    CTX_GPR = const offset_of!(Context, gpr),
    EXIT_SYNC = const switch::EXIT_SYNC,
    EXIT_IRQ = const switch::EXIT_IRQ,
    EXIT_SERROR = const switch::EXIT_SERROR,
    HOST_SYNC = sym host_sync,
    HOST_ASYNC = sym host_async,
    FROM_EL2 = sym from_el2,
    BRANCH_TARGETS = const workaround::BRANCH_TARGETS,
    BRANCH_HISTORY = const workaround::BRANCH_HISTORY,
);

unsafe extern "C" {
    static hyp_vector_host: u8;
    static hyp_vector_guest: u8;
    static hyp_vector_host_targets: u8;
    static hyp_vector_guest_targets: u8;
    static hyp_vector_host_history: u8;
    static hyp_vector_guest_history: u8;
    fn hyp_host_first_entry(frame: *const Frame, stack_top: u64) -> !;
}

/// VBAR_EL2 while the host runs, and in EL2, on a CPU where EL2 must call this function of the
/// firmware's when it is entered.
pub fn host(at_entry: Option<u32>) -> u64 {
    let table = match at_entry {
        Some(workaround::BRANCH_TARGETS) => &raw const hyp_vector_host_targets,
        Some(workaround::BRANCH_HISTORY) => &raw const hyp_vector_host_history,
        _ => &raw const hyp_vector_host,
    };
    table as u64
}

/// VBAR_EL2 while a guest runs; as [`host`].
pub fn guest(at_entry: Option<u32>) -> u64 {
    let table = match at_entry {
        Some(workaround::BRANCH_TARGETS) => &raw const hyp_vector_guest_targets,
        Some(workaround::BRANCH_HISTORY) => &raw const hyp_vector_guest_history,
        _ => &raw const hyp_vector_guest,
    };
    table as u64
}

/// Leaves for EL1h, for the first time, as the arm64 boot protocol says; the stack is abandoned.
///
/// # Safety
/// Everything that lower levels must not reach is behind the host's stage 2, which is on.
pub unsafe fn enter_host(pc: u64, x0: u64) -> ! {
    let mut frame = Frame { gpr: [0; 31], elr: pc, spsr: pstate::DAIF | pstate::EL1H };
    frame.gpr[0] = x0;
    let (_, top) = boot::stack(percpu::number());
    // SAFETY:
    // 1. `top` is this CPU's stack; the frame lies below it and is copied upward, last word first.
    // 2. Nothing on the stack is needed again; 3. the caller vouches for EL1.
    unsafe { hyp_host_first_entry(&raw const frame, top) }
}

/// A synchronous exception from the host.
extern "C" fn host_sync(frame: &mut Frame) {
    let (esr, far, hpfar) = (Esr::new(ESR_EL2.get()), FAR_EL2.get(), HPFAR_EL2.get());
    // SAFETY: 1. This is the one use for this exception.
    unsafe { percpu::with(|cpu| trap::host_sync(cpu, frame, esr, far, hpfar)) }
}

/// An interrupt or SError while the host runs: HCR_EL2 routes none to EL2 then.
extern "C" fn host_async(frame: &mut Frame) {
    panic!("interrupt or SError routed to EL2 from {:#x}", frame.elr);
}

/// An exception taken from EL2.
extern "C" fn from_el2(kind: u64, frame: &Frame, sp: u64) -> ! {
    panic::from_el2(kind, frame, sp, ESR_EL2.get(), FAR_EL2.get())
}
