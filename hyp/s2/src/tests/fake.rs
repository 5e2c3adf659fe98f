//! The judge judged: each forbidden sequence is seen, each allowed one is not.

use hyp_abi::{Ipa, Vmid};

use super::{ROOT, TABLES, World, pfn};
use crate::fake::{Access, Fault};
use crate::{Attrs, Level, TablePfn, Tables, Tlb, desc::Desc};

const PAGE: u64 = 5;

/// Root, level 2, level 3 by hand: page 5 to frame 0x9000.
fn hand_made() -> World {
    let world = World::new(39, Vmid::new(3), 0);
    let (l2, l3) = (TABLES, TABLES + 1);
    world.hw.store(table(l3), 5, leaf(0x9000));
    world.hw.store(table(l2), 0, Desc::table(table(l3)).raw());
    world.hw.store(table(ROOT), 0, Desc::table(table(l2)).raw());
    world.hw.publish();
    world
}
fn table(n: u64) -> TablePfn {
    TablePfn::new(pfn(n))
}
fn leaf(frame: u64) -> u64 {
    Desc::leaf(Level::L3, pfn(frame), Attrs::HOST_RAM).raw()
}
fn ipa() -> Ipa {
    Ipa::new(PAGE << 12).unwrap()
}
fn violations(world: &World) -> usize {
    world.hw.settle();
    world.hw.take_violations().len()
}

#[test]
fn a_store_is_not_seen_before_it_is_published() {
    let w = hand_made();
    w.hw.store(table(TABLES + 1), 6, leaf(0x9001));
    assert_eq!(w.touch(0, 6, Access::Read), Err(Fault::Translation(3)));
    assert_eq!(violations(&w), 1);
    w.hw.publish();
    assert_eq!(w.touch(0, 6, Access::Read), Ok(pfn(0x9001)));
    assert_eq!(violations(&w), 0);
}

#[test]
fn a_page_zeroed_for_a_root_must_be_published_too() {
    let w = World::new(39, Vmid::new(3), 0);
    let other = crate::Regime { vmid: Vmid::new(4), root: table(TABLES) };
    w.hw.poke(pfn(TABLES), 0, Desc::leaf(Level::L1, pfn(0x4_0000), Attrs::HOST_RAM).raw());
    w.hw.publish();
    w.hw.clear(pfn(TABLES));
    w.hw.watch(other, w.geometry);
    assert_eq!(violations(&w), 1);
    assert!(w.hw.access(0, other.vmid, ipa(), Access::Read).is_ok(), "the old word still maps");
    w.hw.inval_vmid(other);
    assert_eq!(violations(&w), 0);
    assert!(w.hw.access(0, other.vmid, ipa(), Access::Read).is_err());
}

#[test]
fn a_cleared_page_stays_in_the_tlb_until_its_invalidation() {
    let w = hand_made();
    w.touch(1, PAGE, Access::Read).unwrap();
    w.hw.store(table(TABLES + 1), 5, 0);
    w.hw.publish();
    assert_eq!(w.touch(1, PAGE, Access::Read), Ok(pfn(0x9000)));
    assert_eq!(violations(&w), 1);
    for (vmid, level, page) in [(4, Some(3), PAGE), (3, Some(2), PAGE), (3, Some(3), PAGE + 1)] {
        let regime = crate::Regime { vmid: Vmid::new(vmid), root: w.regime.root };
        w.hw.inval_ipa(regime, Ipa::new(page << 12).unwrap(), level);
        assert!(w.touch(1, PAGE, Access::Read).is_ok(), "the wrong invalidation");
    }
    w.hw.inval_ipa_local(w.regime, ipa(), None);
    assert!(w.touch(1, PAGE, Access::Read).is_ok(), "the wrong CPU");
    assert_eq!(violations(&w), 1);
    w.hw.inval_ipa(w.regime, ipa(), Some(3));
    assert_eq!(w.touch(1, PAGE, Access::Read), Err(Fault::Translation(3)));
    assert_eq!(violations(&w), 0);
}

