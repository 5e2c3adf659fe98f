//! vCPUs on several CPUs: on one at a time, and gone when the VM is.

use core::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use hyp_abi::{Hypercall as H, Refusal};

use super::crew;
use super::guest::{DATA, Guest, Program, RWX, VCPUS};
use crate::host::refusal;
use crate::{check, check_eq, cpu, hcall, timer};

const ROUNDS: u64 = 6;

/// Loads vCPU 0 at the same time as everybody else; answers whether this CPU has it, and puts it
/// back when all have tried.
fn grab(handle: u64) -> u64 {
    crew::together();
    let answer = hcall::call(H::VcpuLoad, [handle, 0, 0, 0]);
    crew::together();
    if answer.x1 == 0 {
        Guest::put();
        return 1;
    }
    if answer == refusal(Refusal::Busy) { 0 } else { 100 }
}

/// Loads a vCPU here, for another CPU to notice; the top byte of the argument says which.
fn take(arg: u64) -> u64 {
    hcall::call(H::VcpuLoad, [arg & !(0xff << 56), arg >> 56, 0, 0]).x1 as u64
}

fn put(_: u64) -> u64 {
    hcall::call(H::VcpuPut, [0; 4]).x1 as u64
}

/// CPU_OFF with whatever is loaded here.
fn off(_: u64) -> u64 {
    u64::from(crate::psci::status(crate::psci::CPU_OFF, 0, 0, 0) as u32)
}

/// The part.
pub fn run() {
    let guest = Guest::new(2);
    let h = guest.handle;
    let mut good = 0;
    for _ in 0..ROUNDS {
        good += u64::from(crew::all(grab, h).iter().sum::<u64>() == 1);
    }
    check_eq!(good, ROUNDS, "one CPU gets the vCPU that all want, {ROUNDS} times");
    for n in crew::others() {
        check_eq!(crew::on(n, take, h), 0, "CPU {n} loads a vCPU");
        let refused = |which: H, args: [u64; 4], code: Refusal| {
            check_eq!(hcall::call(which, args), refusal(code), "CPU {n} has it: {}", which.name());
        };
        refused(H::VcpuLoad, [h, 0, 0, 0], Refusal::Busy);
        refused(H::VcpuPut, [0; 4], Refusal::Invalid);
        refused(H::VcpuRun, [0; 4], Refusal::Invalid);
        refused(H::StartTeardownVm, [h, 0, 0, 0], Refusal::Invalid);
        refused(H::FinalizeTeardownVm, [h, 0, 0, 0], Refusal::Invalid);
        refused(H::ReclaimVmPage, [h, 0, 0, 0], Refusal::Invalid);
        guest.load(1);
        check_eq!(crew::on(n, take, h | 1 << 56) as i64, Refusal::Invalid.code(), "one on a CPU");
        Guest::put();
        check_eq!(crew::on(n, off, 0) as i32, -3, "CPU {n} cannot go off with it");
        check_eq!(crew::on(n, put, 0), 0, "CPU {n} gives it back");
    }
    guest.end();
}

/// The vCPU to try next, and how often one was inside.
static NEXT: AtomicU64 = AtomicU64::new(0);
static RUNS: AtomicU64 = AtomicU64::new(0);

/// How far the VM's end has come.
static PHASE: AtomicU64 = AtomicU64::new(0);
/// It lives, and its vCPUs run.
const LIVE: u64 = 0;
/// No vCPU is to be loaded any more; it ends, and has ended.
const KILLED: u64 = 1;
/// It is dying or gone, so nothing that anybody tries can come of it.
const DYING: u64 = 2;
const OVER: u64 = 3;

fn phase() -> u64 {
    PHASE.load(Acquire)
}

/// Loads a vCPU, runs it for some turns and puts it back; answers whether that went as it may.
fn visit(guest: Guest, n: usize, turns: u64) -> bool {
    let code = hcall::call(H::VcpuLoad, [guest.handle, n as u64, 0, 0]).x1;
    if code != 0 {
        return code == Refusal::Invalid.code() || code == Refusal::Busy.code();
    }
    // Whether it was loaded in time: a VM that is dying has no vCPU on any CPU.
    let before = phase() < DYING;
    let mut left = turns;
    guest.prepare(n, Program::Count, DATA, None);
    guest.run(n, || {
        left = left.saturating_sub(1);
        left == 0 || phase() != LIVE
    });
    RUNS.fetch_add(1, Relaxed);
    hcall::call(H::RelaxPerms, [DATA >> 12, RWX, 0, 0]);
    before && hcall::call(H::VcpuPut, [0; 4]).x1 == 0
}

/// Does to a VM whatever one can do, until it is over; answers how often something was answered that
/// cannot be.
fn hammer(handle: u64) -> u64 {
    let guest = Guest::of(handle);
    let mut wrong = 0;
    crew::together();
    while phase() != OVER {
        if phase() != KILLED {
            let n = NEXT.fetch_add(1, Relaxed) as usize % VCPUS;
            wrong += u64::from(!visit(guest, n, cpu::me() as u64 % 3 + 1));
        }
        let page = DATA >> 12;
        let (which, args) = match NEXT.fetch_add(1, Relaxed) % 5 {
            0 => (H::Wrprotect, [handle, page, 1, 0]),
            1 => (H::TestClearYoung, [handle, page, 1, 1]),
            2 => (H::AuditVm, [handle, 0, 0, 0]),
            3 => (H::TlbFlushVmid, [handle, 0, 0, 0]),
            _ => (H::VmStats, [handle, 0, 0, 0]),
        };
        hcall::call(which, args);
        // EL2 serves in turn: do not stand in the queue all the time.
        let start = timer::now();
        while timer::now() - start < timer::ticks(1) / 16 {}
    }
    wrong
}

/// A VM is killed while all other CPUs use it.
pub fn teardown() {
    let mut good = 0;
    for round in 0..ROUNDS {
        let guest = Guest::new(VCPUS);
        let h = guest.handle;
        PHASE.store(LIVE, Release);
        crew::others().for_each(|n| crew::begin(n, hammer, h));
        crew::together();
        timer::wait(round % 5, || false);
        PHASE.store(KILLED, Release);
        // It cannot die before the last CPU has put its vCPU.
        let dying = timer::wait(20_000, || {
            let answer = hcall::call(H::StartTeardownVm, [h, 0, 0, 0]);
            answer != refusal(Refusal::Invalid)
        });
        PHASE.store(DYING, Release);
        guest.bury();
        let gone = hcall::call(H::VcpuLoad, [h, 0, 0, 0]) == refusal(Refusal::Invalid);
        PHASE.store(OVER, Release);
        let wrong: u64 = crew::others().map(crew::end).sum();
        good += u64::from(dying && gone && wrong == 0);
    }
    check_eq!(good, ROUNDS, "a VM is killed under the others' hands, {ROUNDS} times");
    let many = crew::count() == 1 || RUNS.load(Relaxed) > 0;
    check!(many, "and it ran: {} times", RUNS.load(Relaxed));
}
