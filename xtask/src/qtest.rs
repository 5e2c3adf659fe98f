//! One QEMU test: from its row in the registry to "passed" or a reason.
//!
//! The rules of docs/architecture.md, "Verdicts": only an explicit verdict is a success, and a
//! panic of ours anywhere is a failure whatever the verdict says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use regex::Regex;

use crate::bundle::{self, Changes, Vm};
use crate::cmd::{build, run};
use crate::console::{self, End, Input, Plan, Report, Verdict as HostVerdict};
use crate::qemu::{Board, Machine, Qemu, Serial};
use crate::registry::{Armstub, BoardName, Bundle, Dtb, Kernel, Test, Verdict};
use crate::rpi4::bench::{self, Bench};
use crate::rpi4::firmware::BOARDS;
use crate::rpi4::{self, BootFolder, Wishes};
use crate::{hostile, paths, stock};

/// Under this name [`fetch_for`] says that the board's device tree cannot be had.
const RPI4: &str = "rpi4";
/// The same of TF-A for it.
const TF_A: &str = "rpi4 tf-a";
/// Silence is not a failure of its own in a test: its timeout is.
const NEVER: Duration = Duration::from_secs(u64::MAX / 4);

/// One combination of a test's matrix.
#[derive(Clone, Debug)]
pub struct Case {
    /// The row.
    pub test: Test,
    /// Which board; the Raspberry Pi 4 comes with the GIC, the CPUs and their number below.
    pub board: BoardName,
    /// GIC version.
    pub gic: u8,
    /// CPU model.
    pub cpu: String,
    /// How many CPUs.
    pub smp: u8,
    /// In the repeatable lane.
    pub icount: bool,
    /// With the specification beside EL2.
    pub oracle: bool,
    /// So many times as long as its row says it may take.
    pub patience: u32,
}

/// What the command line asks of every test, whatever its row says.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    /// These numbers of CPUs, in place of those of the row, if there are any.
    pub smp: Vec<u8>,
    /// Of the row's GIC versions only these, if there are any.
    pub gic: Vec<u8>,
    /// These CPU models, in place of those of the row, if there are any.
    pub cpu: Vec<String>,
    /// The repeatable lane, where the row does not refuse it; or the other.
    pub icount: Option<bool>,
    /// With the specification beside EL2, and not without.
    pub oracle: bool,
}

impl Lane {
    /// Whether a machine that comes in one size is one of those asked for.
    fn has(&self, smp: u8, gic: u8, cpu: &str) -> bool {
        (self.smp.is_empty() || self.smp.contains(&smp))
            && self.has_gic(gic)
            && (self.cpu.is_empty() || self.cpu.iter().any(|asked| asked == cpu))
    }

    fn has_gic(&self, gic: u8) -> bool {
        self.gic.is_empty() || self.gic.contains(&gic)
    }

    /// How much longer tests may take than their rows say: those are of the machines of the rows.
    const fn patience(&self) -> u32 {
        let as_it_says = self.smp.is_empty() && self.cpu.is_empty() && self.icount.is_none();
        if as_it_says { 1 } else { 4 }
    }
}

impl Case {
    /// All combinations of `test` in a lane.
    #[must_use]
    pub fn all(test: &Test, lane: &Lane) -> Vec<Self> {
        let smps = if lane.smp.is_empty() { &test.smp } else { &lane.smp };
        let cpus = if lane.cpu.is_empty() { &test.cpu } else { &lane.cpu };
        let (oracle, patience) = (lane.oracle, lane.patience());
        let icount = match lane.icount {
            Some(true) => test.icount.unwrap_or(true),
            Some(false) => false,
            None => test.icount.unwrap_or(false),
        };
        let case = |board, gic, cpu: &str, smp| {
            let (test, cpu) = (test.clone(), cpu.to_owned());
            Self { test, board, gic, cpu, smp, icount, oracle, patience }
        };
        let mut cases = Vec::new();
        if test.board.contains(&BoardName::Virt) {
            let gics = test.gic.iter().filter(|gic| lane.has_gic(**gic));
            for (gic, cpu) in gics.flat_map(|gic| cpus.iter().map(move |cpu| (gic, cpu))) {
                cases.extend(smps.iter().map(|smp| case(BoardName::Virt, *gic, cpu, *smp)));
            }
        }
        if test.board.contains(&BoardName::Rpi4) && lane.has(4, 2, "cortex-a72") {
            cases.push(case(BoardName::Rpi4, 2, "cortex-a72", 4));
        }
        if test.oracle && !oracle {
            let first =
                |case: &&Self| case.board == BoardName::Rpi4 || cpus.first() == Some(&case.cpu);
            let again = cases.iter().filter(first).cloned();
            let again: Vec<_> = again.map(|case| Self { oracle: true, ..case }).collect();
            cases.extend(again);
        }
        cases
    }

