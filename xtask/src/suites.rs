//! The tests that need no QEMU, as parts of `qemu-test`: the workspace's own, and the short forms of
//! what explores schedules or breaks the sources.
//!
//! Knows how to run each and how to count what it did; does not know what is in them.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use regex::Regex;

use crate::child::{Task, last_lines};
use crate::paths;
use crate::ui::Step;

/// Building and running any of them, cold, on two slow cores.
const LIMIT: Duration = Duration::from_secs(1200);

/// All of them, in the order in which they run.
pub const SUITES: [Suite; 4] = [
    Suite { name: "host-side", about: "cargo test --workspace", how: How::Cargo },
    Suite {
        name: "loom",
        about: "cargo xtask loom: every interleaving at the locks",
        how: How::Xtask(&["loom"]),
    },
    Suite {
        name: "shuttle",
        about: "cargo xtask shuttle: races of four CPUs over the whole core",
        how: How::Xtask(&["shuttle", "--schedules", "100", "--seed", "1"]),
    },
    Suite {
        name: "mutants-sample",
        about: "cargo xtask mutants --sync --sample 8: are missing barriers noticed?",
        how: How::Xtask(&["mutants", "--sync", "--sample", "8"]),
    },
];

/// A set of tests that one command runs.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// What FILTER and reports call it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Cargo,
    /// One of our own commands.
    Xtask(&'static [&'static str]),
}

/// What became of a suite.
#[derive(Debug)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed; at least one if the command failed.
    pub failed: usize,
    /// From start to end, with building.
    pub seconds: f64,
    /// What it said about failures; empty if there was none.
    pub said: String,
}

impl Suite {
    /// Runs it to its end.
    ///
    /// # Errors
    /// The command cannot be put together. That it fails is no error but a count.
    pub fn run(&self) -> Result<Tally> {
        let start = Instant::now();
        let step = Step::new(&format!("{} ({})", self.name, self.about));
        let done = Task::new(self.name, self.command()?, LIMIT).capture();
        drop(step);
        let (passed, failed, said) = match done {
            Ok(done) => {
                let (passed, failed) = count(&done.stdout, done.status.success());
                (passed, failed, done.stdout + &done.stderr)
            }
            Err(error) => (0, 1, format!("{error:#}")),
        };
        let said = if failed > 0 { last_lines(failures_of(&said), 80) } else { String::new() };
        Ok(Tally { passed, failed, seconds: start.elapsed().as_secs_f64(), said })
    }

    fn command(&self) -> Result<Command> {
        Ok(match self.how {
            How::Cargo => {
                let mut cmd = paths::cargo();
                cmd.args(["test", "--workspace", "--no-fail-fast"]);
                cmd
            }
            How::Xtask(args) => {
                let mut cmd = Command::new(std::env::current_exe().context("who are we?")?);
                cmd.current_dir(paths::root()).args(args);
                cmd
            }
        })
    }
}

/// How many tests passed and failed: the sums of the summary lines, libtest's and our own. A command that
/// fails without naming a test counts as a failed test.
fn count(output: &str, success: bool) -> (usize, usize) {
    let Ok(summary) = Regex::new(
        r"^(?:test result: \w+\. (\d+) passed; (\d+) failed;|(\d+) noticed, (\d+) not$)",
    ) else {
        return (0, 1);
    };
    let (passed, failed) = output
        .lines()
        .filter_map(|line| summary.captures(line))
        .map(|found| {
            let number =
                |at: usize| found.get(at).and_then(|m| m.as_str().parse().ok()).unwrap_or(0);
            (number(1) + number(3), number(2) + number(4))
        })
        .fold((0, 0), |(p, f), (passed, failed): (usize, usize)| (p + passed, f + failed));
    (passed, failed + usize::from(failed == 0 && (!success || passed == 0)))
}

/// Of a long log what helps: from the first failure or error on.
fn failures_of(said: &str) -> &str {
    let marks = ["\nfailures:\n", "\nerror", "\nNOT NOTICED"];
    let start = marks.iter().filter_map(|mark| said.find(mark)).min();
    said.get(start.unwrap_or(0)..).unwrap_or(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_all_test_programs_are_added() {
        let output = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored;\n\
                      test result: FAILED. 3 passed; 1 failed; 0 ignored;\n";
        assert_eq!(count(output, false), (5, 1));
        assert_eq!(count("8 noticed, 0 not\n", true), (8, 0));
        assert_eq!(count("7 noticed, 1 not\n", false), (7, 1));
    }

    #[test]
    fn a_suite_that_says_nothing_or_breaks_has_failed() {
        assert_eq!(count("", true), (0, 1));
        assert_eq!(count("test result: ok. 2 passed; 0 failed;\n", false), (2, 1));
    }

    #[test]
    fn a_long_log_is_cut_to_its_failures() {
        assert_eq!(failures_of("lots\nfailures:\nx"), "\nfailures:\nx");
        assert_eq!(failures_of("short"), "short");
    }
}
