//! Why a device tree was refused.

use core::fmt;

/// One variant for each reason. Offsets are in bytes from the start of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtbError {
    /// Fewer bytes than a header, or than the header says.
    TooShort,
    /// The first word is not the magic number (QEMU's raspi4b without `-dtb` passes no tree).
    Magic(u32),
    /// `totalsize` is less than a header, or above [`MAX_BYTES`](crate::MAX_BYTES).
    TotalSize(u32),
    /// A version that this reader does not know.
    Version(u32),
    /// The memory reservation block is unaligned or does not end inside the tree.
    Reservations,
    /// The structure block is unaligned or not inside the tree.
    Structure,
    /// The strings block is not inside the tree.
    Strings,
    /// No token where one must be, or one that may not stand there.
    Token {
        /// Where.
        offset: usize,
        /// What was found.
        token: u32,
    },
    /// The structure block ends in the middle of something.
    Truncated {
        /// Where that begins.
        offset: usize,
    },
    /// A node's name is not NUL-terminated UTF-8 of bounded length, or is empty but not the root's.
    NodeName {
        /// Where.
        offset: usize,
    },
    /// A property's name is not in the strings block, NUL-terminated, UTF-8 and bounded.
    PropertyName {
        /// Where the property is.
        offset: usize,
    },
    /// A property after a child node.
    LateProperty {
        /// Where.
        offset: usize,
    },
    /// Nodes in nodes beyond [`MAX_DEPTH`](crate::MAX_DEPTH).
    Depth {
        /// Where.
        offset: usize,
    },
    /// The `fdt` crate refused what the check had accepted.
    Reader,
    /// A node or property that must be there is not.
    Missing(&'static str),
    /// A property has a value that makes no sense.
    Bad(&'static str),
    /// `#address-cells` or `#size-cells` has a value that 64-bit numbers cannot hold.
    Cells,
    /// An address that no `ranges` of its parents leads to the CPU.
    Untranslatable(u64),
    /// More of something than this reader has room for.
    TooMany(&'static str),
}

impl fmt::Display for DtbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort => write!(f, "device tree: shorter than its header says"),
            Self::Magic(found) => write!(f, "device tree: bad magic {found:#010x}"),
            Self::TotalSize(size) => write!(f, "device tree: impossible size {size}"),
            Self::Version(version) => write!(f, "device tree: unknown version {version}"),
            Self::Reservations => write!(f, "device tree: bad memory reservation block"),
            Self::Structure => write!(f, "device tree: bad structure block"),
            Self::Strings => write!(f, "device tree: bad strings block"),
            Self::Token { offset, token } => {
                write!(f, "device tree: unexpected token {token:#x} at {offset:#x}")
            }
            Self::Truncated { offset } => write!(f, "device tree: cut off at {offset:#x}"),
            Self::NodeName { offset } => write!(f, "device tree: bad node name at {offset:#x}"),
            Self::PropertyName { offset } => {
                write!(f, "device tree: bad property name at {offset:#x}")
            }
            Self::LateProperty { offset } => {
                write!(f, "device tree: property after a child node at {offset:#x}")
            }
            Self::Depth { offset } => write!(f, "device tree: nested too deep at {offset:#x}"),
            Self::Reader => write!(f, "device tree: refused by the reader"),
            Self::Missing(what) => write!(f, "device tree: no {what}"),
            Self::Bad(what) => write!(f, "device tree: bad {what}"),
            Self::Cells => write!(f, "device tree: unsupported number of address or size cells"),
            Self::Untranslatable(address) => {
                write!(f, "device tree: no ranges lead to address {address:#x}")
            }
            Self::TooMany(what) => write!(f, "device tree: too many {what}"),
        }
    }
}

impl core::error::Error for DtbError {}
