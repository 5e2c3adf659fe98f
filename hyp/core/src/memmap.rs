//! The memory map: which physical addresses are RAM, frozen at boot.
//!
//! Knows: up to [`MAX_REGIONS`] regions of whole pages, sorted, apart from each other. Must not
//! know: who owns a page.
//!
//! Invariants: I1: regions are not empty, sorted by address, and at least one page apart or of
//! different origin, never overlapping. I2: the metadata index of a page is its rank among all
//! RAM pages, so the table has exactly [`MemMap::pages`] entries.

use hyp_abi::addr::ADDR_BITS;
use hyp_abi::{PAGE_SHIFT, PAGE_SIZE, Pfn};

/// Most RAM regions.
pub const MAX_REGIONS: usize = 16;

/// A run of page frames: `start .. start + pages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// The whole pages inside `base .. base + size` (bytes), cut at the end of the address space;
    /// `None` if there is none.
    #[must_use]
    pub fn inward(base: u64, size: u64) -> Option<Self> {
        let end = base.saturating_add(size).min(1 << ADDR_BITS) >> PAGE_SHIFT;
        let start = base.checked_next_multiple_of(PAGE_SIZE)? >> PAGE_SHIFT;
        (start < end).then_some(Self { start, end })
    }

    /// Every page that `base .. base + size` (bytes) touches; `None` if there is none.
    #[must_use]
    pub fn outward(base: u64, size: u64) -> Option<Self> {
        let end = base.saturating_add(size).checked_next_multiple_of(PAGE_SIZE)?;
        let end = end.min(1 << ADDR_BITS) >> PAGE_SHIFT;
        let start = base >> PAGE_SHIFT;
        (size > 0 && start < end).then_some(Self { start, end })
    }

    /// `pages` frames from `start` on; `None` if empty or beyond the address space.
    #[must_use]
    pub fn of(start: Pfn, pages: u64) -> Option<Self> {
        let last = start.add(pages.checked_sub(1)?)?;
        Some(Self { start: start.raw(), end: last.raw().saturating_add(1) })
    }

    /// First frame.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// One past the last frame.
    #[must_use]
    pub fn end(self) -> u64 {
        self.end
    }

    /// Number of frames.
    #[must_use]
    pub fn pages(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the frame is inside.
    #[must_use]
    pub fn contains(self, pfn: Pfn) -> bool {
        (self.start..self.end).contains(&pfn.raw())
    }

    /// Whether the two have a frame in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The frames, in order.
    pub fn iter(self) -> impl Iterator<Item = Pfn> {
        (self.start..self.end).filter_map(Pfn::new)
    }
}

/// Why a memory map was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No region with a whole page.
    Empty,
    /// More than [`MAX_REGIONS`].
    TooMany,
    /// Two regions have a page in common.
    Overlap,
}

/// All RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemMap {
    /// Each region with the metadata index of its first page.
    regions: [Option<(PageRange, usize)>; MAX_REGIONS],
    pages: usize,
}

impl MemMap {
    /// Sorts and checks the regions.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn new(ranges: impl IntoIterator<Item = PageRange>) -> Result<Self, MapError> {
        let mut sorted = [None; MAX_REGIONS];
        for range in ranges {
            insert(&mut sorted, range)?;
        }
        let mut pages = 0usize;
        let mut regions = [None; MAX_REGIONS];
        for (region, range) in regions.iter_mut().zip(sorted.into_iter().flatten()) {
            *region = Some((range, pages));
            let count = usize::try_from(range.pages()).map_err(|_| MapError::TooMany)?;
            pages = pages.checked_add(count).ok_or(MapError::TooMany)?;
        }
        if pages == 0 { Err(MapError::Empty) } else { Ok(Self { regions, pages }) }
    }

    /// Number of RAM pages: the size of the metadata table.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The regions in order.
    pub fn regions(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.regions.iter().flatten().map(|(range, _)| *range)
    }

    /// The region that contains a frame.
    #[must_use]
    pub fn region_of(&self, pfn: Pfn) -> Option<PageRange> {
        self.regions().find(|r| r.contains(pfn))
    }

    /// Whether a frame is RAM.
    #[must_use]
    pub fn contains(&self, pfn: Pfn) -> bool {
        self.region_of(pfn).is_some()
    }

    /// The metadata index of a RAM page.
    #[must_use]
    pub fn index(&self, pfn: Pfn) -> Option<usize> {
        let (range, first) = self.regions.iter().flatten().find(|(r, _)| r.contains(pfn))?;
        let offset = usize::try_from(pfn.raw().checked_sub(range.start)?).ok()?;
        first.checked_add(offset)
    }

    /// The hole (no RAM) that contains a frame, up to its neighbours or the address space's ends.
    #[must_use]
    pub fn hole_of(&self, pfn: Pfn) -> Option<PageRange> {
        let mut hole = PageRange { start: 0, end: 1 << ADDR_BITS.saturating_sub(PAGE_SHIFT) };
        for region in self.regions() {
            if region.contains(pfn) {
                return None;
            }
            if region.end <= pfn.raw() {
                hole.start = region.end;
            } else {
                hole.end = hole.end.min(region.start);
            }
        }
        Some(hole)
    }
}