#[test]
fn a_live_descriptor_must_be_broken_before_it_is_made_anew() {
    let w = hand_made();
    w.hw.store(table(TABLES + 1), 5, leaf(0x9001));
    assert_eq!(w.hw.take_violations().len(), 1, "two addresses at once");
    w.hw.inval_vmid(w.regime);

    w.hw.store(table(TABLES + 1), 5, 0);
    w.hw.store(table(TABLES + 1), 5, leaf(0x9002));
    assert_eq!(w.hw.take_violations().len(), 1, "made before the invalidation");
    w.hw.inval_vmid(w.regime);

    w.hw.store(table(TABLES + 1), 5, 0);
    w.hw.inval_ipa(w.regime, ipa(), Some(3));
    w.hw.store(table(TABLES + 1), 5, leaf(0x9003));
    w.hw.publish();
    assert_eq!(violations(&w), 0);
}

#[test]
fn attributes_of_a_live_descriptor_may_change() {
    let w = hand_made();
    let page = Desc::from_raw(leaf(0x9000));
    for desc in [page.read_only(), page.old(), page.young()] {
        w.hw.store(table(TABLES + 1), 5, desc.raw());
    }
    assert_eq!(violations(&w), 0);
}

#[test]
fn a_table_is_data_again_only_after_it_is_unlinked_and_invalidated() {
    let w = hand_made();
    w.touch(0, PAGE, Access::Read).unwrap();
    w.hw.clear(pfn(TABLES + 1));
    assert_eq!(violations(&w), 1, "linked");

    let w = hand_made();
    w.touch(0, PAGE, Access::Read).unwrap();
    w.hw.store(table(TABLES), 0, 0);
    w.hw.poke(pfn(TABLES + 1), 0, 1);
    assert!(violations(&w) >= 1, "not invalidated");

    let w = hand_made();
    w.hw.store(table(TABLES), 0, 0);
    w.hw.inval_ipa(w.regime, ipa(), Some(3));
    assert!(w.hw.is_table(pfn(TABLES + 1)), "a leaf's hint does not reach the table entry");
    w.hw.inval_ipa(w.regime, ipa(), None);
    w.hw.clear(pfn(TABLES + 1));
    assert_eq!(violations(&w), 0);
}

#[test]
fn a_root_is_data_again_only_after_its_vmid_is_flushed() {
    let w = World::new(40, Vmid::new(3), 0);
    w.hw.clear(pfn(ROOT));
    assert_eq!(violations(&w), 1);
    let w = World::new(40, Vmid::new(3), 0);
    w.hw.inval_vmid(w.regime);
    w.hw.clear(pfn(ROOT));
    w.hw.clear(pfn(ROOT + 1));
    assert_eq!(violations(&w), 0);
    assert_eq!(w.touch(0, 0, Access::Read), Err(Fault::NoRegime));
}

#[test]
fn two_vcpus_of_a_vm_on_one_cpu_need_a_flush_between_them() {
    let w = World::new(40, Vmid::new(3), 0);
    w.hw.run_vcpu(0, Vmid::new(3), 0);
    w.hw.run_vcpu(1, Vmid::new(3), 1);
    w.hw.run_vcpu(0, Vmid::new(4), 1);
    assert_eq!(violations(&w), 0);
    w.hw.run_vcpu(0, Vmid::new(3), 1);
    assert_eq!(violations(&w), 1);
    w.hw.switch_vcpu(w.regime);
    w.hw.run_vcpu(0, Vmid::new(3), 0);
    assert_eq!(violations(&w), 0);
}

#[test]
#[should_panic = "forbids"]
fn a_violation_that_nobody_took_panics() {
    let w = hand_made();
    w.hw.clear(pfn(TABLES));
}
