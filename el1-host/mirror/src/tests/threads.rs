//! Several CPUs at one mirror.

use std::sync::atomic::{AtomicU64, Ordering};

use hyp_abi::{Prot, Refusal};

use super::el2;
use crate::fake::{gfn, pfn};
use crate::{Calls, Mirror};

const CPUS: u64 = 4;

/// A VM with as many vCPUs as there are threads.
fn vm_of_many(el2: &crate::fake::FakeEl2) -> hyp_abi::Handle {
    let boot = el2.cpu();
    let vm = boot.reserve_vm().unwrap();
    boot.init_vm(vm, CPUS, pfn(2)).unwrap();
    for idx in 0..CPUS {
        boot.share_hyp(pfn(10 + idx)).unwrap();
        boot.init_vcpu(vm, idx, pfn(10 + idx)).unwrap();
    }
    vm
}

#[test]
fn of_all_cpus_that_fault_on_one_page_one_maps_it_and_the_others_race() {
    let pages = if cfg!(miri) { 8 } else { 500 };
    let el2 = el2();
    let vm = vm_of_many(&el2);
    let mirror = Mirror::new(vm);
    let (won, raced) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for idx in 0..CPUS {
            let (el2, mirror, won, raced) = (&el2, &mirror, &won, &raced);
            scope.spawn(move || {
                let cpu = el2.cpu();
                cpu.vcpu_load(vm, idx).unwrap();
                for n in 0..pages {
                    let mine = pfn(1000 + n * CPUS + idx);
                    match mirror.map(&cpu, gfn(n), mine, Prot::RWX) {
                        Ok(()) => won.fetch_add(1, Ordering::Relaxed),
                        Err(Refusal::Raced) => raced.fetch_add(1, Ordering::Relaxed),
                        Err(other) => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    assert_eq!(won.load(Ordering::Relaxed), pages);
    assert_eq!(raced.load(Ordering::Relaxed), pages * (CPUS - 1));
    assert_eq!(mirror.audit(&el2.cpu()).unwrap().pages, pages);
}

#[test]
fn mapping_unmapping_protecting_and_ageing_at_once_leave_both_sides_equal() {
    let rounds = if cfg!(miri) { 6 } else { 400 };
    let el2 = el2();
    let vm = vm_of_many(&el2);
    let mirror = Mirror::new(vm);
    std::thread::scope(|scope| {
        for idx in 0..CPUS {
            let (el2, mirror) = (&el2, &mirror);
            scope.spawn(move || {
                let cpu = el2.cpu();
                cpu.vcpu_load(vm, idx).unwrap();
                for round in 0..rounds {
                    let at = (round * 7 + idx * 13) % 64;
                    match idx {
                        0 | 1 => {
                            for n in 0..8 {
                                let frame = pfn(0x1_0000 * (idx + 1) + at + n);
                                let answer = mirror.map(&cpu, gfn(at + n), frame, Prot::RWX);
                                assert!(matches!(answer, Ok(()) | Err(Refusal::Raced)));
                            }
                        }
                        2 => {
                            assert_eq!(mirror.unmap(&cpu, gfn(at), 5, |_, _| {}).refused, None);
                            let answer = mirror.relax_perms(&cpu, gfn(at + 9), Prot::W);
                            assert!(matches!(answer, Ok(()) | Err(Refusal::Raced)));
                        }
                        _ => {
                            mirror.wrprotect(&cpu, gfn(at), 20).unwrap();
                            let mut young = 0;
                            let found =
                                mirror.test_clear_young(&cpu, gfn(at), 30, true, |_| young += 1);
                            assert_eq!(found, Ok(young));
                            mirror.mkyoung(&cpu, gfn(at)).unwrap();
                        }
                    }
                }
                cpu.vcpu_put().unwrap();
            });
        }
    });
    let cpu = el2.cpu();
    let agreed = mirror.audit(&cpu).unwrap();
    assert_eq!(agreed.pages, mirror.pages());
    assert_eq!(mirror.destroy(&cpu, |_, _| {}).pages, agreed.pages);
    assert!(el2.pages(vm).is_empty());
}
