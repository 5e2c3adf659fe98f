//! Where things are: the repository, cargo's target folder, and our own cache.
//!
//! The cache (QEMU without root, fetched kernels, apt's private state) is `.redan/` in the
//! repository, so that deleting the clone deletes everything; `REDAN_CACHE` moves it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::child::Task;

/// The target triple of both images and of our own payloads.
pub const BARE_TARGET: &str = "aarch64-unknown-none-softfloat";

/// The repository this xtask was built from.
#[must_use]
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.parent().unwrap_or(here).to_path_buf()
    })
}

/// Our cache, created on first use.
pub fn cache() -> Result<PathBuf> {
    let dir = match std::env::var_os("REDAN_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => root().join(".redan"),
    };
    create(&dir)?;
    Ok(dir)
}

/// Cargo's target folder, as cargo itself tells it (config files and variables count).
pub fn target() -> Result<&'static Path> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    if let Some(dir) = TARGET.get() {
        return Ok(dir);
    }
    let mut cmd = cargo();
    cmd.args(["metadata", "--format-version", "1", "--no-deps"]);
    let out = Task::new("cargo metadata", cmd, Duration::from_secs(60)).stdout()?;
    let meta: Metadata = serde_json::from_str(&out).context("cargo metadata is not JSON")?;
    Ok(TARGET.get_or_init(|| meta.target_directory))
}

/// Folder for what one command makes besides cargo's own files.
pub fn output(name: &str) -> Result<PathBuf> {
    let dir = target()?.join("redan").join(name);
    create(&dir)?;
    Ok(dir)
}

/// The cargo that runs us, at the root of the repository.
#[must_use]
pub fn cargo() -> Command {
    let mut cmd = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd.current_dir(root());
    cmd
}

/// `create_dir_all` with the path in the error.
pub fn create(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// A file's bytes, with the path in the error.
pub fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Write a file, with the path in the error.
pub fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}
