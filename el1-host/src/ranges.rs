//! Sets of addresses as sorted, disjoint ranges, in a fixed array: what is left of RAM when
//! everything that is spoken for is taken away. Works before there is a heap. No `unsafe`.

use hyp_abi::PAGE_SIZE;

/// Most ranges of a set.
const MAX: usize = 64;

/// A range of bytes, end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// Bytes in the range.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether all of `other` lies in it.
    pub fn contains(&self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The whole pages inside.
    pub fn pages_inside(self) -> Self {
        let start = self.start.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        Self { start, end: self.end & !(PAGE_SIZE - 1) }
    }

    /// All pages touched.
    pub fn pages_around(self) -> Self {
        let end = self.end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        Self { start: self.start & !(PAGE_SIZE - 1), end }
    }
}

/// The set is full: the machine's memory map has more pieces than this host was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// A set of addresses.
#[derive(Clone)]
pub struct Ranges {
    list: [Range; MAX],
    len: usize,
}

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self { list: [Range { start: 0, end: 0 }; MAX], len: 0 }
    }

    /// The ranges, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.list[..self.len].iter().copied()
    }

    /// Adds a range; what it overlaps or touches becomes one with it.
    pub fn add(&mut self, mut new: Range) -> Result<(), TooMany> {
        if new.len() == 0 {
            return Ok(());
        }
        let mut result = Self::new();
        for old in self.iter() {
            if old.end < new.start {
                result.push(old)?;
            } else if old.start > new.end {
                result.push(new)?;
                new = old;
            } else {
                new = Range { start: old.start.min(new.start), end: old.end.max(new.end) };
            }
        }
        result.push(new)?;
        *self = result;
        Ok(())
    }

    /// Takes a range away.
    pub fn remove(&mut self, gone: Range) -> Result<(), TooMany> {
        if gone.len() == 0 {
            return Ok(());
        }
        let mut result = Self::new();
        for old in self.iter() {
            // What lies before, and what lies behind: either may be empty.
            result.push(Range { start: old.start, end: old.end.min(gone.start) })?;
            result.push(Range { start: old.start.max(gone.end), end: old.end })?;
        }
        *self = result;
        Ok(())
    }

    /// Cuts `size` bytes at a multiple of `align` from the end of the last range that has them.
    pub fn carve(&mut self, size: u64, align: u64) -> Option<Range> {
        let fit = |r: Range| {
            let start = r.end.checked_sub(size)? & !(align - 1);
            (start >= r.start).then_some(Range { start, end: start + size })
        };
        let cut = self.list[..self.len].iter().rev().find_map(|r| fit(*r))?;
        self.remove(cut).ok()?;
        Some(cut)
    }

    fn push(&mut self, range: Range) -> Result<(), TooMany> {
        if range.len() > 0 {
            *self.list.get_mut(self.len).ok_or(TooMany)? = range;
            self.len += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Range, Ranges, TooMany};

    fn set(ranges: &[(u64, u64)]) -> Ranges {
        let mut set = Ranges::new();
        for &(start, end) in ranges {
            set.add(Range { start, end }).unwrap();
        }
        set
    }

    fn list(set: &Ranges) -> Vec<(u64, u64)> {
        set.iter().map(|r| (r.start, r.end)).collect()
    }

    #[test]
    fn overlapping_and_touching_ranges_become_one() {
        assert_eq!(list(&set(&[(10, 20), (30, 40), (20, 30)])), [(10, 40)]);
        assert_eq!(list(&set(&[(30, 40), (10, 20), (5, 5)])), [(10, 20), (30, 40)]);
        assert_eq!(list(&set(&[(10, 20), (12, 50), (0, 11)])), [(0, 50)]);
    }

    #[test]
    fn removing_agrees_with_a_set_of_numbers() {
        for start in 0..24 {
            for end in 0..24 {
                let mut ranges = set(&[(2, 6), (9, 10), (12, 20)]);
                ranges.remove(Range { start, end }).unwrap();
                let has = |n: u64| ranges.iter().any(|r| r.start <= n && n < r.end);
                for n in 0..24 {
                    let was = (2..6).contains(&n) || n == 9 || (12..20).contains(&n);
                    assert_eq!(has(n), was && !(start..end).contains(&n), "{start}..{end} at {n}");
                }
            }
        }
    }

    #[test]
    fn pages_inside_are_whole_and_pages_around_hold_everything() {
        let odd = Range { start: 0x1001, end: 0x4fff };
        assert_eq!(odd.pages_inside(), Range { start: 0x2000, end: 0x4000 });
        assert_eq!(odd.pages_around(), Range { start: 0x1000, end: 0x5000 });
        assert!(odd.pages_around().contains(odd) && odd.contains(odd.pages_inside()));
        assert_eq!(Range { start: 0x1001, end: 0x1fff }.pages_inside().len(), 0);
        assert_eq!(Range { start: 1, end: u64::MAX }.pages_inside().start, 0x1000);
        assert_eq!(Range { start: u64::MAX - 1, end: u64::MAX }.pages_inside().len(), 0);
    }

    #[test]
    fn carving_aligns_and_takes_from_the_top() {
        let mut ranges = set(&[(0x1000, 0x5800), (0x9000, 0x9800)]);
        let cut = ranges.carve(0x1000, 0x1000).unwrap();
        assert_eq!((cut.start, cut.end), (0x4000, 0x5000));
        assert_eq!(list(&ranges), [(0x1000, 0x4000), (0x5000, 0x5800), (0x9000, 0x9800)]);
        assert_eq!(ranges.carve(0x4000, 0x1000), None);
    }

    #[test]
    fn a_set_with_too_many_pieces_says_so_and_stays_as_it_was() {
        let mut ranges = Ranges::new();
        for n in 0..64 {
            ranges.add(Range { start: n * 4, end: n * 4 + 2 }).unwrap();
        }
        assert_eq!(ranges.add(Range { start: 4000, end: 4001 }), Err(TooMany));
        assert_eq!(ranges.iter().count(), 64);
        assert_eq!(ranges.remove(Range { start: 0, end: 1 }), Ok(()));
    }
}
