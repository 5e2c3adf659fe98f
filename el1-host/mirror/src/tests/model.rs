//! Random operations against a naive model: one entry a page, no runs.

use std::collections::BTreeMap;

use hyp_abi::{Hypercall, Prot, Refusal};

use super::{el2, loaded, runs};
use crate::fake::{FakeEl2, gfn, pfn};

/// xorshift64*: repeatable, and quick under Miri.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Runs a naive observer would make of the pages.
fn expected_runs(model: &BTreeMap<u64, (u64, Prot)>) -> Vec<(u64, u64, u64, Prot)> {
    let mut out: Vec<(u64, u64, u64, Prot)> = Vec::new();
    for (at, (frame, prot)) in model {
        match out.last_mut() {
            Some((g, p, nr, q)) if *g + *nr == *at && *p + *nr == *frame && q == prot => *nr += 1,
            _ => out.push((*at, *frame, 1, *prot)),
        }
    }
    out
}

const PAGES: u64 = 48;

fn step(
    random: &mut Random,
    el2: &FakeEl2,
    cpu: &crate::fake::FakeCpu<'_>,
    mirror: &crate::Mirror,
    model: &mut BTreeMap<u64, (u64, Prot)>,
) {
    let at = random.below(PAGES);
    let nr = random.below(PAGES / 2);
    let limit = at + nr;
    let refuse = random.below(8) == 0;
    match random.below(8) {
        0..=3 => {
            // Mostly the frame that makes long runs, sometimes another.
            let frame = 1000 + at + if random.below(4) == 0 { 100 } else { 0 };
            let prot = if random.below(4) == 0 { Prot::RX } else { Prot::RWX };
            if refuse {
                el2.refuse(Hypercall::ShareGuest, 0, Refusal::NoMemory);
            }
            let expected = match model.get(&at) {
                Some(_) => Err(Refusal::Raced),
                None if refuse => Err(Refusal::NoMemory),
                None => Ok(()),
            };
            assert_eq!(mirror.map(cpu, gfn(at), pfn(frame), prot), expected);
            if expected.is_ok() {
                model.insert(at, (frame, prot));
            }
        }
        4 => {
            let inside: Vec<u64> = model.range(at..limit).map(|(g, _)| *g).rev().collect();
            let keep = random.below(6);
            let stopped = refuse && (keep as usize) < inside.len();
            if stopped {
                el2.refuse(Hypercall::UnshareGuest, keep, Refusal::Busy);
            }
            let gone = if stopped { &inside[..keep as usize] } else { &inside[..] };
            let mut freed = Vec::new();
            let done = mirror.unmap(cpu, gfn(at), nr, |g, p| freed.push((g.raw(), p.raw())));
            let expected: Vec<(u64, u64)> =
                gone.iter().map(|g| (*g, model.remove(g).unwrap().0)).collect();
            assert_eq!(freed, expected);
            assert_eq!(done.pages, expected.len() as u64);
            assert_eq!(done.refused.is_some(), stopped);
        }
        5 => {
            let inside = model.range(at..limit).count() as u64;
            assert_eq!(mirror.wrprotect(cpu, gfn(at), nr), Ok(inside));
        }
        6 => {
            let answer = mirror.relax_perms(cpu, gfn(at), Prot::W);
            match model.get_mut(&at) {
                Some((_, prot)) => {
                    assert_eq!(answer, Ok(()));
                    *prot = prot.union(Prot::W);
                }
                None => assert_eq!(answer, Err(Refusal::Raced)),
            }
        }
        _ => {
            let mut cleaned = Vec::new();
            mirror.flush(gfn(at), nr, |p, nr| cleaned.extend(p.raw()..p.raw() + nr));
            let expected: Vec<u64> = model.range(at..limit).map(|(_, (p, _))| *p).collect();
            assert_eq!(cleaned, expected);
        }
    }
    // A refusal that met no call must not meet the next step's.
    el2.forget_refusals();
}

#[test]
fn a_mirror_equals_a_map_of_single_pages_after_every_step() {
    let (seeds, steps) = if cfg!(miri) { (1, 40) } else { (12, 800) };
    for seed in 1..=seeds {
        let mut random = Random(seed);
        let el2 = el2();
        let (cpu, mirror, vm) = loaded(&el2);
        let mut model = BTreeMap::new();
        for n in 0..steps {
            step(&mut random, &el2, &cpu, &mirror, &mut model);
            let expected = expected_runs(&model);
            assert_eq!(runs(&mirror), expected, "seed {seed} step {n}");
            assert_eq!(mirror.entries(), expected.len(), "seed {seed} step {n}");
            assert_eq!(mirror.pages(), model.len() as u64);
            for at in 0..=PAGES {
                let page = mirror.get(gfn(at)).map(|m| (m.pfn.raw(), m.prot));
                assert_eq!(page, model.get(&at).copied());
            }
            let el2_pages: Vec<(u64, u64)> =
                el2.pages(vm).iter().map(|(g, p)| (*g, p.pfn)).collect();
            assert!(el2_pages.iter().copied().eq(model.iter().map(|(g, (p, _))| (*g, *p))));
            assert_eq!(mirror.audit(&cpu).unwrap().pages, model.len() as u64);
        }
        assert_eq!(mirror.destroy(&cpu, |_, _| {}).pages, model.len() as u64);
        assert!(el2.pages(vm).is_empty());
    }
}
