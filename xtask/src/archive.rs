//! Where packages come from: the distribution that runs here and its archive as apt reaches it.
//!
//! Names no host: addresses are those the machine is configured with, and the keyring is the one
//! the distribution installs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::Task;

const QUICK: Duration = Duration::from_secs(60);

/// One line of a sources.list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where the archive is.
    pub uri: String,
    /// Such as `bookworm` or `bookworm-backports`.
    pub suite: String,
    /// Such as `main`.
    pub component: String,
}

/// The distribution that runs here, from /etc/os-release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Such as `debian`.
    pub id: String,
    /// Such as `bookworm`.
    pub codename: String,
}

impl Distribution {
    /// Ask the machine.
    #[must_use]
    pub fn here() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn parse(os_release: &str) -> Self {
        let value = |key: &str| {
            let line = os_release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_owned()
        };
        Self { id: value("ID"), codename: value("VERSION_CODENAME") }
    }

    /// Debian itself, not a derivative with its own archive.
    #[must_use]
    pub fn is_debian(&self) -> bool {
        self.id == "debian"
    }
}

/// The package sources this machine is configured with.
pub fn configured() -> Result<Vec<Source>> {
    let mut cmd = Command::new("apt-get");
    cmd.args(["indextargets", "--no-release-info", "--format"])
        .arg("$(REPO_URI) $(RELEASE) $(COMPONENT)")
        .arg("Created-By: Packages");
    Ok(parse_targets(&Task::new("apt-get indextargets", cmd, QUICK).stdout()?))
}

fn parse_targets(text: &str) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite), Some(component)) =
            (words.next(), words.next(), words.next())
        {
            let source = Source { uri, suite, component };
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
    }
    sources
}

/// A distribution's archive as this machine reaches it, and the keyring that must have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its address.
    pub uri: String,
    /// The keyring's file.
    pub keyring: PathBuf,
}

impl Archive {
    /// The archive that `here` itself came from.
    pub fn own(sources: &[Source], here: &Distribution) -> Result<Self> {
        let found = sources.iter().find(|s| s.suite == here.codename && s.component == "main");
        match found {
            Some(source) => Self::signed(&source.uri, &here.id),
            None => Self::debian(sources, here),
        }
    }

    /// The Debian archive: `REDAN_DEBIAN_MIRROR`, or the one among `sources`.
    pub fn debian(sources: &[Source], here: &Distribution) -> Result<Self> {
        if let Ok(uri) = std::env::var("REDAN_DEBIAN_MIRROR") {
            return Self::signed(&uri, "debian");
        }
        let found = sources.iter().find(|s| {
            let own_release = here.is_debian() && s.suite == here.codename;
            let by_name = s.uri.trim_end_matches('/').ends_with("/debian");
            s.component == "main" && (own_release || by_name)
        });
        let source = found.context("no Debian archive among this machine's apt sources")?;
        Self::signed(&source.uri, "debian")
    }

    /// One of its suites.
    #[must_use]
    pub fn suite(&self, suite: &str) -> Source {
        let uri = self.uri.clone();
        Source { uri, suite: suite.to_owned(), component: "main".to_owned() }
    }

    fn signed(uri: &str, distribution: &str) -> Result<Self> {
        let name = format!("/usr/share/keyrings/{distribution}-archive-keyring.gpg");
        let keyring = PathBuf::from(name);
        ensure!(
            keyring.exists(),
            "{} is missing (install {distribution}-archive-keyring)",
            keyring.display()
        );
        Ok(Self { uri: uri.to_owned(), keyring })
    }
}

/// A source as a line of a sources.list. It always names its keyring.
#[must_use]
pub fn line(source: &Source, arch: Option<&str>, keyring: &Path) -> String {
    let arch = arch.map(|a| format!("arch={a} ")).unwrap_or_default();
    let Source { uri, suite, component } = source;
    format!("deb [{arch}signed-by={}] {uri} {suite} {component}\n", keyring.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "\
mirror://a/debian/ bookworm main
mirror://a/debian/ bookworm main
mirror://a/debian-security/ bookworm-security main
mirror://b/tools/ nodistro main
";

    fn distribution(id: &str, codename: &str) -> Distribution {
        Distribution { id: id.into(), codename: codename.into() }
    }

    #[test]
    fn each_source_is_read_once() {
        let sources = parse_targets(TARGETS);
        assert_eq!(sources.len(), 3);
        assert_eq!(sources[1].suite, "bookworm-security");
    }

    #[test]
    fn without_a_debian_archive_there_is_a_reason() {
        let sources = parse_targets("mirror://x/pool/ noble main\n");
        let error = Archive::debian(&sources, &distribution("ubuntu", "noble")).unwrap_err();
        assert!(error.to_string().contains("no Debian archive"), "{error}");
    }

    #[test]
    fn the_archive_is_the_one_that_carries_this_release_whatever_its_address() {
        let sources = parse_targets("mirror://x/pool/ trixie main\n");
        match Archive::debian(&sources, &distribution("debian", "trixie")) {
            Ok(archive) => assert_eq!(archive.uri, "mirror://x/pool/"),
            Err(error) => assert!(error.to_string().contains("keyring"), "{error}"),
        }
    }

    #[test]
    fn a_source_line_names_its_keyring() {
        let text = line(&parse_targets(TARGETS)[0], Some("arm64"), Path::new("/k.gpg"));
        assert_eq!(text, "deb [arch=arm64 signed-by=/k.gpg] mirror://a/debian/ bookworm main\n");
    }

    #[test]
    fn os_release_is_understood_with_and_without_quotes() {
        let here = Distribution::parse("NAME=x\nID=debian\nVERSION_CODENAME=\"bookworm\"\n");
        assert_eq!(here, distribution("debian", "bookworm"));
        assert!(here.is_debian());
    }
}
