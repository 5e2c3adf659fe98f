//! Each operation: what it does, what it refuses, and that a refusal changes nothing.

use hyp_abi::{Hypercall, Prot, Refusal, Ret};

use super::{el2, loaded, map, runs};
use crate::fake::{FakeCpu, GuestFault, gfn, pfn};
use crate::{AuditError, AuditReport, Calls, Destroyed, Hypercalls, Mapping, Mirror, Unmapped};

const RWX: Prot = Prot::RWX;

#[test]
fn a_mapped_page_is_at_el2_and_in_the_mirror() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    map(&cpu, &mirror, 0x40000, 0x1234, RWX);
    assert_eq!(el2.pages(vm)[&0x40000].pfn, 0x1234);
    let page = Mapping { pfn: pfn(0x1234), nr: 1, prot: RWX };
    assert_eq!(mirror.get(gfn(0x40000)), Some(page));
    assert_eq!(mirror.get(gfn(0x3ffff)), None);
    assert_eq!(mirror.get(gfn(0x40001)), None);
    assert_eq!((mirror.pages(), mirror.entries()), (1, 1));
    assert_eq!(mirror.handle(), vm);
    let calls = el2.take_calls();
    assert_eq!(calls, [(Hypercall::ShareGuest, [0x1234, 0x40000, 1, RWX.bits()])]);
}

#[test]
fn a_second_fault_on_one_page_is_a_race_and_asks_el2_nothing() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    map(&cpu, &mirror, 5, 50, RWX);
    el2.take_calls();
    assert_eq!(mirror.map(&cpu, gfn(5), pfn(51), RWX), Err(Refusal::Raced));
    assert!(el2.take_calls().is_empty());
    assert_eq!(el2.pages(vm)[&5].pfn, 50);
    assert_eq!(mirror.counters().raced, 1);
    assert_eq!(mirror.counters().refused, 0);
}

#[test]
fn a_refusal_of_ownership_without_a_mapping_is_an_error_not_a_race() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    cpu.share_hyp(pfn(50)).unwrap();
    assert_eq!(mirror.map(&cpu, gfn(5), pfn(50), RWX), Err(Refusal::NotPermitted));
    assert_eq!(runs(&mirror), []);
    assert_eq!(mirror.counters().refused, 1);
    assert_eq!(mirror.counters().mapped, 0);
}

#[test]
fn a_refused_map_leaves_the_mirror_as_it_was_wherever_the_page_would_have_gone() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    map(&cpu, &mirror, 10, 100, RWX);
    map(&cpu, &mirror, 12, 102, RWX);
    let before = runs(&mirror);
    // Between two runs, after a run, before a run, and alone.
    for (at, frame) in [(11, 101), (13, 103), (9, 99), (50, 7)] {
        el2.refuse(Hypercall::ShareGuest, 0, Refusal::NoMemory);
        assert_eq!(mirror.map(&cpu, gfn(at), pfn(frame), RWX), Err(Refusal::NoMemory));
        assert_eq!(runs(&mirror), before, "gfn {at}");
    }
    map(&cpu, &mirror, 11, 101, RWX);
    assert_eq!(runs(&mirror), [(10, 100, 3, RWX)]);
}

#[test]
fn contiguous_pages_are_one_run_in_whatever_order_they_come() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 3, 1], [1, 3, 0, 2]] {
        let el2 = el2();
        let (cpu, mirror, _) = loaded(&el2);
        for n in order {
            map(&cpu, &mirror, 0x100 + n, 0x900 + n, RWX);
        }
        assert_eq!(runs(&mirror), [(0x100, 0x900, 4, RWX)], "{order:?}");
        assert_eq!((mirror.pages(), mirror.entries()), (4, 1));
    }
}

