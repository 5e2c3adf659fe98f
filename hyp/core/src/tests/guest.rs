//! A guest's memory: shared, taken back, aged, write-protected, audited.

use super::*;
use Hypercall::{
    AuditVm, MapGicv, MemcacheTopup, Mkyoung, RelaxPerms, ShareGuest, StartTeardownVm,
    TestClearYoung, TlbFlushVmid, UnmapGicv, UnshareGuest, VcpuLoad, VcpuPut, VcpuRun, VmStats,
    Wrprotect,
};
use Refusal::{Busy, Invalid, NoMemory, NotFound, NotPermitted, OutOfRange, Raced};
use hyp_abi::PageState;

/// Calls `vcpu_run`, which must accept; the guest itself is the fake's.
fn run(w: &mut World) {
    assert_eq!(w.outcome(VcpuRun, &[]), Outcome::Run);
}

#[test]
fn a_shared_page_is_the_guests_with_the_rights_given_and_the_hosts_still() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(2);
    let cases = [(Prot::RWX, true, true), (Prot::RW, true, false), (Prot::RX, false, true)];
    for ((prot, writes, fetches), gfn) in cases.into_iter().zip(GUEST..) {
        let page = w.share(gfn, prot);
        assert_eq!(w.guest_access(vm, gfn, Access::Read), Ok(page));
        assert_eq!(w.guest_access(vm, gfn, Access::Write).is_ok(), writes, "{prot:?}");
        assert_eq!(w.guest_access(vm, gfn, Access::Fetch).is_ok(), fetches, "{prot:?}");
        assert_eq!(w.word(page).shares(), 1);
        assert_eq!(w.word(page).host(), PageState::SharedOwned);
        assert!(w.host_reaches(page));
    }
    assert_eq!(w.guest_access(vm, GUEST + 3, Access::Read), Err(Fault::Translation(3)));
}

#[test]
fn a_guest_with_its_caches_off_sees_what_the_host_wrote() {
    let mut w = World::new();
    w.vm();
    w.topup(2);
    let (code, data) = (w.page(), w.page());
    for page in [code, data] {
        w.machine().poke(pfn(page), 1, 0xd503_201f);
    }
    w.done(ShareGuest, &[code, GUEST, 1, Prot::RX.bits()]);
    w.done(ShareGuest, &[data, GUEST + 1, 1, Prot::RW.bits()]);
    assert!(w.machine().is_clean(pfn(code)) && w.machine().is_code_synced(pfn(code)));
    assert!(w.machine().is_clean(pfn(data)));
    assert!(!w.machine().is_code_synced(pfn(data)), "no cost for what is not executed");
}

#[test]
fn share_guest_checks_each_argument() {
    let mut w = World::new();
    w.vm();
    w.topup(2);
    let page = w.page();
    for prot in [16, 4, 8, 4 | 3, 8 | 1, 1 << 63, u64::MAX] {
        w.refuse(Invalid, ShareGuest, &[page, GUEST, 1, prot]);
    }
    for nr in [0, 2, 512, 1 << 32 | 1, u64::MAX] {
        w.refuse(Invalid, ShareGuest, &[page, GUEST, nr, 15]);
    }
    for gfn in HOSTILE.into_iter().chain([BEYOND]) {
        w.refuse(OutOfRange, ShareGuest, &[page, gfn, 1, 15]);
    }
    w.done(ShareGuest, &[page, BEYOND - 1, 1, 15]);
    let other = w.page();
    w.refuse(NotPermitted, ShareGuest, &[other, BEYOND - 1, 1, 15]);
    w.refuse(NotPermitted, ShareGuest, &[page, BEYOND - 1, 1, 15]);
    assert_eq!(w.word(page).shares(), 1);
}

