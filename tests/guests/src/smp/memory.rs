//! What one CPU does to translations and code, and the others see: TLBI and IC broadcasts
//! (DDI0487 D8.17, B2.4); and tables of their own under one ASID (D8.16.1).

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::crew;
use crate::cpu::{self, CPUS};
use crate::{check_eq, mmu, probe, read, timer, write};

const ROUNDS: u64 = 32;
/// Descriptor bits of a page: Normal, inner shareable, accessed, EL1 only, not executable at EL0.
const PAGE: u64 = 3 | 1 << 10 | 3 << 8 | 1 << 2 | 1 << 54;
/// Not global: belongs to the current ASID.
const NG: u64 = 1 << 11;
const TABLE: u64 = 3;
/// The GiB of the address space in which these tests map; no window is there.
const SLOT: usize = 500;
const GIB: u64 = 1 << 30;
const VA: u64 = SLOT as u64 * GIB;

#[repr(C, align(4096))]
struct Pages(UnsafeCell<[[u64; 512]; 3 * CPUS + 6]>);
// SAFETY:
// 1. No Rust reference into it is made: pages are handed out as addresses.
unsafe impl Sync for Pages {}
static PAGES: Pages = Pages(UnsafeCell::new([[0; 512]; 3 * CPUS + 6]));

fn page(n: usize) -> u64 {
    PAGES.0.get() as u64 + (n as u64) * 4096
}

fn poke(at: u64, value: u64) {
    let _ = probe::store64(at, value);
}

/// Maps `VA` by two tables of `PAGES` from `first` on; answers the address of the last descriptor.
fn map(l1: u64, first: usize, leaf: u64) -> u64 {
    poke(page(first + 1), leaf);
    poke(page(first), page(first + 1) | TABLE);
    poke(l1 + 8 * SLOT as u64, page(first) | TABLE);
    cpu::publish();
    page(first + 1)
}

pub fn run() {
    translations();
    code();
}

static ROUND: AtomicU64 = AtomicU64::new(0);
static SEEN: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
static STALE: AtomicU64 = AtomicU64::new(0);

/// Others read what is mapped, over and over. After the first CPU has told of round `n`, the answer
/// is `n`; before, and during the change, it may be the old one or a fault.
fn reader(_: u64) {
    let me = cpu::me();
    loop {
        let told = ROUND.load(Acquire);
        if told == u64::MAX {
            return;
        }
        // Whatever it is, it must not be older than what we were told.
        if let Ok(value) = probe::load64(VA)
            && value < told
        {
            STALE.fetch_add(1, Relaxed);
        }
        SEEN[me].store(told, Release);
        cpu::relax();
    }
}

/// A name and a way to drop the translation of an address on all CPUs.
type Way = (&'static str, fn(u64));

macro_rules! way {
    ($name:literal, $insn:literal) => {
        ($name, |va| {
            // SAFETY:
            // 1. Only drops translations, and orders.
            unsafe {
                asm!(
                    "dsb ishst", concat!("tlbi ", $insn), "dsb ish", "isb",
                    "/* {va} */", va = in(reg) va >> 12, options(nostack)
                );
            }
        })
    };
}

const WAYS: [Way; 4] = [
    way!("TLBI VAE1IS", "vae1is, {va}"),
    way!("TLBI VAALE1IS", "vaale1is, {va}"),
    way!("TLBI ASIDE1IS", "aside1is, xzr"),
    way!("TLBI VMALLE1IS", "vmalle1is"),
];

/// The page of a round. It keeps its value for some rounds more, so that an old translation shows.
fn data(round: u64) -> u64 {
    page(6 + (round % 8) as usize)
}

fn translations() {
    let l1 = &raw const mmu::L1 as u64;
    let mut round = 0;
    ROUND.store(0, Relaxed);
    poke(data(0), 0);
    let leaf = map(l1, 0, data(0) | PAGE | NG);
    for (name, invalidate) in WAYS {
        for cpu in crew::others() {
            crew::begin(cpu, reader, 0);
        }
        for _ in 0..ROUNDS {
            let next = round + 1;
            let target = data(next);
            poke(target, next);
            // Break before make.
            poke(leaf, 0);
            invalidate(VA);
            poke(leaf, target | PAGE | NG);
            cpu::publish();
            ROUND.store(next, Release);
            cpu::signal();
            round = next;
            if round % 8 == 0 {
                let all = || crew::others().all(|cpu| SEEN[cpu].load(Acquire) == round);
                crew::until(5000, all);
            }
        }
        ROUND.store(u64::MAX, Release);
        cpu::signal();
        for cpu in crew::others() {
            crew::finish(cpu);
        }
        ROUND.store(round, Release);
        check_eq!(STALE.swap(0, Relaxed), 0, "{name}: no CPU sees an old translation");
    }
    poke(l1 + 8 * SLOT as u64, 0);
    (WAYS[3].1)(VA);
}

/// `mov x0, #n; ret`.
fn write_code(at: u64, n: u64) {
    poke(at, 0xd65f_03c0 << 32 | 0xd280_0000 | (n & 0xffff) << 5);
    // SAFETY:
    // 1. Cache maintenance of a page of ours.
    unsafe { asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) at) }
}

