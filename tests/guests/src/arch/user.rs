//! EL0: a few instructions there, each ended by an exception to EL1, which must arrive at the right
//! vector with the right syndrome. Returns to states that must not be, too.

use core::arch::global_asm;

use crate::trap::{self, Fault, SYNC, SYNC_EL0, ec};
use crate::{check, check_eq, mmu, read, write};

global_asm!(
    // guest_enter(target, spsr): the landing of the exception that ends it is the `ret`.
    ".global guest_enter, guest_back",
    "guest_enter: msr elr_el1, x0",
    "msr spsr_el1, x1",
    "isb",
    "eret",
    "guest_back: ret",
    ".balign 64",
    ".global u_svc, u_daif, u_hvc, u_smc, u_wild, u_odd, u_load, u_count, u_timer, u_wfi, u_cache, u_fp",
    ".global u_el2, u_pcount, u_vtimer, u_frequency, u_cycles",
    "u_svc: svc #0x77",
    "u_daif: msr daifset, #2",
    "svc #0",
    "u_hvc: hvc #0",
    "svc #0",
    "u_smc: smc #0",
    "svc #0",
    "u_wild: mov x9, #0x1000",
    "br x9",
    "u_odd: adr x9, u_svc",
    "add x9, x9, #2",
    "br x9",
    "u_load: mov x9, #0x40000000",
    "ldr x9, [x9]",
    "svc #0",
    "u_count: mrs x9, cntvct_el0",
    "svc #1",
    "u_timer: mrs x9, cntp_ctl_el0",
    "svc #1",
    "u_wfi: wfi",
    "svc #1",
    "u_cache: adr x9, u_cache",
    "dc cvau, x9",
    "svc #1",
    ".arch_extension fp",
    "u_fp: fmov d0, xzr",
    ".arch_extension nofp",
    "svc #1",
    "u_el2: mrs x9, s3_4_c1_c0_0",
    "svc #1",
    "u_pcount: mrs x9, cntpct_el0",
    "svc #1",
    "u_vtimer: mrs x9, cntv_cval_el0",
    "svc #1",
    "u_frequency: mrs x9, cntfrq_el0",
    "svc #1",
    "u_cycles: mrs x9, pmccntr_el0",
    "svc #1",
);

type Code = unsafe extern "C" fn();

unsafe extern "C" {
    fn guest_enter(target: u64, spsr: u64);
    fn guest_back();
    pub(super) fn u_svc();
    fn u_daif();
    fn u_hvc();
    fn u_smc();
    fn u_wild();
    fn u_odd();
    fn u_load();
    fn u_count();
    fn u_timer();
    fn u_wfi();
    fn u_cache();
    fn u_fp();
    fn u_el2();
    fn u_pcount();
    fn u_vtimer();
    fn u_frequency();
    fn u_cycles();
}

/// EL0, nothing masked.
const EL0T: u64 = 0;
/// `SPSR` and `MDSCR_EL1`: software step.
const SS: u64 = 1 << 21;
const MDSCR_SS: u64 = 1;

pub fn run() {
    plain();
    controls();
    step();
    illegal();
    mmu::allow_el0(1, false);
}

/// Runs `code` in the EL0 window with this PSTATE; answers the exception that ended it.
pub(super) fn enter(code: Code, spsr: u64) -> Option<Fault> {
    let code = code as usize as u64;
    mmu::allow_el0((code >> 30) as usize, true);
    enter_at(mmu::in_window(code), spsr)
}

/// The same at any address.
pub(super) fn enter_at(target: u64, spsr: u64) -> Option<Fault> {
    trap::arm_landing(guest_back as Code as usize as u64);
    // SAFETY:
    // 1. The code ends by an exception, whose landing is a `ret` to here; it changes x9 only.
    unsafe { guest_enter(target, spsr) }
    trap::disarm()
}

/// Whether it ended at the lower-EL vector with this class and these low bits of the syndrome.
fn ended(code: Code, class: u64, low: Option<u64>) -> bool {
    enter(code, EL0T).is_some_and(|f| {
        f.kind == SYNC_EL0 && f.ec() == class && low.is_none_or(|low| f.esr & 0xffff == low)
    })
}

fn plain() {
    check!(ended(u_svc, ec::SVC, Some(0x77)), "SVC at EL0 arrives at EL1's lower-EL vector");
    check!(ended(u_hvc, ec::UNDEF, None), "HVC is undefined at EL0");
    check!(ended(u_smc, ec::UNDEF, None), "SMC is undefined at EL0");
    check!(ended(u_el2, ec::UNDEF, Some(0)), "SCTLR_EL2 is undefined at EL0");
    let wild = enter(u_wild, EL0T);
    check!(
        wild.is_some_and(|f| f.kind == SYNC_EL0 && f.ec() == ec::FETCH_EL0 && f.far == 0x1000),
        "a bad jump at EL0 aborts with its address"
    );
    let load = enter(u_load, EL0T);
    check!(
        load.is_some_and(|f| f.kind == SYNC_EL0 && f.ec() == 0x24 && f.far == 0x4000_0000),
        "EL0 cannot read EL1's memory"
    );
    check!(ended(u_odd, 0x22, None), "a jump to an odd address is a PC alignment fault");
}

