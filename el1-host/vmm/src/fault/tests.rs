//! The fault path, on a host with real frames and a model of EL2.

use std::borrow::Cow;

use host_mirror::Calls;
use host_mirror::fake::{FakeEl2, GuestFault, gfn, pfn};
use hyp_abi::Hypercall;

use super::*;
use crate::testing::TestHost;

pub(crate) const READ: Access = Access { write: false, fetch: false, permission: false };
pub(crate) const WRITE: Access = Access { write: true, ..READ };
const FETCH: Access = Access { fetch: true, ..READ };

/// A VM with RAM at gfn 16..48 and a ROM at 64..66, its vCPU loaded.
pub(crate) fn memory<'a>(el2: &'a FakeEl2) -> (TestHost<'a>, Memory<'static>) {
    let vm = el2.vm();
    let host = TestHost::new(el2);
    host.vcpu_load(vm, 0).unwrap();
    let mut slots = Slots::new();
    slots.add(0x1_0000, 0x2_0000, Prot::RWX).unwrap();
    slots.add(0x4_0000, 0x2000, Prot::RX).unwrap();
    slots.put(0x1_1000, Cow::Borrowed(b"kernel")).unwrap();
    (host, Memory::new(vm, slots))
}

#[test]
fn the_first_touch_maps_a_filled_page_and_tops_the_memcache_up_once() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    assert_eq!(memory.fault(&host, gfn(17), READ), Fault::Retry);
    let page = el2.pages(memory.mirror().handle())[&17];
    assert_eq!(page.prot, Prot::RWX);
    assert!(host.bytes(page.pfn).starts_with(b"kernel\0\0"));
    assert_eq!(memory.accounts(), Accounts { guest: 1, tables: 1 });
    assert_eq!(memory.fault(&host, gfn(18), WRITE), Fault::Retry);
    assert_eq!(memory.accounts(), Accounts { guest: 2, tables: 1 });
    assert_eq!((memory.mirror().pages(), host.in_use()), (2, 3));
    assert_eq!(memory.mirror().audit(&host).unwrap().pages, 2);
}

#[test]
fn a_page_that_is_there_already_costs_no_frame() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    memory.fault(&host, gfn(17), READ);
    let before = (host.in_use(), memory.accounts());
    assert_eq!(memory.fault(&host, gfn(17), FETCH), Fault::Retry);
    assert_eq!((host.in_use(), memory.accounts()), before);
}

#[test]
fn outside_all_slots_there_is_nothing() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    for at in [0, 15, 48, 63, 66, 1 << 35] {
        assert_eq!(memory.fault(&host, gfn(at), READ), Fault::Outside);
    }
    assert_eq!(host.in_use(), 0);
}

#[test]
fn read_only_memory_can_be_read_and_run_but_not_written() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    assert_eq!(memory.fault(&host, gfn(64), WRITE), Fault::ReadOnly);
    assert_eq!(host.in_use(), 0);
    assert_eq!(memory.fault(&host, gfn(64), FETCH), Fault::Retry);
    assert_eq!(el2.pages(memory.mirror().handle())[&64].prot, Prot::RX);
    let denied = Access { permission: true, ..WRITE };
    assert_eq!(memory.fault(&host, gfn(64), denied), Fault::ReadOnly);
}

#[test]
fn a_host_without_frames_says_so_and_keeps_nothing() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    host.limit.set(0);
    assert_eq!(memory.fault(&host, gfn(17), READ), Fault::OutOfFrames);
    host.limit.set(1); // enough for the page, not for its table
    assert_eq!(memory.fault(&host, gfn(17), READ), Fault::OutOfFrames);
    assert_eq!((host.in_use(), memory.accounts()), (0, Accounts::default()));
    host.limit.set(2);
    assert_eq!(memory.fault(&host, gfn(17), READ), Fault::Retry);
}

