//! libFuzzer around the targets of tests/fuzz: built once, run one target at a time.
//!
//! Knows how cargo-fuzz and the programs it builds are called, and what they say. Must not know what
//! a target does with its input.
//!
//! A run starts from the committed seeds and from the corpus that earlier runs left in our cache; what
//! it adds goes into the latter. An input that fails is kept beside cargo's files.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::child::{Guard, Task};
use crate::ui::{on_terminal, say};
use crate::{nightly, paths};

/// The version whose options we know.
const CARGO_FUZZ: &str = "0.13.2";
/// Building cargo-fuzz, or all targets, cold, on two slow cores.
const BUILD: Duration = Duration::from_secs(1200);
/// Longest input; no seed comes near it but the device trees.
const LONGEST: u32 = 1 << 14;
/// An input that takes as many seconds is a finding: nothing here may loop.
const SLOWEST_S: u32 = 20;
/// Memory that no input may need, in MiB.
const MEMORY: u32 = 2048;
/// How long the program may take to end after its time is up.
const GRACE: Duration = Duration::from_secs(60);

/// The built programs.
pub struct Fuzzer {
    programs: PathBuf,
}

/// How long and how.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for one target.
    pub time: Duration,
    /// Processes at a time.
    pub jobs: u16,
    /// What the mutations start from.
    pub seed: u32,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inputs tried.
    pub runs: u64,
    /// Places of the code reached (edges).
    pub edges: u64,
    /// Features reached: edges with how often, and values compared.
    pub features: u64,
    /// What was found.
    pub finding: Option<Finding>,
}

/// An input that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it is kept; none if the program ended without telling.
    pub input: Option<PathBuf>,
    /// What the target said.
    pub said: String,
}

/// The targets: the folders of seeds.
pub fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(seeds()).context("tests/fuzz/seeds")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn seeds() -> PathBuf {
    paths::root().join("tests/fuzz/seeds")
}

/// Whether the fuzzer can be had without asking the network for a toolchain.
#[must_use]
pub fn is_at_hand() -> bool {
    nightly::answers(&["rustc", "--version"])
}

impl Fuzzer {
    /// Install what is missing, and build all targets.
    pub fn build() -> Result<Self> {
        if !is_at_hand() {
            nightly::install("fuzzing", &[])?;
        }
        let tools = cargo_fuzz()?;
        let cxx = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let mut compiler = Command::new(cxx);
        compiler.arg("--version");
        let found = Task::new("c++ --version", compiler, Duration::from_secs(60)).stdout();
        found.context("libFuzzer needs a C++ compiler: install g++ or clang, or set CXX")?;
        let target = paths::target()?.join("fuzz");
        let mut cmd = nightly::command(&["cargo", "fuzz", "build", "--fuzz-dir", "tests/fuzz"]);
        // All our crates forbid unsafe code or do not run here: an address sanitizer would find
        // nothing, at half the speed.
        cmd.args(["--sanitizer", "none", "--target-dir"]).arg(&target);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path));
        cmd.env("PATH", std::env::join_paths(all)?);
        Task::new("cargo fuzz build", cmd, BUILD).stdout()?;
        Ok(Self { programs: programs(&target)? })
    }

    /// One input through one target; whether it passed.
    pub fn once(&self, target: &str, input: &Path) -> Result<bool> {
        let input = std::fs::canonicalize(input).with_context(|| input.display().to_string())?;
        let mut cmd = self.command(target)?;
        cmd.arg(input);
        Ok(Task::new(format!("the target {target}"), cmd, GRACE).show().is_ok())
    }

    /// Look for findings in one target.
    pub fn run(&self, target: &str, limits: Limits) -> Result<Report> {
        let folder = paths::output("fuzz")?;
        let corpus = paths::cache()?.join("fuzz").join(target);
        paths::create(&corpus)?;
        let mut cmd = self.command(target)?;
        cmd.arg(corpus).arg(seeds().join(target));
        cmd.arg(format!("-max_total_time={}", limits.time.as_secs().max(1)));
        cmd.arg(format!("-seed={}", limits.seed.max(1)));
        cmd.arg(format!("-artifact_prefix={}/{target}-", folder.display()));
        cmd.args([format!("-timeout={SLOWEST_S}"), format!("-max_len={LONGEST}")]);
        cmd.args(["-use_value_profile=1", "-print_final_stats=1"]);
        if limits.jobs > 1 {
            cmd.arg(format!("-fork={}", limits.jobs));
        }
        let log = folder.join(format!("{target}.log"));
        watch(cmd, target, limits.time, &log)
    }

    fn command(&self, target: &str) -> Result<Command> {
        let program = self.programs.join(target);
        ensure!(program.is_file(), "there is no target `{target}`: {}", targets()?.join(", "));
        let mut cmd = Command::new(program);
        cmd.current_dir(paths::root());
        cmd.arg(format!("-rss_limit_mb={MEMORY}"));
        Ok(cmd)
    }
}

/// The folder whose `bin` has cargo-fuzz, installed there if it is missing.
fn cargo_fuzz() -> Result<PathBuf> {
    let tools = paths::cache()?.join("cargo-fuzz");
    let _lock = paths::lock_cache()?;
    if tools.join("bin/cargo-fuzz").is_file() {
        return Ok(tools);
    }
    say(format!("installing cargo-fuzz {CARGO_FUZZ}"));
    let mut cmd = paths::cargo();
    cmd.args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--root"]);
    cmd.arg(&tools).arg("--target-dir").arg(paths::target()?.join("cargo-fuzz"));
    Task::new("cargo install cargo-fuzz", cmd, BUILD).stdout()?;
    Ok(tools)
}

