//! A second reader of FAT32, strict and read-only: what the `fatfs` crate has written must be understood by
//! somebody who shares no line with it, as the board's boot ROM does not.
//!
//! Source: Microsoft's FAT specification 1.03; section numbers are its. Knows one folder, the root. Refuses
//! whatever a fresh card cannot have: two FATs that differ, clusters that are shared or lost.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::Files;

const SECTOR: usize = 512;
const ENTRY: usize = 32;
/// Attributes of an entry (section 6).
const VOLUME: u8 = 0x08;
const FOLDER: u8 = 0x10;
const LONG: u8 = 0x0f;
/// The last of a chain is at least this; upper four bits are not part of a number (section 4).
const LAST: u32 = 0x0fff_fff8;
const NUMBER: u32 = 0x0fff_ffff;

/// The files in the root folder of the file system that fills `volume`.
///
/// # Errors
/// What a boot ROM might stumble over.
pub fn read(volume: &[u8]) -> Result<Files> {
    let fat = Volume::open(volume)?;
    let mut used = BTreeSet::new();
    let root = fat.chain(fat.root, &mut used)?;
    let mut files = Files::new();
    let mut long = LongName::default();
    for entry in root.chunks_exact(ENTRY) {
        let (first, attributes) = (byte(entry, 0)?, byte(entry, 11)?);
        match (first, attributes) {
            (0, _) => break,
            (0xe5, _) => long = LongName::default(),
            (_, LONG) => long.part(entry)?,
            (_, kind) if kind & (VOLUME | FOLDER) != 0 => {
                ensure!(kind & FOLDER == 0, "there is a folder");
                long = LongName::default();
            }
            _ => {
                let short = entry.get(..11).context("an entry is cut")?;
                let name = std::mem::take(&mut long).name(short)?;
                let (high, low) = (half(entry, 20)?, half(entry, 26)?);
                let (start, size) = (high << 16 | low, word(entry, 28)? as usize);
                let mut bytes = match (start, size) {
                    (0, 0) => Vec::new(),
                    _ => fat.chain(start, &mut used).with_context(|| name.clone())?,
                };
                let spare = bytes.len().checked_sub(size).context("a file is longer than it is")?;
                ensure!(spare < fat.cluster.max(1), "{name} has clusters that it does not need");
                bytes.truncate(size);
                ensure!(files.insert(name.clone(), bytes).is_none(), "two files are {name}");
            }
        }
    }
    fat.nothing_lost(&used)?;
    Ok(files)
}

struct Volume<'a> {
    bytes: &'a [u8],
    table: &'a [u8],
    data: usize,
    cluster: usize,
    clusters: usize,
    root: u32,
}

impl<'a> Volume<'a> {
    /// The boot sector (section 3.1, 3.3) and the tables.
    fn open(bytes: &'a [u8]) -> Result<Self> {
        ensure!(half(bytes, 510)? == 0xaa55, "the boot sector has no signature");
        ensure!(half(bytes, 11)? as usize == SECTOR, "sectors are not of 512 bytes");
        let (per_cluster, tables) = (byte(bytes, 13)? as usize, byte(bytes, 16)? as usize);
        ensure!(per_cluster.is_power_of_two(), "a cluster has {per_cluster} sectors");
        ensure!((half(bytes, 17)?, half(bytes, 22)?) == (0, 0), "this is FAT12 or FAT16");
        let (before, sectors) = (half(bytes, 14)? as usize, word(bytes, 32)? as usize);
        ensure!(sectors * SECTOR <= bytes.len(), "the volume is longer than its partition");
        let size = word(bytes, 36)? as usize;
        let at = |number: usize| (before + number * size) * SECTOR;
        let copy = |number| bytes.get(at(number)..at(number + 1)).context("no room for the FAT");
        let table = copy(0)?;
        for number in 1..tables {
            ensure!(copy(number)? == table, "the FATs differ");
        }
        let clusters = (sectors - before - tables * size) / per_cluster;
        ensure!(clusters >= 65525, "{clusters} clusters are too few: a boot ROM reads FAT16");
        ensure!(table.len() / 4 >= clusters + 2, "the FAT is too short");
        let backup = half(bytes, 50)? as usize * SECTOR;
        ensure!(
            backup > 0 && bytes.get(backup..backup + 90) == bytes.get(..90),
            "no second boot sector"
        );
        let root = word(bytes, 44)?;
        Ok(Self { bytes, table, data: at(tables), cluster: per_cluster * SECTOR, clusters, root })
    }

    fn next(&self, cluster: u32) -> Result<u32> {
        Ok(word(self.table, cluster as usize * 4)? & NUMBER)
    }

