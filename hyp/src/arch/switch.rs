//! The world switch between the host and a guest.
//!
//! Knows which registers belong to EL1 and EL0 and the order in which they change hands. Must not
//! know why a guest runs or what its exits mean.
//!
//! Invariants:
//! - I1: VTTBR_EL2 changes only while EL1's stage 1 is frozen: walks off (TCR_EL1.EPD0, EPD1) and
//!   SCTLR_EL1.M on. A Cortex-A72 may translate speculatively at any moment (erratum 1319367) and
//!   would keep what mixes one world's stage 1 with the other's stage 2. Done on all CPUs: it costs
//!   a few barriers.
//! - I2: no AArch32 EL1 state is switched, for nobody has an AArch32 EL1 (which also settles A72's
//!   erratum 853709).

use core::arch::asm;

use aarch64_cpu::registers::{
    AFSR0_EL1, AFSR1_EL1, AMAIR_EL1, CNTKCTL_EL1, CONTEXTIDR_EL1, CPACR_EL1, CSSELR_EL1, ELR_EL1,
    ELR_EL2, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HPFAR_EL2, MAIR_EL1, PAR_EL1, SCTLR_EL1, SP_EL0,
    SP_EL1, SPSR_EL1, SPSR_EL2, TCR_EL1, TPIDR_EL0, TPIDR_EL1, TPIDRRO_EL0, TTBR0_EL1, TTBR1_EL1,
    VBAR_EL1, VBAR_EL2, VMPIDR_EL2, VTCR_EL2, VTTBR_EL2,
};
use hyp_core::esr::{Esr, Syndrome, hpfar_from_par};
use hyp_core::hyp::{ExitKind, RawExit};
use hyp_core::vcpu::{Context, Sysregs, traps};
use hyp_s2::Regime;
use tock_registers::interfaces::{Readable, Writeable};

use super::cpu::{self, Traps};
use super::gic::Vgic;
use super::sysreg::{dsb_nsh, isb, pmuserenr_el0, set_pmuserenr_el0, set_vdisr_el2};
use super::{debug, timer, tlb};

/// The guest's exit was synchronous.
pub const EXIT_SYNC: u64 = 0;
/// A physical interrupt waits.
pub const EXIT_IRQ: u64 = 1;
/// SError.
pub const EXIT_SERROR: u64 = 2;

/// SCTLR_EL1: RES1 bits, all else off.
const SCTLR_EL1_OFF: u64 = 0x30d0_0800;
const SCTLR_M: u64 = 1;
const TCR_EPD: u64 = 1 << 7 | 1 << 23;
/// PMUSERENR_EL0 that sends nobody's access to EL1 (EN): a guest's EL0 traps to EL2 then, as its EL1
/// does, and finds the registers undefined and not merely forbidden. The other bits would add
/// nothing, and with them QEMU forgets to trap.
const PMU_OPEN: u64 = 1;

macro_rules! el1_registers {
    ($($field:ident = $register:ident,)*) => {
        /// All of EL1's and EL0's system registers but MDSCR_EL1, which stays as it is in `old`:
        /// nobody's but EL2 and the host write it (`super::debug`).
        fn read_el1(old: &Sysregs) -> Sysregs {
            Sysregs {
                mdscr_el1: old.mdscr_el1,
                sctlr_el1: SCTLR_EL1.get(),
                tcr_el1: TCR_EL1.get(),
                $($field: $register.get(),)*
            }
        }
        /// All but SCTLR_EL1 and TCR_EL1, which [`thaw`] writes, and MDSCR_EL1.
        fn write_el1(sys: &Sysregs) {
            $($register.set(sys.$field);)*
        }
    };
}

