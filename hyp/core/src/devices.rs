//! Which device pages the host may touch.
//!
//! All of them, unless [`Devices::only`] says otherwise: on a machine without an IOMMU a device that moves
//! data by itself reaches all of memory, so a strict EL2 lets the host have those only that cannot.
//!
//! Knows page numbers. Must not know devices.
//!
//! Invariant: a page that was denied once is never allowed, whatever was allowed before or after.

use hyp_abi::Pfn;

use crate::memmap::PageRange;

/// Most ranges that can be allowed, and that can be denied.
pub const MAX_RANGES: usize = 64;

/// More than [`MAX_RANGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// A set of device pages.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    only: Option<Rules>,
}

#[derive(Clone, Debug)]
struct Rules {
    allowed: [Option<PageRange>; MAX_RANGES],
    denied: [Option<PageRange>; MAX_RANGES],
}

impl Devices {
    /// None yet.
    #[must_use]
    pub const fn only() -> Self {
        Self { only: Some(Rules { allowed: [None; MAX_RANGES], denied: [None; MAX_RANGES] }) }
    }

    /// Allows the pages that are wholly or partly these, but for what is denied.
    ///
    /// # Errors
    /// The set is full; it is as it was.
    pub fn allow(&mut self, range: PageRange) -> Result<(), TooMany> {
        self.only.as_mut().map_or(Ok(()), |rules| push(&mut rules.allowed, range))
    }

    /// Denies these pages.
    ///
    /// # Errors
    /// The set is full; it is as it was.
    pub fn deny(&mut self, range: PageRange) -> Result<(), TooMany> {
        self.only.as_mut().map_or(Ok(()), |rules| push(&mut rules.denied, range))
    }

    /// The part of the `hole` in RAM around a page of it that may be mapped at once; `None`: nothing.
    #[must_use]
    pub fn around(&self, pfn: Pfn, hole: PageRange) -> Option<PageRange> {
        let Some(rules) = &self.only else { return Some(hole) };
        let within =
            |ranges: &[Option<PageRange>]| ranges.iter().flatten().any(|r| r.contains(pfn));
        let allowed = within(&rules.allowed) && !within(&rules.denied);
        // Page by page: a block might cover a neighbour that is denied.
        if allowed { PageRange::of(pfn, 1) } else { None }
    }
}

fn push(ranges: &mut [Option<PageRange>; MAX_RANGES], range: PageRange) -> Result<(), TooMany> {
    let free = ranges.iter_mut().find(|place| place.is_none()).ok_or(TooMany)?;
    *free = Some(range);
    Ok(())
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
    fn without_rules_a_hole_is_mapped_as_a_whole() {
        let mut all = Devices::default();
        all.deny(range(5, 6)).unwrap();
        assert_eq!(all.around(pfn(5), range(0, 100)), Some(range(0, 100)));
    }

    #[test]
    fn with_rules_only_what_is_allowed_is_mapped_and_page_by_page() {
        let mut some = Devices::only();
        some.allow(range(10, 12)).unwrap();
        let around = |n| some.around(pfn(n), range(0, 100));
        assert_eq!(around(9), None);
        assert_eq!(around(10), Some(range(10, 11)));
        assert_eq!(around(11), Some(range(11, 12)));
        assert_eq!(around(12), None);
        assert_eq!(Devices::only().around(pfn(10), range(0, 100)), None);
    }

    #[test]
    fn a_page_that_holds_something_denied_too_is_denied_in_whichever_order() {
        let mut first = Devices::only();
        first.deny(range(10, 11)).unwrap();
        first.allow(range(10, 12)).unwrap();
        let mut last = Devices::only();
        last.allow(range(10, 12)).unwrap();
        last.deny(range(10, 11)).unwrap();
        for set in [first, last] {
            assert_eq!(set.around(pfn(10), range(0, 100)), None);
            assert!(set.around(pfn(11), range(0, 100)).is_some());
        }
    }

    #[test]
    fn a_full_set_says_so_and_keeps_what_it_has() {
        let mut set = Devices::only();
        for n in 0..64 {
            set.allow(range(n, n + 1)).unwrap();
            set.deny(range(200 + n, 201 + n)).unwrap();
        }
        assert_eq!(set.allow(range(64, 65)), Err(TooMany));
        assert_eq!(set.deny(range(0, 1)), Err(TooMany));
        assert!(set.around(pfn(0), range(0, 100)).is_some());
        assert_eq!(set.around(pfn(64), range(0, 100)), None);
    }
}
