//! The stream of runs, and blocks as every operation sees them.

use std::cell::Cell;

use hyp_abi::Prot;

use super::{FRAME, Guest, LENT, gfn, pfn, with};
use crate::desc::Attrs;
use crate::fake::FakeMmu;
use crate::guest::{Run, Scan};
use crate::{TablePfn, Tables};

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

/// Tables that count how often they are read.
struct Counted<'a>(&'a FakeMmu, Cell<usize>);

impl Tables for Counted<'_> {
    fn load(&self, table: TablePfn, index: usize) -> u64 {
        self.1.set(self.1.get() + 1);
        self.0.load(table, index)
    }
    fn store(&self, table: TablePfn, index: usize, pte: u64) {
        self.0.store(table, index, pte);
    }
    fn compare_exchange(&self, t: TablePfn, index: usize, old: u64, new: u64) -> Result<(), u64> {
        self.0.compare_exchange(t, index, old, new)
    }
}

#[test]
fn neighbours_in_a_table_are_found_without_another_descent() {
    let mut g = Guest::new(40);
    for page in 0..512 {
        g.map(0x4_0000 + page, FRAME + 2 * page, LENT);
    }
    let tables = Counted(&g.world.hw, Cell::new(0));
    let scan = g.map.next_run(&tables, gfn(0x4_0000), 512);
    assert!(matches!(scan, Scan::Run(Run { pages: 1, .. }, 0x4_0001)));
    let span = g.map.geometry().span(gfn(0x4_0000), 512).unwrap();
    tables.1.set(0);
    assert_eq!(g.map.space.walk(&tables, span).count(), 512);
    assert_eq!(tables.1.get(), 3 + 511);
}
