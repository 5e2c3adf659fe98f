//! CPUs go on and off (DEN0022D 5.1, 5.5 to 5.8).

use core::sync::atomic::{
    AtomicI32, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::crew::{self, until};
use crate::cpu::{self, Barrier, CPUS};
use crate::gic::{self, To};
use crate::psci::{self, status};
use crate::{check, check_eq, machine, read, start};

const ON: i32 = 0;
const OFF: i32 = 1;
const ON_PENDING: i32 = -5;
const INVALID_ADDRESS: i32 = -9;
/// The 32-bit forms.
const CPU_ON_32: u64 = 0x8400_0003;
const AFFINITY_INFO_32: u64 = 0x8400_0004;
/// power_state: powerdown rather than standby.
const POWERDOWN: u64 = 1 << 16;

/// How often CPUs have come to life.
static LIVES: [AtomicU32; CPUS] = [const { AtomicU32::new(0) }; CPUS];
/// Which may go.
static GO: AtomicU64 = AtomicU64::new(0);

fn affinity(cpu: usize) -> i32 {
    status(psci::AFFINITY_INFO, machine::mpidr(cpu), 0, 0)
}

fn is_off(cpu: usize) -> bool {
    until(5000, || affinity(cpu) == OFF)
}

fn live_until_told(_: u64) {
    LIVES[cpu::me()].fetch_add(1, Release);
    while GO.load(Acquire) >> cpu::me() & 1 == 0 {
        cpu::relax();
    }
}

fn go(cpu: usize) -> bool {
    GO.fetch_or(1 << cpu, Release);
    cpu::signal();
    let off = is_off(cpu);
    GO.fetch_and(!(1 << cpu), Release);
    off
}

pub fn run() {
    for cpu in crew::others() {
        check_eq!(affinity(cpu), OFF, "CPU {cpu} is off at first");
    }
    refusals();
    if crew::size() < 2 {
        return;
    }
    lives();
    // QEMU's own PSCI says SUCCESS to each of several who switch a CPU on at once, and starts it
    // anew for each.
    if !machine::get().reference {
        races();
        off_and_on_at_once();
    }
    suspended();
}

/// Nothing of this starts anybody.
fn refusals() {
    let entry = start::secondary_entry();
    let past = machine::get().cpus;
    for (name, mpidr) in [
        ("a CPU too many", past),
        ("Aff0 255", 0xff),
        ("another cluster", 1 << 8 | 1),
        ("Aff2", 1 << 16 | 1),
        ("Aff3", 1 << 32 | 1),
        ("the RES1 bit of MPIDR_EL1", 1 << 31 | 1),
        ("a bit above Aff3", 1 << 40 | 1),
        ("all ones", u64::MAX),
    ] {
        check_eq!(status(psci::CPU_ON, mpidr, entry, 0), psci::INVALID, "CPU_ON of {name}: -2");
        if !machine::get().reference {
            let answer = status(psci::AFFINITY_INFO, mpidr, 0, 0);
            check_eq!(answer, psci::INVALID, "AFFINITY_INFO of {name}: -2 (Redan)");
        }
    }
    if !machine::get().reference {
        let info = status(psci::AFFINITY_INFO, 0, 4, 0);
        check_eq!(info, psci::INVALID, "AFFINITY_INFO of level 4: -2 (Redan)");
        let info = status(psci::AFFINITY_INFO, 0, 1, 0);
        check_eq!(info, ON, "AFFINITY_INFO of this cluster: on (Redan)");
        if crew::size() > 1 {
            for (name, at) in [("a device", machine::get().uart), ("nothing", 1 << 38)] {
                let answer = status(psci::CPU_ON, machine::mpidr(1), at, 0);
                check_eq!(answer, INVALID_ADDRESS, "CPU_ON at {name}: -9 (Redan)");
            }
        }
    }
    let reserved = status(psci::CPU_SUSPEND, 1 << 31, entry, 0);
    check_eq!(reserved, psci::INVALID, "CPU_SUSPEND with a reserved bit: -2");
    let me = read!("mpidr_el1") & 0xff_00ff_ffff;
    check_eq!(status(psci::CPU_ON, me, entry, 0), psci::ALREADY_ON, "CPU_ON of this CPU: -4");
    for cpu in crew::others() {
        check_eq!(affinity(cpu), OFF, "CPU {cpu} is still off");
    }
}

fn lives() {
    for cpu in crew::others() {
        let before = LIVES[cpu].load(Relaxed);
        let mut wrong = 0;
        for life in 0..5u32 {
            let context = u64::from(life) << 60 | 0x0123_4567_89ab_cde0 | cpu as u64;
            start::prepare(cpu, live_until_told, 0);
            let at = start::secondary_entry();
            let answer = status(psci::CPU_ON, machine::mpidr(cpu), at, context);
            let came = until(5000, || LIVES[cpu].load(Acquire) == before + life + 1);
            let found = start::secondary(cpu);
            let state = [&found.x0, &found.el, &found.spsel, &found.daif].map(|w| w.load(Relaxed));
            let caches = found.sctlr.load(Relaxed) & (1 | 1 << 2 | 1 << 12 | 1 << 19);
            if life == 0 {
                check!(answer == 0 && came, "CPU {cpu} starts");
                check_eq!(state[0], context, "CPU {cpu} starts with x0 as CPU_ON said");
                check_eq!(state[1..], [4, 1, 0x3c0], "at EL1, on SP_EL1, all masked");
                check_eq!(caches, 0, "with MMU and caches off");
                check_eq!(affinity(cpu), ON, "AFFINITY_INFO says on");
                let again = status(psci::CPU_ON, machine::mpidr(cpu), at, 0);
                check_eq!(again, psci::ALREADY_ON, "CPU_ON again: ALREADY_ON");
                let answer = status(CPU_ON_32, machine::mpidr(cpu), at, 0);
                check_eq!(answer, psci::ALREADY_ON, "by the 32-bit call too");
                let answer = status(AFFINITY_INFO_32, machine::mpidr(cpu), 0, 0);
                check_eq!(answer, ON, "and it is on by the 32-bit call");
            }
            let right = answer == 0 && came && caches == 0 && state == [context, 4, 1, 0x3c0];
            wrong += u32::from(!right || !go(cpu));
        }
        check_eq!(wrong, 0, "CPU {cpu} lives five times and is off after each");
    }
}

/// The others race to switch one on.
static GATE: Barrier = Barrier::new();
static ANSWERS: [AtomicI32; CPUS] = [const { AtomicI32::new(i32::MIN) }; CPUS];
const ROUNDS: usize = 12;

fn switch_on(victim: usize) {
    let answer =
        status(psci::CPU_ON, machine::mpidr(victim), start::secondary_entry(), victim as u64);
    ANSWERS[cpu::me()].store(answer, Release);
}

fn race(victim: u64) {
    for _ in 0..ROUNDS {
        GATE.wait(crew::size() - 1);
        switch_on(victim as usize);
        GATE.wait(crew::size() - 1);
        // The first CPU looks at the answers and ends the victim meanwhile.
        GATE.wait(crew::size() - 1);
    }
}

fn races() {
    let n = crew::size();
    if n < 3 {
        return;
    }
    let victim = n - 1;
    let mut wrong = 0;
    start::prepare(victim, live_until_told, 0);
    for cpu in 1..victim {
        start::cpu_on(cpu, race, victim as u64);
    }
    for _ in 0..ROUNDS {
        start::prepare(victim, live_until_told, 0);
        let before = LIVES[victim].load(Acquire);
        GATE.wait(n - 1);
        switch_on(victim);
        GATE.wait(n - 1);
        let answers = || ANSWERS[..victim].iter().map(|a| a.load(Acquire));
        let one = answers().filter(|a| *a == 0).count() == 1;
        let rest = answers().all(|a| [0, psci::ALREADY_ON, ON_PENDING].contains(&a));
        let came = until(5000, || LIVES[victim].load(Acquire) == before + 1);
        wrong += u32::from(!(one && rest && came && go(victim)));
        wrong += u32::from(LIVES[victim].load(Acquire) != before + 1);
        GATE.wait(n - 1);
    }
    check_eq!(wrong, 0, "of all who switch a CPU on at once exactly one succeeds");
    for cpu in 1..victim {
        check!(is_off(cpu), "CPU {cpu} is off after the race");
    }
}

/// Switched on while it goes off: refused as on, or on again. Never neither.
fn off_and_on_at_once() {
    let cpu = 1;
    let (mut lives, mut wrong, mut refused) = (0, 0, 0);
    let before = LIVES[cpu].load(Acquire);
    fn short(_: u64) {
        LIVES[cpu::me()].fetch_add(1, Release);
    }
    start::prepare(cpu, short, 0);
    for _ in 0..200 {
        let at = start::secondary_entry();
        match status(psci::CPU_ON, machine::mpidr(cpu), at, 0) {
            0 => lives += 1,
            psci::ALREADY_ON | ON_PENDING => refused += 1,
            _ => wrong += 1,
        }
        if refused % 4 == 3 {
            cpu::relax();
        }
    }
    let all = until(5000, || LIVES[cpu].load(Acquire) == before + lives);
    check!(is_off(cpu) && wrong == 0, "a CPU switched on while it goes off is on, or refused");
    check!(all && lives > 0, "each time that it was switched on it has lived");
}

static PHASE: AtomicU32 = AtomicU32::new(0);

/// Goes into standby and into powerdown, and lives on.
fn sleeper(_: u64) {
    gic::get().init_cpu();
    gic::get().enable(1);
    PHASE.store(1, Release);
    let standby = status(psci::CPU_SUSPEND, 0, 0, 0);
    PHASE.store(if standby == 0 { 2 } else { 100 }, Release);
    gic::window();
    start::prepare(cpu::me(), woken, 0x5eed);
    let answer = status(psci::CPU_SUSPEND, POWERDOWN, start::secondary_entry(), 0x5eed);
    // What is asked for is the deepest state allowed; less is right too (DEN0022D 5.4).
    PHASE.store(if answer == 0 { 3 } else { 101 }, Release);
}

fn woken(arg: u64) {
    let found = start::secondary(cpu::me());
    let right = found.x0.load(Relaxed) == arg && found.el.load(Relaxed) == 4;
    PHASE.store(if right { 3 } else { 102 }, Release);
}

fn suspended() {
    let cpu = 1;
    let gic = gic::get();
    gic.init();
    check_eq!(start::cpu_on(cpu, sleeper, 0), 0, "CPU {cpu} starts to sleep");
    check!(until(5000, || PHASE.load(Acquire) == 1), "and is about to");
    check!(!until(20, || PHASE.load(Acquire) != 1), "it sleeps as long as nothing happens");
    check_eq!(affinity(cpu), ON, "a suspended CPU is on");
    gic.sgi(1, To::List(1 << cpu));
    check!(until(5000, || PHASE.load(Acquire) == 2), "an SGI ends its standby, though masked");
    check!(!until(20, || PHASE.load(Acquire) != 2), "it sleeps again, now in powerdown");
    gic.sgi(1, To::List(1 << cpu));
    check!(until(5000, || PHASE.load(Acquire) > 2), "an SGI ends that too");
    check_eq!(PHASE.load(Acquire), 3, "and it goes on where it must");
    check!(is_off(cpu), "and off it is");
}
