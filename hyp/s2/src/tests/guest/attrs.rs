//! Write protection, ageing and more rights.

use hyp_abi::Prot;

use super::{FRAME, Guest, LENT, gfn, pfn, with};
use crate::desc::Attrs;
use crate::fake::{Access, Fault, become_cpu};
use crate::guest::RelaxRefusal;
use crate::{TablePfn, Tables, Tlb};

#[test]
fn write_protection_works_after_the_flush_and_spares_the_rest() {
    let mut g = Guest::new(40);
    for page in [5, 6, 7, 0x800] {
        g.map(page, FRAME + page, LENT);
        g.world.touch(0, page, Access::Write).unwrap();
    }
    assert_eq!(g.wrprotect(6, 0x7fa, usize::MAX), 0x7fa);
    // Without a flush the TLB still allows it; that is the caller's to know.
    assert!(g.world.touch(0, 6, Access::Write).is_ok());
    g.world.hw.inval_vmid(g.map.regime());
    assert!(g.world.touch(0, 5, Access::Write).is_ok());
    for page in [6, 7] {
        assert_eq!(g.world.touch(0, page, Access::Write), Err(Fault::Permission(3)));
        assert!(g.world.touch(0, page, Access::Read).is_ok());
    }
    assert!(g.world.touch(0, 0x800, Access::Write).is_ok());
}

#[test]
fn write_protection_of_nothing_is_a_few_visits_and_resumes() {
    let mut g = Guest::new(48);
    let all = g.map.geometry().frames();
    assert_eq!(g.wrprotect(0, all, 513), all, "512 root entries are absent");
    assert_eq!(g.wrprotect(0, all, 1), 1 << 27);
    g.map(0, FRAME, LENT);
    g.map(1, FRAME, LENT);
    assert_eq!(g.wrprotect(0, all, 1), 1);
    assert!(!g.leaf_attrs(0).rights.prot().contains(Prot::W));
    assert!(g.leaf_attrs(1).rights.prot().contains(Prot::W));
    assert_eq!(g.wrprotect(1, all - 1, usize::MAX), all - 1);
    assert!(!g.leaf_attrs(1).rights.prot().contains(Prot::W));
}

#[test]
fn write_protection_keeps_an_access_flag_that_the_hardware_sets_meanwhile() {
    let mut g = Guest::new(40);
    g.map(5, FRAME, Attrs { young: false, ..LENT });
    hardware_sets_the_flag(&g);
    g.wrprotect(5, 1, 10);
    assert_eq!(g.leaf_attrs(5), with(Prot::RX));
}

/// Just before the next exchange, another CPU's walker sets every access flag it finds.
fn hardware_sets_the_flag(g: &Guest) {
    let tables = g.world.hw.tables();
    g.world.hw.before_next_exchange(move |hw| {
        for table in tables.iter().map(|t| TablePfn::new(pfn(*t))) {
            for index in 0..8 {
                let desc = hw.load(table, index);
                if desc & 3 == 3 && desc >> 12 & 0xfff_ffff >= FRAME {
                    hw.store(table, index, desc | 1 << 10);
                }
            }
        }
    });
}

#[test]
fn ageing_tells_and_clears_each_page() {
    let mut g = Guest::new(40);
    for page in [0, 3, 63, 64] {
        g.map(page, FRAME + page, LENT);
    }
    assert_eq!(g.age(0, 64, false), 1 | 1 << 3 | 1 << 63);
    assert_eq!(g.age(0, 3, true), 1);
    assert_eq!(g.age(0, 64, true), 1 << 3 | 1 << 63);
    assert_eq!(g.age(0, 64, true), 0);
    assert_eq!(g.age(1, 1000, true), 1 << 63, "no more than 64 pages, counted from the first");
    g.world.hw.publish();
    assert_eq!(g.world.touch(0, 3, Access::Read), Err(Fault::AccessFlag(3)));
    assert!(g.map.mkyoung(g.world.mmu(), gfn(3)));
    assert!(g.world.touch(0, 3, Access::Read).is_ok());
    assert!(!g.map.mkyoung(g.world.mmu(), gfn(4)));
}

#[test]
fn ageing_reports_a_page_that_becomes_young_meanwhile() {
    let mut g = Guest::new(40);
    g.map(4, FRAME, LENT);
    g.map(5, FRAME, Attrs { young: false, ..LENT });
    // Page 5 becomes young while page 4 is aged.
    hardware_sets_the_flag(&g);
    assert_eq!(g.age(4, 2, true), 0b11);
    assert_eq!(g.age(4, 2, true), 0);
}

#[test]
fn ageing_flushes_nothing() {
    let mut g = Guest::new(40);
    g.map(5, FRAME, LENT);
    let before = g.world.hw.invalidations();
    g.age(0, 64, true);
    g.wrprotect(0, 64, 64);
    assert_eq!(g.world.hw.invalidations(), before);
}

#[test]
fn devices_are_neither_aged_nor_protected() {
    let mut g = Guest::new(40);
    let device = Attrs { device: true, ..with(Prot::RW) };
    g.map(5, FRAME, device);
    g.map(6, FRAME + 1, LENT);
    assert_eq!(g.age(5, 2, true), 0b10);
    assert_eq!(g.wrprotect(5, 2, 10), 2);
    assert_eq!(g.leaf_attrs(5), device);
    assert_eq!(g.leaf_attrs(6), Attrs { young: false, ..with(Prot::RX) });
}

#[test]
fn added_rights_work_at_once_on_this_cpu() {
    let mut g = Guest::new(40);
    g.map(5, FRAME, with(Prot::R));
    for cpu in 0..2 {
        assert!(g.world.touch(cpu, 5, Access::Read).is_ok());
    }
    become_cpu(1);
    g.relax(5, Prot::RW).unwrap();
    become_cpu(0);
    assert!(g.world.touch(1, 5, Access::Write).is_ok());
    // The other CPU may fault once more: it was promised nothing.
    assert_eq!(g.world.touch(0, 5, Access::Write), Err(Fault::Permission(3)));
    g.relax(5, Prot::RW).unwrap();
    assert!(g.world.touch(0, 5, Access::Write).is_ok());
    assert_eq!(g.leaf_attrs(5), with(Prot::RW));
}

#[test]
fn relaxing_only_adds() {
    let mut g = Guest::new(40);
    g.map(5, FRAME, with(Prot::RW));
    for more in [Prot::NONE, Prot::R, Prot::W] {
        g.relax(5, more).unwrap();
        assert_eq!(g.leaf_attrs(5), with(Prot::RW));
    }
    g.relax(5, Prot::X).unwrap();
    assert_eq!(g.leaf_attrs(5), with(Prot::RWX));
    assert_eq!(g.relax(6, Prot::R), Err(RelaxRefusal::Absent));
    assert_eq!(g.relax(1 << 20, Prot::R), Err(RelaxRefusal::Absent));
}
