//! Long random histories, compared with a plain map after each step.

use std::collections::BTreeMap;

use hyp_abi::{PageState, Vmid};

use super::{SIZES, World, gfn, pfn};
use crate::desc::{Attrs, Rights};
use crate::fake::Access;
use crate::guest::Scan;
use crate::{GuestMap, Mmu};

const TABLES: usize = 40;

/// Marsaglia's xorshift: a failure repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

#[test]
fn any_history_of_maps_and_unmaps_agrees_with_a_plain_map() {
    let steps = if cfg!(miri) { 12 } else { 200 };
    for bits in SIZES.iter().copied() {
        let mut world = World::new(bits, Vmid::new(9), TABLES);
        let mut map = GuestMap::new(world.geometry, world.regime, &world.refs).unwrap();
        let mut model = BTreeMap::new();
        let mut dice = Dice(0x9e37_79b9 + u64::from(bits));
        let end = world.geometry.frames();
        let places = [0, 1, 2, 510, 511, 512, 0x3_ffff, 0x4_0000, end / 2, end - 2, end - 1];
        for step in 0..steps {
            let page = places[dice.roll(places.len())];
            let hw = world.hw.clone();
            let mmu = Mmu { hw: &*hw, refs: &world.refs };
            if dice.roll(2) == 0 {
                let planned = map.check_map(&*hw, gfn(page));
                assert_eq!(planned.is_err(), model.contains_key(&page));
                if let Ok(plan) = planned {
                    let attrs = Attrs {
                        rights: Rights::RW,
                        state: PageState::SharedBorrowed,
                        young: true,
                        device: false,
                    };
                    let frame = 0x8_0000 + u64::from(dice.roll(2) == 0);
                    plan.reserve(&mut world.pages).unwrap().commit(mmu, pfn(frame), attrs);
                    model.insert(page, frame);
                }
            } else {
                let planned = map.check_unmap(&*hw, gfn(page));
                assert_eq!(planned.is_ok(), model.contains_key(&page));
                if let Ok(plan) = planned {
                    assert_eq!(Some(plan.leaf().pfn.raw()), model.remove(&page));
                    plan.commit(mmu, &mut world.pages);
                }
            }
            world.check(TABLES);
            for page in places {
                let seen = world.touch(dice.roll(2), page, Access::Write).ok();
                assert_eq!(seen.map(|frame| frame.raw()), model.get(&page).copied());
            }
            if step % 10 == 0 {
                assert_eq!(streamed(&map, &world), model);
            }
        }
    }
}

/// The map as the audit streams it.
fn streamed(map: &GuestMap, world: &World) -> BTreeMap<u64, u64> {
    let mut pages = BTreeMap::new();
    let mut at = 0;
    while at < world.geometry.frames() {
        at = match map.next_run(&*world.hw, gfn(at), 1000) {
            Scan::Run(run, next) => {
                pages.extend((0..run.pages).map(|n| (run.gfn.raw() + n, run.pfn.raw() + n)));
                next
            }
            Scan::More(next) => next,
            Scan::End => break,
        };
    }
    pages
}
