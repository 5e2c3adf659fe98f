//! Takes NOP tokens out of a tree, in place.
//!
//! The specification allows NOPs anywhere between tokens: whoever edits a tree overwrites with them
//! what it deletes (QEMU's raspi4b does so with the devices that it lacks). `fdt` 0.1.5 asserts
//! that there are none where it walks past a node, so [`check`](crate::check) refuses them.

use crate::DtbError;
use crate::check::{BEGIN_NODE, END, END_NODE, NOP, PROP, Words, name_length, structure};

/// Removes every NOP token from the tree at the start of `bytes`, and says how many there were. The
/// structure block becomes shorter, nothing else moves, and `totalsize` stays.
///
/// # Errors
/// The tree has no sound header, or its tokens make no sense; then it is unchanged. What this
/// accepts may still be refused by [`Dtb::parse`](crate::Dtb::parse).
pub fn strip_nops(bytes: &mut [u8]) -> Result<usize, DtbError> {
    let block = structure(bytes)?;
    let nops = count_nops(bytes, block.clone())?;
    if nops == 0 {
        return Ok(0);
    }
    let (mut from, mut to) = (block.start, block.start);
    while from < block.end {
        let (token, next) = token(bytes, from)?;
        if token != NOP {
            // Downwards, and never onto what is still to be read.
            bytes.copy_within(from..next, to);
            to = to.saturating_add(next.saturating_sub(from));
        }
        from = next;
    }
    let length = u32::try_from(to.saturating_sub(block.start)).map_err(|_| DtbError::Structure)?;
    let field = bytes.get_mut(36..40).ok_or(DtbError::TooShort)?;
    field.copy_from_slice(&length.to_be_bytes());
    Ok(nops)
}

/// Walks the whole block once, reading only.
fn count_nops(bytes: &[u8], block: core::ops::Range<usize>) -> Result<usize, DtbError> {
    let (mut nops, mut at) = (0_usize, block.start);
    while at < block.end {
        let (token, next) = token(bytes, at)?;
        nops = nops.saturating_add(usize::from(token == NOP));
        at = next;
    }
    if at == block.end { Ok(nops) } else { Err(DtbError::Truncated { offset: at }) }
}

/// The token at an offset of the tree, and the offset behind all that belongs to it.
fn token(bytes: &[u8], at: usize) -> Result<(u32, usize), DtbError> {
    let cut_off = DtbError::Truncated { offset: at };
    let words = Words(bytes);
    let token = words.at(at).ok_or(cut_off)?;
    let behind = at.checked_add(4).ok_or(cut_off)?;
    let end = match token {
        NOP | END_NODE | END => behind,
        BEGIN_NODE => {
            let name = bytes.get(behind..).and_then(name_length);
            let name = name.ok_or(DtbError::NodeName { offset: at })?;
            behind.checked_add(name).and_then(|e| e.checked_add(1)).ok_or(cut_off)?
        }
        PROP => {
            let length = words.at(behind).and_then(|n| usize::try_from(n).ok());
            let value = behind.checked_add(8).ok_or(cut_off)?;
            length.and_then(|n| value.checked_add(n)).ok_or(cut_off)?
        }
        token => return Err(DtbError::Token { offset: at, token }),
    };
    // The tokens stand on multiples of 4 from the block's start, which is one itself.
    let next = end.checked_next_multiple_of(4).filter(|n| *n <= bytes.len()).ok_or(cut_off)?;
    Ok((token, next))
}
