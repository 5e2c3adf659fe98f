//! What an observer is told, beside what was done.

use hyp_abi::{Handle, Hypercall, Prot};

use super::{EL2, GICH, GUEST, World, pfn};
use crate::observe::{Chain, Place, SlotFacts, VmFacts};
use crate::owner::Word;

const NO_PAGES: Chain = Chain { head: None, len: 0 };

fn slot(w: &mut World, index: usize) -> Option<SlotFacts> {
    w.hyp.observe_slot(&mut w.cpus[0], index)
}

fn live(w: &mut World) -> VmFacts {
    slot(w, 0).unwrap().vm.unwrap()
}

#[test]
fn a_page_is_its_metadata_word_and_what_is_no_ram_has_none() {
    let mut w = World::new();
    let page = w.page();
    w.done(Hypercall::ShareHyp, &[page]);
    let own = w.hyp.observe_page(pfn(page + 1)).unwrap();
    let shared = w.hyp.observe_page(pfn(page)).unwrap();
    let el2 = w.hyp.observe_page(pfn(EL2)).unwrap();
    assert_eq!(own, Word::default().raw());
    assert!(own != shared && shared != el2 && el2 != own, "{own:#x} {shared:#x} {el2:#x}");
    assert_eq!((shared, el2), (w.word(page).raw(), w.word(EL2).raw()));
    assert_eq!(w.hyp.observe_page(pfn(GICH)), None);
}

#[test]
fn a_slot_is_free_then_reserved_then_a_vm() {
    let mut w = World::new();
    assert_eq!(slot(&mut w, 0), None);
    let raw = w.ok(Hypercall::ReserveVm, &[]);
    let handle = Handle::from_raw(raw);
    assert_eq!(slot(&mut w, 0), Some(SlotFacts { handle, vm: None }));
    assert_eq!(slot(&mut w, 1), None);
    assert_eq!(slot(&mut w, usize::MAX), None);
    w.done(Hypercall::UnreserveVm, &[raw]);
    assert_eq!(slot(&mut w, 0), None);

    let vm = w.vm_of(2);
    let facts = live(&mut w);
    assert_eq!((facts.root, facts.nr_vcpus, facts.dying), (pfn(vm.root), 2, false));
    assert_eq!((facts.shared, facts.devices, facts.tables, facts.given), (0, 0, 0, 0));
    assert_eq!(facts.freed, NO_PAGES);
    let Place::Here(vcpu) = facts.vcpus[0] else { panic!("{:?}", facts.vcpus) };
    assert_eq!((vcpu.run_page, vcpu.memcache), (pfn(vm.run), NO_PAGES));
    assert_eq!(facts.vcpus[1..], [Place::Absent; 7]);
}

#[test]
fn a_loaded_vcpu_is_with_its_cpu_and_its_tables_are_counted_in_the_vm() {
    let mut w = World::new();
    assert_eq!(w.cpus[0].observe_loaded(), None);
    let vm = w.vm();
    w.topup(3);
    let last = pfn(w.next - 1);
    let (handle, idx, vcpu) = w.cpus[0].observe_loaded().unwrap();
    assert_eq!((handle.raw(), idx, vcpu.run_page), (vm.handle, 0, pfn(vm.run)));
    assert_eq!(vcpu.memcache, Chain { head: Some(last), len: 3 });
    assert_eq!(w.cpus[1].observe_loaded(), None);

    // A page, and a table each of levels 2 and 3.
    w.share(GUEST, Prot::RW);
    let (.., vcpu) = w.cpus[0].observe_loaded().unwrap();
    assert_eq!(vcpu.memcache.len, 1);
    let facts = live(&mut w);
    assert_eq!(facts.vcpus[0], Place::Loaded);
    assert_eq!((facts.shared, facts.devices, facts.tables, facts.given), (1, 0, 2, 3));

    // The tables come free, and are the VM's until the host takes them.
    w.done(Hypercall::UnshareGuest, &[vm.handle, GUEST, 1]);
    let facts = live(&mut w);
    assert_eq!((facts.shared, facts.tables, facts.given, facts.freed.len), (0, 0, 3, 2));
    w.done(Hypercall::VcpuPut, &[]);
    assert!(matches!(live(&mut w).vcpus[0], Place::Here(_)));
    w.done(Hypercall::StartTeardownVm, &[vm.handle]);
    assert!(live(&mut w).dying);
}
