//! VM manifests: what a VM is, in TOML.
//!
//! One parser for both sides: xtask refuses a bad manifest on the PC, the shim refuses the
//! same one at EL1, with the same line and reason. Nothing is silently ignored: an unknown key is an
//! error.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::image::{self, Header, Layout};

mod parse;
mod write;

pub use parse::parse;

const MIB: u64 = 1 << 20;

/// Which GIC the guest gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GicChoice {
    /// The same as the machine has.
    #[default]
    Host,
    /// A GICv2, or nothing.
    V2,
    /// A GICv3, or nothing.
    V3,
}

/// Something the host offers to this guest by hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Dirty logging and ageing of the guest's own memory.
    DirtyLog,
}

/// More memory, beside the RAM that every guest has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// First guest address, page-aligned.
    pub base: u64,
    /// Size in MiB.
    pub mib: u64,
    /// A file whose bytes it starts with.
    pub file: Option<String>,
    /// The guest may not write to it; it is then not listed as RAM.
    pub readonly: bool,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its name: `[a-z0-9-]+`.
    pub name: String,
    /// File name of the arm64 Image.
    pub kernel: String,
    /// File name of the initrd.
    pub initrd: Option<String>,
    /// Kernel command line.
    pub cmdline: String,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// vCPUs, 1 to 8.
    pub vcpus: u8,
    /// Interrupt controller.
    pub gic: GicChoice,
    /// Services.
    pub services: Vec<Service>,
    /// More memory.
    pub regions: Vec<Region>,
    lines: Lines,
}

/// Where the keys stood that later checks complain about; 1 for all in a manifest not from text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lines {
    kernel: usize,
    initrd: usize,
    memory: usize,
    regions: Vec<usize>,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line, from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl core::error::Error for Error {}

impl Manifest {
    /// RAM in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_mib.saturating_mul(MIB)
    }

    /// The files it names, the kernel first.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let regions = self.regions.iter().filter_map(|region| region.file.as_deref());
        core::iter::once(self.kernel.as_str()).chain(self.initrd.as_deref()).chain(regions)
    }

    /// Checks the manifest against the files it names, and says where they go in guest RAM.
    ///
    /// # Errors
    /// A missing file, a kernel that is no Image, too little memory.
    pub fn check_files<'a>(
        &self,
        find: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Result<Layout, Error> {
        let get = |key: &str, name: &str, line: usize| {
            find(name).ok_or_else(|| Error { line, reason: format!("{key}: no file {name:?}") })
        };
        let kernel = get("kernel", &self.kernel, self.lines.kernel)?;
        let header = Header::parse(kernel).map_err(|why| Error {
            line: self.lines.kernel,
            reason: format!("kernel: {:?} is {why}", self.kernel),
        })?;
        let initrd = match &self.initrd {
            Some(name) => get("initrd", name, self.lines.initrd)?.len(),
            None => 0,
        };
        for (region, line) in self.regions.iter().zip(lines_of(&self.lines.regions)) {
            let Some(name) = &region.file else { continue };
            let len = get("region", name, line)?.len();
            if to_u64(len) > region.mib.saturating_mul(MIB) {
                let reason = format!("region: {name:?} is larger than {} MiB", region.mib);
                return Err(Error { line, reason });
            }
        }
        image::place(&header, to_u64(kernel.len()), to_u64(initrd), self.memory_bytes()).map_err(
            |why| Error {
                line: self.lines.memory,
                reason: format!("memory_mib: {} is {why}", self.memory_mib),
            },
        )
    }
}

/// Lines of the regions; 1 for those added by a program.
fn lines_of(known: &[usize]) -> impl Iterator<Item = usize> {
    known.iter().copied().chain(core::iter::repeat(1))
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
