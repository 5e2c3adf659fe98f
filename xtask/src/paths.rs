//! Where things are: the repository, cargo's target folder, and our own cache.
//!
//! The cache (QEMU without root, fetched kernels, apt's private state) is `.redan/` in the
//! repository, so that deleting the clone deletes everything; `REDAN_CACHE` moves it.
//!
//! Invariants:
//! P1. A file that is written is whole or not there: two of us may run in one clone.
//! P2. What is filled step by step (the cache, the folder of a run) is one process's at a time.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::child::Task;
use crate::ui::say;

/// As long as fetching over a slow line takes.
const CACHE_LIMIT: Duration = Duration::from_secs(1800);
/// More runs at a time than any machine bears.
const FOLDERS: u32 = 64;

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

/// A folder like [`output`]'s that is ours alone while the lock that comes with it is held: `name`,
/// or `name-2` and so on while others run.
pub fn own_output(name: &str) -> Result<(PathBuf, File)> {
    own_folder(&output("locks")?, name, output)
}

fn own_folder(
    locks: &Path,
    name: &str,
    folder: impl Fn(&str) -> Result<PathBuf>,
) -> Result<(PathBuf, File)> {
    for n in 1..=FOLDERS {
        let name = if n == 1 { name.to_owned() } else { format!("{name}-{n}") };
        if let Some(lock) = try_lock(&locks.join(&name))? {
            return Ok((folder(&name)?, lock));
        }
    }
    bail!("{FOLDERS} others run from this clone already")
}

/// The right to change the cache, waited for with a word and a limit.
pub fn lock_cache() -> Result<File> {
    let file = cache()?.join("lock");
    let begun = Instant::now();
    let mut told = false;
    loop {
        if let Some(lock) = try_lock(&file)? {
            return Ok(lock);
        }
        if !std::mem::replace(&mut told, true) {
            say(format!("waiting for another xtask that fills {}", cache()?.display()));
        }
        if begun.elapsed() > CACHE_LIMIT {
            bail!("{} was locked for {} s", file.display(), CACHE_LIMIT.as_secs())
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// The lock `file`, unless someone has it. It goes with the value, or with the process.
fn try_lock(file: &Path) -> Result<Option<File>> {
    let lock = File::options().create(true).append(true).open(file);
    let lock = lock.with_context(|| format!("cannot write {}", file.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| file.display().to_string()),
    }
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

/// Write a file, with the path in the error. Whoever reads it meanwhile sees the old one.
pub fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let written = || -> std::io::Result<()> {
        if file.exists() && !file.is_file() {
            return std::fs::write(file, bytes); // such as /dev/stdout
        }
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty());
        let mut part = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        part.write_all(bytes)?;
        part.persist(file)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_not_rewritten_under_a_reader() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        write(&file, b"old").unwrap();
        let mut reader = File::open(&file).unwrap();
        write(&file, b"new").unwrap();
        let mut seen = String::new();
        std::io::Read::read_to_string(&mut reader, &mut seen).unwrap();
        assert_eq!((seen.as_str(), read(&file).unwrap().as_slice()), ("old", b"new".as_slice()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(write(&dir.path().join("no/such"), b"x").is_err());
    }

    #[test]
    fn two_at_a_time_get_two_folders_and_the_next_the_first_again() {
        let dir = tempfile::tempdir().unwrap();
        let own = || own_folder(dir.path(), "run", |n| Ok(PathBuf::from(n))).unwrap();
        let (first, first_lock) = own();
        let (second, _second_lock) = own();
        assert_eq!((first, second), ("run".into(), "run-2".into()));
        drop(first_lock);
        assert_eq!(own().0, PathBuf::from("run"));
    }
}
