//! Registers: what the guest has stays the guest's, what the host has stays the host's.

use hyp_abi::run::{self, Exit, entry};

use super::code;
use super::cpu::{Cpu, DATA, EL1H, RWX, SCTLR_OFF};
use crate::host::{peek, poke};
use crate::{check, check_eq, fp, read, write};

pub fn run() {
    let cpu = Cpu::new(RWX);
    context(&cpu);
    floating_point(&cpu);
    mode(&cpu);
    cpu.end();
}

/// A value for each system register that it keeps whole, on every CPU.
const CANARIES: [(&str, u64); 19] = [
    ("TTBR0_EL1", 0x0001_0000_4567_8000),
    ("TTBR1_EL1", 0x0002_0000_5678_9000),
    ("TCR_EL1", 25 | 25 << 16),
    ("ESR_EL1", 0x9600_0045),
    ("AFSR0_EL1", 0),
    ("AFSR1_EL1", 0),
    ("FAR_EL1", 0x1234_5678_9abc_def0),
    ("MAIR_EL1", 0x00ff_4404),
    ("VBAR_EL1", code::VECTORS),
    ("CONTEXTIDR_EL1", 0x4321),
    ("CNTKCTL_EL1", 3),
    ("PAR_EL1", 0x6666_6000),
    ("TPIDR_EL1", 0x1111_2222_3333_4444),
    ("SP_EL1", 0x4567_89a0),
    ("ELR_EL1", 0x4000_1230),
    ("SPSR_EL1", 0x3c5),
    ("TPIDR_EL0", 0x5555_6666_7777_8888),
    ("TPIDRRO_EL0", 0x9999_aaaa_bbbb_cccc),
    ("CSSELR_EL1", 1),
];

fn host_registers() -> [u64; 16] {
    [
        read!("sctlr_el1"),
        read!("cpacr_el1"),
        read!("ttbr0_el1"),
        read!("ttbr1_el1"),
        read!("tcr_el1"),
        read!("mair_el1"),
        read!("vbar_el1"),
        read!("contextidr_el1"),
        read!("cntkctl_el1"),
        read!("par_el1"),
        read!("tpidr_el1"),
        read!("elr_el1"),
        read!("tpidr_el0"),
        read!("tpidrro_el0"),
        read!("csselr_el1"),
        read!("sp_el0"),
    ]
}

fn context(cpu: &Cpu) {
    write!("tpidr_el1", 0xaaaa);
    write!("tpidr_el0", 0xbbbb);
    write!("tpidrro_el0", 0xcccc);
    write!("contextidr_el1", 0xdddd);
    write!("cntkctl_el1", 2);
    write!("par_el1", 0x7777_7000);
    write!("csselr_el1", 0);
    write!("ttbr1_el1", 0x8888_8000);
    write!("sp_el0", 0x9999_9990);
    let regs: [(usize, u64); 31] =
        core::array::from_fn(|n| (n, 0x0101_0101_0101_0101 * (n as u64 + 1)));
    cpu.context(code::looping(), &regs);
    cpu.set(run::CTX_SP_EL0, 0x7654_3210);
    for (name, value) in CANARIES {
        cpu.set_sysreg(name, value);
    }
    let before = host_registers();
    let out = cpu.run(entry::LOAD_CONTEXT);
    let mut good = out.exit == Some(Exit::Hvc);
    for _ in 0..1000 {
        good &= cpu.run(0).exit == Some(Exit::Hvc);
    }
    check!(good, "a thousand runs");
    check_eq!(host_registers(), before, "the host's system registers are the host's");
    for n in 0..34 + run::SYSREGS.len() {
        cpu.set(run::CTX + n, 0);
    }
    cpu.sync();
    let found: [u64; 31] = core::array::from_fn(|n| cpu.word(run::CTX + n));
    check_eq!(found, regs.map(|(_, v)| v), "x0 to x30 are the guest's");
    check_eq!(cpu.word(run::CTX_SP_EL0), 0x7654_3210, "SP_EL0 is the guest's");
    check_eq!(cpu.word(run::CTX_PC), code::looping() + 4, "pc is past the call");
    check_eq!(cpu.word(run::CTX_PSTATE) & 0x3cf, EL1H, "pstate is EL1h, masked");
    check_eq!(cpu.sysreg("SCTLR_EL1"), SCTLR_OFF, "SCTLR_EL1 is the guest's");
    for (name, value) in CANARIES {
        check_eq!(cpu.sysreg(name), value, "{name} is the guest's");
    }
}

fn floating_point(cpu: &Cpu) {
    let host = fp::pattern(0x1105_7000);
    let guest = fp::pattern(0x90e5_7000);
    for (n, word) in guest.iter().enumerate() {
        poke(cpu.data + 8 * n as u64, *word);
    }
    write!("s3_3_c4_c4_0", 1 << 22); // FPCR: round up
    fp::load(&host);
    let out = cpu.start(code::fp(), &[(9, DATA)]);
    check_eq!(out.exit, Some(Exit::Hvc), "the guest loads its FP registers");
    check!(fp::store() == host, "the host's FP registers survive");
    let other = fp::pattern(0x3333);
    fp::load(&other);
    let out = cpu.run(0);
    check_eq!(out.exit, Some(Exit::Hvc), "the guest stores them again");
    check!(fp::store() == other, "the host's survive again");
    check_eq!(read!("s3_3_c4_c4_0"), 1 << 22, "and FPCR");
    write!("s3_3_c4_c4_0", 0);
    let stored: [u64; 64] = core::array::from_fn(|n| peek(cpu.data + 512 + 8 * n as u64));
    check!(stored == guest, "the guest's FP registers survive");
    // A guest that may not use FP gets its own trap, and the host's registers are not touched.
    cpu.context(code::fp(), &[(9, DATA)]);
    cpu.set_sysreg("CPACR_EL1", 0);
    let out = cpu.run(entry::LOAD_CONTEXT);
    let args = cpu.args();
    check_eq!(
        (out.exit, args[0]),
        (Some(Exit::Hvc), 0xe004),
        "CPACR_EL1: trap at the guest's vector"
    );
    check_eq!(args[1] >> 26, 0x07, "CPACR_EL1: of class FP");
    check!(fp::store() == other, "the host's FP registers survive that too");
}

/// Modes that the host may not give a guest.
fn mode(cpu: &Cpu) {
    for pstate in [0x3c9, 0x3c8, 0x3cd, 0x3c6, 0x1d3, 0x3d0, 0x1f, u64::MAX, 1 << 20 | 0x3c5] {
        cpu.context(code::calls(), &[]);
        cpu.set(run::CTX_PSTATE, pstate);
        let out = cpu.run(entry::LOAD_CONTEXT);
        check!(
            matches!(out.exit, Some(Exit::Hvc | Exit::Illegal | Exit::Abort)),
            "pstate {pstate:#x}: the guest runs at EL1 or not at all"
        );
        cpu.sync();
        check!(cpu.word(run::CTX_PSTATE) & 0x1f <= 5, "pstate {pstate:#x}: never above EL1");
    }
}
