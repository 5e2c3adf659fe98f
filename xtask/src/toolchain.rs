//! The Rust side of set-up: the bare target and the components of rust-toolchain.toml.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::child::Task;
use crate::{paths, ui};

/// Downloading components over a slow line.
const DOWNLOAD: Duration = Duration::from_secs(900);

#[derive(Deserialize)]
struct File {
    toolchain: Toolchain,
}

#[derive(Deserialize)]
struct Toolchain {
    channel: String,
    targets: Vec<String>,
    components: Vec<String>,
}

/// Install what rust-toolchain.toml lists and the toolchain in use lacks. Says what it did.
pub fn ensure() -> Result<()> {
    let text = std::fs::read_to_string(paths::root().join("rust-toolchain.toml"))
        .context("cannot read rust-toolchain.toml")?;
    let want = toml::from_str::<File>(&text).context("rust-toolchain.toml")?.toolchain;
    let rustlib = rustlib()?;
    let lacks = missing(&want, &rustlib);
    if lacks.is_empty() {
        return Ok(());
    }
    ui::say(format!("Rust {} lacks {}; asking rustup for it", want.channel, lacks.join(", ")));
    let mut cmd = Command::new("rustup");
    cmd.args(["toolchain", "install"]).current_dir(paths::root());
    // Inside cargo this variable names the toolchain and would hide rust-toolchain.toml.
    cmd.env_remove("RUSTUP_TOOLCHAIN");
    Task::new("rustup toolchain install", cmd, DOWNLOAD).stdout().with_context(|| {
        format!("Rust {} needs {}; install that and try again", want.channel, lacks.join(", "))
    })?;
    let still = missing(&want, &rustlib);
    if !still.is_empty() {
        bail!("rustup did not install {}", still.join(", "))
    }
    Ok(())
}

fn rustlib() -> Result<PathBuf> {
    let mut cmd = Command::new("rustc");
    cmd.args(["--print", "sysroot"]).current_dir(paths::root());
    let sysroot = Task::new("rustc --print sysroot", cmd, Duration::from_secs(60)).stdout()?;
    Ok(PathBuf::from(sysroot.trim()).join("lib/rustlib"))
}

/// What of `want` is not there. rustup keeps a list; of a distribution's toolchain, which has no
/// such list, only the libraries of the targets can be looked for.
fn missing(want: &Toolchain, rustlib: &Path) -> Vec<String> {
    match std::fs::read_to_string(rustlib.join("components")) {
        Ok(list) => unlisted(want, &list),
        Err(_) => want.targets.iter().filter(|t| !rustlib.join(t).is_dir()).cloned().collect(),
    }
}

/// Lines of the list read `name`, `name-host` or `name-preview-host`; libraries `rust-std-target`.
fn unlisted(want: &Toolchain, list: &str) -> Vec<String> {
    let listed = |prefix: &str| list.lines().any(|line| line.starts_with(prefix));
    let targets = want.targets.iter().filter(|t| !listed(&format!("rust-std-{t}")));
    let components = want.components.iter().filter(|c| !listed(c));
    targets.chain(components).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want() -> Toolchain {
        Toolchain {
            channel: "1.95.0".into(),
            targets: vec!["aarch64-unknown-none-softfloat".into()],
            components: vec!["rustfmt".into(), "llvm-tools".into()],
        }
    }

    #[test]
    fn preview_components_count_and_another_library_does_not() {
        let list = "rustfmt-preview-x86_64\nllvm-tools-preview-x86_64\nrust-std-x86_64\n";
        assert_eq!(unlisted(&want(), list), ["aarch64-unknown-none-softfloat"]);
    }

    #[test]
    fn nothing_is_missing_when_all_is_there() {
        let list = "rustfmt-x\nllvm-tools-x\nrust-std-aarch64-unknown-none-softfloat\n";
        assert!(unlisted(&want(), list).is_empty());
    }
}
