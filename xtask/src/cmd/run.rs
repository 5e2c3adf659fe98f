//! `run`: from a fresh clone to the prompt of a guest.

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use regex::Regex;

use crate::bundle::{self, Vm};
use crate::choice::Choice;
use crate::cmd::{build, setup};
use crate::console::{self, End, Input, Plan, Report, Verdict};
use crate::qemu::{Board, Machine, Qemu, Serial};
use crate::rpi4::bench::{self, Bench};
use crate::rpi4::firmware::{self, Console};
use crate::rpi4::{BootFolder, Wishes};
use crate::script::{Script, Step};
use crate::ui::say;
use crate::{paths, stock, toolchain};

/// With `--expect` and no `--timeout`: a stock kernel needs a tenth of this on a quiet machine.
const EXPECT_LIMIT: Duration = Duration::from_secs(180);
/// The longest silence before the first prompt.
const SILENCE: Duration = Duration::from_secs(60);

/// Boot Redan under QEMU and give you the guest's console
///
/// Installs what is missing (Rust target, QEMU), builds, fetches a stock Debian arm64 kernel with
/// a busybox user space, and boots it as a guest. On a terminal, leave with Ctrl-A x; what you
/// pipe in is typed at the guest's prompt. After the guest's `poweroff` the exit status is 0 only
/// if the host has every page back.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    guests: Choice,

    /// The board: virt, or rpi4 (QEMU's raspi4b, which boots the SD card that `image` makes)
    #[arg(long, value_name = "BOARD", default_value = "virt", value_parser = ["virt", "rpi4"])]
    board: String,

    /// The interrupt controller of the machine, and so of the guest [default: 3; rpi4 has 2]
    #[arg(long, value_name = "2|3", value_parser = clap::value_parser!(u8).range(2..=3))]
    gic: Option<u8>,

    /// The processor, by QEMU's name: cortex-a53, neoverse-n1, max, ... [default: cortex-a72]
    #[arg(long, value_name = "CPU")]
    cpu: Option<String>,

    /// Processors of the machine, 1 to 8 [default: 1; rpi4 has 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    smp: Option<u8>,

    /// On rpi4: TF-A, from Debian, below EL2 instead of what stands in for the firmware's own stub
    #[arg(long)]
    tf_a: bool,

    /// On rpi4: this card, made by `image`, with the guests and settings that it has
    #[arg(long, value_name = "FILE.img", conflicts_with_all = ["tf_a", "oracle"])]
    card: Option<PathBuf>,

    /// Succeed as soon as a line of the console matches; fail if the guest ends without
    #[arg(long, value_name = "REGEX")]
    expect: Option<Regex>,

    /// Fail after this many seconds [default: none; 180 with --expect]
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,

    /// With the specification beside EL2: slower, and a divergence ends it (docs/assurance.md)
    #[arg(long)]
    oracle: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    args.check()?;
    toolchain::ensure()?;
    let qemu = setup::qemu()?;
    let session = Session::prepare(args, &qemu)?;
    if session.terminal && args.expect.is_none() {
        say("this terminal is the guest's console; leave with Ctrl-A x");
    }
    let terminal = session.terminal;
    let (plan, lock) = session.plan(args);
    let report = console::run(plan)?;
    drop(lock);
    let left = matches!(report.end, End::Exited(status) if status.success());
    if terminal && left && report.verdict.is_none() && args.expect.is_none() {
        eprintln!();
        say("left before the guest powered off, so there is no verdict");
        return Ok(ExitCode::FAILURE);
    }
    Ok(judge(args, &report))
}

impl Args {
    fn is_pi(&self) -> bool {
        self.board == "rpi4"
    }

