//! The host's identity map.

use hyp_abi::{Pfn, Vmid};

use super::{SIZES, World, gfn, pfn};
use crate::desc::{Annotation, Attrs};
use crate::fake::{Access, Fault};
use crate::host::{AnnotateRefusal, Lookup, TouchRefusal};
use crate::{HostMap, Level, Mmu, NoTables};

const TABLES: usize = 12;
/// RAM: 1 GiB to 3 GiB + 4 MiB + 3 pages.
const RAM: core::ops::Range<u64> = 0x4_0000..0xc_0403;
const GUEST: Annotation = Annotation::new(Annotation::GUEST, 0x1234_5678_9abc);

struct Host {
    world: World,
    map: HostMap,
}

impl Host {
    fn new(ipa_bits: u8) -> Self {
        let world = World::new(ipa_bits, Vmid::HOST, TABLES);
        let map = HostMap::new(world.geometry, world.regime, &world.refs).unwrap();
        Self { world, map }
    }
    fn fault(&mut self, page: u64) -> Result<Level, TouchRefusal> {
        let Self { world, map } = self;
        let mmu = Mmu { hw: &*world.hw, refs: &world.refs };
        let fits = |first: Pfn, pages: u64| {
            RAM.contains(&first.raw()) && RAM.contains(&(first.raw() + pages - 1))
        };
        let level = map.touch(mmu, &mut world.pages, pfn(page), Attrs::HOST_RAM, fits)?;
        world.check(TABLES);
        Ok(level)
    }
    fn annotate(&mut self, page: u64, to: Annotation) -> Result<(), AnnotateRefusal> {
        let Self { world, map } = self;
        let plan = map.check_annotate(&*world.hw, pfn(page))?;
        plan.reserve(&mut world.pages).unwrap().commit(world.mmu(), to);
        world.check(TABLES);
        Ok(())
    }
    fn release(&mut self, page: u64) -> Result<Annotation, AnnotateRefusal> {
        let Self { world, map } = self;
        let plan = map.check_release(&*world.hw, pfn(page))?;
        let annotation = plan.annotation();
        plan.commit(Mmu { hw: &*world.hw, refs: &world.refs }, &mut world.pages);
        world.check(TABLES);
        Ok(annotation)
    }
    fn zap(&mut self, from: u64, nr: u64, budget: usize) -> Option<u64> {
        let Self { world, map } = self;
        let span = map.geometry().span(gfn(from), nr).unwrap();
        let mmu = Mmu { hw: &*world.hw, refs: &world.refs };
        let next = map.zap(mmu, span, budget, &mut world.pages);
        world.check(TABLES);
        next
    }
    fn lookup(&self, page: u64) -> Option<Lookup> {
        self.map.lookup(&*self.world.hw, pfn(page))
    }
}

#[test]
fn a_touch_maps_the_largest_block_that_fits() {
    for bits in SIZES.iter().copied() {
        let mut h = Host::new(bits);
        // A tree that starts at level 2 has no larger blocks.
        let largest = h.map.geometry().start().max(Level::L1);
        assert_eq!(h.fault(0x5_1234), Ok(largest), "{bits} bits");
        assert_eq!(h.fault(0xc_0000), Ok(Level::L2));
        assert_eq!(h.fault(0xc_0402), Ok(Level::L3));
        for page in [0x5_1234, 0xc_0000, 0xc_01ff, 0xc_0402] {
            assert_eq!(h.world.touch(0, page, Access::Write), Ok(pfn(page)));
            assert!(matches!(h.lookup(page), Some(Lookup::Valid(_, Attrs::HOST_RAM))));
        }
        assert_eq!(h.world.touch(0, 0xc_0403, Access::Read), Err(Fault::Translation(3)));
        assert_eq!(h.lookup(0xc_0403), Some(Lookup::Absent(Level::L3)));
    }
}

