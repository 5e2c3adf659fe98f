//! Pages between the host and EL2: rows of the transition table, by hypercall.

use super::*;
use Hypercall::{AuditHost, InitVcpu, MemcacheTopup, ReserveVm, ShareGuest, ShareHyp, UnshareHyp};
use hyp_abi::PageState;

#[test]
fn a_page_is_shared_with_el2_once_and_taken_back_once() {
    let mut w = World::new();
    w.refuse(Refusal::NotPermitted, UnshareHyp, &[HOST]);
    w.done(ShareHyp, &[HOST]);
    assert_eq!(w.word(HOST).host(), PageState::SharedOwned);
    assert_eq!(w.word(HOST).hyp(), PageState::SharedBorrowed);
    w.refuse(Refusal::NotPermitted, ShareHyp, &[HOST]);
    assert!(w.host_reaches(HOST), "a shared page stays the host's to use");
    w.done(UnshareHyp, &[HOST]);
    assert!(w.is_hosts_own(HOST));
    w.refuse(Refusal::NotPermitted, UnshareHyp, &[HOST]);
}

#[test]
fn numbers_that_are_no_page_are_malformed() {
    let mut w = World::new();
    w.vm();
    for bad in HOSTILE {
        w.refuse(Refusal::Invalid, ShareHyp, &[bad]);
        w.refuse(Refusal::Invalid, UnshareHyp, &[bad]);
        w.refuse(Refusal::Invalid, MemcacheTopup, &[bad]);
        w.refuse(Refusal::Invalid, ShareGuest, &[bad, GUEST, 1, 15]);
    }
}

#[test]
fn pages_that_are_not_the_hosts_are_refused() {
    let mut w = World::new();
    w.vm();
    w.topup(4);
    // A device, beyond the regions on each side, EL2's image, its pool, its last page, the last
    // page number there is.
    let foreign =
        [0x9000, EL2 - 1, SMALL - 1, SMALL + 16, EL2 + 3, EL2 + 9, EL2_END - 1, GICH, GICV];
    for n in foreign.into_iter().chain([(1 << 36) - 1]) {
        w.refuse(Refusal::NotPermitted, ShareHyp, &[n]);
        w.refuse(Refusal::NotPermitted, UnshareHyp, &[n]);
        w.refuse(Refusal::NotPermitted, MemcacheTopup, &[n]);
        w.refuse(Refusal::NotPermitted, ShareGuest, &[n, GUEST, 1, 15]);
    }
    // The neighbours on the inner side are the host's.
    for n in [EL2_END, EL2 + 0x5ff, SMALL, SMALL + 15] {
        w.done(ShareHyp, &[n]);
    }
}

/// The rows of pKVM's self-test table for the states that exist, on one page.
#[test]
fn a_page_in_one_use_is_refused_for_every_other() {
    let mut w = World::new();
    let vm = w.vm_of(2);
    w.done(Hypercall::VcpuLoad, &[vm.handle, 0]);
    w.topup(2);
    let other = w.ok(ReserveVm, &[]);
    let page = w.page();
    let share = [page, GUEST, 1, 15];

    w.done(ShareHyp, &[page]);
    w.refuse(Refusal::NotPermitted, MemcacheTopup, &[page]);
    w.refuse(Refusal::NotPermitted, ShareGuest, &share);
    w.refuse(Refusal::NoMemory, Hypercall::InitVm, &[other, 1, page & !1, 0]);
    w.done(UnshareHyp, &[page]);

    w.done(ShareGuest, &share);
    w.refuse(Refusal::NotPermitted, ShareHyp, &[page]);
    w.refuse(Refusal::NotPermitted, UnshareHyp, &[page]);
    w.refuse(Refusal::NotPermitted, MemcacheTopup, &[page]);
    w.refuse(Refusal::NotPermitted, InitVcpu, &[vm.handle, 1, page]);
    w.done(Hypercall::UnshareGuest, &[vm.handle, GUEST, 1]);

    assert_eq!(w.ok(MemcacheTopup, &[page]), 1);
    w.refuse(Refusal::NotPermitted, ShareHyp, &[page]);
    w.refuse(Refusal::NotPermitted, UnshareHyp, &[page]);
    w.refuse(Refusal::NotPermitted, MemcacheTopup, &[page]);
    w.refuse(Refusal::NotPermitted, ShareGuest, &share);
    for n in [vm.root, vm.root + 1] {
        w.refuse(Refusal::NotPermitted, ShareHyp, &[n]);
        w.refuse(Refusal::NotPermitted, MemcacheTopup, &[n]);
        w.refuse(Refusal::NotPermitted, ShareGuest, &[n, GUEST, 1, 15]);
    }
}

