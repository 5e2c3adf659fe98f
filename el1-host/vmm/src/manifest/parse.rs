//! From TOML to a [`Manifest`]: each key is checked where it stands.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use hyp_abi::hcall::MAX_VCPUS;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::{Error, GicChoice, Lines, MIB, Manifest, Region, Service};
use crate::memmap::{DEVICES, DEVICES_END, IPA_BITS, RAM, RAM_MIB_MAX};

/// Longest kernel command line that arm64 Linux takes (COMMAND_LINE_SIZE, less its NUL).
const CMDLINE_MAX: usize = 2047;
const NAME_MAX: usize = 63;

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
