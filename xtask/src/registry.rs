//! The registry of QEMU tests: tests/qemu.toml.
//!
//! Every key is documented here, beside the field it fills; an unknown key is an error. One
//! `[[test]]` stands for one run per combination of `gic`, `cpu` and `smp`. A test names exactly one of
//! `payload`, `guest` and `linux`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use hyp_abi::hcall::MAX_VMS;
use regex::Regex;
use serde::Deserialize;

use crate::rpi4::firmware::Console;
use crate::script::{Script, Step};

/// All tests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// In the order of the file.
    pub test: Vec<Test>,
}

/// A board that tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoardName {
    /// QEMU's `virt`.
    Virt,
    /// The Raspberry Pi 4, with a card that is made and booted as `run --board rpi4` does. Its device
    /// tree is fetched; without it the test is skipped, loudly.
    Rpi4,
}

/// What runs at EL3 of a Raspberry Pi 4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Armstub {
    /// Ours, which stands in for the one that is built into the firmware: no PSCI.
    #[default]
    Own,
    /// TF-A, fetched from Debian; without it the test is skipped, loudly.
    TfA,
}

/// One test.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// Unique; what FILTER looks at.
    pub name: String,
    /// One sentence: what must hold.
    pub about: String,

    /// Program of tests/guests that runs at EL1 in place of the host shim.
    pub payload: Option<String>,
    /// Programs of tests/guests that run as VMs under the shim, in this order.
    #[serde(default)]
    pub guest: Vec<String>,
    /// Debian suite of a stock kernel that runs under the shim with a busybox shell; `default` is
    /// the machine's own release. Skipped, loudly, where no such kernel can be had.
    pub linux: Option<String>,

    /// So many VMs of each `guest` or `linux`, called NAME-1, NAME-2, ...; one, called NAME, if not given.
    pub copies: Option<u8>,
    /// RAM of each VM.
    pub memory_mib: Option<u64>,
    /// Virtual CPUs of each VM: 1 to 8, 1 if not given.
    pub vcpus: Option<u8>,
    /// Kernel command line of each VM.
    pub cmdline: Option<String>,
    /// Services of each VM (see docs/architecture.md, "The bundle").
    #[serde(default)]
    pub services: Vec<String>,
    /// More lines for each manifest, such as `gic = 2` or a `[[region]]`.
    pub manifest: Option<String>,

    /// Boards: `virt` in all the combinations below, `rpi4` (QEMU's raspi4b) as it is.
    #[serde(default = "default_board")]
    pub board: Vec<BoardName>,
    /// What runs below EL2 on `rpi4`.
    #[serde(default)]
    pub armstub: Armstub,
    /// The console of `rpi4`: `mini` or `pl011`.
    #[serde(default)]
    pub console: Console,
    /// RAM of the board `rpi4` in GiB, of which QEMU has 2: 1 or 2.
    #[serde(default = "default_board_gib")]
    pub board_gib: u64,
    /// GIC versions of the machine.
    #[serde(default = "default_gic")]
    pub gic: Vec<u8>,
    /// CPU models of the machine.
    #[serde(default = "default_cpu")]
    pub cpu: Vec<String>,
    /// Numbers of CPUs of the machine: 1 to 8.
    #[serde(default = "default_smp")]
    pub smp: Vec<u8>,
    /// RAM of the machine; computed from the VMs otherwise.
    pub ram_mib: Option<u64>,
    /// More words for the host's command line, such as `redan.log=debug`.
    #[serde(default)]
    pub append: String,
    /// The repeatable lane: QEMU counts instructions (`-icount shift=0,sleep=off`), one is one
    /// nanosecond, and all CPUs take turns on one thread. Without it each CPU has a thread of its
    /// own, so that races are real. `cargo xtask qemu-test --icount` runs all tests so, but those
    /// that say `false` here: where a guest takes exceptions for ever no instruction retires, and
    /// counted time would stop.
    pub icount: Option<bool>,
    /// In the repeatable lane an instruction takes 2^n ns, not one: an hour of guest time in minutes, on
    /// slow CPUs. Needs `icount = true`. 0 to 10.
    pub icount_shift: Option<u8>,

    /// What is wrong with the bundle on purpose.
    #[serde(default)]
    pub bundle: Bundle,
    /// What is wrong with the kernel of the first VM on purpose.
    #[serde(default)]
    pub kernel: Kernel,
    /// What is wrong with the machine's device tree on purpose.
    #[serde(default)]
    pub dtb: Dtb,

    /// What to wait for and to type, in order, before `expect`.
    #[serde(default)]
    pub script: Vec<ScriptStep>,
    /// Patterns that lines of the console must match, in this order.
    #[serde(default)]
    pub expect: Vec<String>,
    /// Patterns that no line may match.
    #[serde(default)]
    pub forbid: Vec<String>,
    /// How success is told; `semihosting` for a `payload`, `ok` for the others if not given.
    pub verdict: Option<Verdict>,
    /// The exit status that `semihosting` must end with.
    #[serde(default)]
    pub exit: i32,
    /// Once more, on the first `cpu`, with the specification beside EL2 (docs/assurance.md, "On the
    /// target"). `cargo xtask qemu-test --oracle` runs all tests so.
    #[serde(default)]
    pub oracle: bool,
    /// A long form, of another row most often: run by `cargo xtask qemu-test --soak` only.
    #[serde(default)]
    pub soak: bool,
    /// The longest it may take.
    #[serde(default = "default_timeout")]
    pub timeout_s: u64,
}

