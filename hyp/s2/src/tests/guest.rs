//! One VM's map, and CPUs that use it.

use hyp_abi::{PageState, Prot, Vmid};

use super::{ROOT, SIZES, World, gfn, pfn};
use crate::desc::{Attrs, Desc, Rights};
use crate::fake::{Access, Fault, become_cpu};
use crate::guest::{MapRefusal, RelaxRefusal, Run, Scan, UnmapRefusal};
use crate::{GuestMap, Level, Mmu, NoTables, Refs, Regime, TablePfn, Tables, Tlb};

/// Enough for any test here.
const TABLES: usize = 12;
/// A frame that is no table.
const FRAME: u64 = 0x8_0000;

const LENT: Attrs =
    Attrs { rights: Rights::RWX, state: PageState::SharedBorrowed, young: true, device: false };

struct Guest {
    world: World,
    map: GuestMap,
}

impl Guest {
    fn new(ipa_bits: u8) -> Self {
        let world = World::new(ipa_bits, Vmid::new(7), TABLES);
        let map = GuestMap::new(world.geometry, world.regime, &world.refs).unwrap();
        Self { world, map }
    }
    fn map(&mut self, page: u64, frame: u64, attrs: Attrs) {
        let Self { world, map } = self;
        let plan = map.check_map(&*world.hw, gfn(page)).unwrap();
        let mapping = plan.reserve(&mut world.pages).unwrap();
        mapping.commit(world.mmu(), pfn(frame), attrs);
        world.check(TABLES);
    }
    fn unmap(&mut self, page: u64) -> Result<(), UnmapRefusal> {
        let Self { world, map } = self;
        let plan = map.check_unmap(&*world.hw, gfn(page))?;
        let mmu = Mmu { hw: &*world.hw, refs: &world.refs };
        plan.commit(mmu, &mut world.pages);
        world.check(TABLES);
        Ok(())
    }
    /// Puts a block where later issues will.
    fn map_block(&mut self, page: u64, frame: u64) {
        self.map(page + 512, 1, LENT);
        let slot = self.map.space.descend(&*self.world.hw, gfn(page)).last;
        assert_eq!(slot.level, Level::L2);
        self.world.mmu().fill(slot, Desc::leaf(Level::L2, pfn(frame), LENT));
        self.world.check(TABLES);
    }
    fn wrprotect(&mut self, from: u64, nr: u64, budget: usize) -> u64 {
        let span = self.map.geometry().span(gfn(from), nr).unwrap();
        self.map.wrprotect(self.world.mmu(), span, budget)
    }
    fn age(&mut self, from: u64, nr: u64, mkold: bool) -> u64 {
        let span = self.map.geometry().span(gfn(from), nr).unwrap();
        self.map.age(self.world.mmu(), span, mkold)
    }
    fn relax(&mut self, page: u64, more: Prot) -> Result<(), RelaxRefusal> {
        self.map.relax(self.world.mmu(), gfn(page), Rights::new(more).unwrap())
    }
    fn leaf_attrs(&self, page: u64) -> Attrs {
        self.map.leaf(&*self.world.hw, gfn(page)).unwrap().attrs
    }
    fn next_run(&self, from: u64, budget: usize) -> Scan {
        self.map.next_run(&*self.world.hw, gfn(from), budget)
    }
}

fn with(rights: Prot) -> Attrs {
    Attrs { rights: Rights::new(rights).unwrap(), ..LENT }
}

#[test]
fn a_page_is_visible_to_every_cpu_once_it_is_mapped() {
    for bits in SIZES.iter().copied() {
        let mut g = Guest::new(bits);
        let last = g.map.geometry().frames() - 1;
        for page in [0, 1, 511, 512, 0x4_0000, last - 512, last] {
            assert_eq!(g.world.touch(0, page, Access::Read).map(|p| p.raw()).ok(), None);
            g.map(page, FRAME + page % 64, LENT);
            for kind in [Access::Read, Access::Write, Access::Fetch] {
                assert_eq!(g.world.touch(1, page, kind), Ok(pfn(FRAME + page % 64)), "{bits} bits");
            }
        }
    }
}

#[test]
fn an_unmapped_page_leaves_no_stale_translation() {
    let mut g = Guest::new(40);
    g.map(5, FRAME, LENT);
    g.map(6, FRAME + 1, LENT);
    for cpu in 0..2 {
        g.world.touch(cpu, 5, Access::Write).unwrap();
    }
    g.unmap(5).unwrap();
    for cpu in 0..2 {
        assert_eq!(g.world.touch(cpu, 5, Access::Read), Err(Fault::Translation(3)));
        assert!(g.world.touch(cpu, 6, Access::Read).is_ok());
    }
}

#[test]
fn a_freed_table_is_in_no_walk_cache() {
    let mut g = Guest::new(40);
    g.map(5, FRAME, LENT);
    // The CPU remembers the level 2 and 3 tables of this page, although the page faults.
    let _ = g.world.touch(1, 6, Access::Read);
    g.unmap(5).unwrap();
    // The tables serve other pages now.
    g.map(0x20_0000, FRAME, LENT);
    g.map(0x30_0006, FRAME, LENT);
    assert_eq!(g.world.touch(1, 6, Access::Read), Err(Fault::Translation(1)));
}