/// What EL1 allows EL0, and what not.
fn controls() {
    check!(ended(u_daif, ec::SYSREG, None), "EL0 cannot mask interrupts");
    write!("sctlr_el1", mmu::SCTLR | 1 << 9);
    check!(ended(u_daif, ec::SVC, Some(0)), "but can with SCTLR_EL1.UMA");
    write!("sctlr_el1", mmu::SCTLR);
    check!(ended(u_wfi, ec::WFX, None), "WFI at EL0 traps to EL1");
    check!(ended(u_cache, ec::SYSREG, None), "cache maintenance at EL0 traps to EL1");
    write!("sctlr_el1", mmu::SCTLR | 1 << 26);
    check!(ended(u_cache, ec::SVC, Some(1)), "but not with SCTLR_EL1.UCI");
    write!("sctlr_el1", mmu::SCTLR);
    timers();
    if matches!(read!("id_aa64dfr0_el1") >> 8 & 0xf, 0 | 0xf) {
        check_eq!(
            enter(u_cycles, EL0T).map(|f| (f.kind, f.esr)),
            Some((SYNC_EL0, 1 << 25)),
            "without a PMU PMCCNTR_EL0 is undefined at EL0"
        );
    }
    write!("cpacr_el1", 1 << 20);
    check!(ended(u_fp, ec::FP, None), "FP at EL0 traps to EL1 when CPACR_EL1 says EL1 only");
    write!("cpacr_el1", 3 << 20);
    check!(ended(u_fp, ec::SVC, Some(1)), "FP works at EL0 when CPACR_EL1 allows it");
}

/// CNTKCTL_EL1 (DDI0487 D12.1.2): which bit gives EL0 what.
fn timers() {
    const NONE: u64 = 0;
    const PCTEN: u64 = 1 << 0;
    const VCTEN: u64 = 1 << 1;
    const VTEN: u64 = 1 << 8;
    const PTEN: u64 = 1 << 9;
    let registers: [(&str, Code, u64); 5] = [
        ("CNTPCT_EL0", u_pcount, PCTEN),
        ("CNTVCT_EL0", u_count, VCTEN),
        ("CNTV_CVAL_EL0", u_vtimer, VTEN),
        ("CNTP_CTL_EL0", u_timer, PTEN),
        ("CNTFRQ_EL0", u_frequency, PCTEN | VCTEN),
    ];
    for (name, code, wanted) in registers {
        let mut good = true;
        for allowed in [NONE, PCTEN, VCTEN, VTEN, PTEN] {
            write!("cntkctl_el1", allowed);
            let class = if allowed & wanted != 0 { ec::SVC } else { ec::SYSREG };
            good &= ended(code, class, None);
        }
        check!(good, "{name} is EL0's with its bits of CNTKCTL_EL1, and traps to EL1 without");
    }
    write!("cntkctl_el1", 0);
}

/// A debugger's single step of EL0 (DDI0487 D2.12).
fn step() {
    write!("oslar_el1", 0);
    let old = read!("mdscr_el1");
    write!("mdscr_el1", old | MDSCR_SS);
    check_eq!(read!("mdscr_el1") & MDSCR_SS, MDSCR_SS, "MDSCR_EL1.SS keeps what is written");
    let fault = enter(u_odd, EL0T | SS);
    write!("mdscr_el1", old);
    let next = mmu::in_window(u_odd as Code as usize as u64) + 4;
    check!(
        fault.is_some_and(|f| f.kind == SYNC_EL0 && f.ec() == 0x32 && f.elr == next),
        "software step: EL0 stops after one instruction"
    );
    check!(ended(u_svc, ec::SVC, Some(0x77)), "and not any more when it is off");
}

/// Returns to modes that EL1 may not return to (DDI0487 D1.4.5).
fn illegal() {
    for (name, mode) in
        [("EL2h", 0x3c9), ("EL2t", 0x3c8), ("EL3h", 0x3cd), ("a reserved mode", 0x3c6)]
    {
        // At EL1's own address: a fetch abort would come first (DDI0487 D1.3.5).
        let fault = enter_at(u_svc as Code as usize as u64, mode);
        check!(
            fault.is_some_and(|f| f.kind == SYNC && f.ec() == 0x0e),
            "a return to {name} is an illegal state, taken at EL1"
        );
        check_eq!(read!("CurrentEL"), 1 << 2, "and EL1 it is");
    }
}