#[test]
fn pages_that_differ_in_anything_stay_apart() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    map(&cpu, &mirror, 10, 100, RWX);
    map(&cpu, &mirror, 11, 102, RWX); // pfn not adjacent
    map(&cpu, &mirror, 12, 103, Prot::RX); // other rights
    map(&cpu, &mirror, 14, 105, Prot::RX); // gfn not adjacent
    map(&cpu, &mirror, 9, 101, RWX); // pfn follows the wrong way
    assert_eq!(
        runs(&mirror),
        [
            (9, 101, 1, RWX),
            (10, 100, 1, RWX),
            (11, 102, 1, RWX),
            (12, 103, 1, Prot::RX),
            (14, 105, 1, Prot::RX)
        ]
    );
    assert_eq!(mirror.entries(), 5);
}

#[test]
fn unmapping_the_middle_of_a_run_splits_it() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    for n in 0..10 {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    let mut freed = Vec::new();
    let done = mirror.unmap(&cpu, gfn(3), 4, |at, frame| freed.push((at.raw(), frame.raw())));
    assert_eq!(done, Unmapped { pages: 4, refused: None });
    assert_eq!(freed, [(6, 106), (5, 105), (4, 104), (3, 103)]);
    assert_eq!(runs(&mirror), [(0, 100, 3, RWX), (7, 107, 3, RWX)]);
    assert!(el2.pages(vm).keys().copied().eq([0, 1, 2, 7, 8, 9]));
    assert_eq!(mirror.counters().unmapped, 4);
}

#[test]
fn unmapping_sees_a_run_that_starts_before_the_range_and_one_that_ends_after_it() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    for n in [0, 1, 2, 3, 8, 9, 10, 11] {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    let done = mirror.unmap(&cpu, gfn(2), 8, |_, _| {});
    assert_eq!(done.pages, 4);
    assert_eq!(runs(&mirror), [(0, 100, 2, RWX), (10, 110, 2, RWX)]);
}

#[test]
fn unmapping_twice_or_nothing_is_no_error() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    map(&cpu, &mirror, 7, 70, RWX);
    let none = Unmapped { pages: 0, refused: None };
    assert_eq!(mirror.unmap(&cpu, gfn(8), 100, |_, _| {}), none);
    assert_eq!(mirror.unmap(&cpu, gfn(0), 7, |_, _| {}), none);
    assert_eq!(mirror.unmap(&cpu, gfn(7), 0, |_, _| {}), none);
    assert_eq!(mirror.unmap(&cpu, gfn(7), 1, |_, _| {}).pages, 1);
    assert_eq!(mirror.unmap(&cpu, gfn(7), 1, |_, _| {}), none);
}

#[test]
fn a_refused_unmap_stops_and_leaves_the_rest_mapped_and_joined() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    for n in 0..8 {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    el2.refuse(Hypercall::UnshareGuest, 0, Refusal::Busy);
    let done = mirror.unmap(&cpu, gfn(2), 4, |_, _| panic!("nothing was freed"));
    assert_eq!(done, Unmapped { pages: 0, refused: Some((gfn(5), Refusal::Busy)) });
    assert_eq!(runs(&mirror), [(0, 100, 8, RWX)]);
    el2.refuse(Hypercall::UnshareGuest, 2, Refusal::Busy);
    let done = mirror.unmap(&cpu, gfn(2), 4, |_, _| {});
    assert_eq!(done, Unmapped { pages: 2, refused: Some((gfn(3), Refusal::Busy)) });
    assert_eq!(runs(&mirror), [(0, 100, 4, RWX), (6, 106, 2, RWX)]);
    assert!(el2.pages(vm).keys().copied().eq([0, 1, 2, 3, 6, 7]));
    assert_eq!(mirror.counters().refused, 2);
}

