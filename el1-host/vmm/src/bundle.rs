//! The bundle: a `newc` cpio archive (the format of Linux's initramfs), one folder a VM.
//!
//! The archive is a claim: every length in it is checked against the bytes there are. Whatever stands
//! before a fault can be used; the fault itself is reported with its place. (The one `no_std` reader on
//! crates.io stops at a fault without saying so, hence this.)

use alloc::vec::Vec;
use core::fmt;

const HEADER: usize = 110;
const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
/// Longest name: as Linux's PATH_MAX.
const NAME_MAX: usize = 4096;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// A file or folder of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its path, without a leading `./`.
    pub name: &'a str,
    /// Type and permission bits, as in `stat`.
    pub mode: u32,
    /// Content.
    pub data: &'a [u8],
}

impl Entry<'_> {
    /// Whether it is a regular file.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.mode & S_IFMT == S_IFREG
    }
}

/// Where and why the archive cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Byte offset of the entry at fault.
    pub at: usize,
    /// Why.
    pub reason: &'static str,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bundle: byte {}: {}", self.at, self.reason)
    }
}

impl core::error::Error for Error {}

/// The entries of an archive, up to its trailer or the first fault.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    archive: &'a [u8],
    at: usize,
    done: bool,
}

/// Starts reading an archive.
#[must_use]
pub const fn entries(archive: &[u8]) -> Entries<'_> {
    Entries { archive, at: 0, done: false }
}

impl<'a> Entries<'a> {
    fn bytes(&self, from: usize, len: usize, cut: &'static str) -> Result<&'a [u8], &'static str> {
        let end = from.checked_add(len).ok_or(cut)?;
        self.archive.get(from..end).ok_or(cut)
    }

    /// Reads the entry at `self.at`; `None` is the trailer.
    fn read(&mut self) -> Result<Option<Entry<'a>>, &'static str> {
        let header = self.bytes(self.at, HEADER, "the archive ends without a trailer")?;
        if !header.starts_with(MAGIC) {
            return Err("not a newc cpio header");
        }
        let mode = field(header, 1)?;
        let size = length(field(header, 6)?)?;
        let name_size = length(field(header, 11)?)?;
        if name_size == 0 || name_size > NAME_MAX {
            return Err("a name of impossible length");
        }
        let name_at = self.at.saturating_add(HEADER);
        let name = self.bytes(name_at, name_size, "the archive ends inside a name")?;
        let Some((0, name)) = name.split_last() else { return Err("a name without its NUL") };
        let name = core::str::from_utf8(name).map_err(|_| "a name that is not UTF-8")?;
        if name.contains('\0') {
            return Err("a NUL inside a name");
        }
        let data_at = padded(name_at, name_size)?;
        let data = self.bytes(data_at, size, "the archive ends inside a file")?;
        if name == TRAILER {
            return Ok(None);
        }
        self.at = padded(data_at, size)?;
        Ok(Some(Entry { name: name.strip_prefix("./").unwrap_or(name), mode, data }))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let at = self.at;
        match self.read() {
            Ok(Some(entry)) => Some(Ok(entry)),
            Ok(None) => {
                self.done = true;
                None
            }
            Err(reason) => {
                self.done = true;
                Some(Err(Error { at, reason }))
            }
        }
    }
}

/// Field `n` after the magic number: eight hexadecimal digits, nothing else.
fn field(header: &[u8], n: usize) -> Result<u32, &'static str> {
    let bad = "a header field that is not hexadecimal";
    let start = n.saturating_mul(8).saturating_add(MAGIC.len());
    let digits = header.get(start..start.saturating_add(8)).ok_or(bad)?;
    digits.iter().try_fold(0_u32, |value, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(bad)?;
        Ok((value << 4) | digit)
    })
}

fn length(value: u32) -> Result<usize, &'static str> {
    usize::try_from(value).map_err(|_| "a length beyond the address space")
}

/// The next multiple of 4 after a part.
fn padded(at: usize, len: usize) -> Result<usize, &'static str> {
    let end = at.checked_add(len).and_then(|end| end.checked_next_multiple_of(4));
    end.ok_or("a length beyond the address space")
}

/// One VM's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder<'a> {
    /// Its name.
    pub name: &'a str,
    files: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Folder<'a> {
    /// A file by its name inside the folder. Of two with one name the later counts, as when an archive
    /// is unpacked.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&'a [u8]> {
        self.files.iter().rev().find(|(file, _)| *file == name).map(|(_, data)| *data)
    }

    /// The manifest's text.
    #[must_use]
    pub fn manifest(&self) -> Option<&'a [u8]> {
        self.file("vm.toml")
    }
}

/// A bundle, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle<'a> {
    /// The folders with a manifest, in the order of their first file.
    pub folders: Vec<Folder<'a>>,
    /// Where reading stopped, if it did.
    pub error: Option<Error>,
}

impl<'a> Bundle<'a> {
    /// Sorts an archive's files into folders. Files that lie in no folder are not part of any VM.
    #[must_use]
    pub fn read(archive: &'a [u8]) -> Self {
        let mut folders: Vec<Folder<'a>> = Vec::new();
        let mut error = None;
        for entry in entries(archive) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(why) => {
                    error = Some(why);
                    break;
                }
            };
            let Some((folder, file)) = entry.name.split_once('/') else { continue };
            if !entry.is_file() {
                continue;
            }
            let known = folders.iter_mut().find(|known| known.name == folder);
            match known {
                Some(known) => known.files.push((file, entry.data)),
                None => {
                    folders.push(Folder { name: folder, files: alloc::vec![(file, entry.data)] });
                }
            }
        }
        folders.retain(|folder| folder.manifest().is_some());
        Self { folders, error }
    }
}

/// Writes bundles: for xtask and tests.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    count: u32,
}

impl Writer {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a regular file. `false`, and nothing is written, if name or content are too long for
    /// the format.
    #[must_use]
    pub fn file(&mut self, name: &str, data: &[u8]) -> bool {
        self.count = self.count.saturating_add(1);
        self.entry(name, S_IFREG | 0o644, self.count, data).is_some()
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        // The trailer's name and size fit always.
        let _ = self.entry(TRAILER, 0, 0, &[]);
        self.out
    }

    fn entry(&mut self, name: &str, mode: u32, ino: u32, data: &[u8]) -> Option<()> {
        let name_size = u32::try_from(name.len().checked_add(1)?).ok()?;
        let size = u32::try_from(data.len()).ok()?;
        self.out.extend_from_slice(MAGIC);
        for value in [ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.out.extend_from_slice(alloc::format!("{value:08x}").as_bytes());
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        self.pad();
        self.out.extend_from_slice(data);
        self.pad();
        Some(())
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests;
