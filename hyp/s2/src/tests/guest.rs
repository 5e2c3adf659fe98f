//! One VM's map, and CPUs that use it.

mod attrs;
mod scan;

use hyp_abi::{PageState, Prot, Vmid};

use super::{ROOT, SIZES, World, gfn, pfn};
use crate::desc::{Attrs, Desc, Rights};
use crate::fake::{Access, Fault};
use crate::guest::{MapRefusal, RelaxRefusal, Scan, UnmapRefusal};
use crate::{GuestMap, Level, Mmu, NoTables, Refs, Regime, TablePfn, TableSource};

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

/// A supply that has one table less than it says.
struct Boaster<'a>(&'a mut super::Pages);

impl TableSource for Boaster<'_> {
    fn available(&self) -> usize {
        self.0.available() + 1
    }
    fn take(&mut self) -> Option<TablePfn> {
        self.0.take()
    }
    fn give(&mut self, table: TablePfn) {
        self.0.give(table);
    }
}

#[test]
fn exactly_as_many_tables_as_are_missing_are_enough() {
    let mut g = Guest::new(48);
    g.world.pages.free.truncate(3);
    let plan = g.map.check_map(&*g.world.hw, gfn(5)).unwrap();
    plan.reserve(&mut g.world.pages).unwrap().commit(g.world.mmu(), pfn(FRAME), LENT);
    assert!(g.world.pages.free.is_empty());
    assert_eq!(g.leaf_attrs(5), LENT);
}

#[test]
fn what_a_supply_gave_before_it_was_found_empty_goes_back() {
    let mut g = Guest::new(48);
    g.world.pages.free.truncate(2);
    let plan = g.map.check_map(&*g.world.hw, gfn(5)).unwrap();
    assert_eq!(plan.reserve(&mut Boaster(&mut g.world.pages)).err(), Some(NoTables));
    assert_eq!(g.world.pages.free.len(), 2);
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
fn roots_that_are_not_aligned_to_their_number_are_refused() {
    let world = World::new(40, Vmid::new(1), 0);
    let at = |n| Regime { vmid: Vmid::new(1), root: TablePfn::new(pfn(n)) };
    assert!(GuestMap::new(world.geometry, at(ROOT + 1), &world.refs).is_none());
    assert!(GuestMap::new(world.geometry, at((1 << 36) - 1), &world.refs).is_none());
    assert!(GuestMap::new(world.geometry, at(ROOT + 2), &world.refs).is_some());
}
