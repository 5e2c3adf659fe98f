//! The dirty log and ageing: exactly the pages written, exactly the pages touched.

use host_mirror::fake::{FakeEl2, GuestFault, gfn};
use hyp_abi::{Hypercall, Prot};

use super::*;
use crate::fault::tests::{READ, WRITE, memory};
use crate::fault::{Access, Fault};
use crate::testing::TestHost;

/// A guest's access with all faults resolved, as the shim does it.
fn guest(el2: &FakeEl2, host: &TestHost<'_>, memory: &Memory<'_>, at: u64, write: bool) {
    let wanted = if write { Prot::W } else { Prot::R };
    for _ in 0..3 {
        let permission = match el2.touch(memory.mirror().handle(), at, wanted) {
            Ok(()) => return,
            Err(fault) => fault == GuestFault::Permission,
        };
        let access = Access { permission, ..if write { WRITE } else { READ } };
        assert_eq!(memory.fault(host, gfn(at), access), Fault::Retry);
    }
    panic!("page {at} still faults");
}

fn dirty(memory: &Memory<'_>) -> Vec<u64> {
    let mut all = Vec::new();
    let mut at = gfn(0);
    while let Some(page) = memory.next_dirty(at) {
        all.push(page.raw());
        at = page.add(1).unwrap();
    }
    all
}

fn young(host: &TestHost<'_>, memory: &Memory<'_>) -> Vec<u64> {
    let mut all = Vec::new();
    let mut at = gfn(0);
    while let Some(page) = memory.next_young(host, at).unwrap() {
        all.push(page.raw());
        at = page.add(1).unwrap();
    }
    all
}

#[test]
fn the_log_names_exactly_the_pages_written_since_it_was_started() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    for at in 16..40 {
        guest(&el2, &host, &memory, at, true);
    }
    assert_eq!(dirty(&memory), []);
    memory.start_log(&host).unwrap();
    assert_eq!(dirty(&memory), []);
    for (at, write) in [(16, false), (17, true), (20, true), (17, true), (39, true), (30, false)] {
        guest(&el2, &host, &memory, at, write);
    }
    // Pages first touched while the log is on: written at once, read, read and then written.
    guest(&el2, &host, &memory, 41, true);
    guest(&el2, &host, &memory, 42, false);
    guest(&el2, &host, &memory, 43, false);
    guest(&el2, &host, &memory, 43, true);
    assert_eq!(dirty(&memory), [17, 20, 39, 41, 43]);
    memory.start_log(&host).unwrap();
    assert_eq!(dirty(&memory), []);
    guest(&el2, &host, &memory, 20, true);
    assert_eq!(dirty(&memory), [20]);
    assert!(memory.mirror().audit(&host).is_ok());
}

#[test]
fn the_cursor_may_start_anywhere() {
    let log = DirtyLog::new();
    log.mark(gfn(5));
    assert!(!log.is_on());
    assert_eq!(log.next(gfn(0)), None);
    log.restart();
    assert!(log.is_on());
    for at in [5, 63, 64, 1000, (1 << 36) - 1] {
        log.mark(gfn(at));
    }
    let next = |at| log.next(gfn(at)).map(Gfn::raw);
    assert_eq!(next(0), Some(5));
    assert_eq!(next(5), Some(5));
    assert_eq!(next(6), Some(63));
    assert_eq!(next(64), Some(64));
    assert_eq!(next(65), Some(1000));
    assert_eq!(next(1001), Some((1 << 36) - 1));
    log.restart();
    assert_eq!(next(0), None);
}

#[test]
fn ageing_names_exactly_the_pages_touched_since_even_through_a_tlb() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    for at in (16..40).chain([64]) {
        guest(&el2, &host, &memory, at, at < 40);
    }
    memory.start_ageing(&host).unwrap();
    assert_eq!(young(&host, &memory), []);
    for at in [16, 31, 39, 64] {
        guest(&el2, &host, &memory, at, false);
    }
    assert_eq!(young(&host, &memory), [16, 31, 39, 64]);
    // Asking does not age.
    assert_eq!(young(&host, &memory), [16, 31, 39, 64]);
    guest(&el2, &host, &memory, 47, true);
    assert_eq!(young(&host, &memory), [16, 31, 39, 47, 64]);
}

#[test]
fn a_search_for_young_pages_stops_at_the_first_and_skips_holes() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    for at in [16, 64] {
        guest(&el2, &host, &memory, at, false);
    }
    memory.start_ageing(&host).unwrap();
    guest(&el2, &host, &memory, 64, false);
    el2.take_calls();
    assert_eq!(memory.next_young(&host, gfn(0)), Ok(Some(gfn(64))));
    let vm = memory.mirror().handle().raw();
    assert_eq!(el2.take_calls(), [(Hypercall::TestClearYoung, [vm, 16, 64, 0])]);
    assert_eq!(memory.next_young(&host, gfn(65)), Ok(None));
}

#[test]
fn the_service_answers_its_four_calls_and_no_other() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    let call = |id, x1| memory.service(&host, id, x1);
    guest(&el2, &host, &memory, 16, true);
    assert_eq!(call(function::COLLECT, 0), Some(NONE));
    assert_eq!(call(function::START, 0), Some(0));
    guest(&el2, &host, &memory, 16, true);
    guest(&el2, &host, &memory, 18, true);
    assert_eq!(call(function::COLLECT, 0), Some(16));
    assert_eq!(call(function::COLLECT, 17), Some(18));
    assert_eq!(call(function::COLLECT, 19), Some(NONE));
    assert_eq!(call(function::AGE_START, 0), Some(0));
    assert_eq!(call(function::AGE_NEXT, 0), Some(NONE));
    guest(&el2, &host, &memory, 18, false);
    assert_eq!(call(function::AGE_NEXT, 3), Some(18));
    for hostile in [u64::MAX, 1 << 63, 1 << 36, (1 << 36) - 1] {
        assert_eq!(call(function::COLLECT, hostile), Some(NONE));
        assert_eq!(call(function::AGE_NEXT, hostile), Some(NONE));
    }
    assert_eq!(call(0xc600_00f4, 0), None);
    assert_eq!(call(0xc600_00ef, 0), None);
}

#[test]
fn what_el2_refuses_the_guest_is_told() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    guest(&el2, &host, &memory, 16, true);
    let invalid = Some(u64::MAX - 21);
    for (id, call) in [
        (function::START, Hypercall::Wrprotect),
        (function::AGE_START, Hypercall::TestClearYoung),
        (function::AGE_START, Hypercall::TlbFlushVmid),
        (function::AGE_NEXT, Hypercall::TestClearYoung),
    ] {
        el2.refuse(call, 0, Refusal::Invalid);
        assert_eq!(memory.service(&host, id, 0), invalid);
    }
}
