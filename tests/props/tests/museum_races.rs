//! The rows of docs/museum.md that need several CPUs at once. A thread is a CPU of the fake machine;
//! whatever the order was, what came out must be what some order explains.

use std::sync::Barrier;
use std::thread;

use hyp_abi::{Hypercall as H, Refusal, Ret};
use hyp_core::fake::{FakeMachine, become_cpu};
use hyp_core::{CpuLocal, Hyp, Outcome};
use props::Rig;

const GUEST: u64 = 0x40000;
const RWX: u64 = 15;
const ROOT: u64 = 0x40000;
const RUN: u64 = 0x40010;
const INVALID: i64 = Refusal::Invalid as i64;
const NOT_FOUND: i64 = Refusal::NotFound as i64;
const NOT_PERMITTED: i64 = Refusal::NotPermitted as i64;
const NO_MEMORY: i64 = Refusal::NoMemory as i64;

fn rounds() -> u64 {
    if cfg!(miri) { 3 } else { 60 }
}

fn outcome(hyp: &Hyp<FakeMachine>, cpu: &mut CpuLocal, call: H, args: &[u64]) -> Outcome {
    let mut regs = [call.function_id(), 0, 0, 0, 0];
    regs[1..=args.len()].copy_from_slice(args);
    hyp.hypercall(cpu, regs)
}

fn call(hyp: &Hyp<FakeMachine>, cpu: &mut CpuLocal, call: H, args: &[u64]) -> Ret {
    match outcome(hyp, cpu, call, args) {
        Outcome::Ret(ret) => ret,
        other => panic!("{call:?} is {other:?}"),
    }
}

/// A VM with `vcpus` places for vCPUs, and as many pages lent to EL2 from [`RUN`] on.
fn vm(hyp: &Hyp<FakeMachine>, vcpus: u64) -> u64 {
    become_cpu(0);
    let cpu = &mut CpuLocal::new(0);
    let handle = call(hyp, cpu, H::ReserveVm, &[]).x1 as u64;
    assert_eq!(call(hyp, cpu, H::InitVm, &[handle, vcpus, ROOT, 0]).x1, 0);
    for n in 0..vcpus {
        assert_eq!(call(hyp, cpu, H::ShareHyp, &[RUN + n]).x1, 0);
    }
    handle
}

/// Ends a dying VM in which nothing is mapped; every page but EL2's is then the host's own.
fn end(hyp: &Hyp<FakeMachine>, handle: u64, vcpus: u64) {
    let cpu = &mut CpuLocal::new(0);
    while call(hyp, cpu, H::ReclaimVmPage, &[handle]).x1 >= 0 {}
    assert_eq!(call(hyp, cpu, H::FinalizeTeardownVm, &[handle]), Ret::default());
    for n in 0..vcpus {
        assert_eq!(call(hyp, cpu, H::UnshareHyp, &[RUN + n]).x1, 0, "a pin was leaked");
    }
    let run = call(hyp, cpu, H::AuditHost, &[ROOT]);
    assert_eq!((run.x1, run.x3, run.x4), (0x200, 3 << 8, 0));
    hyp.machine().settle();
    assert_eq!(hyp.machine().take_violations(), [""; 0]);
}

/// What one CPU does.
type Work<'a, T> = Box<dyn FnOnce(&mut CpuLocal) -> T + Send + 'a>;