#[test]
fn the_last_frames_of_the_address_space_are_frames_like_others() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    let last = (1 << 36) - 1;
    el2.refuse(Hypercall::ShareGuest, 0, Refusal::OutOfRange);
    assert_eq!(mirror.map(&cpu, gfn(last), pfn(1), RWX), Err(Refusal::OutOfRange));
    assert_eq!(runs(&mirror), []);
    let top = (1 << 28) - 1;
    map(&cpu, &mirror, top, (1 << 36) - 1, RWX);
    map(&cpu, &mirror, top - 1, (1 << 36) - 2, RWX);
    assert_eq!(runs(&mirror), [(top - 1, (1 << 36) - 2, 2, RWX)]);
    assert_eq!(mirror.unmap(&cpu, gfn(top), u64::MAX, |_, _| {}).pages, 1);
    assert_eq!(mirror.unmap(&cpu, gfn(0), u64::MAX, |_, _| {}).pages, 1);
}

#[test]
fn destroy_gives_everything_back() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    for n in [1, 2, 3, 9, 20, 21] {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    let mut freed = Vec::new();
    let done = mirror.destroy(&cpu, |at, frame| freed.push((at.raw(), frame.raw())));
    assert_eq!(done, Destroyed { pages: 6, stuck: 0, refused: None });
    assert_eq!(freed, [(21, 121), (20, 120), (9, 109), (3, 103), (2, 102), (1, 101)]);
    assert_eq!((mirror.pages(), mirror.entries()), (0, 0));
    assert!(el2.pages(vm).is_empty());
    assert_eq!(el2.shares(101), 0);
    assert_eq!(mirror.counters().unmapped, 6);
    assert_eq!(mirror.destroy(&cpu, |_, _| {}), Destroyed::default());
}

#[test]
fn destroy_goes_on_past_refusals_and_keeps_what_is_stuck() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    for n in 0..6 {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    // Pages 4 and 3 (the second and third call) are kept.
    el2.refuse(Hypercall::UnshareGuest, 1, Refusal::Busy);
    el2.refuse(Hypercall::UnshareGuest, 0, Refusal::NotPermitted);
    let done = mirror.destroy(&cpu, |_, _| {});
    let stuck = runs(&mirror);
    assert_eq!(done.pages + done.stuck, 6);
    assert_eq!(done.stuck, 2);
    assert_eq!(mirror.counters().refused, 2);
    assert_eq!(mirror.entries(), stuck.len());
    assert_eq!(stuck.iter().map(|run| run.2).sum::<u64>(), 2);
    let again = mirror.destroy(&cpu, |_, _| {});
    assert_eq!(again, Destroyed { pages: 2, stuck: 0, refused: None });
}

#[test]
fn stuck_neighbours_are_one_run() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    for n in 0..4 {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    // One is taken off the list at a time: the second refusal meets the call after the first's.
    el2.refuse(Hypercall::UnshareGuest, 1, Refusal::Busy);
    el2.refuse(Hypercall::UnshareGuest, 0, Refusal::Busy);
    let done = mirror.destroy(&cpu, |_, _| {});
    assert_eq!(done.refused, Some((gfn(2), Refusal::Busy)));
    assert_eq!(runs(&mirror), [(1, 101, 2, RWX)]);
}

#[test]
fn a_write_protected_page_faults_at_its_next_write_even_through_a_tlb() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    map(&cpu, &mirror, 5, 50, RWX);
    map(&cpu, &mirror, 9, 90, RWX);
    el2.touch(vm, 5, Prot::W).unwrap();
    assert_eq!(mirror.wrprotect(&cpu, gfn(0), 6), Ok(1));
    assert_eq!(el2.touch(vm, 5, Prot::W), Err(GuestFault::Permission));
    assert_eq!(el2.touch(vm, 5, Prot::R), Ok(()));
    assert_eq!(el2.touch(vm, 9, Prot::W), Ok(()));
    assert_eq!(mirror.counters().wrprotected, 1);
}