#[test]
fn one_page_at_two_places_and_in_two_vms_counts_each() {
    let mut w = World::new();
    let a = w.vm();
    w.topup(2);
    let page = w.share(GUEST, Prot::RW);
    w.done(ShareGuest, &[page, GUEST + 1, 1, 1]);
    assert_eq!(w.word(page).shares(), 2);
    let b = w.on(1).vm();
    w.topup(2);
    w.done(ShareGuest, &[page, GUEST, 1, 1]);
    assert_eq!(w.word(page).shares(), 3);
    assert_eq!(w.guest_access(b, GUEST, Access::Read), Ok(page));
    w.done(UnshareGuest, &[a.handle, GUEST, 1]);
    w.done(UnshareGuest, &[b.handle, GUEST, 1]);
    assert_eq!(w.word(page).shares(), 1);
    assert_eq!(w.word(page).host(), PageState::SharedOwned);
    w.refuse(NotPermitted, Hypercall::ShareHyp, &[page]);
    w.done(UnshareGuest, &[a.handle, GUEST + 1, 1]);
    assert!(w.is_hosts_own(page));
}

#[test]
fn a_full_share_count_refuses_one_more() {
    let mut w = World::new();
    w.vm();
    w.topup(2);
    let page = w.share(GUEST, Prot::RW);
    let full = Word::from_raw(w.word(page).raw() | 0xffff_ffff << 32);
    w.set_word(page, full);
    w.refuse(Busy, ShareGuest, &[page, GUEST + 1, 1, 15]);
}

#[test]
fn refusals_come_in_one_order() {
    let mut w = World::new();
    w.vm();
    // Everything is wrong: then from the front each thing is right.
    w.refuse(Invalid, ShareGuest, &[0x9000, BEYOND, 1, 16]);
    w.refuse(Invalid, ShareGuest, &[0x9000, BEYOND, 2, 15]);
    w.refuse(Invalid, ShareGuest, &[u64::MAX, BEYOND, 1, 15]);
    w.refuse(OutOfRange, ShareGuest, &[0x9000, BEYOND, 1, 15]);
    w.refuse(NotPermitted, ShareGuest, &[0x9000, GUEST, 1, 15]);
    let page = w.page();
    w.refuse(NoMemory, ShareGuest, &[page, GUEST, 1, 15]);
    w.topup(1);
    w.refuse(NoMemory, ShareGuest, &[page, GUEST, 1, 15]);
    w.topup(1);
    w.done(ShareGuest, &[page, GUEST, 1, 15]);
    // The guest's side is looked at before the host's.
    w.refuse(NotPermitted, ShareGuest, &[0x9000, GUEST, 1, 15]);
}

#[test]
fn pages_cost_themselves_and_their_tables_exactly() {
    let mut w = World::new();
    let vm = w.vm();
    let stats = |w: &mut World| w.call(VmStats, &[vm.handle]);
    let expect = |x1, x2, x3| Ret { x1, x2, x3, ..Ret::default() };
    assert_eq!(stats(&mut w), expect(2, 0, 0));
    w.topup(8);
    assert_eq!(stats(&mut w), expect(2, 8, 0));
    // gfn, tables with the roots: the same 2 MiB, its last page, the next 2 MiB, the next 1 GiB,
    // the other root page.
    let steps =
        [(GUEST, 4), (GUEST + 511, 4), (GUEST + 512, 5), (GUEST + 0x40000, 7), (BEYOND - 1, 9)];
    let mut mapped = 0;
    for (gfn, tables) in steps {
        w.share(gfn, Prot::RW);
        mapped += 1;
        assert_eq!(stats(&mut w), expect(tables, 10 - tables as u64, mapped), "{gfn:#x}");
    }
    for (gfn, tables) in
        [(GUEST, 9), (GUEST + 511, 8), (GUEST + 512, 6), (GUEST + 0x40000, 4), (BEYOND - 1, 2)]
    {
        w.done(UnshareGuest, &[vm.handle, gfn, 1]);
        mapped -= 1;
        assert_eq!(stats(&mut w), expect(tables, 10 - tables as u64, mapped), "{gfn:#x}");
    }
    w.end(vm, &[]);
    w.assert_all_is_the_hosts();
}

#[test]
fn freed_tables_are_used_before_the_memcache() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(2);
    w.share(GUEST, Prot::RW);
    w.done(UnshareGuest, &[vm.handle, GUEST, 1]);
    // No topup: the tables come from the VM's own.
    w.share(GUEST + 0x40000, Prot::RW);
    let page = w.page();
    w.refuse(NoMemory, ShareGuest, &[page, GUEST, 1, 15]);
    assert_eq!(w.ok(MemcacheTopup, &[w.next]), 1, "the memcache was empty");
}

