//! `qemu-test`: the host-side tests, then every QEMU test of the registry over its matrix.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cmd::{build, setup};
use crate::qemu::Qemu;
use crate::qtest::{self, Case, Lane};
use crate::registry::{Registry, Test};
use crate::suites::{SUITES, Suite, Tally};
use crate::ui::{self, Step};
use crate::{paths, toolchain};

/// Run the host-side tests, then all QEMU tests; the last line counts them
///
/// The host-side ones are the workspace's own tests, loom and shuttle, and a sample of the sources' barriers taken
/// away. Each QEMU test is a row of tests/qemu.toml, run for each GIC version, CPU and number of CPUs it
/// names. A test passes only by an explicit verdict, and any panic fails it. Consoles are kept in
/// target/redan/qemu-test.
#[derive(clap::Args, Clone)]
pub struct Args {
    /// Only tests whose name (with its matrix, such as `[gic3,max,smp1]`) contains this
    #[arg(value_name = "FILTER")]
    filter: Option<String>,

    /// So many processors for every QEMU test, whatever its row says
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=8))]
    smp: Vec<u8>,

    /// Only with this interrupt controller, of those that a row names
    #[arg(long, value_name = "2|3", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(2..=3))]
    gic: Vec<u8>,

    /// This processor for every QEMU test, whatever its row says
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    cpu: Vec<String>,

    /// The repeatable lane: count instructions, run all processors in turn on one thread
    #[arg(long)]
    icount: bool,

    /// The other lane for every test: each processor on a thread of its own
    #[arg(long, conflicts_with = "icount")]
    threads: bool,

    /// All tests with the specification beside EL2, not only those that say so
    #[arg(long)]
    oracle: bool,

    /// The long forms instead, which nothing else runs
    #[arg(long)]
    soak: bool,

    /// List the tests instead of running them
    #[arg(long)]
    list: bool,

    /// Write a report of every test
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// How many machines at a time [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

/// What became of one test.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    name: String,
    status: Status,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Passed,
    Failed,
    Skipped,
}

#[derive(Serialize)]
struct Report<'a> {
    passed: usize,
    failed: usize,
    skipped: usize,
    tests: &'a [Outcome],
}

