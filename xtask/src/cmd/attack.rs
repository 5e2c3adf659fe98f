//! `attack`: a hostile host with hostile guests, or a hostile guest under our own host, for as long
//! as one likes.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use regex::Regex;

use crate::bundle::{self, Changes, Vm};
use crate::cmd::{build, run, setup};
use crate::console::{self, End, Input, Plan, Report, Verdict};
use crate::qemu::{Board, Machine, Serial};
use crate::script::{Script, Step};
use crate::ui::say;
use crate::{paths, toolchain};

/// The attacker among the programs of tests/guests.
const PAYLOAD: &str = "host_attack";
/// The hostile guest among them.
const GUEST: &str = "guest_attack";
/// What it needs.
const GUEST_MIB: u64 = 64;
/// Its last words when it found nothing.
const GUEST_SATISFIED: &str = "^guest_attack: ok";
/// Where the host gets its RAM: enough for EL2, the payload and what they share.
const RAM_MIB: u64 = 128;
/// No machine is so slow that it makes fewer calls in a second.
const SLOWEST: u64 = 200;

/// Attack EL2 from a hostile host and from hostile guests, or both of our own from a guest
///
/// Random and scripted hypercalls beside their specification, system registers, SMCs, loads and
/// stores all over the physical address space, and guests of random code; with canaries in all
/// that must not change. The first thing that is wrong ends the run. The exit status is 0 only if
/// nothing was found. A seed repeats the host's doings exactly on one processor; how far a guest comes
/// before its time is up depends on the machine. On several processors each keeps to its own pages and
/// VMs in some rounds, where every answer is foreseen, and races the others for common ones in the
/// rest; which of them wins is up to the machine. With `--icount` all of it is repeated. With `--guest` a hostile guest runs under the host shim
/// instead.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What the generator starts from [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// How many hypercalls, or operations of the hostile guest
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,

    /// Processors of the machine, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    smp: u8,

    /// Attack the host shim and EL2 from a guest
    #[arg(long)]
    guest: bool,

    /// Virtual processors of the hostile guest, 1 to 8
    #[arg(long, value_name = "M", requires = "guest", value_parser = clap::value_parser!(u8).range(1..=8))]
    vcpus: Option<u8>,

    /// The interrupt controller of the machine
    #[arg(long, value_name = "2|3", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    gic: u8,

    /// The processor, by QEMU's name: cortex-a53, cortex-a72, neoverse-n1, max, ...
    #[arg(long, value_name = "CPU", default_value = "cortex-a72")]
    cpu: String,

    /// The repeatable lane: count instructions, run all processors in turn on one thread
    #[arg(long, conflicts_with = "guest")]
    icount: bool,

    /// With the specification beside EL2 as well, which looks at every call from inside
    #[arg(long)]
    oracle: bool,

    /// Attack protected VMs too [comes with them]
    #[arg(long)]
    protected: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    args.refuse_what_comes_later()?;
    toolchain::ensure()?;
    let qemu = setup::qemu()?;
    let el1 = if args.guest { build::HOST } else { PAYLOAD };
    let image = build::redan_img_with(el1, args.oracle)?;
    let seed = args.seed.unwrap_or_else(new_seed);
    let folder = paths::output("attack")?;
    let nonce = run::nonce();
    let (mut ram_mib, mut initrd, mut script) = (RAM_MIB, None, Script::default());
    if args.guest {
        let vms = [args.hostile_guest(seed)?];
        let packed = bundle::pack(&vms);
        ram_mib = bundle::machine_ram_mib(&vms, packed.len());
        let file = folder.join("bundle.cpio");
        paths::write(&file, &packed)?;
        initrd = Some(file);
        script = Script::new([Step::Expect(Regex::new(GUEST_SATISFIED)?)]);
    }
    let counted = if args.icount { " redan.counted" } else { "" };
    let machine = Machine {
        board: Board::Virt { gic: args.gic, cpu: args.cpu.clone(), smp: args.smp, ram_mib },
        image: Some(image),
        initrd,
        append: format!(
            "redan.nonce={nonce} redan.seed={seed} redan.calls={}{counted}",
            args.calls
        ),
        // Random guest code runs here, and EL2 cannot trap semihosting.
        semihosting: false,
        icount: args.icount.then_some(0),
        serial: Serial::Pipe,
        folder: folder.clone(),
        extra: Vec::new(),
    };
    let limit = Duration::from_secs(60 + args.calls / SLOWEST);
    let report = console::run(Plan {
        cmd: machine.command(&qemu),
        script,
        stop_when_done: false,
        nonce: Some(nonce),
        echo: true,
        input: Input::Script,
        limit: Some(limit),
        silence: limit,
        any_panic: true,
        log: Some(folder.join("console.log")),
    })?;
    let found = finding(&report);
    match &found {
        None => say(format!("nothing was found with seed {seed}")),
        Some(what) => say(format!("found: {what}\n{}", report.tail())),
    }
    say(format!("repeat it with: {}", args.command(seed)));
    Ok(if found.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    fn refuse_what_comes_later(&self) -> Result<()> {
        ensure!(!self.protected, "--protected: comes with the issue for protected VMs");
        Ok(())
    }

    /// The VM of the hostile guest.
    fn hostile_guest(&self, seed: u64) -> Result<Vm> {
        let text = format!(
            "name = \"attack\"\nkernel = \"payload:{GUEST}\"\nmemory_mib = {GUEST_MIB}\n\
             cmdline = \"attack.seed={seed} attack.calls={}\"\n",
            self.calls
        );
        let changes = Changes { vcpus: self.vcpus, ..Changes::default() };
        Vm::from_text("--guest", &text, Path::new("."), &changes)
    }

    /// The command that does the same again.
    fn command(&self, seed: u64) -> String {
        let Self { calls, smp, gic, cpu, .. } = self;
        let oracle = if self.oracle { " --oracle" } else { "" };
        let icount = if self.icount { " --icount" } else { "" };
        let guest = match (self.guest, self.vcpus) {
            (true, Some(vcpus)) => format!(" --guest --vcpus {vcpus}"),
            (true, None) => " --guest".to_owned(),
            _ => String::new(),
        };
        format!(
            "cargo xtask attack --seed {seed} --calls {calls} --smp {smp} --gic {gic} --cpu {cpu}\
             {guest}{icount}{oracle}"
        )
    }
}

