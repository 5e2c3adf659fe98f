//! PSCI: CPUs on, off, and every wrong way to ask for it (DEN0022 5).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::crew;
use crate::host::el2_pfn;
use crate::{check, check_eq, cpu, machine, probe, psci, report, start, timer, try_insn};

const DENIED: i32 = -3;
const ON_PENDING: i32 = -5;
const INVALID_ADDRESS: i32 = -9;
/// CPU_ON by 32-bit registers.
const CPU_ON_32: u64 = 0x8400_0003;
const SYSTEM_SUSPEND: u64 = 0xc400_000e;

/// DAIF with all masked, `CurrentEL` = 1, SCTLR.{M, C, I}.
const MASKED: u64 = 0x3c0;
const EL1: u64 = 4;
const MMU_AND_CACHES: u64 = 1 | 1 << 2 | 1 << 12;

/// Times that each CPU goes off and on.
const ROUNDS: u64 = 20;
/// Times that CPUs meet at what is harder to arrange.
const MEETINGS: u64 = 5;

fn features(function: u64) -> i32 {
    psci::status(psci::FEATURES, function, 0, 0)
}

/// What the firmware says of itself, through EL2.
pub fn firmware() {
    check!(psci::call(psci::VERSION, 0, 0, 0) >= 1 << 16, "PSCI is 1.0 or later");
    check_eq!(psci::status(psci::MIGRATE_INFO_TYPE, 0, 0, 0), 2, "nothing has to be migrated");
    for function in [psci::CPU_ON, psci::CPU_OFF, psci::AFFINITY_INFO, psci::CPU_SUSPEND] {
        check!(features(function) >= 0, "PSCI {function:#x} is there");
    }
    for function in [SYSTEM_SUSPEND, psci::MIGRATE, 0x8400_001f, 0xc600_0000] {
        check_eq!(features(function), psci::NOT_SUPPORTED, "{function:#x} is not");
        check_eq!(psci::status(function, 0, 0, 0), psci::NOT_SUPPORTED, "{function:#x} either");
    }
}

/// Where the device tree says that CPUs wait for an address: nobody looks there any more. A CPU that
/// did would come up at EL2.
pub fn table() {
    let Some(tree) = machine::tree() else { return };
    for node in tree.cpus().filter_map(|cpu| cpu.properties().find(|p| p.name == RELEASE)) {
        let at = node.value.iter().fold(0, |at, byte| at << 8 | u64::from(*byte));
        crew::others().for_each(|n| start::prepare(n, crew::work, 0));
        match probe::store64(at, start::secondary_entry()) {
            Err(_) => check!(true, "the spin table at {at:#x} is out of reach"),
            Ok(()) => {
                try_insn!("dc civac, {}", at).is_ok().then(cpu::publish);
                let woken = try_insn!("sev").is_ok();
                let came = timer::wait(50, || crew::others().any(|n| crew::came_up(n) > 0));
                check!(woken && !came, "nobody waits for the spin table at {at:#x}");
            }
        }
    }
}

/// The property with the address.
const RELEASE: &str = "cpu-release-addr";

/// The state in which CPU `n` found itself when it was started with `x0`.
fn check_entry(n: usize, x0: u64) {
    let found = start::secondary(n);
    check_eq!(found.x0.load(Relaxed), x0, "CPU {n}: x0 is the context id");
    check_eq!(found.el.load(Relaxed), EL1, "CPU {n}: at EL1");
    check_eq!(found.spsel.load(Relaxed), 1, "CPU {n}: on its own stack pointer");
    check_eq!(found.daif.load(Relaxed) & MASKED, MASKED, "CPU {n}: all interrupts masked");
    check_eq!(found.sctlr.load(Relaxed) & MMU_AND_CACHES, 0, "CPU {n}: MMU and caches off");
}

/// Every CPU comes up, once.
pub fn starting() {
    check!(crew::is(0, crew::ON), "the first CPU is on");
    check_eq!(try_on(0, start::secondary_entry()), psci::ALREADY_ON, "and stays so");
    for n in crew::others() {
        let x0 = 0xc0de_0000_1234_5678 | (n as u64) << 32;
        check!(crew::is(n, crew::OFF), "CPU {n} is off");
        check!(crew::call_up(n, x0), "CPU {n} comes up");
        check_entry(n, x0);
        check!(crew::is(n, crew::ON), "CPU {n} is on");
        check_eq!(try_on(n, start::secondary_entry()), psci::ALREADY_ON, "CPU {n}: a second start");
        check_eq!(try_on(n, 0), psci::ALREADY_ON, "CPU {n}: wherever to");
        check!(!timer::wait(20, || crew::came_up(n) != 1), "CPU {n} came up once");
    }
}

fn try_on(n: usize, entry: u64) -> i32 {
    psci::status(psci::CPU_ON, machine::mpidr(n), entry, 0)
}

