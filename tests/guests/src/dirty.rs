//! A guest that watches its own memory with the `dirty-log` service: what the host logs as
//! written, or finds young, is exactly what was written or touched, page for page.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::memory::free_start;
use crate::{check, check_eq, println, probe, psci, start, timer};

/// Service functions (see docs/hypercalls.md).
const START: u64 = 0xc600_00f0;
const COLLECT: u64 = 0xc600_00f1;
const AGE_START: u64 = 0xc600_00f2;
const AGE_NEXT: u64 = 0xc600_00f3;
const NONE: u64 = u64::MAX;

/// Pages watched: 32 MiB.
const PAGES: u64 = 8192;
const WORDS: usize = (PAGES / 64) as usize;
const ROUNDS: u64 = 6;

type Set = [AtomicU64; WORDS];
static WANTED: Set = [const { AtomicU64::new(0) }; WORDS];
static FOUND: Set = [const { AtomicU64::new(0) }; WORDS];

fn put(set: &Set, n: u64) {
    if let Some(word) = set.get((n / 64) as usize) {
        word.fetch_or(1 << (n % 64), Relaxed);
    }
}

fn has(set: &Set, n: u64) -> bool {
    set.get((n / 64) as usize).is_some_and(|w| w.load(Relaxed) & 1 << (n % 64) != 0)
}

fn clear(set: &Set) {
    for word in set {
        word.store(0, Relaxed);
    }
}

fn size(set: &Set) -> u32 {
    set.iter().map(|w| w.load(Relaxed).count_ones()).sum()
}

/// The payload.
pub fn run() {
    let first = free_start();
    for n in 0..PAGES {
        let _ = probe::store64(first + (n << 12), n);
    }
    let mut seed = timer::now() | 1;
    println!("seed {seed:#x}");
    for round in 0..ROUNDS {
        let count = [0, 1, 7, 64, 500, 3000][(round % 6) as usize];
        choose(&mut seed, count);
        written(round, first);
        choose(&mut seed, count);
        touched(round, first, false);
        choose(&mut seed, count);
        touched(round, first, true);
    }
    at_once(first);
    again(first);
    check_eq!(psci::call(0xc600_00f4, 0, 0, 0) as i32, -1, "a service function too far answers -1");
}

fn choose(seed: &mut u64, count: u32) {
    clear(&WANTED);
    for _ in 0..count {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        put(&WANTED, *seed % PAGES);
    }
}

/// Collects all pages that `next` names into FOUND; answers how many lie neither in the watched
/// range nor in the payload itself (its stack and its data are in use all the time).
fn collect(next: u64, first: u64) -> u64 {
    clear(&FOUND);
    let (image, end) = start::image();
    let (mut at, mut strange) = (0, 0);
    loop {
        let gfn = psci::call(next, at, 0, 0);
        if gfn == NONE {
            return strange;
        }
        if gfn < at || gfn >= 1 << 36 {
            check!(false, "a page named at or after {at:#x} is {gfn:#x}");
            return strange + 1;
        }
        match (gfn << 12).checked_sub(first).map(|o| o >> 12) {
            Some(n) if n < PAGES => put(&FOUND, n),
            _ if (image..end).contains(&(gfn << 12)) => {}
            _ => strange += 1,
        }
        at = gfn + 1;
    }
}

fn compare(what: &str, round: u64, strange: u64) {
    let (mut missing, mut extra) = (0, 0);
    for n in 0..PAGES {
        missing += u64::from(has(&WANTED, n) && !has(&FOUND, n));
        extra += u64::from(!has(&WANTED, n) && has(&FOUND, n));
    }
    check_eq!(
        (missing, extra, strange),
        (0, 0, 0),
        "round {round}: exactly the {} pages {what}",
        size(&WANTED)
    );
}

fn written(round: u64, first: u64) {
    check_eq!(psci::call(START, 0, 0, 0), 0, "round {round}: the log starts");
    for n in (0..PAGES).filter(|n| has(&WANTED, *n)) {
        let _ = probe::store64(first + (n << 12) + 16, round);
    }
    let strange = collect(COLLECT, first);
    compare("written are in the log", round, strange);
}

fn touched(round: u64, first: u64, write: bool) {
    check_eq!(psci::call(AGE_START, 0, 0, 0), 0, "round {round}: all memory is old");
    for n in (0..PAGES).filter(|n| has(&WANTED, *n)) {
        let at = first + (n << 12) + 24;
        if write {
            let _ = probe::store64(at, round);
        } else {
            let _ = probe::load64(at);
        }
    }
    let strange = collect(AGE_NEXT, first);
    compare(if write { "written are young" } else { "read are young" }, round, strange);
}

/// The very next instruction after the call writes: no write may fall between.
fn at_once(first: u64) {
    for round in 0..64 {
        clear(&WANTED);
        let n = (round * 131) % PAGES;
        put(&WANTED, n);
        let at = first + (n << 12);
        // SAFETY:
        // 1. The service preserves x4..x30 (SMCCC); the store goes to memory no Rust object is in.
        unsafe {
            asm!("hvc #0", "str xzr, [x20]", inout("x0") START => _, in("x20") at, clobber_abi("C"));
        }
        let strange = collect(COLLECT, first);
        if round % 16 == 0 || !has(&FOUND, n) || size(&FOUND) != 1 {
            compare("written at once is in the log", round, strange);
        }
    }
}

/// A log that is started again forgets; one that is read again does not.
fn again(first: u64) {
    clear(&WANTED);
    put(&WANTED, 5);
    psci::call(START, 0, 0, 0);
    let _ = probe::store64(first + (5 << 12), 1);
    let strange = collect(COLLECT, first);
    compare("is in the log", 100, strange);
    let strange = collect(COLLECT, first);
    compare("is in the log when it is read again", 101, strange);
    psci::call(START, 0, 0, 0);
    clear(&WANTED);
    let strange = collect(COLLECT, first);
    compare("are in a log started again", 102, strange);
    check_eq!(psci::call(COLLECT, u64::MAX, 0, 0), NONE, "nothing is at or after the end");
}
