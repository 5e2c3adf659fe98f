//! A disk to be overwritten: whether that is safe, and the writing.
//!
//! Knows how Linux describes block devices (sysfs, /proc/self/mountinfo, /proc/swaps). Must not know
//! what is written.
//!
//! Invariants:
//! D1. Nothing is written to a disk that is not removable, is mounted, holds swap, or is part of something.
//! D2. [`write_and_verify`] succeeds only if the device gave back every byte.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Where Linux tells of itself; tests have their own.
#[derive(Clone, Debug)]
pub struct Linux {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Linux {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// A removable disk that nobody uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name, such as `sdb`.
    pub name: String,
    /// Vendor and model, as far as it tells.
    pub model: String,
    /// Bytes.
    pub size: u64,
    /// Names of its partitions: what will be lost.
    pub partitions: Vec<String>,
}

impl Linux {
    /// The disk with this device number, if it may be overwritten.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, major: u32, minor: u32) -> Result<Disk> {
        let dir = self.sys.join(format!("dev/block/{major}:{minor}"));
        let dir = dir.canonicalize().context("the kernel knows no such disk")?;
        let name = file_name(&dir);
        ensure!(!dir.join("partition").exists(), "is a partition; name the whole disk");
        ensure!(is_removable(&dir), "is not removable: it may be a disk of this machine");
        ensure!(read(&dir.join("ro")) != "1", "is write-protected");
        let size = read(&dir.join("size")).parse::<u64>().context("has no size")? * 512;
        ensure!(size > 0, "is empty: there is no card in the reader");
        let mut parts = vec![dir.clone()];
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.join("partition").exists() {
                parts.push(path);
            }
        }
        parts.sort();
        self.ensure_unused(&parts)?;
        let model =
            ["device/vendor", "device/model", "device/name"].map(|file| read(&dir.join(file)));
        let partitions = parts.iter().filter(|part| **part != dir).map(|part| file_name(part));
        Ok(Disk { name, model: words(&model), size, partitions: partitions.collect() })
    }

    fn ensure_unused(&self, parts: &[PathBuf]) -> Result<()> {
        let mounts =
            fs::read_to_string(self.proc.join("self/mountinfo")).context("mounts unknown")?;
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        let swaps: BTreeSet<&str> =
            swaps.lines().filter_map(|line| line.split_whitespace().next()).collect();
        for part in parts {
            let (name, number) = (file_name(part), read(&part.join("dev")));
            for mount in mounts.lines() {
                let mut fields = mount.split(' ').skip(2);
                if fields.next() == Some(number.as_str()) {
                    bail!("{name} is mounted at {}; unmount it first", fields.nth(1).unwrap_or("?"))
                }
            }
            ensure!(!swaps.contains(format!("/dev/{name}").as_str()), "{name} holds swap space");
            let held =
                fs::read_dir(part.join("holders")).is_ok_and(|mut held| held.next().is_some());
            ensure!(!held, "{name} is part of a volume (LVM, RAID, encryption) that is in use");
        }
        Ok(())
    }
}

