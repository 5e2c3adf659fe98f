//! Exceptions that the architecture defines, at the right vector with the right syndrome.

use core::arch::global_asm;

use crate::trap::{self, ec};
use crate::{check, fp, mmu, read, try_insn, try_read, write};

pub fn run() {
    let kinds = [
        ("UDF is undefined", try_insn!("udf #0"), ec::UNDEF, 0),
        ("BRK traps with its immediate", try_insn!("brk #0x123"), ec::BRK, 0x123),
        ("SVC traps with its immediate", try_insn!("svc #0x321"), ec::SVC, 0x321),
        ("an unallocated register is undefined", try_insn!(".inst 0xd538ffe0"), ec::UNDEF, 0),
        ("ERET to a bad state is no way out", try_insn!("udf #1"), ec::UNDEF, 0),
    ];
    for (name, outcome, class, low) in kinds {
        let fault = outcome.err();
        check!(
            fault.is_some_and(|f| f.kind == trap::SYNC && f.ec() == class && f.esr & 0xffff == low),
            "{name}"
        );
    }
    higher_levels();
    floating_point();
    el0();
    debug_registers();
}

macro_rules! undefined {
    ($($name:literal $reg:literal),+ $(,)?) => {
        $(
            let fault = try_read!($reg).err();
            check!(
                fault.is_some_and(|f| f.ec() == ec::UNDEF && f.kind == trap::SYNC),
                concat!($name, " is undefined at EL1")
            );
        )+
    };
}

fn higher_levels() {
    undefined!(
        "HCR_EL2" "s3_4_c1_c1_0",
        "VTTBR_EL2" "s3_4_c2_c1_0",
        "VTCR_EL2" "s3_4_c2_c1_2",
        "SCTLR_EL2" "s3_4_c1_c0_0",
        "VBAR_EL2" "s3_4_c12_c0_0",
        "ELR_EL2" "s3_4_c4_c0_1",
        "TTBR0_EL2" "s3_4_c2_c0_0",
        "SP_EL1" "s3_4_c4_c1_0",
        "CNTVOFF_EL2" "s3_4_c14_c0_3",
        "CNTHCTL_EL2" "s3_4_c14_c1_0",
        "ICH_LR0_EL2" "s3_4_c12_c12_0",
        "VMPIDR_EL2" "s3_4_c0_c0_5",
        "SCR_EL3" "s3_6_c1_c1_0",
        "ELR_EL3" "s3_6_c4_c0_1",
    );
    check!(
        try_insn!("tlbi alle2").is_err_and(|f| f.ec() == ec::UNDEF),
        "TLBI ALLE2 is undefined at EL1"
    );
    check!(
        try_insn!("tlbi vmalls12e1is").is_err_and(|f| f.ec() == ec::UNDEF),
        "TLBI VMALLS12E1IS is undefined at EL1"
    );
    check!(
        try_insn!("at s12e1r, {}", 0x4000_0000).is_err_and(|f| f.ec() == ec::UNDEF),
        "AT S12E1R is undefined at EL1"
    );
}

fn floating_point() {
    let words = fp::pattern(7);
    fp::load(&words);
    write!("cpacr_el1", 0);
    trap::arm();
    fp::touch();
    let fault = trap::disarm();
    write!("cpacr_el1", 3 << 20);
    check!(fault.is_some_and(|f| f.ec() == ec::FP), "FP traps to EL1 when CPACR_EL1 says so");
    check!(fp::store() == words, "FP registers survive that trap");
    // FPCR and FPSR have their own life.
    let fpsr: u64 = 0x0800_009f;
    trap::arm();
    write!("s3_3_c4_c4_1", fpsr);
    let read_back = read!("s3_3_c4_c4_1");
    write!("s3_3_c4_c4_1", 0);
    check!(trap::disarm().is_none() && read_back & 0x9f == 0x9f, "FPSR keeps what is written");
}

