//! `soak`: everything that gets better the longer it runs, in turn, for as long as one likes.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::child::{Finished, Task, last_lines};
use crate::cmd::attack::new_seed;
use crate::cmd::{build, fuzz, setup};
use crate::fuzzer::{self, Fuzzer, Limits};
use crate::ui::{Step, say};
use crate::{paths, toolchain};

/// Steps of each of the three random hosts that one run compares.
const STEPS: u64 = 300_000;
/// Hypercalls of one attack.
const CALLS: u64 = 20_000;
/// Schedules of each kind for each model of shuttle in one run.
const SCHEDULES: u64 = 1_000;
/// The machines that are attacked, one after the other: GIC, CPU, number of CPUs.
const MACHINES: [(u8, &str, u8); 8] = [
    (3, "cortex-a72", 1),
    (2, "max", 2),
    (3, "max", 4),
    (2, "cortex-a72", 1),
    (3, "neoverse-n1", 2),
    (2, "cortex-a53", 4),
    (3, "cortex-a72", 8),
    (2, "cortex-a72", 8),
];
/// No single run takes longer, whatever happens.
const LIMIT: Duration = Duration::from_secs(3600);
/// Building for a test, cold, on two slow cores.
const BUILD: Duration = Duration::from_secs(1200);

/// Run all long forms in turn, within a given time
///
/// Random hosts against the specification, races of four CPUs under shuttle's schedules, the fuzz targets
/// (where the nightly toolchain is), hostile hosts and hostile guests on machines of 1 to 8 CPUs with either GIC, and the rows of
/// tests/qemu.toml that nothing else runs (`soak = true`). Each gets its share of the time; what is built
/// beforehand does not count. All seeds follow from one, which is printed: the same seed gives the same
/// runs. The first finding ends it, with the command that repeats it. The exit status is 0 only if nothing
/// was found.
#[derive(clap::Args)]
pub struct Args {
    /// How long, without building
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,

    /// What all seeds follow from [default: another one each time]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    seed: Option<u64>,
}

/// One kind of long form.
struct Part {
    name: &'static str,
    /// Its share of the time, relative to the others'.
    weight: u32,
    form: Form,
}

enum Form {
    Random,
    Schedules,
    Fuzz(Fuzzer, Vec<String>),
    Attack,
    /// Rows of the registry, by their full names.
    Rows(Vec<String>),
}

/// What one run did.
struct Run {
    what: String,
    finding: Option<String>,
}

/// What became of a part.
#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    name: &'static str,
    runs: u64,
    seconds: u64,
    last: String,
    found: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| new_seed().max(1));
    let time = Duration::from_secs(args.minutes.saturating_mul(60));
    let (parts, left_out) = prepare()?;
    say(format!("{} minutes from here; seed {seed}", args.minutes));
    let mut lines = Vec::new();
    let mut finding = None;
    let begun = Instant::now();
    for (at, part) in parts.iter().enumerate() {
        let left = time.saturating_sub(begun.elapsed());
        let share = share(left, parts.iter().skip(at).map(|part| part.weight));
        say(format!("{}, {} s", part.name, share.as_secs()));
        let (line, found) = part.soak(seed, share)?;
        lines.push(line);
        finding = found;
        if finding.is_some() {
            break;
        }
    }
    print!("{}", table(&lines));
    for what in left_out {
        println!("left out: {what}");
    }
    if let Some(finding) = finding {
        println!(
            "{finding}\nthe whole run: cargo xtask soak --minutes {} --seed {seed}",
            args.minutes
        );
        return Ok(ExitCode::FAILURE);
    }
    println!("nothing was found in {} minutes with seed {seed}", args.minutes);
    Ok(ExitCode::SUCCESS)
}

/// Of the time that is left the part of the first of these weights.
fn share(left: Duration, mut weights: impl Iterator<Item = u32>) -> Duration {
    let first = weights.next().unwrap_or(1);
    left * first / (first + weights.sum::<u32>()).max(1)
}

