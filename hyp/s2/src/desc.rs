//! The bits of a stage-2 descriptor (DDI0487 D8.3), and what software writes into invalid ones.
//!
//! Knows bits. Must not know tables or who owns a page.
//!
//! Invariants:
//! - I1: bit 53 is never set: without FEAT_XNX (Cortex-A72) it is RES0, and with it 0 keeps the
//!   meaning of bit 54 for both exception levels. [`Rights`] therefore has one right to execute.
//! - I2: an annotation is never zero and never valid, so it counts as an entry in use and the
//!   hardware faults on it.

use hyp_abi::bits::{flag, union};
use hyp_abi::{PageState, Pfn, Prot};

use crate::geometry::Level;
use crate::hw::TablePfn;

const VALID: u64 = 1;
/// Bit 1 of a valid descriptor: a table above level 3, a page at level 3; clear: a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_SHIFT: u32 = 2;
const ATTR_MASK: u64 = 0b1111 << ATTR_SHIFT;
/// MemAttr: normal memory, inner and outer write-back cacheable.
const ATTR_NORMAL: u64 = 0b1111 << ATTR_SHIFT;
/// MemAttr: Device-nGnRE.
const ATTR_DEVICE: u64 = 0b0001 << ATTR_SHIFT;
/// `S2AP[0]`.
const READ: u64 = 1 << 6;
/// `S2AP[1]`.
const WRITE: u64 = 1 << 7;
const SH_INNER: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const XN: u64 = 1 << 54;
/// Software's two bits: a [`PageState`].
const STATE_SHIFT: u32 = 55;
/// Output address, bits 47:12.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Kind of an invalid descriptor, bits 63:60: a host page that belongs to another.
/// (3 is kept for a guest page that was lost by force.)
const TYPE_DONATED: u64 = 2;
const TYPE_SHIFT: u32 = 60;
const OWNER_SHIFT: u32 = 1;
const OWNER_BITS: u64 = 0b111;
const OWNER_MASK: u8 = 0b111;
const META_SHIFT: u32 = 4;
const META_MASK: u64 = (1 << (TYPE_SHIFT - META_SHIFT)) - 1;

/// Rights that one XN bit can express: execute at EL1 and EL0 together, or at neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights(Prot);

impl Rights {
    /// Read, write, execute.
    pub const RWX: Self = Self(Prot::RWX);
    /// Read, write.
    pub const RW: Self = Self(Prot::RW);
    /// From a permission set; `None` if it would execute at one level only.
    #[must_use]
    pub const fn new(prot: Prot) -> Option<Self> {
        if prot.contains(Prot::PX) == prot.contains(Prot::UX) { Some(Self(prot)) } else { None }
    }
    /// As the ABI writes them.
    #[must_use]
    pub const fn prot(self) -> Prot {
        self.0
    }
    const fn bits(self) -> u64 {
        let mut bits = 0;
        if self.0.contains(Prot::R) {
            bits |= READ;
        }
        if self.0.contains(Prot::W) {
            bits |= WRITE;
        }
        if !self.0.contains(Prot::X) {
            bits |= XN;
        }
        bits
    }
    const fn from_bits(bits: u64) -> Self {
        let mut prot = Prot::NONE;
        if bits & READ != 0 {
            prot = prot.union(Prot::R);
        }
        if bits & WRITE != 0 {
            prot = prot.union(Prot::W);
        }
        if bits & XN == 0 {
            prot = prot.union(Prot::X);
        }
        Self(prot)
    }
}

/// What a leaf says besides where it points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// Rights of EL1 and EL0.
    pub rights: Rights,
    /// Ownership as the mapped party sees it.
    pub state: PageState,
    /// Access flag; while clear, the first access faults (or hardware sets it).
    pub young: bool,
    /// Device-nGnRE instead of normal write-back memory.
    pub device: bool,
}

impl Attrs {
    /// RAM in the host's identity map.
    pub const HOST_RAM: Self =
        Self { rights: Rights::RWX, state: PageState::Owned, young: true, device: false };
    /// Everything else that the host may reach: never executable.
    pub const HOST_MMIO: Self =
        Self { rights: Rights::RW, state: PageState::Owned, young: true, device: true };

    const fn bits(self) -> u64 {
        union(&[
            self.rights.bits(),
            self.state.bits() << STATE_SHIFT,
            SH_INNER,
            if self.device { ATTR_DEVICE } else { ATTR_NORMAL },
            flag(self.young, ACCESSED),
        ])
    }
    const fn from_bits(bits: u64) -> Self {
        Self {
            rights: Rights::from_bits(bits),
            state: PageState::from_bits(bits >> STATE_SHIFT),
            young: bits & ACCESSED != 0,
            device: bits & ATTR_MASK != ATTR_NORMAL,
        }
    }
}

