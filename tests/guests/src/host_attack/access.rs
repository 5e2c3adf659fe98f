//! Loads, stores, fetches and maintenance, all over the physical address space.

use hyp_abi::Pfn;
use hyp_model::Page;

use super::Attack;
use super::canary::{PAGES, WORDS};
use crate::mmu::{self, Attr};
use crate::probe::{self, Outcome};
use crate::trap::{Fault, SYNC, ec};
use crate::{ensure, read, try_insn};

/// Table descriptor of stage 1.
const TABLE: u64 = 3;
/// Output address of a 2 MiB block.
const BLOCK_OA: u64 = 0xffff_ffe0_0000;

impl Attack {
    /// One access.
    pub fn access(&mut self) {
        let target = match self.rng.below(8) {
            0..=2 => Target::Foreign(self.land.el2(&mut self.rng) << 12 | self.offset()),
            3 => match self.donated() {
                Some(page) => Target::Foreign(self.oracle.pages.pfn(page) << 12 | self.offset()),
                None => Target::Foreign(self.land.nowhere(&mut self.rng)),
            },
            4 => Target::Foreign(self.land.nowhere(&mut self.rng)),
            5 => match self.land.private_device(&mut self.rng) {
                Some(at) => Target::Foreign(at),
                None => Target::Any(self.land.anywhere(&mut self.rng)),
            },
            6 => Target::Any(self.land.anywhere(&mut self.rng)),
            _ => return self.through_own_tables(),
        };
        let attr = if self.rng.one_in(2) { Attr::Normal } else { Attr::Device };
        match target {
            Target::Foreign(pa) => self.foreign(mmu::window(pa, attr), pa),
            Target::Any(pa) => {
                let va = mmu::window(pa, attr);
                let fault = probe::load32(va).err();
                ensure!(fault.is_none_or(|f| sane(f, va)), "a load of {pa:#x} ended in {fault:x?}");
            }
        }
    }

    fn offset(&mut self) -> u64 {
        self.rng.below(WORDS as u64) * 8
    }

    /// A page in play that is EL2's now.
    pub fn donated(&mut self) -> Option<usize> {
        let from = self.rng.below(PAGES as u64) as usize;
        (from..PAGES).chain(0..from).find(|page| {
            let pfn = Pfn::new(self.oracle.pages.pfn(*page));
            pfn.is_some_and(|pfn| self.oracle.state.page(pfn) == Page::EL2)
        })
    }

    /// Whatever the access, it must abort at EL1's own vector.
    fn foreign(&mut self, va: u64, pa: u64) {
        let value = self.rng.bits();
        let (how, class, outcome): (&str, u64, Outcome<()>) = match self.rng.below(11) {
            0 => ("load8", ec::DATA, probe::load8(va).map(drop)),
            1 => ("load16", ec::DATA, probe::load16(va).map(drop)),
            2 => ("load64", ec::DATA, probe::load64(va).map(drop)),
            3 => ("ldp", ec::DATA, probe::load_pair(va).map(drop)),
            4 => ("ldaxr", ec::DATA, probe::load_exclusive(va).map(drop)),
            5 => ("store8", ec::DATA, probe::store8(va, value)),
            6 => ("store32", ec::DATA, probe::store32(va, value)),
            7 => ("store64", ec::DATA, probe::store64(va, value)),
            8 => ("stp", ec::DATA, probe::store_pair(va, value)),
            9 => ("fetch", ec::FETCH, probe::fetch(va)),
            _ => return self.maintain(va, pa),
        };
        let fault = outcome.err();
        let aborted = fault.is_some_and(|f| f.kind == SYNC && f.ec() == class && f.far == va);
        ensure!(aborted, "{how} of {pa:#x}, which is not the host's, ended in {fault:x?}");
    }

