//! The shape of a stage-2 translation: levels, concatenated roots, `VTCR_EL2`.
//!
//! Knows numbers only. The 4 KiB granule resolves 9 bits a level; up to 16 root tables may stand
//! side by side instead of one more level above them (DDI0487 D8.2, "Concatenated translation
//! tables"), which saves a load on every walk and is the only way on CPUs with less than 44 bits
//! of physical address, where stage 2 has no level 0.
//!
//! Invariants:
//! - I1: a [`Geometry`] exists only for 32..=48 bits, so no shift here can overflow.
//! - I2: a [`Span`] lies inside the IPA space it was made for.

use hyp_abi::bits::{flag, union};
use hyp_abi::{Gfn, PAGE_SHIFT};

/// Descriptors in a table page.
pub const ENTRIES: usize = 512;
/// Bits of the page number that one level resolves.
const INDEX_BITS: u32 = 9;
const INDEX_MASK: u64 = 511;
/// Most root tables side by side, as a power of two.
const CONCAT_BITS: u32 = 4;

/// A lookup level. A smaller number is nearer the root and covers more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// 512 GiB an entry; tables only.
    L0 = 0,
    /// 1 GiB an entry.
    L1 = 1,
    /// 2 MiB an entry.
    L2 = 2,
    /// 4 KiB an entry; pages only.
    L3 = 3,
}

impl Level {
    /// The number, as `TLBI` level hints and syndromes write it.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
    /// The level below, or `None` under the last.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L0 => Some(Self::L1),
            Self::L1 => Some(Self::L2),
            Self::L2 => Some(Self::L3),
            Self::L3 => None,
        }
    }
    /// log2 of the pages that one entry covers.
    #[must_use]
    const fn shift(self) -> u32 {
        match self {
            Self::L0 => 3 * INDEX_BITS,
            Self::L1 => 2 * INDEX_BITS,
            Self::L2 => INDEX_BITS,
            Self::L3 => 0,
        }
    }
    /// Pages that one entry covers.
    #[must_use]
    pub const fn pages(self) -> u64 {
        1 << self.shift()
    }
    /// The low bits of a page number that an entry does not look at.
    const fn offset_mask(self) -> u64 {
        self.pages().saturating_sub(1)
    }
    /// How many tables lead from an entry of this level down to a page.
    #[must_use]
    pub const fn tables_below(self) -> usize {
        match self {
            Self::L0 => 3,
            Self::L1 => 2,
            Self::L2 => 1,
            Self::L3 => 0,
        }
    }
    /// Number of the first page that the entry around `gfn` covers.
    #[must_use]
    pub const fn first(self, gfn: u64) -> u64 {
        gfn & !self.offset_mask()
    }
    /// Number of the first page after what the entry around `gfn` covers.
    #[must_use]
    pub const fn after(self, gfn: u64) -> u64 {
        (gfn | self.offset_mask()).saturating_add(1)
    }
    /// Index of `gfn` in a table of this level (not for concatenated roots).
    #[must_use]
    pub const fn index(self, gfn: Gfn) -> usize {
        ((gfn.raw() >> self.shift()) & INDEX_MASK) as usize
    }
}

/// The shape of one translation regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    ipa_bits: u8,
    start: Level,
}

impl Geometry {
    /// The shape for an IPA space of `ipa_bits`, with as few levels as concatenation allows.
    /// `None` outside 32..=48.
    #[must_use]
    pub const fn new(ipa_bits: u8) -> Option<Self> {
        let start = match ipa_bits {
            32..=34 => Level::L2,
            35..=43 => Level::L1,
            44..=48 => Level::L0,
            _ => return None,
        };
        Some(Self { ipa_bits, start })
    }
    /// Width of the IPA space in bits.
    #[must_use]
    pub const fn ipa_bits(self) -> u8 {
        self.ipa_bits
    }
    /// Level of the root tables.
    #[must_use]
    pub const fn start(self) -> Level {
        self.start
    }
    /// Pages of the IPA space: the first gfn that does not exist.
    #[must_use]
    pub const fn frames(self) -> u64 {
        // I1 bounds the shift, of which the compiler knows nothing.
        1_u64.wrapping_shl((self.ipa_bits as u32).saturating_sub(PAGE_SHIFT))
    }
    /// Root pages side by side; the first must be aligned to all of them.
    #[must_use]
    pub const fn root_pages(self) -> u64 {
        self.frames().div_ceil(self.start.pages() << INDEX_BITS)
    }
    /// Whether `gfn` is in the IPA space.
    #[must_use]
    pub const fn contains(self, gfn: Gfn) -> bool {
        gfn.raw() < self.frames()
    }
    /// `nr` pages from `gfn`, if there is at least one and all lie in the IPA space.
    #[must_use]
    pub const fn span(self, gfn: Gfn, nr: u64) -> Option<Span> {
        match gfn.raw().checked_add(nr) {
            Some(end) if nr > 0 && end <= self.frames() => Some(Span { start: gfn.raw(), end }),
            _ => None,
        }
    }
    /// Everything.
    #[must_use]
    pub const fn all(self) -> Span {
        Span { start: 0, end: self.frames() }
    }
    /// Which of the root pages holds `gfn`'s first descriptor.
    #[must_use]
    pub const fn root_page(self, gfn: Gfn) -> u64 {
        gfn.raw() >> self.start.shift() >> INDEX_BITS
    }
    /// `VTCR_EL2.T0SZ`.
    #[must_use]
    pub const fn t0sz(self) -> u64 {
        64u64.saturating_sub(self.ipa_bits as u64)
    }
    /// `VTCR_EL2.SL0` for the 4 KiB granule: 0 = level 2, 1 = level 1, 2 = level 0.
    #[must_use]
    pub const fn sl0(self) -> u64 {
        match self.start {
            Level::L0 => 2,
            Level::L1 => 1,
            Level::L2 | Level::L3 => 0,
        }
    }
    /// `VTCR_EL2`: `parange` is `ID_AA64MMFR0_EL1.PARange` (it goes to PS as it is, but no more
    /// than 48 bits: beyond needs LPA2), `hardware_af` sets HA. VMIDs are 8 bits (VS = 0).
    #[must_use]
    pub const fn vtcr(self, parange: u8, hardware_af: bool) -> u64 {
        const RES1: u64 = 1 << 31;
        const SH0_INNER: u64 = 0b11 << 12;
        const ORGN0_WBWA: u64 = 0b01 << 10;
        const IRGN0_WBWA: u64 = 0b01 << 8;
        let ps = match parange {
            0..=4 => parange as u64,
            _ => 5,
        };
        union(&[
            RES1,
            flag(hardware_af, 1 << 21),
            ps << 16,
            SH0_INNER,
            ORGN0_WBWA,
            IRGN0_WBWA,
            self.sl0() << 6,
            self.t0sz(),
        ])
    }
}

