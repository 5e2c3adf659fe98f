//! The frame pool: every page the host may give away, one at a time.
//!
//! Knows frame numbers. Must not know what is in a frame, or how to reach it. No `unsafe`.
//!
//! Invariants:
//! - I1: a frame of the pool is free or out, and only one that is out can come back.
//! - I2: a bit of a summary word is set exactly if the word below it is not zero, so finding a free
//!   frame reads one word a level: four for 16 million frames.

use alloc::vec;
use alloc::vec::Vec;

use hyp_abi::Pfn;

/// What a frame of a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    NotPooled,
    Free,
    Out,
}

/// Why a frame was not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// The pool never had it.
    NotPooled,
    /// It is free already.
    Free,
}

/// A bitmap with summaries on top.
struct Bits {
    /// `levels[0]` has a bit for each number; `levels[k + 1]` a bit for each word of `levels[k]`.
    levels: Vec<Vec<u64>>,
}

impl Bits {
    fn new(len: usize) -> Self {
        let mut levels = Vec::new();
        let mut words = len.div_ceil(64).max(1);
        loop {
            levels.push(vec![0; words]);
            if words == 1 {
                return Self { levels };
            }
            words = words.div_ceil(64);
        }
    }

    fn get(&self, n: usize) -> bool {
        self.levels[0][n / 64] >> (n % 64) & 1 != 0
    }

    fn set(&mut self, mut n: usize) {
        for level in &mut self.levels {
            let old = level[n / 64];
            level[n / 64] = old | 1 << (n % 64);
            if old != 0 {
                return;
            }
            n /= 64;
        }
    }

    fn clear(&mut self, mut n: usize) {
        for level in &mut self.levels {
            level[n / 64] &= !(1 << (n % 64));
            if level[n / 64] != 0 {
                return;
            }
            n /= 64;
        }
    }

    fn first(&self) -> Option<usize> {
        self.levels.iter().rev().try_fold(0, |at, level| {
            let word = level[at];
            (word != 0).then(|| at * 64 + word.trailing_zeros() as usize)
        })
    }
}

/// One run of frames; `first` is even, so that pairs are aligned.
struct Region {
    first: u64,
    use_of: Vec<Use>,
    free: Bits,
    /// Bit n: frames 2n and 2n + 1 are both free.
    free_pairs: Bits,
}

impl Region {
    fn new(first: u64, end: u64) -> Self {
        let len = (end - first) as usize;
        Self {
            first,
            use_of: vec![Use::NotPooled; len],
            free: Bits::new(len),
            free_pairs: Bits::new(len / 2 + 1),
        }
    }

    fn set_free(&mut self, n: usize) {
        self.use_of[n] = Use::Free;
        self.free.set(n);
        if self.use_of.get(n ^ 1) == Some(&Use::Free) {
            self.free_pairs.set(n / 2);
        }
    }

    fn take(&mut self, n: usize) -> Pfn {
        self.use_of[n] = Use::Out;
        self.free.clear(n);
        if self.free_pairs.get(n / 2) {
            self.free_pairs.clear(n / 2);
        }
        Pfn::new(self.first + n as u64).expect("regions are made of frames")
    }

    fn index(&self, pfn: Pfn) -> Option<usize> {
        let n = usize::try_from(pfn.raw().checked_sub(self.first)?).ok()?;
        (n < self.use_of.len()).then_some(n)
    }
}

/// The pool.
#[derive(Default)]
pub struct Frames {
    regions: Vec<Region>,
    out: u64,
    free: u64,
}

impl Frames {
    /// An empty pool.
    pub const fn new() -> Self {
        Self { regions: Vec::new(), out: 0, free: 0 }
    }

    /// Puts the frames `first..end` in; they must be new to it.
    pub fn add(&mut self, first: u64, end: u64) {
        let mut region = Region::new(first & !1, end);
        for pfn in first..end {
            region.set_free((pfn - region.first) as usize);
        }
        self.free += end - first;
        self.regions.push(region);
    }

    /// Takes a frame.
    pub fn take(&mut self) -> Option<Pfn> {
        let (region, n) = self.regions.iter_mut().find_map(|r| r.free.first().map(|n| (r, n)))?;
        let pfn = region.take(n);
        self.out += 1;
        self.free -= 1;
        Some(pfn)
    }

    /// Takes two adjacent frames, the first of them even; they come back one by one.
    pub fn take_pair(&mut self) -> Option<Pfn> {
        let mut regions = self.regions.iter_mut();
        let (region, pair) = regions.find_map(|r| r.free_pairs.first().map(|n| (r, n)))?;
        let first = region.take(pair * 2);
        let _second = region.take(pair * 2 + 1);
        self.out += 2;
        self.free -= 2;
        Some(first)
    }

    /// Takes a frame back that is out.
    pub fn put(&mut self, pfn: Pfn) -> Result<(), Misuse> {
        let found = self.regions.iter_mut().find_map(|r| r.index(pfn).map(|n| (r, n)));
        let (region, n) = found.ok_or(Misuse::NotPooled)?;
        match region.use_of[n] {
            Use::NotPooled => Err(Misuse::NotPooled),
            Use::Free => Err(Misuse::Free),
            Use::Out => {
                region.set_free(n);
                self.out -= 1;
                self.free += 1;
                Ok(())
            }
        }
    }

    /// Frames handed out.
    pub fn out(&self) -> u64 {
        self.out
    }

    /// Frames free.
    pub fn free(&self) -> u64 {
        self.free
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, Misuse};
    use hyp_abi::Pfn;
    use std::collections::BTreeSet;

    #[test]
    fn every_frame_comes_out_once_and_comes_back_once() {
        let mut frames = Frames::new();
        frames.add(3, 5000);
        frames.add(9000, 9001);
        let mut seen = BTreeSet::new();
        while let Some(pfn) = frames.take() {
            assert!(seen.insert(pfn.raw()), "{pfn:?} twice");
        }
        assert_eq!(seen, (3..5000).chain(9000..9001).collect());
        assert_eq!((frames.free(), frames.out()), (0, 4998));
        for raw in &seen {
            let pfn = Pfn::new(*raw).unwrap();
            assert_eq!(frames.put(pfn), Ok(()));
            assert_eq!(frames.put(pfn), Err(Misuse::Free));
        }
        assert_eq!((frames.free(), frames.out()), (4998, 0));
    }

    #[test]
    fn what_was_not_handed_out_is_not_taken_back() {
        let mut frames = Frames::new();
        frames.add(11, 20);
        let pfn = |n| Pfn::new(n).unwrap();
        for stranger in [5, 10, 20] {
            assert_eq!(frames.put(pfn(stranger)), Err(Misuse::NotPooled));
        }
        assert_eq!(frames.put(pfn(11)), Err(Misuse::Free));
        assert_eq!((frames.free(), frames.out()), (9, 0));
    }

    #[test]
    fn pairs_are_aligned_and_reunite_after_single_returns() {
        let mut frames = Frames::new();
        frames.add(7, 12);
        let a = frames.take_pair().unwrap();
        let b = frames.take_pair().unwrap();
        assert_eq!((a.raw(), b.raw()), (8, 10));
        assert!(frames.take_pair().is_none());
        assert_eq!(frames.take().map(Pfn::raw), Some(7));
        assert_eq!(frames.put(a.add(1).unwrap()), Ok(()));
        assert!(frames.take_pair().is_none());
        assert_eq!(frames.put(a), Ok(()));
        assert_eq!(frames.take_pair(), Some(a));
    }
}
