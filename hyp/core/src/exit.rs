//! After the guest ran: why it left, and what becomes of it.
//!
//! Knows: which exits EL2 answers by itself, and what the host is told of the others. Must not
//! know how the guest's registers were saved.

use hyp_abi::run::{self, Exit, exit_flags};
use hyp_abi::{Ipa, PAGE_SIZE, Ret};

use crate::bits::{flag, union};
use crate::board::Board;
use crate::cpu::{CpuLocal, ExitKind, GuestNext, RawExit};
use crate::debug::MDSCR_MASK;
use crate::entry::{abort, external_abort, skip, take};
use crate::esr::{Abort, DataAbort, Esr, Fault, Syndrome, SysregAccess};
use crate::hcall::DONE;
use crate::hyp::Hyp;
use crate::inject::{Cause, Status};
use crate::machine::{Frames, Machine};
use crate::psci::status::NOT_SUPPORTED;
use crate::sysreg::SysregAction;
use crate::vcpu::{Latched, Vcpu};

/// What a classified exit leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Enter the guest again.
    Resume,
    /// Enter it with its FP registers.
    Fp,
    /// The access flag of this page is wanted.
    Young(Ipa),
    /// The VM's TLB entries contradict each other.
    Flush,
    /// The host must see to it.
    Leave(Exit, Ret),
}

impl<M: Machine> Hyp<M> {
    pub(crate) fn exit(&self, cpu: &mut CpuLocal, raw: RawExit) -> GuestNext {
        let Some(loaded) = cpu.loaded.as_mut() else {
            // Nothing runs that was not loaded; still, an exit without a guest ends the run.
            return GuestNext::Exit(reason(Exit::Illegal, DONE));
        };
        match classify(&mut loaded.vcpu, &self.board, raw) {
            Next::Resume => GuestNext::Resume,
            Next::Fp => GuestNext::Fp,
            Next::Young(ipa) => {
                if let Ok(slot) = self.slot(loaded.handle) {
                    let (mut slot, _held) = slot.lock(&mut cpu.locks);
                    if let Ok(vm) = slot.vm(loaded.handle) {
                        // If the page has gone meanwhile, the guest's next try tells.
                        vm.map.mkyoung(self.pages().mmu(), ipa.frame());
                    }
                }
                GuestNext::Resume
            }
            Next::Flush => {
                self.machine.inval_vmid(loaded.regime);
                GuestNext::Resume
            }
            Next::Leave(why, ret) => {
                tell(&self.machine, &loaded.vcpu, why);
                GuestNext::Exit(reason(why, ret))
            }
        }
    }

    pub(crate) fn write_context(&self, vcpu: &Vcpu) {
        let write = |index, value| self.machine.write(vcpu.run_page, index, value);
        for (n, reg) in vcpu.ctx.gpr.iter().enumerate() {
            write(run::CTX.saturating_add(n), *reg);
        }
        write(run::CTX_SP_EL0, vcpu.ctx.sp_el0);
        write(run::CTX_PC, vcpu.ctx.pc);
        write(run::CTX_PSTATE, vcpu.ctx.pstate);
        for (n, reg) in vcpu.ctx.sys.to_words().into_iter().enumerate() {
            write(run::CTX_SYSREGS.saturating_add(n), reg);
        }
    }
}

fn reason(why: Exit, ret: Ret) -> Ret {
    Ret { x1: why as i64, ..ret }
}

/// Writes the exit words of the run page.
fn tell<F: Frames>(frames: &F, vcpu: &Vcpu, why: Exit) {
    let write = |index, value| frames.write(vcpu.run_page, index, value);
    let ctx = &vcpu.ctx;
    if matches!(why, Exit::Hvc | Exit::Smc) {
        for (n, reg) in ctx.gpr.iter().take(8).enumerate() {
            write(run::EXIT_GPR.saturating_add(n), *reg);
        }
    }
    let used = usize::try_from(ctx.vgic.used).unwrap_or(0);
    for (n, lr) in ctx.vgic.lr.iter().take(used).enumerate() {
        write(run::LR.saturating_add(n), *lr);
    }
    write(run::VGIC_MISR, ctx.vgic.misr);
    write(run::TIMER_CTL, ctx.timer.ctl);
    write(run::TIMER_CVAL, ctx.timer.cval);
    write(run::EXIT_PC, ctx.pc);
    write(run::EXIT_PSTATE, ctx.pstate);
}