#[test]
fn a_touch_that_lost_a_race_is_no_error_and_changes_nothing() {
    let mut h = Host::new(40);
    h.fault(0x5_0000).unwrap();
    let before = h.world.hw.snapshot();
    assert_eq!(h.fault(0x5_0001), Ok(Level::L1));
    assert_eq!(h.world.hw.snapshot(), before);
}

#[test]
fn a_touch_of_what_does_not_fit_or_exist_is_refused() {
    let mut h = Host::new(40);
    assert_eq!(h.fault(0xc_0403), Err(TouchRefusal::OutOfRange));
    assert_eq!(h.fault(1 << 28), Err(TouchRefusal::OutOfRange));
    assert_eq!(h.lookup(1 << 28), None);
    h.world.pages.free.truncate(1);
    assert_eq!(h.fault(0xc_0402), Err(TouchRefusal::NoTables));
    assert_eq!(h.world.pages.free.len(), 1);
    assert!(h.world.hw.snapshot().is_empty());
}

#[test]
fn a_donated_page_leaves_no_stale_host_translation() {
    for bits in SIZES.iter().copied() {
        let mut h = Host::new(bits);
        h.fault(0x5_1234).unwrap();
        for cpu in 0..2 {
            h.world.touch(cpu, 0x5_1234, Access::Read).unwrap();
        }
        h.annotate(0x5_1234, GUEST).unwrap();
        for cpu in 0..2 {
            assert_eq!(h.world.touch(cpu, 0x5_1234, Access::Read), Err(Fault::Translation(3)));
        }
        assert_eq!(h.lookup(0x5_1234), Some(Lookup::Annotated(GUEST)));
        assert_eq!(h.fault(0x5_1234), Err(TouchRefusal::Annotated(GUEST)));
    }
}

#[test]
fn the_rest_of_a_broken_block_comes_back_in_the_largest_blocks_left() {
    let mut h = Host::new(40);
    assert_eq!(h.fault(0x5_1234), Ok(Level::L1));
    h.annotate(0x5_1234, GUEST).unwrap();
    // Neighbours in the same 2 MiB: pages. Others in the same GiB: 2 MiB. The next GiB: 1 GiB.
    assert_eq!(h.fault(0x5_1235), Ok(Level::L3));
    assert_eq!(h.fault(0x5_1400), Ok(Level::L2));
    assert_eq!(h.fault(0x8_0000), Ok(Level::L1));
    for page in [0x5_1235, 0x5_1400, 0x8_0000] {
        assert_eq!(h.world.touch(1, page, Access::Fetch), Ok(pfn(page)));
    }
}

#[test]
fn a_page_can_be_donated_before_it_was_ever_touched() {
    let mut h = Host::new(40);
    h.annotate(0x5_1234, GUEST).unwrap();
    assert_eq!(h.lookup(0x5_1234), Some(Lookup::Annotated(GUEST)));
    assert_eq!(h.fault(0x5_1233), Ok(Level::L3));
    assert_eq!(h.world.hw.invalidations().ipa, 0, "nothing was mapped");
}

#[test]
fn a_mapped_page_is_annotated_in_place() {
    let mut h = Host::new(40);
    h.annotate(0x5_1234, GUEST).unwrap();
    h.fault(0x5_1235).unwrap();
    h.world.touch(1, 0x5_1235, Access::Write).unwrap();
    let plan = h.map.check_annotate(&*h.world.hw, pfn(0x5_1235)).unwrap();
    assert_eq!(plan.tables(), 0);
    h.annotate(0x5_1235, GUEST).unwrap();
    assert_eq!(h.world.touch(1, 0x5_1235, Access::Write), Err(Fault::Translation(3)));
}