    /// Cache maintenance and address translation: refused or harmless, and never an answer.
    fn maintain(&mut self, va: u64, pa: u64) {
        let outcome = match self.rng.below(7) {
            0 => try_insn!("dc civac, {}", va),
            1 => try_insn!("dc ivac, {}", va),
            2 => try_insn!("dc cvac, {}", va),
            3 => try_insn!("dc cvau, {}", va),
            4 => try_insn!("ic ivau, {}", va),
            5 => try_insn!("at s1e1w, {}", va),
            _ => try_insn!("at s1e1r, {}", va),
        };
        let fault = outcome.err();
        ensure!(fault.is_none_or(|f| sane(f, va)), "maintenance of {pa:#x} ended in {fault:x?}");
        let fault = try_insn!("at s12e1r, {}", va).err();
        let undefined = fault.is_some_and(|f| f.kind == SYNC && f.ec() == ec::UNDEF);
        ensure!(undefined, "AT S12E1R ended in {fault:x?}");
    }

    /// Through a stage-1 table in a page of the attacker's own, which it changes without telling
    /// the TLB, and through one that lies where it may not be.
    fn through_own_tables(&mut self) {
        let secret =
            self.rng.below(super::canary::SECRET) as usize + PAGES - super::canary::SECRET as usize;
        let own = self.oracle.pages.pfn(secret) << 12;
        let word = self.rng.below(WORDS as u64) as usize;
        let foreign = match self.donated().filter(|_| self.rng.one_in(3)) {
            Some(page) => self.oracle.pages.pfn(page) << 12,
            None => self.land.el2(&mut self.rng) << 12,
        };
        let index = self.rng.below(512);
        let slot = self.table + index * 8;
        let block = |pa: u64| (pa & BLOCK_OA) | mmu::BLOCK_NORMAL;
        let va = |window: u64, pa: u64| window + (index << 21) + (pa & !BLOCK_OA);
        match self.rng.below(3) {
            // A table in EL2's memory, at the first level or at the second.
            0 => {
                let at = if self.rng.one_in(2) {
                    mmu::window_table(foreign) + (index << 21)
                } else {
                    let window = mmu::window_table(self.table);
                    host_store(slot, foreign | TABLE);
                    flush();
                    window + (index << 21)
                };
                let fault = probe::load64(at).err();
                let aborted = fault.is_some_and(|f| f.kind == SYNC && f.ec() == ec::DATA);
                ensure!(aborted, "a walk through {foreign:#x} ended in {fault:x?}");
            }
            // Own memory and then EL2's behind one address; the old translation may linger.
            1 => {
                let window = mmu::window_table(self.table);
                host_store(slot, block(own));
                flush();
                let at = va(window, own) + 8 * word as u64;
                let loaded = probe::load64(at);
                let right = Ok(self.oracle.pages.read(secret, word));
                ensure!(loaded == right, "the host's own page read as {loaded:x?}");
                host_store(slot, block(foreign));
                // Old or new, and around EL2's page in its block the new one may be the host's.
                let _ = probe::load64(at);
                flush();
                let at = va(window, foreign) + 8 * word as u64;
                let fault = probe::load64(at).err();
                let aborted = fault.is_some_and(|f| f.kind == SYNC && f.ec() == ec::DATA);
                ensure!(aborted, "{foreign:#x} through an own block ended in {fault:x?}");
            }
            // Descriptors of noise: any abort will do, and nothing is changed.
            _ => {
                let window = mmu::window_table(self.table);
                let noise = self.rng.bits() & !(BLOCK_OA & !0xffff) | 1 << 47;
                host_store(slot, noise);
                flush();
                let _ = probe::load64(window + (index << 21) + (self.rng.bits() & 0x1f_fff8));
            }
        }
        host_store(slot, 0);
        flush();
    }

    /// The host is at EL1, and EL2 answers.
    pub fn still_there(&self) {
        ensure!(read!("CurrentEL") == 1 << 2, "the host is not at EL1");
    }
}

enum Target {
    /// Not the host's: must abort.
    Foreign(u64),
    /// A load of it must end.
    Any(u64),
}

/// An abort with its address, at EL1's own vector.
fn sane(fault: Fault, va: u64) -> bool {
    fault.kind == SYNC && fault.ec() == ec::DATA && fault.far == va
}

fn host_store(at: u64, value: u64) {
    let stored = probe::store64(at, value);
    ensure!(stored.is_ok(), "a store to the host's own page at {at:#x} ended in {stored:x?}");
}

fn flush() {
    let _ = try_insn!("dsb ishst\ntlbi vmalle1\ndsb ish\nisb");
}
