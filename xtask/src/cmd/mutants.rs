//! `mutants`: would the tests notice if a piece of the code were gone?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::{Finished, Task, last_lines};
use crate::mutants::{Mutation, Table};
use crate::paths;
use crate::ui::say;

/// The tool, and the version whose output we read.
const TOOL: &str = "cargo-mutants";
const VERSION: &str = "27.1.0";
const INSTALL: Duration = Duration::from_secs(1800);
/// All mutants of all packages, on a slow machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Building and running one test.
const ONE: Duration = Duration::from_secs(1200);
/// The tests of several packages, of which the properties take minutes, with one mutant.
const WIDER: Duration = Duration::from_secs(1200);
/// How many of a hundred must be caught.
const ENOUGH: f64 = 95.0;
/// The packages that keep memory apart, and those that see more of what each does than its own tests.
const PACKAGES: [(&str, &[&str]); 4] = [
    ("hyp-core", &["hyp-core", "props"]),
    ("hyp-s2", &["hyp-s2", "hyp-core", "props"]),
    ("hyp-dtb", &["hyp-dtb", "hyp-core"]),
    ("host-mirror", &["host-mirror", "host-vmm"]),
];

/// Take pieces of the code away, and see whether a test fails
///
/// Runs cargo-mutants (installed into our cache if it is missing) over the packages that keep memory
/// apart: each package's own tests first, and more tests for what these miss. The last line is the score of
/// all; the exit status is 0 if it is 95 % or more, and, unless it is of a part only, each package's, too.
/// docs/assurance.md explains the survivors. With --sync: the rows of tests/mutants.toml instead, each of
/// which must make its test fail.
#[derive(clap::Args)]
pub struct Args {
    /// Only these packages
    #[arg(long, value_name = "P", value_parser = PACKAGES.map(|(name, _)| name))]
    package: Vec<String>,

    /// The k-th of n parts (from 0)
    #[arg(long, value_name = "K/N", conflicts_with = "sample")]
    shard: Option<String>,

    /// About N mutants, evenly spread
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,

    /// Try the rows of tests/mutants.toml: barriers, invalidations, cleans, counts
    #[arg(long, conflicts_with_all = ["package", "shard", "list"])]
    sync: bool,

    /// List instead of running: cargo-mutants' mutants, or the rows of tests/mutants.toml
    #[arg(long, value_name = "WHICH", num_args = 0..=1, default_missing_value = "all", value_parser = ["all", "sync"])]
    list: Option<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match args.list.as_deref() {
        Some("sync") => list_rows(),
        _ if args.sync => try_rows(args.sample),
        listed => mutate(args, listed.is_some()),
    }
}

