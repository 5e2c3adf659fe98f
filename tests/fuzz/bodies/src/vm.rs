//! The whole of a guest's life: `host_vmm` above `hyp_core` above the fake machine, and a guest that
//! does whatever the tape says on all its vCPUs.

mod guest;
mod host;

use std::collections::BTreeSet;

use host_mirror::Calls;
use host_vmm::bundle::{Bundle, Writer};
use host_vmm::dirty::function;
use host_vmm::host::{RunPage, RunPages};
use host_vmm::vm::{Action, Config, CreateError, Fatal, Platform, Vm};
use hyp_abi::run::{self, Exit, exit_flags};

use crate::Tape;
use host::{CPUS, Host};

/// Guest RAM, from 0x4000_0000 on.
const MEMORY_MIB: u64 = 8;

/// Lets VMs live and die as the tape says.
///
/// EL2 refuses nothing that the shim's code asks of it and drops no list register; every exit has an
/// answer that EL2 accepts; who goes to sleep has nothing to wake for; the dirty log names the pages
/// that were written and no others; the mirror agrees with EL2; no translation is stale. In the end every
/// page is the host's again, whatever moment the end came at.
pub fn vm(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let options = tape.byte();
    let (gicv2, vcpus) = (options & 1 != 0, 1 + (options >> 1) % 4);
    let frames = if options & 0x80 != 0 { 24 } else { 200 };
    let bundle = bundle(vcpus);
    let host = Host::new(gicv2, frames, tape);
    let folders = Bundle::read(&bundle).folders;
    let config = Config::from_folder(&folders[0]).expect("a manifest of our own");
    let features = host.features().expect("features");
    let platform = Platform::new(&features).expect("a GIC");
    while host.more() {
        match Vm::create(&host, &config, platform) {
            Ok(vm) => live(&host, vm),
            Err(CreateError::OutOfFrames) => {}
            Err(CreateError::Refused(call, why)) => {
                // All of a short machine's tables were wanted at once.
                assert!(host.is_short(), "{call:?}: {why:?}");
            }
            Err(why) => panic!("{why}"),
        }
        host.all_is_back();
        // So that every round takes something of the tape.
        host.byte();
    }
}

fn bundle(vcpus: u8) -> Vec<u8> {
    let mut writer = Writer::new();
    let manifest = format!(
        "name = 't'\nkernel = 'k'\ninitrd = 'i'\nmemory_mib = {MEMORY_MIB}\nvcpus = {vcpus}\n\
         services = ['dirty-log']\n[[region]]\nbase = 0x1000_0000\nmib = 1\nfile = 'i'\nreadonly = true\n"
    );
    let mut image: Vec<u8> = (0..3 << 12).map(|n: u32| (n >> 12) as u8 ^ n as u8).collect();
    image[..8].fill(0);
    image[8..16].fill(0);
    image[16..24].copy_from_slice(&0x1_0000_u64.to_le_bytes());
    image[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARMd");
    let files: [(&str, &[u8]); 3] =
        [("t/vm.toml", manifest.as_bytes()), ("t/k", &image), ("t/i", b"initrd")];
    for (name, data) in files {
        assert!(writer.file(name, data));
    }
    writer.finish()
}

/// A VM with what the host knows of its vCPUs.
struct Life<'h, 't, 'v> {
    host: &'h Host<'t>,
    vm: Vm<'v>,
    /// The vCPU on each CPU, between `before_run` and `after_run`.
    inside: [Option<usize>; CPUS],
    /// What a vCPU has asked the dirty log: the first written page from there on, as we know it.
    asked: Vec<Option<(u64, u64)>>,
    /// Pages written since the log was started.
    written: Option<BTreeSet<u64>>,
    /// Pages that a vCPU wanted to write to. It may have turned to something else then.
    wanted: BTreeSet<u64>,
}

/// From the first instruction to the last page given back.
fn live(host: &Host<'_>, vm: Vm<'_>) {
    let vcpus = vm.vcpus();
    let (asked, written, wanted) = (vec![None; vcpus], None, BTreeSet::new());
    let mut life = Life { host, vm, inside: [None; CPUS], asked, written, wanted };
    host.start(life.vm.handle());
    while host.more() && life.step() {}
    for cpu in 0..CPUS {
        // The end may come while vCPUs are inside the guest; then they are taken out.
        if life.inside[cpu].is_some() {
            host.on(cpu);
            host.vcpu_put().expect("a vCPU is loaded");
        }
    }
    let accounts = life.vm.accounts();
    let summary = life.vm.destroy(host);
    assert_eq!((summary.refused, summary.stuck), (None, 0), "{summary:?}");
    assert_eq!(summary.pages, accounts.guest, "{summary:?}");
    assert_eq!(summary.run_pages, vcpus as u64);
}

