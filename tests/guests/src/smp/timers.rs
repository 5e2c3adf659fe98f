//! The timers of every CPU (DDI0487 D12): at their time, whether the CPU runs, waits, or has to
//! share a processor with others that are busy.

use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::crew;
use crate::cpu::{self, CPUS};
use crate::gic;
use crate::timer::{self, ENABLE, PHYSICAL_PPI, VIRTUAL_PPI};
use crate::{check, check_eq, read, try_insn, write};

const TICKS: u32 = 6;

static LOST: AtomicU32 = AtomicU32::new(0);
static EARLY: AtomicU32 = AtomicU32::new(0);

fn physical_now() -> u64 {
    // The write's ISB keeps the count from being read early.
    write!("tpidr_el0", 0);
    read!("cntpct_el0")
}

/// Sets one timer to `ms` from now; answers when that is.
fn set(physical: bool, ms: u64) -> u64 {
    if physical {
        let due = physical_now() + timer::ticks(ms);
        write!("cntp_cval_el0", due);
        write!("cntp_ctl_el0", ENABLE);
        due
    } else {
        let due = timer::now() + timer::ticks(ms);
        write!("cntv_cval_el0", due);
        write!("cntv_ctl_el0", ENABLE);
        due
    }
}

fn stop() {
    write!("cntv_ctl_el0", 0);
    write!("cntp_ctl_el0", 0);
}

/// How a CPU spends its time until the timer comes.
const RELAX: u64 = 0;
const SPIN: u64 = 1;
const WFI: u64 = 2;

/// `arg`: bit 0 the physical timer, then the way to wait.
fn tick(arg: u64) {
    let gic = gic::get();
    let (physical, way) = (arg & 1 != 0, arg >> 1);
    let ppi = if physical { PHYSICAL_PPI } else { VIRTUAL_PPI };
    gic.set_priority(ppi, 0x80);
    gic.enable(ppi);
    for n in 0..TICKS {
        gic::forget();
        let due = set(physical, u64::from(n % 4) * 2 + 1);
        gic::unmask(true);
        let limit = timer::now() + timer::ticks(10_000);
        while gic::seen().count == 0 && timer::now() < limit {
            match way {
                SPIN => core::hint::spin_loop(),
                // An interrupt between the look and the wait has come and gone: it must be masked.
                WFI => {
                    gic::unmask(false);
                    if gic::seen().count == 0 {
                        let _ = try_insn!("wfi");
                    }
                    gic::unmask(true);
                }
                _ => cpu::relax(),
            }
        }
        let now = if physical { physical_now() } else { timer::now() };
        gic::unmask(false);
        LOST.fetch_add(u32::from(gic::seen().count != 1 || gic::seen().last != ppi), Relaxed);
        EARLY.fetch_add(u32::from(now < due || !gic::seen().istatus), Relaxed);
    }
    stop();
    gic.disable(ppi);
}

static BUSY: AtomicBool = AtomicBool::new(false);

/// Interrupts masked, and never a moment's rest.
fn spin_masked(_: u64) {
    while BUSY.load(Acquire) {
        core::hint::spin_loop();
    }
}

fn judge(name: &str) {
    let found = (LOST.swap(0, Relaxed), EARLY.swap(0, Relaxed));
    check_eq!(found, (0, 0), "{name}: none lost or twice, none early");
}

pub fn run() {
    for (name, way) in [("at rest", RELAX), ("spinning", SPIN), ("in WFI", WFI)] {
        for physical in [0, 1] {
            let timer = ["virtual", "physical"][physical];
            for cpu in 0..crew::size() {
                crew::on(cpu, tick, physical as u64 | way << 1);
            }
            judge(&alloc::format!("{timer} timer of each CPU, {name}"));
            crew::all(tick, physical as u64 | way << 1);
            judge(&alloc::format!("{timer} timers of all CPUs at once, {name}"));
        }
    }
    if crew::size() > 1 {
        busy_others();
        waits();
    }
    counters();
}

/// One CPU's timer while all others are busy with their interrupts masked.
fn busy_others() {
    for one in 0..crew::size() {
        BUSY.store(true, Release);
        // The first CPU conducts, and is as busy as the rest.
        for cpu in crew::others().filter(|cpu| *cpu != one) {
            crew::begin(cpu, spin_masked, 0);
        }
        let way = [SPIN, WFI][one % 2];
        crew::on(one, tick, way << 1);
        BUSY.store(false, Release);
        for cpu in crew::others() {
            crew::finish(cpu);
        }
    }
    judge("each CPU's timer while the others spin with their interrupts masked");
}

/// All asleep at once: nobody is there to wake anybody but the timers.
fn waits() {
    static WOKEN: AtomicU32 = AtomicU32::new(0);
    static SHORT: AtomicU32 = AtomicU32::new(0);
    fn sleep(round: u64) {
        let gic = gic::get();
        gic.enable(VIRTUAL_PPI);
        let due = set(false, 5 + 3 * cpu::me() as u64 + round);
        while !gic::irq_line() {
            let _ = try_insn!("wfi");
        }
        SHORT.fetch_add(u32::from(timer::now() < due), Relaxed);
        stop();
        WOKEN.fetch_add(1, Relaxed);
    }
    for round in 0..5 {
        crew::all(sleep, round);
    }
    let woken = WOKEN.load(Relaxed);
    check_eq!(woken, 5 * crew::size() as u32, "all CPUs in WFI at once are woken by their timers");
    check_eq!(SHORT.load(Relaxed), 0, "none before its time");
}

/// One system counter for all.
fn counters() {
    static BEFORE: AtomicU64 = AtomicU64::new(0);
    static BACKWARDS: AtomicU32 = AtomicU32::new(0);
    static HIGHEST: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
    static LOWEST: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
    fn compare(_: u64) {
        let mut highest = i64::MAX;
        let mut lowest = i64::MIN;
        for _ in 0..100 {
            let seen = BEFORE.load(Acquire);
            let first = timer::now();
            let physical = physical_now();
            let second = timer::now();
            BACKWARDS.fetch_add(u32::from(first < seen || second < first), Relaxed);
            BEFORE.fetch_max(second, Release);
            // physical - virtual lies between these two.
            lowest = lowest.max(physical.wrapping_sub(second) as i64);
            highest = highest.min(physical.wrapping_sub(first) as i64);
        }
        HIGHEST[cpu::me()].store(highest as u64, Relaxed);
        LOWEST[cpu::me()].store(lowest as u64, Relaxed);
    }
    crew::all(compare, 0);
    check_eq!(BACKWARDS.load(Relaxed), 0, "the virtual count never runs backwards between CPUs");
    let highest = (0..crew::size()).map(|c| HIGHEST[c].load(Relaxed) as i64).min();
    let lowest = (0..crew::size()).map(|c| LOWEST[c].load(Relaxed) as i64).max();
    check!(lowest <= highest, "the virtual counts of all CPUs have one offset");
    let frequency = read!("cntfrq_el0");
    static FREQUENCY: AtomicU64 = AtomicU64::new(0);
    crew::all(
        |_| {
            FREQUENCY.fetch_or(read!("cntfrq_el0"), Relaxed);
        },
        0,
    );
    check!(frequency != 0 && FREQUENCY.load(Relaxed) == frequency, "CNTFRQ is the same on all");
}
