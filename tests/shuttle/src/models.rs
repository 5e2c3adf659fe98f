//! The races: each is tried under many schedules, random ones and ones with few preemptions (PCT), and
//! must fail when the locks of the rank it names are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyp_abi::Hypercall as H;
use hyp_core::fake::Access;
use hyp_sync::{gates, rank};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use crate::machine::{Cpu, Machine};

const GUEST: u64 = 0x40000;
const RWX: u64 = 15;
const RX: u64 = 13;

fn schedules() -> usize {
    std::env::var("REDAN_SCHEDULES").map_or(200, |n| n.parse().expect("a number"))
}

/// Preemptions at places of PCT's choice.
const DEPTH: usize = 3;

fn explore(model: fn()) {
    fn run(scheduler: impl Scheduler + 'static, model: fn()) {
        let mut config = Config::default();
        // A hypervisor is put together on the stack.
        config.stack_size = 1 << 20;
        Runner::new(scheduler, config).run(model);
    }
    if let Ok(schedule) = std::env::var("REDAN_SCHEDULE") {
        return run(ReplayScheduler::new_from_encoded(&schedule), model);
    }
    run(RandomScheduler::new(schedules()), model);
    run(PctScheduler::new(DEPTH, schedules()), model);
}

/// What one CPU does.
type Work = Box<dyn FnOnce(&mut Cpu) + Send>;

fn work(work: impl FnOnce(&mut Cpu) + Send + 'static) -> Work {
    Box::new(work)
}

