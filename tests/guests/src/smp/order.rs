//! Atomicity and order between CPUs (DDI0487 B2.3, B2.9): counters, locks, messages, and the shapes
//! that barriers forbid. A weak machine or a forgetful hypervisor would show here, QEMU seldom does.

use core::arch::asm;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::crew;
use crate::cpu::{Barrier, CPUS, Lock, relax};
use crate::{check_eq, cpu, read};

const COUNTS: u64 = 20_000;

static COUNTER: AtomicU64 = AtomicU64::new(0);
static GUARDED: Lock<[u64; 2]> = Lock::new([0; 2]);
static FLAG: AtomicU64 = AtomicU64::new(0);
static DATA: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
static WRONG: AtomicU64 = AtomicU64::new(0);

pub fn run() {
    let expected = COUNTS * crew::size() as u64;
    crew::all(exclusives, COUNTS);
    check_eq!(COUNTER.swap(0, Relaxed), expected, "LDXR and STXR count right under contention");
    if read!("id_aa64isar0_el1") >> 20 & 0xf >= 2 {
        crew::all(large_system, COUNTS);
        check_eq!(COUNTER.swap(0, Relaxed), expected, "LDADD counts right under contention");
    }
    crew::all(
        |n| {
            for _ in 0..n {
                let mut pair = GUARDED.lock();
                pair[0] += 1;
                pair[1] += pair[0] & 1;
            }
        },
        COUNTS / 4,
    );
    let pair = *GUARDED.lock();
    check_eq!(pair, [expected / 4, expected / 8], "a lock lets one CPU at a time in");
    if crew::size() > 1 {
        messages();
        store_buffers();
    }
}

fn exclusives(n: u64) {
    for _ in 0..n {
        // SAFETY:
        // 1. Adds to the counter, which is an atomic.
        unsafe {
            asm!(
                "2: ldxr {v}, [{a}]", "add {v}, {v}, #1", "stxr {s:w}, {v}, [{a}]",
                "cbnz {s:w}, 2b",
                a = in(reg) COUNTER.as_ptr(), v = out(reg) _, s = out(reg) _, options(nostack)
            );
        }
    }
}

fn large_system(n: u64) {
    for _ in 0..n {
        // SAFETY:
        // 1. Adds to the counter, which is an atomic. The ID register says that the CPU can.
        unsafe {
            asm!(
                ".arch_extension lse", "ldadd {one}, {v}, [{a}]", ".arch_extension nolse",
                a = in(reg) COUNTER.as_ptr(), one = in(reg) 1u64, v = out(reg) _, options(nostack)
            );
        }
    }
}

/// What was stored before a release is seen after its acquire.
fn messages() {
    fn reader(_: u64) {
        loop {
            let flag = FLAG.load(Acquire);
            for word in &DATA {
                WRONG.fetch_add(u64::from(word.load(Relaxed) < flag & !(1 << 63)), Relaxed);
            }
            if flag >> 63 != 0 {
                return;
            }
            relax();
        }
    }
    FLAG.store(0, Relaxed);
    for cpu in crew::others() {
        crew::begin(cpu, reader, 0);
    }
    for n in 1..=COUNTS {
        for word in &DATA {
            word.store(n, Relaxed);
        }
        FLAG.store(n, Release);
    }
    FLAG.store(COUNTS | 1 << 63, Release);
    cpu::signal();
    for cpu in crew::others() {
        crew::finish(cpu);
    }
    check_eq!(WRONG.swap(0, Relaxed), 0, "a message is not seen before what it tells of");
}

/// Two CPUs store, then load what the other stored: with DMB between, one of them sees it.
fn store_buffers() {
    static GATE: Barrier = Barrier::new();
    static READ: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
    const ROUNDS: u64 = 100;
    fn side(me: u64) {
        let me = me as usize;
        for n in 1..=ROUNDS {
            GATE.wait(2);
            DATA[me].store(n, Relaxed);
            // SAFETY:
            // 1. A barrier.
            unsafe { asm!("dmb ish", options(nostack)) }
            READ[me].store(DATA[1 - me].load(Relaxed), Relaxed);
            GATE.wait(2);
            let neither = READ[0].load(Relaxed) < n && READ[1].load(Relaxed) < n;
            WRONG.fetch_add(u64::from(neither), Relaxed);
        }
    }
    for word in &DATA {
        word.store(0, Relaxed);
    }
    crew::begin(1, side, 1);
    side(0);
    crew::finish(1);
    check_eq!(
        WRONG.load(Relaxed),
        0,
        "with DMB between store and load, one of two sees the other's"
    );
}
