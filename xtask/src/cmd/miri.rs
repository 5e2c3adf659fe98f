//! `miri`: the pure crates' tests under the interpreter that sees undefined behaviour.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::child::Task;
use crate::nightly;
use crate::ui::say;

/// The interpreter is a hundred times slower than the machine; one crate takes minutes where nothing else runs.
const LIMIT: Duration = Duration::from_secs(3 * 3600);
/// The crates without hardware.
const PURE: [&str; 8] = [
    "hyp-abi",
    "hyp-sync",
    "hyp-s2",
    "hyp-dtb",
    "hyp-core",
    "host-mirror",
    "host-sched",
    "host-vmm",
];

/// Run the pure crates' tests under Miri
///
/// Needs the nightly toolchain with its miri component; installs the component through rustup if
/// it is missing. Property tests and long lives run few steps here: Miri is slow.
#[derive(clap::Args)]
pub struct Args {
    /// Only these crates
    #[arg(value_name = "CRATE", value_parser = PURE)]
    crates: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if !nightly::answers(&["cargo", "miri", "--version"]) {
        nightly::install("Miri", &["miri", "rust-src"])?;
    }
    for name in PURE {
        if !args.crates.is_empty() && !args.crates.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut cmd = nightly::command(&["cargo", "miri", "test", "-p", name]);
        // Files for proptest's regressions, and the clock.
        cmd.env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-strict-provenance");
        cmd.env("PROPTEST_CASES", "4");
        Task::new(format!("cargo miri test of {name}"), cmd, LIMIT).show()?;
        say(format!("Miri found nothing in {name}"));
    }
    Ok(ExitCode::SUCCESS)
}