/// How a test tells success.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// QEMU ends with the status the payload gave it.
    Semihosting,
    /// The host's last line says ok, with the run's nonce.
    Ok,
    /// The host's last line says FAILED, with the run's nonce.
    Failed,
    /// The patterns of `expect`, because nothing that could give a verdict gets to run.
    Message,
}

/// The bundle.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Bundle {
    /// Nothing is wrong.
    #[default]
    Good,
    /// There is none.
    None,
    /// Its second half is missing.
    Truncated,
}

/// The kernel of the first VM.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Kernel {
    /// Nothing is wrong.
    #[default]
    Good,
    /// Text instead of an Image.
    NotAnImage,
}

/// The machine's device tree.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Dtb {
    /// QEMU's own.
    #[default]
    Good,
    /// QEMU's, cut in the middle of its structure block.
    Truncated,
    /// QEMU's, with RAM that begins and ends at odd addresses.
    OddRam,
    /// A CPU waits in a spin table.
    SpinTable,
    /// QEMU's, with firmware in RAM: 64 KiB in the reservation block and 64 KiB of `no-map`.
    Firmware,
}

/// One thing to wait for or to type.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum ScriptStep {
    /// `{ expect = "regex" }`
    Expect(String),
    /// `{ send = "text\n" }`
    Send(String),
}

fn default_board() -> Vec<BoardName> {
    vec![BoardName::Virt]
}

fn default_board_gib() -> u64 {
    1
}

fn default_gic() -> Vec<u8> {
    vec![3]
}

fn default_cpu() -> Vec<String> {
    vec!["cortex-a72".to_owned()]
}

fn default_smp() -> Vec<u8> {
    vec![1]
}

fn default_timeout() -> u64 {
    60
}

impl Registry {
    /// Read and check a registry.
    pub fn parse(text: &str) -> Result<Self> {
        let registry: Self = toml::from_str(text)?;
        let mut names = BTreeSet::new();
        for test in &registry.test {
            test.check().with_context(|| format!("test `{}`", test.name))?;
            ensure!(names.insert(&test.name), "two tests are called `{}`", test.name);
        }
        Ok(registry)
    }
}