    /// How it is called in lists and reports.
    #[must_use]
    pub fn name(&self) -> String {
        let Self { test, board, gic, cpu, smp, icount, oracle, .. } = self;
        let lane = match (icount, oracle) {
            (false, false) => "",
            (true, false) => ",icount",
            (false, true) => ",oracle",
            (true, true) => ",icount,oracle",
        };
        match board {
            BoardName::Virt => format!("{}[gic{gic},{cpu},smp{smp}{lane}]", test.name),
            BoardName::Rpi4 => format!("{}[rpi4{lane}]", test.name),
        }
    }

    /// The name, without what a shell or QEMU might read otherwise.
    fn file_name(&self) -> String {
        self.name().replace(['[', ','], "-").replace(']', "")
    }

    /// Run it. `Ok(Some(reason))` is a test that failed; `Err` is a machine that could not be
    /// set up, which fails the test too.
    pub fn run(&self, qemu: &Qemu) -> Result<Option<String>> {
        let folder = paths::output("qemu-test")?.join(self.file_name());
        paths::create(&folder)?;
        let nonce = run::nonce();
        let machine = self.machine(qemu, &folder, &nonce)?;
        let verdict = self.test.verdict();
        let plan = Plan {
            cmd: machine.command(qemu),
            script: self.test.steps()?,
            stop_when_done: verdict == Verdict::Message,
            nonce: Some(nonce),
            echo: false,
            input: Input::Script,
            limit: Some(Duration::from_secs(self.test.timeout_s) * self.patience),
            silence: NEVER,
            any_panic: true,
            log: Some(folder.join("console.log")),
        };
        let report = console::run(plan)?;
        let transcript = std::fs::read(folder.join("console.log")).unwrap_or_default();
        let transcript = String::from_utf8_lossy(&transcript);
        Ok(self.failure(&report, &transcript)?.map(|why| format!("{why}\n{}", report.tail())))
    }

    fn machine(&self, qemu: &Qemu, folder: &Path, nonce: &str) -> Result<Machine> {
        let test = &self.test;
        let image = build::packed(test.payload.as_deref().unwrap_or(build::HOST), self.oracle)?;
        let vms = self.vms()?;
        // Our own hosts must know; the shim has no use for it.
        let counted = if self.icount && test.payload.is_some() { " redan.counted" } else { "" };
        let append = format!("redan.nonce={nonce} {}", test.append);
        let append = append.trim_end().to_owned() + counted;
        let (board, image, initrd) = match self.board {
            BoardName::Virt => {
                let packed = bundle::pack(&vms);
                let ram = || bundle::machine_ram_mib(&vms, packed.len());
                let ram = || bundle::with_oracle(ram(), self.oracle);
                let ram_mib = test.ram_mib.unwrap_or_else(ram);
                let (gic, smp, cpu) = (self.gic, self.smp, self.cpu.clone());
                let board = Board::Virt { gic, cpu, smp, ram_mib };
                (board, Some(image), self.initrd(folder, packed)?)
            }
            BoardName::Rpi4 => (self.pi(folder, &image, &vms, &append)?, None, None),
        };
        let machine = Machine {
            board,
            image,
            initrd,
            append,
            semihosting: test.verdict() == Verdict::Semihosting,
            icount: self.icount.then(|| test.icount_shift.unwrap_or(0)),
            serial: Serial::Pipe,
            folder: folder.to_owned(),
            extra: Vec::new(),
        };
        match test.dtb {
            Dtb::Good => Ok(machine),
            Dtb::Truncated => hostile::boot_with(machine, qemu, hostile::truncate),
            Dtb::OddRam => hostile::boot_with(machine, qemu, hostile::odd_ram),
            Dtb::SpinTable => hostile::boot_with(machine, qemu, hostile::spin_table),
            Dtb::Firmware => hostile::boot_with(machine, qemu, hostile::firmware),
        }
    }