#[test]
fn write_protection_resumes_where_el2_stopped_and_skips_holes() {
    let mut el2 = el2();
    el2.batch = 3;
    let (cpu, mirror, vm) = loaded(&el2);
    for n in (0..8).chain(100..102) {
        map(&cpu, &mirror, n, 1000 + n, RWX);
    }
    el2.take_calls();
    assert_eq!(mirror.wrprotect(&cpu, gfn(1), 100), Ok(8));
    let v = vm.raw();
    let protect = |at, nr| (Hypercall::Wrprotect, [v, at, nr, 0]);
    let expected = [
        protect(1, 7),
        protect(4, 4),
        protect(7, 1),
        protect(100, 1),
        (Hypercall::TlbFlushVmid, [v, 0, 0, 0]),
    ];
    assert_eq!(el2.take_calls(), expected);
    let writable = |n: u64| el2.pages(vm)[&n].prot.contains(Prot::W);
    assert!(writable(0) && writable(101));
    assert!((1..8).all(|n| !writable(n)) && !writable(100));
    el2.take_calls();
    assert_eq!(mirror.wrprotect(&cpu, gfn(200), 10), Ok(0));
    assert!(el2.take_calls().is_empty(), "no page, no flush");
}

/// An EL2 that says it write-protected this many pages, and that all are young.
struct Odd<'a> {
    cpu: FakeCpu<'a>,
    done: u64,
}

impl Hypercalls for Odd<'_> {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        match call {
            Hypercall::Wrprotect => Ret { x2: self.done, ..Ret::default() },
            Hypercall::TestClearYoung => Ret { x1: 1, x2: u64::MAX, ..Ret::default() },
            _ => self.cpu.call(call, args),
        }
    }
}

#[test]
fn an_answer_of_no_progress_or_too_much_is_no_endless_loop() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    map(&cpu, &mirror, 5, 50, RWX);
    map(&cpu, &mirror, 6, 51, RWX);
    let mut odd = Odd { cpu, done: 0 };
    for (done, answer) in [(0, Err(Refusal::Invalid)), (3, Err(Refusal::Invalid)), (2, Ok(2))] {
        odd.done = done;
        assert_eq!(mirror.wrprotect(&odd, gfn(0), 10), answer, "{done}");
    }
    assert_eq!(mirror.counters().refused, 2);
}

#[test]
fn no_page_beyond_the_range_is_named_young() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    map(&cpu, &mirror, 5, 50, RWX);
    let odd = Odd { cpu, done: 0 };
    let mut young = Vec::new();
    let found = mirror.test_clear_young(&odd, gfn(5), 3, false, |at| young.push(at.raw()));
    assert_eq!((found, young.as_slice()), (Ok(3), &[5, 6, 7][..]));
}

#[test]
fn a_refused_write_protection_or_flush_is_reported() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    map(&cpu, &mirror, 5, 50, RWX);
    for call in [Hypercall::Wrprotect, Hypercall::TlbFlushVmid] {
        el2.refuse(call, 0, Refusal::Invalid);
        assert_eq!(mirror.wrprotect(&cpu, gfn(0), 10), Err(Refusal::Invalid));
    }
    assert_eq!(mirror.counters().refused, 2);
}

#[test]
fn flush_hands_out_every_mapped_piece_of_the_range_once() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    for n in [0, 1, 2, 3, 6, 7, 9] {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    let mut pieces = Vec::new();
    let pages = mirror.flush(gfn(2), 6, |frame, nr| pieces.push((frame.raw(), nr)));
    assert_eq!(pieces, [(102, 2), (106, 2)]);
    assert_eq!((pages, mirror.counters().flushed), (4, 4));
}

#[test]
fn ageing_names_each_page_touched_since() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    for n in (0..200).chain(1000..1003) {
        map(&cpu, &mirror, n, 5000 + n, RWX);
    }
    assert_eq!(mirror.test_clear_young(&cpu, gfn(0), 2000, true, |_| {}), Ok(203));
    cpu.tlb_flush_vmid(vm).unwrap();
    for n in [0, 63, 64, 150, 1002] {
        el2.touch(vm, n, Prot::R).unwrap();
    }
    let mut young = Vec::new();
    let found = mirror.test_clear_young(&cpu, gfn(0), 2000, false, |at| young.push(at.raw()));
    assert_eq!(found, Ok(5));
    assert_eq!(young, [0, 63, 64, 150, 1002]);
    // Looking did not age them.
    assert_eq!(mirror.test_clear_young(&cpu, gfn(60), 10, true, |_| {}), Ok(2));
    assert_eq!(mirror.test_clear_young(&cpu, gfn(60), 10, true, |_| {}), Ok(0));
    assert_eq!(mirror.counters().young, 203 + 5 + 2);
}