/// A range of pages inside an IPA space, never empty when made by [`Geometry::span`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// Number of the first page.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }
    /// Number of the first page behind it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }
    /// How many pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
    /// The first `most` pages of it.
    #[must_use]
    pub fn truncated(self, most: u64) -> Self {
        let pages = self.pages().min(most);
        Self { start: self.start, end: self.start.saturating_add(pages) }
    }
}

const _: () = assert!(Geometry::new(34).unwrap().root_pages() == 1 << CONCAT_BITS);
const _: () = assert!(Geometry::new(43).unwrap().root_pages() == 1 << CONCAT_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_width_has_its_start_level_and_roots() {
        let shapes = [
            (32, Level::L2, 4),
            (34, Level::L2, 16),
            (35, Level::L1, 1),
            (36, Level::L1, 1),
            (39, Level::L1, 1),
            (40, Level::L1, 2),
            (43, Level::L1, 16),
            (44, Level::L0, 1),
            (48, Level::L0, 1),
        ];
        for (bits, start, roots) in shapes {
            let g = Geometry::new(bits).unwrap();
            assert_eq!((g.start(), g.root_pages()), (start, roots), "{bits} bits");
            assert_eq!((g.ipa_bits(), g.frames()), (bits, 1 << (bits - 12)));
            let last = Gfn::new(g.frames() - 1).unwrap();
            assert_eq!(g.root_page(last), roots - 1);
        }
    }

    #[test]
    fn other_widths_do_not_exist() {
        for bits in (0..32).chain(49..=255) {
            assert_eq!(Geometry::new(bits), None);
        }
    }

    #[test]
    fn vtcr_is_as_the_architecture_writes_it() {
        // 40 bits, level 1, inner shareable write-back walks, 40-bit output, 8-bit VMIDs.
        assert_eq!(Geometry::new(40).unwrap().vtcr(2, false), 0x8002_3558);
        // 48 bits from level 0 (Neoverse N1), hardware access flag.
        assert_eq!(Geometry::new(48).unwrap().vtcr(5, true), 0x8025_3590);
        // 32 bits from level 2.
        assert_eq!(Geometry::new(32).unwrap().vtcr(0, false), 0x8000_3520);
        assert_eq!(Geometry::new(48).unwrap().vtcr(6, false) >> 16 & 7, 5, "52 bits need LPA2");
    }

    #[test]
    fn spans_stay_inside() {
        let g = Geometry::new(32).unwrap();
        let at = |n| Gfn::new(n).unwrap();
        assert_eq!(g.span(at(0), 1 << 20), Some(g.all()));
        assert_eq!(g.span(at(0), (1 << 20) + 1), None);
        assert_eq!(g.span(at(1 << 20), 1), None);
        assert_eq!(g.span(at((1 << 36) - 1), u64::MAX), None);
        let span = g.span(at(10), 100).unwrap();
        assert_eq!((span.start(), span.end(), span.pages()), (10, 110, 100));
        assert_eq!(span.truncated(64).end(), 74);
        assert_eq!(span.truncated(1000), span);
    }

    #[test]
    fn levels_cover_what_they_should() {
        assert_eq!(Level::L0.pages() << PAGE_SHIFT, 512 << 30);
        assert_eq!(Level::L1.pages() << PAGE_SHIFT, 1 << 30);
        assert_eq!(Level::L2.pages() << PAGE_SHIFT, 2 << 20);
        assert_eq!(Level::L3.pages(), 1);
        assert_eq!(Level::L2.first(1000), 512);
        assert_eq!(Level::L2.after(1000), 1024);
        assert_eq!(Level::L0.after((1 << 36) - 1), 1 << 36);
    }
}
