//! QEMU: which one, and the machine it is asked to be.
//!
//! Installing it is `cmd::setup`'s business.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Result;

use crate::child::Task;
use crate::paths;
use crate::rpi4::firmware::Console;

/// The oldest QEMU that we test with.
pub const NEEDED: Version = Version(9, 2);

/// Where QEMU's `-kernel` puts an Image with text_offset 0 on `virt`: the machine's RAM begins at
/// 0x4000_0000 and the first 2 MiB stay free for QEMU's own entry stub.
pub const IMAGE_BASE: u64 = 0x4020_0000;

/// Major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The first `N.N` in `text`; an epoch (`1:10.0`) is not part of it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| {
            let mut parts = word.split('.');
            Some(Self(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What `setpriv` is asked for.
const TIE: [&str; 3] = ["--pdeathsig", "TERM", "--"];

/// A QEMU that can be started. One unpacked without root needs its own loader in front.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    prefix: Vec<OsString>,
    /// What it says it is.
    pub version: Version,
}

impl Qemu {
    /// `REDAN_QEMU`, the one in PATH, or the one in our private folder, if new enough. The error
    /// value is the newest version that was too old.
    pub fn find() -> Result<std::result::Result<Self, Option<Version>>> {
        let mut too_old = None;
        let mut candidates: Vec<(PathBuf, Vec<OsString>)> = Vec::new();
        if let Some(program) = std::env::var_os("REDAN_QEMU") {
            candidates.push((program.into(), Vec::new()));
        } else {
            candidates.push(("qemu-system-aarch64".into(), Vec::new()));
            candidates.extend(private(&paths::cache()?.join("qemu/root")));
        }
        for (program, prefix) in candidates {
            let mut cmd = Command::new(&program);
            cmd.args(&prefix).arg("--version");
            let task = Task::new("qemu --version", cmd, Duration::from_secs(30));
            let Some(version) = task.stdout().ok().and_then(|text| Version::parse(&text)) else {
                continue;
            };
            if version >= NEEDED {
                return Ok(Ok(Self { program, prefix, version }));
            }
            too_old = too_old.max(Some(version));
        }
        Ok(Err(too_old))
    }

    /// Where `setpriv` is at hand the kernel ends QEMU with us, even if we are killed outright.
    fn command(&self) -> Command {
        static TIED: OnceLock<bool> = OnceLock::new();
        let tied = *TIED.get_or_init(|| {
            let mut cmd = Command::new("setpriv");
            cmd.args(TIE).arg("true");
            Task::new("setpriv", cmd, Duration::from_secs(10)).stdout().is_ok()
        });
        let mut cmd = if tied { Command::new("setpriv") } else { Command::new(&self.program) };
        if tied {
            cmd.args(TIE).arg(&self.program);
        }
        cmd.args(&self.prefix);
        cmd
    }
}

/// How to start the QEMU that was unpacked at `root`: by its own loader with its own libraries.
fn private(root: &Path) -> Option<(PathBuf, Vec<OsString>)> {
    let binary = root.join("usr/bin/qemu-system-aarch64");
    if !binary.exists() {
        return None;
    }
    let folders = |base: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(root.join(base)).into_iter().flatten().flatten();
        entries.map(|e| e.path()).collect()
    };
    let named = |p: &PathBuf, prefix: &str| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(prefix))
    };
    let mut libraries: Vec<PathBuf> = ["lib", "usr/lib"]
        .iter()
        .flat_map(|base| folders(base))
        .filter(|p| p.to_str().is_some_and(|s| s.ends_with("-linux-gnu")))
        .collect();
    let nested: Vec<PathBuf> = libraries.iter().map(|l| l.join("pulseaudio")).collect();
    libraries.extend(nested.into_iter().filter(|p| p.is_dir()));
    let loader = ["lib64", "usr/lib64", "lib", "usr/lib"]
        .iter()
        .flat_map(|base| folders(base))
        .find(|p| named(p, "ld-linux"))
        .or_else(|| {
            let mut inside = libraries.iter().flat_map(|l| std::fs::read_dir(l).ok()).flatten();
            inside.find_map(|e| e.ok().map(|e| e.path()).filter(|p| named(p, "ld-linux")))
        })?;
    let mut prefix: Vec<OsString> = vec!["--library-path".into()];
    prefix.push(std::env::join_paths(libraries).ok()?);
    prefix.push(binary.into());
    prefix.push("-L".into());
    prefix.push(root.join("usr/share/qemu").into());
    Some((loader, prefix))
}

/// How the console reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// A terminal: raw mode, Ctrl-C goes to the guest, Ctrl-A is QEMU's own key.
    Terminal,
    /// Standard input and output are pipes.
    Pipe,
    /// Into a file only.
    File,
}

/// Which of QEMU's machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Board {
    /// `virt`.
    Virt {
        /// GIC version, 2 or 3.
        gic: u8,
        /// `-cpu`.
        cpu: String,
        /// How many of them: `-smp`.
        smp: u8,
        /// RAM in MiB.
        ram_mib: u64,
    },
    /// `raspi4b`, which comes in one size. It has no firmware: whoever starts it does what that would
    /// (`rpi4::firmware`). All cores begin at 0 and EL3, as the board's do.
    Rpi4 {
        /// What is in memory then, and where.
        memory: Vec<(PathBuf, u64)>,
        /// Which UART is the console.
        console: Console,
        /// What is in the slot.
        card: Option<PathBuf>,
    },
}

