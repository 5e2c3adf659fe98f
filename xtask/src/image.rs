//! The arm64 Image header and `redan.img`: EL2, then the EL1 payload at 2 MiB.
//!
//! The layout is the table "The image" of docs/architecture.md; the header is the arm64 boot
//! protocol's. Everything is little-endian, whatever machine builds it.

use anyhow::{Context, Result, anyhow, ensure};
use host_vmm::image::Header;

const IMAGE_SIZE_AT: usize = 16;

/// What EL2's image says of its payload, filled in here.
const DESCRIPTOR_AT: usize = 64;
const DESCRIPTOR_MAGIC: [u8; 8] = *b"REDANPL1";
/// Where the payload begins: EL2 must fit below it.
pub const PAYLOAD_AT: usize = 2 << 20;

/// Whether these bytes are an arm64 Image; the error says why not.
pub fn check(bytes: &[u8]) -> Result<Header> {
    Header::parse(bytes).map_err(|why| anyhow!("is {why}"))
}

/// Put EL2 and its payload together. Both are flat arm64 Images.
pub fn pack(hyp: &[u8], payload: &[u8]) -> Result<Vec<u8>> {
    check(hyp).context("the EL2 image")?;
    let header = check(payload).context("the EL1 payload")?;
    ensure!(
        hyp.len() <= PAYLOAD_AT,
        "EL2 needs {} KiB, but the payload begins at {} KiB",
        hyp.len().div_ceil(1024),
        PAYLOAD_AT / 1024
    );
    ensure!(
        hyp.get(DESCRIPTOR_AT..DESCRIPTOR_AT + 8) == Some(&DESCRIPTOR_MAGIC[..]),
        "the EL2 image has no payload descriptor (`REDANPL1`) at offset 64"
    );
    let mut payload = payload.to_vec();
    let needs = header.image_size.max(payload.len() as u64);
    put(&mut payload, IMAGE_SIZE_AT, needs)?;

    let mut image = hyp.to_vec();
    image.resize(PAYLOAD_AT, 0);
    image.extend_from_slice(&payload);
    put(&mut image, IMAGE_SIZE_AT, PAYLOAD_AT as u64 + needs)?;
    put(&mut image, DESCRIPTOR_AT + 8, PAYLOAD_AT as u64)?;
    put(&mut image, DESCRIPTOR_AT + 16, needs)?;
    Ok(image)
}

fn put(bytes: &mut [u8], at: usize, value: u64) -> Result<()> {
    let word = bytes.get_mut(at..at + 8).context("the image is too short")?;
    word.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn image(len: usize, memory: u64, descriptor: bool) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[56..60].copy_from_slice(b"ARM\x64");
        put(&mut bytes, IMAGE_SIZE_AT, memory).unwrap();
        if descriptor {
            bytes[DESCRIPTOR_AT..DESCRIPTOR_AT + 8].copy_from_slice(&DESCRIPTOR_MAGIC);
        }
        bytes
    }

    #[test]
    fn the_packed_header_covers_the_payload_and_its_bss() {
        let packed = pack(&image(4096, 0, true), &image(8192, 0x10_0000, false)).unwrap();
        assert_eq!(packed.len(), PAYLOAD_AT + 8192);
        assert_eq!(check(&packed).unwrap().image_size, 0x20_0000 + 0x10_0000);
        assert_eq!(get(&packed, DESCRIPTOR_AT + 8), 0x20_0000);
        assert_eq!(get(&packed, DESCRIPTOR_AT + 16), 0x10_0000);
    }

    #[test]
    fn a_payload_without_a_size_gets_its_own_length() {
        let packed = pack(&image(4096, 0, true), &image(8192, 0, false)).unwrap();
        assert_eq!(check(&packed[PAYLOAD_AT..]).unwrap().image_size, 8192);
        assert_eq!(get(&packed, DESCRIPTOR_AT + 16), 8192);
    }

    #[test]
    fn an_el2_that_would_touch_its_payload_is_refused() {
        let error = pack(&image(PAYLOAD_AT + 1, 0, true), &image(64, 0, false)).unwrap_err();
        assert!(error.to_string().contains("payload begins at 2048 KiB"), "{error}");
    }

    #[test]
    fn an_el2_without_descriptor_is_refused() {
        assert!(pack(&image(4096, 0, false), &image(64, 0, false)).is_err());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(check(b"short").is_err());
        assert!(check(&[0; 4096]).is_err());
        assert!(check(&image(64, 0, false)).is_ok());
    }
}
