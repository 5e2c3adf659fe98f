//! `build`: both images, flat and packed into `redan.img`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::Task;
use crate::{elf, image, paths, toolchain, ui};

/// A cold build on two slow cores.
const LIMIT: Duration = Duration::from_secs(1200);

/// Build EL2, the host shim and our payloads, and pack redan.img
///
/// The result is one flat arm64 Image that boots by QEMU's -kernel or as a Raspberry Pi's
/// kernel8.img. The ELF files beside it keep the symbols.
#[derive(clap::Args)]
pub struct Args {
    /// What runs at EL1: the host shim, or one of the payloads of tests/guests
    #[arg(long, value_name = "NAME", default_value = HOST)]
    payload: String,

    /// With the specification beside EL2: slower, and a divergence ends it (docs/assurance.md)
    #[arg(long)]
    oracle: bool,
}

/// The EL1 payload of a real run.
pub const HOST: &str = "el1-host";

pub fn run(args: &Args) -> Result<ExitCode> {
    toolchain::ensure()?;
    let image = redan_img_with(&args.payload, args.oracle)?;
    ui::say(format!("{} is ready", image.display()));
    Ok(ExitCode::SUCCESS)
}

/// Build all bare programs, once: EL2, the host shim, every payload.
pub fn all() -> Result<()> {
    static BUILT: OnceLock<()> = OnceLock::new();
    if BUILT.get().is_some() {
        return Ok(());
    }
    let mut cmd = paths::cargo();
    cmd.args(["build", "--release", "--target", paths::BARE_TARGET]);
    cmd.args(["-p", "hyp", "-p", HOST, "-p", "guests"]);
    Task::new("building the images", cmd, LIMIT).show()?;
    BUILT.get_or_init(|| ());
    Ok(())
}

/// Build EL2 with the specification beside it, once. It has a folder of its own, so that neither
/// build undoes the other.
pub fn oracle() -> Result<()> {
    static BUILT: OnceLock<()> = OnceLock::new();
    if BUILT.get().is_some() {
        return Ok(());
    }
    let mut cmd = paths::cargo();
    cmd.args(["build", "--release", "--target", paths::BARE_TARGET]);
    cmd.args(["-p", "hyp", "--features", "oracle", "--target-dir"]).arg(oracle_target()?);
    Task::new("building EL2 with its specification", cmd, LIMIT).show()?;
    BUILT.get_or_init(|| ());
    Ok(())
}

fn oracle_target() -> Result<PathBuf> {
    Ok(paths::target()?.join("oracle"))
}

/// Where cargo put the ELF file of a bare program.
pub fn elf_path(program: &str) -> Result<PathBuf> {
    Ok(paths::target()?.join(paths::BARE_TARGET).join("release").join(program))
}

/// Build everything and pack EL2 with `payload`.
pub fn redan_img(payload: &str) -> Result<PathBuf> {
    redan_img_with(payload, false)
}

/// The same, with the specification beside EL2 if `oracle` says so.
pub fn redan_img_with(payload: &str, oracle: bool) -> Result<PathBuf> {
    all()?;
    if oracle {
        self::oracle()?;
    }
    packed(payload, oracle)
}

/// Pack what is built already.
pub fn packed(payload: &str, oracle: bool) -> Result<PathBuf> {
    let hyp = if oracle {
        let release = oracle_target()?.join(paths::BARE_TARGET).join("release");
        flat_at(&release.join("hyp"))?
    } else {
        flat("hyp")?
    };
    let packed = image::pack(&hyp, &flat(payload)?)?;
    let name = match (payload, oracle) {
        (HOST, false) => "redan.img".into(),
        (_, false) => format!("redan-{payload}.img"),
        (_, true) => format!("redan-{payload}-oracle.img"),
    };
    let file = paths::output("images")?.join(name);
    paths::write(&file, &packed)?;
    Ok(file)
}

/// One of tests/guests as a flat arm64 Image, built if need be.
pub fn payload(name: &str) -> Result<Vec<u8>> {
    all()?;
    flat(name)
}

fn flat(program: &str) -> Result<Vec<u8>> {
    let path = elf_path(program)?;
    ensure!(path.exists(), "there is no program `{program}` (payloads are in tests/guests)");
    flat_at(&path)
}

fn flat_at(path: &Path) -> Result<Vec<u8>> {
    elf::flatten(&paths::read(path)?).with_context(|| path.display().to_string())
}
