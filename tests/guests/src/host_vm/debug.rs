//! Debug registers: the guest's stop the guest, the host's stop the host, and neither sees the
//! other's.

use hyp_abi::run::{self, Exit};

use super::code;
use super::cpu::{Cpu, DATA, Out, RWX};
use crate::trap::Fault;
use crate::{check, check_eq, probe, read, try_insn, write};

/// `MDSCR_EL1`: debug within EL1; breakpoints and watchpoints.
const ON: u64 = 1 << 13 | 1 << 15;
/// A breakpoint at EL1; a watchpoint there, for loads and stores.
const BREAK: u64 = 0x1e3;
const WATCH: u64 = 0x1ffb;
/// Exception classes at EL1.
const BREAKPOINT: u64 = 0x31;
const WATCHPOINT: u64 = 0x35;
/// x0 of a guest that nothing stopped.
const GOOD: u64 = 0x600d;

pub fn run() {
    write!("oslar_el1", 0);
    let cpu = Cpu::new(RWX);
    guests(&cpu);
    hosts(&cpu);
    locks(&cpu);
    cpu.end();
    host([0; 5]);
}

/// Runs the guest with its debug registers set so.
fn guest(cpu: &Cpu, [bvr, bcr, wvr, wcr, mdscr]: [u64; 5]) -> Out {
    let regs = [(0, GOOD), (9, bvr), (10, bcr), (11, wvr), (12, wcr), (13, mdscr)];
    cpu.start(code::debug(), &regs)
}

/// The host's registers.
fn host([bvr, bcr, wvr, wcr, mdscr]: [u64; 5]) {
    write!("mdscr_el1", 0);
    write!("dbgbvr0_el1", bvr);
    write!("dbgbcr0_el1", bcr);
    write!("dbgwvr0_el1", wvr);
    write!("dbgwcr0_el1", wcr);
    write!("mdscr_el1", mdscr);
}

fn registers() -> [u64; 6] {
    [
        read!("dbgbvr0_el1"),
        read!("dbgbcr0_el1"),
        read!("dbgwvr0_el1"),
        read!("dbgwcr0_el1"),
        read!("mdscr_el1"),
        read!("oslsr_el1"),
    ]
}

/// Loads a word with debug exceptions unmasked.
fn watched(at: u64) -> Option<Fault> {
    let _ = try_insn!("msr daifclr, #8\nisb");
    let fault = probe::load64(at).err();
    let _ = try_insn!("msr daifset, #8\nisb");
    fault
}

/// The guest's own stop it.
fn guests(cpu: &Cpu) {
    host([0; 5]);
    let here = code::debug_here();
    let out = guest(cpu, [here, BREAK, 0, 0, ON]);
    let args = cpu.args();
    check_eq!(
        (out.exit, args[0]),
        (Some(Exit::Hvc), 0xe004),
        "a guest's breakpoint stops the guest"
    );
    check_eq!((args[1] >> 26, args[3]), (BREAKPOINT, here), "at its instruction");
    let out = guest(cpu, [0, 0, DATA, WATCH, ON]);
    check_eq!(
        (out.exit, cpu.args()[0]),
        (Some(Exit::Hvc), GOOD),
        "a watchpoint elsewhere does not"
    );
    // With bits that reach for EL2, for another VM's context, and all others.
    for bcr in [BREAK | 1 << 13, BREAK | 1 << 13 | 3 << 14, BREAK | 8 << 20, u64::MAX] {
        let out = guest(cpu, [here, bcr, 0, u64::MAX, u64::MAX]);
        let stopped = out.exit == Some(Exit::Hvc);
        check!(stopped, "a guest's hostile breakpoint {bcr:#x} hurts the guest at most");
    }
}

/// The host's stop neither the guest nor EL2, and are there again afterwards.
fn hosts(cpu: &Cpu) {
    let canary = cpu.data + 8;
    // Where the guest runs; with higher levels, if the host may say so.
    for (bcr, wcr) in [(BREAK, WATCH), (BREAK | 1 << 13, WATCH | 1 << 13)] {
        host([code::debug_here(), bcr, canary, wcr, ON | 1 << 12]);
        let before = registers();
        let theirs = [0x1234, BREAK & !1 | 1 << 16, DATA + 64, WATCH & !1 | 2 << 16, ON];
        let out = guest(cpu, theirs);
        check_eq!((out.exit, cpu.args()[0]), (Some(Exit::Hvc), GOOD), "the host's do not stop it");
        check_eq!(registers(), before, "the host's debug registers are the host's");
        let out = cpu.run(0);
        check_eq!(out.exit, Some(Exit::Hvc), "the guest runs on");
        cpu.sync();
        let found: [u64; 6] = core::array::from_fn(|n| cpu.word(run::CTX + 9 + n));
        let [a, b, c, d, e] = theirs;
        check_eq!(found, [a, b, c, d, e, 8], "and the guest's are the guest's");
        check_eq!(registers(), before, "the host's are still the host's");
    }
    host([0, 0, canary, WATCH, ON]);
    let _ = guest(cpu, [0, 0, canary, WATCH, ON]);
    let fault = watched(canary);
    check!(
        fault.is_some_and(|f| f.ec() == WATCHPOINT && f.far == canary),
        "the host's watchpoint stops the host"
    );
    host([0, 0, 0, 0, ON]);
    let _ = guest(cpu, [0, 0, canary, WATCH, ON]);
    check!(watched(canary).is_none(), "a guest's does not");
}

/// Each has its own OS lock.
fn locks(cpu: &Cpu) {
    host([0; 5]);
    let out = cpu.start(code::debug(), &[(13, ON)]);
    check_eq!(out.exit, Some(Exit::Hvc), "the guest opens its OS lock");
    write!("oslar_el1", 1);
    let out = cpu.run(0);
    check_eq!(out.exit, Some(Exit::Hvc), "and finds it open");
    cpu.sync();
    check_eq!(cpu.word(run::CTX + 14), 0b1000, "while the host holds its own");
    check_eq!(read!("oslsr_el1"), 0b1010, "which it still does");
    write!("oslar_el1", 0);
}