/// Builds everything, and says what must be left out.
fn prepare() -> Result<(Vec<Part>, Vec<String>)> {
    toolchain::ensure()?;
    setup::qemu()?;
    let _step = Step::new("building everything");
    build::all()?;
    let mut cmd = random();
    cmd.arg("--no-run");
    Task::new("cargo test --no-run", cmd, BUILD).stdout()?;
    let mut with_oracle = xtask()?;
    with_oracle.args(["attack", "--oracle", "--calls", "1", "--seed", "1"]);
    Task::new("an attack with the oracle", with_oracle, BUILD).stdout()?;
    // Fewer schedules need not find what an open lock lets happen.
    let mut models = xtask()?;
    models.args(["shuttle", "--schedules", "100", "--seed", "1"]);
    Task::new("shuttle's models", models, BUILD).stdout()?;
    let mut parts = vec![
        Part { name: "random hosts", weight: 2, form: Form::Random },
        Part { name: "schedules", weight: 1, form: Form::Schedules },
    ];
    let mut left_out = Vec::new();
    if fuzzer::is_at_hand() {
        let form = Form::Fuzz(Fuzzer::build()?, fuzzer::targets()?);
        parts.push(Part { name: "fuzz targets", weight: 4, form });
    } else {
        left_out.push("the fuzz targets (rustup toolchain install nightly)".to_owned());
    }
    parts.push(Part { name: "attackers", weight: 3, form: Form::Attack });
    let rows = rows()?;
    if rows.is_empty() {
        left_out.push("QEMU tests: no row of tests/qemu.toml has `soak = true`".to_owned());
    } else {
        parts.push(Part { name: "long QEMU tests", weight: 3, form: Form::Rows(rows) });
    }
    Ok((parts, left_out))
}

/// The rows that only we run.
fn rows() -> Result<Vec<String>> {
    let mut cmd = xtask()?;
    cmd.args(["qemu-test", "--soak", "--list"]);
    let list = Task::new("cargo xtask qemu-test --soak --list", cmd, BUILD).stdout()?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| name.ends_with(']')).map(ToOwned::to_owned).collect())
}

impl Part {
    /// Runs it again and again until its share is used up, or something is found.
    fn soak(&self, seed: u64, share: Duration) -> Result<(Line, Option<String>)> {
        let begun = Instant::now();
        let mut line = Line { name: self.name, ..Line::default() };
        let mut finding = None;
        while finding.is_none() && begun.elapsed() < share {
            let left = share.saturating_sub(begun.elapsed());
            let Some(run) = self.form.run(seed, line.runs, left)? else { break };
            line.runs += 1;
            line.last = run.what;
            finding = run.finding;
        }
        line.seconds = begun.elapsed().as_secs();
        line.found = finding.is_some();
        Ok((line, finding))
    }
}

impl Form {
    /// Run number `n`; `None` if there is no such run.
    fn run(&self, seed: u64, n: u64, left: Duration) -> Result<Option<Run>> {
        match self {
            Self::Random => {
                let (seed, steps) = ((seed + 3 * n).to_string(), STEPS.to_string());
                let mut cmd = random();
                cmd.env("REDAN_SEED", &seed).env("REDAN_STEPS", &steps);
                let again = format!(
                    "REDAN_SEED={seed} REDAN_STEPS={steps} cargo test --release -p props --test random"
                );
                judged("random hosts", cmd, again, format!("random hosts, seed {seed}")).map(Some)
            }
            Self::Schedules => {
                let args =
                    format!("shuttle --schedules {SCHEDULES} --seed {}", seed.wrapping_add(n));
                let mut cmd = xtask()?;
                cmd.args(args.split(' '));
                judged("shuttle", cmd, format!("cargo xtask {args}"), args).map(Some)
            }
            Self::Fuzz(fuzzer, targets) => {
                let at = usize::try_from(n).unwrap_or(usize::MAX);
                let Some(target) = targets.get(at) else { return Ok(None) };
                let time = left / u32::try_from(targets.len() - at).unwrap_or(1);
                let seed = u32::try_from(seed.wrapping_add(n)).unwrap_or(1);
                let report = fuzzer.run(target, Limits { time, jobs: 1, seed })?;
                say(format!("{target}: {}", report.brief()));
                let what = format!("{target}: {}", report.brief());
                let finding = report.finding.map(|finding| fuzz::tell(target, &finding));
                Ok(Some(Run { what, finding }))
            }
            Self::Attack => {
                let args = attack(seed, n);
                let mut cmd = xtask()?;
                cmd.args(args.split(' '));
                judged("the attacker", cmd, format!("cargo xtask {args}"), args).map(Some)
            }
            Self::Rows(rows) => {
                let at = usize::try_from(n).unwrap_or(usize::MAX);
                // Not always the same ones first, if the time does not suffice for all.
                let from = usize::try_from(seed).unwrap_or(0) % rows.len();
                let Some(row) = rows.iter().cycle().skip(from).take(rows.len()).nth(at) else {
                    return Ok(None);
                };
                let mut cmd = xtask()?;
                cmd.args(["qemu-test", "--soak", row]);
                let again = format!("cargo xtask qemu-test --soak '{row}'");
                judged(row, cmd, again, row.clone()).map(Some)
            }
        }
    }
}

