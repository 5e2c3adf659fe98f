//! Stock guests: Debian's arm64 kernel and its static busybox, fetched once and kept.
//!
//! Asks for the meta package, never for an exact version: mirrors drop old point releases. What
//! was fetched is kept under its own version; a small file per suite says which one is current,
//! so a second run needs no network.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::apt::{self, Private};
use crate::archive::{self, Archive, Distribution, Source};
use crate::ui::{self, Step};
use crate::{image, paths};

/// The meta package of the small kernel: no drivers beyond what virtual machines have.
const KERNEL: &str = "linux-image-cloud-arm64";
const BUSYBOX: &str = "busybox-static";

/// The suite of the default guest: this machine's own release if it is Debian.
#[must_use]
pub fn default_suite() -> String {
    let here = Distribution::here();
    if here.is_debian() && !here.codename.is_empty() { here.codename } else { "trixie".into() }
}

/// The reason why there is no stock guest: no apt, no network, no such suite.
#[derive(Debug)]
pub struct CannotFetch(String);

impl std::fmt::Display for CannotFetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot fetch {}", self.0)
    }
}

/// The kernel of `suite` (such as `bookworm` or `trixie-backports`), as an arm64 Image.
pub fn kernel(suite: &str) -> Result<PathBuf> {
    check_name(suite)?;
    fetched(&format!("kernel-{suite}"), "Image", &format!("the Debian {suite} kernel"), |into| {
        let apt = private(suite)?;
        let depends = apt.depends(KERNEL)?;
        let package = depends.iter().find(|d| d.starts_with("linux-image-"));
        let package = package.with_context(|| format!("{KERNEL} names no kernel"))?;
        let version = apt.candidate(package)?.context("the kernel's package has no version")?;
        let unpacked = into.join("unpacked");
        apt.unpack(package, &unpacked)?;
        let found = match vmlinuz(&unpacked)? {
            Some(found) => found,
            // From 7.x on that package is empty and the kernel is in the one it depends on.
            None => {
                let depends = apt.depends(package)?;
                let binary = depends.iter().find(|d| d.starts_with("linux-binary-"));
                apt.unpack(binary.context("no package with the kernel itself")?, &unpacked)?;
                vmlinuz(&unpacked)?.context("the package holds no vmlinuz")?
            }
        };
        let kernel = crate::bundle::gunzip(paths::read(&found)?)?;
        image::check(&kernel).with_context(|| format!("{package}: the kernel"))?;
        Ok(Fetched { bytes: kernel, label: format!("{package} {version}") })
    })
}

/// The static busybox for `suite`'s user space.
pub fn busybox(suite: &str) -> Result<PathBuf> {
    check_name(suite)?;
    let base = suite.strip_suffix("-backports").unwrap_or(suite);
    fetched(&format!("busybox-{base}"), "busybox", &format!("Debian {base}'s busybox"), |into| {
        let apt = private(base)?;
        let version = apt.candidate(BUSYBOX)?.context("the suite has no busybox-static")?;
        let unpacked = into.join("unpacked");
        apt.unpack(BUSYBOX, &unpacked)?;
        let places = ["usr/bin/busybox", "bin/busybox"].map(|p| unpacked.join(p));
        let found = places.iter().find(|p| p.exists()).context("the package holds no busybox")?;
        Ok(Fetched { bytes: paths::read(found)?, label: format!("{BUSYBOX} {version}") })
    })
}

/// Forget which versions are current, so that the next run asks the archive again.
pub fn forget() -> Result<()> {
    let dir = paths::cache()?.join("stock");
    for entry in std::fs::read_dir(&dir).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "current") {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

struct Fetched {
    bytes: Vec<u8>,
    label: String,
}

/// The file `name` that `key` stands for, fetched by `get` into a scratch folder if need be.
fn fetched(
    key: &str,
    name: &str,
    what: &str,
    get: impl FnOnce(&Path) -> Result<Fetched>,
) -> Result<PathBuf> {
    let dir = paths::cache()?.join("stock");
    paths::create(&dir)?;
    let current = dir.join(format!("{key}.current"));
    let kept = || {
        let label = std::fs::read_to_string(&current).ok()?;
        Some(dir.join(folder(&label)).join(name)).filter(|file| file.exists())
    };
    if let Some(file) = kept() {
        return Ok(file);
    }
    let _lock = paths::lock_cache()?;
    // Perhaps the one that we have waited for was after the same.
    if let Some(file) = kept() {
        return Ok(file);
    }
    let step = Step::new(&format!("fetching {what} (once; signatures checked by apt)"));
    let scratch = tempfile::tempdir_in(&dir)?;
    let Fetched { bytes, label } =
        get(scratch.path()).with_context(|| CannotFetch(what.to_owned()))?;
    let home = dir.join(folder(&label));
    paths::create(&home)?;
    // Rename last: a run that is interrupted leaves nothing that looks complete.
    let part = scratch.path().join(name);
    paths::write(&part, &bytes)?;
    std::fs::rename(&part, home.join(name))?;
    paths::write(&current, label.as_bytes())?;
    drop(step);
    ui::say(format!("fetched {label}"));
    Ok(home.join(name))
}

fn folder(label: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "+.-~".contains(c) { c } else { '_' };
    label.trim().chars().map(plain).collect()
}

fn private(suite: &str) -> Result<Private> {
    ensure!(apt::is_here(), "this machine has no apt");
    let archive = Archive::debian(&archive::configured()?, &Distribution::here())?;
    let sources: [Source; 1] = [archive.suite(suite)];
    let dir = paths::cache()?.join("apt").join(suite);
    let apt = Private::new(&dir, Some("arm64"), &sources, &archive.keyring)?;
    apt.update()?;
    Ok(apt)
}

/// A suite ends up in a path and in a sources.list.
fn check_name(suite: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if suite.is_empty() || !suite.chars().all(fine) {
        bail!("`{suite}` is no Debian suite (such as bookworm, trixie, bookworm-backports)")
    }
    Ok(())
}

fn vmlinuz(unpacked: &Path) -> Result<Option<PathBuf>> {
    for base in ["boot", "usr/lib/modules", "lib/modules"] {
        let Ok(entries) = std::fs::read_dir(unpacked.join(base)) else { continue };
        for entry in entries {
            let path = entry?.path();
            let flat = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if path.is_file() && flat.starts_with("vmlinuz") {
                return Ok(Some(path));
            }
            if path.join("vmlinuz").is_file() {
                return Ok(Some(path.join("vmlinuz")));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_a_word_and_nothing_else() {
        assert!(check_name("bookworm-backports").is_ok());
        for bad in ["", "../x", "a b", "Sid", "x\ny"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_kernel_is_found_where_old_and_new_packages_put_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(vmlinuz(dir.path()).unwrap().is_none());
        let new = dir.path().join("usr/lib/modules/7.2.12-cloud-arm64");
        paths::create(&new).unwrap();
        paths::write(&new.join("vmlinuz"), b"new").unwrap();
        assert_eq!(vmlinuz(dir.path()).unwrap(), Some(new.join("vmlinuz")));
        let old = dir.path().join("boot");
        paths::create(&old).unwrap();
        paths::write(&old.join("vmlinuz-6.1.0"), b"old").unwrap();
        assert_eq!(vmlinuz(dir.path()).unwrap(), Some(old.join("vmlinuz-6.1.0")));
    }

    #[test]
    fn a_version_makes_a_safe_folder_name() {
        assert_eq!(folder("busybox-static 1:1.35.0-4+b1"), "busybox-static_1_1.35.0-4+b1");
    }
}
