//! An SD card: a partition table and one FAT32 partition, as the Raspberry Pi's boot ROM wants it.
//!
//! Knows: where a classic partition table keeps its entries, and that QEMU takes cards only whose size is
//! a power of two. Must not know: what the files are for. FAT itself is the `fatfs` crate's.
//!
//! The same files make the same bytes: the file system's clock stands still at 1 January 1980.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

/// Files by name; names have no folder.
pub type Files = BTreeMap<String, Vec<u8>>;

const SECTOR: usize = 512;
/// The partition begins at 1 MiB, where card readers and erase blocks like it.
const START: usize = 1 << 20;
/// FAT32 has at least 65525 clusters; less would be told to be FAT16.
const SMALLEST: usize = 128 << 20;
/// Whatever holds our files is far smaller; QEMU's cards are at most this.
const LARGEST: usize = 1 << 31;
/// The first of four entries, 16 bytes each.
const ENTRY: usize = 446;
/// FAT32, addressed by sectors.
const FAT32_LBA: u8 = 0x0c;
/// Cylinder, head and sector of a place that has none.
const NO_CHS: [u8; 3] = [0xfe, 0xff, 0xff];
const LABEL: [u8; 11] = *b"REDAN      ";
const SIGNATURE: u32 = u32::from_le_bytes(*b"RDAN");

/// A card with these files.
pub fn build(files: &Files) -> Result<Vec<u8>> {
    let content: usize = files.values().map(Vec::len).sum();
    // One part in eight, and as much again as the first megabyte, for tables and clusters half used.
    let needed = content + content / 8 + 2 * START;
    let size = needed.next_power_of_two().max(SMALLEST);
    ensure!(size <= LARGEST, "the files need {} MiB; a card image has 2048 at most", needed >> 20);
    let mut image = vec![0; size];
    let (head, partition) = image.split_at_mut(START);
    write_table(head, partition.len())?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .volume_label(LABEL)
        .volume_id(SIGNATURE);
    fatfs::format_volume(Cursor::new(&mut *partition), options)
        .context("cannot make the file system")?;
    let fs = FileSystem::new(Cursor::new(partition), FsOptions::new())?;
    for (name, bytes) in files {
        ensure!(!name.contains('/'), "`{name}` is no name of a file");
        let write = || -> std::io::Result<()> {
            let mut file = fs.root_dir().create_file(name)?;
            file.write_all(bytes)?;
            file.flush()
        };
        write().with_context(|| format!("cannot put {name} on the card"))?;
    }
    fs.unmount()?;
    Ok(image)
}

/// The files of a card.
pub fn read(image: &[u8]) -> Result<Files> {
    let partition = image.get(partition(image)?).context("the partition does not fit")?.to_vec();
    let fs = FileSystem::new(Cursor::new(partition), FsOptions::new())
        .context("the partition holds no FAT file system")?;
    let mut files = Files::new();
    for entry in fs.root_dir().iter() {
        let entry = entry?;
        if entry.is_file() {
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes).with_context(|| entry.file_name())?;
            files.insert(entry.file_name(), bytes);
        }
    }
    Ok(files)
}

/// Writes an image to a file; what is zero becomes a hole.
pub fn save(file: &Path, image: &[u8]) -> Result<()> {
    const PIECE: usize = 64 << 10;
    let write = || -> std::io::Result<()> {
        let mut out = File::create(file)?;
        out.set_len(image.len() as u64)?;
        for (number, piece) in image.chunks(PIECE).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                out.seek(SeekFrom::Start((number * PIECE) as u64))?;
                out.write_all(piece)?;
            }
        }
        Ok(())
    };
    write().with_context(|| file.display().to_string())
}

/// Where the first partition is, in bytes.
pub fn partition(image: &[u8]) -> Result<Range<usize>> {
    ensure!(image.get(510..512) == Some(&[0x55, 0xaa]), "there is no partition table");
    let entry = image.get(ENTRY..ENTRY + 16).context("there is no partition table")?;
    let word = |at: usize| -> usize {
        let bytes = entry.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default()) as usize
    };
    if entry.get(4) != Some(&FAT32_LBA) {
        bail!("the first partition is not FAT32")
    }
    let start = word(8) * SECTOR;
    Ok(start..start + word(12) * SECTOR)
}

fn write_table(sector: &mut [u8], bytes: usize) -> Result<()> {
    let mut put = |at: usize, bytes: &[u8]| -> Result<()> {
        let room = sector.get_mut(at..at + bytes.len()).context("no room for the table")?;
        room.copy_from_slice(bytes);
        Ok(())
    };
    put(440, &SIGNATURE.to_le_bytes())?;
    put(ENTRY + 1, &NO_CHS)?;
    put(ENTRY + 4, &[FAT32_LBA])?;
    put(ENTRY + 5, &NO_CHS)?;
    put(ENTRY + 8, &u32::try_from(START / SECTOR)?.to_le_bytes())?;
    put(ENTRY + 12, &u32::try_from(bytes / SECTOR)?.to_le_bytes())?;
    put(510, &[0x55, 0xaa])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let big: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
        Files::from([
            ("config.txt".into(), b"arm_64bit=1\n".to_vec()),
            ("bcm2711-rpi-4-b.dtb".into(), vec![0xd0; 4096]),
            ("kernel8.img".into(), big),
            ("empty".into(), Vec::new()),
        ])
    }

    #[test]
    fn what_was_put_on_a_card_is_read_from_it() {
        let card = build(&files()).unwrap();
        assert_eq!(read(&card).unwrap(), files());
        assert_eq!(card, build(&files()).unwrap(), "the same files make the same bytes");
    }

    #[test]
    fn the_boot_rom_finds_a_fat32_partition_that_fills_the_card() {
        let card = build(&files()).unwrap();
        assert_eq!(partition(&card).unwrap(), START..card.len());
        assert!(card.len().is_power_of_two(), "QEMU wants that");
        // Microsoft's FAT specification 1.03: BPB_RootEntCnt and BPB_FATSz16 are 0 on FAT32 only.
        let boot = &card[START..START + SECTOR];
        assert_eq!((&boot[17..19], &boot[22..24]), (&[0, 0][..], &[0, 0][..]));
        assert_eq!((&boot[82..90], &boot[510..]), (&b"FAT32   "[..], &[0x55, 0xaa][..]));
    }

    #[test]
    fn what_is_no_card_is_refused() {
        assert!(read(&[]).is_err());
        assert!(read(&[0; 4096]).is_err());
        let mut card = build(&files()).unwrap();
        card.truncate(START + SECTOR);
        assert!(read(&card).unwrap_err().to_string().contains("does not fit"));
        card[ENTRY + 4] = 0x83;
        assert!(read(&card).unwrap_err().to_string().contains("not FAT32"));
    }

    #[test]
    fn a_saved_card_is_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, card) = (dir.path().join("card.img"), build(&files()).unwrap());
        std::fs::write(&file, vec![0xff; 3 << 20]).unwrap();
        save(&file, &card).unwrap();
        assert!(std::fs::read(&file).unwrap() == card);
    }

    #[test]
    fn a_file_in_a_folder_is_refused() {
        let files = Files::from([("overlays/x.dtbo".into(), vec![1])]);
        assert!(build(&files).is_err());
    }
}
