//! The arm64 boot protocol: what an Image says of itself, and where kernel, initrd and device tree
//! go in guest RAM (Linux, Documentation/arch/arm64/booting.rst).
//!
//! Knows numbers only; both xtask and the shim ask it. Must not know where the bytes come from.

use alloc::vec::Vec;
use core::fmt;

use crate::memmap::RAM;

const HEADER: usize = 64;
const MAGIC: [u8; 4] = *b"ARMd";
/// `text_offset` of kernels whose `image_size` is 0 (before 3.17).
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// Bytes that [`from_flat`] puts before a program: what follows may want to lie at a 64 KiB boundary.
const FLAT_HEAD: u32 = 0x1_0000;
/// Memory that [`from_flat`] reserves behind a program, which does not tell its BSS and stacks.
const FLAT_ROOM: u64 = 1 << 20;
const MIB_2: u64 = 2 << 20;
const PAGE: u64 = 4096;
/// Room kept for the device tree.
pub const DTB_MAX: u64 = 0x1_0000;

/// The fields of an Image's header that a boot loader needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the Image lies from a 2 MiB boundary.
    pub text_offset: u64,
    /// Memory it needs from its first byte on, BSS included; 0 in kernels that do not say.
    pub image_size: u64,
    /// Flag bits.
    pub flags: u64,
}

/// Why this kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadImage {
    /// Shorter than its header.
    Truncated,
    /// No arm64 magic number.
    NotImage,
    /// A gzip file: perhaps an Image, once unpacked.
    Gzip,
    /// An EFI zboot file: an Image is packed inside.
    Zboot,
    /// A big-endian kernel.
    BigEndian,
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "shorter than the 64-byte header of an arm64 Image",
            Self::NotImage => "not an arm64 Image (no magic number at byte 56)",
            Self::Gzip => "gzip-compressed: unpack it to an arm64 Image first",
            Self::Zboot => "an EFI zboot image: unpack the arm64 Image inside it first",
            Self::BigEndian => "a big-endian kernel; only little-endian ones are supported",
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

impl Header {
    /// Reads the header of an Image.
    ///
    /// # Errors
    /// Says why it is none.
    pub fn parse(image: &[u8]) -> Result<Self, BadImage> {
        if image.starts_with(&[0x1f, 0x8b]) {
            return Err(BadImage::Gzip);
        }
        if image.get(4..8) == Some(b"zimg") {
            return Err(BadImage::Zboot);
        }
        let header = image.get(..HEADER).ok_or(BadImage::Truncated)?;
        if header.get(56..60) != Some(&MAGIC) {
            return Err(BadImage::NotImage);
        }
        let field = |at| word(header, at).ok_or(BadImage::Truncated);
        let (mut text_offset, image_size, flags) = (field(8)?, field(16)?, field(24)?);
        if image_size == 0 {
            text_offset = OLD_TEXT_OFFSET;
        }
        if flags & 1 != 0 {
            return Err(BadImage::BigEndian);
        }
        Ok(Self { text_offset, image_size, flags })
    }
}

/// An Image that is nothing but `program`: machine code without header that starts at its first byte, as
/// bare-metal test suites are. It lies 512 KiB into RAM, where boot loaders put a kernel that does
/// not say otherwise (QEMU's `-kernel` does), and the header is the distance up to there: a branch.
#[must_use]
pub fn from_flat(program: &[u8]) -> Vec<u8> {
    let head = usize::try_from(FLAT_HEAD).unwrap_or(usize::MAX);
    let len = u64::try_from(program.len()).unwrap_or(u64::MAX);
    let text_offset = OLD_TEXT_OFFSET.saturating_sub(u64::from(FLAT_HEAD));
    let image_size = u64::from(FLAT_HEAD).saturating_add(len).saturating_add(FLAT_ROOM);
    // `b` to what follows; x0 to x3 stay as they are (DDI0487 C6.2.26).
    let branch = 0x1400_0000 | (FLAT_HEAD >> 2);
    let mut image = Vec::with_capacity(head.saturating_add(program.len()));
    image.extend_from_slice(&u64::from(branch).to_le_bytes());
    image.extend_from_slice(&text_offset.to_le_bytes());
    image.extend_from_slice(&image_size.to_le_bytes());
    image.resize(56, 0);
    image.extend_from_slice(&MAGIC);
    image.resize(head, 0);
    image.extend_from_slice(program);
    image
}

/// Where everything goes. All are guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// First byte of the Image: also where the first vCPU starts.
    pub kernel: u64,
    /// First byte of the initrd, page-aligned (equal to `dtb` if there is none).
    pub initrd: u64,
    /// Bytes of the initrd.
    pub initrd_len: u64,
    /// First byte of the device tree, in a 2 MiB block that holds nothing else needed at boot.
    pub dtb: u64,
}

/// The RAM does not hold kernel, initrd and device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLittle {
    /// MiB that would do.
    pub need_mib: u64,
}

impl fmt::Display for TooLittle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too little for kernel, initrd and device tree: at least {}", self.need_mib)
    }
}

/// Places an Image of `file_len` bytes and an initrd in RAM of `ram_size` bytes at [`RAM`]: the
/// kernel as low as it may, the device tree in the last block, the initrd below it.
///
/// # Errors
/// [`TooLittle`] if they would overlap.
pub fn place(
    header: &Header,
    file_len: u64,
    initrd_len: u64,
    ram_size: u64,
) -> Result<Layout, TooLittle> {
    let span = header.image_size.max(file_len);
    let used = header
        .text_offset
        .checked_add(span)
        .and_then(|n| n.checked_next_multiple_of(PAGE))
        .and_then(|n| n.checked_add(initrd_len.checked_next_multiple_of(PAGE)?))
        .and_then(|n| n.checked_add(MIB_2));
    let need_mib = used.map_or(u64::MAX, |n| n.div_ceil(1 << 20));
    let fit = || {
        let end = RAM.checked_add(ram_size)?;
        let dtb = end.checked_sub(DTB_MAX)? & !(MIB_2.wrapping_sub(1));
        let initrd = dtb.checked_sub(initrd_len)? & !(PAGE.wrapping_sub(1));
        let kernel = RAM.checked_add(header.text_offset)?;
        let kernel_end = kernel.checked_add(span)?;
        (kernel_end <= initrd).then_some(Layout { kernel, initrd, initrd_len, dtb })
    };
    fit().ok_or(TooLittle { need_mib })
}

#[cfg(test)]
mod tests;
