//! A stage-2 table walk written from DDI0487 D8.3 alone, over raw words of the fake machine's RAM.

use hyp_abi::{Gfn, Pfn, Prot};
use hyp_core::fake::FakeMachine;
use hyp_model::Map;
use std::collections::{BTreeMap, BTreeSet};

/// What a 40-bit stage 2 with two concatenated level-1 roots maps, and the table pages below the
/// roots.
pub fn guest(m: &FakeMachine, root: Pfn) -> (BTreeMap<Gfn, Map>, BTreeSet<Pfn>) {
    let (mut maps, mut tables) = (BTreeMap::new(), BTreeSet::new());
    for l1 in 0..1024u64 {
        let table = root.add(l1 / 512).expect("the root is in range");
        let Some(l2_table) = next(m.peek(table, (l1 % 512) as usize), &mut tables) else {
            continue;
        };
        for l2 in 0..512u64 {
            let Some(l3_table) = next(m.peek(l2_table, l2 as usize), &mut tables) else { continue };
            for l3 in 0..512u64 {
                if let Some(map) = page(m.peek(l3_table, l3 as usize)) {
                    let gfn = Gfn::new(l1 << 18 | l2 << 9 | l3).expect("40 bits");
                    maps.insert(gfn, map);
                }
            }
        }
    }
    (maps, tables)
}

/// The table that a level-1 or level-2 descriptor points to. Blocks do not exist in guests yet.
fn next(descriptor: u64, tables: &mut BTreeSet<Pfn>) -> Option<Pfn> {
    if descriptor == 0 {
        return None;
    }
    assert_eq!(descriptor & 3, 3, "neither empty nor a table: {descriptor:#x}");
    let table = Pfn::new((descriptor & 0x0000_ffff_ffff_f000) >> 12).expect("48 bits");
    assert!(tables.insert(table), "{table:?} is linked twice");
    Some(table)
}

fn page(descriptor: u64) -> Option<Map> {
    if descriptor == 0 {
        return None;
    }
    assert_eq!(descriptor & 3, 3, "neither empty nor a page: {descriptor:#x}");
    let mut prot = Prot::NONE;
    for (bit, right) in [(6, Prot::R), (7, Prot::W)] {
        if descriptor >> bit & 1 == 1 {
            prot = prot.union(right);
        }
    }
    assert_eq!(descriptor >> 53 & 1, 0, "FEAT_XNX is not there on every CPU");
    if descriptor >> 54 & 1 == 0 {
        prot = prot.union(Prot::X);
    }
    let device = match descriptor >> 2 & 15 {
        0b1111 => false,
        0b0001 => true,
        other => panic!("memory attributes {other:#06b}"),
    };
    let young = descriptor >> 10 & 1 == 1;
    let pfn = Pfn::new((descriptor & 0x0000_ffff_ffff_f000) >> 12).expect("48 bits");
    Some(Map { pfn, prot, young, device })
}
