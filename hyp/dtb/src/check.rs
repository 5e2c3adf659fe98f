//! The structural check: everything that `fdt` 0.1.5 takes for granted.
//!
//! The format is the Devicetree Specification's v17. Stricter than the specification in three
//! places, because `fdt` asserts there: properties come before children, there are no NOP tokens
//! ([`strip_nops`](crate::strip_nops) takes them out), and the structure block ends exactly with END. Names are bounded, so that no scan for their end
//! makes reading quadratic.

use core::ops::Range;

use crate::DtbError;

/// Bytes of the header: read these first, through a window of that size.
pub const HEADER_BYTES: usize = 40;
/// Largest tree accepted (QEMU's is padded to 1 MiB).
pub const MAX_BYTES: usize = 2 << 20;
/// Deepest nesting accepted; the root is at depth 1.
pub const MAX_DEPTH: usize = 32;
/// Longest name accepted, of a node or property (the specification says 31).
const MAX_NAME: usize = 255;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
pub(crate) const BEGIN_NODE: u32 = 1;
pub(crate) const END_NODE: u32 = 2;
pub(crate) const PROP: u32 = 3;
pub(crate) const NOP: u32 = 4;
pub(crate) const END: u32 = 9;

/// The size that a header claims.
///
/// # Errors
/// Too few bytes, no magic number, or a size that cannot be.
pub fn header_size(header: &[u8]) -> Result<usize, DtbError> {
    let words = Words(header);
    let magic = words.at(0).ok_or(DtbError::TooShort)?;
    if magic != MAGIC {
        return Err(DtbError::Magic(magic));
    }
    let claimed = words.at(4).ok_or(DtbError::TooShort)?;
    match usize::try_from(claimed) {
        Ok(size) if (HEADER_BYTES..=MAX_BYTES).contains(&size) => Ok(size),
        _ => Err(DtbError::TotalSize(claimed)),
    }
}

/// Checks the tree at the start of `bytes`, and returns it alone.
pub(crate) fn check(bytes: &[u8]) -> Result<&[u8], DtbError> {
    let size = header_size(bytes)?;
    let tree = bytes.get(..size).ok_or(DtbError::TooShort)?;
    let header = Words(tree);
    let field = |offset| header.at(offset).ok_or(DtbError::TooShort);
    let (version, compatible) = (field(20)?, field(24)?);
    if version < VERSION || compatible > VERSION {
        return Err(DtbError::Version(version));
    }
    reservations(tree).last().transpose()?;
    let strings = block(tree, field(12)?, field(32)?).ok_or(DtbError::Strings)?;
    let strings = tree.get(strings).ok_or(DtbError::Strings)?;
    let range = structure(tree)?;
    let base = range.start;
    let structure = tree.get(range).ok_or(DtbError::Structure)?;
    Walk { structure: Words(structure), strings, base, at: 0 }.run()?;
    Ok(tree)
}

/// The (address, size) pairs of the memory reservation block, without the pair of zeros that ends
/// it. A block that is unaligned or has no end yields an error last.
pub(crate) fn reservations(tree: &[u8]) -> impl Iterator<Item = Result<(u64, u64), DtbError>> {
    let words = Words(tree);
    let start = words.at(16).and_then(|o| usize::try_from(o).ok());
    let mut next = start.filter(|o| o % 8 == 0 && *o >= HEADER_BYTES);
    let mut done = false;
    core::iter::from_fn(move || {
        if done {
            return None;
        }
        let pair = next.and_then(|o| Some((words.long(o)?, words.long(o.checked_add(8)?)?)));
        next = next.and_then(|o| o.checked_add(16));
        done = matches!(pair, None | Some((0, 0)));
        match pair {
            Some((0, 0)) => None,
            Some(pair) => Some(Ok(pair)),
            None => Some(Err(DtbError::Reservations)),
        }
    })
}

/// Where the structure block is in the tree at the start of `bytes`.
pub(crate) fn structure(bytes: &[u8]) -> Result<Range<usize>, DtbError> {
    let tree = bytes.get(..header_size(bytes)?).ok_or(DtbError::TooShort)?;
    let field = |offset| Words(tree).at(offset).ok_or(DtbError::TooShort);
    let range = block(tree, field(8)?, field(36)?).ok_or(DtbError::Structure)?;
    let aligned = range.start % 4 == 0 && range.end % 4 == 0;
    if aligned { Ok(range) } else { Err(DtbError::Structure) }
}

