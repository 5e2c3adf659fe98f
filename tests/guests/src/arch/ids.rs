//! ID registers must tell the truth: what they announce works, what they deny is undefined.

use crate::trap::ec;
use crate::{check, check_eq, machine, read, try_insn, try_read, write};

pub fn run() {
    space();
    let pfr0 = read!("id_aa64pfr0_el1");
    let dfr0 = read!("id_aa64dfr0_el1");
    check!(matches!(pfr0 >> 4 & 0xf, 1 | 2), "PFR0: EL1 exists in AArch64");
    check!(matches!(pfr0 & 0xf, 1 | 2), "PFR0: EL0 exists in AArch64");
    check!(
        read!("midr_el1") >> 24 & 0xff != 0 || read!("midr_el1") & 0xf_0000 != 0,
        "MIDR says who made it"
    );
    check!(dfr0 & 0xf >= 6, "DFR0: debug architecture is Armv8's");
    let v3 = gic_is_v3();
    check_eq!(pfr0 >> 24 & 0xf != 0, v3, "PFR0.GIC says whether ICC registers exist");
    if !v3 {
        check!(undefined(try_read!("icc_iar1_el1")), "without them ICC_IAR1_EL1 is undefined");
    }
    // SVE and SME not trapped by ourselves; the fields are reserved where they do not exist.
    write!("cpacr_el1", 3 << 16 | 3 << 20 | 3 << 24);
    feature("PMU", pmu(dfr0), try_read!("pmcr_el0"));
    if !pmu(dfr0) {
        no_pmu();
    }
    feature("SPE", dfr0 >> 32 & 0xf != 0, try_read!("s3_0_c9_c9_0"));
    feature("trace filter", dfr0 >> 40 & 0xf != 0, try_read!("s3_0_c1_c2_1"));
    feature("trace buffer", dfr0 >> 44 & 0xf != 0, try_read!("s3_0_c9_c11_7"));
    feature("SVE", pfr0 >> 32 & 0xf != 0, try_read!("s3_0_c1_c2_0"));
    feature("AMU", pfr0 >> 44 & 0xf != 0, try_read!("s3_3_c13_c2_0"));
    feature("RAS", pfr0 >> 28 & 0xf != 0, try_read!("s3_0_c5_c3_0"));
    let pfr1 = read!("id_aa64pfr1_el1");
    feature("MTE", pfr1 >> 8 & 0xf >= 2, try_read!("s3_0_c1_c0_6"));
    feature("SSBS register", pfr1 >> 4 & 0xf >= 2, try_read!("s3_3_c4_c2_6"));
    feature("SME", pfr1 >> 24 & 0xf != 0, try_read!("s3_0_c1_c2_6"));
    write!("cpacr_el1", 3 << 20);
    let isar1 = read!("id_aa64isar1_el1");
    let isar2 = read!("s3_0_c0_c6_2");
    let pauth = isar1 >> 4 & 0xff != 0 || isar1 >> 24 & 0xff != 0 || isar2 >> 8 & 0xff != 0;
    feature("pointer authentication", pauth, try_read!("s3_0_c2_c1_0"));
    let isar0 = read!("id_aa64isar0_el1");
    feature("random numbers", isar0 >> 60 != 0, try_read!("s3_3_c2_c4_0"));
    let ecv = read!("id_aa64mmfr0_el1") >> 60 != 0;
    feature("self-synchronised physical count", ecv, try_read!("s3_3_c14_c0_5"));
    feature("self-synchronised virtual count", ecv, try_read!("s3_3_c14_c0_6"));
    let mmfr1 = read!("id_aa64mmfr1_el1");
    feature("LORegions", mmfr1 >> 16 & 0xf != 0, try_read!("s3_0_c10_c4_3"));
    feature("PAN", mmfr1 >> 20 & 0xf != 0, try_read!("s3_0_c4_c2_3"));
    let mmfr2 = read!("id_aa64mmfr2_el1");
    feature("UAO", mmfr2 >> 4 & 0xf != 0, try_read!("s3_0_c4_c2_4"));
    let mmfr3 = read!("s3_0_c0_c7_3");
    feature("TCR2", mmfr3 & 0xf != 0, try_read!("s3_0_c2_c0_3"));
    feature("SCTLR2", mmfr3 >> 4 & 0xf != 0, try_read!("s3_0_c1_c0_3"));
    feature("permission indirection", mmfr3 >> 8 & 0xf != 0, try_read!("s3_0_c10_c2_3"));
    let dit = pfr0 >> 48 & 0xf != 0;
    feature("DIT", dit, try_read!("s3_3_c4_c2_5"));
    // FEAT_LSE: one atomic add, encoded by hand.
    let mut word = 5u64;
    let lse = try_insn!(
        ".arch_extension lse\nstadd xzr, [{}]\n.arch_extension nolse",
        &raw mut word as u64
    );
    check_eq!(lse.is_ok(), isar0 >> 20 & 0xf >= 2, "atomics: ISAR0 tells the truth");
    check_eq!(word, 5, "adding zero leaves the word alone");
    caches();
}

fn gic_is_v3() -> bool {
    matches!(machine::get().gic, machine::GicBases::V3 { .. })
}

const fn pmu(dfr0: u64) -> bool {
    !matches!(dfr0 >> 8 & 0xf, 0 | 0xf)
}