#[test]
fn topping_up_has_an_end() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    for _ in 0..=TOPUPS {
        el2.refuse(Hypercall::ShareGuest, 0, Refusal::NoMemory);
    }
    assert_eq!(memory.fault(&host, gfn(17), READ), Fault::OutOfFrames);
    assert_eq!(memory.accounts(), Accounts { guest: 0, tables: TOPUPS as u64 });
    assert_eq!(host.in_use(), TOPUPS);
    // One fewer is enough.
    for _ in 0..TOPUPS {
        el2.refuse(Hypercall::ShareGuest, 0, Refusal::NoMemory);
    }
    assert_eq!(memory.fault(&host, gfn(17), READ), Fault::Retry);
}

#[test]
fn a_refused_topup_or_map_gives_the_frames_back() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    el2.refuse(Hypercall::MemcacheTopup, 0, Refusal::Busy);
    assert_eq!(memory.fault(&host, gfn(17), READ), Fault::Refused(Refusal::Busy));
    assert_eq!(host.in_use(), 0);
    el2.refuse(Hypercall::ShareGuest, 0, Refusal::NotPermitted);
    assert_eq!(memory.fault(&host, gfn(17), READ), Fault::Refused(Refusal::NotPermitted));
    assert_eq!((host.in_use(), memory.accounts()), (0, Accounts::default()));
}

#[test]
fn a_permission_fault_gives_back_the_right_that_was_needed() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    let vm = memory.mirror().handle();
    memory.fault(&host, gfn(17), READ);
    memory.mirror().wrprotect(&host, gfn(0), 100).unwrap();
    assert_eq!(el2.touch(vm, 17, Prot::W), Err(GuestFault::Permission));
    let write = Access { permission: true, ..WRITE };
    assert_eq!(memory.fault(&host, gfn(17), write), Fault::Retry);
    assert_eq!(el2.touch(vm, 17, Prot::W), Ok(()));
    el2.take_calls();
    for (access, right) in [(READ, Prot::R), (FETCH, Prot::X), (WRITE, Prot::W)] {
        let access = Access { permission: true, ..access };
        assert_eq!(memory.fault(&host, gfn(17), access), Fault::Retry);
        assert_eq!(el2.take_calls(), [(Hypercall::RelaxPerms, [17, right.bits(), 0, 0])]);
    }
}

#[test]
fn a_permission_fault_on_a_page_that_went_is_a_race_and_a_refusal_is_one() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    let write = Access { permission: true, ..WRITE };
    assert_eq!(memory.fault(&host, gfn(17), write), Fault::Retry);
    assert_eq!(host.in_use(), 0);
    memory.fault(&host, gfn(17), READ);
    el2.refuse(Hypercall::RelaxPerms, 0, Refusal::Invalid);
    assert_eq!(memory.fault(&host, gfn(17), write), Fault::Refused(Refusal::Invalid));
}

#[test]
fn a_right_that_the_slot_has_not_is_not_given() {
    let el2 = FakeEl2::new();
    let host = TestHost::new(&el2);
    let vm = el2.vm();
    host.vcpu_load(vm, 0).unwrap();
    let mut slots = Slots::new();
    slots.add(0, 0x1000, Prot::RW).unwrap();
    let memory = Memory::new(vm, slots);
    memory.fault(&host, gfn(0), READ);
    let fetch = Access { permission: true, ..FETCH };
    assert_eq!(memory.fault(&host, gfn(0), fetch), Fault::Refused(Refusal::NotPermitted));
}

#[test]
fn release_gives_every_frame_back() {
    let el2 = FakeEl2::new();
    let (host, memory) = memory(&el2);
    for at in 16..30 {
        memory.fault(&host, gfn(at), WRITE);
    }
    assert_eq!(memory.release(&host).pages, 14);
    assert_eq!(memory.accounts(), Accounts { guest: 0, tables: 1 });
    assert_eq!(host.in_use(), 1); // the table page is EL2's
    memory.table_returned();
    memory.table_returned();
    assert_eq!(memory.accounts().tables, 0);
    assert_eq!(memory.slots().iter().count(), 2);
    assert_eq!(el2.shares(pfn(0x4_0000).raw()), 0);
}