impl Life<'_, '_, '_> {
    /// One step; `false` at the end of the VM.
    fn step(&mut self) -> bool {
        let what = self.host.byte();
        let cpu = usize::from(what >> 6) % CPUS;
        self.host.on(cpu);
        match what & 0x3f {
            0..=7 => {
                let idx = usize::from(what & 7) % self.vm.vcpus();
                return self.turn(cpu, idx);
            }
            8..=15 => self.enter(cpu, usize::from(what & 7) % self.vm.vcpus()),
            16..=23 => return self.leave(cpu),
            24 => {
                let byte = self.host.byte();
                if self.vm.can_receive() {
                    self.vm.receive(byte);
                }
            }
            25 => self.host.pass_time(),
            26 => {
                let report = self.vm.audit(self.host).expect("mirror and EL2 agree");
                assert_eq!(report.pages, self.vm.accounts().guest);
            }
            27 => return false,
            _ => {}
        }
        true
    }

    /// In and out.
    fn turn(&mut self, cpu: usize, idx: usize) -> bool {
        self.enter(cpu, idx);
        self.leave(cpu)
    }

    fn enter(&mut self, cpu: usize, idx: usize) {
        // No scheduler runs a vCPU on two CPUs, and EL2 would not have it.
        if self.inside[cpu].is_some() || self.inside.contains(&Some(idx)) || !self.vm.is_on(idx) {
            return;
        }
        let (host, handle) = (self.host, self.vm.handle());
        host.vcpu_load(handle, idx as u64).expect("EL2 loads a vCPU that is not loaded");
        assert!(self.vm.before_run(host, idx, true).is_some(), "a vCPU that is on");
        let page = host.run_page(host.page_of(idx));
        if let Some((from, first)) = self.asked[idx].take() {
            let told = page.read(run::ENTRY_RESULT);
            let early = from <= told && told < first && self.wanted.contains(&told);
            assert!(told == first || early, "the dirty log: {told:#x}, not {first:#x}");
        }
        self.inside[cpu] = Some(idx);
    }

    fn leave(&mut self, cpu: usize) -> bool {
        let Some(idx) = self.inside[cpu].take() else { return true };
        let host = self.host;
        let exit = host.vcpu_run();
        self.note_writes();
        let exit = exit.unwrap_or_else(|why| panic!("EL2 refuses to run vCPU {idx}: {why:?}"));
        if exit.exit == Exit::Abort && exit.flags & exit_flags::WRITE != 0 {
            self.wanted.insert(exit.ipa >> 12);
        }
        let call = matches!(exit.exit, Exit::Hvc | Exit::Smc);
        let page = host.run_page(host.page_of(idx));
        let x = [0, 1].map(|n| page.read(run::EXIT_GPR + n));
        let action = self.vm.after_run(host, idx, Ok(exit));
        if call {
            self.logged(idx, x);
        }
        // Whoever is to be woken, kicked or started exists.
        assert!(self.vm.take_pokes().iter().all(|n| n < self.vm.vcpus() && n != idx));
        host.on(cpu);
        host.vcpu_put().expect("a vCPU is loaded");
        self.settled(idx, action)
    }

    /// Whether the VM goes on.
    fn settled(&self, idx: usize, action: Action) -> bool {
        match action {
            Action::Resume => true,
            Action::Sleep { until } => {
                assert!(!self.vm.can_wake(self.host, idx), "asleep in spite of an interrupt");
                assert!(until.is_none_or(|at| at > self.host.time()), "asleep until the past");
                true
            }
            Action::CpuOff => {
                assert!(!self.vm.is_on(idx));
                !self.vm.on().is_empty()
            }
            Action::PowerOff | Action::Reset => false,
            Action::Fatal(Fatal::OutOfFrames) => {
                assert!(self.host.is_short(), "there were frames");
                false
            }
            Action::Fatal(Fatal::SError(_) | Fatal::Illegal(_) | Fatal::Lost(..)) => false,
            Action::Fatal(why) => panic!("{why}"),
        }
    }

    fn note_writes(&mut self) {
        let written = self.host.take_writes();
        if let Some(log) = &mut self.written {
            log.extend(written);
        }
    }

    /// What the guest must be told of the pages it wrote.
    fn logged(&mut self, idx: usize, [x0, x1]: [u64; 2]) {
        match x0 & 0xffff_ffff & !(1 << 16) {
            function::START => self.written = Some(BTreeSet::new()),
            function::COLLECT => {
                let log = self.written.as_ref();
                let first = log.and_then(|log| log.range(x1..).next());
                self.asked[idx] = Some((x1, first.copied().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }
}