#[test]
fn a_pinned_page_cannot_be_taken_back() {
    let mut w = World::new();
    let vm = w.vm();
    w.refuse(Refusal::Busy, UnshareHyp, &[vm.run]);
    assert_eq!(w.word(vm.run).pins(), 1);
    w.end(vm, &[]);
    w.assert_all_is_the_hosts();
}

#[test]
fn the_audit_streams_runs_of_equal_state() {
    let mut w = World::new();
    let found = |w: &mut World, from| w.call(AuditHost, &[from]);
    let el2 = Ret { x1: 16, x2: EL2, x3: 3, x4: 0, x5: EL2_END };
    // Host state NoPage (3), EL2 state Owned (0); table counts are not shown.
    assert_eq!(found(&mut w, 0), el2);
    assert_eq!(found(&mut w, EL2 + 3), Ret { x1: 13, x2: EL2 + 3, ..el2 });
    let own = Ret { x1: 0x600 - 16, x2: EL2_END, x3: 3 << 8, x4: 0, x5: EL2 + 0x600 };
    assert_eq!(found(&mut w, EL2_END), own);
    assert_eq!(found(&mut w, EL2 + 0x600), Ret { x1: 16, x2: SMALL, x5: SMALL + 16, ..own });
    assert_eq!(found(&mut w, SMALL + 15), Ret { x1: 1, x2: SMALL + 15, x5: SMALL + 16, ..own });
    assert_eq!(found(&mut w, SMALL + 16), Ret { x1: 2, x2: TINY, x5: TINY + 2, ..own });
    for end in [TINY + 2, u64::MAX, 1 << 36] {
        w.refuse(Refusal::NotFound, AuditHost, &[end]);
    }
    w.done(ShareHyp, &[HOST]);
    assert_eq!(found(&mut w, HOST), Ret { x1: 1, x2: HOST, x3: 0x201, x4: 0, x5: HOST + 1 });
    let before = Ret { x1: 0x1f0, x2: EL2_END, x3: 0x300, x4: 0, x5: HOST };
    assert_eq!(found(&mut w, EL2_END), before);
}

#[test]
fn the_audit_shows_counts_and_tells_pages_with_other_counts_apart() {
    let mut w = World::new();
    w.set_word(HOST, Word::from_raw(0).share_guest().unwrap());
    let twice = Word::from_raw(0).share_guest().unwrap().share_guest().unwrap();
    w.set_word(HOST + 1, twice);
    w.set_word(HOST + 2, twice);
    let pinned = Word::from_raw(0).share_hyp().unwrap().pin().unwrap();
    w.set_word(HOST + 3, pinned.pin().unwrap().pin().unwrap());
    let expect = [
        Ret { x1: 1, x2: HOST, x3: 0x301, x4: 1, x5: HOST + 1 },
        Ret { x1: 2, x2: HOST + 1, x3: 0x301, x4: 2, x5: HOST + 3 },
        Ret { x1: 1, x2: HOST + 3, x3: 0x201, x4: 3 << 32, x5: HOST + 4 },
    ];
    for ret in expect {
        assert_eq!(w.call(AuditHost, &[ret.x2]), ret);
    }
}