#[test]
fn tables_of_host_memory_start_zeroed() {
    let mut w = World::new();
    let vm = w.vm();
    for page in w.next..w.next + 2 {
        for word in [0, 1, 511] {
            w.machine().poke(pfn(page), word, u64::MAX);
        }
    }
    w.topup(2);
    w.share(GUEST, Prot::RW);
    let expect = Err(Fault::Translation(3));
    assert_eq!(w.guest_access(vm, GUEST + 1, Access::Read), expect);
    assert_eq!(w.guest_access(vm, GUEST | 511, Access::Read), expect);
    w.end(vm, &[GUEST]);
}

#[test]
fn an_unshared_page_is_gone_for_the_guest_on_every_cpu() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(2);
    let page = w.share(GUEST, Prot::RW);
    for cpu in [0, 1] {
        assert!(w.on(cpu).guest_access(vm, GUEST, Access::Write).is_ok());
    }
    w.machine().poke(pfn(page), 0, 1);
    w.on(0).done(UnshareGuest, &[vm.handle, GUEST, 1]);
    for cpu in [0, 1] {
        assert!(w.on(cpu).guest_access(vm, GUEST, Access::Read).is_err(), "CPU {cpu}");
    }
    assert!(w.machine().is_clean(pfn(page)), "what the guest wrote is in memory");
    assert!(w.is_hosts_own(page));
    w.on(0).refuse(NotFound, UnshareGuest, &[vm.handle, GUEST, 1]);
}

#[test]
fn unshare_guest_checks_each_argument() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(2);
    w.share(GUEST, Prot::RW);
    for nr in [0, 2, 512, u64::MAX] {
        w.refuse(Invalid, UnshareGuest, &[vm.handle, GUEST, nr]);
    }
    for gfn in HOSTILE.into_iter().chain([BEYOND]) {
        w.refuse(OutOfRange, UnshareGuest, &[vm.handle, gfn, 1]);
    }
    for gfn in [GUEST + 1, GUEST - 1, 0, BEYOND - 1] {
        w.refuse(NotFound, UnshareGuest, &[vm.handle, gfn, 1]);
    }
    w.done(VcpuPut, &[]);
    w.done(StartTeardownVm, &[vm.handle]);
    w.done(UnshareGuest, &[vm.handle, GUEST, 1]);
}

#[test]
fn rights_are_added_never_taken() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(2);
    let page = w.share(GUEST, Prot::R);
    assert!(w.guest_access(vm, GUEST, Access::Write).is_err());
    w.done(RelaxPerms, &[GUEST, Prot::RW.bits()]);
    assert_eq!(w.guest_access(vm, GUEST, Access::Write), Ok(page));
    w.done(RelaxPerms, &[GUEST, Prot::NONE.bits()]);
    assert!(w.guest_access(vm, GUEST, Access::Write).is_ok());
    assert!(w.guest_access(vm, GUEST, Access::Fetch).is_err());
    w.machine().poke(pfn(page), 0, 0xd503_201f);
    w.done(RelaxPerms, &[GUEST, Prot::RX.bits()]);
    assert!(w.guest_access(vm, GUEST, Access::Fetch).is_ok());
    assert!(w.machine().is_code_synced(pfn(page)), "before anyone can fetch it");
    assert!(w.guest_access(vm, GUEST, Access::Write).is_ok());
}

#[test]
fn relaxing_to_writable_does_not_touch_the_instruction_cache() {
    let mut w = World::new();
    w.vm();
    w.topup(2);
    let page = w.share(GUEST, Prot::R);
    w.machine().poke(pfn(page), 0, 1);
    w.done(RelaxPerms, &[GUEST, Prot::RW.bits()]);
    assert!(!w.machine().is_code_synced(pfn(page)));
}

