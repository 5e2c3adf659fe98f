//! VM manifests: what a VM is, in TOML.
//!
//! One parser for both sides: xtask refuses a bad manifest on the PC, the shim refuses the
//! same one at EL1, with the same line and reason. Nothing is silently ignored: an unknown key is an
//! error.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::ops::Range;

use hyp_abi::hcall::MAX_VCPUS;
use serde::Deserialize;
use toml::{Spanned, Value};

use crate::image::{self, Header, Layout};
use crate::memmap::{DEVICES, DEVICES_END, IPA_BITS, RAM, RAM_MIB_MAX};

/// Longest kernel command line that arm64 Linux takes (COMMAND_LINE_SIZE, less its NUL).
const CMDLINE_MAX: usize = 2047;
const NAME_MAX: usize = 63;
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    kernel: Spanned<String>,
    initrd: Option<Spanned<String>>,
    cmdline: Option<Spanned<String>>,
    memory_mib: Spanned<u64>,
    vcpus: Option<Spanned<u8>>,
    gic: Option<Spanned<Value>>,
    #[serde(default)]
    services: Vec<Spanned<String>>,
    #[serde(default)]
    region: Vec<Spanned<RawRegion>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegion {
    base: Spanned<u64>,
    mib: Spanned<u64>,
    file: Option<Spanned<String>>,
    #[serde(default)]
    readonly: bool,
}

/// Line numbers of byte offsets, and errors there.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.0.as_bytes().iter().take(at.start);
        before.filter(|byte| **byte == b'\n').count().saturating_add(1)
    }

    fn refuse<T>(&self, at: &Range<usize>, reason: impl Into<String>) -> Result<T, Error> {
        Err(Error { line: self.line(at), reason: reason.into() })
    }

    /// Checks a file name: relative to the VM's folder, and staying in it.
    fn file(&self, key: &str, name: &Spanned<String>) -> Result<String, Error> {
        let text = name.get_ref();
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if text.split('/').any(odd) || text.chars().any(char::is_control) {
            let reason = format!("{key}: {text:?} is no file name inside the VM's folder");
            return self.refuse(&name.span(), reason);
        }
        if text == "vm.toml" {
            return self.refuse(&name.span(), format!("{key}: vm.toml is the manifest itself"));
        }
        Ok(text.clone())
    }
}

/// Reads a manifest.
///
/// # Errors
/// The first thing that is wrong, and where.
pub fn parse(text: &str) -> Result<Manifest, Error> {
    let here = Text(text);
    let raw: Raw = toml::from_str(text).map_err(|error| Error {
        line: here.line(&error.span().unwrap_or(0..0)),
        reason: error.message().to_string(),
    })?;
    let name = raw.name.get_ref();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
        let reason = format!("name: {name:?} is not 1 to {NAME_MAX} of the characters a-z 0-9 -");
        return here.refuse(&raw.name.span(), reason);
    }
    let memory_mib = *raw.memory_mib.get_ref();
    if memory_mib == 0 || memory_mib > RAM_MIB_MAX {
        let reason = format!("memory_mib: {memory_mib} is not 1 to {RAM_MIB_MAX}");
        return here.refuse(&raw.memory_mib.span(), reason);
    }
    let regions = regions(&here, memory_mib, &raw.region)?;
    Ok(Manifest {
        name: name.clone(),
        kernel: here.file("kernel", &raw.kernel)?,
        initrd: raw.initrd.as_ref().map(|file| here.file("initrd", file)).transpose()?,
        cmdline: raw.cmdline.as_ref().map_or(Ok(String::new()), |text| cmdline(&here, text))?,
        memory_mib,
        vcpus: raw.vcpus.as_ref().map_or(Ok(1), |n| vcpus(&here, n))?,
        gic: raw.gic.as_ref().map_or(Ok(GicChoice::Host), |gic| gic_choice(&here, gic))?,
        services: raw.services.iter().map(|s| service(&here, s)).collect::<Result<_, _>>()?,
        lines: Lines {
            kernel: here.line(&raw.kernel.span()),
            initrd: raw.initrd.as_ref().map_or(1, |file| here.line(&file.span())),
            memory: here.line(&raw.memory_mib.span()),
            regions: raw.region.iter().map(|r| here.line(&r.span())).collect(),
        },
        regions,
    })
}

fn cmdline(here: &Text<'_>, text: &Spanned<String>) -> Result<String, Error> {
    if text.get_ref().len() > CMDLINE_MAX {
        return here.refuse(&text.span(), format!("cmdline: longer than {CMDLINE_MAX} bytes"));
    }
    if text.get_ref().chars().any(char::is_control) {
        return here.refuse(&text.span(), "cmdline: has a control character");
    }
    Ok(text.get_ref().clone())
}

