//! `miri`: the pure crates' tests under the interpreter that sees undefined behaviour.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::child::Task;
use crate::paths;
use crate::ui::say;

/// The interpreter is a hundred times slower than the machine.
const LIMIT: Duration = Duration::from_secs(3600);
const DOWNLOAD: Duration = Duration::from_secs(900);
/// The crates without hardware.
const PURE: [&str; 7] =
    ["hyp-abi", "hyp-sync", "hyp-s2", "hyp-dtb", "hyp-core", "host-mirror", "host-vmm"];

/// Run the pure crates' tests under Miri
///
/// Needs the nightly toolchain with its miri component; installs the component through rustup if
/// it is missing. Property tests run few cases here: Miri is slow.
#[derive(clap::Args)]
pub struct Args {
    /// Only these crates
    #[arg(value_name = "CRATE")]
    crates: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let probe = nightly(&["cargo", "miri", "--version"]);
    if Task::new("cargo miri", probe, Duration::from_secs(60)).stdout().is_err() {
        say("installing miri for the nightly toolchain through rustup");
        let mut cmd = rustup();
        cmd.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        cmd.args(["--component", "miri", "--component", "rust-src"]);
        Task::new("rustup toolchain install nightly", cmd, DOWNLOAD)
            .stdout()
            .context("Miri needs: rustup toolchain install nightly --component miri")?;
    }
    let mut cmd = nightly(&["cargo", "miri", "test"]);
    for name in PURE {
        if args.crates.is_empty() || args.crates.iter().any(|c| c == name) {
            cmd.args(["-p", name]);
        }
    }
    // Files for proptest's regressions, and the clock.
    cmd.env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-strict-provenance");
    cmd.env("PROPTEST_CASES", "4");
    Task::new("cargo miri test", cmd, LIMIT).show()?;
    say("Miri found nothing");
    Ok(ExitCode::SUCCESS)
}

fn nightly(words: &[&str]) -> Command {
    let mut cmd = rustup();
    cmd.args(["run", "nightly"]).args(words);
    cmd
}

/// rustup without what the cargo around us has set for its own toolchain.
fn rustup() -> Command {
    let mut cmd = Command::new("rustup");
    cmd.current_dir(paths::root());
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        cmd.env_remove(name);
    }
    cmd
}