fn call(at: u64) -> u64 {
    let value: u64;
    // SAFETY:
    // 1. `write_code` has put two instructions there, which set x0 and return; ISB: they are not
    //    fetched before.
    unsafe { asm!("isb", "blr {}", in(reg) at, out("x0") value, clobber_abi("C")) }
    value
}

static WRONG: AtomicU64 = AtomicU64::new(0);

fn caller(_: u64) {
    let me = cpu::me();
    let mut last = 0;
    loop {
        let told = ROUND.load(Acquire);
        if told == u64::MAX {
            return;
        }
        if told != last {
            WRONG.fetch_add(u64::from(call(page(4)) != told & 0xffff), Relaxed);
            last = told;
            SEEN[me].store(told, Release);
            cpu::signal();
        }
        cpu::relax();
    }
}

/// Code that one CPU writes and all others run.
fn code() {
    write_code(page(4), 0);
    ROUND.store(0, Release);
    for cpu in crew::others() {
        crew::begin(cpu, caller, 0);
    }
    let mut late = 0;
    for n in 1..=ROUNDS {
        write_code(page(4), n);
        ROUND.store(n, Release);
        cpu::signal();
        let all = || crew::others().all(|cpu| SEEN[cpu].load(Acquire) == n);
        late += u64::from(!crew::until(5000, all));
        late += u64::from(call(page(4)) != n);
    }
    ROUND.store(u64::MAX, Release);
    cpu::signal();
    for cpu in crew::others() {
        crew::finish(cpu);
    }
    check_eq!(
        (WRONG.load(Relaxed), late),
        (0, 0),
        "code that one CPU writes is what all others run"
    );
}

static STRANGE: AtomicU64 = AtomicU64::new(0);

/// Switches to a first-level table of its own in which one address is this CPU's own page, under an
/// ASID that all use, and looks whether it stays so.
fn own(global: u64) {
    let me = cpu::me();
    let l1 = page(6 + 3 * me);
    let shared = &raw const mmu::L1 as u64;
    for n in 0..512 {
        poke(l1 + 8 * n, probe::load64(shared + 8 * n).unwrap_or(0));
    }
    let old = read!("ttbr0_el1");
    let mine = 0x1234_0000 + me as u64;
    let data = page(8 + 3 * me);
    let block = if global == 0 { NG } else { 0 };
    poke(data + 64, mine);
    let l2 = page(7 + 3 * me);
    // One table serves as second and third level: entry 0 points to itself as a table, entry 1 of
    // the walk that comes back is the page.
    poke(l2, l2 | TABLE);
    poke(l2 + 8, data | PAGE | block);
    poke(l1 + 8 * SLOT as u64, l2 | TABLE);
    cpu::publish();
    let switch = |ttbr: u64| {
        write!("ttbr0_el1", ttbr);
        // SAFETY:
        // 1. Both tables map our code and data alike; drops this CPU's translations.
        unsafe { asm!("dsb nshst", "tlbi vmalle1", "dsb nsh", "isb") }
    };
    switch(l1 | 7 << 48);
    let (begin, span) = (timer::now(), timer::ticks(60));
    let mut strange = 0;
    while timer::now() - begin < span {
        strange += u64::from(probe::load64(VA + 4096 + 64) != Ok(mine));
        // Others get this CPU's processor often, if they share it.
        if timer::now() & 15 == 0 {
            cpu::relax();
        }
    }
    switch(old);
    STRANGE.fetch_add(strange, Relaxed);
}

/// CPUs may give one ASID different meanings as long as they do not share TLB entries (CnP = 0),
/// even for global pages. A hypervisor that lets two of a VM's CPUs take turns on a processor must
/// keep their translations apart.
pub fn own_tables() {
    crew::all(own, 0);
    check_eq!(STRANGE.swap(0, Relaxed), 0, "one ASID with a table for each CPU: each sees its own");
    crew::all(own, 1);
    check_eq!(STRANGE.swap(0, Relaxed), 0, "the same with global pages");
}