#[test]
fn relax_and_mkyoung_check_each_argument() {
    let mut w = World::new();
    w.vm();
    w.topup(2);
    w.share(GUEST, Prot::R);
    for prot in [16, 4, 8, 1 << 63, u64::MAX] {
        w.refuse(Invalid, RelaxPerms, &[GUEST, prot]);
    }
    for gfn in HOSTILE.into_iter().chain([BEYOND]) {
        w.refuse(OutOfRange, RelaxPerms, &[gfn, 15]);
        w.refuse(OutOfRange, Mkyoung, &[gfn]);
    }
    w.refuse(Raced, RelaxPerms, &[GUEST + 1, 15]);
    w.done(Mkyoung, &[GUEST + 1]);
    w.done(Mkyoung, &[BEYOND - 1]);
}

#[test]
fn ageing_tells_exactly_which_pages_were_touched_since() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(3);
    for n in [0, 1, 3, 63, 64] {
        w.share(GUEST + n, Prot::RW);
    }
    let young =
        |w: &mut World, gfn, nr, mkold| w.call(TestClearYoung, &[vm.handle, gfn, nr, mkold]);
    let answer = |x2: u64| Ret { x1: i64::from(x2 != 0), x2, ..Ret::default() };
    let all = 1 | 2 | 8 | 1 << 63;
    // Looking changes nothing; ageing does.
    assert_eq!(young(&mut w, GUEST, 64, 0), answer(all));
    assert_eq!(young(&mut w, GUEST, 64, 1), answer(all));
    assert_eq!(young(&mut w, GUEST, 64, 1), answer(0));
    assert_eq!(young(&mut w, GUEST + 64, 1, 0), answer(1), "the next page was not aged");
    // Ageing has no barrier of its own: walkers see it when they do.
    w.machine().publish();
    assert_eq!(w.guest_access(vm, GUEST + 1, Access::Read), Err(Fault::AccessFlag(3)));
    w.done(Mkyoung, &[GUEST + 1]);
    assert!(w.guest_access(vm, GUEST + 1, Access::Read).is_ok());
    assert_eq!(young(&mut w, GUEST, 64, 0), answer(2));
    assert_eq!(young(&mut w, GUEST + 1, 1, 0), answer(1));
    assert_eq!(young(&mut w, GUEST + 2, 60, 0), answer(0));
}

#[test]
fn test_clear_young_checks_each_argument() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(2);
    w.share(GUEST, Prot::R);
    for nr in [0, 65, 1 << 32 | 1, u64::MAX] {
        w.refuse(Invalid, TestClearYoung, &[vm.handle, GUEST, nr, 1]);
    }
    for mkold in [2, 1 << 63, u64::MAX] {
        w.refuse(Invalid, TestClearYoung, &[vm.handle, GUEST, 1, mkold]);
    }
    for gfn in HOSTILE.into_iter().chain([BEYOND]) {
        w.refuse(OutOfRange, TestClearYoung, &[vm.handle, gfn, 1, 1]);
    }
    w.refuse(OutOfRange, TestClearYoung, &[vm.handle, BEYOND - 1, 2, 1]);
    assert_eq!(w.call(TestClearYoung, &[vm.handle, BEYOND - 64, 64, 1]), Ret::default());
}

#[test]
fn write_protection_holds_from_the_next_entry_or_flush_on() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(2);
    let (a, b) = (w.share(GUEST, Prot::RWX), w.share(GUEST + 2, Prot::RW));
    let write = |w: &mut World, gfn| w.guest_access(vm, gfn, Access::Write);
    for flush in [true, false] {
        assert_eq!((write(&mut w, GUEST), write(&mut w, GUEST + 2)), (Ok(a), Ok(b)));
        let before = w.machine().invalidations();
        let done = Ret { x2: 3, ..Ret::default() };
        assert_eq!(w.call(Wrprotect, &[vm.handle, GUEST, 3]), done);
        assert_eq!(w.machine().invalidations(), before, "no flush of its own");
        assert!(write(&mut w, GUEST).is_ok(), "the fake keeps what it may");
        if flush {
            w.done(TlbFlushVmid, &[vm.handle]);
        } else {
            run(&mut w);
        }
        assert_eq!(w.machine().invalidations().vmid, before.vmid + 1);
        for gfn in [GUEST, GUEST + 2] {
            assert_eq!(write(&mut w, gfn), Err(Fault::Permission(3)));
            assert!(w.guest_access(vm, gfn, Access::Read).is_ok());
        }
        // Once is enough.
        run(&mut w);
        assert_eq!(w.machine().invalidations().vmid, before.vmid + 1);
        w.done(RelaxPerms, &[GUEST, Prot::RW.bits()]);
        w.done(RelaxPerms, &[GUEST + 2, Prot::RW.bits()]);
    }
    assert!(w.guest_access(vm, GUEST, Access::Fetch).is_ok(), "execution is not taken");
}