    /// A card with `image` and the VMs, in a Raspberry Pi 4 of the test's kind.
    fn pi(&self, folder: &Path, image: &Path, vms: &[Vm], words: &str) -> Result<Board> {
        let test = &self.test;
        let (suite, tf_a) = (stock::default_suite(), test.armstub == Armstub::TfA);
        // The GPU's firmware is on the card of a stock guest only, where it can be had: QEMU has no use for it.
        let no_firmware = test.linux.is_none();
        let wishes = Wishes { suite, tf_a, no_firmware, cmdline: String::new() };
        let card = bench::image(&BootFolder::assemble(image, vms, &wishes)?)?;
        let ram = BOARDS.iter().find(|(gib, _)| *gib == test.board_gib).map(|(_, ram)| *ram);
        let ram = ram.context("no board has so much RAM")?;
        let slot = test.payload.is_none();
        Bench { words, ram, console: test.console, slot }.board(&card, folder)
    }

    /// What the case needs of what others made, under the names of [`fetch_for`].
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        let pi = (self.board == BoardName::Rpi4).then_some(RPI4);
        let tf_a = (self.test.armstub == Armstub::TfA).then_some(TF_A);
        self.test.linux.as_deref().into_iter().chain(pi).chain(tf_a)
    }

    /// The bundle as a file, spoilt if the test wants that; none for a payload without VMs.
    fn initrd(&self, folder: &Path, mut packed: Vec<u8>) -> Result<Option<PathBuf>> {
        match self.test.bundle {
            Bundle::None => return Ok(None),
            Bundle::Good if self.test.payload.is_some() => return Ok(None),
            Bundle::Good => {}
            Bundle::Truncated => packed.truncate(packed.len() / 2),
        }
        let file = folder.join("bundle.cpio");
        paths::write(&file, &packed)?;
        Ok(Some(file))
    }

    fn vms(&self) -> Result<Vec<Vm>> {
        let test = &self.test;
        let mut vms = Vec::new();
        if let Some(suite) = &test.linux {
            let kernel = format!("debian:{suite}");
            let initrd = format!("busybox:{suite}");
            let mem = test.memory_mib.unwrap_or(256);
            for name in test.names("linux") {
                vms.push(self.vm(&name, &kernel, Some(&initrd), mem)?);
            }
        }
        for guest in &test.guest {
            let kernel = format!("payload:{guest}");
            for name in test.names(&guest.replace('_', "-")) {
                vms.push(self.vm(&name, &kernel, None, test.memory_mib.unwrap_or(32))?);
            }
        }
        if test.kernel == Kernel::NotAnImage {
            let first = vms.first_mut().context("a spoilt kernel needs a VM")?;
            first.spoil_kernel(b"This is no kernel at all.\n".repeat(400));
        }
        Ok(vms)
    }

    fn vm(&self, name: &str, kernel: &str, initrd: Option<&str>, mem: u64) -> Result<Vm> {
        use std::fmt::Write;
        let test = &self.test;
        let mut text = format!("name = {name:?}\nkernel = {kernel:?}\nmemory_mib = {mem}\n");
        if let Some(initrd) = initrd {
            writeln!(text, "initrd = {initrd:?}")?;
        }
        writeln!(text, "cmdline = {:?}", test.cmdline.as_deref().unwrap_or("console=ttyAMA0"))?;
        writeln!(text, "services = {:?}", test.services)?;
        writeln!(text, "{}", test.manifest.as_deref().unwrap_or_default())?;
        let changes = Changes { vcpus: test.vcpus, ..Changes::default() };
        Vm::from_text(&test.name, &text, Path::new("."), &changes)
    }

    /// Why the test failed, if it did.
    fn failure(&self, report: &Report, transcript: &str) -> Result<Option<String>> {
        let test = &self.test;
        if report.end == End::Panicked || transcript.contains("panicked at") {
            return Ok(Some("something panicked".into()));
        }
        for pattern in &test.forbid {
            let regex = Regex::new(pattern)?;
            if let Some(line) = transcript.lines().find(|line| regex.is_match(line)) {
                return Ok(Some(format!("forbidden `{pattern}`: {line}")));
            }
        }
        if let Some(waiting) = report.script.waiting_for() {
            let how = match &report.end {
                End::TimedOut(limit) => format!("within {} s", limit.as_secs()),
                _ => "before the end".into(),
            };
            return Ok(Some(format!("no line matched `{waiting}` {how}")));
        }
        let reason = match (test.verdict(), &report.end, &report.verdict) {
            (_, End::TimedOut(limit), _) => {
                Some(format!("still running after {} s", limit.as_secs()))
            }
            (Verdict::Message, End::Done, _) => None,
            (Verdict::Semihosting, End::Exited(status), _) if status.code() == Some(test.exit) => {
                None
            }
            (Verdict::Semihosting, End::Exited(status), _) => {
                Some(format!("ended with {status}, not with status {}", test.exit))
            }
            (Verdict::Ok, End::Exited(_), Some(HostVerdict::Ok)) => None,
            (Verdict::Ok, End::Exited(_), Some(HostVerdict::Failed(why))) => {
                Some(format!("the host says: {why}"))
            }
            (Verdict::Failed, End::Exited(_), Some(HostVerdict::Failed(_))) => None,
            (Verdict::Failed, End::Exited(_), Some(HostVerdict::Ok)) => {
                Some("the host says ok, but should have failed".into())
            }
            (_, End::Exited(status), None) => {
                Some(format!("QEMU ended ({status}) without a verdict of the host"))
            }
            (_, end, _) => Some(format!("ended in an unforeseen way: {end:?}")),
        };
        Ok(reason)
    }
}