fn classify(vcpu: &mut Vcpu, board: &Board, raw: RawExit) -> Next {
    let syndrome = Ret { x2: raw.esr, ..DONE };
    match raw.kind {
        ExitKind::Irq => Next::Leave(Exit::Irq, DONE),
        ExitKind::SError => Next::Leave(Exit::SError, syndrome),
        ExitKind::Sync => classify_sync(vcpu, board, raw),
    }
}

fn classify_sync(vcpu: &mut Vcpu, board: &Board, raw: RawExit) -> Next {
    let esr = Esr::new(raw.esr);
    let ctx = &mut vcpu.ctx;
    let leave = |why| Next::Leave(why, Ret { x2: raw.esr, ..DONE });
    if !esr.condition_passed(ctx.pstate) {
        skip(ctx, esr.instruction_bytes());
        return Next::Resume;
    }
    match esr.decode() {
        Syndrome::Fp => Next::Fp,
        Syndrome::Wfx(_) => {
            skip(ctx, esr.instruction_bytes());
            leave(Exit::Wfx)
        }
        // The CPU has advanced pc past an HVC, and not past a trapped SMC (DDI0487 D1.3.6).
        Syndrome::Hvc(0) => call(vcpu, board, leave(Exit::Hvc)),
        Syndrome::Smc(0) => {
            skip(ctx, esr.instruction_bytes());
            call(vcpu, board, leave(Exit::Smc))
        }
        // SMCCC 2.9: other immediates are nobody's.
        Syndrome::Hvc(_) => {
            ctx.set_gpr(0, NOT_SUPPORTED);
            Next::Resume
        }
        Syndrome::Smc(_) => {
            skip(ctx, esr.instruction_bytes());
            ctx.set_gpr(0, NOT_SUPPORTED);
            Next::Resume
        }
        Syndrome::Sysreg(access) => sysreg(vcpu, board, raw, access),
        Syndrome::InstructionAbort(abort) => {
            let x5 = union(&[abort_flags(&abort), exit_flags::FETCH]);
            stage2(vcpu, board, raw, &abort, Ret { x5, ..DONE })
        }
        Syndrome::DataAbort(data) => {
            let (x4, x5) = described(vcpu, &data);
            stage2(vcpu, board, raw, &data.abort, Ret { x4, x5, ..DONE })
        }
        Syndrome::SError => leave(Exit::SError),
        Syndrome::IllegalState | Syndrome::Call32 | Syndrome::FromEl2(_) => leave(Exit::Illegal),
        // Instructions of features that a guest does not have.
        Syndrome::Unknown
        | Syndrome::Cp32
        | Syndrome::Vector
        | Syndrome::PointerAuth
        | Syndrome::Other(_) => {
            take(ctx, Cause::Undefined, board.features);
            Next::Resume
        }
    }
}

/// A call that is the host's to answer, unless it is about the CPU.
fn call(vcpu: &mut Vcpu, board: &Board, leave: Next) -> Next {
    match board.speculation.answer(vcpu.ctx.gpr(0), vcpu.ctx.gpr(1)) {
        Some(x0) => {
            vcpu.ctx.set_gpr(0, x0);
            Next::Resume
        }
        None => {
            vcpu.latched = Latched::Call;
            leave
        }
    }
}

