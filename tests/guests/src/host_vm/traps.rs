//! HVC, SMC, WFI and trapped system registers.

use hyp_abi::run::{self, Exit, entry, exit_flags};

use super::code;
use super::cpu::{Cpu, RWX};
use crate::{check, check_eq};

pub fn run() {
    let cpu = Cpu::new(RWX);
    calls(&cpu);
    wfi(&cpu);
    sysregs(&cpu);
    cpu.end();
}

fn calls(cpu: &Cpu) {
    let regs: [(usize, u64); 31] = core::array::from_fn(|n| (n, 0x100 + n as u64));
    let out = cpu.start(code::calls(), &regs);
    check_eq!(out.exit, Some(Exit::Hvc), "HVC: exit");
    check_eq!(out.esr >> 26, 0x16, "HVC: ESR has class HVC64");
    check_eq!(cpu.args(), core::array::from_fn(|n| 0x100 + n as u64), "HVC: x0 to x7");
    check_eq!(cpu.word(run::EXIT_PC), code::calls() + 4, "HVC: pc is past it");
    check_eq!(cpu.word(run::EXIT_PSTATE) & 0x3cf, 0x3c5, "HVC: pstate");
    for (n, value) in [1u64, 20, 300, 4000].into_iter().enumerate() {
        cpu.set(run::ENTRY_RESULT + n, value);
    }
    let out = cpu.run(entry::SET_RESULT);
    check_eq!(out.exit, Some(Exit::Hvc), "HVC: the guest goes on");
    let args = cpu.args();
    check_eq!(args[0], 4321, "HVC: the result is in x0 to x3");
    check_eq!(args[4..], [0x104, 0x105, 0x106, 0x107], "HVC: x4 to x7 are left alone");
    cpu.sync();
    let rest: [u64; 23] = core::array::from_fn(|n| cpu.word(run::CTX + 8 + n));
    check_eq!(rest, core::array::from_fn(|n| 0x108 + n as u64), "HVC: x8 to x30 are left alone");
    let out = cpu.start(code::smc(), &[(0, 0x8400_0000), (1, 5)]);
    check_eq!(out.exit, Some(Exit::Smc), "SMC: exit");
    check_eq!(out.esr >> 26, 0x17, "SMC: ESR has class SMC64");
    check_eq!(cpu.args()[..2], [0x8400_0000, 5], "SMC: x0 and x1");
    check_eq!(cpu.word(run::EXIT_PC), code::smc() + 4, "SMC: pc is past it");
    cpu.set(run::ENTRY_RESULT, 0x1_0001);
    let out = cpu.run(entry::SET_RESULT);
    check_eq!((out.exit, cpu.args()[0]), (Some(Exit::Hvc), 0x1_0001), "SMC: the result is in x0");
}

fn wfi(cpu: &Cpu) {
    let regs = [(0, 7)];
    cpu.context(code::wfi(), &regs);
    let out = cpu.run(entry::LOAD_CONTEXT | entry::TRAP_WFX);
    check_eq!(out.exit, Some(Exit::Wfx), "WFI: exit, when the host asks for it");
    check_eq!(out.esr >> 26, 0x01, "WFI: ESR has its class");
    check_eq!(out.esr & 1, 0, "WFI: and says that it is no WFE");
    check_eq!(cpu.word(run::EXIT_PC), code::wfi() + 4, "WFI: pc is past it");
    let out = cpu.run(0);
    check_eq!(out.exit, Some(Exit::Hvc), "WFI: the guest goes on");
}

fn sysregs(cpu: &Cpu) {
    let out = cpu.start(code::sysreg(), &[(2, 0x1234_5678_9abc)]);
    check_eq!(out.exit, Some(Exit::Sysreg), "MRS CNTP_CTL_EL0: exit");
    check_eq!(out.flags & exit_flags::SYSREG_READ, exit_flags::SYSREG_READ, "it is a read");
    // ISS: op0 3, op2 1, op1 3, CRn 14, Rt 1, CRm 2, read.
    let iss = 3 << 20 | 1 << 17 | 3 << 14 | 14 << 10 | 1 << 5 | 2 << 1 | 1;
    check_eq!(out.esr & 0x1ff_ffff, iss, "the syndrome names the register");
    check_eq!(cpu.word(run::EXIT_PC), code::sysreg(), "pc is still at it");
    let out = cpu.complete(0xfeed_f00d_dead_beef);
    check_eq!(out.exit, Some(Exit::Hvc), "completed, the guest goes on");
    check_eq!(cpu.args()[1], 0xfeed_f00d_dead_beef, "with the value");
    let out = cpu.run(0);
    check_eq!(out.exit, Some(Exit::Sysreg), "MSR CNTP_CVAL_EL0: exit");
    check_eq!(out.flags & exit_flags::SYSREG_READ, 0, "it is a write");
    check_eq!(out.value, 0x1234_5678_9abc, "of that value");
    let out = cpu.complete(0);
    check_eq!(out.exit, Some(Exit::Hvc), "completed, the guest goes on");
    check_eq!(cpu.args()[2], 0x1234_5678_9abc, "its register unchanged");
    // Refused by the host: the guest gets an undefined instruction.
    let out = cpu.start(code::undef(), &[(1, 0x11)]);
    check_eq!(out.exit, Some(Exit::Sysreg), "another one");
    let out = cpu.run(entry::INJECT_UNDEF);
    let args = cpu.args();
    check_eq!(
        (out.exit, args[0]),
        (Some(Exit::Hvc), 0xe004),
        "INJECT_UNDEF: at the guest's vector"
    );
    check_eq!(args[1] >> 26, 0, "INJECT_UNDEF: class unknown");
    check_eq!(args[3], code::undef() + 4, "INJECT_UNDEF: ELR is the instruction");
    check!(args[4] & 0x3cf == 0x3c5, "INJECT_UNDEF: SPSR is the guest's pstate");
}