impl Args {
    fn lane(&self) -> Lane {
        let Self { smp, gic, cpu, oracle, .. } = self.clone();
        let icount = (self.icount || self.threads).then_some(self.icount);
        Lane { smp, gic, cpu, icount, oracle }
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let text = std::fs::read_to_string(paths::root().join("tests/qemu.toml"))?;
    let registry = Registry::parse(&text).context("tests/qemu.toml")?;
    let wanted = |name: &str| args.filter.as_ref().is_none_or(|f| name.contains(f.as_str()));
    let lane = args.lane();
    let rows = registry.test.iter().filter(|test| test.soak == args.soak);
    let cases = rows.flat_map(|test| Case::all(test, &lane));
    let cases: Vec<Case> = cases.filter(|case| wanted(&case.name())).collect();
    let suites = SUITES.iter().filter(|suite| !args.soak && wanted(suite.name));
    let suites: Vec<&Suite> = suites.collect();
    if args.list {
        return Ok(list(&suites, &cases));
    }
    toolchain::ensure()?;
    let mut outcomes = Vec::new();
    let mut counts = Counts::default();
    for suite in suites {
        outcomes.push(host_side(suite, &mut counts)?);
    }
    if !cases.is_empty() {
        let qemu = setup::qemu()?;
        let _step = Step::new("building the images");
        build::all()?;
        if cases.iter().any(|case| case.oracle) {
            build::oracle()?;
        }
        drop(_step);
        for outcome in qemu_tests(args, &qemu, cases)? {
            counts.add(outcome.status);
            outcomes.push(outcome);
        }
    }
    if let Some(file) = &args.json {
        let Counts { passed, failed, skipped } = counts;
        let report = Report { passed, failed, skipped, tests: &outcomes };
        paths::write(file, &serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(counts.close(&outcomes))
}

fn list(suites: &[&Suite], cases: &[Case]) -> ExitCode {
    for suite in suites {
        println!("{:<44} {}", suite.name, suite.about);
    }
    for case in cases {
        println!("{:<44} {}", case.name(), case.test.about);
    }
    ExitCode::SUCCESS
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Counts {
    fn add(&mut self, status: Status) {
        match status {
            Status::Passed => self.passed += 1,
            Status::Failed => self.failed += 1,
            Status::Skipped => self.skipped += 1,
        }
    }

    /// Say again what needs attention; the counts are the last line.
    fn close(&self, outcomes: &[Outcome]) -> ExitCode {
        for outcome in outcomes.iter().filter(|o| o.status != Status::Passed) {
            let word = if outcome.status == Status::Failed { "FAILED" } else { "SKIPPED" };
            let reason = outcome.reason.as_deref().unwrap_or_default();
            println!("{word} {}: {}", outcome.name, reason.lines().next().unwrap_or_default());
        }
        if self.passed + self.failed == 0 {
            ui::say("no test has such a name, or all were skipped");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Tests that need no QEMU, counted test by test.
fn host_side(suite: &Suite, counts: &mut Counts) -> Result<Outcome> {
    let Tally { passed, failed, seconds, said } = suite.run()?;
    counts.passed += passed;
    counts.failed += failed;
    println!("{:<44} {passed} passed, {failed} failed  {seconds:6.1} s", suite.name);
    let (status, reason) = if failed > 0 {
        println!("{said}");
        (Status::Failed, Some(format!("{failed} failed")))
    } else {
        (Status::Passed, None)
    };
    Ok(Outcome { name: suite.name.to_owned(), status, seconds, reason })
}

/// All `cases`, several at a time. Each is printed when it ends.
fn qemu_tests(args: &Args, qemu: &Qemu, cases: Vec<Case>) -> Result<Vec<Outcome>> {
    let tests: Vec<Test> = cases.iter().map(|case| case.test.clone()).collect();
    qtest::check_programs(&tests)?;
    let missing: BTreeMap<String, String> = qtest::fetch_for(&tests).into_iter().collect();
    let jobs = args
        .jobs
        .map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let total = cases.len();
    let queue = Mutex::new(VecDeque::from(cases));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let (send, done) = mpsc::channel();
    let mut outcomes = Vec::new();
    let bar = bar(total);
    thread::scope(|scope| {
        for _ in 0..jobs.min(total) {
            let (send, next, missing) = (send.clone(), &next, &missing);
            scope.spawn(move || {
                while let Some(case) = next() {
                    if send.send(one(&case, qemu, missing)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for outcome in done {
            bar.suspend(|| print(&outcome));
            bar.inc(1);
            outcomes.push(outcome);
        }
    });
    bar.finish_and_clear();
    Ok(outcomes)
}

fn one(case: &Case, qemu: &Qemu, missing: &BTreeMap<String, String>) -> Outcome {
    let start = Instant::now();
    let skip = case.needs().find_map(|need| missing.get(need));
    let (status, reason) = match skip {
        Some(reason) => (Status::Skipped, Some(reason.clone())),
        None => match case.run(qemu) {
            Ok(None) => (Status::Passed, None),
            Ok(Some(reason)) => (Status::Failed, Some(reason)),
            Err(error) => (Status::Failed, Some(format!("{error:#}"))),
        },
    };
    Outcome { name: case.name(), status, seconds: start.elapsed().as_secs_f64(), reason }
}

fn print(outcome: &Outcome) {
    let Outcome { name, status, seconds, reason } = outcome;
    let word = match status {
        Status::Passed => "ok",
        Status::Failed => "FAILED",
        Status::Skipped => "SKIPPED",
    };
    println!("{name:<44} {word:<7} {seconds:6.1} s");
    if let Some(reason) = reason {
        println!("  {reason}");
    }
}

fn bar(total: usize) -> ProgressBar {
    if !ui::on_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_run_is_no_success() {
        let code = |counts: Counts| format!("{:?}", counts.close(&[]));
        assert_eq!(code(Counts::default()), format!("{:?}", ExitCode::FAILURE));
        let good = Counts { passed: 1, ..Counts::default() };
        assert_eq!(code(good), format!("{:?}", ExitCode::SUCCESS));
    }
}