/// Attack number `n`: from a host, from a guest, and from a host with the specification beside EL2, on
/// every machine in turn.
fn attack(seed: u64, n: u64) -> String {
    let nth = |n: u64, of: usize| usize::try_from(n).unwrap_or(0) % of;
    let (gic, cpu, smp) = MACHINES[nth(n / 3, MACHINES.len())];
    let how = match n % 3 {
        0 => String::new(),
        1 => format!(" --guest --vcpus {}", [2, 4, 1, 8][nth(n / 3, 4)]),
        _ => " --oracle".to_owned(),
    };
    let seed = seed + n;
    format!("attack --seed {seed} --calls {CALLS} --gic {gic} --cpu {cpu} --smp {smp}{how}")
}

/// A run whose exit status tells whether something was found.
fn judged(what: &str, cmd: Command, again: String, short: String) -> Result<Run> {
    let step = Step::new(&short);
    let done = Task::new(what, cmd, LIMIT).capture();
    drop(step);
    let finding = match done {
        Ok(Finished { status, .. }) if status.success() => None,
        Ok(done) => {
            let said = last_lines(&done.stdout, 30) + "\n" + &last_lines(&done.stderr, 10);
            Some(format!("found by {what}:\n{said}\nrepeat it with: {again}"))
        }
        Err(why) => Some(format!("{why:#}\nrepeat it with: {again}")),
    };
    Ok(Run { what: short, finding })
}

/// The random comparison, as it is built for long runs.
fn random() -> Command {
    let mut cmd = paths::cargo();
    cmd.args(["test", "--release", "-p", "props", "--test", "random"]);
    // These are no images.
    cmd.env("CARGO_PROFILE_RELEASE_LTO", "off");
    cmd.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    cmd
}

fn xtask() -> Result<Command> {
    let mut cmd = Command::new(std::env::current_exe().context("who are we?")?);
    cmd.current_dir(paths::root());
    Ok(cmd)
}

fn table(lines: &[Line]) -> String {
    let mut text = format!("{:<18}{:>6}{:>9}  {:<8}the last of them\n", "", "runs", "seconds", "");
    for line in lines {
        let result = if line.found { "FOUND" } else { "ok" };
        text += &format!(
            "{:<18}{:>6}{:>9}  {result:<8}{}\n",
            line.name, line.runs, line.seconds, line.last
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_gets_its_share_of_what_is_left() {
        let minute = Duration::from_secs(60);
        assert_eq!(share(minute, [1, 2, 3].into_iter()), Duration::from_secs(10));
        assert_eq!(share(minute, [3].into_iter()), minute);
        assert_eq!(share(Duration::ZERO, [3, 1].into_iter()), Duration::ZERO);
    }

    #[test]
    fn a_failing_run_says_how_to_repeat_it() {
        let sh = |script: &str| {
            let mut cmd = Command::new("sh");
            cmd.args(["-c", script]);
            judged("it", cmd, "do it again".into(), "it".into()).unwrap()
        };
        assert!(sh("true").finding.is_none());
        let finding = sh("echo why; exit 1").finding.unwrap();
        assert!(finding.contains("why") && finding.contains("repeat it with: do it again"));
    }

    #[test]
    fn every_kind_of_attack_meets_every_machine() {
        let all: std::collections::BTreeSet<String> =
            (0..24).map(|n| attack(7, n).split_once("--gic").unwrap().1.to_owned()).collect();
        assert_eq!(all.len(), 24);
        assert_eq!(attack(7, 24), attack(31, 0));
    }

    #[test]
    fn runs_without_end_are_of_new_seeds_and_the_rest_has_an_end() {
        let rows = Form::Rows(vec!["a[x]".into()]);
        assert!(rows.run(7, 1, Duration::ZERO).unwrap().is_none());
    }

    #[test]
    fn the_table_names_what_found_something() {
        let ok = Line { name: "one", runs: 3, seconds: 10, last: "x".into(), found: false };
        let bad = Line { name: "two", found: true, ..Line::default() };
        let text = table(&[ok, bad]);
        assert!(text.lines().nth(1).unwrap().contains("ok"));
        assert!(text.lines().nth(2).unwrap().contains("FOUND"));
    }
}