// A few instructions for EL0; each ends by an exception to EL1.
global_asm!(
    ".global guest_enter_el0",
    "guest_enter_el0: msr elr_el1, x0",
    "msr spsr_el1, xzr",
    "isb",
    "eret",
    ".global guest_el0_back",
    "guest_el0_back: ret",
    ".balign 64",
    ".global guest_el0_svc",
    "guest_el0_svc: svc #0x77",
    ".balign 64",
    ".global guest_el0_daif",
    "guest_el0_daif: msr daifset, #2",
    "svc #0",
    ".balign 64",
    ".global guest_el0_hvc",
    "guest_el0_hvc: hvc #0",
    "svc #0",
    ".balign 64",
    ".global guest_el0_wild",
    "guest_el0_wild: mov x9, #0x1000",
    "br x9",
    ".balign 64",
    ".global guest_el0_load",
    "guest_el0_load: mov x9, #0x40000000",
    "ldr x9, [x9]",
    "svc #0",
);
unsafe extern "C" {
    fn guest_enter_el0(target: u64);
    fn guest_el0_back();
    fn guest_el0_svc();
    fn guest_el0_daif();
    fn guest_el0_hvc();
    fn guest_el0_wild();
    fn guest_el0_load();
}

type Code = unsafe extern "C" fn();

fn el0() {
    let at_el0 = trap::SYNC_EL0;
    let svc = run_el0(guest_el0_svc as Code as usize as u64);
    check!(
        svc.is_some_and(|f| f.kind == at_el0 && f.ec() == ec::SVC && f.esr & 0xffff == 0x77),
        "SVC at EL0 arrives at EL1's lower-EL vector"
    );
    let daif = run_el0(guest_el0_daif as Code as usize as u64);
    check!(
        daif.is_some_and(|f| f.kind == at_el0 && f.ec() == ec::SYSREG),
        "EL0 cannot mask interrupts"
    );
    let hvc = run_el0(guest_el0_hvc as Code as usize as u64);
    check!(hvc.is_some_and(|f| f.kind == at_el0 && f.ec() == ec::UNDEF), "HVC is undefined at EL0");
    let wild = run_el0(guest_el0_wild as Code as usize as u64);
    check!(
        wild.is_some_and(|f| f.kind == at_el0 && f.ec() == ec::FETCH_EL0 && f.far == 0x1000),
        "a bad jump at EL0 aborts with its address"
    );
    let load = run_el0(guest_el0_load as Code as usize as u64);
    check!(
        load.is_some_and(|f| f.kind == at_el0 && f.ec() == 0x24 && f.far == 0x4000_0000),
        "EL0 cannot read EL1's memory"
    );
    mmu::allow_el0(1, false);
}

fn run_el0(code: u64) -> Option<trap::Fault> {
    mmu::allow_el0((code >> 30) as usize, true);
    let target = mmu::in_window(code);
    trap::arm_landing(guest_el0_back as Code as usize as u64);
    // SAFETY:
    // 1. The code at `target` ends by an exception, whose landing is a `ret` to here; it changes
    //    x9 only.
    unsafe { guest_enter_el0(target) }
    trap::disarm()
}

macro_rules! readable {
    ($($reg:literal),+ $(,)?) => {
        $( check!(try_read!($reg).is_ok(), concat!($reg, " is readable")); )+
    };
}

fn debug_registers() {
    // Mandatory in every Armv8 core (DDI0487 D2, G8): a kernel resets them at boot.
    readable!("mdscr_el1", "oslsr_el1", "osdlr_el1", "dbgbvr0_el1", "dbgbcr0_el1", "dbgwvr0_el1");
    check!(try_insn!("msr oslar_el1, {}", 0).is_ok(), "the OS lock can be written");
    check!(try_insn!("msr mdscr_el1, {}", 0).is_ok(), "MDSCR_EL1 can be written");
    let count = (read!("id_aa64dfr0_el1") >> 12 & 0xf) + 1;
    check!(count >= 2, "there are at least two breakpoints");
}
