//! Exceptions from EL1: out of the frame, into the core, back into the frame.
//!
//! Knows which exception goes where. Must not know registers but by name in [`crate::arch`]. The
//! host is hostile: whatever is not understood becomes an Undefined Instruction exception for it, at
//! its own vector, and never an error of EL2's.

use hyp_abi::{Hypercall, Ipa, Ret, hcall};
use hyp_core::esr::{Abort, Esr, Fault, Syndrome, SysregAccess};
use hyp_core::inject::{self, Before, Cause};
use hyp_core::{GuestNext, HostAbort, Outcome};

use crate::arch::percpu::PerCpu;
use crate::arch::vectors::Frame;
use crate::arch::{cpu, fp, idreg, switch};
#[cfg(not(feature = "oracle"))]
use crate::el2::hyp;
#[cfg(feature = "oracle")]
use crate::oracle::judged as hyp;
use crate::{el2, panic, smp};

/// A synchronous exception of the host.
pub fn host_sync(cpu: &mut PerCpu, frame: &mut Frame, esr: Esr, far: u64, hpfar: u64) {
    panic::park_if_over();
    match esr.decode() {
        Syndrome::Hvc(0) => hypercall(cpu, frame),
        // SMCCC defines immediate 0 only.
        Syndrome::Hvc(_) => frame.gpr[0] = hcall::NOT_SUPPORTED,
        Syndrome::Smc(imm) => {
            let [x0, x1, x2, x3, ..] = frame.gpr;
            let x0 = smp::firmware_call(cpu, imm, [x0, x1, x2, x3]);
            frame.gpr[..4].copy_from_slice(&[x0, 0, 0, 0]);
            skip(frame, esr);
        }
        Syndrome::DataAbort(data) => abort(cpu, frame, esr, &data.abort, far, hpfar),
        Syndrome::InstructionAbort(fetch) => abort(cpu, frame, esr, &fetch, far, hpfar),
        Syndrome::Fp if cpu.fp_is_guests => fp_to_host(cpu),
        Syndrome::Sysreg(access) => system_register(cpu, frame, esr, &access),
        _ if !esr.condition_passed(frame.spsr) => skip(frame, esr),
        _ => take(cpu, frame, Cause::Undefined),
    }
}

fn hypercall(cpu: &mut PerCpu, frame: &mut Frame) {
    let [x0, x1, x2, x3, x4, ..] = frame.gpr;
    if Hypercall::from_function_id(x0) == Some(Hypercall::VcpuPut) {
        fp_to_host(cpu);
    }
    let (status, ret) = match hyp().hypercall(&mut cpu.local, [x0, x1, x2, x3, x4]) {
        Outcome::NotSupported => (hcall::NOT_SUPPORTED, Ret::default()),
        Outcome::Ret(ret) => (0, ret),
        Outcome::Run => (0, run(cpu)),
    };
    frame.gpr[..6].copy_from_slice(&[status, ret.x1 as u64, ret.x2, ret.x3, ret.x4, ret.x5]);
}

/// Runs the loaded vCPU until the core says that the host must see to something.
fn run(cpu: &mut PerCpu) -> Ret {
    fp_of_reset(cpu);
    let mut host = switch::leave_host(&cpu.traps);
    let ret = loop {
        let (Some(regime), Some(ctx)) = (cpu.local.regime(), cpu.local.context()) else {
            panic!("the core runs a vCPU that is not loaded");
        };
        let (traps, fp) = (&cpu.traps, cpu.fp_is_guests);
        let raw = switch::run(ctx, regime, traps, el2::vgic(), fp, &mut host);
        panic::park_if_over();
        match hyp().guest_exit(&mut cpu.local, raw) {
            GuestNext::Resume => {}
            GuestNext::Fp => fp_to_guest(cpu),
            GuestNext::Exit(ret) => break ret,
        }
    };
    switch::back_to_host(&host, &cpu.traps, !cpu.fp_is_guests);
    ret
}

/// The loaded vCPU begins afresh: so do its FP registers, if the CPU has them.
fn fp_of_reset(cpu: &mut PerCpu) {
    if let Some(ctx) = cpu.local.context()
        && core::mem::take(&mut ctx.fp_reset)
        && cpu.fp_is_guests
    {
        cpu::open_fp();
        fp::load(&ctx.fp);
    }
}

/// The loaded vCPU uses floating point.
fn fp_to_guest(cpu: &mut PerCpu) {
    if let (false, Some(ctx)) = (cpu.fp_is_guests, cpu.local.context()) {
        cpu::open_fp();
        fp::swap(&mut cpu.host_fp, &ctx.fp);
        cpu.fp_is_guests = true;
    }
}

/// The host uses floating point, or the vCPU that has the registers is about to go.
fn fp_to_host(cpu: &mut PerCpu) {
    if let (true, Some(ctx)) = (cpu.fp_is_guests, cpu.local.context()) {
        cpu::open_fp();
        fp::swap(&mut ctx.fp, &cpu.host_fp);
        cpu.fp_is_guests = false;
    }
}

/// A stage-2 abort. The host's leaves have all the rights it can get, so only a missing one is
/// anything that EL2 can help with.
fn abort(cpu: &mut PerCpu, frame: &mut Frame, esr: Esr, abort: &Abort, far: u64, hpfar: u64) {
    let page = match abort.fault {
        Fault::Translation(_) => abort.ipa(hpfar, far).and_then(Ipa::new),
        _ => None,
    };
    let answer = page.map(|ipa| hyp().host_abort(&mut cpu.local, ipa));
    if answer != Some(HostAbort::Retry) {
        take(cpu, frame, Cause::Refused { esr, far });
    }
}

/// The host's system registers are its own but for ID registers, which hide what EL2 does not
/// switch.
fn system_register(cpu: &PerCpu, frame: &mut Frame, esr: Esr, access: &SysregAccess) {
    if !access.enc.is_feature_id() || !access.read {
        return take(cpu, frame, Cause::Undefined);
    }
    if let Some(register) = frame.gpr.get_mut(usize::from(access.rt)) {
        *register = idreg::for_host(access.enc);
    }
    skip(frame, esr);
}

/// Past the trapped instruction.
fn skip(frame: &mut Frame, esr: Esr) {
    (frame.elr, frame.spsr) = inject::skip(frame.elr, frame.spsr, esr.instruction_bytes());
}

/// Lets the host take an exception at its EL1.
fn take(cpu: &PerCpu, frame: &mut Frame, cause: Cause) {
    let (vbar, sctlr) = switch::el1::vectors();
    let (pc, pstate) = (frame.elr, frame.spsr);
    let entry = inject::take(&Before { pc, pstate, vbar, sctlr, features: cpu.at_el1 }, cause);
    switch::el1::enter(&entry);
    (frame.elr, frame.spsr) = (entry.pc, entry.pstate);
}