impl Test {
    /// How this test tells success.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let usual = if self.payload.is_some() { Verdict::Semihosting } else { Verdict::Ok };
        self.verdict.unwrap_or(usual)
    }

    /// What the VMs of one `guest` are called.
    #[must_use]
    pub fn names(&self, guest: &str) -> Vec<String> {
        match self.copies {
            None => vec![guest.to_owned()],
            Some(copies) => (1..=copies).map(|n| format!("{guest}-{n}")).collect(),
        }
    }

    /// What is played against the console.
    pub fn steps(&self) -> Result<Script> {
        let regex = |pattern: &String| Regex::new(pattern).map(Step::Expect);
        let mut steps = Vec::new();
        for step in &self.script {
            steps.push(match step {
                ScriptStep::Expect(pattern) => regex(pattern)?,
                ScriptStep::Send(keys) => Step::Send(keys.clone()),
            });
        }
        for pattern in &self.expect {
            steps.push(regex(pattern)?);
        }
        Ok(Script::new(steps))
    }

    fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        ensure!(!self.name.is_empty() && self.name.chars().all(plain), "name: use a-z 0-9 - _");
        let kinds = [self.payload.is_some(), !self.guest.is_empty(), self.linux.is_some()];
        let kinds = kinds.iter().filter(|k| **k).count();
        ensure!(kinds == 1, "give exactly one of payload, guest and linux");
        let empty = self.gic.is_empty() || self.cpu.is_empty() || self.smp.is_empty();
        ensure!(!empty, "an empty matrix runs nothing");
        ensure!(self.gic.iter().all(|g| [2, 3].contains(g)), "gic: 2 or 3");
        ensure!(
            self.smp.iter().chain(&self.vcpus).all(|n| (1..=8).contains(n)),
            "smp, vcpus: 1..8"
        );
        ensure!([1, 2].contains(&self.board_gib), "board_gib: 1 or 2");
        let vms = self.payload.is_none();
        ensure!(vms || self.vcpus.is_none(), "vcpus are of VMs, which a payload has not");
        let room = self.linux.iter().len() + self.guest.len();
        ensure!(
            self.copies.is_none_or(|n| (1..=MAX_VMS).contains(&(usize::from(n) * room))),
            "copies: 1 to {MAX_VMS} VMs in all, and only of VMs"
        );
        ensure!(
            self.icount_shift.is_none_or(|n| n <= 10 && self.icount == Some(true)),
            "icount_shift: 0 to 10, with icount = true"
        );
        let semihosting = self.verdict() == Verdict::Semihosting;
        ensure!(
            !semihosting || self.payload.is_some(),
            "semihosting is for payloads: EL2 cannot trap it in a guest"
        );
        ensure!(semihosting || self.exit == 0, "exit needs the verdict semihosting");
        ensure!(
            self.verdict() != Verdict::Message || !self.expect.is_empty(),
            "the verdict message needs a pattern to expect"
        );
        for pattern in &self.forbid {
            Regex::new(pattern)?;
        }
        self.steps().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    fn one(lines: &str) -> Result<Test> {
        let text = format!("[[test]]\nname = \"t\"\nabout = \"a\"\n{lines}");
        Ok(Registry::parse(&text)?.test.remove(0))
    }

    #[test]
    fn a_payload_is_judged_by_its_status_and_a_guest_by_the_host() {
        let payload = one("payload = \"x\"").unwrap();
        assert_eq!(payload.verdict(), Verdict::Semihosting);
        assert_eq!(one("guest = [\"x\"]").unwrap().verdict(), Verdict::Ok);
        assert_eq!((payload.gic, payload.smp, payload.timeout_s), (vec![3], vec![1], 60));
    }

    #[test]
    fn a_script_of_sends_and_expects_is_read_in_order() {
        let test = one(
            "linux = \"default\"\nscript = [{ expect = '# $' }, { send = \"uname\\n\" }]\nexpect = ['^Linux']",
        )
        .unwrap();
        let mut script = test.steps().unwrap();
        assert_eq!(script.pause("/ # "), "uname\n");
        script.line("/ # uname");
        script.line("Linux");
        assert!(script.is_done());
    }

    #[test]
    fn copies_have_names_of_their_own() {
        let test = one("guest = [\"x\"]\ncopies = 2").unwrap();
        assert_eq!(test.names("x"), ["x-1", "x-2"]);
        assert_eq!(one("guest = [\"x\"]").unwrap().names("x"), ["x"]);
    }

    #[test]
    fn mistakes_are_refused() {
        for lines in [
            "",
            "payload = \"x\"\nguest = [\"y\"]",
            "payload = \"x\"\ncolour = 1",
            "payload = \"x\"\ngic = [4]",
            "payload = \"x\"\ngic = []",
            "payload = \"x\"\nsmp = []",
            "payload = \"x\"\nsmp = [0]",
            "payload = \"x\"\nsmp = [1, 9]",
            "payload = \"x\"\nvcpus = 1",
            "guest = [\"x\"]\nvcpus = 0",
            "guest = [\"x\"]\nvcpus = 9",
            "guest = [\"x\"]\ncopies = 0",
            "guest = [\"x\", \"y\"]\ncopies = 33",
            "payload = \"x\"\ncopies = 1",
            "guest = [\"x\"]\nicount_shift = 3",
            "guest = [\"x\"]\nicount = true\nicount_shift = 11",
            "guest = [\"x\"]\nverdict = \"semihosting\"",
            "guest = [\"x\"]\nexit = 3",
            "guest = [\"x\"]\nverdict = \"message\"",
            "guest = [\"x\"]\nexpect = [\"(\"]",
            "guest = [\"x\"]\nboard = [\"rpi5\"]",
            "guest = [\"x\"]\narmstub = \"none\"",
            "guest = [\"x\"]\nboard_gib = 4",
        ] {
            assert!(one(lines).is_err(), "{lines}");
        }
        let twice = "[[test]]\nname = \"t\"\nabout = \"a\"\npayload = \"x\"\n".repeat(2);
        assert!(Registry::parse(&twice).is_err());
    }

    #[test]
    fn the_committed_registry_is_right_and_its_programs_exist() {
        let text = std::fs::read_to_string(paths::root().join("tests/qemu.toml")).unwrap();
        let registry = Registry::parse(&text).unwrap();
        let programs = paths::root().join("tests/guests/src/bin");
        for test in &registry.test {
            for program in test.payload.iter().chain(&test.guest) {
                let file = programs.join(program).with_extension("rs");
                let folder = programs.join(program);
                assert!(file.exists() || folder.exists(), "{}: no program {program}", test.name);
            }
        }
    }
}