#[test]
fn ageing_asks_for_64_pages_at_a_time_and_steps_over_holes() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    for n in [10, 40, 100, 5000] {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    el2.take_calls();
    mirror.test_clear_young(&cpu, gfn(0), 5010, false, |_| {}).unwrap();
    let ask = |at, nr| (Hypercall::TestClearYoung, [vm.raw(), at, nr, 0]);
    assert_eq!(el2.take_calls(), [ask(10, 64), ask(100, 64), ask(5000, 10)]);
    assert_eq!(mirror.counters().aged, 138);
    el2.refuse(Hypercall::TestClearYoung, 0, Refusal::Invalid);
    let refused = mirror.test_clear_young(&cpu, gfn(0), 100, true, |_| {});
    assert_eq!(refused, Err(Refusal::Invalid));
    assert_eq!(mirror.counters().refused, 1);
}

#[test]
fn relaxing_a_granted_right_keeps_the_run_whole() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    for n in 0..3 {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    mirror.wrprotect(&cpu, gfn(0), 3).unwrap();
    mirror.relax_perms(&cpu, gfn(1), Prot::W).unwrap();
    assert_eq!(el2.touch(vm, 1, Prot::W), Ok(()));
    assert_eq!(el2.touch(vm, 0, Prot::W), Err(GuestFault::Permission));
    assert_eq!(runs(&mirror), [(0, 100, 3, RWX)]);
    assert_eq!(mirror.counters().relaxed, 1);
}

#[test]
fn a_wider_right_splits_the_run_until_its_neighbours_have_it_too() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    for n in 0..3 {
        map(&cpu, &mirror, n, 100 + n, Prot::RX);
    }
    mirror.relax_perms(&cpu, gfn(1), Prot::W).unwrap();
    assert_eq!(runs(&mirror), [(0, 100, 1, Prot::RX), (1, 101, 1, RWX), (2, 102, 1, Prot::RX)]);
    mirror.relax_perms(&cpu, gfn(0), Prot::W).unwrap();
    assert_eq!(runs(&mirror), [(0, 100, 2, RWX), (2, 102, 1, Prot::RX)]);
    mirror.relax_perms(&cpu, gfn(2), Prot::RW).unwrap();
    assert_eq!(runs(&mirror), [(0, 100, 3, RWX)]);
    assert_eq!(mirror.entries(), 1);
}

#[test]
fn relaxing_what_is_not_there_is_a_race_and_a_refusal_changes_nothing() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    assert_eq!(mirror.relax_perms(&cpu, gfn(1), Prot::W), Err(Refusal::Raced));
    for n in 0..3 {
        map(&cpu, &mirror, n, 100 + n, Prot::R);
    }
    for wanted in [Prot::R, Prot::W] {
        el2.refuse(Hypercall::RelaxPerms, 0, Refusal::Invalid);
        assert_eq!(mirror.relax_perms(&cpu, gfn(1), wanted), Err(Refusal::Invalid));
        assert_eq!(runs(&mirror), [(0, 100, 3, Prot::R)]);
        assert_eq!(mirror.entries(), 1);
    }
    assert_eq!((mirror.counters().refused, mirror.counters().relaxed), (2, 0));
}

