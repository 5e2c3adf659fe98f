//! Models of concurrency: tests in builds where an explorer (loom, shuttle) decides who goes on.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::child::Task;
use crate::paths;

/// The short forms take seconds; building an explorer takes a minute or two.
const LIMIT: Duration = Duration::from_secs(12 * 3600);

/// The models of some packages.
pub struct Models<'a> {
    /// The explorer, which is the name of the `cfg` as well.
    pub explorer: &'a str,
    /// The packages.
    pub packages: &'a [&'a str],
}

impl Models<'_> {
    /// Runs them; `change` adds to the command.
    ///
    /// # Errors
    /// One fails.
    pub fn run(&self, change: impl FnOnce(&mut Command)) -> Result<()> {
        let Self { explorer, packages } = self;
        let mut cmd = paths::cargo();
        cmd.args(["test", "--release", "--lib"]);
        for package in *packages {
            cmd.args(["-p", package]);
        }
        // A folder of its own: the flag would have everything else built again.
        cmd.arg("--target-dir").arg(paths::target()?.join(explorer));
        cmd.env("RUSTFLAGS", format!("--cfg {explorer}"));
        // These are no images.
        cmd.env("CARGO_PROFILE_RELEASE_LTO", "off");
        cmd.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        cmd.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        change(&mut cmd);
        Task::new(format!("cargo test of the {explorer} models"), cmd, LIMIT).show()
    }
}
