//! A VM on a test host and a model of EL2: its life, and each kind of exit.

use host_mirror::fake::{FakeEl2, GuestFault, gfn};
use host_mirror::{Calls, RunExit};
use hyp_abi::run::{self, Exit, entry, exit_flags};
use hyp_abi::{Hypercall, Prot, lr};

use super::*;
use crate::bundle::{Bundle, Writer};
use crate::host::{RunPage, RunPages};
use crate::testing::{TestHost, image};

mod exits;
mod life;
mod smp;
mod threads;

const HIGH: u64 = u64::MAX;

fn manifest(extra: &str) -> String {
    format!("name='t'\nkernel='k'\ninitrd='i'\ncmdline='quiet'\nmemory_mib=64\n{extra}")
}

/// The bytes of a bundle with one VM.
fn bundle(extra: &str) -> Vec<u8> {
    let mut writer = Writer::new();
    assert!(writer.file("t/vm.toml", manifest(extra).as_bytes()));
    assert!(writer.file("t/k", &image(3 << 12, 0x10_0000, 0)));
    assert!(writer.file("t/i", b"initrd"));
    assert!(writer.file("t/rom", b"rom!"));
    writer.finish()
}

fn platform(el2: &FakeEl2) -> Platform {
    Platform::new(&el2.cpu().features().unwrap()).unwrap()
}

/// A VM of that manifest, its boot vCPU loaded, and the host it runs on.
struct Rig<'a> {
    el2: &'a FakeEl2,
    host: TestHost<'a>,
    vm: Vm<'a>,
}

impl<'a> Rig<'a> {
    fn new(el2: &'a FakeEl2, bundle: &'a [u8]) -> Self {
        let read = Bundle::read(bundle);
        let config = Config::from_folder(&read.folders[0]).unwrap();
        let host = TestHost::new(el2);
        let vm = Vm::create(&host, &config, platform(el2)).unwrap();
        host.vcpu_load(vm.handle(), 0).unwrap();
        Self { el2, host, vm }
    }

    fn word(&self, idx: usize, at: usize) -> u64 {
        self.host.run_page(self.vm.run_pages[idx]).read(at)
    }

    fn set_word(&self, idx: usize, at: usize, value: u64) {
        self.host.run_page(self.vm.run_pages[idx]).write(at, value);
    }

    /// A run of vCPU 0 that sets its virtual timer.
    fn enter_and_leave_with_timer(&self, cval: u64) {
        self.enter(0);
        self.set_word(0, run::TIMER_CTL, 1);
        self.set_word(0, run::TIMER_CVAL, cval);
        self.leave(0, exit(Exit::Irq));
    }

    fn enter(&self, idx: usize) -> Entry {
        self.vm.before_run(&self.host, idx, false).unwrap()
    }

    fn leave(&self, idx: usize, exit: RunExit) -> Action {
        self.vm.after_run(&self.host, idx, Ok(exit))
    }

    /// Runs vCPU 0 to this exit; answers the action and the flags of the entry after it.
    fn turn(&mut self, exit: RunExit) -> (Action, u64) {
        self.enter(0);
        let action = self.leave(0, exit);
        self.enter(0);
        (action, self.word(0, run::ENTRY_FLAGS))
    }

    fn store(&mut self, ipa: u64, size_log2: u64, value: u64) -> u64 {
        let flags = exit_flags::DECODED | exit_flags::WRITE | (size_log2 << exit_flags::SIZE_SHIFT);
        let (action, answer) = self.turn(RunExit { ipa, value, flags, ..exit(Exit::Abort) });
        assert_eq!(action, Action::Resume);
        answer
    }

    fn load(&mut self, ipa: u64, size_log2: u64) -> (u64, u64) {
        let flags = exit_flags::DECODED | (size_log2 << exit_flags::SIZE_SHIFT);
        let (action, answer) = self.turn(RunExit { ipa, flags, ..exit(Exit::Abort) });
        assert_eq!(action, Action::Resume);
        (answer, self.word(0, run::ENTRY_VALUE))
    }

    /// A call by vCPU 0: the action, and x0..x3 as set.
    fn call(&mut self, kind: Exit, x: [u64; 4]) -> (Action, Option<[u64; 4]>) {
        self.enter(0);
        for (n, word) in x.into_iter().enumerate() {
            self.set_word(0, run::EXIT_GPR + n, word);
        }
        let action = self.leave(0, exit(kind));
        if !self.vm.is_on(0) || matches!(action, Action::PowerOff | Action::Reset) {
            return (action, None);
        }
        self.enter(0);
        let set = self.word(0, run::ENTRY_FLAGS) == entry::SET_RESULT;
        let result = [0, 1, 2, 3].map(|n| self.word(0, run::ENTRY_RESULT + n));
        (action, set.then_some(result))
    }

    fn end(self) -> Summary {
        self.host.vcpu_put().unwrap();
        let host = self.host;
        let summary = self.vm.destroy(&host);
        assert_eq!(host.in_use(), 0);
        assert!(self.el2.is_clean());
        summary
    }
}

fn exit(exit: Exit) -> RunExit {
    RunExit { exit, esr: 0, ipa: 0, value: 0, flags: 0 }
}

fn sysreg(encoding: (u64, u64, u64, u64, u64), read: bool, value: u64) -> RunExit {
    let (op0, op1, crn, crm, op2) = encoding;
    let esr = (op0 << 20) | (op2 << 17) | (op1 << 14) | (crn << 10) | (crm << 1);
    let flags = if read { exit_flags::SYSREG_READ } else { 0 };
    RunExit { esr, value, flags, ..exit(Exit::Sysreg) }
}

/// Several CPUs share it.
const _: fn() = || {
    fn shared<T: Sync + Send>() {}
    shared::<Vm<'static>>();
};
