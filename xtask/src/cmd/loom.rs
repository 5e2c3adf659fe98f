//! `loom`: every interleaving of a few CPUs at the locks of EL2 and of the mirror.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::child::Task;
use crate::paths;
use crate::ui::say;

/// The models take seconds; building loom takes a minute or two.
const LIMIT: Duration = Duration::from_secs(1800);
/// The crates with models.
const MODELLED: [&str; 2] = ["hyp-sync", "host-mirror"];

/// Explore every interleaving of a few CPUs at each lock, with loom
///
/// Builds hyp-sync and host-mirror with locks that loom can see and runs their models. Each model
/// also runs with its lock broken or removed, and must fail then.
#[derive(clap::Args)]
pub struct Args {
    /// Only these crates
    #[arg(value_name = "CRATE")]
    crates: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut cmd = paths::cargo();
    cmd.args(["test", "--release", "--lib"]);
    for name in MODELLED {
        if args.crates.is_empty() || args.crates.iter().any(|c| c == name) {
            cmd.args(["-p", name]);
        }
    }
    // A folder of its own: the flag would have everything else built again.
    cmd.arg("--target-dir").arg(paths::target()?.join("loom"));
    cmd.env("RUSTFLAGS", "--cfg loom");
    // These are no images.
    cmd.env("CARGO_PROFILE_RELEASE_LTO", "off");
    cmd.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    cmd.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    Task::new("cargo test of the loom models", cmd, LIMIT).show()?;
    say("loom found nothing, and noticed every broken lock");
    Ok(ExitCode::SUCCESS)
}