fn sysreg(vcpu: &mut Vcpu, board: &Board, raw: RawExit, access: SysregAccess) -> Next {
    let ctx = &mut vcpu.ctx;
    let read = match board.view.trap(access.enc, access.read) {
        SysregAction::Id => board.view.id_register(access.enc, board.id_value(access.enc)),
        SysregAction::Value(value) => value,
        SysregAction::RazWi => 0,
        SysregAction::Mdscr => {
            if !access.read {
                ctx.sys.mdscr_el1 = ctx.gpr(access.rt) & MDSCR_MASK;
            }
            ctx.sys.mdscr_el1
        }
        SysregAction::Debug(register) => {
            if !access.read {
                ctx.debug.write(register, ctx.gpr(access.rt));
            }
            ctx.debug.read(register)
        }
        SysregAction::Undef => {
            take(ctx, Cause::Undefined, board.features);
            return Next::Resume;
        }
        SysregAction::ToHost => {
            let x4 = if access.read { 0 } else { ctx.gpr(access.rt) };
            let x5 = flag(access.read, exit_flags::SYSREG_READ);
            vcpu.latched = Latched::Sysreg { esr: Esr::new(raw.esr), access };
            return Next::Leave(Exit::Sysreg, Ret { x2: raw.esr, x4, x5, ..DONE });
        }
    };
    if access.read {
        ctx.set_gpr(access.rt, read);
    }
    skip(ctx, Esr::new(raw.esr).instruction_bytes());
    Next::Resume
}

/// A fault of stage 2, or an error of the memory itself.
fn stage2(vcpu: &mut Vcpu, board: &Board, raw: RawExit, abort: &Abort, ret: Ret) -> Next {
    let esr = Esr::new(raw.esr);
    match abort.fault {
        Fault::Translation(_)
        | Fault::Permission(_)
        | Fault::AddressSize(_)
        | Fault::AccessFlag(_) => {}
        // Two entries for one address of the VM, whoever made them: with none it goes on.
        Fault::TlbConflict => return Next::Flush,
        // Not ours to answer: the guest sees what it would see without us.
        Fault::Alignment => return own_abort(vcpu, board, raw, Status::Alignment),
        Fault::UnsupportedExclusive => return own_abort(vcpu, board, raw, Status::Unsupported),
        _ => {
            take(&mut vcpu.ctx, external_abort(esr, raw.far), board.features);
            return Next::Resume;
        }
    }
    let Some(ipa) = fault_ipa(raw, abort) else {
        // The guest changed its own tables meanwhile: it tries again, and faults again if need be.
        return Next::Resume;
    };
    if let (Fault::AccessFlag(_), Some(ipa)) = (abort.fault, Ipa::new(ipa)) {
        return Next::Young(ipa);
    }
    vcpu.latched = Latched::Abort { esr, far: raw.far };
    Next::Leave(Exit::Abort, Ret { x2: raw.esr, x3: ipa, ..ret })
}

/// An abort that only came by EL2 because the memory's type is stage 2's.
fn own_abort(vcpu: &mut Vcpu, board: &Board, raw: RawExit, status: Status) -> Next {
    take(&mut vcpu.ctx, abort(Esr::new(raw.esr), raw.far, |_| status), board.features);
    Next::Resume
}

/// The address, from the page in HPFAR_EL2 and the offset in FAR_EL2. A table walk has no offset:
/// FAR_EL2 is the address it was for.
fn fault_ipa(raw: RawExit, abort: &Abort) -> Option<u64> {
    if raw.hpfar & RawExit::NO_IPA != 0 {
        return None;
    }
    // FIPA, bits 43:4, is IPA[51:12].
    let page = (raw.hpfar & 0xfff_ffff_fff0) << 8;
    let exact = abort.far_valid && !abort.s1ptw;
    let offset = if exact { raw.far & (PAGE_SIZE - 1) } else { 0 };
    Some(union(&[page, offset]))
}

fn abort_flags(abort: &Abort) -> u64 {
    let permission = matches!(abort.fault, Fault::Permission(_));
    union(&[flag(permission, exit_flags::PERMISSION), flag(abort.s1ptw, exit_flags::S1PTW)])
}

/// The value written, if the syndrome names its register, and the flags.
fn described(vcpu: &Vcpu, data: &DataAbort) -> (u64, u64) {
    let flags = union(&[
        abort_flags(&data.abort),
        flag(data.is_write(), exit_flags::WRITE),
        flag(data.cache_op && !data.abort.s1ptw, exit_flags::CACHE_OP),
    ]);
    let Some(access) = data.access else { return (0, flags) };
    let size = u64::from(access.size_log2) << exit_flags::SIZE_SHIFT;
    let value = if data.is_write() { access.stored(vcpu.ctx.gpr(access.rt)) } else { 0 };
    (value, union(&[flags, exit_flags::DECODED, size]))
}