    /// What the board cannot be.
    fn check(&self) -> Result<()> {
        if self.is_pi() {
            ensure!(self.gic.is_none_or(|gic| gic == 2), "--gic: a Raspberry Pi 4 has a GICv2");
            ensure!(self.smp.is_none_or(|smp| smp == 4), "--smp: a Raspberry Pi 4 has 4 CPUs");
            let cpu = self.cpu.as_deref().unwrap_or("cortex-a72");
            ensure!(cpu == "cortex-a72", "--cpu: a Raspberry Pi 4 has Cortex-A72s");
        } else {
            ensure!(!self.tf_a, "--tf-a: goes with --board rpi4");
            ensure!(self.card.is_none(), "--card: goes with --board rpi4");
        }
        Ok(())
    }

    fn virt(&self, ram_mib: u64) -> Board {
        Board::Virt {
            gic: self.gic.unwrap_or(3),
            cpu: self.cpu.clone().unwrap_or_else(|| "cortex-a72".to_owned()),
            smp: self.smp.unwrap_or(1),
            ram_mib,
        }
    }
}

/// What QEMU is to load.
struct Load {
    board: Board,
    image: Option<PathBuf>,
    initrd: Option<PathBuf>,
}

impl Load {
    fn on_virt(args: &Args, folder: &Path, image: PathBuf, vms: &[Vm]) -> Result<Self> {
        let packed = bundle::pack(vms);
        let initrd = folder.join("bundle.cpio");
        paths::write(&initrd, &packed)?;
        let board =
            args.virt(bundle::with_oracle(bundle::machine_ram_mib(vms, packed.len()), args.oracle));
        Ok(Self { board, image: Some(image), initrd: Some(initrd) })
    }

    /// Does with a card what the board's firmware would do.
    fn card(card: &[u8], folder: &Path, words: &str) -> Result<Self> {
        let [_, (_, ram), ..] = firmware::BOARDS;
        let bench = Bench { words, ram, console: Console::Mini, slot: true };
        Ok(Self { board: bench.board(card, folder)?, image: None, initrd: None })
    }
}

/// The card that `image` would make.
fn make_card(args: &Args, image: &Path, vms: &[Vm]) -> Result<Vec<u8>> {
    let wishes = Wishes { suite: stock::default_suite(), tf_a: args.tf_a, ..Wishes::default() };
    let boot = BootFolder::assemble(image, vms, &wishes)?;
    for advice in boot.advice() {
        say(format!("for a real board, {advice}"));
    }
    bench::image(&boot)
}

/// A machine ready to start.
struct Session {
    cmd: Command,
    nonce: String,
    terminal: bool,
    log: PathBuf,
    /// The bundle and the logs lie in a folder that no other run uses while this is held.
    lock: File,
}

impl Session {
    fn prepare(args: &Args, qemu: &Qemu) -> Result<Self> {
        let (folder, lock) = paths::own_output("run")?;
        let nonce = nonce();
        let append = format!("redan.nonce={nonce}");
        let Load { board, image, initrd } = match &args.card {
            Some(card) => Load::card(&paths::read(card)?, &folder, &append)
                .with_context(|| card.display().to_string())?,
            None => {
                let image = build::redan_img_with(build::HOST, args.oracle)?;
                let vms = args.guests.load()?;
                match args.is_pi() {
                    true => Load::card(&make_card(args, &image, &vms)?, &folder, &append)?,
                    false => Load::on_virt(args, &folder, image, &vms)?,
                }
            }
        };
        let terminal = std::io::stdin().is_terminal();
        let machine = Machine {
            board,
            image,
            initrd,
            append,
            semihosting: false,
            icount: None,
            serial: if terminal { Serial::Terminal } else { Serial::Pipe },
            folder: folder.clone(),
            extra: Vec::new(),
        };
        let cmd = machine.command(qemu);
        Ok(Self { cmd, nonce, terminal, log: folder.join("console.log"), lock })
    }