#[test]
fn an_annotation_is_not_overwritten() {
    let mut h = Host::new(40);
    let hyp = Annotation::new(Annotation::HYP, 0);
    h.annotate(0x5_1234, hyp).unwrap();
    let before = h.world.hw.snapshot();
    assert_eq!(h.annotate(0x5_1234, GUEST), Err(AnnotateRefusal::WrongState));
    assert_eq!(h.annotate(1 << 28, GUEST), Err(AnnotateRefusal::OutOfRange));
    assert_eq!(h.release(0x5_1233), Err(AnnotateRefusal::WrongState));
    assert_eq!(h.release(1 << 28), Err(AnnotateRefusal::OutOfRange));
    assert_eq!(h.world.hw.snapshot(), before);
}

#[test]
fn a_page_given_back_can_be_touched_and_empty_tables_are_freed() {
    let mut h = Host::new(40);
    h.annotate(0x5_1234, GUEST).unwrap();
    h.annotate(0x5_1235, GUEST).unwrap();
    // Walkers may cache the tables although the pages fault.
    let _ = h.world.touch(0, 0x5_1234, Access::Read);
    assert_eq!(h.release(0x5_1234), Ok(GUEST));
    assert_eq!(h.world.hw.invalidations().ipa, 0, "an annotation is in no TLB");
    assert_eq!(h.world.pages.free.len(), TABLES - 2);
    assert_eq!(h.release(0x5_1235), Ok(GUEST));
    assert_eq!(h.world.hw.invalidations().ipa, 1, "its table may be");
    assert_eq!(h.world.pages.free.len(), TABLES);
    assert_eq!(h.fault(0x5_1234), Ok(Level::L1));
    assert_eq!(h.world.touch(0, 0x5_1234, Access::Read), Ok(pfn(0x5_1234)));
}

#[test]
fn donating_needs_tables_only_below_what_is_there() {
    let mut h = Host::new(48);
    let needs = |h: &mut Host, page| {
        h.map.check_annotate(&*h.world.hw, pfn(page)).map(|plan| plan.tables()).unwrap()
    };
    assert_eq!(needs(&mut h, 0x5_1234), 3);
    h.fault(0x5_1234).unwrap();
    assert_eq!(needs(&mut h, 0x5_1234), 2);
    h.annotate(0x5_1234, GUEST).unwrap();
    assert_eq!((needs(&mut h, 0x5_1235), needs(&mut h, 0x5_1400)), (0, 1));
    h.world.pages.free.clear();
    let plan = h.map.check_annotate(&*h.world.hw, pfn(0x5_1400)).unwrap();
    assert_eq!(plan.reserve(&mut h.world.pages).err(), Some(NoTables));
}

#[test]
fn zapping_frees_tables_keeps_annotations_and_resumes() {
    let mut h = Host::new(40);
    h.annotate(0x5_1234, GUEST).unwrap();
    h.fault(0x5_1235).unwrap();
    h.fault(0x8_0000).unwrap();
    h.fault(0xc_0000).unwrap();
    h.fault(0xc_0402).unwrap();
    for page in [0x5_1235, 0x8_0000, 0xc_0000, 0xc_0402] {
        h.world.touch(1, page, Access::Read).unwrap();
    }
    // The 1 GiB block starts before the span: it stays.
    assert_eq!(h.zap(0x8_0001, 0x4_0000, usize::MAX), None);
    assert_eq!(h.zap(0x10_0000, 0x4_0000, 1), None, "the budget and the span end together");
    assert!(h.world.touch(1, 0x8_0000, Access::Read).is_ok());
    let mut at = Some(0);
    let end = h.map.geometry().frames();
    let mut steps = 0;
    while let Some(from) = at {
        at = h.zap(from, end - from, 100);
        steps += 1;
    }
    assert!(steps > 1);
    for page in [0x5_1235, 0x8_0000, 0xc_0000, 0xc_0402] {
        assert!(h.world.touch(1, page, Access::Read).is_err());
    }
    assert_eq!(h.lookup(0x5_1234), Some(Lookup::Annotated(GUEST)));
    h.release(0x5_1234).unwrap();
    assert_eq!(h.world.pages.free.len(), TABLES);
}
