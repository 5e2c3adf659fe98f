//! Before the guest runs: the entry words of the run page.
//!
//! Knows: what a host may ask for, and of which trap. The host may write the page at any moment:
//! each word is read once, and nothing is believed about the last exit that EL2 does not remember
//! itself ([`Latched`]).

use hyp_abi::run::{self, entry};
use hyp_abi::{Refusal, lr};

use crate::bits::union;
use crate::board::Board;
use crate::debug::MDSCR_MASK;
use crate::esr::{Abort, Access, Esr, Syndrome, SysregAccess};
use crate::inject::{self, Before, Cause, Features, Status, pstate};
use crate::machine::Frames;
use crate::vcpu::{Context, Latched, SYSREGS, Sysregs, Vcpu, VgicState, traps};
use crate::vgic;

/// The four ways to answer a trap; at most one at a time.
const ANSWERS: u64 =
    union(&[entry::COMPLETE, entry::SET_RESULT, entry::INJECT_ABORT, entry::INJECT_UNDEF]);
/// Bytes of an A64 instruction.
const INSTRUCTION: u64 = 4;

/// What the host asks for, checked against the latched trap; nothing has changed yet.
#[must_use = "nothing has changed yet"]
#[derive(Debug)]
pub struct Entry {
    flags: u64,
    answer: Answer,
}

/// How the latched trap is answered.
#[derive(Debug)]
enum Answer {
    /// Not at all: the instruction at pc is run (again).
    None,
    /// The instruction is done; a load's register gets the value.
    Load(Esr, Access),
    /// The instruction is done, and changes no register.
    Skip(Esr),
    /// An MRS is done.
    Mrs(SysregAccess),
    /// An HVC or SMC has a result.
    Result,
    /// An exception, this far behind pc.
    Inject(Cause, u64),
}

impl Entry {
    /// Reads and checks the flags.
    ///
    /// # Errors
    /// `Invalid`: unknown flags, two answers, or one that does not suit the latched trap.
    pub fn check<F: Frames>(frames: &F, vcpu: &Vcpu) -> Result<Self, Refusal> {
        let flags = frames.read(vcpu.run_page, run::ENTRY_FLAGS);
        if flags & !entry::MASK != 0 {
            return Err(Refusal::Invalid);
        }
        let answer = match (flags & ANSWERS, vcpu.latched) {
            (0, _) => Answer::None,
            (entry::COMPLETE, Latched::Abort { esr, .. }) => complete_abort(esr)?,
            (entry::COMPLETE, Latched::Sysreg { access, .. }) if access.read => Answer::Mrs(access),
            (entry::COMPLETE, Latched::Sysreg { esr, .. }) => Answer::Skip(esr),
            (entry::SET_RESULT, Latched::Call) => Answer::Result,
            (entry::INJECT_ABORT, Latched::Abort { esr, far }) => {
                Answer::Inject(external_abort(esr, far), 0)
            }
            (entry::INJECT_UNDEF, Latched::Sysreg { .. }) => Answer::Inject(Cause::Undefined, 0),
            (entry::INJECT_UNDEF, Latched::Call) => Answer::Inject(Cause::Undefined, INSTRUCTION),
            _ => return Err(Refusal::Invalid),
        };
        Ok(Self { flags, answer })
    }

    /// Makes the vCPU ready to run.
    pub fn commit<F: Frames>(self, frames: &F, vcpu: &mut Vcpu, board: &Board) {
        let page = vcpu.run_page;
        let word = |index| frames.read(page, index);
        let ctx = &mut vcpu.ctx;
        if self.flags & entry::LOAD_CONTEXT != 0 {
            load_context(ctx, word);
        }
        match self.answer {
            Answer::None => {}
            Answer::Load(esr, access) => {
                ctx.set_gpr(access.rt, access.loaded(word(run::ENTRY_VALUE)));
                skip(ctx, esr.instruction_bytes());
            }
            Answer::Skip(esr) => skip(ctx, esr.instruction_bytes()),
            Answer::Mrs(access) => {
                ctx.set_gpr(access.rt, word(run::ENTRY_VALUE));
                skip(ctx, INSTRUCTION);
            }
            Answer::Result => {
                for (n, reg) in ctx.gpr.iter_mut().take(4).enumerate() {
                    *reg = word(run::ENTRY_RESULT.saturating_add(n));
                }
            }
            Answer::Inject(cause, behind) => {
                ctx.pc = ctx.pc.wrapping_sub(behind);
                take(ctx, cause, board.features);
            }
        }
        ctx.traps = if self.flags & entry::TRAP_WFX != 0 { traps::WFX } else { 0 };
        propose_interrupts(&mut ctx.vgic, word, board);
        vcpu.latched = Latched::None;
    }
}

