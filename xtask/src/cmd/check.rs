//! `check`: everything that must hold of the source before it is committed.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::child::Task;
use crate::ui::say;
use crate::{licence, paths, reference, tidy, toolchain};

/// One tool over the whole workspace, cold, on two slow cores.
const LIMIT: Duration = Duration::from_secs(1200);

/// The bare programs: what the host's clippy and rustdoc do not see.
const IMAGES: [&str; 6] = ["-p", "hyp", "-p", "el1-host", "-p", "guests"];

/// Check formatting, lints, documentation, licences and where `unsafe` stands
///
/// Lints and documentation are checked for the PC and for the bare target, warnings as errors.
#[derive(clap::Args)]
pub struct Args {
    /// First format the sources and write the hypercall reference of docs/hypercalls.md
    #[arg(long)]
    fix: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    toolchain::ensure()?;
    if args.fix {
        let mut cmd = paths::cargo();
        cmd.args(["fmt", "--all"]);
        quiet("cargo fmt --all", cmd)?;
        reference::write(paths::root())?;
    }
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        let start = Instant::now();
        match step() {
            Ok(note) => say(format!("{name}: ok {note}({:.1} s)", start.elapsed().as_secs_f32())),
            Err(error) => {
                say(format!("{name}: {error:#}"));
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        say("check: all is well");
        return Ok(ExitCode::SUCCESS);
    }
    say(format!("check: failed: {}", failed.join(", ")));
    Ok(ExitCode::FAILURE)
}

type Step = fn() -> Result<String>;

const STEPS: [(&str, Step); 8] = [
    ("format", format),
    ("hypercall reference", hypercalls),
    ("unsafe allow-list", unsafe_list),
    ("licences", licences),
    ("clippy, PC", clippy_pc),
    ("clippy, images", clippy_images),
    ("docs, PC", docs_pc),
    ("docs, images", docs_images),
];

fn format() -> Result<String> {
    let mut cmd = paths::cargo();
    cmd.args(["fmt", "--all", "--", "--check", "--color", "never"]);
    quiet("cargo fmt --all --check", cmd)
}

fn hypercalls() -> Result<String> {
    reference::check(paths::root())?;
    Ok(String::new())
}

fn unsafe_list() -> Result<String> {
    let count = tidy::check_unsafe(paths::root())?;
    Ok(format!("[{} lines with `unsafe` in {} files] ", count.allowed, count.files))
}

fn licences() -> Result<String> {
    let mut cmd = paths::cargo();
    cmd.args(["metadata", "--format-version", "1", "--locked"]);
    let text = Task::new("cargo metadata", cmd, LIMIT).stdout()?;
    let counts = licence::check(&text)?;
    let kinds: usize = counts.len();
    let packages: usize = counts.values().sum();
    Ok(format!("[{packages} dependencies, {kinds} licence expressions] "))
}

fn clippy_pc() -> Result<String> {
    let mut cmd = paths::cargo();
    cmd.args(["clippy", "--quiet", "--keep-going", "--workspace", "--all-targets"]);
    cmd.args(["--", "-D", "warnings"]);
    quiet("cargo clippy", cmd)
}

fn clippy_images() -> Result<String> {
    let mut cmd = paths::cargo();
    cmd.args(["clippy", "--quiet", "--keep-going", "--release", "--target", paths::BARE_TARGET]);
    cmd.args(IMAGES).args(["--", "-D", "warnings"]);
    quiet("cargo clippy of the images", cmd)
}

fn docs_pc() -> Result<String> {
    let mut cmd = paths::cargo();
    cmd.args([
        "doc",
        "--quiet",
        "--keep-going",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    cmd.env("RUSTDOCFLAGS", "-D warnings");
    quiet("cargo doc", cmd)
}

fn docs_images() -> Result<String> {
    let mut cmd = paths::cargo();
    cmd.args(["doc", "--quiet", "--keep-going", "--no-deps", "--document-private-items"]);
    cmd.args(["--target", paths::BARE_TARGET, "-p", "hyp", "-p", "el1-host"]);
    cmd.env("RUSTDOCFLAGS", "-D warnings");
    quiet("cargo doc of the images", cmd)
}

/// Silent when all is well; everything the tool said when it is not.
fn quiet(what: &str, cmd: Command) -> Result<String> {
    let done = Task::new(what, cmd, LIMIT).capture()?;
    if done.status.success() {
        return Ok(String::new());
    }
    Err(anyhow::anyhow!("{}{}", done.stdout, done.stderr)).context(format!("{what} fails"))
}