#[test]
fn wrprotect_checks_each_argument_and_says_how_far_it_came() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(3);
    w.share(GUEST, Prot::RW);
    w.share(GUEST + 512, Prot::RW);
    w.refuse(Invalid, Wrprotect, &[vm.handle, GUEST, 0]);
    for gfn in HOSTILE.into_iter().chain([BEYOND]) {
        w.refuse(OutOfRange, Wrprotect, &[vm.handle, gfn, 1]);
    }
    for nr in [u64::MAX, BEYOND - GUEST + 1, 1 << 63] {
        w.refuse(OutOfRange, Wrprotect, &[vm.handle, GUEST, nr]);
    }
    // Holes are skipped, whole tables at a time.
    let nr = if cfg!(miri) { 1024 } else { BEYOND - GUEST };
    assert_eq!(w.call(Wrprotect, &[vm.handle, GUEST, nr]), Ret { x2: nr, ..Ret::default() });
    w.done(TlbFlushVmid, &[vm.handle]);
    for gfn in [GUEST, GUEST + 512] {
        assert_eq!(w.guest_access(vm, gfn, Access::Write), Err(Fault::Permission(3)));
    }
}

/// 4096 entries: too many for Miri, which sees shorter ranges in the other tests.
#[cfg(not(miri))]
#[test]
fn a_long_range_is_done_in_batches() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(10);
    // A table each: 512 entries to look at.
    for table in 0..9 {
        w.share(GUEST + 512 * table, Prot::RW);
    }
    let ret = w.call(Wrprotect, &[vm.handle, GUEST, 9 * 512]);
    assert_eq!(ret, Ret { x2: 4096, ..Ret::default() });
    w.done(TlbFlushVmid, &[vm.handle]);
    let mut writes = |table: u64| w.guest_access(vm, GUEST + 512 * table, Access::Write).is_ok();
    assert!(!writes(7) && writes(8));
}

#[test]
fn the_audit_streams_what_is_mapped() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(4);
    let audit = |w: &mut World, gfn| w.call(AuditVm, &[vm.handle, gfn]);
    w.refuse(NotFound, AuditVm, &[vm.handle, 0]);
    let first = w.share(GUEST, Prot::RWX);
    w.share(GUEST + 1, Prot::RWX);
    let third = w.share(GUEST + 2, Prot::R);
    let state = PageState::SharedBorrowed.bits() << 8 | 1 << 16;
    let run = Ret { x1: 2, x2: GUEST, x3: first, x4: state | 15, x5: GUEST + 2 };
    assert_eq!(audit(&mut w, 0), run);
    assert_eq!(audit(&mut w, GUEST), run);
    let rest = Ret { x1: 1, x2: GUEST + 1, x3: first + 1, ..run };
    assert_eq!(audit(&mut w, GUEST + 1), rest);
    let last = audit(&mut w, GUEST + 2);
    assert_eq!((last.x1, last.x2, last.x3, last.x4), (1, GUEST + 2, third, state | 1));
    w.ok(TestClearYoung, &[vm.handle, GUEST, 1, 1]);
    let old = Ret { x1: 1, x4: state & !(1 << 16) | 15, x5: GUEST + 1, ..run };
    assert_eq!(audit(&mut w, GUEST), old);
    w.done(MapGicv, &[0x8010]);
    let device = Ret { x1: 1, x2: 0x8010, x3: GICV, x4: state | 3 | 1 << 17, x5: 0x8011 };
    assert_eq!(audit(&mut w, 0), device);
    for gfn in [BEYOND, 1 << 36, u64::MAX] {
        w.refuse(NotFound, AuditVm, &[vm.handle, gfn]);
    }
}