/// One thread for each CPU, all starting at once.
fn at_once<const N: usize, T: Send>(work: [Work<'_, T>; N]) -> [T; N] {
    let barrier = &Barrier::new(N);
    thread::scope(|s| {
        let mut cpu = 0;
        let threads = work.map(|work| {
            cpu += 1;
            let number = cpu - 1;
            s.spawn(move || {
                become_cpu(number);
                barrier.wait();
                work(&mut CpuLocal::new(number))
            })
        });
        threads.map(|thread| thread.join().expect("no thread panics"))
    })
}

#[test]
fn init_load_and_teardown_of_one_vcpu_at_once_are_done_in_some_order() {
    for _ in 0..rounds() {
        let rig = Rig::new();
        let hyp = rig.hyp();
        let handle = vm(hyp, 1);
        let [init, load, teardown] = at_once([
            Box::new(|cpu: &mut CpuLocal| call(hyp, cpu, H::InitVcpu, &[handle, 0, RUN]).x1),
            Box::new(|cpu: &mut CpuLocal| {
                let load = call(hyp, cpu, H::VcpuLoad, &[handle, 0]).x1;
                if load == 0 {
                    assert_eq!(outcome(hyp, cpu, H::VcpuRun, &[]), Outcome::Run);
                    assert_eq!(cpu.context().map(|ctx| (ctx.pc, ctx.pstate)), Some((0, 0x3c5)));
                    assert_eq!(call(hyp, cpu, H::VcpuPut, &[]), Ret::default());
                }
                load
            }),
            Box::new(|cpu: &mut CpuLocal| call(hyp, cpu, H::StartTeardownVm, &[handle]).x1),
        ]);
        let explained = match (init, load, teardown) {
            // All three in turn, or the load too early, or the end between the two.
            (0, 0 | NOT_FOUND | INVALID, 0) => true,
            // The end came while the vCPU was loaded.
            (0, 0, INVALID) => true,
            // The end came first; a load before it found nothing.
            (INVALID, INVALID | NOT_FOUND, 0) => true,
            _ => false,
        };
        assert!(explained, "init {init}, load {load}, teardown {teardown}");
        become_cpu(0);
        let cpu = &mut CpuLocal::new(0);
        assert_eq!(call(hyp, cpu, H::AuditHost, &[RUN]).x4 >> 32, u64::from(init == 0), "pins");
        if teardown != 0 {
            assert_eq!(call(hyp, cpu, H::StartTeardownVm, &[handle]).x1, 0);
        }
        end(hyp, handle, 1);
    }
}

#[test]
fn a_load_beside_an_init_comes_before_or_after_it_and_spoils_nothing() {
    for _ in 0..rounds() {
        let rig = Rig::new();
        let hyp = rig.hyp();
        let handle = vm(hyp, 1);
        let load = |cpu: &mut CpuLocal| {
            let load = call(hyp, cpu, H::VcpuLoad, &[handle, 0]).x1;
            if load == 0 {
                assert_eq!(outcome(hyp, cpu, H::VcpuRun, &[]), Outcome::Run);
                assert_eq!(call(hyp, cpu, H::VcpuPut, &[]).x1, 0);
            }
            load
        };
        let [init, early] = at_once([
            Box::new(|cpu: &mut CpuLocal| call(hyp, cpu, H::InitVcpu, &[handle, 0, RUN]).x1),
            Box::new(load),
        ]);
        assert!(init == 0 && matches!(early, 0 | NOT_FOUND), "init {init}, load {early}");
        become_cpu(0);
        let cpu = &mut CpuLocal::new(0);
        assert_eq!(load(cpu), 0, "after a load that answered {early}");
        assert_eq!(call(hyp, cpu, H::StartTeardownVm, &[handle]).x1, 0);
        end(hyp, handle, 1);
    }
}

#[test]
fn two_faults_on_one_gfn_at_once_map_it_once() {
    for _ in 0..rounds() {
        let rig = Rig::new();
        let hyp = rig.hyp();
        let handle = vm(hyp, 2);
        let fault = |idx: u64| {
            move |cpu: &mut CpuLocal| {
                assert_eq!(call(hyp, cpu, H::InitVcpu, &[handle, idx, RUN + idx]).x1, 0);
                assert_eq!(call(hyp, cpu, H::VcpuLoad, &[handle, idx]).x1, 0);
                for n in 0..2 {
                    let page = 0x40020 + idx * 0x10 + n;
                    assert!(call(hyp, cpu, H::MemcacheTopup, &[page]).x1 > 0);
                }
                let x1 = call(hyp, cpu, H::ShareGuest, &[0x40050 + idx, GUEST, 1, RWX]).x1;
                assert_eq!(call(hyp, cpu, H::VcpuPut, &[]).x1, 0);
                x1
            }
        };
        let mut answers = at_once([Box::new(fault(0)), Box::new(fault(1))]);
        answers.sort_unstable();
        assert_eq!(answers, [NOT_PERMITTED, 0]);
        become_cpu(0);
        let cpu = &mut CpuLocal::new(0);
        let stats = call(hyp, cpu, H::VmStats, &[handle]);
        assert_eq!((stats.x1, stats.x2, stats.x3), (4, 2, 1), "two tables used, two left");
        assert_eq!(call(hyp, cpu, H::UnshareGuest, &[handle, GUEST, 1]).x1, 0);
        assert_eq!(call(hyp, cpu, H::StartTeardownVm, &[handle]).x1, 0);
        end(hyp, handle, 2);
    }
}

#[test]
fn vcpus_on_all_cpus_init_load_map_and_put_at_once_without_a_lock_up() {
    let rig = Rig::new();
    let hyp = rig.hyp();
    let handle = vm(hyp, 3);
    let live = |idx: u64| {
        move |cpu: &mut CpuLocal| {
            assert_eq!(call(hyp, cpu, H::InitVcpu, &[handle, idx, RUN + idx]).x1, 0);
            let (mine, mut next) = (0x40040 + idx * 0x40, 0x40041 + idx * 0x40);
            // In another gigabyte for each, so that tables come and go.
            let gfn = GUEST + (idx << 18);
            for round in 0..rounds() {
                assert_eq!(call(hyp, cpu, H::VcpuLoad, &[handle, idx]).x1, 0);
                let args = [mine, gfn + round, 1, RWX];
                while let NO_MEMORY = call(hyp, cpu, H::ShareGuest, &args).x1 {
                    assert!(call(hyp, cpu, H::MemcacheTopup, &[next]).x1 > 0);
                    next += 1;
                }
                assert_eq!(call(hyp, cpu, H::VcpuPut, &[]).x1, 0);
                assert_eq!(call(hyp, cpu, H::UnshareGuest, &[handle, gfn + round, 1]).x1, 0);
            }
            next - 1 - mine
        }
    };
    let given = at_once([Box::new(live(0)), Box::new(live(1)), Box::new(live(2))]);
    assert!(given.iter().all(|pages| *pages <= 6), "tables were lost: {given:?} pages donated");
    become_cpu(0);
    let cpu = &mut CpuLocal::new(0);
    assert_eq!(call(hyp, cpu, H::VmStats, &[handle]).x1, 2, "only the roots are left");
    assert_eq!(call(hyp, cpu, H::StartTeardownVm, &[handle]).x1, 0);
    end(hyp, handle, 3);
}
