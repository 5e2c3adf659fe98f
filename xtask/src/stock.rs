//! What comes from Debian's archive: stock guests (the arm64 kernel, a static busybox) and a
//! Raspberry Pi's device trees and firmware, fetched once and kept.
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

/// The kernel with drivers for real boards, and with their device trees.
const FULL_KERNEL: &str = "linux-image-arm64";
const PI_FIRMWARE: &str = "raspi-firmware";
const TF_A: &str = "arm-trusted-firmware";

/// The kernel of `suite` (such as `bookworm` or `trixie-backports`), as an arm64 Image.
pub fn kernel(suite: &str) -> Result<PathBuf> {
    check_name(suite)?;
    let what = format!("the Debian {suite} kernel");
    let dir = fetched(&format!("kernel-{suite}"), &["Image"], &what, |into| {
        let apt = private(suite, "main")?;
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
        Ok(Fetched { files: vec![kernel], label: format!("{package} {version}") })
    })?;
    Ok(dir.join("Image"))
}

/// The static busybox for `suite`'s user space.
pub fn busybox(suite: &str) -> Result<PathBuf> {
    check_name(suite)?;
    let base = suite.strip_suffix("-backports").unwrap_or(suite);
    let what = format!("Debian {base}'s busybox");
    let dir = fetched(&format!("busybox-{base}"), &["busybox"], &what, |into| {
        let apt = private(base, "main")?;
        let version = apt.candidate(BUSYBOX)?.context("the suite has no busybox-static")?;
        let unpacked = into.join("unpacked");
        apt.unpack(BUSYBOX, &unpacked)?;
        let places = ["usr/bin/busybox", "bin/busybox"].map(|p| unpacked.join(p));
        let found = places.iter().find(|p| p.exists()).context("the package holds no busybox")?;
        Ok(Fetched { files: vec![paths::read(found)?], label: format!("{BUSYBOX} {version}") })
    })?;
    Ok(dir.join("busybox"))
}

/// A folder with the device trees `names` of Broadcom boards, as `suite`'s kernel has them.
pub fn device_trees(suite: &str, names: &[&str]) -> Result<PathBuf> {
    check_name(suite)?;
    let what = format!("the device trees of Debian {suite}'s kernel");
    fetched(&format!("trees-{suite}"), names, &what, |into| {
        let apt = private(suite, "main")?;
        let depends = apt.depends(FULL_KERNEL)?;
        let package = depends.iter().find(|d| d.starts_with("linux-image-"));
        let package = package.with_context(|| format!("{FULL_KERNEL} names no kernel"))?;
        let version = apt.candidate(package)?.context("the kernel's package has no version")?;
        let unpacked = into.join("unpacked");
        apt.unpack(package, &unpacked)?;
        let folder = match tree_folder(&unpacked)? {
            Some(folder) => folder,
            // From 7.x on they are in a package of their own.
            None => {
                let base = apt.depends(package)?.into_iter().find(|d| d.starts_with("linux-base-"));
                apt.unpack(&base.context("no package with device trees")?, &unpacked)?;
                tree_folder(&unpacked)?.context("the package holds no device trees")?
            }
        };
        let files =
            names.iter().map(|name| paths::read(&folder.join(name))).collect::<Result<_>>()?;
        Ok(Fetched { files, label: format!("trees of {package} {version}") })
    })
}

/// A folder with the files `names` of the Raspberry Pi's firmware. It is not free software, but may
/// be passed on with a board's software.
pub fn pi_firmware(suite: &str, names: &[&str]) -> Result<PathBuf> {
    check_name(suite)?;
    let base = suite.strip_suffix("-backports").unwrap_or(suite);
    fetched(&format!("firmware-{base}"), names, "the Raspberry Pi's firmware", |into| {
        let apt = private(base, "non-free-firmware")?;
        from_package(&apt, PI_FIRMWARE, "usr/lib/raspi-firmware", names, into)
    })
}

