//! Whatever stands in the run page, EL2 stays and the guest stays a guest.

use hyp_abi::run::{self, Exit, entry};

use super::code;
use super::cpu::{Cpu, DATA, RWX, SCTLR_OFF};
use crate::hcall;
use crate::host::{self, peek, poke};
use crate::{check, check_eq, machine, timer};

const ROUNDS: u64 = 2000;

pub fn run() {
    let cpu = Cpu::new(RWX);
    completions(&cpu);
    noise(&cpu);
    cpu.end();
}

/// Answers to questions that nobody asked.
fn completions(cpu: &Cpu) {
    for (name, flags) in [
        ("COMPLETE", entry::COMPLETE),
        ("SET_RESULT", entry::SET_RESULT),
        ("INJECT_ABORT", entry::INJECT_ABORT),
        ("INJECT_UNDEF", entry::INJECT_UNDEF),
    ] {
        // After a call and after an abort, with the wrong one of the four.
        for program in [code::calls(), code::load()] {
            let out = cpu.start(program, &[(9, DATA + 0x100_0000)]);
            check!(
                matches!(out.exit, Some(Exit::Hvc | Exit::Abort)),
                "{name}: something to answer"
            );
            cpu.set(run::ENTRY_FLAGS, flags);
            let a = hcall::call(hyp_abi::Hypercall::VcpuRun, [0; 4]);
            check!(a.x0 == 0 && a.x1 >= -22, "{name}: answered {}", a.x1);
            cpu.set(run::ENTRY_FLAGS, 0);
        }
    }
    // Twice the same completion: the second has nothing to complete.
    let out = cpu.start(code::load(), &[(9, DATA + 0x100_0000), (1, 5)]);
    check_eq!(out.exit, Some(Exit::Abort), "a load to complete");
    let out = cpu.complete(9);
    check_eq!((out.exit, cpu.args()[1]), (Some(Exit::Hvc), 9), "completed");
    cpu.set(run::ENTRY_FLAGS, entry::COMPLETE);
    let a = hcall::call(hyp_abi::Hypercall::VcpuRun, [0; 4]);
    check!(a.x0 == 0, "completed twice: answered {}", a.x1);
    cpu.set(run::ENTRY_FLAGS, 0);
}

/// Random contexts, list registers and flags. The guest may do what it likes with its own pages.
fn noise(cpu: &Cpu) {
    let canary = host::pages(1);
    poke(canary, 0x600d);
    let mut seed = 0x5eed_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (begin, counted) = (timer::now(), machine::counted());
    let (mut refused, mut strange) = (0, 0);
    for round in 0..ROUNDS {
        for n in 0..512 {
            let word = match next() % 8 {
                0 => u64::MAX,
                1 => 0,
                2 => 1 << (next() % 64),
                3 => code::BASE + next() % 4096,
                _ => next(),
            };
            cpu.set(n, word);
        }
        // Noise in these leads to exceptions without an instruction between them.
        if counted {
            cpu.set_sysreg("SCTLR_EL1", SCTLR_OFF);
            cpu.set_sysreg("VBAR_EL1", code::VECTORS);
        }
        // Half of the rounds enter with valid flags and a plausible pc, to get into the guest.
        if round % 2 == 0 {
            cpu.set(run::CTX_PC, code::BASE + (next() % 0x200) * 4);
            let _ = cpu.run_for(entry::LOAD_CONTEXT, 2);
        } else {
            let flags = cpu.word(run::ENTRY_FLAGS) & next();
            let a = cpu.run_for(flags, 2);
            refused += u64::from(a.exit.is_none());
        }
        strange += u64::from(peek(canary) != 0x600d);
    }
    for n in 0..512 {
        cpu.set(n, 0);
    }
    check_eq!(
        strange,
        0,
        "{ROUNDS} random run pages, {refused} refused: the host's memory is whole"
    );
    check!(timer::now() - begin < timer::ticks(60_000), "in reasonable time");
    let out = cpu.start(code::calls(), &[(0, 3)]);
    check_eq!((out.exit, cpu.args()[0]), (Some(Exit::Hvc), 3), "and the guest can still run");
}
