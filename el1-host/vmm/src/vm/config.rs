//! From a manifest and its files to what a VM is made of.

use alloc::borrow::{Cow, ToOwned};
use alloc::vec::Vec;

use hyp_abi::Prot;

use super::{CreateError, Platform};
use crate::bundle::Folder;
use crate::fdt::{self, Machine};
use crate::image::Layout;
use crate::manifest::{self, Error, GicChoice, Manifest, Service};
use crate::memmap::RAM;
use crate::psci::Start;
use crate::slots::Slots;
use crate::vgic::Version;

/// A manifest with the bytes of its files: enough to create the VM, again and again.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    manifest: Manifest,
    layout: Layout,
    kernel: &'a [u8],
    initrd: &'a [u8],
    /// The file of each region.
    regions: Vec<&'a [u8]>,
}

impl<'a> Config<'a> {
    /// Looks the files up and checks the manifest against them.
    ///
    /// # Errors
    /// See [`Manifest::check_files`].
    pub fn new(manifest: Manifest, find: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, Error> {
        let layout = manifest.check_files(&find)?;
        // All are there: that was checked.
        let named = |name: Option<&str>| name.and_then(&find).unwrap_or(&[]);
        Ok(Self {
            layout,
            kernel: named(Some(&manifest.kernel)),
            initrd: named(manifest.initrd.as_deref()),
            regions: manifest.regions.iter().map(|r| named(r.file.as_deref())).collect(),
            manifest,
        })
    }

    /// The same for a folder of a bundle.
    ///
    /// # Errors
    /// A folder without manifest, a manifest that is not UTF-8, and all that is wrong in it.
    pub fn from_folder(folder: &Folder<'a>) -> Result<Self, Error> {
        let whole = |reason: &str| Error { line: 1, reason: reason.to_owned() };
        let text = folder.manifest().ok_or_else(|| whole("no vm.toml"))?;
        let text = core::str::from_utf8(text).map_err(|_| whole("vm.toml is not UTF-8"))?;
        Self::new(manifest::parse(text)?, |name| folder.file(name))
    }

    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) const fn vcpus(&self) -> u8 {
        self.manifest.vcpus
    }

    pub(super) fn dirty_log(&self) -> bool {
        self.manifest.services.contains(&Service::DirtyLog)
    }

    pub(super) fn gic(&self, platform: Platform) -> Result<Version, CreateError> {
        let wanted = match self.manifest.gic {
            GicChoice::Host => platform.gic,
            GicChoice::V2 => Version::V2,
            GicChoice::V3 => Version::V3,
        };
        if wanted == platform.gic { Ok(wanted) } else { Err(CreateError::Gic(wanted)) }
    }

    /// The guest's memory with all that is in it at the start, and how its boot CPU starts (arm64
    /// boot protocol: pc at the Image's first byte, x0 the device tree).
    pub(super) fn memory(&self, gic: Version) -> Result<(Slots<'a>, Start), CreateError> {
        let mut ram = Vec::new();
        ram.push((RAM, self.manifest.memory_bytes()));
        let writable = self.manifest.regions.iter().filter(|region| !region.readonly);
        ram.extend(writable.map(|region| (region.base, region.mib.saturating_mul(1 << 20))));
        let machine = Machine {
            ram: &ram,
            vcpus: self.manifest.vcpus,
            gic,
            cmdline: &self.manifest.cmdline,
            layout: self.layout,
        };
        let tree = fdt::build(&machine).map_err(CreateError::Tree)?;
        let mut slots = Slots::new();
        let slot = CreateError::Slot;
        slots.add(RAM, self.manifest.memory_bytes(), Prot::RWX).map_err(slot)?;
        slots.put(self.layout.kernel, Cow::Borrowed(self.kernel)).map_err(slot)?;
        slots.put(self.layout.dtb, Cow::Owned(tree)).map_err(slot)?;
        if !self.initrd.is_empty() {
            slots.put(self.layout.initrd, Cow::Borrowed(self.initrd)).map_err(slot)?;
        }
        for (region, bytes) in self.manifest.regions.iter().zip(&self.regions) {
            let prot = if region.readonly { Prot::RX } else { Prot::RWX };
            slots.add(region.base, region.mib.saturating_mul(1 << 20), prot).map_err(slot)?;
            slots.put(region.base, Cow::Borrowed(bytes)).map_err(slot)?;
        }
        Ok((slots, Start { entry: self.layout.kernel, context: self.layout.dtb }))
    }
}