fn vcpus(here: &Text<'_>, n: &Spanned<u8>) -> Result<u8, Error> {
    match *n.get_ref() {
        count if (1..=MAX_VCPUS).contains(&usize::from(count)) => Ok(count),
        count => here.refuse(&n.span(), format!("vcpus: {count} is not 1 to {MAX_VCPUS}")),
    }
}

fn gic_choice(here: &Text<'_>, gic: &Spanned<Value>) -> Result<GicChoice, Error> {
    match gic.get_ref() {
        Value::String(text) if text == "host" => Ok(GicChoice::Host),
        Value::Integer(2) => Ok(GicChoice::V2),
        Value::Integer(3) => Ok(GicChoice::V3),
        _ => here.refuse(&gic.span(), "gic: must be \"host\", 2 or 3"),
    }
}

fn service(here: &Text<'_>, name: &Spanned<String>) -> Result<Service, Error> {
    match name.get_ref().as_str() {
        "dirty-log" => Ok(Service::DirtyLog),
        other => here.refuse(
            &name.span(),
            format!("services: {other:?} is unknown; there is \"dirty-log\""),
        ),
    }
}

fn regions(
    here: &Text<'_>,
    memory_mib: u64,
    raw: &[Spanned<RawRegion>],
) -> Result<Vec<Region>, Error> {
    let ram_end = RAM.saturating_add(memory_mib.saturating_mul(MIB));
    let mut taken: Vec<(u64, u64, String)> = Vec::new();
    taken.push((DEVICES, DEVICES_END, "the devices".to_owned()));
    taken.push((RAM, ram_end, "memory_mib".to_owned()));
    let mut regions = Vec::new();
    for region in raw {
        let line = here.line(&region.span());
        let region = region.get_ref();
        let (base, mib) = (*region.base.get_ref(), *region.mib.get_ref());
        if base & 0xfff != 0 {
            return here.refuse(&region.base.span(), "region: base is not a multiple of 4096");
        }
        let end = mib.checked_mul(MIB).and_then(|size| base.checked_add(size));
        let Some(end) = end.filter(|end| mib > 0 && *end <= 1 << IPA_BITS) else {
            let reason = format!("region: {mib} MiB at {base:#x} do not fit 2^{IPA_BITS}");
            return here.refuse(&region.mib.span(), reason);
        };
        if let Some((_, _, what)) = taken.iter().find(|(b, e, _)| base < *e && *b < end) {
            let reason = format!("region: {base:#x}..{end:#x} overlaps {what}");
            return here.refuse(&region.base.span(), reason);
        }
        taken.push((base, end, format!("the region of line {line}")));
        let file = region.file.as_ref().map(|f| here.file("region", f)).transpose()?;
        regions.push(Region { base, mib, file, readonly: region.readonly });
    }
    Ok(regions)
}

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

    /// The manifest as text again, for a bundle whose VM was changed on the way.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_toml(&mut out);
        out
    }

    fn write_toml(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "name = {}", quoted(&self.name))?;
        writeln!(out, "kernel = {}", quoted(&self.kernel))?;
        if let Some(initrd) = &self.initrd {
            writeln!(out, "initrd = {}", quoted(initrd))?;
        }
        writeln!(out, "cmdline = {}", quoted(&self.cmdline))?;
        writeln!(out, "memory_mib = {}", self.memory_mib)?;
        writeln!(out, "vcpus = {}", self.vcpus)?;
        out.push_str(match self.gic {
            GicChoice::Host => "gic = \"host\"\n",
            GicChoice::V2 => "gic = 2\n",
            GicChoice::V3 => "gic = 3\n",
        });
        let services: Vec<&str> = self.services.iter().map(|_| "\"dirty-log\"").collect();
        writeln!(out, "services = [{}]", services.join(", "))?;
        for region in &self.regions {
            writeln!(out, "\n[[region]]\nbase = {:#x}\nmib = {}", region.base, region.mib)?;
            if let Some(file) = &region.file {
                writeln!(out, "file = {}", quoted(file))?;
            }
            writeln!(out, "readonly = {}", region.readonly)?;
        }
        Ok(())
    }
}

/// Lines of the regions; 1 for those added by a program.
fn lines_of(known: &[usize]) -> impl Iterator<Item = usize> {
    known.iter().copied().chain(core::iter::repeat(1))
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
