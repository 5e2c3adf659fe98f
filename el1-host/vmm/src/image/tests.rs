//! Headers and placement.

use super::*;
use crate::testing::image;

const MIB: u64 = 1 << 20;

#[test]
fn a_header_is_read_where_the_boot_protocol_puts_it() {
    let bytes = image(4096, 0x123_4000, 0x8_0000);
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header, Header { text_offset: 0x8_0000, image_size: 0x123_4000, flags: 0xa });
}

#[test]
fn what_is_no_image_is_called_by_its_name() {
    let good = image(64, 1, 0);
    assert_eq!(Header::parse(&good[..63]), Err(BadImage::Truncated));
    assert_eq!(Header::parse(&[]), Err(BadImage::Truncated));
    let mut elf = good.clone();
    elf[56] ^= 1;
    assert_eq!(Header::parse(&elf), Err(BadImage::NotImage));
    assert_eq!(Header::parse(&[0x1f, 0x8b, 8, 0]), Err(BadImage::Gzip));
    let mut zboot = good.clone();
    zboot[4..8].copy_from_slice(b"zimg");
    assert_eq!(Header::parse(&zboot), Err(BadImage::Zboot));
    let mut big = good;
    big[24] |= 1;
    assert_eq!(Header::parse(&big), Err(BadImage::BigEndian));
    for why in [BadImage::Truncated, BadImage::NotImage, BadImage::Gzip, BadImage::Zboot] {
        assert!(!why.to_string().is_empty());
    }
    assert!(BadImage::BigEndian.to_string().contains("little-endian"));
}

#[test]
fn an_image_without_size_has_the_old_text_offset() {
    let header = Header::parse(&image(4096, 0, 0x1234)).unwrap();
    assert_eq!(header.text_offset, 0x8_0000);
}

#[test]
fn the_kernel_goes_low_the_device_tree_high_the_initrd_below_it() {
    let header = Header { text_offset: 0, image_size: 32 * MIB, flags: 0xa };
    let layout = place(&header, 30 * MIB, 5 * MIB + 1, 256 * MIB).unwrap();
    assert_eq!(layout.kernel, 0x4000_0000);
    assert_eq!(layout.dtb, 0x5000_0000 - 2 * MIB);
    assert_eq!(layout.initrd, layout.dtb - 5 * MIB - 4096);
    assert_eq!(layout.initrd_len, 5 * MIB + 1);
    let offset = Header { text_offset: 0x8_0000, ..header };
    assert_eq!(place(&offset, 1, 0, 256 * MIB).unwrap().kernel, 0x4008_0000);
}

#[test]
fn an_odd_last_mebibyte_holds_the_device_tree() {
    let header = Header { text_offset: 0, image_size: MIB, flags: 0 };
    let layout = place(&header, MIB, 0, 65 * MIB).unwrap();
    assert_eq!(layout.dtb, 0x4000_0000 + 64 * MIB);
}

#[test]
fn too_little_memory_is_said_with_what_would_do() {
    let header = Header { text_offset: 0, image_size: 32 * MIB, flags: 0 };
    let why = place(&header, MIB, 10 * MIB, 40 * MIB).unwrap_err();
    assert_eq!(why.need_mib, 44);
    assert!(place(&header, MIB, 10 * MIB, why.need_mib * MIB).is_ok());
    assert!(why.to_string().contains("44"));
    // The file may be longer than it says.
    assert!(place(&header, 60 * MIB, 0, 44 * MIB).is_err());
    // Exactly full: the kernel ends where the initrd starts.
    assert!(place(&header, MIB, 10 * MIB, 44 * MIB).is_ok());
    assert!(
        place(&Header { image_size: 32 * MIB + 1, ..header }, MIB, 10 * MIB, 44 * MIB).is_err()
    );
}

#[test]
fn absurd_numbers_are_too_large_not_a_crash() {
    for text_offset in [0, u64::MAX, 1 << 63, u64::MAX - 0x4000_0000] {
        for image_size in [1, u64::MAX, 1 << 63] {
            for ram in [0, 4096, MIB, u64::MAX] {
                for initrd in [0, u64::MAX] {
                    let header = Header { text_offset, image_size, flags: 0 };
                    if let Ok(layout) = place(&header, 1, initrd, ram) {
                        assert!(layout.kernel < layout.initrd && layout.initrd <= layout.dtb);
                    }
                }
            }
        }
    }
    let none = Header { text_offset: 0, image_size: 1, flags: 0 };
    assert!(place(&none, 1, 0, 0).is_err());
}

#[test]
fn a_flat_program_lies_where_loaders_put_what_says_nothing_of_itself() {
    let program: Vec<u8> = (0..=255).collect();
    let image = from_flat(&program);
    let header = Header::parse(&image).unwrap();
    let layout = place(&header, image.len() as u64, 0, 16 << 20).unwrap();
    let at = image.len() - program.len();
    assert_eq!(image[at..], program);
    assert_eq!(layout.kernel + at as u64, RAM + 0x8_0000);
    assert_eq!(header.text_offset + at as u64, 0x8_0000);
    // The first instruction is a branch to it: b, imm26 in words.
    let first = u32::from_le_bytes(image[..4].try_into().unwrap());
    assert_eq!((first >> 26, (first & 0x03ff_ffff) * 4), (0b00_0101, at as u32));
    assert!(header.image_size >= image.len() as u64 + 0x10_0000, "room for BSS and stacks");
}