#[test]
fn the_audit_comes_to_an_end_in_bounded_steps() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(3);
    let pages = [GUEST, GUEST + 700, BEYOND - 1];
    w.topup(2);
    for gfn in pages {
        w.share(gfn, Prot::RW);
    }
    let (mut at, mut found, mut calls) = (0, vec![], 0);
    loop {
        let ret = w.call(AuditVm, &[vm.handle, at]);
        if ret.x1 == NotFound.code() {
            break;
        }
        assert!(ret.x5 > at, "progress");
        at = ret.x5;
        calls += 1;
        found.extend((0..ret.x1 as u64).map(|n| ret.x2 + n));
    }
    assert_eq!(found, pages);
    assert!(calls < 8, "{calls}");
}

#[test]
fn the_gicv_page_is_mapped_as_a_device_and_goes_only_its_own_way() {
    let mut w = World::new();
    let vm = w.vm();
    const AT: u64 = 0x8010;
    w.refuse(NoMemory, MapGicv, &[AT]);
    for gfn in HOSTILE.into_iter().chain([BEYOND]) {
        w.refuse(OutOfRange, MapGicv, &[gfn]);
        w.refuse(OutOfRange, UnmapGicv, &[vm.handle, gfn]);
    }
    w.topup(4);
    w.refuse(NotFound, UnmapGicv, &[vm.handle, AT]);
    w.done(MapGicv, &[AT]);
    w.refuse(NotPermitted, MapGicv, &[AT]);
    assert_eq!(w.guest_access(vm, AT, Access::Write), Ok(GICV));
    assert!(w.guest_access(vm, AT, Access::Fetch).is_err());
    assert_eq!(w.call(VmStats, &[vm.handle]), Ret { x1: 4, x2: 2, x3: 0, ..Ret::default() });
    w.refuse(NotPermitted, UnshareGuest, &[vm.handle, AT, 1]);
    w.refuse(NotPermitted, RelaxPerms, &[AT, 15]);
    w.share(GUEST, Prot::RW);
    w.refuse(NotPermitted, UnmapGicv, &[vm.handle, GUEST]);
    w.refuse(NotPermitted, MapGicv, &[GUEST]);
    w.done(UnshareGuest, &[vm.handle, GUEST, 1]);
    w.done(VcpuPut, &[]);
    w.done(StartTeardownVm, &[vm.handle]);
    let busy = Ret { x1: Busy.code(), x2: 1, x3: 4, ..Ret::default() };
    assert_eq!(w.call(Hypercall::FinalizeTeardownVm, &[vm.handle]), busy);
    w.done(UnmapGicv, &[vm.handle, AT]);
    assert!(w.guest_access(vm, AT, Access::Read).is_err());
    while w.call(Hypercall::ReclaimVmPage, &[vm.handle]).x1 >= 0 {}
    w.done(Hypercall::FinalizeTeardownVm, &[vm.handle]);
}

#[test]
fn a_machine_without_gicv_has_none_to_map() {
    for gic in [Gic::V3, Gic::V2 { gicv: None }] {
        let mut w = World::with(POOL, |c| c.gic = gic);
        w.vm();
        w.topup(2);
        w.refuse(Invalid, MapGicv, &[0x8010]);
    }
}

#[test]
fn device_pages_are_no_memory_to_log_or_to_age() {
    let mut w = World::new();
    let vm = w.vm();
    w.topup(2);
    w.done(MapGicv, &[0x8010]);
    let none = Ret { x1: 0, x2: 0, ..Ret::default() };
    assert_eq!(w.call(TestClearYoung, &[vm.handle, 0x8010, 1, 1]), none);
    w.call(Wrprotect, &[vm.handle, 0x8000, 64]);
    w.done(TlbFlushVmid, &[vm.handle]);
    assert_eq!(w.guest_access(vm, 0x8010, Access::Write), Ok(GICV));
}

#[test]
fn flushing_is_allowed_for_any_living_or_dying_vm() {
    let mut w = World::new();
    let vm = w.vm_of(1);
    let before = w.machine().invalidations().vmid;
    w.done(TlbFlushVmid, &[vm.handle]);
    w.done(StartTeardownVm, &[vm.handle]);
    w.done(TlbFlushVmid, &[vm.handle]);
    assert_eq!(w.machine().invalidations().vmid, before + 2);
    w.refuse(Invalid, VcpuLoad, &[vm.handle, 0]);
}
