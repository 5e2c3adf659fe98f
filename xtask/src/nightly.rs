//! The nightly toolchain, for the two tools that need it: Miri and the fuzzer.
//!
//! Nothing that is built or shipped comes from it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::child::Task;
use crate::{paths, ui};

/// Downloading components over a slow line.
const DOWNLOAD: Duration = Duration::from_secs(900);
/// A tool that says its version.
const PROBE: Duration = Duration::from_secs(60);

/// A command of the nightly toolchain.
#[must_use]
pub fn command(words: &[&str]) -> Command {
    let mut cmd = rustup();
    cmd.args(["run", "nightly"]).args(words);
    cmd
}

/// Whether this command of the nightly toolchain runs.
#[must_use]
pub fn answers(words: &[&str]) -> bool {
    Task::new(words.join(" "), command(words), PROBE).stdout().is_ok()
}

/// Install the toolchain with these components. `what` needs it.
pub fn install(what: &str, components: &[&str]) -> Result<()> {
    ui::say(format!("{what} needs the nightly toolchain: installing it through rustup"));
    let mut cmd = rustup();
    cmd.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    let mut by_hand = "rustup toolchain install nightly".to_owned();
    for component in components {
        cmd.args(["--component", component]);
        by_hand += &format!(" --component {component}");
    }
    match Task::new("rustup", cmd, DOWNLOAD).capture() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(_) => bail!("{what} needs the nightly toolchain, which cannot be fetched: {by_hand}"),
        Err(_) => bail!("{what} needs the nightly toolchain, and rustup for it: {by_hand}"),
    }
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
