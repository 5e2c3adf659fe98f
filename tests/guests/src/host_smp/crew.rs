//! The other CPUs as helpers: each waits for a function to call, and does so.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Release};

use crate::cpu::{self, Barrier, CPUS, Lock};
use crate::{gic, machine, psci, report, start, timer};

/// What a helper does: a function of one number with a number for an answer.
pub type Job = fn(u64) -> u64;

/// One helper.
struct Helper {
    job: Lock<Option<(Job, u64)>>,
    /// Jobs given, jobs done.
    given: AtomicU64,
    done: AtomicU64,
    answer: AtomicU64,
    /// How often it came up.
    up: AtomicU64,
}

static HELPERS: [Helper; CPUS] = [const {
    Helper {
        job: Lock::new(None),
        given: AtomicU64::new(0),
        done: AtomicU64::new(0),
        answer: AtomicU64::new(0),
        up: AtomicU64::new(0),
    }
}; CPUS];

static TOGETHER: Barrier = Barrier::new();
/// The helper that is not counted at the moment; none has this number.
static ABSENT: AtomicUsize = AtomicUsize::new(CPUS);

/// Nothing here takes this long, on the slowest machine.
const PATIENCE_MS: u64 = 20_000;

/// CPUs that this payload uses, itself included.
pub fn count() -> usize {
    (machine::get().cpus as usize).min(CPUS)
}

/// Numbers of the others.
pub fn others() -> impl DoubleEndedIterator<Item = usize> {
    let absent = ABSENT.load(Acquire);
    (1..count()).filter(move |n| *n != absent)
}

/// Calls `f`, for which helper `n` does not exist.
pub fn without(n: usize, f: impl FnOnce()) {
    ABSENT.store(n, Release);
    f();
    ABSENT.store(CPUS, Release);
}

/// How often helper `n` has come up.
pub fn came_up(n: usize) -> u64 {
    HELPERS.get(n).map_or(0, |helper| helper.up.load(Acquire))
}

/// What a helper runs, from the moment it is switched on until it is told to go.
pub fn work(_: u64) {
    let Some(helper) = HELPERS.get(cpu::me()) else { return };
    gic::get().init_cpu();
    let mut seen = helper.done.load(Acquire);
    helper.up.fetch_add(1, Release);
    cpu::publish();
    loop {
        while helper.given.load(Acquire) == seen {
            spin_loop();
        }
        seen = helper.given.load(Acquire);
        let job = *helper.job.lock();
        if let Some((f, arg)) = job {
            helper.answer.store(f(arg), Release);
        }
        helper.done.store(seen, Release);
        cpu::publish();
        if job.is_none() {
            return;
        }
    }
}

fn give(n: usize, job: Option<(Job, u64)>) {
    if let Some(helper) = HELPERS.get(n) {
        *helper.job.lock() = job;
        helper.given.fetch_add(1, Release);
        cpu::publish();
    }
}

/// Lets helper `n` call `f(arg)`.
pub fn begin(n: usize, f: Job, arg: u64) {
    give(n, Some((f, arg)));
}

/// Waits for helper `n`; its answer. One that does not come back fails the payload.
pub fn end(n: usize) -> u64 {
    let Some(helper) = HELPERS.get(n) else { return 0 };
    if !timer::wait(PATIENCE_MS, || helper.done.load(Acquire) == helper.given.load(Acquire)) {
        crate::println!("CPU {n} does not come back");
        report::abandon();
    }
    helper.answer.load(Acquire)
}

/// Lets helper `n` call `f(arg)`, and waits.
pub fn on(n: usize, f: Job, arg: u64) -> u64 {
    begin(n, f, arg);
    end(n)
}

/// Lets every CPU call `f(arg)`, this one too; the answers by number.
pub fn all(f: Job, arg: u64) -> [u64; CPUS] {
    others().for_each(|n| begin(n, f, arg));
    let mut answers = [0; CPUS];
    answers[cpu::me()] = f(arg);
    others().for_each(|n| answers[n % CPUS] = end(n));
    answers
}

/// In a job of [`all`]: waits until every CPU is here.
pub fn together() {
    TOGETHER.wait(1 + others().count());
}

/// Switches helper `n` on; answers whether it came up.
pub fn call_up(n: usize, x0: u64) -> bool {
    let before = came_up(n);
    start::cpu_on(n, work, x0) == 0 && timer::wait(PATIENCE_MS, || came_up(n) != before)
}

/// Lets helper `n` switch itself off, as soon as it comes to it.
pub fn leave(n: usize) {
    give(n, None);
}

/// Lets helper `n` switch itself off; answers whether the firmware saw it go.
pub fn send_off(n: usize) -> bool {
    leave(n);
    timer::wait(PATIENCE_MS, || is(n, OFF))
}

/// Switches all helpers off.
pub fn dismiss() {
    for n in others() {
        crate::check!(send_off(n), "CPU {n} goes off");
    }
}

/// AFFINITY_INFO: on.
pub const ON: i32 = 0;
/// AFFINITY_INFO: off.
pub const OFF: i32 = 1;

/// Whether PSCI says this of CPU `n`.
pub fn is(n: usize, state: i32) -> bool {
    psci::status(psci::AFFINITY_INFO, machine::mpidr(n), 0, 0) == state
}
