//! A stage-2 table walk written from DDI0487 D8.3 alone, over raw words.
//!
//! Knows descriptors. Must not know who owns a page, nor `hyp-s2`, which it judges.

use alloc::format;
use hyp_abi::{PageState, Pfn, Prot};
use hyp_model::Map;

use crate::Divergence;

/// Pages that an entry of level 1 maps.
pub const GIB: u64 = 1 << 18;
const ENTRIES: u64 = 512;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// What stands for a page that was taken from the host: invalid, kind 2, owner EL2.
const ANNOTATION: u64 = 2 << 60 | 1 << 1;

/// What a walk meets.
#[derive(Clone, Copy, Debug)]
pub enum Met {
    /// An entry that is not zero and points to no table: its level, its first frame, itself.
    Leaf(u8, u64, u64),
    /// A table, after its entries: how many of them are not zero, and whether it is a root.
    Table(Pfn, u16, bool),
}

/// Reads a word of RAM.
pub trait Read: Fn(Pfn, usize) -> u64 {}
impl<F: Fn(Pfn, usize) -> u64> Read for F {}

/// Walks all of a stage 2 of `frames` pages that begins at level 1, in the order of addresses.
///
/// # Errors
/// A table outside the address space, or the visitor's.
pub fn all(
    read: &impl Read,
    root: Pfn,
    frames: u64,
    visit: &mut impl FnMut(Met) -> Result<(), Divergence>,
) -> Result<(), Divergence> {
    let mut left = (frames / GIB).max(1);
    for (n, first) in (0u64..).zip((0..frames).step_by((GIB * ENTRIES) as usize)) {
        let page = root.add(n).ok_or_else(|| Divergence::from(format!("a root at {root:?}")))?;
        let entries = table(read, page, 1, first, left.min(ENTRIES), visit)?;
        visit(Met::Table(page, entries, true))?;
        left -= left.min(ENTRIES);
    }
    Ok(())
}

fn table(
    read: &impl Read,
    at: Pfn,
    level: u8,
    first: u64,
    entries: u64,
    visit: &mut impl FnMut(Met) -> Result<(), Divergence>,
) -> Result<u16, Divergence> {
    let span = GIB >> (9 * (u32::from(level) - 1));
    let mut used = 0;
    for n in 0..entries {
        let entry = read(at, n as usize);
        if entry == 0 {
            continue;
        }
        used += 1;
        let frame = first + n * span;
        match next(entry).filter(|_| level < 3) {
            Some(below) => {
                let used = table(read, below, level + 1, frame, ENTRIES, visit)?;
                visit(Met::Table(below, used, false))?;
            }
            None => visit(Met::Leaf(level, frame, entry))?,
        }
    }
    Ok(used)
}

/// The table that a descriptor above level 3 points to.
fn next(entry: u64) -> Option<Pfn> {
    if entry & 3 == 3 { Pfn::new((entry & ADDRESS) >> 12) } else { None }
}

/// The entry that decides about one frame: its level, and itself.
pub fn one(read: &impl Read, root: Pfn, frame: u64) -> (u8, u64) {
    let mut at = root.add(frame / (GIB * ENTRIES)).unwrap_or(root);
    for level in 1..=3 {
        let shift = 9 * (3 - u32::from(level));
        let entry = read(at, (frame >> shift & (ENTRIES - 1)) as usize);
        match next(entry).filter(|_| level < 3) {
            Some(below) => at = below,
            None => return (level, entry),
        }
    }
    (3, 0)
}

/// What a guest's entry maps; `None` if it is empty.
///
/// # Errors
/// It is nothing that a guest's table may hold.
pub fn mapping(level: u8, entry: u64) -> Result<Option<Map>, Divergence> {
    let odd = |what: &str| Err(Divergence::from(format!("the entry {entry:#x} {what}")));
    if entry == 0 {
        return Ok(None);
    }
    if level != 3 || entry & 3 != 3 {
        return odd("is neither empty nor a page");
    }
    let mut prot = Prot::NONE;
    for (bit, right) in [(6, Prot::R), (7, Prot::W)] {
        if entry >> bit & 1 == 1 {
            prot = prot.union(right);
        }
    }
    if entry >> 53 & 1 == 1 {
        return odd("uses FEAT_XNX, which is not there on every CPU");
    }
    if entry >> 54 & 1 == 0 {
        prot = prot.union(Prot::X);
    }
    if PageState::from_bits(entry >> 55) != PageState::SharedBorrowed {
        return odd("does not say that the page is lent");
    }
    let device = match entry >> 2 & 15 {
        0b1111 => false,
        0b0001 => true,
        _ => return odd("has other memory attributes than there are"),
    };
    let young = entry >> 10 & 1 == 1;
    let pfn = Pfn::new((entry & ADDRESS) >> 12);
    Ok(pfn.map(|pfn| Map { pfn, prot, young, device }))
}

/// What an entry of the host's says of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The host can reach them, as RAM or as a device.
    Reaches {
        /// Device memory, never executable.
        device: bool,
    },
    /// It is not the host's.
    Hidden,
}

/// Decodes an entry of the host's identity map.
///
/// # Errors
/// It is nothing that the host's table may hold.
pub fn identity(level: u8, frame: u64, entry: u64) -> Result<Host, Divergence> {
    /// Page at level 3, block above.
    const KIND: [u64; 4] = [0, 1, 1, 3];
    /// Read, write, inner shareable, accessed.
    const COMMON: u64 = 3 << 6 | 3 << 8 | 1 << 10;
    let kind = KIND.get(usize::from(level)).copied().unwrap_or(0);
    let common = frame << 12 | COMMON | kind;
    match entry {
        ANNOTATION if level == 3 => Ok(Host::Hidden),
        _ if entry == common | 0b1111 << 2 => Ok(Host::Reaches { device: false }),
        _ if entry == common | 0b0001 << 2 | 1 << 54 => Ok(Host::Reaches { device: true }),
        _ => Err(Divergence::from(format!(
            "the host's entry for frame {frame:#x} at level {level} is {entry:#x}"
        ))),
    }
}
