//! No bytes make the reader panic: a great many broken trees, the same ones in every run.

use crate::tests::{ODD, PI4, VIRT2, VIRT3};
use crate::{Dtb, Gic, Region, strip_nops};

/// How many mutants of a tree: `DTB_MUTANTS` thousand, if that is set for a long run. Miri is slow,
/// and looks for other things than panics.
fn rounds(usual: u32) -> u32 {
    if cfg!(miri) {
        return 2;
    }
    let wanted = std::env::var("DTB_MUTANTS").ok().and_then(|n| n.parse::<u32>().ok());
    wanted.map_or(usual, |thousands| thousands * 1000)
}

/// xorshift64*: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        high as usize % limit.max(1)
    }

    /// A word that a reader might stumble over.
    fn word(&mut self, near: usize) -> u32 {
        let edges = [0, 1, 2, 3, 4, 9, 16, 17, 39, 40, 0x7fff_ffff, 0x8000_0000, u32::MAX];
        match self.below(4) {
            0 => (near as u32).wrapping_add(self.below(9) as u32).wrapping_sub(4),
            1 => self.below(near) as u32,
            _ => edges[self.below(edges.len())],
        }
    }

    /// Changes a tree in one way. Most keep the header, or nothing would get past it.
    fn mutate(&mut self, tree: &mut Vec<u8>) {
        let len = tree.len();
        let at = self.below(len);
        let aligned = at & !3;
        match self.below(16) {
            0 => tree.truncate(at),
            1 => {
                let field = self.below(10) * 4;
                let word = self.word(len);
                put(tree, field, word);
            }
            // Shorter, and the header agrees.
            2 => {
                tree.truncate(at);
                put(tree, 4, at as u32);
            }
            3..=6 => flip(tree, at, self.below(8)),
            7..=9 => {
                let word = self.word(len);
                put(tree, aligned, word);
            }
            // A piece of the tree over another piece of it.
            10 | 11 => {
                let (from, bytes) = (self.below(len) & !3, 4 + self.below(60));
                let piece = tree.get(from..(from + bytes).min(len)).unwrap_or_default().to_vec();
                for (slot, byte) in tree.iter_mut().skip(aligned).zip(piece) {
                    *slot = byte;
                }
            }
            12 | 13 => {
                // The length or the value of some property: behind a PROP token.
                let words = (40..len.saturating_sub(12)).step_by(4).cycle().skip(at / 4).take(len);
                let prop = words.into_iter().find(|o| get(tree, *o) == Some(3));
                let field = prop.unwrap_or(0) + [4, 8, 12, 16][self.below(4)];
                let word = self.word(16);
                put(tree, field, word);
            }
            _ => {
                if let Some(byte) = tree.get_mut(at) {
                    *byte = [0, b'/', b'@', b'0', 0x7f, 0xff][at % 6];
                }
            }
        }
    }
}

fn get(tree: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*tree.get(offset..)?.first_chunk()?))
}

fn put(tree: &mut [u8], offset: usize, word: u32) {
    if let Some(slot) = tree.get_mut(offset..offset + 4) {
        slot.copy_from_slice(&word.to_be_bytes());
    }
}

fn flip(tree: &mut [u8], at: usize, bit: usize) {
    if let Some(byte) = tree.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

/// Reads all there is to read; what is handed out does not wrap.
fn read_all(dtb: &Dtb<'_>) {
    let sound = |r: &Region| assert!(r.base.checked_add(r.size).is_some(), "{r:?} wraps");
    if let Ok(ram) = dtb.ram() {
        assert!(!ram.is_empty() && ram.iter().all(|r| r.size > 0));
        ram.iter().for_each(sound);
    }
    if let Ok(reserved) = dtb.reserved() {
        reserved.iter().for_each(|r| sound(&r.region));
    }
    if let Ok(Gic::V3 { gicr, .. }) = dtb.gic() {
        assert!(!gicr.is_empty());
        gicr.iter().for_each(sound);
    }
    if let Ok(Some(uart)) = dtb.uart() {
        sound(&uart.registers);
        assert!(uart.intid.is_none_or(|i| (16..1020).contains(&i)));
    }
    if let Ok(chosen) = dtb.chosen() {
        chosen.initrd.iter().for_each(sound);
    }
    let _ = (dtb.cpus(), dtb.psci(), dtb.timer());
    let nothing = dtb.find(|node| {
        let _ = (node.reg().map(Iterator::count), node.unit(), node.interrupt_parent());
        None::<()>
    });
    assert!(nothing.is_none());
}

/// Answers how many mutants were still accepted.
fn torture(original: &[u8], seed: u64, rounds: u32) -> u32 {
    let mut random = Random(seed);
    let mut accepted = 0;
    for _ in 0..rounds {
        let mut tree = original.to_vec();
        for _ in 0..=random.below(3) {
            random.mutate(&mut tree);
        }
        // Where a mutation has made a NOP of something, that is taken out first, half of the time.
        if random.below(2) == 0 {
            let _ = strip_nops(&mut tree);
        }
        if let Ok(dtb) = Dtb::parse(&tree) {
            accepted += 1;
            read_all(&dtb);
        }
    }
    accepted
}

/// Not for nothing: some mutants are broken beyond reading, some only in what they say.
fn survives(tree: &[u8], seed: u64, usual: u32) {
    if cfg!(miri) && tree.len() > 4096 {
        return; // minutes; the smaller trees take the same paths
    }
    let rounds = rounds(usual);
    read_all(&Dtb::parse(tree).unwrap());
    let accepted = torture(tree, seed, rounds);
    assert!(
        cfg!(miri) || accepted > rounds / 10 && accepted < rounds / 10 * 9 + 9,
        "{accepted} of {rounds}"
    );
}

#[test]
fn no_mutant_of_the_gicv2_tree_makes_the_reader_panic() {
    survives(VIRT2, 1, 60_000);
}

#[test]
fn no_mutant_of_the_gicv3_tree_makes_the_reader_panic() {
    survives(VIRT3, 2, 60_000);
}

#[test]
fn no_mutant_of_the_pi_tree_makes_the_reader_panic() {
    survives(PI4, 3, 60_000);
}

#[test]
fn no_mutant_of_the_odd_tree_makes_the_reader_panic() {
    survives(ODD, 4, 60_000);
}

#[test]
fn every_truncation_is_refused() {
    for tree in [VIRT2, PI4] {
        let step = if cfg!(miri) { 499 } else { 1 };
        for length in (0..tree.len()).step_by(step) {
            let mut cut = tree[..length].to_vec();
            assert!(Dtb::parse(&cut).is_err());
            // The header may agree: the strings block then ends behind the end.
            put(&mut cut, 4, length as u32);
            assert!(Dtb::parse(&cut).is_err());
        }
    }
}
