//! The CPUs at work: each sleeps, its interrupts unmasked, until it is given something to do. The
//! last SGI is the crew's own, to wake those who sleep.

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::cpu::{self, CPUS};
use crate::gic::{self, DOORBELL, To};
use crate::{machine, println, report, start, timer, try_insn};

/// The longest that any job takes on a slow machine.
const PATIENCE_MS: u64 = 60_000;

const IDLE: u32 = 0;
const POSTED: u32 = 1;
const LEAVE: u32 = 2;

struct Seat {
    state: AtomicU32,
    job: AtomicU64,
    arg: AtomicU64,
}

static SEATS: [Seat; CPUS] = [const {
    Seat { state: AtomicU32::new(IDLE), job: AtomicU64::new(0), arg: AtomicU64::new(0) }
}; CPUS];

/// How many CPUs there are.
pub fn size() -> usize {
    (machine::get().cpus as usize).min(CPUS)
}

/// All but the first.
pub fn others() -> core::ops::Range<usize> {
    1..size()
}

/// A CPU of the crew, until it is told to leave.
fn member(_: u64) {
    init_cpu();
    let seat = &SEATS[cpu::me()];
    loop {
        // Masked from the look to the sleep, so that the bell cannot ring in between.
        while seat.state.load(Acquire) == IDLE {
            let _ = try_insn!("wfi");
            gic::window();
        }
        // What came with the bell is taken before the work begins.
        gic::window();
        let leave = seat.state.load(Acquire) == LEAVE;
        let job = seat.job.load(Relaxed) as *const ();
        if !leave {
            // SAFETY:
            // 1. `begin` stored a `fn(u64)` there before it posted.
            let job: fn(u64) = unsafe { core::mem::transmute(job) };
            job(seat.arg.load(Relaxed));
        }
        seat.state.store(IDLE, Release);
        cpu::signal();
        if leave {
            return;
        }
    }
}

/// Switches all others on.
pub fn muster() -> bool {
    init_cpu();
    let mut all = true;
    for cpu in others() {
        all &= start::cpu_on(cpu, member, 0) == 0;
    }
    all && {
        for cpu in others() {
            on(cpu, |_| {}, 0);
        }
        true
    }
}

/// Switches all others off again.
pub fn dismiss() {
    for cpu in others() {
        post(cpu, LEAVE);
        finish(cpu);
    }
}

fn post(cpu: usize, what: u32) {
    SEATS[cpu].state.store(what, Release);
    gic::get().sgi(DOORBELL, To::List(1 << cpu));
}

/// This CPU's part of the GIC afresh, but for the bell.
pub fn init_cpu() {
    gic::get().init_cpu();
    gic::get().set_priority(DOORBELL, 0);
    gic::get().enable(DOORBELL);
}

/// Lets another CPU begin `job(arg)`, interrupts masked.
pub fn begin(cpu: usize, job: fn(u64), arg: u64) {
    finish(cpu);
    SEATS[cpu].job.store(job as usize as u64, Relaxed);
    SEATS[cpu].arg.store(arg, Relaxed);
    post(cpu, POSTED);
}

/// Waits until a CPU has nothing to do.
pub fn finish(cpu: usize) {
    if !until(PATIENCE_MS, || SEATS[cpu].state.load(Acquire) == IDLE) {
        println!("CPU {cpu} does not come back");
        report::abandon();
    }
}

/// Does `job(arg)` on one CPU and waits for its end.
pub fn on(cpu: usize, job: fn(u64), arg: u64) {
    if cpu == cpu::me() {
        job(arg);
    } else {
        begin(cpu, job, arg);
        finish(cpu);
    }
}

/// Does `job(arg)` on all CPUs at once and waits for its end.
pub fn all(job: fn(u64), arg: u64) {
    for cpu in others() {
        begin(cpu, job, arg);
    }
    job(arg);
    for cpu in others() {
        finish(cpu);
    }
}

/// Waits without getting in anybody's way; answers whether `done` came true in time.
pub fn until(ms: u64, mut done: impl FnMut() -> bool) -> bool {
    let (start, limit) = (timer::now(), timer::ticks(ms));
    while !done() {
        if timer::now().wrapping_sub(start) > limit {
            return done();
        }
        cpu::relax();
    }
    true
}

/// How many interrupts each CPU has taken since it last forgot.
pub fn counts() -> [u32; CPUS] {
    core::array::from_fn(|cpu| gic::seen_by(cpu).count)
}

/// Waits until the counts are these, and a little longer for what should not come.
pub fn settles(expected: [u32; CPUS]) -> bool {
    until(2000, || counts() == expected) && {
        until(1, || false);
        counts() == expected
    }
}

/// Counts of nobody but one.
pub fn only(cpu: usize, count: u32) -> [u32; CPUS] {
    core::array::from_fn(|n| if n == cpu { count } else { 0 })
}
