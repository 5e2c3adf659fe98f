//! The Raspberry Pi 4: what its firmware wants to find on a card.
//!
//! Knows file names and where they come from. Must not know how a card keeps files ([`card`]), nor any
//! address of the BCM2711, which only the EL2 image has.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::bundle::{self, Vm};
use crate::stock::{self, CannotFetch};
use crate::{image, paths};

pub mod card;
pub mod check;
pub mod config;

pub use card::Files;

/// The GPU's firmware, which reads config.txt and starts the Arm cores.
const FIRMWARE: [&str; 2] = ["start4.elf", "fixup4.dat"];

/// The device tree of a Raspberry Pi 4 Model B, fetched if need be.
///
/// # Errors
/// [`CannotFetch`] where it cannot be had.
pub fn tree() -> Result<PathBuf> {
    let (trees, [(_, name), ..]) = (config::TREES.map(|(_, tree)| tree), config::TREES);
    Ok(stock::device_trees(&stock::default_suite(), &trees)?.join(name))
}

/// How a card is to be.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The Debian suite that trees and firmware come from.
    pub suite: String,
    /// TF-A in the place of the firmware's own stub.
    pub tf_a: bool,
    /// Leave the firmware out.
    pub no_firmware: bool,
    /// The command line of the host, `redan.` words.
    pub cmdline: String,
}

/// A boot folder, and what is to be added to it by hand.
#[derive(Debug)]
pub struct BootFolder {
    /// What we have.
    pub files: Files,
    /// What could not be had, and why.
    pub missing: Vec<Missing>,
}

/// Files that somebody must add.
#[derive(Debug)]
pub struct Missing {
    /// Their names.
    pub names: Vec<&'static str>,
    /// In one line.
    pub why: String,
}

impl BootFolder {
    /// Everything that the board needs to run `vms` under the packed image in the file `redan`.
    ///
    /// # Errors
    /// What is ours cannot be made. What is others' and cannot be fetched is listed as missing.
    pub fn assemble(redan: &Path, vms: &[Vm], wishes: &Wishes) -> Result<Self> {
        let kernel = paths::read(redan)?;
        image::check(&kernel).with_context(|| redan.display().to_string())?;
        let mut files = Files::from([
            (config::KERNEL.to_owned(), kernel),
            (config::BUNDLE.to_owned(), bundle::pack(vms)),
            (config::CMDLINE.to_owned(), format!("{}\n", wishes.cmdline.trim()).into_bytes()),
            ("config.txt".to_owned(), config::text(wishes.tf_a).into_bytes()),
        ]);
        let mut missing = Vec::new();
        let mut add = |folder: Result<PathBuf>, names: &[&'static str]| -> Result<()> {
            let folder = match folder {
                Ok(folder) => folder,
                Err(error) if error.downcast_ref::<CannotFetch>().is_some() => {
                    let why = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                    missing.push(Missing { names: names.to_vec(), why });
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            for name in names {
                files.insert((*name).to_owned(), paths::read(&folder.join(name))?);
            }
            Ok(())
        };
        let trees = config::TREES.map(|(_, tree)| tree);
        add(stock::device_trees(&wishes.suite, &trees), &trees)?;
        if wishes.tf_a {
            add(stock::tf_a(&wishes.suite), &[config::ARMSTUB])?;
        }
        if wishes.no_firmware {
            let why = "left out as you asked".to_owned();
            missing.push(Missing { names: FIRMWARE.to_vec(), why });
        } else {
            add(stock::pi_firmware(&wishes.suite, &FIRMWARE), &FIRMWARE)?;
        }
        Ok(Self { files, missing })
    }

    /// What a person has to do before the board can boot from it; nothing if it is whole.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        let tell = |missing: &Missing| {
            let names = missing.names.join(", ");
            let source = if missing.names == FIRMWARE {
                "folder `boot` of the repository raspberrypi/firmware, or Debian's raspi-firmware"
            } else if missing.names == [config::ARMSTUB] {
                "Debian's arm-trusted-firmware"
            } else {
                "Debian's linux-image-arm64, folder broadcom"
            };
            format!("add {names} from {source} ({})", missing.why)
        };
        self.missing.iter().map(tell).collect()
    }
}

/// What the firmware of a Model B would put into memory from a card.
#[derive(Debug)]
pub struct Loaded {
    /// The kernel.
    pub kernel: Vec<u8>,
    /// The initramfs.
    pub initrd: Vec<u8>,
    /// The device tree.
    pub tree: Vec<u8>,
    /// The command line.
    pub cmdline: String,
}

impl Loaded {
    /// Reads a card as config.txt on it says.
    ///
    /// # Errors
    /// Something that the firmware would miss, or that nobody here can do in its place.
    pub fn from_card(bytes: &[u8]) -> Result<Self> {
        let mut files = card::read(bytes)?;
        let mut file =
            |name: &str| files.remove(name).with_context(|| format!("there is no {name}"));
        let text = String::from_utf8(file("config.txt")?).context("config.txt")?;
        let config = config::read(&text).context("config.txt")?;
        ensure!(config.armstub.is_none(), "nothing here starts an armstub");
        let (bundle, _) = config.initramfs.context("config.txt names no initramfs")?;
        let cmdline = String::from_utf8(file(config::CMDLINE)?).context(config::CMDLINE)?;
        Ok(Self {
            kernel: file(&config.kernel.0)?,
            initrd: file(&bundle)?,
            tree: file(&config.device_tree)?,
            cmdline: cmdline.trim().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_where_to_get_it() {
        let why = || "cannot fetch it".to_owned();
        let folder = BootFolder {
            files: Files::new(),
            missing: vec![
                Missing { names: FIRMWARE.to_vec(), why: why() },
                Missing { names: vec![config::ARMSTUB], why: why() },
            ],
        };
        let advice = folder.advice();
        assert!(
            advice[0].starts_with("add start4.elf, fixup4.dat from folder `boot`"),
            "{advice:?}"
        );
        assert!(advice[1].contains("arm-trusted-firmware (cannot fetch it)"), "{advice:?}");
    }
}
