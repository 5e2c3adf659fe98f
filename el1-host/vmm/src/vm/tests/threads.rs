//! Several CPUs at one VM at once, each with a vCPU of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::host::RunPages;
use crate::testing::Shared;

const VCPUS: usize = 4;
const UART: u64 = 0x0900_0000;
const GICD: u64 = 0x0800_0000;

/// One CPU with its vCPU loaded.
struct Cpu<'w, 'a> {
    host: TestHost<'a>,
    vm: &'w Vm<'a>,
    idx: usize,
}

impl Cpu<'_, '_> {
    fn set_word(&self, at: usize, value: u64) {
        self.host.run_page(self.vm.run_pages[self.idx]).write(at, value);
    }

    fn word(&self, at: usize) -> u64 {
        self.host.run_page(self.vm.run_pages[self.idx]).read(at)
    }

    /// Into the guest, and out again with this exit. A vCPU that is off does nothing.
    fn turn(&self, exit: RunExit) -> Option<Action> {
        self.vm.before_run(&self.host, self.idx, true)?;
        Some(self.vm.after_run(&self.host, self.idx, Ok(exit)))
    }

    fn call(&self, x: [u64; 4]) -> Option<(Action, u64)> {
        x.into_iter().enumerate().for_each(|(n, x)| self.set_word(run::EXIT_GPR + n, x));
        let action = self.turn(exit(Exit::Hvc))?;
        self.vm.before_run(&self.host, self.idx, true)?;
        Some((action, self.word(run::ENTRY_RESULT)))
    }
}

/// Runs `act` on each CPU at once; afterwards the VM gives all back.
fn all_at_once(extra: &str, act: impl Fn(&Cpu<'_, '_>) + Sync) -> Vec<u8> {
    let el2 = FakeEl2::new();
    let bytes = bundle(extra);
    let read = Bundle::read(&bytes);
    let config = Config::from_folder(&read.folders[0]).unwrap();
    let host = TestHost::new(&el2);
    let vm = Vm::create(&host, &config, platform(&el2)).unwrap();
    {
        let mut state = vm.state.lock();
        for idx in 1..VCPUS {
            state.vcpus[idx].on = true;
            state.vgic.set_power(idx, true);
        }
    }
    let shared: &std::sync::Arc<Shared> = &host.shared;
    std::thread::scope(|scope| {
        for idx in 0..VCPUS {
            let (el2, vm, act) = (&el2, &vm, &act);
            scope.spawn(move || {
                let host = TestHost::on(el2, shared);
                host.vcpu_load(vm.handle(), idx as u64).unwrap();
                let cpu = Cpu { host, vm, idx };
                act(&cpu);
                cpu.host.vcpu_put().unwrap();
            });
        }
    });
    let agreed = vm.audit(&host).unwrap().pages;
    assert_eq!((vm.accounts().guest, vm.mirror().pages()), (agreed, agreed));
    let stats = host.vm_stats(vm.handle()).unwrap();
    assert_eq!(stats.tables + stats.cached, vm.accounts().tables + 2);
    let summary = vm.destroy(&host);
    assert_eq!((summary.pages, summary.refused), (agreed, None));
    assert_eq!(host.in_use(), 0);
    assert!(el2.is_clean());
    host.out()
}

fn rounds(n: u64) -> u64 {
    if cfg!(miri) { 4 } else { n }
}

#[test]
fn faults_on_the_same_pages_at_once_cost_one_frame_each() {
    let pages = rounds(200);
    all_at_once("vcpus = 4\n", |cpu| {
        for n in 0..pages {
            // From both ends, so that they meet.
            let n = if cpu.idx % 2 == 0 { n } else { pages - 1 - n };
            let fault = RunExit { ipa: 0x4000_0000 + n * 0x1000, ..exit(Exit::Abort) };
            assert_eq!(cpu.turn(fault), Some(Action::Resume));
        }
        assert_eq!(cpu.vm.mirror().pages(), cpu.vm.accounts().guest);
    });
}