/// A folder with TF-A for the Raspberry Pi 4, as `bl31.bin`.
pub fn tf_a(suite: &str) -> Result<PathBuf> {
    check_name(suite)?;
    let base = suite.strip_suffix("-backports").unwrap_or(suite);
    fetched(&format!("tf-a-{base}"), &["bl31.bin"], "TF-A for the Raspberry Pi 4", |into| {
        let apt = private(base, "main")?;
        from_package(&apt, TF_A, "usr/lib/arm-trusted-firmware/rpi4", &["bl31.bin"], into)
    })
}

fn from_package(
    apt: &Private,
    package: &str,
    folder: &str,
    names: &[&str],
    into: &Path,
) -> Result<Fetched> {
    let version = apt.candidate(package)?.with_context(|| format!("there is no {package}"))?;
    let unpacked = into.join("unpacked");
    apt.unpack(package, &unpacked)?;
    let folder = unpacked.join(folder);
    let files = names.iter().map(|name| paths::read(&folder.join(name))).collect::<Result<_>>()?;
    Ok(Fetched { files, label: format!("{package} {version}") })
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
    /// In the order of the names asked for.
    files: Vec<Vec<u8>>,
    label: String,
}

/// The folder with the files `names` that `key` stands for, fetched by `get`, with the help of a
/// scratch folder, if need be.
fn fetched(
    key: &str,
    names: &[&str],
    what: &str,
    get: impl FnOnce(&Path) -> Result<Fetched>,
) -> Result<PathBuf> {
    let dir = paths::cache()?.join("stock");
    paths::create(&dir)?;
    let current = dir.join(format!("{key}.current"));
    let kept = || {
        let label = std::fs::read_to_string(&current).ok()?;
        let home = dir.join(folder(&label));
        names.iter().all(|name| home.join(name).exists()).then_some(home)
    };
    if let Some(home) = kept() {
        return Ok(home);
    }
    let _lock = paths::lock_cache()?;
    // Perhaps the one that we have waited for was after the same.
    if let Some(home) = kept() {
        return Ok(home);
    }
    let step = Step::new(&format!("fetching {what} (once; signatures checked by apt)"));
    let scratch = tempfile::tempdir_in(&dir)?;
    let Fetched { files, label } =
        get(scratch.path()).with_context(|| CannotFetch(what.to_owned()))?;
    let home = dir.join(folder(&label));
    paths::create(&home)?;
    // The label last: a run that is interrupted leaves nothing that looks complete.
    for (name, bytes) in names.iter().zip(files) {
        paths::write(&home.join(name), &bytes)?;
    }
    paths::write(&current, label.as_bytes())?;
    drop(step);
    ui::say(format!("fetched {label}"));
    Ok(home)
}

fn folder(label: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "+.-~".contains(c) { c } else { '_' };
    label.trim().chars().map(plain).collect()
}

fn private(suite: &str, component: &str) -> Result<Private> {
    ensure!(apt::is_here(), "this machine has no apt");
    let archive = Archive::debian(&archive::configured()?, &Distribution::here())?;
    let sources = [Source { component: component.to_owned(), ..archive.suite(suite) }];
    // Main's state stays where it was before there were others.
    let folder =
        if component == "main" { suite.to_owned() } else { format!("{suite}-{component}") };
    let dir = paths::cache()?.join("apt").join(folder);
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

/// Where a kernel's package puts the trees of Broadcom boards.
fn tree_folder(unpacked: &Path) -> Result<Option<PathBuf>> {
    for base in ["usr/lib", "usr/lib/modules"] {
        let Ok(entries) = std::fs::read_dir(unpacked.join(base)) else { continue };
        for entry in entries {
            let path = entry?.path();
            for folder in [path.join("broadcom"), path.join("dtb/broadcom")] {
                if folder.is_dir() {
                    return Ok(Some(folder));
                }
            }
        }
    }
    Ok(None)
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