impl Board {
    /// RAM in MiB.
    #[must_use]
    pub fn ram_mib(&self) -> u64 {
        match self {
            Self::Virt { ram_mib, .. } => *ram_mib,
            Self::Rpi4 { .. } => 2048,
        }
    }
}

/// The machine to be.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which, and how large.
    pub board: Board,
    /// The arm64 Image; `None` when `extra` starts the machine in another way.
    pub image: Option<PathBuf>,
    /// The bundle.
    pub initrd: Option<PathBuf>,
    /// `/chosen` bootargs.
    pub append: String,
    /// Let EL1 end QEMU: only where all code is ours, because EL2 cannot trap it.
    pub semihosting: bool,
    /// Count instructions: exact, repeatable, all CPUs take turns on one thread. Otherwise each CPU
    /// has a thread of its own. An instruction takes 2 to the power of this, in nanoseconds.
    pub icount: Option<u8>,
    /// The console.
    pub serial: Serial,
    /// QEMU's own log of guest errors, and the console with [`Serial::File`].
    pub folder: PathBuf,
    /// More arguments.
    pub extra: Vec<OsString>,
}

impl Machine {
    /// The command that starts it.
    #[must_use]
    pub fn command(&self, qemu: &Qemu) -> Command {
        let mut cmd = qemu.command();
        cmd.args(["-nic", "none", "-display", "none", "-no-reboot"]);
        if let Some(shift) = self.icount {
            // Every source of chance must go for two runs to be equal.
            cmd.args(["-icount", &format!("shift={shift},sleep=off")]);
            cmd.args(["-rtc", "base=2026-01-01,clock=vm"]);
        }
        match &self.board {
            Board::Virt { gic, cpu, smp, ram_mib } => {
                let chance = if self.icount.is_some() { ",dtb-randomness=off" } else { "" };
                let board = format!("virt,virtualization=on,gic-version={gic}{chance}");
                cmd.args(["-M", &board, "-cpu", cpu, "-smp", &smp.to_string()]);
                cmd.args(["-m", &format!("{ram_mib}M")]);
            }
            Board::Rpi4 { memory, console, card } => {
                // A GIC-400 has the Security Extensions; QEMU's has them if asked.
                cmd.args(["-M", "raspi4b", "-global", "arm_gic.has-security-extensions=on"]);
                for (file, at) in memory {
                    let mut argument = joined("loader,file=", file);
                    argument.push(format!(",addr={at:#x},force-raw=on"));
                    cmd.arg("-device").arg(argument);
                }
                if let Some(card) = card {
                    cmd.arg("-drive").arg(joined("if=sd,format=raw,file=", card));
                }
                // The first UART is the PL011; the one on the header is the second.
                if *console == Console::Mini {
                    cmd.args(["-serial", "null"]);
                }
            }
        }
        match self.serial {
            Serial::Terminal => cmd.args([
                "-chardev",
                "stdio,id=console,mux=on,signal=off",
                "-serial",
                "chardev:console",
                "-mon",
                "chardev=console",
            ]),
            Serial::Pipe => cmd.args(["-monitor", "none", "-serial", "stdio"]),
            Serial::File => {
                cmd.args(["-monitor", "none", "-serial", "chardev:console", "-chardev"]);
                cmd.arg(joined("file,id=console,path=", &self.folder.join("console.log")))
            }
        };
        cmd.args(["-d", "guest_errors,unimp", "-D"]).arg(self.folder.join("qemu.log"));
        if self.semihosting {
            cmd.args(["-semihosting-config", "enable=on,target=native"]);
        }
        if let Some(image) = &self.image {
            cmd.arg("-kernel").arg(image);
            if let Some(initrd) = &self.initrd {
                cmd.arg("-initrd").arg(initrd);
            }
            cmd.args(["-append", &self.append]);
        }
        cmd.args(&self.extra);
        cmd
    }
}

/// `prefix` and a path as one argument of QEMU's `key=value,...` kind, in which a comma of the path
/// is written twice.
#[must_use]
pub fn joined(prefix: &str, path: &Path) -> OsString {
    format!("{prefix}{}", path.display().to_string().replace(',', ",,")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(smp: u8, icount: Option<u8>) -> String {
        let qemu = Qemu { program: "q".into(), prefix: Vec::new(), version: NEEDED };
        let machine = Machine {
            board: Board::Virt { gic: 3, cpu: "max".into(), smp, ram_mib: 512 },
            image: None,
            initrd: None,
            append: String::new(),
            semihosting: false,
            icount,
            serial: Serial::Pipe,
            folder: PathBuf::new(),
            extra: Vec::new(),
        };
        let cmd = machine.command(&qemu);
        let words: Vec<_> = cmd.get_args().map(|a| a.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn a_machine_has_as_many_cpus_as_it_was_given() {
        assert!(arguments(8, None).contains("-smp 8 "));
        assert!(!arguments(8, None).contains("-icount"));
    }

    #[test]
    fn counting_instructions_leaves_no_source_of_chance() {
        let said = arguments(4, Some(3));
        for word in ["-smp 4 ", "sleep=off", "clock=vm", "dtb-randomness=off"] {
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn versions_are_found_where_tools_and_packages_write_them() {
        let v = Version::parse;
        assert_eq!(v("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some(Version(10, 0)));
        assert_eq!(v("1:7.2+dfsg-7+deb12u18"), Some(Version(7, 2)));
        assert_eq!(v("9.2"), Some(Version(9, 2)));
        assert_eq!(v("no number here"), None);
    }

    #[test]
    fn ten_is_newer_than_nine() {
        assert!(Version(10, 0) >= NEEDED && Version(9, 1) < NEEDED && Version(9, 2) >= NEEDED);
    }
}