#[test]
fn of_all_who_start_one_vcpu_at_once_one_succeeds_and_it_is_poked() {
    for _ in 0..rounds(50) {
        let (won, poked) = (AtomicU64::new(0), AtomicU64::new(0));
        all_at_once("vcpus = 5\n", |cpu| {
            let (_, x0) = cpu.call([0xc400_0003, 4, 0x4020_0000, 0]).unwrap();
            match x0 as i64 {
                0 => won.fetch_add(1, Ordering::SeqCst),
                -4 => 0,
                other => panic!("{other}"),
            };
            assert!(cpu.vm.is_on(4));
            let here = u64::from(cpu.vm.take_pokes().contains(4));
            poked.fetch_add(here, Ordering::SeqCst);
        });
        assert_eq!((won.load(Ordering::SeqCst), poked.load(Ordering::SeqCst)), (1, 1));
    }
}

#[test]
fn bytes_of_several_writers_stay_whole_and_each_ones_in_order() {
    let each = rounds(64);
    let out = all_at_once("vcpus = 4\n", |cpu| {
        for n in 0..each {
            let flags = exit_flags::DECODED | exit_flags::WRITE;
            let value = (cpu.idx as u64) << 6 | n;
            let store = RunExit { ipa: UART, value, flags, ..exit(Exit::Abort) };
            assert_eq!(cpu.turn(store), Some(Action::Resume));
        }
    });
    for idx in 0..VCPUS as u64 {
        let mine = out.iter().map(|byte| u64::from(*byte)).filter(|byte| byte >> 6 == idx);
        assert!(mine.eq((0..each).map(|n| idx << 6 | n)));
    }
}

#[test]
fn whatever_they_do_at_once_nothing_is_lost_and_nobody_hangs() {
    storm(2);
    storm(3);
}

/// Every CPU makes random exits of its vCPU, and looks at the pokes.
fn storm(gic: u8) {
    let turns = AtomicU64::new(0);
    let mut el2 = FakeEl2::new();
    el2.gicv2 = gic == 2;
    let bytes = bundle("vcpus = 4\nservices = ['dirty-log']\n");
    let read = Bundle::read(&bytes);
    let config = Config::from_folder(&read.folders[0]).unwrap();
    let host = TestHost::new(&el2);
    let vm = Vm::create(&host, &config, platform(&el2)).unwrap();
    std::thread::scope(|scope| {
        for idx in 0..VCPUS {
            let (el2, vm, shared, turns) = (&el2, &vm, &host.shared, &turns);
            scope.spawn(move || {
                let host = TestHost::on(el2, shared);
                host.vcpu_load(vm.handle(), idx as u64).unwrap();
                let cpu = Cpu { host, vm, idx };
                let mut seed = 0x9e37_79b9_7f4a_7c15_u64 ^ (idx as u64 + 1) << 40;
                for _ in 0..rounds(300) {
                    let x = random(&mut seed);
                    let mut words = || random(&mut seed);
                    for n in 1..4 {
                        cpu.set_word(run::EXIT_GPR + n, 0x4000_0000 | words() & 3);
                    }
                    let ids = [0xc400_0003, 0x8400_0002, 0xc400_0001, 0xc600_00f0];
                    cpu.set_word(run::EXIT_GPR, ids[x as usize & 3]);
                    cpu.set_word(run::EXIT_GPR + 1, words() & 3);
                    let flags = words() & 0x31c | exit_flags::DECODED;
                    let base = [0x4000_0000, GICD, UART, 0x080a_0000][x as usize >> 4 & 3];
                    let exit = RunExit {
                        ipa: base + (words() & 0x2_ffff),
                        value: words(),
                        flags,
                        ..exit(Exit::ALL[x as usize >> 8 & 7])
                    };
                    if cpu.turn(exit).is_some() {
                        turns.fetch_add(1, Ordering::SeqCst);
                    }
                    if x >> 12 & 7 == 0 && vm.can_receive() {
                        vm.receive(b'x');
                    }
                    vm.can_wake(&cpu.host, idx);
                    assert!(vm.take_pokes().iter().all(|idx| idx < VCPUS));
                }
                cpu.host.vcpu_put().unwrap();
            });
        }
    });
    let exits: u64 = vm.exits().iter().map(|(_, n)| n).sum();
    assert_eq!(exits, turns.load(Ordering::SeqCst));
    assert_eq!(vm.audit(&host).unwrap().pages, vm.accounts().guest);
    assert_eq!(vm.destroy(&host).refused, None);
    assert_eq!(host.in_use(), 0);
    assert!(el2.is_clean());
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed >> 8
}
