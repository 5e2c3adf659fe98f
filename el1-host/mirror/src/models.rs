//! Every interleaving of two or three CPUs at one mirror, by loom: two frames, one guest page.
//!
//! `cargo xtask loom` runs these. Each model is a function of the lock's [`Flaw`]: it passes with
//! the sound lock and must fail with each broken one. The last test breaks the discipline instead of
//! the lock. The EL2 here is the tests' model of it; each call is one step that others may run before
//! or after, and it orders nothing between CPUs, so that only the mirror's lock does.

use std::sync::Arc;

use hyp_abi::{Handle, Hypercall, Prot, Refusal, Ret};
use loom::model::Builder;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::counters::Counters;
use crate::fake::{FakeCpu, FakeEl2, gfn, pfn};
use crate::lock::{Flaw, RwLock};
use crate::runs::Runs;
use crate::{Calls, Hypercalls, Mirror};

const CPUS: u64 = 3;
const AT: u64 = 5;

struct World {
    el2: FakeEl2,
    mirror: Mirror,
    moment: AtomicU64,
}

/// A CPU whose calls are moments at which another CPU may come first.
struct Cpu<'a>(FakeCpu<'a>, &'a World);

impl Hypercalls for Cpu<'_> {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        self.1.moment.fetch_add(1, Ordering::Relaxed);
        let ret = self.0.call(call, args);
        self.1.moment.fetch_add(1, Ordering::Relaxed);
        ret
    }
}

impl World {
    /// A VM with a vCPU for each CPU; `mapped`: its page is there already, read-only.
    fn new(flaw: Flaw, mapped: bool) -> Arc<Self> {
        let mut el2 = FakeEl2::new();
        el2.free_tables = true;
        let vm = vm_of_many(&el2);
        let runs = RwLock::flawed(Runs::new(), flaw);
        let mirror = Mirror { handle: vm, runs, counters: Counters::default() };
        if mapped {
            let cpu = el2.cpu();
            cpu.vcpu_load(vm, 0).unwrap();
            mirror.map(&cpu, gfn(AT), pfn(100), Prot::R).unwrap();
            cpu.vcpu_put().unwrap();
        }
        Arc::new(Self { el2, mirror, moment: AtomicU64::new(0) })
    }

    fn cpu(&self, idx: u64) -> Cpu<'_> {
        let cpu = self.el2.cpu();
        cpu.vcpu_load(self.mirror.handle(), idx).unwrap();
        Cpu(cpu, self)
    }

    /// Both sides have the same pages, and nothing is left behind when they are gone.
    fn agree(&self) {
        let cpu = self.el2.cpu();
        let pages = self.mirror.audit(&cpu).unwrap().pages;
        let done = self.mirror.destroy(&cpu, |_, _| {});
        assert_eq!((done.pages, done.stuck), (pages, 0));
        assert!(self.el2.is_exclusive(100) && self.el2.is_exclusive(101));
    }
}

fn vm_of_many(el2: &FakeEl2) -> Handle {
    let boot = el2.cpu();
    let vm = boot.reserve_vm().unwrap();
    boot.init_vm(vm, CPUS, pfn(2)).unwrap();
    for idx in 0..CPUS {
        boot.share_hyp(pfn(10 + idx)).unwrap();
        boot.init_vcpu(vm, idx, pfn(10 + idx)).unwrap();
    }
    vm
}

type Act = fn(&World, u64);