/// A seed that nobody has chosen.
pub(super) fn new_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 32
}

/// What is wrong with a run. Only an explicit verdict is a success.
fn finding(report: &Report) -> Option<String> {
    match (&report.end, &report.verdict) {
        (End::Exited(_), Some(Verdict::Ok)) => {
            let missing = report.script.waiting_for();
            missing.map(|line| format!("the guest found something, for no line matched `{line}`"))
        }
        (End::Exited(_), Some(Verdict::Failed(what))) => Some(what.clone()),
        (End::Exited(status), None) => Some(format!("the machine ended ({status}) by itself")),
        (End::TimedOut(limit), _) => Some(format!("nothing ended within {} s", limit.as_secs())),
        (End::Panicked, _) => Some("something panicked".into()),
        (end, _) => Some(format!("an unforeseen end: {end:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::Screen;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn args() -> Args {
        Args {
            seed: None,
            calls: 1000,
            smp: 4,
            guest: false,
            vcpus: None,
            gic: 2,
            cpu: "max".into(),
            icount: false,
            oracle: false,
            protected: false,
        }
    }

    fn report(end: End, verdict: Option<Verdict>) -> Report {
        let (script, screen) = (Script::default(), Screen::default());
        Report { end, verdict, script, screen, stderr: String::new() }
    }

    #[test]
    fn what_comes_later_is_refused_by_name() {
        assert!(args().refuse_what_comes_later().is_ok());
        let protected = Args { protected: true, ..args() }.refuse_what_comes_later().unwrap_err();
        assert!(protected.to_string().contains("--protected"));
    }

    #[test]
    fn the_command_to_repeat_names_everything_that_matters() {
        let command = args().command(7);
        assert_eq!(command, "cargo xtask attack --seed 7 --calls 1000 --smp 4 --gic 2 --cpu max");
        let command = Args { guest: true, vcpus: Some(3), ..args() }.command(7);
        assert!(command.ends_with(" --guest --vcpus 3"), "{command}");
        let command = Args { icount: true, oracle: true, ..args() }.command(7);
        assert!(command.ends_with(" --icount --oracle"), "{command}");
    }

    #[test]
    fn only_an_explicit_verdict_is_a_success() {
        let exited = || End::Exited(ExitStatus::from_raw(0));
        assert_eq!(finding(&report(exited(), Some(Verdict::Ok))), None);
        let mut unsatisfied = report(exited(), Some(Verdict::Ok));
        unsatisfied.script = Script::new([Step::Expect(Regex::new(GUEST_SATISFIED).unwrap())]);
        assert!(finding(&unsatisfied).is_some());
        assert!(finding(&report(exited(), None)).is_some());
        assert!(finding(&report(exited(), Some(Verdict::Failed("x".into())))).is_some());
        assert!(finding(&report(End::Panicked, Some(Verdict::Ok))).is_some());
        assert!(finding(&report(End::TimedOut(Duration::ZERO), None)).is_some());
    }
}