/// Where a block is in the tree: inside, and behind the header.
fn block(tree: &[u8], offset: u32, length: u32) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok().filter(|o| *o >= HEADER_BYTES)?;
    let end = start.checked_add(usize::try_from(length).ok()?).filter(|e| *e <= tree.len())?;
    Some(start..end)
}

/// Bytes as big-endian numbers.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(pub(crate) &'a [u8]);

impl Words<'_> {
    pub(crate) fn at(self, offset: usize) -> Option<u32> {
        let bytes = self.0.get(offset..)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    }
    fn long(self, offset: usize) -> Option<u64> {
        let bytes = self.0.get(offset..)?.first_chunk()?;
        Some(u64::from_be_bytes(*bytes))
    }
}

/// The walk over the structure block.
struct Walk<'a> {
    structure: Words<'a>,
    strings: &'a [u8],
    /// Where the block begins in the tree, for messages.
    base: usize,
    /// Where the walk is in the block; a multiple of 4.
    at: usize,
}

impl Walk<'_> {
    /// Exactly one root; in each node properties first, then children; then END and nothing more.
    fn run(mut self) -> Result<(), DtbError> {
        let mut depth = 0_usize;
        let mut root_seen = false;
        let mut properties_allowed = false;
        loop {
            let offset = self.base.saturating_add(self.at);
            let token = self.word()?;
            match token {
                BEGIN_NODE if depth > 0 || !root_seen => {
                    if depth == MAX_DEPTH {
                        return Err(DtbError::Depth { offset });
                    }
                    let named = self.node_name().ok_or(DtbError::NodeName { offset })?;
                    if named == root_seen {
                        (root_seen, properties_allowed) = (true, true);
                        depth = depth.saturating_add(1);
                    } else {
                        return Err(DtbError::NodeName { offset });
                    }
                }
                PROP if depth > 0 => {
                    if !properties_allowed {
                        return Err(DtbError::LateProperty { offset });
                    }
                    self.property(offset)?;
                }
                END_NODE if depth > 0 => {
                    depth = depth.saturating_sub(1);
                    properties_allowed = false;
                }
                END if depth == 0 && root_seen && self.structure.0.len() == self.at => {
                    return Ok(());
                }
                token => return Err(DtbError::Token { offset, token }),
            }
        }
    }

    fn word(&mut self) -> Result<u32, DtbError> {
        let offset = self.base.saturating_add(self.at);
        let word = self.structure.at(self.at).ok_or(DtbError::Truncated { offset })?;
        self.at = self.at.saturating_add(4);
        Ok(word)
    }

    /// Skips `bytes` and the padding to 4; `None` beyond the end of the block.
    fn skip(&mut self, bytes: usize) -> Option<()> {
        let next = self.at.checked_add(bytes)?.checked_next_multiple_of(4)?;
        self.at = Some(next).filter(|n| *n <= self.structure.0.len())?;
        Some(())
    }

    /// Reads a node's name; says whether it has one.
    fn node_name(&mut self) -> Option<bool> {
        let length = name_length(self.structure.0.get(self.at..)?)?;
        self.skip(length.checked_add(1)?)?;
        Some(length != 0)
    }

    fn property(&mut self, offset: usize) -> Result<(), DtbError> {
        let (length, name) = (self.word()?, self.word()?);
        usize::try_from(name)
            .ok()
            .and_then(|n| name_length(self.strings.get(n..)?))
            .ok_or(DtbError::PropertyName { offset })?;
        let length = usize::try_from(length).ok();
        length.and_then(|n| self.skip(n)).ok_or(DtbError::Truncated { offset })
    }
}

/// Length of a NUL-terminated UTF-8 name of at most [`MAX_NAME`] bytes.
pub(crate) fn name_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.iter().take(MAX_NAME + 1).position(|b| *b == 0)?;
    core::str::from_utf8(bytes.get(..length)?).ok()?;
    Some(length)
}
