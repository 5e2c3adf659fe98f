//! `setup`: what the machine lacks, installed by the machine's own means.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Private};
use crate::archive::{self, Archive, Distribution, Source};
use crate::child::Task;
use crate::qemu::{NEEDED, Qemu, Version};
use crate::ui::{Step, say};
use crate::{paths, toolchain};

/// Installing packages over a slow line.
const INSTALL: Duration = Duration::from_secs(1200);
const QUICK: Duration = Duration::from_secs(60);

/// The packages that QEMU is split into; only these may come from backports.
const PACKAGES: [&str; 3] = ["qemu-system-arm", "qemu-system-common", "qemu-system-data"];
const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/redan-backports.sources";

/// Install what is missing: the Rust target and components, and QEMU 9.2 or newer
///
/// Uses rustup for Rust. For QEMU it uses apt where it may (root, or sudo without a password), a
/// private folder in .redan where it may not, and says in one line what to install elsewhere.
/// What is there already is left alone; `cargo xtask run` does all this by itself.
#[derive(clap::Args)]
pub struct Args {
    /// Put QEMU into the private folder even if it could be installed for all
    #[arg(long)]
    private: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    toolchain::ensure()?;
    let qemu = if args.private {
        let _lock = paths::lock_cache()?;
        privately()?
    } else {
        qemu()?
    };
    say(format!("Rust is complete; QEMU {} is ready", qemu.version));
    Ok(ExitCode::SUCCESS)
}

/// A QEMU that is new enough, installed now if there was none.
pub fn qemu() -> Result<Qemu> {
    if let Ok(qemu) = Qemu::find()? {
        return Ok(qemu);
    }
    let _lock = paths::lock_cache()?;
    // Perhaps the one that we have waited for has installed it.
    let too_old = match Qemu::find()? {
        Ok(qemu) => return Ok(qemu),
        Err(too_old) => too_old,
    };
    match too_old {
        Some(version) => say(format!("QEMU {version} is too old, {NEEDED} is needed")),
        None => say("there is no QEMU for aarch64 yet"),
    }
    if !apt::is_here() {
        bail!("{}", advice())
    }
    if let Some(root) = Root::get()
        && for_all(&root)?
    {
        return found();
    }
    privately()
}

fn found() -> Result<Qemu> {
    match Qemu::find()? {
        Ok(qemu) => Ok(qemu),
        Err(_) => bail!("QEMU was installed but does not start; {}", advice()),
    }
}

/// One line for systems whose packages we do not touch.
fn advice() -> String {
    let package = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    let how = if package("dnf") {
        "sudo dnf install qemu-system-aarch64-core"
    } else if package("pacman") {
        "sudo pacman -S qemu-system-aarch64"
    } else if package("zypper") {
        "sudo zypper install qemu-arm"
    } else if package("apk") {
        "sudo apk add qemu-system-aarch64"
    } else if package("brew") {
        "brew install qemu"
    } else {
        "your system's package of qemu-system-aarch64"
    };
    format!("install QEMU {NEEDED} or newer, then try again: {how} (or set REDAN_QEMU to one)")
}

/// The right to install for all: being root, or sudo that asks nothing.
struct Root {
    sudo: bool,
}

impl Root {
    fn get() -> Option<Self> {
        if rustix::process::getuid().is_root() {
            return Some(Self { sudo: false });
        }
        let mut cmd = Command::new("sudo");
        cmd.args(["-n", "true"]);
        Task::new("sudo", cmd, QUICK).stdout().ok().map(|_| Self { sudo: true })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut cmd = Command::new(if self.sudo { "sudo" } else { "env" });
        if self.sudo {
            cmd.args(["-n", "env"]);
        }
        cmd.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]).args(words);
        cmd
    }

    fn apt_get(&self, words: &[&str]) -> Result<()> {
        let mut all = vec!["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"];
        all.extend_from_slice(words);
        let what = format!("apt-get {}", words.join(" "));
        Task::new(what, self.command(&all), INSTALL).stdout().map(drop)
    }
}

/// Install by the system's apt. `false`: it has no QEMU that is new enough.
fn for_all(root: &Root) -> Result<bool> {
    let step = Step::new("asking apt for QEMU");
    // One broken third-party source must not stop us: what matters is what can be installed.
    if let Err(error) = root.apt_get(&["update"]) {
        say(format!("{error:#}"));
    }
    drop(step);
    if candidate()?.is_some_and(|version| version >= NEEDED) {
        let _step = Step::new("installing qemu-system-arm by apt");
        root.apt_get(&["install", "-y", "--no-install-recommends", PACKAGES[0]])?;
        return Ok(true);
    }
    let here = Distribution::here();
    if !here.is_debian() || here.codename.is_empty() {
        return Ok(false);
    }
    let suite = format!("{}-backports", here.codename);
    let sources = archive::configured()?;
    if !sources.iter().any(|source| source.suite == suite) {
        let archive = Archive::own(&sources, &here)?;
        add_backports(root, &archive, &suite)?;
        root.apt_get(&["update"])?;
    }
    let mut cmd = Command::new("apt-cache");
    cmd.args(["madison", PACKAGES[0]]).env("LC_ALL", "C");
    let table = Task::new("apt-cache madison", cmd, QUICK).stdout()?;
    let Some(packages) = new_enough(apt::parse_madison(&table, &suite)) else {
        return Ok(false);
    };
    let mut words = vec!["install", "-y", "--no-install-recommends"];
    words.extend(packages.iter().map(String::as_str));
    let _step = Step::new(&format!("installing {} by apt", packages.join(" ")));
    root.apt_get(&words)?;
    Ok(true)
}

