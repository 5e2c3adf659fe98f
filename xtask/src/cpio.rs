//! A `newc` cpio writer: the format of the guest's initramfs and of the bundle.
//!
//! Reproducible by construction: inode numbers count up, owner is 0:0, time is 0. Parents are
//! written before their children because the caller adds them in that order; a folder a path
//! needs is added when it was not.

use std::collections::BTreeSet;

/// An archive under construction.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    inode: u32,
    dirs: BTreeSet<String>,
}

const TYPE_DIR: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_CHAR: u32 = 0o020_000;

impl Writer {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A folder, once, with the folders above it.
    pub fn dir(&mut self, path: &str) {
        self.parents(path);
        if self.dirs.insert(path.to_owned()) {
            self.entry(path, TYPE_DIR | 0o755, &[], (0, 0));
        }
    }

    /// A file with `mode` (such as `0o755`).
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.parents(path);
        self.entry(path, TYPE_FILE | mode, data, (0, 0));
    }

    /// A symbolic link at `path` that points to `to`.
    pub fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.entry(path, TYPE_LINK | 0o777, to.as_bytes(), (0, 0));
    }

    /// A character device.
    pub fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, TYPE_CHAR | mode, &[], (major, minor));
    }

    /// The archive, closed by its trailer and padded to 512 bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            let dir = &path[..at];
            if !dir.is_empty() && self.dirs.insert(dir.to_owned()) {
                self.entry(dir, TYPE_DIR | 0o755, &[], (0, 0));
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        let links = if mode & TYPE_DIR == TYPE_DIR { 2 } else { 1 };
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let size = u32::try_from(data.len()).expect("no file of ours reaches 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a path is short");
        let fields =
            [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
        self.inode += 1;
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (path, mode, data) of each entry, by an independent reading of the format.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            if name == "TRAILER!!!" {
                return found;
            }
            let data = (110 + name_size).next_multiple_of(4);
            found.push((name, mode, bytes[data..data + size].to_vec()));
            bytes = &bytes[data + size.next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut w = Writer::new();
        w.file("etc/init/run", 0o755, b"hello");
        w.link("etc/link", "init/run");
        w.char_device("dev/console", 0o600, 5, 1);
        let entries = read(&w.finish());
        let names: Vec<_> = entries.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(names, ["etc", "etc/init", "etc/init/run", "etc/link", "dev", "dev/console"]);
        assert_eq!(entries[2].1, 0o100_755);
        assert_eq!(entries[2].2, b"hello");
        assert_eq!(entries[3].2, b"init/run");
    }

    #[test]
    fn two_archives_of_the_same_files_are_equal() {
        let make = || {
            let mut w = Writer::new();
            w.dir("a");
            w.file("a/b", 0o644, b"x");
            w.finish()
        };
        assert_eq!(make(), make());
        assert_eq!(make().len() % 512, 0);
    }
}