    fn plan(self, args: &Args) -> (Plan, File) {
        let limit = args.timeout.map(Duration::from_secs);
        let limit = limit.or(args.expect.is_some().then_some(EXPECT_LIMIT));
        let plan = Plan {
            cmd: self.cmd,
            script: Script::new(args.expect.iter().cloned().map(Step::Expect)),
            stop_when_done: args.expect.is_some(),
            nonce: Some(self.nonce),
            echo: true,
            input: if self.terminal { Input::Terminal } else { Input::Forward },
            limit,
            // The caller's own limit is the only one that counts.
            silence: args.timeout.map_or(SILENCE, Duration::from_secs),
            any_panic: false,
            log: Some(self.log),
        };
        (plan, self.lock)
    }
}

/// A word that no guest can guess, so that a verdict with it is the host's.
#[must_use]
pub fn nonce() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

fn judge(args: &Args, report: &Report) -> ExitCode {
    match failure(args.expect.as_ref(), report) {
        None => {
            if args.expect.is_some() {
                eprintln!();
                say("the console showed what was expected");
            }
            ExitCode::SUCCESS
        }
        Some(reason) => {
            eprintln!();
            say(format!("failed: {reason}\n{}", report.tail()));
            ExitCode::FAILURE
        }
    }
}

/// Why the run counts as failed, if it does.
fn failure(expect: Option<&Regex>, report: &Report) -> Option<String> {
    let missing = expect.map(|regex| format!("no line matched `{regex}`"));
    let also = |what: String| match &missing {
        Some(missing) => format!("{missing}; {what}"),
        None => what,
    };
    match (&report.end, &report.verdict) {
        (End::Done, _) => None,
        (End::Panicked, _) => Some(also("Redan itself panicked, which is a bug of ours".into())),
        (End::TimedOut(limit), _) => {
            Some(also(format!("the limit of {} s passed", limit.as_secs())))
        }
        (End::Silent(limit), _) => {
            Some(also(format!("no output for {} s; use --timeout to wait longer", limit.as_secs())))
        }
        (End::Abandoned(limit), _) => Some(format!(
            "the input has ended and there was no output for {} s; use --timeout to wait longer",
            limit.as_secs()
        )),
        (End::Exited(_), Some(Verdict::Ok)) => {
            missing.is_some().then(|| also("the guest ended".into()))
        }
        (End::Exited(_), Some(Verdict::Failed(why))) => Some(also(format!("the host says: {why}"))),
        (End::Exited(status), None) => {
            Some(also(format!("QEMU ended ({status}) before the host gave its verdict")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;
    use crate::screen::Screen;

    fn why(expect: Option<&str>, end: End, verdict: Option<Verdict>) -> Option<String> {
        let (script, screen) = (Script::default(), Screen::default());
        let report = Report { end, verdict, script, screen, stderr: String::new() };
        failure(expect.map(|e| Regex::new(e).unwrap()).as_ref(), &report)
    }

    #[test]
    fn a_run_that_ends_without_the_expected_line_fails_and_says_all_that_went_wrong() {
        let exited = End::Exited(ExitStatus::from_raw(0));
        assert_eq!(why(Some("x"), End::Done, None), None);
        assert_eq!(
            why(Some("x"), exited.clone(), Some(Verdict::Ok)).unwrap(),
            "no line matched `x`; the guest ended"
        );
        let failed = Verdict::Failed("3 pages are stuck".into());
        let reason = why(Some("x"), exited.clone(), Some(failed)).unwrap();
        assert!(reason.contains("`x`") && reason.ends_with("3 pages are stuck"), "{reason}");
        let reason = why(Some("x"), exited, None).unwrap();
        assert!(reason.contains("`x`; QEMU ended"), "{reason}");
        let silent = End::Silent(Duration::from_secs(60));
        assert!(why(Some("x"), silent, None).unwrap().ends_with("use --timeout to wait longer"));
    }

    #[test]
    fn without_an_expected_line_only_the_verdict_of_the_host_makes_a_success() {
        let exited = End::Exited(ExitStatus::from_raw(0));
        assert_eq!(why(None, exited.clone(), Some(Verdict::Ok)), None);
        assert!(why(None, exited.clone(), Some(Verdict::Failed("x".into()))).is_some());
        assert!(why(None, exited, None).unwrap().contains("before the host gave its verdict"));
    }
}
