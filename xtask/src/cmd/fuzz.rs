//! `fuzz`: libFuzzer on everything that reads what others wrote.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::cmd::attack::new_seed;
use crate::fuzzer::{Finding, Fuzzer, Limits, targets};
use crate::paths;
use crate::ui::{Step, say};

/// Feed made-up input to everything that reads input
///
/// Needs the nightly toolchain, cargo-fuzz and a C++ compiler; the first two are installed if they are
/// missing (cargo-fuzz into the cache). Starts from the seeds in tests/fuzz/seeds and from what
/// earlier runs have added to the corpus in the cache. The first finding ends it. The exit status is
/// 0 only if nothing was found. `cargo test -p fuzz-bodies` runs the seeds without nightly.
#[derive(clap::Args)]
pub struct Args {
    /// Only this target; all in turn otherwise [see: tests/fuzz/seeds]
    #[arg(value_name = "TARGET")]
    target: Option<String>,

    /// How long, for each target
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,

    /// How many processes at a time
    #[arg(long, value_name = "J", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,

    /// What the mutations start from [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u32>,

    /// Run this input, once, instead of making up others
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let known = targets()?;
    let wanted = match &args.target {
        None => known,
        Some(name) => {
            ensure!(known.contains(name), "no target `{name}`: there are {}", known.join(", "));
            vec![name.clone()]
        }
    };
    let step = Step::new("building the fuzz targets");
    let fuzzer = Fuzzer::build()?;
    drop(step);
    if let (Some(target), Some(input)) = (&args.target, &args.input) {
        if !fuzzer.once(target, input)? {
            bail!("{target} fails on {}", input.display())
        }
        return Ok(ExitCode::SUCCESS);
    }
    let seed = args.seed.unwrap_or_else(|| u32::try_from(new_seed() >> 1).unwrap_or(1));
    let time = Duration::from_secs(args.minutes.saturating_mul(60));
    say(format!("{}: {} min each, seed {seed}", wanted.join(", "), args.minutes));
    for target in wanted {
        let report = fuzzer.run(&target, Limits { time, jobs: args.jobs, seed })?;
        println!("{target:<12} {}", report.brief());
        if let Some(finding) = report.finding {
            println!("{}", tell(&target, &finding));
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A finding, how to see it again, and what becomes of it.
pub(super) fn tell(target: &str, finding: &Finding) -> String {
    let said = format!("found in {target}:\n{}", finding.said);
    let Some(input) = &finding.input else { return said };
    let input = input.strip_prefix(paths::root()).unwrap_or(input).display();
    format!(
        "{said}\nrepeat it with: cargo xtask fuzz {target} --input {input}\nkeep it with:   cp {input} \
         tests/fuzz/seeds/{target}/NAME && cargo test -p fuzz-bodies {target}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_how_to_repeat_it() {
        let input = Some(paths::root().join("target/redan/fuzz/dtb-crash-1"));
        let said = tell("dtb", &Finding { input, said: "it panicked".into() });
        assert!(said.contains("it panicked"));
        assert!(said.contains("cargo xtask fuzz dtb --input target/redan/fuzz/dtb-crash-1"));
        let silent = tell("dtb", &Finding { input: None, said: "gone".into() });
        assert_eq!(silent, "found in dtb:\ngone");
    }
}
