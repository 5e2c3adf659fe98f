//! `image`: what goes on a board's SD card.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::choice::Choice;
use crate::cmd::build;
use crate::rpi4::{BootFolder, Wishes, card, check};
use crate::ui::{Step, say};
use crate::{paths, stock, toolchain};

/// Make an SD-card image, or the boot folder of one, for a board
///
/// `--out card.img` makes an image with one FAT partition, for `flash` or any tool that writes cards;
/// `--out FOLDER` fills a folder with the same files, to be copied to a card that has a partition already.
/// The firmware that the board itself needs comes from Debian's package of it (it is not free software) and
/// the device trees from Debian's kernel; what cannot be fetched is listed.
#[derive(clap::Args)]
pub struct Args {
    /// The board [only: rpi4, which is the Raspberry Pi 4, the 400 and the Compute Module 4]
    #[arg(long, value_name = "BOARD")]
    board: String,

    /// An image (FILE.img) or a folder, which is made if need be
    #[arg(long, value_name = "DIR|FILE.img")]
    out: PathBuf,

    #[command(flatten)]
    guests: Choice,

    #[command(flatten)]
    parts: Parts,
}

/// What `image` and `run --board rpi4` have in common.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Parts {
    /// Words for the host's command line (cmdline.txt), such as redan.timeout=60 or redan.dma=strict
    #[arg(long, value_name = "STR", default_value = "")]
    pub cmdline: String,

    /// Let TF-A, from Debian, run below EL2 instead of the firmware's stub: real PSCI
    #[arg(long)]
    pub tf_a: bool,

    /// The Debian suite of device trees and firmware [default: this machine's, else trixie]
    #[arg(long, value_name = "SUITE")]
    pub suite: Option<String>,

    /// Leave the board's own firmware out
    #[arg(long)]
    pub no_firmware: bool,
}

impl Parts {
    /// With the suite that holds if none is named.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            suite: self.suite.clone().unwrap_or_else(stock::default_suite),
            tf_a: self.tf_a,
            no_firmware: self.no_firmware,
            cmdline: self.cmdline.clone(),
        }
    }
}

/// Where the result goes.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Image,
    Folder,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.board == "rpi4", "--board {}: images are for rpi4", args.board);
    let target = target(&args.out)?;
    toolchain::ensure()?;
    let redan = build::redan_img(build::HOST)?;
    let vms = args.guests.load()?;
    let folder = BootFolder::assemble(&redan, &vms, &args.parts.wishes())?;
    write(&folder, &args.out, &target)?;
    let content: usize = folder.files.values().map(Vec::len).sum();
    say(format!(
        "{} is ready: {} files, {} MiB",
        args.out.display(),
        folder.files.len(),
        content >> 20
    ));
    for advice in folder.advice() {
        say(advice);
    }
    if target == Target::Image && folder.missing.is_empty() {
        say(format!("write it to a card: cargo xtask flash --to DEVICE {}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn target(out: &Path) -> Result<Target> {
    if out.is_dir() {
        return Ok(Target::Folder);
    }
    if out.extension().is_some_and(|extension| extension == "img") {
        ensure!(!out.exists() || out.is_file(), "--out {}: is no file; see `flash`", out.display());
        return Ok(Target::Image);
    }
    if out.exists() {
        bail!("--out {}: is neither a folder nor called FILE.img", out.display())
    }
    Ok(Target::Folder)
}

fn write(folder: &BootFolder, out: &Path, target: &Target) -> Result<()> {
    match target {
        Target::Image => {
            let _step = Step::new("making the card's image");
            let image = card::build(&folder.files)?;
            if folder.missing.is_empty() {
                check::card(&image).context("the card would not boot, which is a bug of ours")?;
            }
            card::save(out, &image)
        }
        Target::Folder => {
            paths::create(out)?;
            folder.files.iter().try_for_each(|(name, bytes)| paths::write(&out.join(name), bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_img_is_an_image_and_all_else_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(target(&at("card.img")).unwrap(), Target::Image);
        assert_eq!(target(&at("new")).unwrap(), Target::Folder);
        assert_eq!(target(dir.path()).unwrap(), Target::Folder);
        std::fs::create_dir(at("odd.img")).unwrap();
        assert_eq!(target(&at("odd.img")).unwrap(), Target::Folder);
        std::fs::write(at("text"), "x").unwrap();
        assert!(target(&at("text")).is_err());
        assert!(target(Path::new("/dev/null")).is_err(), "a device is for `flash`");
    }
}
