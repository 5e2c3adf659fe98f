//! The EL1 payload: an arm64 Image behind the EL2 image (Linux Documentation/arch/arm64/booting).

use core::fmt;

use hyp_abi::Pa;
use hyp_core::memmap::MemMap;

use crate::arch::boot;
use crate::arch::bringup;
use crate::stage1::{Map, MapError};

/// An arm64 Image must begin at a multiple of this (with a text offset of 0).
const ALIGN: u64 = 2 << 20;
/// "ARM\x64", at byte 56.
const MAGIC: u64 = 0x644d_5241;

/// Where it is.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// Its first byte, which is its entry point.
    pub start: u64,
    /// Bytes of memory it asks for.
    pub size: u64,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// The descriptor is damaged or was never filled in.
    None,
    /// Not at a multiple of 2 MiB, or inside EL2's own block.
    Place(u64),
    /// Not in RAM.
    NotRam(u64),
    /// Its header could not be mapped.
    Map(MapError),
    /// No arm64 Image.
    Magic(u64),
    /// It wants to be at an offset from 2 MiB.
    TextOffset(u64),
    /// The memory it asks for is less than its file, or beyond all addresses.
    Size(u64),
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "the image carries no EL1 payload"),
            Self::Place(at) => {
                write!(f, "the payload is at offset {at:#x}, not a multiple of 2 MiB")
            }
            Self::NotRam(at) => write!(f, "the payload is at {at:#x}, where there is no RAM"),
            Self::Map(e) => write!(f, "the payload cannot be read: {e:?}"),
            Self::Magic(found) => write!(f, "the payload is no arm64 Image (magic {found:#x})"),
            Self::TextOffset(offset) => write!(f, "the payload has text offset {offset:#x}, not 0"),
            Self::Size(size) => write!(f, "the payload asks for {size:#x} bytes, which cannot be"),
        }
    }
}

impl Payload {
    /// Finds it by the descriptor behind the EL2 image's header, and checks its own header.
    pub fn find(map: &mut Map, ram: &MemMap) -> Result<Self, PayloadError> {
        let descriptor =
            boot::descriptor().filter(|d| d.payload_size >= 64).ok_or(PayloadError::None)?;
        let offset = descriptor.payload_offset;
        if !offset.is_multiple_of(ALIGN) || offset == 0 {
            return Err(PayloadError::Place(offset));
        }
        let start = boot::base().checked_add(offset).ok_or(PayloadError::Place(offset))?;
        if !Pa::new(start).is_some_and(|pa| ram.contains(pa.frame())) {
            return Err(PayloadError::NotRam(start));
        }
        let header = bringup::header(map, start).map_err(PayloadError::Map)?;
        let [_, text_offset, size, _, _, _, _, magic] = header;
        if magic & 0xffff_ffff != MAGIC {
            return Err(PayloadError::Magic(magic & 0xffff_ffff));
        }
        if text_offset != 0 {
            return Err(PayloadError::TextOffset(text_offset));
        }
        if size < descriptor.payload_size || start.checked_add(size).is_none() {
            return Err(PayloadError::Size(size));
        }
        Ok(Self { start, size })
    }
}