fn list_rows() -> Result<ExitCode> {
    for Mutation { what, file, at, text, put, test } in Table::read(paths::root())?.mutation {
        let (text, put) = (text.replace('\n', " "), put.replace('\n', " "));
        let becomes = if put.is_empty() { String::new() } else { format!(" => {put}") };
        println!("{what}\n    {file}: {at} .. {text}{becomes}\n    {test}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Each row in a copy of the sources, with its test.
fn try_rows(sample: Option<u32>) -> Result<ExitCode> {
    let mut rows = Table::read(paths::root())?.mutation;
    if let Some(n) = sample {
        let step = rows.len().div_ceil(n as usize).max(1);
        rows = rows.into_iter().step_by(step).collect();
    }
    let (folder, _ours) = paths::own_output("mutants")?;
    let tree = Tree { root: folder.join("tree"), target: folder.join("target") };
    tree.fill()?;
    tree.pass(&rows)?;
    let mut survivors = Vec::new();
    for (n, row) in (1..).zip(&rows) {
        let noticed = tree.notices(row)?;
        say(format!(
            "{n} of {}: {}, {}",
            rows.len(),
            row.what,
            if noticed { "noticed" } else { "NOT NOTICED" }
        ));
        if !noticed {
            survivors.push(row);
        }
    }
    for row in &survivors {
        println!("NOT NOTICED {} ({}): {}", row.what, row.file, row.test);
    }
    println!("{} noticed, {} not", rows.len() - survivors.len(), survivors.len());
    Ok(if survivors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A copy of the sources, with a target folder of its own.
struct Tree {
    root: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Makes it equal to our sources; what is equal is not touched, so that cargo builds it once.
    fn fill(&self) -> Result<()> {
        let mut cmd = Command::new("git");
        cmd.current_dir(paths::root()).args(["ls-files", "-co", "--exclude-standard", "-z"]);
        let names = Task::new("git ls-files", cmd, Duration::from_secs(60)).stdout()?;
        let ours: BTreeSet<PathBuf> = names.split('\0').map(PathBuf::from).collect();
        for name in &ours {
            let (from, to) = (paths::root().join(name), self.root.join(name));
            if !from.is_file() {
                continue;
            }
            let bytes = paths::read(&from)?;
            if fs::read(&to).ok().as_ref() != Some(&bytes) {
                paths::create(to.parent().unwrap_or(&self.root))?;
                paths::write(&to, &bytes)?;
            }
        }
        self.drop_others(&self.root, &ours)
    }

    fn drop_others(&self, folder: &Path, ours: &BTreeSet<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.drop_others(&path, ours)?;
            } else if path.strip_prefix(&self.root).is_ok_and(|name| !ours.contains(name)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn cargo_test(&self, package: &str, target: Option<&str>) -> Command {
        let mut cmd = paths::cargo();
        cmd.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        cmd.env("CARGO_PROFILE_DEV_DEBUG", "0");
        cmd.args(["test", "--package", package]);
        match target {
            Some(target) => cmd.args(["--test", target]),
            None => cmd.arg("--lib"),
        };
        cmd
    }

    /// All tests pass as the sources are, or a failure would say nothing.
    fn pass(&self, rows: &[Mutation]) -> Result<()> {
        let mut tests: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for row in rows {
            let (package, target, test) = row.test()?;
            tests.entry((package, target)).or_default().insert(test);
        }
        for ((package, target), names) in tests {
            say(format!("the {} tests of {package} without a mutation", names.len()));
            let mut cmd = self.cargo_test(package, target);
            cmd.args(["--", "--exact"]).args(&names);
            let done = Task::new("cargo test", cmd, ONE).capture()?;
            if !done.status.success() || ran(&done) != names.len() {
                bail!(
                    "not all of {names:?} pass\n{}",
                    last_lines(&(done.stdout + &done.stderr), 30)
                )
            }
        }
        Ok(())
    }

    /// Whether the row's test fails with the row's mutation.
    fn notices(&self, row: &Mutation) -> Result<bool> {
        let file = self.root.join(&row.file);
        let source = fs::read_to_string(&file)?;
        paths::write(&file, row.apply(&source)?.as_bytes())?;
        let noticed = self.fails(row);
        paths::write(&file, source.as_bytes())?;
        noticed
    }

    fn fails(&self, row: &Mutation) -> Result<bool> {
        let (package, target, test) = row.test()?;
        let mut build = self.cargo_test(package, target);
        build.args(["--quiet", "--no-run"]);
        let what = format!("building without: {}", row.what);
        Task::new(what, build, ONE).stdout()?;
        let mut cmd = self.cargo_test(package, target);
        cmd.args(["--", "--exact", test]);
        let done = Task::new("cargo test", cmd, ONE).capture()?;
        if ran(&done) != 1 {
            bail!("{}: no test {test}", row.what)
        }
        Ok(!done.status.success())
    }
}

/// How many tests libtest says it ran.
fn ran(done: &Finished) -> usize {
    let count = done
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("running ")?.split(' ').next()?.parse().ok());
    count.unwrap_or(0)
}

fn mutate(args: &Args, list: bool) -> Result<ExitCode> {
    let tool = tool()?;
    let (folder, _ours) = paths::own_output("mutants")?;
    let wanted = |name: &str| args.package.is_empty() || args.package.iter().any(|p| p == name);
    let mut score = Score::default();
    let part = args.shard.is_some() || args.sample.is_some();
    let mut enough = true;
    for (package, wider) in PACKAGES.iter().filter(|(name, _)| wanted(name)) {
        let all = mutants(&tool, package)?;
        if list {
            print!("{all}");
            continue;
        }
        let shard = match (&args.shard, args.sample) {
            (Some(shard), _) => Some(shard.clone()),
            // A package's part of the sample.
            (None, Some(n)) => {
                let packages = PACKAGES.iter().filter(|(name, _)| wanted(name)).count();
                let each = (n as usize).div_ceil(packages).max(1);
                Some(format!("0/{}", all.lines().count().div_ceil(each).max(1)))
            }
            (None, None) => None,
        };
        let found = one_package(&tool, &folder, package, wider, shard.as_deref())?;
        found.print(package);
        enough &= part || found.percent() >= ENOUGH;
        score.add(found);
    }
    if list {
        return Ok(ExitCode::SUCCESS);
    }
    for survivor in &score.survivors {
        println!("SURVIVES {survivor}");
    }
    score.print("all");
    let enough = enough && score.percent() >= ENOUGH;
    Ok(if enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// First the package's own tests; for what they miss, more.
fn one_package(
    tool: &Path,
    folder: &Path,
    package: &str,
    wider: &[&str],
    shard: Option<&str>,
) -> Result<Score> {
    let out = folder.join(package);
    let mut cmd = command(tool, package);
    cmd.arg("--output").arg(&out);
    if let Some(shard) = shard {
        cmd.args(["--shard", shard, "--sharding", "round-robin"]);
    }
    cmd.args(["--", "--lib"]);
    let mut score = Score::of(cmd, &out)?;
    if !score.survivors.is_empty() {
        let out = folder.join(format!("{package}-wider"));
        let mut cmd = command(tool, package);
        cmd.arg("--output").arg(&out);
        // The limit found by itself would be for the package's own tests, and call all others hung.
        cmd.arg("--timeout").arg(WIDER.as_secs().to_string());
        // Mutants that delete a field come whatever the names say: at least of these files only.
        for file in score.files() {
            cmd.arg("--file").arg(file);
        }
        for survivor in &score.survivors {
            cmd.arg("--re").arg(format!("^{}$", regex::escape(survivor)));
        }
        for package in wider {
            cmd.args(["--test-package", package]);
        }
        score.catch(&Score::of(cmd, &out)?.caught);
    }
    Ok(score)
}

fn command(tool: &Path, package: &str) -> Command {
    let mut cmd = Command::new(tool);
    cmd.current_dir(paths::root()).arg("mutants").args(["--package", package]);
    cmd.args(["--jobs", "1", "--colors", "never", "--no-times"]);
    cmd.env("CARGO_PROFILE_DEV_DEBUG", "0").env_remove("CARGO_TARGET_DIR");
    cmd
}

fn mutants(tool: &Path, package: &str) -> Result<String> {
    let mut cmd = command(tool, package);
    cmd.arg("--list");
    Task::new("cargo mutants --list", cmd, ONE).stdout()
}

/// The tool: on the path, or in our cache, where it is installed if need be.
fn tool() -> Result<PathBuf> {
    let ours = paths::cache()?.join("tools");
    for tool in [PathBuf::from(TOOL), ours.join("bin").join(TOOL)] {
        let mut cmd = Command::new(&tool);
        cmd.args(["mutants", "--version"]);
        let version = Task::new(TOOL, cmd, Duration::from_secs(60)).stdout();
        if version.is_ok_and(|version| version.trim().ends_with(VERSION)) {
            return Ok(tool);
        }
    }
    let _lock = paths::lock_cache()?;
    say(format!("installing {TOOL} {VERSION}"));
    let mut cmd = paths::cargo();
    cmd.args(["install", TOOL, "--locked", "--version", VERSION, "--root"]).arg(&ours);
    cmd.env_remove("CARGO_TARGET_DIR");
    Task::new(format!("cargo install {TOOL}"), cmd, INSTALL).show()?;
    Ok(ours.join("bin").join(TOOL))
}

/// What became of mutants. Those that do not build count for nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Score {
    /// A test failed, or did not end.
    caught: Vec<String>,
    survivors: Vec<String>,
}

impl Score {
    fn of(cmd: Command, out: &Path) -> Result<Self> {
        let done = Task::new("cargo mutants", cmd, LIMIT).capture()?;
        // 0: all caught, 2: some missed, 3: some hung. Others: the tests fail by themselves, or worse.
        if !matches!(done.status.code(), Some(0 | 2 | 3)) {
            bail!("cargo mutants\n{}", last_lines(&(done.stdout + &done.stderr), 30))
        }
        let lines = |name: &str| -> Result<Vec<String>> {
            let text = fs::read_to_string(out.join("mutants.out").join(name))
                .with_context(|| name.to_owned())?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let mut caught = lines("caught.txt")?;
        caught.extend(lines("timeout.txt")?);
        Ok(Self { caught, survivors: lines("missed.txt")? })
    }

    /// Where survivors are.
    fn files(&self) -> BTreeSet<&str> {
        self.survivors.iter().filter_map(|name| Some(name.split_once(':')?.0)).collect()
    }

    /// Other tests caught these; of them only survivors count.
    fn catch(&mut self, others: &[String]) {
        let (caught, left) =
            mem::take(&mut self.survivors).into_iter().partition(|name| others.contains(name));
        self.survivors = left;
        self.caught.extend::<Vec<_>>(caught);
    }

    fn add(&mut self, other: Self) {
        self.caught.extend(other.caught);
        self.survivors.extend(other.survivors);
    }

    fn percent(&self) -> f64 {
        let (caught, missed) = (self.caught.len(), self.survivors.len());
        let viable = caught + missed;
        if viable == 0 { 100.0 } else { 100.0 * caught as f64 / viable as f64 }
    }

    fn print(&self, package: &str) {
        let caught = self.caught.len();
        let viable = caught + self.survivors.len();
        println!("{package}: {caught} of {viable} mutants caught, {:.1} %", self.percent());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(caught: &[&str], survivors: &[&str]) -> Score {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Score { caught: names(caught), survivors: names(survivors) }
    }

    #[test]
    fn the_score_is_of_what_could_be_built() {
        let mut all = score(&["a", "b", "c"], &["d"]);
        assert!((all.percent() - 75.0).abs() < 0.01);
        all.add(score(&[], &["e", "f"]));
        assert!((all.percent() - 50.0).abs() < 0.01);
        assert!((Score::default().percent() - 100.0).abs() < 0.01);
    }

    #[test]
    fn what_other_tests_were_not_seen_to_catch_survives() {
        let mut first = score(&["a.rs:1:1: x"], &["b.rs:1:1: x", "b.rs:2:1: y", "c.rs:1:1: x"]);
        assert_eq!(first.files(), BTreeSet::from(["b.rs", "c.rs"]));
        first.catch(&["b.rs:2:1: y".to_owned(), "b.rs:3:1: delete field".to_owned()]);
        assert_eq!(first, score(&["a.rs:1:1: x", "b.rs:2:1: y"], &["b.rs:1:1: x", "c.rs:1:1: x"]));
    }
}