/// What must be fetched before the tests start; a reason to skip for each suite that cannot be.
pub fn fetch_for(tests: &[Test]) -> Vec<(String, String)> {
    let mut suites: Vec<&String> = tests.iter().filter_map(|t| t.linux.as_ref()).collect();
    suites.sort();
    suites.dedup();
    let get = |suite: &str| -> Result<()> {
        for source in ["debian", "busybox"] {
            bundle::fetch(&format!("{source}:{suite}"))?;
        }
        Ok(())
    };
    let failed = |suite: &String| {
        let error = get(suite).err()?;
        let reason = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
        Some((suite.clone(), reason))
    };
    let mut missing: Vec<_> = suites.into_iter().filter_map(failed).collect();
    for (need, tf_a) in [(RPI4, false), (TF_A, true)] {
        let wants = |test: &Test| {
            test.board.contains(&BoardName::Rpi4) && (!tf_a || test.armstub == Armstub::TfA)
        };
        if tests.iter().any(wants)
            && let Err(error) = rpi4::fetch(tf_a)
        {
            let reason = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
            missing.push((need.to_owned(), reason));
        }
    }
    missing
}

/// Which programs of ours a test needs, so that a typing error is found before anything runs.
pub fn check_programs(tests: &[Test]) -> Result<()> {
    for test in tests {
        for program in test.payload.iter().chain(&test.guest) {
            if !build::elf_path(program)?.exists() {
                bail!("test `{}`: tests/guests has no program `{program}`", test.name)
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use crate::screen::Screen;
    use crate::script::{Script, Step};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn case(lines: &str) -> Case {
        let text = format!("[[test]]\nname = \"t\"\nabout = \"a\"\n{lines}");
        Case::all(&Registry::parse(&text).unwrap().test[0], &Lane::default()).remove(0)
    }

    #[test]
    fn the_oracle_looks_at_a_test_once_more_on_its_first_cpu_or_at_all_of_them() {
        let text = "[[test]]\nname = \"t\"\nabout = \"a\"\npayload = \"x\"\ncpu = [\"max\", \"cortex-a53\"]\noracle = true\n";
        let test = &Registry::parse(text).unwrap().test[0];
        let names = |lane: Lane| Case::all(test, &lane).iter().map(Case::name).collect::<Vec<_>>();
        let plain = ["t[gic3,max,smp1]", "t[gic3,cortex-a53,smp1]", "t[gic3,max,smp1,oracle]"];
        assert_eq!(names(Lane::default()), plain);
        let all = ["t[gic3,max,smp1,oracle]", "t[gic3,cortex-a53,smp1,oracle]"];
        assert_eq!(names(Lane { oracle: true, ..Lane::default() }), all);
    }

    fn report(end: End, verdict: Option<HostVerdict>) -> Report {
        let (script, screen) = (Script::default(), Screen::default());
        Report { end, verdict, script, screen, stderr: String::new() }
    }

    fn exited(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn the_matrix_is_the_product_of_gics_and_cpus_and_their_numbers() {
        let text = "[[test]]\nname = \"t\"\nabout = \"a\"\npayload = \"x\"\ngic = [2, 3]\ncpu = [\"max\", \"cortex-a53\"]\nsmp = [1, 8]\n";
        let test = &Registry::parse(text).unwrap().test[0];
        let names = |lane: Lane| Case::all(test, &lane).iter().map(Case::name).collect::<Vec<_>>();
        assert_eq!(
            names(Lane::default()),
            [
                "t[gic2,max,smp1]",
                "t[gic2,max,smp8]",
                "t[gic2,cortex-a53,smp1]",
                "t[gic2,cortex-a53,smp8]",
                "t[gic3,max,smp1]",
                "t[gic3,max,smp8]",
                "t[gic3,cortex-a53,smp1]",
                "t[gic3,cortex-a53,smp8]",
            ]
        );
        let lane = Lane { smp: vec![4], icount: Some(true), ..Lane::default() };
        assert_eq!(names(lane.clone())[0], "t[gic2,max,smp4,icount]");
        let narrow =
            Lane { gic: vec![3], cpu: vec!["x".into()], smp: vec![2, 4], ..Lane::default() };
        assert_eq!(names(narrow), ["t[gic3,x,smp2]", "t[gic3,x,smp4]"]);
        let text = "[[test]]\nname = \"t\"\nabout = \"a\"\npayload = \"x\"\nboard = [\"rpi4\"]\n";
        let registry = Registry::parse(text).unwrap();
        let on_pi = |lane: Lane| -> Vec<String> {
            Case::all(&registry.test[0], &lane).iter().map(Case::name).collect()
        };
        assert_eq!(on_pi(Lane::default()), ["t[rpi4]"]);
        assert_eq!(on_pi(lane.clone()), ["t[rpi4,icount]"]);
        assert!(on_pi(Lane { smp: vec![2], ..Lane::default() }).is_empty(), "it has four CPUs");
        assert!(on_pi(Lane { gic: vec![3], ..Lane::default() }).is_empty(), "and a GICv2");
        assert_eq!(names(lane.clone()).len(), 4);
        let never = Test { icount: Some(false), ..test.clone() };
        assert!(Case::all(&never, &lane).iter().all(|case| !case.icount));
        let always = Test { icount: Some(true), ..test.clone() };
        let threads = Lane { icount: Some(false), ..Lane::default() };
        assert!(Case::all(&always, &threads).iter().all(|case| !case.icount));
        assert!(Case::all(&always, &Lane::default()).iter().all(|case| case.patience == 1));
        assert!(Case::all(test, &lane).iter().all(|case| case.patience > 1), "a slower machine");
        let counted = case("payload = \"x\"\nicount = true");
        assert_eq!(counted.name(), "t[gic3,cortex-a72,smp1,icount]");
        assert_eq!(counted.file_name(), "t-gic3-cortex-a72-smp1-icount");
    }

    #[test]
    fn a_payload_passes_by_its_exact_status_only() {
        let case = case("payload = \"x\"\nexit = 7");
        assert_eq!(case.failure(&report(exited(7), None), "").unwrap(), None);
        assert!(case.failure(&report(exited(0), None), "").unwrap().is_some());
    }

    #[test]
    fn a_guest_passes_by_the_hosts_verdict_only() {
        let case = case("guest = [\"x\"]");
        assert_eq!(case.failure(&report(exited(0), Some(HostVerdict::Ok)), "").unwrap(), None);
        assert!(case.failure(&report(exited(0), None), "").unwrap().is_some());
        let failed = Some(HostVerdict::Failed("x".into()));
        assert!(case.failure(&report(exited(0), failed), "").unwrap().is_some());
    }

    #[test]
    fn a_panic_fails_whatever_the_verdict_says() {
        let case = case("guest = [\"x\"]");
        let good = report(exited(0), Some(HostVerdict::Ok));
        assert!(case.failure(&good, "thread panicked at x").unwrap().is_some());
    }

    #[test]
    fn an_unmet_pattern_fails_whatever_the_verdict_says() {
        let case = case("guest = [\"x\"]\nexpect = [\"never\"]");
        let mut good = report(exited(0), Some(HostVerdict::Ok));
        good.script = Script::new([Step::Expect(Regex::new("never").unwrap())]);
        let why = case.failure(&good, "").unwrap().unwrap();
        assert!(why.contains("`never`"), "{why}");
    }

    #[test]
    fn a_forbidden_line_fails() {
        let case = case("guest = [\"x\"]\nforbid = [\"WARNING\"]");
        let good = report(exited(0), Some(HostVerdict::Ok));
        assert!(case.failure(&good, "a\nWARNING: b\n").unwrap().is_some());
    }
}
