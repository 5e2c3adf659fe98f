//! Permissions of a guest mapping and the ownership states of a page.

/// What a guest may do with a page. The bits are ABI.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prot(u8);

impl Prot {
    /// Read.
    pub const R: Self = Self(1);
    /// Write.
    pub const W: Self = Self(2);
    /// Execute at EL1.
    pub const PX: Self = Self(4);
    /// Execute at EL0.
    pub const UX: Self = Self(8);
    /// Execute at EL1 and EL0.
    pub const X: Self = Self(12);
    /// Everything.
    pub const RWX: Self = Self(15);
    /// Read and write.
    pub const RW: Self = Self(3);
    /// Read and execute.
    pub const RX: Self = Self(13);
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// From an ABI word; `None` if any other bit is set (device and non-cacheable memory are
    /// refused by this mask).
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits & !15 == 0 { Some(Self((bits & 15) as u8)) } else { None }
    }
    /// The ABI word.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }
    /// Whether all of `other` is allowed.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Both sets of rights.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// These rights without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl core::fmt::Debug for Prot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let bit = |p: Self, c: &'static str| if self.contains(p) { c } else { "-" };
        write!(
            f,
            "{}{}{}{}",
            bit(Self::R, "r"),
            bit(Self::W, "w"),
            bit(Self::PX, "x"),
            bit(Self::UX, "u")
        )
    }
}

/// Ownership of a page as seen by one of its parties. Numbers are ABI (audit calls) and those of
/// pKVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageState {
    /// Exclusively this party's.
    Owned = 0,
    /// This party's, and lent to another.
    SharedOwned = 1,
    /// Another party's, lent to this one.
    SharedBorrowed = 2,
    /// Not this party's at all.
    NoPage = 3,
}

impl PageState {
    /// From two ABI bits; higher bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Owned,
            1 => Self::SharedOwned,
            2 => Self::SharedBorrowed,
            _ => Self::NoPage,
        }
    }
    /// The ABI bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_permission_bits_are_refused() {
        assert_eq!(Prot::from_bits(16), None);
        assert_eq!(Prot::from_bits(u64::MAX), None);
        assert_eq!(Prot::from_bits(1 << 63), None);
        for bits in 0..16 {
            assert_eq!(Prot::from_bits(bits).unwrap().bits(), bits);
        }
    }

    #[test]
    fn states_survive_the_wire() {
        for bits in 0..4 {
            assert_eq!(PageState::from_bits(bits).bits(), bits);
        }
    }
}
