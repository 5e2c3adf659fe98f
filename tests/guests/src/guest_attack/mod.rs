//! A hostile guest under the host shim, driven by a seed: hostile code in a padded cell, accesses all
//! over its address space in every size, system registers, HVCs and SMCs, PSCI, storms on the GIC
//! and the timers, page tables of noise, code that changes itself; on all CPUs at once.
//!
//! It looks at what it can know: every exception comes to its own vectors with a syndrome that EL1
//! may have, memory keeps what was written, memory that nobody wrote is zero, the code is what was
//! loaded. `attack.seed=` and `attack.calls=` on the command line. The verdict on the host is the
//! shim's.

mod cell;
mod doings;
mod memory;
mod soup;

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::cpu::CPUS;
use crate::host_attack::rng::Rng;
use crate::{check, console, cpu, gic, machine, println, report, start, timer};

/// Operations between looks at everything.
const LOOK: u64 = 1024;
/// Each CPU but the first is switched off and on so many times.
const LIVES: u64 = 4;
/// Longest that the first CPU waits for the others at its end.
const PATIENCE_MS: u64 = 600_000;

static SEED: AtomicU64 = AtomicU64::new(1);
/// Operations of each CPU, and how many of them are done.
static SHARE: AtomicU64 = AtomicU64::new(0);
static DONE: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// One CPU's attack.
struct Attack {
    rng: Rng,
    step: u64,
}

fn option(key: &str) -> Option<u64> {
    machine::bootargs().split(' ').find_map(|w| w.strip_prefix(key))?.parse().ok()
}

/// Something was found: says what, and ends.
fn found(step: u64, what: core::fmt::Arguments<'_>) -> ! {
    console::init(machine::get().uart);
    let (seed, cpu) = (SEED.load(Relaxed), cpu::me());
    check!(false, "seed {seed}, CPU {cpu}, operation {step}: {what}");
    report::abandon()
}

/// The payload.
pub fn run() {
    let seed = option("attack.seed=").unwrap_or(1);
    let calls = option("attack.calls=").unwrap_or(10_000);
    let cpus = machine::get().cpus.clamp(1, CPUS as u64);
    println!("guest_attack: seed {seed}, {calls} operations on {cpus} CPUs");
    SEED.store(seed, Relaxed);
    SHARE.store(calls / cpus, Release);
    memory::prepare();
    gic::get().init();
    for cpu in 1..cpus as usize {
        check!(start::cpu_on(cpu, life, 0) == 0, "CPU {cpu} joins");
    }
    let began = timer::now();
    // The first CPU's share, and the next life of whoever has ended one.
    let mut attack = Attack::new();
    let mut line = 1;
    while attack.step < SHARE.load(Relaxed) {
        attack.some(LOOK / 4);
        revive(cpus as usize, attack.step);
        if attack.step >= SHARE.load(Relaxed) * line / 5 {
            line += 1;
            println!("CPU 0: {} operations", attack.step);
        }
    }
    let all = || {
        revive(cpus as usize, attack.step);
        (1..cpus as usize).all(|cpu| DONE[cpu].load(Acquire) >= SHARE.load(Relaxed))
    };
    check!(timer::wait(PATIENCE_MS, all), "all CPUs come to their end");
    console::init(machine::get().uart);
    check!(memory::is_whole(), "no memory was changed by anybody else");
    check!(memory::rest_is_zero(), "memory that was never written is zero");
    check!(memory::code_is_whole(), "the code is what was loaded");
    let ms = (timer::now() - began) / timer::ticks(1).max(1);
    println!("{calls} operations in {ms} ms: {:?}", doings::tally());
}

/// Switches on again who has gone off before its end. Refused as long as it is not off.
fn revive(cpus: usize, step: u64) {
    for (cpu, done) in DONE.iter().enumerate().take(cpus).skip(1) {
        let done = done.load(Acquire);
        let owed = done < SHARE.load(Relaxed) && doings::is_off(cpu);
        if owed {
            let answer = start::cpu_on(cpu, life, 0);
            if ![0, -4, -5].contains(&answer) {
                found(step, format_args!("CPU_ON of CPU {cpu} answered {answer}"));
            }
        }
    }
}

/// One life of a CPU other than the first.
fn life(_: u64) {
    let share = SHARE.load(Acquire);
    let done = &DONE[cpu::me()];
    gic::get().init_cpu();
    let mut attack = Attack::new();
    let end = (done.load(Relaxed) + share / LIVES + 1).min(share);
    while attack.step < end {
        attack.some((end - attack.step).min(LOOK));
        done.store(attack.step, Release);
    }
}

impl Attack {
    fn new() -> Self {
        let cpu = cpu::me();
        cell::furnish();
        let step = DONE[cpu].load(Relaxed);
        let seed = SEED.load(Relaxed) ^ (cpu as u64) << 56 ^ step << 24;
        Self { rng: Rng::new(seed), step }
    }

    /// Some operations, then a look at things.
    fn some(&mut self, n: u64) {
        for _ in 0..n {
            self.one();
            self.step += 1;
        }
        // What it left there could keep the way to the console shut, or interrupts coming.
        gic::get().init_cpu();
        let page = self.rng.bits();
        if !memory::page_is_whole(page) {
            found(self.step, format_args!("somebody else wrote to page {page:#x} of the canaries"));
        }
        if !memory::page_is_zero(page >> 20) {
            found(self.step, format_args!("a page that nobody wrote is not zero"));
        }
    }
}
