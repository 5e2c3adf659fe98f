//! `flash`: an image onto an SD card, with care.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{Advice, OFlags, fadvise, major, minor};

use crate::disk::{Disk, Linux, write_and_verify};
use crate::rpi4::{card, config};
use crate::ui::{self, say};
use crate::{image, paths};

/// Write an image made by `image` to an SD card
///
/// Everything on the card is lost. Shows what the device is and asks; refuses devices that are not
/// removable, mounted or otherwise in use, and anything that is not a card image of ours. Reads
/// everything back afterwards. Needs the right to write to the device, such as root's.
#[derive(clap::Args)]
pub struct Args {
    /// The card's device, as a whole: /dev/sdX or /dev/mmcblkN
    #[arg(long, value_name = "DEVICE")]
    to: PathBuf,

    /// The image
    #[arg(value_name = "FILE.img")]
    image: PathBuf,

    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let image = paths::read(&args.image)?;
    check_image(&image).with_context(|| args.image.display().to_string())?;
    let device = || format!("--to {}", args.to.display());
    let disk = look_at(&args.to).with_context(device)?;
    ensure!(
        disk.size >= image.len() as u64,
        "{}: the card has {} MiB, the image {}",
        device(),
        disk.size >> 20,
        image.len() >> 20
    );
    if !args.yes && !agreed(&disk)? {
        say("nothing was written");
        return Ok(ExitCode::FAILURE);
    }
    // O_EXCL: the kernel refuses if somebody has mounted it meanwhile, and nobody can from now on.
    let exclusive = OFlags::EXCL.bits() as i32;
    let file = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(&args.to);
    let mut file = file.with_context(device)?;
    let bar = progress(2 * image.len() as u64);
    write_and_verify(&mut file, &image, settle, |done| bar.set_position(done))
        .with_context(device)?;
    bar.finish_and_clear();
    say(format!(
        "{} is on {} and was read back; you can take it out",
        args.image.display(),
        disk.name
    ));
    Ok(ExitCode::SUCCESS)
}

/// The bytes are on the card, and none in the page cache.
fn settle(file: &mut File) -> Result<()> {
    file.sync_all().context("writing failed")?;
    fadvise(&*file, 0, None, Advice::DontNeed).context("cannot empty the page cache")
}

/// It must be one of ours: a slip of the finger must not write a film to a card.
fn check_image(bytes: &[u8]) -> Result<()> {
    let files = card::read(bytes)?;
    let kernel =
        files.get(config::KERNEL).with_context(|| format!("holds no {}", config::KERNEL))?;
    image::check(kernel).context(config::KERNEL)?;
    Ok(())
}

fn look_at(path: &Path) -> Result<Disk> {
    let metadata = std::fs::metadata(path).context("cannot look at it")?;
    if metadata.is_file() {
        bail!("is a file; cargo xtask image makes files")
    }
    ensure!(metadata.file_type().is_block_device(), "is no disk");
    let number = metadata.rdev();
    Linux::default().check(major(number), minor(number))
}

fn agreed(disk: &Disk) -> Result<bool> {
    ensure!(
        std::io::stdin().is_terminal(),
        "there is nobody to ask; --yes overwrites {} ({} MiB) without a question",
        disk.name,
        disk.size >> 20
    );
    let partitions = match disk.partitions.as_slice() {
        [] => "no partitions".to_owned(),
        names => format!("the partitions {}", names.join(", ")),
    };
    let model = if disk.model.is_empty() { "of a maker unknown" } else { &disk.model };
    say(format!("{}: {model}, {} MiB, {partitions}", disk.name, disk.size >> 20));
    eprint!("Everything on {} will be lost. Type its name to go on: ", disk.name);
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == disk.name)
}

fn progress(bytes: u64) -> ProgressBar {
    if !ui::on_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template(
        "writing and reading back {bar:30} {bytes}/{total_bytes} {bytes_per_sec} (ends in {eta})",
    ) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpi4::Files;

    #[test]
    fn only_a_card_with_a_kernel_of_ours_is_written() {
        assert!(check_image(&[0; 4096]).unwrap_err().to_string().contains("partition table"));
        let empty = card::build(&Files::from([("config.txt".into(), vec![1])])).unwrap();
        assert!(check_image(&empty).unwrap_err().to_string().contains("no kernel8.img"));
        let odd = card::build(&Files::from([(config::KERNEL.into(), vec![1; 4096])])).unwrap();
        assert!(check_image(&odd).is_err());
    }

    #[test]
    fn a_file_a_folder_and_a_terminal_are_no_cards() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("card.img");
        std::fs::write(&file, "x").unwrap();
        assert!(look_at(&file).unwrap_err().to_string().contains("is a file"));
        assert!(look_at(dir.path()).unwrap_err().to_string().contains("is no disk"));
        assert!(look_at(Path::new("/dev/null")).unwrap_err().to_string().contains("is no disk"));
        assert!(look_at(&dir.path().join("none")).is_err());
    }
}