#[test]
fn mkyoung_marks_a_page_and_a_hole_is_no_error() {
    let el2 = el2();
    let (cpu, mirror, vm) = loaded(&el2);
    map(&cpu, &mirror, 3, 30, RWX);
    mirror.test_clear_young(&cpu, gfn(3), 1, true, |_| {}).unwrap();
    mirror.mkyoung(&cpu, gfn(3)).unwrap();
    assert!(el2.pages(vm)[&3].young);
    el2.take_calls();
    assert_eq!(mirror.mkyoung(&cpu, gfn(4)), Ok(()));
    assert!(el2.take_calls().is_empty());
    el2.refuse(Hypercall::Mkyoung, 0, Refusal::Invalid);
    assert_eq!(mirror.mkyoung(&cpu, gfn(3)), Err(Refusal::Invalid));
    assert_eq!((mirror.counters().made_young, mirror.counters().refused), (1, 1));
}

#[test]
fn what_does_not_exist_yet_is_refused_by_name() {
    let el2 = el2();
    let (_, mirror, _) = loaded(&el2);
    assert_eq!(mirror.split(gfn(0), 512), Err(Refusal::Invalid));
    assert_eq!(mirror.create_unlinked(gfn(0)), Err(Refusal::Invalid));
    assert_eq!(mirror.free_unlinked(gfn(0)), Err(Refusal::Invalid));
}

#[test]
fn pieces_of_a_range_include_one_that_starts_before_it() {
    let el2 = el2();
    let (cpu, mirror, _) = loaded(&el2);
    for n in 10..20 {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    let piece = |frame, nr| Mapping { pfn: pfn(frame), nr, prot: RWX };
    assert_eq!(mirror.next_in(gfn(15), 2), Some((gfn(15), piece(115, 2))));
    assert_eq!(mirror.next_in(gfn(5), 6), Some((gfn(10), piece(110, 1))));
    assert_eq!(mirror.next_in(gfn(5), 5), None);
    assert_eq!(mirror.next_in(gfn(15), 0), None);
    assert_eq!(mirror.next_in(gfn(20), 10), None);
}

#[test]
fn the_audit_agrees_and_tells_protected_and_device_pages() {
    let mut el2 = el2();
    el2.gicv2 = true;
    let (cpu, mirror, _) = loaded(&el2);
    cpu.map_gicv(gfn(0x8010)).unwrap();
    for n in 0..6 {
        map(&cpu, &mirror, n, 100 + n, RWX);
    }
    map(&cpu, &mirror, 9, 200, Prot::RX);
    mirror.wrprotect(&cpu, gfn(2), 8).unwrap();
    let agreed = AuditReport { pages: 7, device_pages: 1, protected: 4 };
    assert_eq!(mirror.audit(&cpu), Ok(agreed));
}

#[test]
fn the_audit_finds_every_kind_of_disagreement() {
    type Tamper = fn(&mut std::collections::BTreeMap<u64, crate::fake::Page>);
    let cases: [(Tamper, AuditError); 6] = [
        (|p| p.get_mut(&2).unwrap().pfn += 50, AuditError::Differs(gfn(2))),
        (|p| p.get_mut(&3).unwrap().prot = Prot::R, AuditError::Differs(gfn(3))),
        (|p| assert_eq!(p.insert(7, p[&1]), None), AuditError::Differs(gfn(7))),
        (|p| assert!(p.remove(&1).is_some()), AuditError::Missing { mirror: 4, el2: 3 }),
        (|p| p.clear(), AuditError::Missing { mirror: 4, el2: 0 }),
        (|p| assert_eq!(p.insert(0, p[&1]), None), AuditError::Differs(gfn(0))),
    ];
    for (tamper, expected) in cases {
        let el2 = el2();
        let (cpu, mirror, vm) = loaded(&el2);
        for n in 1..5 {
            map(&cpu, &mirror, n, 100 + n, RWX);
        }
        assert!(mirror.audit(&cpu).is_ok());
        el2.tamper(vm, tamper);
        assert_eq!(mirror.audit(&cpu), Err(expected));
    }
}

#[test]
fn an_audit_that_el2_refuses_says_so() {
    let el2 = el2();
    let cpu = el2.cpu();
    let mirror = Mirror::new(hyp_abi::Handle::from_raw(77));
    assert_eq!(mirror.audit(&cpu), Err(AuditError::Refused(Refusal::Invalid)));
}
