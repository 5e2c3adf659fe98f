//! Exceptions that the architecture defines, at the right vector with the right syndrome.

use crate::trap::{self, ec};
use crate::{check, fp, read, try_insn, try_read, write};

pub fn run() {
    let kinds = [
        ("UDF is undefined", try_insn!("udf #0"), ec::UNDEF, 0),
        ("BRK traps with its immediate", try_insn!("brk #0x123"), ec::BRK, 0x123),
        ("SVC traps with its immediate", try_insn!("svc #0x321"), ec::SVC, 0x321),
        ("an unallocated register is undefined", try_insn!(".inst 0xd538ffe0"), ec::UNDEF, 0),
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
