//! `build`: both images, flat and packed into `redan.img`.

use std::path::PathBuf;
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
}

/// The EL1 payload of a real run.
pub const HOST: &str = "el1-host";

pub fn run(args: &Args) -> Result<ExitCode> {
    toolchain::ensure()?;
    let image = redan_img(&args.payload)?;
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

/// Where cargo put the ELF file of a bare program.
pub fn elf_path(program: &str) -> Result<PathBuf> {
    Ok(paths::target()?.join(paths::BARE_TARGET).join("release").join(program))
}

/// Build everything and pack EL2 with `payload`.
pub fn redan_img(payload: &str) -> Result<PathBuf> {
    all()?;
    packed(payload)
}

/// Pack what is built already.
pub fn packed(payload: &str) -> Result<PathBuf> {
    let hyp = flat("hyp")?;
    let packed = image::pack(&hyp, &flat(payload)?)?;
    let name = if payload == HOST { "redan.img".into() } else { format!("redan-{payload}.img") };
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
    elf::flatten(&paths::read(&path)?).with_context(|| path.display().to_string())
}
