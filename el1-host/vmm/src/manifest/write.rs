//! From a [`Manifest`] back to TOML.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use super::{GicChoice, Manifest};

impl Manifest {
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

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
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