/// One thread for each CPU; judged when all are done.
fn at_once(machine: &Arc<Machine>, work: impl IntoIterator<Item = Work>) {
    let threads = (0..).zip(work).map(|(number, work)| {
        let mut cpu = machine.cpu(number);
        thread::spawn(move || work(&mut cpu))
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("no CPU panics");
    }
    machine.judge();
}

/// Maps a page for the loaded vCPU, giving pages for tables from page `spare` on.
fn map(cpu: &mut Cpu, page: u64, gfn: u64, spare: u64) -> i64 {
    for n in 0..2 {
        cpu.ok(H::MemcacheTopup, &[Machine::page(spare + n)]);
    }
    cpu.call(H::ShareGuest, &[Machine::page(page), gfn, 1, RWX])
}

/// Two vCPUs of a VM map and unmap in one table, another VM comes and goes, the host unmaps as well.
fn map_and_unmap() {
    let machine = Machine::new();
    let vm = machine.cpu(0).vm(0, 2);
    let guest = move |idx: u64| {
        work(move |cpu| {
            cpu.ok(H::VcpuLoad, &[vm, idx]);
            assert_eq!(map(cpu, 20 + idx, GUEST + idx, 30 + 2 * idx), 0);
            cpu.ok(H::UnshareGuest, &[vm, GUEST + idx, 1]);
            cpu.ok(H::VcpuPut, &[]);
        })
    };
    let other = work(|cpu| {
        let other = cpu.vm(10, 1);
        cpu.ok(H::StartTeardownVm, &[other]);
        cpu.ok(H::FinalizeTeardownVm, &[other]);
    });
    let host = work(move |cpu| {
        cpu.call(H::UnshareGuest, &[vm, GUEST + 7, 1]);
        cpu.call(H::Wrprotect, &[vm, GUEST, 8]);
    });
    at_once(&machine, [guest(0), guest(1), other, host]);
}

/// A vCPU is initialised, loaded twice and its VM torn down.
fn init_load_and_teardown() {
    let machine = Machine::new();
    let vm = machine.cpu(0).empty_vm(0, 1);
    let load = move || {
        work(move |cpu| {
            if cpu.call(H::VcpuLoad, &[vm, 0]) == 0 {
                assert!(cpu.run());
                cpu.ok(H::VcpuPut, &[]);
            }
        })
    };
    let init = work(move |cpu| {
        cpu.call(H::InitVcpu, &[vm, 0, Machine::page(2)]);
    });
    let end = work(move |cpu| {
        cpu.call(H::StartTeardownVm, &[vm]);
    });
    at_once(&machine, [init, load(), load(), end]);
}

/// Two vCPUs fault on one gfn; a third looks on from a CPU of its own.
fn two_faults_on_one_gfn() {
    let machine = Machine::new();
    let vm = machine.cpu(0).vm(0, 3);
    let fault = move |idx: u64| {
        work(move |cpu| {
            cpu.ok(H::VcpuLoad, &[vm, idx]);
            map(cpu, 20 + idx, GUEST, 30 + 2 * idx);
            // Whoever lost finds the winner's page.
            let found = cpu.guest(vm, GUEST, Access::Write).expect("a page");
            assert!([20, 21].map(Machine::page).contains(&found));
            cpu.ok(H::VcpuPut, &[]);
        })
    };
    let onlooker = work(move |cpu| {
        cpu.ok(H::VcpuLoad, &[vm, 2]);
        let seen: Vec<_> = (0..3).filter_map(|_| cpu.guest(vm, GUEST, Access::Read)).collect();
        assert!(seen.windows(2).all(|two| two[0] == two[1]), "one page only: {seen:x?}");
        cpu.ok(H::VcpuPut, &[]);
    });
    at_once(&machine, [fault(0), fault(1), onlooker]);
}

/// One page is lent to two VMs and to EL2, and donated: what excludes what is decided once.
fn one_page_in_four_uses() {
    let machine = Machine::new();
    let (mut boot, mut vms) = (machine.cpu(0), vec![]);
    for first in [0, 10] {
        let vm = boot.vm(first, 2);
        boot.ok(H::VcpuLoad, &[vm, 0]);
        // The tables are there already.
        assert_eq!(map(&mut boot, 20 + first, GUEST + 1, 40 + first), 0);
        boot.ok(H::VcpuPut, &[]);
        vms.push(vm);
    }
    let page = Machine::page(60);
    let lend = |vm: u64| {
        work(move |cpu| {
            cpu.ok(H::VcpuLoad, &[vm, 0]);
            if cpu.call(H::ShareGuest, &[page, GUEST, 1, RWX]) == 0 {
                cpu.ok(H::UnshareGuest, &[vm, GUEST, 1]);
            }
            cpu.ok(H::VcpuPut, &[]);
        })
    };
    let to_el2 = work(move |cpu| {
        if cpu.call(H::ShareHyp, &[page]) == 0 {
            cpu.ok(H::UnshareHyp, &[page]);
        }
    });
    let first = vms[0];
    let donate = work(move |cpu| {
        cpu.ok(H::VcpuLoad, &[first, 1]);
        let gone = cpu.call(H::MemcacheTopup, &[page]) > 0;
        assert!(!gone || !cpu.host(page), "the host reaches a donated page");
        cpu.ok(H::VcpuPut, &[]);
    });
    at_once(&machine, [lend(vms[0]), lend(vms[1]), to_el2, donate]);
}

/// A VM is torn down while its vCPUs are loaded, run and put.
fn teardown_and_run() {
    let machine = Machine::new();
    let vm = machine.cpu(0).vm(0, 3);
    let guest = move |idx: u64| {
        work(move |cpu| {
            for _ in 0..2 {
                if cpu.call(H::VcpuLoad, &[vm, idx]) != 0 {
                    return;
                }
                assert!(cpu.run(), "loaded, so it lives");
                cpu.ok(H::VcpuPut, &[]);
            }
        })
    };
    let end = work(move |cpu| {
        if cpu.call(H::StartTeardownVm, &[vm]) == 0 {
            cpu.ok(H::FinalizeTeardownVm, &[vm]);
        }
    });
    at_once(&machine, [guest(0), guest(1), guest(2), end]);
}

/// Pages go into a memcache while the host takes pages of a dying VM back, and maps what it can reach.
fn topup_and_reclaim() {
    let machine = Machine::new();
    let mut boot = machine.cpu(0);
    let (living, dying) = (boot.vm(0, 1), boot.vm(10, 1));
    boot.ok(H::VcpuLoad, &[dying, 0]);
    for n in 0..2 {
        boot.ok(H::MemcacheTopup, &[Machine::page(20 + n)]);
    }
    boot.ok(H::VcpuPut, &[]);
    boot.ok(H::StartTeardownVm, &[dying]);
    let topup = work(move |cpu| {
        cpu.ok(H::VcpuLoad, &[living, 0]);
        // The first may be the other VM's still; the second is not.
        for page in [20, 30] {
            let page = Machine::page(page);
            assert!(cpu.call(H::MemcacheTopup, &[page]) < 0 || !cpu.host(page));
        }
        cpu.ok(H::VcpuPut, &[]);
    });
    let reclaim = move || {
        work(move |cpu| {
            let page = cpu.call(H::ReclaimVmPage, &[dying]);
            if let Ok(page) = u64::try_from(page) {
                cpu.host(page);
            }
        })
    };
    let touch = work(|cpu| assert!(cpu.host(Machine::page(50))));
    at_once(&machine, [topup, reclaim(), reclaim(), touch]);
}

/// Rights are taken away and flushed while vCPUs use them and ask for them again.
fn protect_and_run() {
    let machine = Machine::new();
    let mut boot = machine.cpu(0);
    let vm = boot.vm(0, 3);
    boot.ok(H::VcpuLoad, &[vm, 0]);
    assert_eq!(map(&mut boot, 20, GUEST, 30), 0);
    boot.ok(H::VcpuPut, &[]);
    let gone = Arc::new(AtomicBool::new(false));
    let guest = |idx: u64| {
        let gone = Arc::clone(&gone);
        work(move |cpu| {
            cpu.ok(H::VcpuLoad, &[vm, idx]);
            for _ in 0..2 {
                assert!(cpu.run());
                let too_late = gone.load(Ordering::SeqCst);
                let wrote = cpu.guest(vm, GUEST, Access::Write).is_some();
                assert!(!(too_late && wrote), "a write after the flush");
            }
            cpu.ok(H::VcpuPut, &[]);
        })
    };
    let protect = {
        let gone = Arc::clone(&gone);
        work(move |cpu| {
            cpu.ok(H::Wrprotect, &[vm, GUEST, 1]);
            cpu.ok(H::TlbFlushVmid, &[vm]);
            gone.store(true, Ordering::SeqCst);
        })
    };
    let relax = work(move |cpu| {
        cpu.ok(H::VcpuLoad, &[vm, 2]);
        cpu.ok(H::RelaxPerms, &[GUEST, RX]);
        cpu.ok(H::VcpuPut, &[]);
    });
    at_once(&machine, [guest(0), guest(1), protect, relax]);
}

/// A page is unmapped while guests use it; then it is the host's own, and no guest's.
fn unmap_and_use() {
    let machine = Machine::new();
    let mut boot = machine.cpu(0);
    let vm = boot.vm(0, 2);
    boot.ok(H::VcpuLoad, &[vm, 0]);
    assert_eq!(map(&mut boot, 20, GUEST, 30), 0);
    boot.ok(H::VcpuPut, &[]);
    let gone = Arc::new(AtomicBool::new(false));
    let guest = |idx: u64| {
        let gone = Arc::clone(&gone);
        work(move |cpu| {
            cpu.ok(H::VcpuLoad, &[vm, idx]);
            for _ in 0..3 {
                let too_late = gone.load(Ordering::SeqCst);
                let reached = cpu.guest(vm, GUEST, Access::Write).is_some();
                assert!(!(too_late && reached), "an access after the page was taken away");
            }
            cpu.ok(H::VcpuPut, &[]);
        })
    };
    let unmap = || {
        let gone = Arc::clone(&gone);
        work(move |cpu| {
            if cpu.call(H::UnshareGuest, &[vm, GUEST, 1]) == 0 {
                gone.store(true, Ordering::SeqCst);
                cpu.call(H::ShareHyp, &[Machine::page(20)]);
            }
        })
    };
    at_once(&machine, [guest(0), guest(1), unmap(), unmap()]);
}

macro_rules! models {
    ($($model:ident, $test:ident; $($rank:ident $without:ident),+;)*) => { $(
        #[test]
        fn $test() {
            explore($model);
        }
        $(
            #[test]
            #[should_panic = "two hold one lock"]
            fn $without() {
                gates::open::<rank::$rank>();
                explore($model);
            }
        )+
    )* };
}

models! {
    map_and_unmap, vms_map_and_unmap_beside_each_other;
        Host mapping_needs_the_host_lock, Vm mapping_needs_the_vm_lock;
    init_load_and_teardown, a_vcpu_is_initialised_once_and_loaded_once;
        Vm a_load_needs_the_vm_lock;
    two_faults_on_one_gfn, two_faults_map_one_page;
        Host two_faults_need_the_host_lock;
    one_page_in_four_uses, one_page_has_one_use_at_a_time;
        Host one_page_needs_the_host_lock;
    teardown_and_run, no_vcpu_runs_in_a_vm_that_is_gone;
        Vm teardown_needs_the_vm_lock;
    topup_and_reclaim, no_page_is_given_and_taken_at_once;
        Host topup_needs_the_host_lock;
    protect_and_run, no_write_comes_after_the_flush;
        Vm write_protection_needs_the_vm_lock;
    unmap_and_use, no_access_comes_after_the_unmap;
        Host unmapping_needs_the_host_lock, Vm unmapping_needs_the_vm_lock;
}