#[test]
fn unmapping_everything_leaves_the_roots_alone() {
    for bits in SIZES.iter().copied() {
        let mut g = Guest::new(bits);
        let last = g.map.geometry().frames() - 1;
        let pages = [0, 1, 511, 512, 0x3_ffff, 0x4_0000, last - 1, last];
        assert!(g.map.is_empty(&g.world.refs));
        for page in pages {
            g.map(page, FRAME + page % 64, LENT);
        }
        assert!(!g.map.is_empty(&g.world.refs));
        for page in pages {
            g.unmap(page).unwrap();
        }
        assert!(g.map.is_empty(&g.world.refs), "{bits} bits");
        assert_eq!(g.world.pages.free.len(), TABLES);
        assert!(g.world.hw.snapshot().is_empty());
    }
}

#[test]
fn a_full_table_counts_513_and_an_empty_one_is_freed() {
    let mut g = Guest::new(40);
    let pages = if cfg!(miri) { 8 } else { 512 };
    for page in 0..pages {
        g.map(page, FRAME + page, LENT);
    }
    let counts = g.world.hw.tables().into_iter().map(|t| g.world.refs.get(TablePfn::new(pfn(t))));
    assert_eq!(counts.max().map(u64::from), Some(pages + 1));
    for page in 0..pages {
        g.unmap(page).unwrap();
    }
    assert_eq!(g.world.pages.free.len(), TABLES);
}

#[test]
fn unmapping_twice_is_refused_and_changes_nothing() {
    let mut g = Guest::new(40);
    g.map(5, FRAME, LENT);
    g.map(6, FRAME, LENT);
    g.unmap(5).unwrap();
    let before = (g.world.hw.snapshot(), g.world.hw.invalidations());
    assert_eq!(g.unmap(5), Err(UnmapRefusal::Absent));
    assert_eq!((g.world.hw.snapshot(), g.world.hw.invalidations()), before);
}

#[test]
fn a_taken_page_is_refused() {
    let mut g = Guest::new(40);
    g.map(5, FRAME, LENT);
    let refusal = g.map.check_map(&*g.world.hw, gfn(5)).err();
    assert_eq!(refusal, Some(MapRefusal::Taken));
}

#[test]
fn nothing_exists_beyond_the_ipa_space() {
    for bits in SIZES.iter().copied().filter(|bits| *bits < 48) {
        let mut g = Guest::new(bits);
        let end = g.map.geometry().frames();
        for page in [end, end + 1, (1 << 36) - 1] {
            let hw = &*g.world.hw;
            assert_eq!(g.map.check_map(hw, gfn(page)).err(), Some(MapRefusal::OutOfRange));
            assert_eq!(g.map.check_unmap(hw, gfn(page)).err(), Some(UnmapRefusal::OutOfRange));
            assert_eq!(g.map.leaf(hw, gfn(page)), None);
            assert_eq!(g.next_run(page, 10), Scan::End);
            assert_eq!(g.relax(page, Prot::R), Err(RelaxRefusal::OutOfRange));
            assert!(!g.map.mkyoung(g.world.mmu(), gfn(page)));
        }
        assert_eq!(g.map.geometry().span(gfn(end - 1), 2), None);
        assert_eq!(g.map.geometry().span(gfn(end - 1), u64::MAX), None);
        assert_eq!(g.map.geometry().span(gfn(0), 0), None);
    }
}

#[test]
fn a_map_without_tables_is_refused_and_takes_none() {
    let mut g = Guest::new(48);
    g.world.pages.free.truncate(2);
    let plan = g.map.check_map(&*g.world.hw, gfn(5)).unwrap();
    assert_eq!(plan.tables(), 3);
    assert_eq!(plan.reserve(&mut g.world.pages).err(), Some(NoTables));
    assert_eq!(g.world.pages.free, [super::TABLES, super::TABLES + 1]);
    assert!(g.world.hw.snapshot().is_empty());
}

#[test]
fn a_map_needs_as_many_tables_as_are_missing() {
    let needs = |g: &mut Guest, page| g.map.check_map(&*g.world.hw, gfn(page)).unwrap().tables();
    let mut g = Guest::new(40);
    assert_eq!(needs(&mut g, 5), 2);
    g.map(5, FRAME, LENT);
    assert_eq!((needs(&mut g, 6), needs(&mut g, 512), needs(&mut g, 1 << 18)), (0, 1, 2));
    assert_eq!((needs(&mut Guest::new(34), 5), needs(&mut Guest::new(44), 5)), (1, 3));
}

#[test]
fn rights_hold_and_are_told() {
    let mut g = Guest::new(40);
    for (page, rights) in (0..).zip([Prot::R, Prot::RW, Prot::RX, Prot::RWX, Prot::NONE]) {
        g.map(page, FRAME + page, with(rights));
        let got = |kind| g.world.touch(0, page, kind).is_ok();
        assert_eq!(got(Access::Read), rights.contains(Prot::R));
        assert_eq!(got(Access::Write), rights.contains(Prot::W));
        assert_eq!(got(Access::Fetch), rights.contains(Prot::X));
        assert_eq!(g.leaf_attrs(page), with(rights));
    }
}

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

