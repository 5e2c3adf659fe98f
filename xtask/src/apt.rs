//! Debian packages by apt, with a private state: no root, no change to the machine.
//!
//! Mirror and proxy settings are the machine's own; this file names no host. Signatures are always
//! checked against the distribution's own keyring. Lists, cache and package status are ours alone,
//! so the machine's architectures and installed packages play no part.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::archive::{self, Source};
use crate::child::Task;
use crate::paths;

/// Package lists over a slow line.
const UPDATE: Duration = Duration::from_secs(300);
/// Packages over a slow line.
const DOWNLOAD: Duration = Duration::from_secs(900);
const QUICK: Duration = Duration::from_secs(60);

/// Whether this machine has apt and dpkg at all.
#[must_use]
pub fn is_here() -> bool {
    let works = |tool: &str| {
        let mut cmd = Command::new(tool);
        cmd.arg("--version");
        Task::new(tool, cmd, QUICK).stdout().is_ok()
    };
    works("apt-get") && works("dpkg-deb")
}

/// apt with lists, cache and status of its own.
pub struct Private {
    dir: PathBuf,
}

impl Private {
    /// A state in `dir` that sees `sources` only, all signed by `keyring`; `arch` is for packages
    /// of another architecture than the machine's.
    pub fn new(dir: &Path, arch: Option<&str>, sources: &[Source], keyring: &Path) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            paths::create(&dir.join(sub))?;
        }
        paths::write(&dir.join("status"), b"")?;
        let list: String = sources.iter().map(|s| archive::line(s, arch, keyring)).collect();
        paths::write(&dir.join("sources.list"), list.as_bytes())?;

        let mut cmd = Command::new("apt-config");
        cmd.arg("dump");
        let machine = Task::new("apt-config dump", cmd, QUICK).stdout()?;
        paths::write(&dir.join("apt.conf"), config(dir, arch, &machine).as_bytes())?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Fetch and check the package lists.
    pub fn update(&self) -> Result<()> {
        let mut cmd = self.command("apt-get");
        // Without the mode apt calls a list that it could not fetch a success.
        cmd.args([
            "-qq",
            "-o",
            "Acquire::Retries=2",
            "-o",
            "APT::Update::Error-Mode=any",
            "update",
        ]);
        Task::new("apt-get update", cmd, UPDATE).stdout().map(drop)
    }

    /// The version that would be installed.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let mut cmd = self.command("apt-cache");
        cmd.args(["policy", package]);
        Ok(parse_candidate(&Task::new("apt-cache policy", cmd, QUICK).stdout()?))
    }

    /// The version that `suite` has.
    pub fn version_in(&self, package: &str, suite: &str) -> Result<Option<String>> {
        let mut cmd = self.command("apt-cache");
        cmd.args(["madison", package]);
        let text = Task::new("apt-cache madison", cmd, QUICK).stdout()?;
        Ok(parse_madison(&text, suite))
    }

    /// Packages that `package` depends on.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let mut cmd = self.command("apt-cache");
        cmd.args(["depends", "--important", package]);
        let text = Task::new("apt-cache depends", cmd, QUICK).stdout()?;
        let names = text.lines().filter_map(|l| l.trim_start().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Fetch one package and unpack it into `into`.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let debs = tempfile::tempdir_in(&self.dir)?;
        let mut cmd = self.command("apt-get");
        cmd.args(["-qq", "-o", "Acquire::Retries=2", "download", package]).current_dir(&debs);
        Task::new(format!("fetching {package}"), cmd, DOWNLOAD).stdout()?;
        unpack_all(debs.path(), into)
    }

    /// Fetch `packages` with all they depend on and unpack everything into `into`.
    pub fn unpack_with_dependencies(&self, packages: &[String], into: &Path) -> Result<()> {
        let mut cmd = self.command("apt-get");
        cmd.args(["-qq", "-y", "-o", "Acquire::Retries=2", "--download-only"]);
        cmd.args(["install", "--no-install-recommends"]).args(packages);
        Task::new(format!("fetching {}", packages.join(" ")), cmd, DOWNLOAD).stdout()?;
        let archives = self.dir.join("cache/archives");
        unpack_all(&archives, into)?;
        std::fs::remove_dir_all(&archives).context("cannot empty apt's private cache")
    }

    fn command(&self, tool: &str) -> Command {
        let mut cmd = Command::new(tool);
        cmd.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        cmd
    }
}