/// USB readers say so; the kernel never calls a card in a built-in reader removable, but its type.
fn is_removable(dir: &Path) -> bool {
    read(&dir.join("removable")) == "1" || read(&dir.join("device/type")) == "SD"
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

fn words(parts: &[String]) -> String {
    let filled: Vec<&str> =
        parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    filled.join(" ")
}

/// Bytes written or read between two reports of progress.
const STEP: usize = 4 << 20;

/// Writes `image` to the beginning of `device` and reads it back. `flush` makes sure that the bytes
/// are on the device and that reading does not ask a cache. `progress` hears of bytes done, twice `image`.
///
/// # Errors
/// The device's, or the first byte that came back as another.
pub fn write_and_verify<D: Read + Write + Seek>(
    device: &mut D,
    image: &[u8],
    flush: impl FnOnce(&mut D) -> Result<()>,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let mut done = 0;
    let mut count = |bytes: usize| {
        done += bytes as u64;
        progress(done);
    };
    device.seek(SeekFrom::Start(0))?;
    for piece in image.chunks(STEP) {
        device.write_all(piece).context("writing failed")?;
        count(piece.len());
    }
    device.flush().and_then(|()| device.seek(SeekFrom::Start(0))).context("writing failed")?;
    flush(device)?;
    let (mut back, mut at) = (vec![0; STEP], 0);
    for piece in image.chunks(STEP) {
        let back = back.get_mut(..piece.len()).context("a piece has the size of a piece")?;
        device.read_exact(back).context("reading back failed")?;
        if let Some(wrong) = back.iter().zip(piece).position(|(back, piece)| back != piece) {
            bail!(
                "byte {} came back as another: the card is broken, or smaller than it says",
                at + wrong
            )
        }
        at += piece.len();
        count(piece.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine with a card reader `sdb` (8:16) that has a partition `sdb1` (8:17).
    fn machine() -> (tempfile::TempDir, Linux) {
        let dir = tempfile::tempdir().unwrap();
        let linux = Linux { sys: dir.path().join("sys"), proc: dir.path().join("proc") };
        let disk = linux.sys.join("block/sdb");
        fs::create_dir_all(disk.join("sdb1/holders")).unwrap();
        fs::create_dir_all(disk.join("device")).unwrap();
        fs::create_dir_all(linux.sys.join("dev/block")).unwrap();
        fs::create_dir_all(linux.proc.join("self")).unwrap();
        for (file, text) in [
            ("removable", "1\n"),
            ("ro", "0\n"),
            ("size", "62333952\n"),
            ("dev", "8:16\n"),
            ("device/vendor", "Generic \n"),
            ("device/model", "STORAGE DEVICE  \n"),
            ("sdb1/partition", "1\n"),
            ("sdb1/dev", "8:17\n"),
        ] {
            fs::write(disk.join(file), text).unwrap();
        }
        symlink("../../block/sdb", linux.sys.join("dev/block/8:16")).unwrap();
        symlink("../../block/sdb/sdb1", linux.sys.join("dev/block/8:17")).unwrap();
        let mounts = "22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n";
        fs::write(linux.proc.join("self/mountinfo"), mounts).unwrap();
        fs::write(linux.proc.join("swaps"), "Filename Type Size\n/dev/nvme0n1p3 partition 1\n")
            .unwrap();
        (dir, linux)
    }

    fn why(linux: &Linux, minor: u32) -> String {
        linux.check(8, minor).unwrap_err().to_string()
    }

    #[test]
    fn a_card_in_a_reader_that_nobody_uses_may_be_overwritten() {
        let (_dir, linux) = machine();
        let expected = Disk {
            name: "sdb".into(),
            model: "Generic STORAGE DEVICE".into(),
            size: 31_914_983_424,
            partitions: vec!["sdb1".into()],
        };
        assert_eq!(linux.check(8, 16).unwrap(), expected);
    }

    #[test]
    fn a_partition_is_no_disk_and_an_unknown_number_neither() {
        let (_dir, linux) = machine();
        assert!(why(&linux, 17).contains("is a partition"));
        assert!(why(&linux, 99).contains("knows no such disk"));
    }

    #[test]
    fn a_disk_that_is_not_removable_is_refused_unless_it_is_an_sd_card() {
        let (_dir, linux) = machine();
        let disk = linux.sys.join("block/sdb");
        fs::write(disk.join("removable"), "0\n").unwrap();
        assert!(why(&linux, 16).contains("not removable"));
        fs::write(disk.join("device/type"), "MMC\n").unwrap();
        assert!(why(&linux, 16).contains("not removable"), "soldered eMMC is the machine's");
        fs::write(disk.join("device/type"), "SD\n").unwrap();
        assert!(linux.check(8, 16).is_ok());
    }

    #[test]
    fn a_disk_in_use_is_refused_whatever_uses_it() {
        let (_dir, linux) = machine();
        let mounts = linux.proc.join("self/mountinfo");
        let root = fs::read_to_string(&mounts).unwrap();
        for number in ["8:16", "8:17"] {
            let with = format!("{root}40 22 {number} / /media/card rw - vfat /dev/sdb1 rw\n");
            fs::write(&mounts, with).unwrap();
            assert!(why(&linux, 16).contains("is mounted at /media/card"), "{number}");
        }
        fs::write(&mounts, root).unwrap();
        fs::write(linux.proc.join("swaps"), "Filename\n/dev/sdb1 partition 1 0 -2\n").unwrap();
        assert!(why(&linux, 16).contains("sdb1 holds swap"));
        fs::write(linux.proc.join("swaps"), "").unwrap();
        fs::create_dir(linux.sys.join("block/sdb/sdb1/holders/dm-0")).unwrap();
        assert!(why(&linux, 16).contains("part of a volume"));
    }

    #[test]
    fn an_empty_reader_and_a_protected_card_are_refused() {
        let (_dir, linux) = machine();
        let disk = linux.sys.join("block/sdb");
        fs::write(disk.join("size"), "0\n").unwrap();
        assert!(why(&linux, 16).contains("no card"));
        fs::write(disk.join("ro"), "1\n").unwrap();
        assert!(why(&linux, 16).contains("write-protected"));
    }

    #[test]
    fn what_comes_back_as_it_was_written_is_good_and_progress_goes_to_the_end() {
        let image: Vec<u8> = (0..STEP + 12345).map(|n| (n % 253) as u8).collect();
        let mut device = Cursor::new(vec![0xff; 2 * STEP]);
        let mut last = 0;
        write_and_verify(&mut device, &image, |_| Ok(()), |done| last = done).unwrap();
        assert_eq!(last, 2 * image.len() as u64);
        assert_eq!(device.get_ref()[..image.len()], image);
        assert!(device.get_ref()[image.len()..].iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn a_card_that_lies_is_found_out() {
        let image = vec![7; STEP + 100];
        let mut device = Cursor::new(vec![0; 2 * STEP]);
        let spoil = |device: &mut Cursor<Vec<u8>>| {
            device.get_mut()[STEP + 42] = 8;
            Ok(())
        };
        let why = write_and_verify(&mut device, &image, spoil, |_| ()).unwrap_err().to_string();
        assert!(why.contains(&format!("byte {} ", STEP + 42)), "{why}");
    }

    #[test]
    fn a_card_that_is_too_small_fails() {
        let mut small = [0; 100];
        let mut device = Cursor::new(&mut small[..]);
        assert!(write_and_verify(&mut device, &[1; 200], |_| Ok(()), |_| ()).is_err());
    }
}