/// Puts `range` in its place among the sorted ranges.
fn insert(sorted: &mut [Option<PageRange>; MAX_REGIONS], range: PageRange) -> Result<(), MapError> {
    let mut carried = Some(range);
    for place in sorted.iter_mut() {
        let Some(new) = carried else { break };
        match *place {
            Some(old) if old.overlaps(new) => return Err(MapError::Overlap),
            Some(old) if old.end <= new.start => {}
            _ => core::mem::swap(place, &mut carried),
        }
    }
    if carried.is_some() { Err(MapError::TooMany) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pfn(n: u64) -> Pfn {
        Pfn::new(n).unwrap()
    }

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::of(pfn(start), end - start).unwrap()
    }

    #[test]
    fn byte_ranges_are_cut_inward_to_whole_pages() {
        let r = PageRange::inward(0x1001, 0x2fff).unwrap();
        assert_eq!((r.start(), r.end(), r.pages()), (2, 4, 2));
        assert_eq!(PageRange::inward(0x1001, 0x1ffe), None);
        assert_eq!(PageRange::inward(0x1000, 0x1000), Some(range(1, 2)));
        assert_eq!(PageRange::inward(0x1000, 0xfff), None);
        assert_eq!(PageRange::inward(0, 0), None);
        assert_eq!(PageRange::inward(u64::MAX, u64::MAX), None);
        assert_eq!(PageRange::inward(0, u64::MAX).unwrap().end(), 1 << 36);
    }

    #[test]
    fn byte_ranges_are_grown_outward_to_every_page_they_touch() {
        assert_eq!(PageRange::outward(0x1fff, 2), Some(range(1, 3)));
        assert_eq!(PageRange::outward(0x1000, 0x1000), Some(range(1, 2)));
        assert_eq!(PageRange::outward(0x1000, 0), None);
        assert_eq!(PageRange::outward(0x1001, 0), None);
        assert_eq!(PageRange::outward(u64::MAX, 1), None);
        assert_eq!(PageRange::outward(1 << 48, 1), None);
    }

    #[test]
    fn page_ranges_end_at_the_end_of_the_address_space() {
        assert_eq!(PageRange::of(pfn(5), 0), None);
        assert_eq!(PageRange::of(pfn((1 << 36) - 1), 1).unwrap().end(), 1 << 36);
        assert_eq!(PageRange::of(pfn((1 << 36) - 1), 2), None);
        assert_eq!(range(3, 6).iter().map(Pfn::raw).collect::<Vec<_>>(), [3, 4, 5]);
    }

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        assert!(!range(1, 3).overlaps(range(3, 5)));
        assert!(!range(3, 5).overlaps(range(1, 3)));
        assert!(range(1, 4).overlaps(range(3, 5)));
        assert!(range(3, 5).overlaps(range(1, 4)));
        assert!(range(1, 9).overlaps(range(3, 5)));
        assert!(range(3, 5).contains(pfn(3)) && !range(3, 5).contains(pfn(5)));
        assert!(!range(3, 5).contains(pfn(2)));
    }

    #[test]
    fn regions_are_sorted_and_indexed_without_gaps() {
        let map = MemMap::new([range(100, 104), range(8, 10), range(50, 53)]).unwrap();
        assert_eq!(map.pages(), 9);
        let starts: Vec<_> = map.regions().map(PageRange::start).collect();
        assert_eq!(starts, [8, 50, 100]);
        let indices: Vec<_> =
            map.regions().flat_map(PageRange::iter).map(|p| map.index(p).unwrap()).collect();
        assert_eq!(indices, (0..9).collect::<Vec<_>>());
        for outside in [7, 10, 49, 53, 99, 104] {
            assert_eq!(map.index(pfn(outside)), None);
            assert!(!map.contains(pfn(outside)));
        }
        assert_eq!(map.region_of(pfn(52)), Some(range(50, 53)));
    }

    #[test]
    fn holes_reach_from_neighbour_to_neighbour() {
        let map = MemMap::new([range(100, 104), range(8, 10)]).unwrap();
        assert_eq!(map.hole_of(pfn(0)), Some(range(0, 8)));
        assert_eq!(map.hole_of(pfn(10)), Some(range(10, 100)));
        assert_eq!(map.hole_of(pfn(99)), Some(range(10, 100)));
        assert_eq!(map.hole_of(pfn(104)), Some(range(104, 1 << 36)));
        assert_eq!(map.hole_of(pfn(8)), None);
        assert_eq!(map.hole_of(pfn(103)), None);
    }

    #[test]
    fn bad_maps_are_refused() {
        assert_eq!(MemMap::new([]), Err(MapError::Empty));
        assert_eq!(MemMap::new([range(1, 3), range(2, 4)]), Err(MapError::Overlap));
        assert_eq!(MemMap::new([range(2, 4), range(1, 3)]), Err(MapError::Overlap));
        let many = |n| MemMap::new((0..n).map(|i| range(10 * i, 10 * i + 1)));
        assert_eq!(many(16).unwrap().pages(), 16);
        assert_eq!(many(17), Err(MapError::TooMany));
        assert!(MemMap::new((0..16).rev().map(|i| range(10 * i, 10 * i + 1))).is_ok());
    }
}