/// Explores the acts, each on a CPU of its own, and then asks whether both sides agree. Three CPUs
/// are explored with at most one preemption (and every switch while one waits): with more, loom
/// lets two waiting CPUs take turns at spinning for ever.
fn explore(flaw: Flaw, mapped: bool, acts: &'static [Act]) {
    let mut builder = Builder::new();
    if acts.len() > 2 {
        builder.preemption_bound = Some(1);
    }
    builder.check(move || {
        let world = World::new(flaw, mapped);
        let threads: Vec<_> = (0_u64..)
            .zip(acts)
            .map(|(idx, act)| {
                let world = Arc::clone(&world);
                thread::spawn(move || act(&world, idx))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        world.agree();
    });
}

fn fault(world: &World, idx: u64) {
    let answer = world.mirror.map(&world.cpu(idx), gfn(AT), pfn(100 + idx % 2), Prot::RWX);
    assert!(matches!(answer, Ok(()) | Err(Refusal::Raced)), "{answer:?}");
}

fn unmap(world: &World, idx: u64) {
    let done = world.mirror.unmap(&world.cpu(idx), gfn(AT), 1, |_, _| {});
    assert_eq!(done.refused, None);
}

fn relax(world: &World, idx: u64) {
    let answer = world.mirror.relax_perms(&world.cpu(idx), gfn(AT), Prot::W);
    assert!(matches!(answer, Ok(()) | Err(Refusal::Raced)), "{answer:?}");
}

fn protect(world: &World, idx: u64) {
    assert!(world.mirror.wrprotect(&world.cpu(idx), gfn(AT), 1).is_ok_and(|pages| pages <= 1));
}

fn age(world: &World, idx: u64) {
    let found = world.mirror.test_clear_young(&world.cpu(idx), gfn(AT), 1, true, |_| {});
    assert!(found.is_ok_and(|pages| pages <= 1));
}

fn destroy(world: &World, idx: u64) {
    let done = world.mirror.destroy(&world.cpu(idx), |_, _| {});
    assert_eq!(done.refused, None);
}

macro_rules! models {
    ($($name:ident($mapped:expr): $($act:ident)+;)*) => { $(
        mod $name {
            use super::{Flaw, explore};

            fn model(flaw: Flaw) {
                explore(flaw, $mapped, &[$(super::$act),+]);
            }

            #[test]
            fn leaves_both_sides_equal() {
                model(Flaw::Sound);
            }

            #[test]
            #[should_panic = "Causality violation"]
            fn is_noticed_without_the_lock() {
                model(Flaw::Open);
            }
        }
    )* };
}

models! {
    two_faults_on_one_page(false): fault fault;
    a_fault_and_an_unmap(true): unmap fault;
    an_unmap_and_a_permission_fault(true): unmap relax;
    write_protection_and_a_permission_fault(true): protect relax;
    ageing_and_an_unmap(true): age unmap;
    the_end_of_a_vm_and_a_fault(true): destroy fault;
    two_ends_of_a_vm(true): destroy destroy;
    a_fault_an_unmap_and_a_permission_fault(true): unmap fault relax;
    two_faults_and_write_protection(false): fault fault protect;
}

macro_rules! noticed {
    ($($name:ident: $flaw:ident $($act:ident)+;)*) => { $(
        #[test]
        #[should_panic = "Causality violation"]
        fn $name() {
            explore(Flaw::$flaw, true, &[$($act),+]);
        }
    )* };
}

noticed! {
    writers_that_pass_a_reader_are_noticed: WritersPass unmap age;
    readers_that_pass_a_writer_are_noticed: ReadersPass unmap age;
    without_acquire_a_fault_sees_old_runs: NoAcquire unmap fault;
    without_acquire_ageing_sees_old_runs: NoAcquire unmap age;
    without_release_a_fault_sees_old_runs: NoRelease unmap fault;
    without_release_ageing_sees_old_runs: NoRelease unmap age;
}

/// A fault path that looks, lets go of the lock, and only then asks EL2.
fn hasty_fault(world: &World, idx: u64) {
    let cpu = world.cpu(idx);
    if world.mirror.get(gfn(AT)).is_some() {
        return;
    }
    cpu.share_guest(pfn(100 + idx % 2), gfn(AT), 1, Prot::RWX).unwrap();
    let page = crate::Mapping { pfn: pfn(100 + idx % 2), nr: 1, prot: Prot::RWX };
    world.mirror.runs.write().insert(gfn(AT), page);
}

#[test]
#[should_panic = "NotPermitted"]
fn a_lock_not_held_across_the_call_is_noticed() {
    explore(Flaw::Sound, false, &[hasty_fault, hasty_fault]);
}