/// Names that no CPU has, and entry points that the host does not.
pub fn refusals() {
    let entry = start::secondary_entry();
    let on = |name| psci::status(psci::CPU_ON, name, entry, 0);
    let info = |name, level| psci::status(psci::AFFINITY_INFO, name, level, 0);
    let beyond = machine::get().cpus;
    for name in [beyond, 0xff, 0x100, 1 << 24, 1 << 30, 1 << 31, 1 << 32, 1 << 40, u64::MAX] {
        check_eq!(on(name), psci::INVALID, "no CPU is called {name:#x}");
        check_eq!(info(name, 0), psci::INVALID, "nor has it a state");
    }
    check_eq!(info(0, 1), crew::ON, "the first cluster is on");
    check_eq!(info(0, 4), psci::INVALID, "there is no affinity level 4");
    let Some(n) = crew::others().last() else { return };
    // Upper halves do not count in the 32-bit call, and do in the other.
    let high = 0x7777_0000_0000_0000 | machine::mpidr(n);
    check_eq!(psci::status(CPU_ON_32, high, entry, 0), psci::ALREADY_ON, "32-bit names");
    check_eq!(on(high), psci::INVALID, "64-bit names");
    check!(crew::send_off(n), "CPU {n} goes off");
    let el2 = el2_pfn() << 12;
    for (what, entry) in [
        ("EL2's memory", el2),
        ("a device", machine::get().uart),
        ("nothing", 1 << 38),
        ("no address", !3),
        ("no instruction", entry + 2),
    ] {
        check_eq!(try_on(n, entry), INVALID_ADDRESS, "a CPU cannot begin in {what}");
        check!(crew::is(n, crew::OFF), "and stays off");
    }
    check!(crew::call_up(n, 7), "CPU {n} comes up after all");
}

/// Off and on again, at once and after a while.
pub fn again() {
    for n in crew::others() {
        let mut good = 0;
        for round in 0..ROUNDS {
            let before = crew::came_up(n);
            let mut ok = crew::send_off(n);
            ok &= crew::call_up(n, round) && crew::came_up(n) == before + 1;
            ok &= start::secondary(n).x0.load(Relaxed) == round;
            good += u64::from(ok);
        }
        check_eq!(good, ROUNDS, "CPU {n} goes off and on again {ROUNDS} times");
        check_entry(n, ROUNDS - 1);
    }
    // A CPU that is on its way off is either still on, or can be started.
    for n in crew::others() {
        let mut good = 0;
        for round in 0..MEETINGS {
            let before = crew::came_up(n);
            crew::leave(n);
            start::prepare(n, crew::work, 0);
            let mut answer = psci::ALREADY_ON;
            timer::wait(20_000, || {
                let (name, entry) = (machine::mpidr(n), start::secondary_entry());
                answer = psci::status(psci::CPU_ON, name, entry, round);
                answer != psci::ALREADY_ON
            });
            let up = timer::wait(20_000, || crew::came_up(n) == before + 1);
            good += u64::from(answer == 0 && up);
        }
        check_eq!(good, MEETINGS, "CPU {n} is started while it goes off, {MEETINGS} times");
    }
}

static TARGET: AtomicU64 = AtomicU64::new(0);
static WINNER: AtomicU64 = AtomicU64::new(0);

/// Starts the target at the same time as everybody else; answers how that went.
fn rival(_: u64) -> u64 {
    crew::together();
    let entry = start::secondary_entry();
    let me = cpu::me() as u64;
    let answer = psci::status(psci::CPU_ON, TARGET.load(Relaxed), entry, 0x100 + me);
    if answer == 0 {
        WINNER.store(0x100 + me, Relaxed);
    }
    u64::from(answer as u32)
}

/// When all start the same CPU, one of them does.
pub fn rivals() {
    if crew::count() < 3 {
        return;
    }
    // The last CPU of the machine is not among the rivals.
    let target = crew::count() - 1;
    let mut good = 0;
    for _ in 0..MEETINGS {
        let mut ok = crew::send_off(target);
        let before = crew::came_up(target);
        start::prepare(target, crew::work, 0);
        TARGET.store(machine::mpidr(target), Relaxed);
        crew::without(target, || {
            let answers = crew::all(rival, 0);
            let count = |code: i32| {
                let rivals = answers.iter().take(target);
                rivals.filter(|answer| **answer == u64::from(code as u32)).count()
            };
            let late = count(psci::ALREADY_ON) + count(ON_PENDING);
            ok &= count(0) == 1 && late == target - 1;
        });
        ok &= timer::wait(20_000, || crew::came_up(target) == before + 1);
        ok &= start::secondary(target).x0.load(Relaxed) == WINNER.load(Relaxed);
        good += u64::from(ok);
    }
    check_eq!(good, MEETINGS, "{target} CPUs start one: one does, {MEETINGS} times");
}

/// Alone, the first CPU cannot go.
pub fn last() {
    let answer = psci::status(psci::CPU_OFF, 0, 0, 0);
    check_eq!(answer, DENIED, "the last CPU that is on cannot go off");
}

/// Goes on where the first CPU stopped: it is off now, and comes back.
pub fn finish(_: u64) {
    check!(timer::wait(20_000, || crew::is(0, crew::OFF)), "the first CPU has gone off");
    check_eq!(psci::status(psci::CPU_OFF, 0, 0, 0), DENIED, "and another one is the last");
    let before = crew::came_up(0);
    check_eq!(start::cpu_on(0, crew::work, 0x1d), 0, "the first CPU is started by another");
    check!(timer::wait(20_000, || crew::came_up(0) != before), "it comes up");
    check_entry(0, 0x1d);
    report::finish("host_smp")
}