/// The three packages with their version, if that is new enough. By version, because `-t SUITE`
/// and `package/SUITE` let libraries come from backports as well.
fn new_enough(version: Option<String>) -> Option<Vec<String>> {
    let version = version.filter(|v| Version::parse(v).is_some_and(|v| v >= NEEDED))?;
    Some(PACKAGES.iter().map(|package| format!("{package}={version}")).collect())
}

/// What the system's apt would install.
fn candidate() -> Result<Option<Version>> {
    let mut cmd = Command::new("apt-cache");
    cmd.args(["policy", PACKAGES[0]]).env("LC_ALL", "C");
    let text = Task::new("apt-cache policy", cmd, QUICK).stdout()?;
    Ok(apt::parse_candidate(&text).and_then(|version| Version::parse(&version)))
}

/// A file of our own in sources.list.d. Backports have priority 100: nothing else moves.
fn add_backports(root: &Root, archive: &Archive, suite: &str) -> Result<()> {
    say(format!("adding {suite} to apt's sources in {BACKPORTS_FILE}"));
    let task = Task::new(
        format!("writing {BACKPORTS_FILE}"),
        root.command(&["tee", BACKPORTS_FILE]),
        QUICK,
    );
    task.input(backports_file(archive, suite)).stdout().map(drop)
}

fn backports_file(archive: &Archive, suite: &str) -> String {
    format!(
        "# Added by `cargo xtask setup` of Redan, for QEMU {NEEDED} or newer. Delete it if you like.\n\
         Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nSigned-By: {}\n",
        archive.uri,
        archive.keyring.display()
    )
}

/// Fetch QEMU with all its libraries into `.redan/qemu`: no root, nothing outside that folder.
fn privately() -> Result<Qemu> {
    let here = Distribution::here();
    let configured = archive::configured()?;
    let archive = Archive::own(&configured, &here).with_context(advice)?;
    let dir = paths::cache()?.join("qemu");
    say(format!("fetching QEMU into {} (about 35 MB; delete the folder to undo)", dir.display()));
    let mut sources: Vec<Source> =
        configured.into_iter().filter(|source| source.uri == archive.uri).collect();
    let mut apt = Private::new(&dir.join("apt"), None, &sources, &archive.keyring)?;
    let _step = Step::new("fetching QEMU and its libraries");
    apt.update()?;
    let plain = apt.candidate(PACKAGES[0])?.and_then(|v| Version::parse(&v));
    let mut packages = vec![PACKAGES[0].to_owned()];
    if plain.is_none_or(|version| version < NEEDED) {
        if !here.is_debian() {
            bail!("{}", advice())
        }
        let suite = format!("{}-backports", here.codename);
        if !sources.iter().any(|source| source.suite == suite) {
            sources.push(archive.suite(&suite));
            apt = Private::new(&dir.join("apt"), None, &sources, &archive.keyring)?;
            apt.update()?;
        }
        let version = apt.version_in(PACKAGES[0], &suite)?;
        packages = new_enough(version).with_context(advice)?;
    }
    install_private(&apt, &packages, &dir)?;
    found()
}

/// Unpack beside, then rename: a run that is interrupted leaves nothing that looks complete.
fn install_private(apt: &Private, packages: &[String], dir: &Path) -> Result<()> {
    let part = dir.join("root.part");
    let root = dir.join("root");
    for old in [&part, &root] {
        if old.exists() {
            std::fs::remove_dir_all(old).with_context(|| old.display().to_string())?;
        }
    }
    apt.unpack_with_dependencies(packages, &part)?;
    std::fs::rename(&part, &root).with_context(|| root.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_three_packages_come_from_backports_and_only_if_new_enough() {
        let packages = new_enough(Some("1:10.0.2+ds-2~bpo12+1".into())).unwrap().join(" ");
        assert_eq!(
            packages,
            "qemu-system-arm=1:10.0.2+ds-2~bpo12+1 qemu-system-common=1:10.0.2+ds-2~bpo12+1 \
             qemu-system-data=1:10.0.2+ds-2~bpo12+1"
        );
        assert_eq!(new_enough(Some("1:8.2.1".into())), None);
        assert_eq!(new_enough(None), None);
    }

    #[test]
    fn the_sources_file_takes_mirror_and_keyring_from_the_machine() {
        let archive = Archive { uri: "mirror://here/debian/".into(), keyring: "/k.gpg".into() };
        let text = backports_file(&archive, "bookworm-backports");
        assert!(text.contains("URIs: mirror://here/debian/\nSuites: bookworm-backports\n"));
        assert!(text.ends_with("Signed-By: /k.gpg\n"));
    }
}