/// Without a PMU all its registers are undefined (DDI0487 D13).
fn no_pmu() {
    macro_rules! defined {
        ($($name:literal $reg:literal,)+) => {
            [$(($name, undefined(try_read!($reg)) && undefined_write(try_insn!(concat!("msr ", $reg, ", {}"), 0)))),+]
        };
    }
    let registers = defined! {
        "PMCR_EL0" "s3_3_c9_c12_0",
        "PMCNTENSET_EL0" "s3_3_c9_c12_1",
        "PMCNTENCLR_EL0" "s3_3_c9_c12_2",
        "PMOVSCLR_EL0" "s3_3_c9_c12_3",
        "PMSELR_EL0" "s3_3_c9_c12_5",
        "PMCEID0_EL0" "s3_3_c9_c12_6",
        "PMCEID1_EL0" "s3_3_c9_c12_7",
        "PMCCNTR_EL0" "s3_3_c9_c13_0",
        "PMXEVTYPER_EL0" "s3_3_c9_c13_1",
        "PMXEVCNTR_EL0" "s3_3_c9_c13_2",
        "PMUSERENR_EL0" "s3_3_c9_c14_0",
        "PMINTENSET_EL1" "s3_0_c9_c14_1",
        "PMINTENCLR_EL1" "s3_0_c9_c14_2",
        "PMOVSSET_EL0" "s3_3_c9_c14_3",
        "PMMIR_EL1" "s3_0_c9_c14_6",
        "PMEVCNTR0_EL0" "s3_3_c14_c8_0",
        "PMEVCNTR30_EL0" "s3_3_c14_c11_6",
        "PMEVTYPER0_EL0" "s3_3_c14_c12_0",
        "PMEVTYPER30_EL0" "s3_3_c14_c15_6",
        "PMCCFILTR_EL0" "s3_3_c14_c15_7",
    };
    for (name, gone) in registers {
        check!(gone, "without a PMU {name} is undefined, to read and to write");
    }
    let swinc = undefined_write(try_insn!("msr s3_3_c9_c12_4, {}", 0));
    check!(swinc, "without a PMU PMSWINC_EL0 is undefined");
}

fn undefined_write(outcome: crate::probe::Outcome<()>) -> bool {
    outcome.is_err_and(|f| f.ec() == ec::UNDEF)
}

fn undefined(outcome: crate::probe::Outcome) -> bool {
    outcome.is_err_and(|f| f.ec() == ec::UNDEF)
}

fn feature(name: &str, announced: bool, access: crate::probe::Outcome) {
    if announced {
        check!(access.is_ok(), "{name}: announced, and its register is there");
    } else {
        check!(undefined(access), "{name}: not announced, and its register is undefined");
    }
}

/// DDI0487 D23.3.1: op0 = 3, op1 = 0, CRn = 0, CRm = 1..7 is all readable, reserved as zero.
fn space() {
    macro_rules! readable {
        ($($reg:literal)+) => {{
            let mut good = 0;
            $( good += u64::from(try_read!($reg).is_ok()); )+
            good
        }};
    }
    macro_rules! row {
        ($crm:literal) => {{
            let mut good = 0u64;
            good += u64::from(try_read!(concat!("s3_0_c0_c", $crm, "_0")).is_ok());
            good += u64::from(try_read!(concat!("s3_0_c0_c", $crm, "_1")).is_ok());
            good += u64::from(try_read!(concat!("s3_0_c0_c", $crm, "_2")).is_ok());
            good += u64::from(try_read!(concat!("s3_0_c0_c", $crm, "_3")).is_ok());
            good += u64::from(try_read!(concat!("s3_0_c0_c", $crm, "_4")).is_ok());
            good += u64::from(try_read!(concat!("s3_0_c0_c", $crm, "_5")).is_ok());
            good += u64::from(try_read!(concat!("s3_0_c0_c", $crm, "_6")).is_ok());
            good += u64::from(try_read!(concat!("s3_0_c0_c", $crm, "_7")).is_ok());
            good
        }};
    }
    let good = [row!("1"), row!("2"), row!("3"), row!("4"), row!("5"), row!("6"), row!("7")];
    check_eq!(good, [8; 7], "the whole ID register space reads without a fault");
    let first = readable!("midr_el1" "mpidr_el1" "revidr_el1");
    check_eq!(first, 3, "MIDR, MPIDR and REVIDR read without a fault");
}

fn caches() {
    let ctr = read!("ctr_el0");
    check!(ctr >> 31 & 1 == 1, "CTR_EL0 bit 31 is one");
    check!((1..=9).contains(&(ctr >> 16 & 0xf)), "CTR_EL0 has a plausible line size");
    for (name, selector) in [("L1 data", 0u64), ("L1 instruction", 1)] {
        write!("csselr_el1", selector);
        check_eq!(read!("csselr_el1"), selector, "CSSELR_EL1 keeps the selector for {name}");
        check!(try_read!("ccsidr_el1").is_ok(), "CCSIDR_EL1 describes {name}");
    }
    check!(read!("clidr_el1") & 7 != 0, "CLIDR_EL1 names a first level");
    let dczid = read!("dczid_el0");
    if dczid & 1 << 4 == 0 {
        let mut block = [0xffu8; 4096];
        let size = 4usize << (dczid & 0xf);
        let base = &raw mut block as u64;
        let at = (base + size as u64 - 1) & !(size as u64 - 1);
        let outcome = try_insn!("dc zva, {}", at);
        let start = (at - base) as usize;
        let zero = block.get(start..start + size).is_some_and(|b| b.iter().all(|x| *x == 0));
        check!(outcome.is_ok() && zero, "DC ZVA zeroes the block that DCZID announces");
    }
    for outcome in [
        try_insn!("dc isw, {}", 0),
        try_insn!("dc csw, {}", 0),
        try_insn!("dc cisw, {}", 0),
        try_insn!("ic ialluis"),
        try_insn!("ic iallu"),
        try_insn!("tlbi vmalle1is"),
        try_insn!("tlbi vmalle1"),
    ] {
        check!(outcome.is_ok(), "cache and TLB maintenance by set/way and by all is allowed");
    }
}