el1_registers! {
    cpacr_el1 = CPACR_EL1,
    ttbr0_el1 = TTBR0_EL1,
    ttbr1_el1 = TTBR1_EL1,
    esr_el1 = ESR_EL1,
    afsr0_el1 = AFSR0_EL1,
    afsr1_el1 = AFSR1_EL1,
    far_el1 = FAR_EL1,
    mair_el1 = MAIR_EL1,
    vbar_el1 = VBAR_EL1,
    contextidr_el1 = CONTEXTIDR_EL1,
    amair_el1 = AMAIR_EL1,
    cntkctl_el1 = CNTKCTL_EL1,
    par_el1 = PAR_EL1,
    tpidr_el1 = TPIDR_EL1,
    sp_el1 = SP_EL1,
    elr_el1 = ELR_EL1,
    spsr_el1 = SPSR_EL1,
    tpidr_el0 = TPIDR_EL0,
    tpidrro_el0 = TPIDRRO_EL0,
    csselr_el1 = CSSELR_EL1,
}

/// Stops stage-1 walks of EL1 and EL0 (I1). `tcr` is the value whose other bits to write.
fn freeze(tcr: u64) {
    TCR_EL1.set(tcr | TCR_EPD);
    isb();
    SCTLR_EL1.set(SCTLR_EL1.get() | SCTLR_M);
    isb();
}

/// Lets them go again, in a stage-2 regime that is live by now: SCTLR first, TCR last.
fn thaw(sctlr: u64, tcr: u64) {
    isb();
    SCTLR_EL1.set(sctlr);
    isb();
    TCR_EL1.set(tcr);
}

fn vttbr(regime: Regime) -> u64 {
    u64::from(regime.vmid.raw()) << 48 | regime.root.pfn().pa().raw()
}

/// Runs `f`, which is TLB maintenance, with `regime` current.
pub fn in_regime(regime: Regime, f: impl FnOnce()) {
    let (current, wanted) = (VTTBR_EL2.get(), vttbr(regime));
    if current == wanted {
        return f();
    }
    dsb_nsh(); // walks under the current regime are over
    let (sctlr, tcr) = (SCTLR_EL1.get(), TCR_EL1.get());
    freeze(tcr);
    VTTBR_EL2.set(wanted);
    isb();
    f();
    VTTBR_EL2.set(current);
    thaw(sctlr, tcr);
    isb();
}

/// Puts the host's stage 2 and traps in force for the first time, with EL1's MMU off.
pub fn first_regime(host: Regime, vtcr: u64, traps: &Traps) {
    SCTLR_EL1.set(SCTLR_EL1_OFF);
    VTCR_EL2.set(vtcr);
    VTTBR_EL2.set(vttbr(host));
    traps.host.apply(true, 0);
    isb();
    tlb::inval_all_local();
}

/// What the host had when a guest took its place.
#[derive(Debug)]
pub struct Away {
    sys: Sysregs,
    sp_el0: u64,
    vttbr: u64,
    /// PMUSERENR_EL0, if there is a PMU.
    pmuserenr: Option<u64>,
    debug: debug::Away,
}

/// Notes the host's registers. They are still there, and in use.
pub fn leave_host(traps: &Traps) -> Away {
    Away {
        sys: read_el1(&Sysregs::default()),
        sp_el0: SP_EL0.get(),
        vttbr: VTTBR_EL2.get(),
        pmuserenr: traps.pmu.then(pmuserenr_el0),
        debug: debug::Away::note(),
    }
}

/// Gives the CPU back to the host. `fp`: the FP registers are the host's.
pub fn back_to_host(away: &Away, traps: &Traps, fp: bool) {
    dsb_nsh();
    freeze(TCR_EL1.get());
    VTTBR_EL2.set(away.vttbr);
    traps.host.apply(fp, 0);
    cpu::identity_of_host();
    write_el1(&away.sys);
    away.debug.restore();
    if let Some(pmuserenr) = away.pmuserenr {
        set_pmuserenr_el0(pmuserenr);
    }
    SP_EL0.set(away.sp_el0);
    thaw(away.sys.sctlr_el1, away.sys.tcr_el1);
    isb();
}