    /// All bytes of the chain that begins with `cluster`.
    fn chain(&self, mut cluster: u32, used: &mut BTreeSet<u32>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while cluster < LAST {
            let number = (cluster as usize).checked_sub(2).filter(|n| *n < self.clusters);
            let at = self.data + number.context("a cluster outside the volume")? * self.cluster;
            ensure!(used.insert(cluster), "a cluster is used twice");
            let piece = self.bytes.get(at..at + self.cluster);
            bytes.extend_from_slice(piece.context("a cluster outside the volume")?);
            cluster = self.next(cluster)?;
        }
        Ok(bytes)
    }

    fn nothing_lost(&self, used: &BTreeSet<u32>) -> Result<()> {
        for cluster in 2..self.clusters as u32 + 2 {
            let taken = self.next(cluster)? != 0;
            ensure!(taken == used.contains(&cluster), "cluster {cluster} belongs to nobody");
        }
        Ok(())
    }
}

/// A name in several entries, the last part first (section 7).
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    checksum: Option<u8>,
}

impl LongName {
    fn part(&mut self, entry: &[u8]) -> Result<()> {
        let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        let units = places.iter().map(|at| half(entry, *at).map(|unit| unit as u16));
        let mut units = units.collect::<Result<Vec<_>>>()?;
        units.append(&mut self.units);
        self.units = units;
        let checksum = byte(entry, 13)?;
        ensure!(self.checksum.is_none_or(|known| known == checksum), "a long name is mixed up");
        self.checksum = Some(checksum);
        Ok(())
    }

    /// The name of the file whose short name this is.
    fn name(self, short: &[u8]) -> Result<String> {
        let Some(checksum) = self.checksum else {
            let part = |range| short.get(range).map(|part| String::from_utf8_lossy(part));
            let (Some(name), Some(kind)) = (part(0..8), part(8..11)) else { bail!("no name") };
            let dot = if kind.trim_end().is_empty() { "" } else { "." };
            return Ok(format!("{}{dot}{}", name.trim_end(), kind.trim_end()));
        };
        let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        ensure!(sum == checksum, "a long name belongs to another file");
        let end = self.units.iter().position(|unit| *unit == 0).unwrap_or(self.units.len());
        String::from_utf16(self.units.get(..end).unwrap_or_default()).context("a name is no text")
    }
}

fn byte(bytes: &[u8], at: usize) -> Result<u8> {
    bytes.get(at).copied().context("the volume ends too early")
}

fn half(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from(byte(bytes, at)?) | u32::from(byte(bytes, at + 1)?) << 8)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(half(bytes, at)? | half(bytes, at + 2)? << 16)
}

#[cfg(test)]
mod tests {
    use super::super::card;
    use super::*;

    fn files() -> Files {
        let big: Vec<u8> = (0..100_001_u32).map(|n| (n % 249) as u8).collect();
        Files::from([
            ("config.txt".into(), b"arm_64bit=1\n".to_vec()),
            ("bcm2711-rpi-cm4-io.dtb".into(), big),
            ("UPPER.BIN".into(), vec![7; 512]),
            ("empty".into(), Vec::new()),
        ])
    }

    fn volume() -> Vec<u8> {
        let card = card::build(&files()).unwrap();
        card[card::partition(&card).unwrap()].to_vec()
    }

    fn why(change: impl Fn(&mut Vec<u8>)) -> String {
        let mut volume = volume();
        change(&mut volume);
        format!("{:#}", read(&volume).unwrap_err())
    }

    #[test]
    fn a_reader_that_has_nothing_of_the_writer_finds_the_same_files() {
        assert_eq!(read(&volume()).unwrap(), files());
    }

    #[test]
    fn damage_that_a_boot_rom_would_not_forgive_is_found() {
        let table = |volume: &[u8]| half(volume, 14).unwrap() as usize * SECTOR;
        assert!(why(|v| v[510] = 0).contains("signature"));
        assert!(why(|v| v[16] = 0x40).contains("FAT"));
        assert!(why(|v| v[22] = 1).contains("FAT16"));
        assert!(
            why(|v| {
                let at = table(v);
                v[at + 4000] = 1
            })
            .contains("differ")
        );
        assert!(why(|v| v[32..36].fill(0xff)).contains("longer"));
        assert!(why(|v| v[50] = 0).contains("second boot sector"));
        assert!(read(&[]).is_err());
    }

    #[test]
    fn clusters_that_are_lost_shared_or_superfluous_are_found() {
        let both = |v: &mut Vec<u8>, cluster: usize, next: u32| {
            let (first, size) = (half(v, 14).unwrap() as usize, word(v, 36).unwrap() as usize);
            for copy in 0..2 {
                let at = (first + copy * size) * SECTOR + cluster * 4;
                v[at..at + 4].copy_from_slice(&next.to_le_bytes());
            }
        };
        assert!(why(|v| both(v, 60_000, LAST)).contains("belongs to nobody"));
        assert!(why(|v| both(v, 2, 2)).contains("used twice"));
        assert!(why(|v| both(v, 2, 0x0fff_0000)).contains("outside the volume"));
    }
}