/// Why a host page is not mapped: whose it is, and a number for that owner to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Annotation {
    owner: u8,
    meta: u64,
}

impl Annotation {
    /// Owner id of EL2.
    pub const HYP: u8 = 1;
    /// Owner id of a guest.
    pub const GUEST: u8 = 2;
    /// Says that a page is `owner`'s (3 bits); of `meta`, 56 bits count.
    #[must_use]
    pub const fn new(owner: u8, meta: u64) -> Self {
        Self { owner: owner & OWNER_MASK, meta: meta & META_MASK }
    }
    /// Whose page it is.
    #[must_use]
    pub const fn owner(self) -> u8 {
        self.owner
    }
    /// The owner's number.
    #[must_use]
    pub const fn meta(self) -> u64 {
        self.meta
    }
}

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Desc(u64);

/// What a descriptor means at its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All zero.
    Empty,
    /// Points to a table of the next level.
    Table(TablePfn),
    /// Maps a page or block.
    Leaf(Pfn, Attrs),
    /// Invalid, and the page belongs to another.
    Donated(Annotation),
    /// Invalid, not zero and no kind of ours (or reserved for the hardware).
    Unknown,
}

impl Desc {
    /// Nothing here.
    pub const EMPTY: Self = Self(0);

    /// From table memory.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
    /// For table memory.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// Points to a table.
    #[must_use]
    pub const fn table(table: TablePfn) -> Self {
        Self(union(&[table.pfn().pa().raw(), TABLE_OR_PAGE, VALID]))
    }
    /// Maps `pfn` (rounded down to the level's size) at `level`; level 0 has no blocks (without
    /// LPA2) and gets an empty descriptor.
    #[must_use]
    pub const fn leaf(level: Level, pfn: Pfn, attrs: Attrs) -> Self {
        let kind = match level {
            Level::L0 => return Self::EMPTY,
            Level::L1 | Level::L2 => VALID,
            Level::L3 => union(&[VALID, TABLE_OR_PAGE]),
        };
        let address = level.first(pfn.raw()) << hyp_abi::PAGE_SHIFT;
        Self(union(&[address, attrs.bits(), kind]))
    }
    /// An invalid descriptor that says whose the page is.
    #[must_use]
    pub const fn donated(to: Annotation) -> Self {
        Self(union(&[
            TYPE_DONATED << TYPE_SHIFT,
            to.meta << META_SHIFT,
            (to.owner as u64) << OWNER_SHIFT,
        ]))
    }
    /// Whether the hardware may use it.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }
    /// Whether it is zero. Anything else counts in its table's page count.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// What it means at `level`.
    #[must_use]
    pub const fn kind(self, level: Level) -> Kind {
        if self.is_empty() {
            return Kind::Empty;
        }
        if !self.is_valid() {
            return if self.0 >> TYPE_SHIFT == TYPE_DONATED {
                let owner = (self.0 >> OWNER_SHIFT & OWNER_BITS) as u8;
                Kind::Donated(Annotation::new(owner, self.0 >> META_SHIFT))
            } else {
                Kind::Unknown
            };
        }
        // `ADDRESS` keeps it below 2^48, so the frame number always exists.
        let Some(pa) = hyp_abi::Pa::new(self.0 & ADDRESS) else { return Kind::Unknown };
        match (level, self.0 & TABLE_OR_PAGE != 0) {
            (Level::L3, true) | (Level::L1 | Level::L2, false) => {
                Kind::Leaf(pa.frame(), Attrs::from_bits(self.0))
            }
            (Level::L0 | Level::L1 | Level::L2, true) => Kind::Table(TablePfn::new(pa.frame())),
            // Reserved encodings: the hardware faults.
            (Level::L0 | Level::L3, false) => Kind::Unknown,
        }
    }
    /// The same leaf without the right to write.
    #[must_use]
    pub const fn read_only(self) -> Self {
        Self(self.0 & !WRITE)
    }
    /// The same leaf with `more` rights added.
    #[must_use]
    pub const fn relaxed(self, more: Rights) -> Self {
        let executable = if more.bits() & XN == 0 { XN } else { 0 };
        Self((self.0 | (more.bits() & union(&[READ, WRITE]))) & !executable)
    }
    /// The same leaf with the access flag set.
    #[must_use]
    pub const fn young(self) -> Self {
        Self(self.0 | ACCESSED)
    }
    /// The same leaf with the access flag clear.
    #[must_use]
    pub const fn old(self) -> Self {
        Self(self.0 & !ACCESSED)
    }
}

impl core::fmt::Debug for Desc {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Desc({:#018x})", self.0)
    }
}

#[cfg(test)]
mod tests;