/// Runs the guest until something happens, and leaves all its registers but FP in `ctx`. Its stage
/// 2 and traps stay in force. `fp`: the FP registers are this guest's; `away` is the host's.
pub fn run(
    ctx: &mut Context,
    regime: Regime,
    traps: &Traps,
    vgic: &Vgic,
    fp: bool,
    away: &mut Away,
) -> RawExit {
    unsafe extern "C" {
        fn hyp_guest_enter(ctx: *mut Context) -> u64;
    }
    let wfx = if ctx.traps & traps::WFX != 0 { cpu::TRAP_WFX } else { 0 };
    dsb_nsh();
    freeze(ctx.sys.tcr_el1);
    VTTBR_EL2.set(vttbr(regime));
    write_el1(&ctx.sys);
    away.debug.load_guest(ctx.sys.mdscr_el1, &ctx.debug);
    if traps.pmu {
        set_pmuserenr_el0(PMU_OPEN);
    }
    if traps.ras {
        set_vdisr_el2(0);
    }
    SP_EL0.set(ctx.sp_el0);
    VMPIDR_EL2.set(ctx.vmpidr);
    traps.guest.apply(fp, wfx);
    vgic.load(&ctx.vgic);
    timer::to_guest(&ctx.timer);
    ELR_EL2.set(ctx.pc);
    SPSR_EL2.set(ctx.pstate);
    thaw(ctx.sys.sctlr_el1, ctx.sys.tcr_el1);

    // SAFETY:
    // 1. `ctx` is writable, has the layout that boot/vectors.S gets by offset, and nobody else
    //    uses it meanwhile (`&mut`).
    // 2. The guest reaches no memory but what its stage 2 maps, and no register that is not switched
    //    here or trapped.
    let code = unsafe { hyp_guest_enter(ctx) };

    let (esr, far) = (ESR_EL2.get(), FAR_EL2.get());
    ctx.pc = ELR_EL2.get();
    ctx.pstate = SPSR_EL2.get();
    ctx.sp_el0 = SP_EL0.get();
    ctx.sys = read_el1(&ctx.sys);
    let hpfar = faulting_page(esr, far);
    timer::to_host(&mut ctx.timer);
    vgic.save(&mut ctx.vgic);
    VBAR_EL2.set(traps.host.vectors());
    isb();
    let kind = match code {
        EXIT_SYNC => ExitKind::Sync,
        EXIT_IRQ => ExitKind::Irq,
        _ => ExitKind::SError,
    };
    RawExit { kind, esr, far, hpfar }
}

/// HPFAR_EL2, or what it would say for a fault that does not write it: stage 1 translates
/// again. Needs the faulting regime live; spoils PAR_EL1.
fn faulting_page(esr: u64, far: u64) -> u64 {
    let abort = match Esr::new(esr).decode() {
        Syndrome::DataAbort(data) => data.abort,
        Syndrome::InstructionAbort(abort) => abort,
        _ => return HPFAR_EL2.get(),
    };
    if !abort.needs_translation() {
        return HPFAR_EL2.get();
    }
    // SAFETY: 1. Translating has no effect but on PAR_EL1, which callers have saved.
    unsafe { asm!("at s1e1r, {}", in(reg) far, options(nostack, preserves_flags)) };
    isb();
    hpfar_from_par(PAR_EL1.get())
}

/// The registers that taking an exception to EL1 needs to know or to write.
pub mod el1 {
    use aarch64_cpu::registers::{ELR_EL1, ESR_EL1, FAR_EL1, SCTLR_EL1, SPSR_EL1, VBAR_EL1};
    use hyp_core::inject::Entry;
    use tock_registers::interfaces::{Readable, Writeable};

    /// VBAR_EL1 and SCTLR_EL1.
    pub fn vectors() -> (u64, u64) {
        (VBAR_EL1.get(), SCTLR_EL1.get())
    }

    /// The part of an exception entry that is in EL1's own registers.
    pub fn enter(entry: &Entry) {
        SPSR_EL1.set(entry.spsr);
        ELR_EL1.set(entry.elr);
        ESR_EL1.set(entry.esr);
        if let Some(far) = entry.far {
            FAR_EL1.set(far);
        }
    }
}