/// The version of a package that `suite` has, from the output of `apt-cache madison`.
#[must_use]
pub fn parse_madison(madison: &str, suite: &str) -> Option<String> {
    madison.lines().find_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let (_, version, place) = (columns.next()?, columns.next()?, columns.next()?);
        let found = place.split_whitespace().nth(1)?;
        (found.split('/').next() == Some(suite)).then(|| version.to_owned())
    })
}

/// The `Candidate:` of `apt-cache policy`.
#[must_use]
pub fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|l| l.trim_start().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// apt's settings: the machine's for fetching (proxies, retries), ours for places.
fn config(dir: &Path, arch: Option<&str>, machine: &str) -> String {
    let keep = |l: &&str| {
        l.starts_with("Acquire::")
            && !l.starts_with("Acquire::IndexTargets")
            && !l.starts_with("Acquire::Languages")
    };
    let mut text: String = machine.lines().filter(keep).map(|l| format!("{l}\n")).collect();
    if let Some(arch) = arch {
        text += &format!("APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n");
    }
    // As root apt would fetch as `_apt`, who may not write here.
    if rustix::process::getuid().is_root() {
        text += "APT::Sandbox::User \"root\";\n";
    }
    let dir = dir.display();
    for (key, value) in [
        ("Dir::Etc::parts", "/dev/null".to_owned()),
        ("Dir::Etc::main", "/dev/null".to_owned()),
        ("Dir::Etc::sourcelist", format!("{dir}/sources.list")),
        ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
        ("Dir::Etc::preferences", "/dev/null".to_owned()),
        ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
        ("Dir::State", dir.to_string()),
        ("Dir::State::status", format!("{dir}/status")),
        ("Dir::State::lists", format!("{dir}/lists")),
        ("Dir::Cache", format!("{dir}/cache")),
        ("Acquire::Languages", "none".to_owned()),
        // Nobody else has this state; as an ordinary user apt could not lock dpkg's anyway.
        ("Debug::NoLocking", "1".to_owned()),
    ] {
        text += &format!("{key} \"{value}\";\n");
    }
    text
}

fn unpack_all(debs: &Path, into: &Path) -> Result<()> {
    paths::create(into)?;
    let mut any = false;
    for entry in std::fs::read_dir(debs)? {
        let deb = entry?.path();
        if deb.extension().is_none_or(|e| e != "deb") {
            continue;
        }
        any = true;
        let mut cmd = Command::new("dpkg-deb");
        cmd.arg("-x").arg(&deb).arg(into);
        Task::new("dpkg-deb -x", cmd, Duration::from_secs(300)).stdout()?;
    }
    if !any {
        bail!("apt fetched nothing")
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_and_none_is_none() {
        assert_eq!(parse_candidate("q:\n  Candidate: 1:10.0\n"), Some("1:10.0".into()));
        assert_eq!(parse_candidate("q:\n  Candidate: (none)\n"), None);
    }

    #[test]
    fn the_version_of_one_suite_is_told_from_those_of_others() {
        let table = " q | 1:10.0 | mirror://a/debian bookworm-backports/main amd64 Packages\n \
                     q | 1:7.2 | mirror://a/debian bookworm/main amd64 Packages\n";
        assert_eq!(parse_madison(table, "bookworm"), Some("1:7.2".into()));
        assert_eq!(parse_madison(table, "bookworm-backports"), Some("1:10.0".into()));
        assert_eq!(parse_madison(table, "trixie"), None);
    }

    #[test]
    fn hooks_and_index_settings_of_the_machine_are_not_taken_over() {
        let dump =
            "DPkg::Post-Invoke \"evil\";\nAcquire::http::Proxy \"p\";\nAcquire::Languages \"\";\n";
        let text = config(Path::new("/x"), None, dump);
        assert!(text.contains("Proxy") && !text.contains("evil"));
        assert_eq!(text.matches("Acquire::Languages").count(), 1);
    }
}
