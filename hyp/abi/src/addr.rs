//! Address and frame numbers, one type for each space.
//!
//! Redan's granule is 4 KiB and its widest address is 48 bits (DDI0487 D8.1): every constructor
//! checks that, so a shift of a `Pfn` or `Gfn` can never wrap.

use core::marker::PhantomData;

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Widest physical or intermediate physical address handled, in bits.
pub const ADDR_BITS: u32 = 48;
const ADDR_LIMIT: u64 = 1 << ADDR_BITS;
const FRAME_LIMIT: u64 = 1 << (ADDR_BITS - PAGE_SHIFT);

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $frame:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The address, or `None` at or above 2^48.
            #[must_use]
            pub const fn new(raw: u64) -> Option<Self> {
                if raw < ADDR_LIMIT { Some(Self(raw)) } else { None }
            }
            /// The number itself, in bytes.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }
            /// The frame that contains this address.
            #[must_use]
            pub const fn frame(self) -> $frame {
                $frame(self.0 >> PAGE_SHIFT)
            }
            /// The byte offset inside its page.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}({:#x})", stringify!($name), self.0)
            }
        }
    };
}

macro_rules! frame {
    ($(#[$doc:meta])* $name:ident, $addr:ident, $to:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The frame number, or `None` at or above 2^36.
            #[must_use]
            pub const fn new(raw: u64) -> Option<Self> {
                if raw < FRAME_LIMIT { Some(Self(raw)) } else { None }
            }
            /// The number itself, in pages.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }
            /// Address of the first byte.
            #[must_use]
            pub const fn $to(self) -> $addr {
                $addr(self.0 << PAGE_SHIFT)
            }
            /// The frame `n` further on, or `None` beyond the address space.
            #[must_use]
            pub const fn add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(raw) => Self::new(raw),
                    None => None,
                }
            }
            /// How many frames after `base` this one is; `None` if it lies before.
            #[must_use]
            pub const fn since(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}({:#x})", stringify!($name), self.0)
            }
        }
    };
}

address! {
    /// A physical address.
    Pa, Pfn
}
address! {
    /// An intermediate physical address: what a guest, or the host, calls physical.
    Ipa, Gfn
}
frame! {
    /// A physical page frame number, in units of 4 KiB.
    Pfn, Pa, pa
}
frame! {
    /// A guest page frame number, in units of 4 KiB.
    Gfn, Ipa, ipa
}

/// Virtual machine identifier, the tag of stage-2 TLB entries. The host's is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(u8);

impl Vmid {
    /// The host's own VMID.
    pub const HOST: Self = Self(0);
    /// VMID `n`: 8 bits, because the Cortex-A72 has no more.
    #[must_use]
    pub const fn new(n: u8) -> Self {
        Self(n)
    }
    /// The number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }
}

/// Names a VM for its whole life: slot index in the low 8 bits, generation above. A generation is
/// never re-used, so a stale handle can never reach a newer VM. Zero is never a handle, and a
/// handle read as a signed number is positive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(u64);

impl Handle {
    /// Composes a handle. `generation` starts at 1; only its low 54 bits count.
    #[must_use]
    pub const fn compose(index: u8, generation: u64) -> Self {
        Self(((generation & ((1 << 54) - 1)) << 8) | index as u64)
    }
    /// A handle as a caller wrote it: an allegation, checked against the VM table by its user.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
    /// The number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// Slot index in the VM table; unchecked, it may name no slot.
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0 & 0xff) as usize
    }
}

impl core::fmt::Debug for Handle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Handle({}.{})", self.0 & 0xff, self.0 >> 8)
    }
}

/// A number as named by a caller: an allegation. It may be out of range, unaligned or not theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed<T>(u64, PhantomData<T>);

impl<T> Claimed<T> {
    /// Wraps what the caller wrote.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw, PhantomData)
    }
    /// The allegation itself, for messages.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
}

impl Claimed<Pfn> {
    /// The frame number, if it fits the address space. Says nothing about whose it is.
    #[must_use]
    pub const fn in_range(self) -> Option<Pfn> {
        Pfn::new(self.0)
    }
}

impl Claimed<Gfn> {
    /// The frame number, if it fits the address space. Says nothing about the VM's IPA size.
    #[must_use]
    pub const fn in_range(self) -> Option<Gfn> {
        Gfn::new(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_beyond_the_address_space_do_not_exist() {
        assert!(Pfn::new(1 << 36).is_none());
        assert!(Gfn::new(u64::MAX).is_none());
        assert!(Pfn::new((1 << 36) - 1).is_some());
        assert!(Pa::new(1 << 48).is_none());
        assert_eq!(Pfn::new(5).and_then(|p| p.add(u64::MAX)), None);
        assert_eq!(Pfn::new((1 << 36) - 1).and_then(|p| p.add(1)), None);
        assert!(Claimed::<Pfn>::new(1 << 63).in_range().is_none());
    }

    #[test]
    fn addresses_and_frames_agree() {
        let pa = Pa::new(0x4020_1234).unwrap();
        assert_eq!(pa.frame().raw(), 0x40201);
        assert_eq!(pa.page_offset(), 0x234);
        assert_eq!(pa.frame().pa().raw(), 0x4020_1000);
        assert_eq!(pa.frame().since(Pfn::new(0x40200).unwrap()), Some(1));
        assert_eq!(Pfn::new(1).unwrap().since(Pfn::new(2).unwrap()), None);
    }

    #[test]
    fn handles_keep_index_and_generation_apart_and_are_positive() {
        let h = Handle::compose(3, 7);
        assert_eq!(h.index(), 3);
        assert_ne!(h, Handle::compose(3, 8));
        assert!(Handle::compose(255, u64::MAX).raw() as i64 > 0);
        assert_ne!(Handle::compose(0, 1).raw(), 0);
    }
}