/// Where cargo-fuzz has put them: below the triple of the machine that it was built for.
fn programs(target: &Path) -> Result<PathBuf> {
    let version = Task::new("rustc -vV", nightly::command(&["rustc", "-vV"]), GRACE).stdout()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(target.join(host.context("rustc -vV names no host")?).join("release"))
}

/// Runs the program, shows how far it is, keeps what it says.
fn watch(mut cmd: Command, target: &str, time: Duration, log: &Path) -> Result<Report> {
    cmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut guard = Guard::spawn(&mut cmd).with_context(|| format!("cannot start {target}"))?;
    let pipe = guard.child().stderr.take().context("no standard error")?;
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    let mut file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
    let bar = bar(target, time);
    let begun = Instant::now();
    let mut heard = Heard::default();
    loop {
        match lines.recv_timeout(Duration::from_millis(250)) {
            Ok(line) => {
                writeln!(file, "{line}")?;
                heard.line(&line);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if begun.elapsed() > time + GRACE {
            // It looks at the clock between two inputs only once it has read its whole corpus. An
            // input that takes too long it would have reported.
            say(format!("{target} is ended: its corpus took longer than it was given"));
            guard.end();
            return Ok(heard.report);
        }
        bar.set_position(begun.elapsed().as_secs().min(time.as_secs()));
        bar.set_message(heard.report.brief());
    }
    bar.finish_and_clear();
    let status = guard.wait(GRACE)?;
    if !status.is_some_and(|status| status.success()) {
        heard.failed(&format!("the program failed; see {}", log.display()));
    }
    Ok(heard.report)
}

fn bar(target: &str, time: Duration) -> ProgressBar {
    if !on_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(time.as_secs());
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} s, {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(target.to_owned());
    bar
}

impl Report {
    /// In a few words.
    #[must_use]
    pub fn brief(&self) -> String {
        format!("{} inputs, {} edges, {} features", self.runs, self.edges, self.features)
    }
}

/// After this line of a panic come frames.
const BACKTRACE: &str = "stack backtrace:";

/// What was heard so far.
#[derive(Debug, Default)]
struct Heard {
    report: Report,
    said: Vec<String>,
    input: Option<PathBuf>,
}

impl Heard {
    fn line(&mut self, line: &str) {
        if let Some((runs, rest)) = line.strip_prefix('#').and_then(|l| l.split_once([':', '\t'])) {
            self.report.runs = runs.trim().parse().unwrap_or(self.report.runs);
            self.report.edges = number_after(rest, "cov: ").unwrap_or(self.report.edges);
            self.report.features = number_after(rest, "ft: ").unwrap_or(self.report.features);
        } else if let Some(runs) = line.strip_prefix("stat::number_of_executed_units:") {
            self.report.runs = runs.trim().parse().unwrap_or(self.report.runs);
        } else if self.is_told_by(line) {
            self.said.push(line.to_owned());
        }
        if let Some((_, file)) = line.split_once("Test unit written to ") {
            self.input = Some(PathBuf::from(file.trim()));
        }
    }

    /// The panic message with what follows it, or libFuzzer's own word if there was no panic.
    fn is_told_by(&self, line: &str) -> bool {
        match self.said.len() {
            0 => line.contains("panicked at") || line.contains("ERROR: libFuzzer: "),
            more => more < 8 && !self.said.iter().any(|line| line == BACKTRACE),
        }
    }

    fn failed(&mut self, otherwise: &str) {
        self.said.retain(|line| line != BACKTRACE);
        let said = if self.said.is_empty() { otherwise.into() } else { self.said.join("\n") };
        self.report.finding = Some(Finding { input: self.input.take(), said });
    }
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.split_once(key)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_one_process_and_from_several() {
        let mut heard = Heard::default();
        heard.line("#2935\tINITED cov: 935 ft: 10278 corp: 2138/72Kb exec/s: 0 rss: 29Mb");
        assert_eq!(heard.report.brief(), "2935 inputs, 935 edges, 10278 features");
        heard.line("#30211: cov: 940 ft: 10300 corp: 2140 exec/s: 1000 oom/timeout/crash: 0/0/0");
        assert_eq!(heard.report.brief(), "30211 inputs, 940 edges, 10300 features");
        heard.line("stat::number_of_executed_units: 40000");
        assert_eq!(heard.report.runs, 40000);
        heard.line("#0 0x55 in frame");
        assert_eq!((heard.report.edges, heard.report.features), (940, 10300));
    }

    #[test]
    fn a_finding_has_its_input_and_what_was_said() {
        let mut heard = Heard::default();
        heard.line("thread '<unnamed>' (1) panicked at bodies/src/vgic/ledger.rs:187:9:");
        heard.line("12: State { .. } in 0xc");
        heard.line("stack backtrace:");
        heard.line("   0: __rustc::rust_begin_unwind");
        heard.line("==1== ERROR: libFuzzer: deadly signal");
        heard.line("artifact_prefix='/t/vgic-'; Test unit written to /t/vgic-crash-1");
        heard.failed("nothing");
        let finding = heard.report.finding.unwrap();
        assert_eq!(finding.input, Some(PathBuf::from("/t/vgic-crash-1")));
        assert!(finding.said.contains("ledger.rs:187") && finding.said.contains("12: State"));
        assert!(!finding.said.contains("rust_begin"));
    }

    #[test]
    fn a_silent_failure_is_one() {
        let mut heard = Heard::default();
        heard.failed("it failed");
        assert_eq!(
            heard.report.finding.unwrap(),
            Finding { input: None, said: "it failed".into() }
        );
    }

    #[test]
    fn every_folder_of_seeds_is_a_target() {
        assert!(targets().unwrap().contains(&"dtb".to_owned()));
    }
}
