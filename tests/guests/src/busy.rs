//! A guest that is busy on all its CPUs, and says how much of that time each of them had.
//!
//! `busy=MS` on the command line: for how long, by the counter, 2000 ms if not given. `share=PERCENT`:
//! how much of it each CPU must get, to a twentieth. Interrupts are masked: time is taken away from
//! such a guest by the host's own timer only. A CPU that reads the counter all the time knows when it
//! was away: two readings are far apart then.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::cpu::{self, CPUS};
use crate::{check, check_eq, gic, machine, println, start, timer};

/// Readings this far apart are of a CPU that was away: the host's own interrupts take less, another
/// vCPU's turn takes more.
const AWAY_US: u64 = 1000;

static HAD: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
static DONE: AtomicU32 = AtomicU32::new(0);

/// A number on the command line.
fn option(key: &str) -> Option<u64> {
    machine::bootargs().split(' ').find_map(|word| word.strip_prefix(key)?.parse().ok())
}

/// Is busy until the counter says `end`.
fn spin(end: u64) {
    let away = timer::ticks(1000) * AWAY_US / 1_000_000;
    let mut last = timer::now();
    while last < end {
        let now = timer::now();
        let passed = now - last;
        if passed < away {
            HAD[cpu::me()].fetch_add(passed, Relaxed);
        }
        last = now;
    }
    DONE.fetch_add(1, Relaxed);
}

/// The payload.
pub fn run() {
    gic::unmask(false);
    let cpus = (machine::get().cpus as usize).min(CPUS);
    let whole = timer::ticks(option("busy=").unwrap_or(2000));
    let end = timer::now() + whole;
    for cpu in 1..cpus {
        check_eq!(start::cpu_on(cpu, spin, end), 0, "CPU {cpu} starts");
    }
    spin(end);
    timer::wait(5000, || DONE.load(Relaxed) as usize == cpus);
    let millisecond = timer::ticks(1).max(1);
    for (cpu, had) in HAD.iter().enumerate().take(cpus) {
        let had = had.load(Relaxed);
        println!("CPU {cpu} had {} ms of {}", had / millisecond, whole / millisecond);
        if let Some(share) = option("share=") {
            let due = whole * share / 100;
            check!(
                had.abs_diff(due) * 20 <= due,
                "CPU {cpu} had {share} %, give or take a twentieth"
            );
        }
    }
}
