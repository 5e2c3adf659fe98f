//! The Raspberry Pi 4: what its firmware wants to find on a card.
//!
//! Knows file names and where they come from. Must not know how a card keeps files ([`card`]), nor any
//! address of the BCM2711, which only the EL2 image has.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bundle::{self, Vm};
use crate::stock::{self, CannotFetch};
use crate::{image, paths};

pub mod bench;
pub mod card;
pub mod check;
pub mod config;
pub mod fat;
pub mod firmware;
#[cfg(test)]
mod messages;
pub mod tree;

pub use card::Files;
use tree::Tree;

/// The GPU's firmware, which reads config.txt and starts the Arm cores.
const FIRMWARE: [&str; 2] = ["start4.elf", "fixup4.dat"];

/// Fetches what a card has of others' and QEMU can use: device trees, and TF-A if `tf_a`.
///
/// # Errors
/// [`CannotFetch`] where it cannot be had.
pub fn fetch(tf_a: bool) -> Result<()> {
    let suite = stock::default_suite();
    stock::device_trees(&suite, &config::TREES.map(|(_, tree)| tree))?;
    if tf_a {
        stock::tf_a(&suite)?;
    }
    Ok(())
}

/// Fetches all that a card can have of others', and says where it is.
///
/// # Errors
/// [`CannotFetch`] for the first that cannot be had.
pub fn fetch_all(suite: &str) -> Result<[PathBuf; 3]> {
    let trees = config::TREES.map(|(_, tree)| tree);
    Ok([
        stock::device_trees(suite, &trees)?,
        stock::tf_a(suite)?,
        stock::pi_firmware(suite, &FIRMWARE)?,
    ])
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
        for (_, name) in config::TREES.iter().filter(|_| wishes.tf_a) {
            if let Some(blob) = files.get_mut(*name) {
                *blob = lead_to_header(blob).with_context(|| (*name).to_owned())?;
            }
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

/// TF-A makes `serial0` the console, whatever the tree said. These trees call the PL011 so, which the
/// Bluetooth chip hangs on; the UART on the header is `serial1`.
fn lead_to_header(blob: &[u8]) -> Result<Vec<u8>> {
    let mut tree = Tree::parse(blob)?;
    let aliases = tree.node("/aliases").context("there are no aliases")?;
    let header = aliases.get("serial1").context("there is no serial1")?.to_vec();
    aliases.set("serial0", header);
    Ok(tree.to_bytes())
}

/// What the firmware of a Model B would put into memory from a card.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The kernel, and where it goes.
    pub kernel: (Vec<u8>, u64),
    /// The initramfs, and where it goes.
    pub initrd: (Vec<u8>, u64),
    /// The device tree.
    pub tree: Vec<u8>,
    /// The command line.
    pub cmdline: String,
    /// What runs at EL3, if not what the firmware has of its own.
    pub armstub: Option<Vec<u8>>,
}

impl Loaded {
    /// Reads a card as config.txt on it says.
    ///
    /// # Errors
    /// Something that the firmware would miss.
    pub fn from_card(bytes: &[u8]) -> Result<Self> {
        let mut files = card::read(bytes)?;
        let mut file =
            |name: &str| files.remove(name).with_context(|| format!("there is no {name}"));
        let text = String::from_utf8(file("config.txt")?).context("config.txt")?;
        let config = config::read(&text).context("config.txt")?;
        let (bundle, bundle_at) = config.initramfs.context("config.txt names no initramfs")?;
        let cmdline = String::from_utf8(file(config::CMDLINE)?).context(config::CMDLINE)?;
        Ok(Self {
            kernel: (file(&config.kernel.0)?, config.kernel.1),
            initrd: (file(&bundle)?, bundle_at),
            tree: file(&config.device_tree)?,
            cmdline: cmdline.trim().to_owned(),
            armstub: config.armstub.map(|name| file(&name)).transpose()?,
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

    #[test]
    fn tf_a_finds_the_uart_on_the_header_as_serial0() {
        let mut tree = tree::tests::small();
        assert!(lead_to_header(&tree.to_bytes()).is_err(), "no serial1");
        tree.node("/aliases").unwrap().set_text("serial1", "/soc/b");
        let changed = Tree::parse(&lead_to_header(&tree.to_bytes()).unwrap()).unwrap();
        let serial0 =
            |mut tree: Tree| tree.node("/aliases").unwrap().get("serial0").unwrap().to_vec();
        assert_eq!((serial0(tree), serial0(changed)), (b"/soc/a\0".to_vec(), b"/soc/b\0".to_vec()));
    }
}