#[test]
fn runs_coalesce_and_break_where_they_must() {
    let mut g = Guest::new(40);
    let run = |page, frame, pages, attrs| Run { gfn: gfn(page), pfn: pfn(frame), pages, attrs };
    g.map(510, FRAME, LENT);
    g.map(511, FRAME + 1, LENT);
    g.map(512, FRAME + 2, LENT);
    g.map(513, FRAME + 9, LENT);
    g.map(514, FRAME + 10, with(Prot::R));
    g.map(516, FRAME + 12, with(Prot::R));
    g.map(517, FRAME + 13, Attrs { device: true, ..with(Prot::RW) });
    let mut runs = Vec::new();
    let mut at = 0;
    while let Scan::Run(run, next) = g.next_run(at, usize::MAX) {
        assert!(next > at);
        runs.push(run);
        at = next;
    }
    let expected = [
        run(510, FRAME, 3, LENT),
        run(513, FRAME + 9, 1, LENT),
        run(514, FRAME + 10, 1, with(Prot::R)),
        run(516, FRAME + 12, 1, with(Prot::R)),
        run(517, FRAME + 13, 1, Attrs { device: true, ..with(Prot::RW) }),
    ];
    assert_eq!(runs, expected);
}

#[test]
fn a_small_budget_finds_the_same_pages() {
    let mut g = Guest::new(40);
    let last = g.map.geometry().frames() - 1;
    for page in [3, 4, 600, last] {
        g.map(page, FRAME + page % 1000, LENT);
    }
    let (mut at, mut pages) = (0, 0);
    loop {
        match g.next_run(at, 3) {
            Scan::Run(run, next) => {
                assert!(run.gfn.raw() >= at && next >= run.gfn.raw() + run.pages);
                pages += run.pages;
                at = next;
            }
            Scan::More(next) => {
                assert!(next > at);
                at = next;
            }
            Scan::End => break,
        }
        if at > last {
            break;
        }
    }
    assert_eq!(pages, 4);
}

#[test]
fn the_last_page_of_the_widest_space_does_not_wrap() {
    let mut g = Guest::new(48);
    let last = (1u64 << 36) - 1;
    g.map(last, FRAME, LENT);
    assert_eq!(
        g.next_run(last, 10),
        Scan::Run(Run { gfn: gfn(last), pfn: pfn(FRAME), pages: 1, attrs: LENT }, last + 1)
    );
    assert_eq!(g.wrprotect(last, 1, 10), 1);
    assert_eq!(g.age(last, 1, true), 1);
    g.unmap(last).unwrap();
    assert_eq!(g.next_run(last, 10), Scan::End);
}

#[test]
fn part_of_a_block_is_not_unmapped_and_not_overlaid() {
    let mut g = Guest::new(40);
    g.map_block(1024, FRAME + 0x200);
    let before = g.world.hw.snapshot();
    assert_eq!(g.unmap(1024), Err(UnmapRefusal::WrongSize));
    assert_eq!(g.unmap(1100), Err(UnmapRefusal::WrongSize));
    assert_eq!(g.map.check_map(&*g.world.hw, gfn(1100)).err(), Some(MapRefusal::Taken));
    assert_eq!(g.world.hw.snapshot(), before);
    let leaf = g.map.leaf(&*g.world.hw, gfn(1100)).unwrap();
    assert_eq!((leaf.level, leaf.pfn), (Level::L2, pfn(FRAME + 0x200 + 76)));
    assert_eq!(g.world.touch(0, 1100, Access::Write), Ok(leaf.pfn));
}

#[test]
fn a_block_is_protected_aged_and_streamed_as_a_whole() {
    let mut g = Guest::new(40);
    g.map_block(1024, FRAME + 0x200);
    let Scan::Run(run, next) = g.next_run(1030, 10) else { panic!("no run") };
    assert_eq!((run.gfn, run.pfn), (gfn(1030), pfn(FRAME + 0x206)));
    assert_eq!((run.pages, next), (506, 1536));
    assert_eq!(g.age(1020, 64, true), !0xf, "every page of a block shares its flag");
    assert_eq!(g.age(1500, 64, true) & 0xf, 0);
    assert_eq!(g.wrprotect(1030, 2, 10), 2);
    assert!(!g.leaf_attrs(1024).rights.prot().contains(Prot::W));
}

#[test]
fn roots_that_are_not_aligned_to_their_number_are_refused() {
    let world = World::new(40, Vmid::new(1), 0);
    let at = |n| Regime { vmid: Vmid::new(1), root: TablePfn::new(pfn(n)) };
    assert!(GuestMap::new(world.geometry, at(ROOT + 1), &world.refs).is_none());
    assert!(GuestMap::new(world.geometry, at((1 << 36) - 1), &world.refs).is_none());
    assert!(GuestMap::new(world.geometry, at(ROOT + 2), &world.refs).is_some());
}