/// A decoded access can be completed, and so can cache maintenance, which has no register.
fn complete_abort(esr: Esr) -> Result<Answer, Refusal> {
    let Syndrome::DataAbort(abort) = esr.decode() else { return Err(Refusal::Invalid) };
    match abort.access {
        Some(access) if !abort.is_write() => Ok(Answer::Load(esr, access)),
        Some(_) => Ok(Answer::Skip(esr)),
        // But not if its address could not even be translated.
        None if abort.cache_op && !abort.abort.s1ptw => Ok(Answer::Skip(esr)),
        None => Err(Refusal::Invalid),
    }
}

/// What a CPU without memory at that address would have answered.
pub(crate) fn external_abort(esr: Esr, far: u64) -> Cause {
    let status = |abort: &Abort| {
        if abort.s1ptw { Status::ExternalOnWalk(walk_level(esr)) } else { Status::External }
    };
    abort(esr, far, status)
}

/// The abort of the guest's own access at EL1.
pub(crate) fn abort(esr: Esr, far: u64, status: impl FnOnce(&Abort) -> Status) -> Cause {
    match esr.decode() {
        Syndrome::DataAbort(data) => Cause::DataAbort {
            far: data.abort.far_valid.then_some(far),
            write: data.wnr,
            cache_op: data.cache_op,
            status: status(&data.abort),
        },
        Syndrome::InstructionAbort(abort) => {
            Cause::InstructionAbort { far: abort.far_valid.then_some(far), status: status(&abort) }
        }
        _ => Cause::Undefined,
    }
}

/// The level in the status code: of stage 2, the nearest there is to that of the walk it stopped.
fn walk_level(esr: Esr) -> u8 {
    (esr.iss() & 3) as u8
}

/// The instruction at pc is done.
pub(crate) fn skip(ctx: &mut Context, bytes: u64) {
    (ctx.pc, ctx.pstate) = inject::skip(ctx.pc, ctx.pstate, bytes);
}

/// The guest takes an exception at EL1.
pub(crate) fn take(ctx: &mut Context, cause: Cause, features: Features) {
    let before = Before {
        pc: ctx.pc,
        pstate: ctx.pstate,
        vbar: ctx.sys.vbar_el1,
        sctlr: ctx.sys.sctlr_el1,
        features,
    };
    let to = inject::take(&before, cause);
    ctx.pc = to.pc;
    ctx.pstate = to.pstate;
    ctx.sys.spsr_el1 = to.spsr;
    ctx.sys.elr_el1 = to.elr;
    ctx.sys.esr_el1 = to.esr;
    if let Some(far) = to.far {
        ctx.sys.far_el1 = far;
    }
}

/// All that the page has is taken from it; all that it has not is as after a reset.
fn load_context(ctx: &mut Context, word: impl Fn(usize) -> u64) {
    *ctx = Context { vmpidr: ctx.vmpidr, fp_reset: true, ..Context::reset() };
    for (n, reg) in ctx.gpr.iter_mut().enumerate() {
        *reg = word(run::CTX.saturating_add(n));
    }
    ctx.sp_el0 = word(run::CTX_SP_EL0);
    ctx.pc = word(run::CTX_PC);
    ctx.pstate = sane_pstate(word(run::CTX_PSTATE));
    let mut sysregs = [0; SYSREGS];
    for (n, reg) in sysregs.iter_mut().enumerate() {
        *reg = word(run::CTX_SYSREGS.saturating_add(n));
    }
    ctx.sys = Sysregs::from_words(sysregs);
    ctx.sys.mdscr_el1 &= MDSCR_MASK;
}

/// EL0 and EL1 of AArch64 only: any other mode would be a return to EL2, or an illegal one.
fn sane_pstate(wanted: u64) -> u64 {
    /// User access override (FEAT_UAO).
    const UAO: u64 = 1 << 23;
    const KEPT: u64 = union(&[
        pstate::NZCV,
        pstate::TCO,
        pstate::DIT,
        UAO,
        pstate::PAN,
        pstate::SS,
        pstate::SSBS,
        pstate::BTYPE,
        pstate::DAIF,
        pstate::MODE,
    ]);
    match wanted & pstate::MODE {
        pstate::EL0T | pstate::EL1T | pstate::EL1H => wanted & KEPT,
        _ => union(&[pstate::EL1H, pstate::DAIF]),
    }
}

fn propose_interrupts(vgic: &mut VgicState, word: impl Fn(usize) -> u64, board: &Board) {
    let used = vgic::used_lrs(word(run::VGIC_USED_LRS), board.nr_lrs);
    vgic.hcr = vgic::hcr(word(run::VGIC_HCR));
    vgic.lr = [0; lr::MAX];
    for (n, lr) in vgic.lr.iter_mut().take(used).enumerate() {
        *lr = word(run::LR.saturating_add(n));
    }
    board.lr_policy.check_all(&mut vgic.lr);
    vgic.used = used as u64;
}
