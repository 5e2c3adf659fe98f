//! Hostile guests: random code in the pages that a VM has, random contexts, random words in its run
//! page; and what may have changed when it stops.

use alloc::vec::Vec;

use hyp_abi::run::{self, Exit, entry, exit_flags};
use hyp_abi::{Gfn, Hypercall as H, Pfn, Prot, Refusal, lr};
use hyp_model::Vm;

use super::Attack;
use super::canary::{self, WORDS, whence};
use super::scene::{HELD, Scene};
use crate::hcall::Answer;
use crate::timer::{self, ENABLE, PHYSICAL_PPI};
use crate::{ensure, fp, gic, read, write};

/// Runs in a row: after an exit the host answers it more often than not.
pub const RUNS: u64 = 4;

/// What a run may change in the run page.
fn is_exit_word(n: usize) -> bool {
    (run::LR..run::LR + lr::MAX).contains(&n)
        || (run::EXIT_GPR..run::EXIT_GPR + 8).contains(&n)
        || (run::VGIC_MISR..=run::EXIT_PSTATE).contains(&n)
}

/// What the VM may execute.
fn executable(vm: &Vm) -> impl Iterator<Item = (Gfn, Pfn)> {
    let may = |map: &hyp_model::Map| map.prot.contains(Prot::RX) && !map.device;
    vm.maps.iter().filter(move |(_, map)| may(map)).map(|(gfn, map)| (*gfn, map.pfn))
}

/// The host's own registers.
pub fn host_registers() -> [u64; 18] {
    [
        read!("sctlr_el1"),
        read!("cpacr_el1"),
        read!("ttbr0_el1"),
        read!("ttbr1_el1"),
        read!("tcr_el1"),
        read!("mair_el1"),
        read!("amair_el1"),
        read!("vbar_el1"),
        read!("contextidr_el1"),
        read!("cntkctl_el1"),
        read!("par_el1"),
        read!("tpidr_el1"),
        read!("tpidr_el0"),
        read!("tpidrro_el0"),
        read!("csselr_el1"),
        read!("mdscr_el1"),
        read!("mpidr_el1"),
        read!("sp_el0"),
    ]
}

/// Puts canaries into the registers, and an interrupt into the GIC.
pub fn mark_host() {
    write!("tpidr_el1", 0xaaaa_0001);
    write!("tpidr_el0", 0xbbbb_0002);
    write!("tpidrro_el0", 0xcccc_0003);
    write!("contextidr_el1", 0xdddd);
    write!("cntkctl_el1", 2);
    write!("ttbr1_el1", 0x8888_8000);
    write!("sp_el0", 0x9999_9990);
    fp::load(&fp::pattern(0x1105));
    crate::console::write32(gic::get().bit_reg(gic::dist::ISACTIVER, HELD), 1 << (HELD % 32));
    gic::get().enable(PHYSICAL_PPI);
}

impl Attack {
    /// Runs the loaded vCPU, if one is.
    pub fn run_guest(&mut self) {
        if !self.rng.one_in(4) {
            self.load();
            self.last_exit = None;
        }
        let (Some((slot, _)), Some(run_page)) =
            (self.oracle.state.loaded(0), self.oracle.run_page())
        else {
            self.oracle.call(H::VcpuRun, [0; 4]);
            return;
        };
        self.write_code(slot);
        for n in 0..RUNS {
            self.run_once(slot, run_page, n == 0);
        }
        if self.rng.one_in(4) {
            self.look_at_registers(run_page, slot);
        }
    }

    fn run_once(&mut self, slot: usize, run_page: usize, first: bool) {
        let flags = self.write_run_page(run_page, slot, first);
        let before: Vec<u64> = (0..WORDS).map(|n| self.oracle.pages.read(run_page, n)).collect();
        self.oracle.pages.record(run_page);
        let answer = self.guarded_run(|attack| attack.oracle.call(H::VcpuRun, [0; 4]));
        self.judge_exit(answer, flags, slot);
        for (n, word) in before.iter().enumerate() {
            let now = self.oracle.pages.read(run_page, n);
            let kept = now == *word || (answer.x1 >= 0 && is_exit_word(n));
            ensure!(kept, "a run wrote {now:#x} to word {n} of the run page");
        }
        self.oracle.pages.record(run_page);
        self.look_at_pages(slot);
        self.oracle.note_young(slot);
    }

    /// Makes a run that the timer ends in time, and looks at what it may not change of this CPU.
    pub fn guarded_run(&mut self, run: impl FnOnce(&mut Self) -> Answer) -> Answer {
        write!("par_el1", 0x7777_7000);
        let registers = host_registers();
        // An instruction is a nanosecond where they are counted, an exception costs QEMU a thousand.
        let all = if self.counted { [3, 10, 50] } else { [30, 100, 500] };
        let micros = all[self.rng.below(3) as usize];
        write!("cntp_cval_el0", read!("cntpct_el0") + read!("cntfrq_el0") / 1_000_000 * micros);
        write!("cntp_ctl_el0", ENABLE);
        let began = timer::now();
        let answer = run(self);
        self.tally.longest_run = self.tally.longest_run.max(timer::now() - began);
        write!("cntp_ctl_el0", 0);
        let after = host_registers();
        ensure!(after == registers, "a run changed {registers:x?} to {after:x?}");
        if self.rng.one_in(2) {
            ensure!(fp::store() == fp::pattern(0x1105), "a run changed the FP registers");
        }
        answer
    }

    /// New code in some of the pages that the VM may execute, or tables for its stage 1.
    fn write_code(&mut self, slot: usize) {
        let scene = self.scene(slot);
        let code = |vm: &Vm| executable(vm).map(|(_, pfn)| pfn).collect();
        let code: Vec<Pfn> = self.vm_in(slot).map(code).unwrap_or_default();
        for _ in 0..self.rng.below(3) {
            let page = self.rng.pick(&code).and_then(|pfn| self.oracle.pages.index(pfn.raw()));
            let Some(page) = page else { continue };
            let pfn = self.oracle.pages.pfn(page);
            self.compose_code(&scene, |n, word| canary::write(pfn, n, word));
            self.oracle.pages.record(page);
        }
        let _ = crate::try_insn!("dsb ish\nic iallu\ndsb ish\nisb");
    }

    /// Fills the run page; answers the flags in it.
    fn write_run_page(&mut self, page: usize, slot: usize, first: bool) -> u64 {
        let scene = self.scene(slot);
        let pfn = self.oracle.pages.pfn(page);
        self.compose_run_page(&scene, first, |n, word| canary::write(pfn, n, word))
    }

    /// What a VM has.
    fn scene(&self, slot: usize) -> Scene {
        let Some(vm) = self.vm_in(slot) else { return Scene::default() };
        Scene {
            maps: vm.maps.keys().copied().collect(),
            code: executable(vm).map(|(gfn, _)| gfn).collect(),
            gicv: vm.maps.iter().find(|(_, map)| map.device).map(|(gfn, _)| *gfn),
        }
    }

    /// Whether this was one of the ways in which a run may end.
    fn judge_exit(&mut self, answer: Answer, flags: u64, slot: usize) {
        let answers = flags & (entry::MASK & !(entry::LOAD_CONTEXT | entry::TRAP_WFX));
        let malformed = flags & !entry::MASK != 0 || answers.count_ones() > 1;
        if answer.x1 < 0 {
            let right = answer.x1 == Refusal::Invalid.code() && answers | flags >> 6 != 0;
            ensure!(right, "a run with flags {flags:#x} was refused with {}", answer.x1);
            return;
        }
        ensure!(!malformed, "a run with flags {flags:#x} was not refused");
        let exit = self.note_exit(answer);
        let [_, ipa, _, flags] = answer.rest;
        if exit == Some(Exit::Abort) {
            let map = Gfn::new(ipa >> 12).and_then(|gfn| self.vm_in(slot)?.maps.get(&gfn));
            let permission = flags & exit_flags::PERMISSION != 0;
            ensure!(
                map.is_some() == permission,
                "an abort at {ipa:#x} with flags {flags:#x} there being {map:?}"
            );
        }
    }

    /// Counts an exit.
    pub fn note_exit(&mut self, answer: Answer) -> Option<Exit> {
        let exit = Exit::from_raw(answer.x1 as u64);
        self.last_exit = exit;
        ensure!(exit.is_some(), "a run ended for reason {}", answer.x1);
        self.tally.runs += 1;
        if let Some(n) = exit.and_then(|exit| self.tally.exits.get_mut(exit as usize)) {
            *n += 1;
        }
        exit
    }

    /// The guest may have written its own writable pages, and only what it may have read.
    fn look_at_pages(&mut self, slot: usize) {
        let writable = |vm: &Vm| -> Vec<Pfn> {
            vm.maps.values().filter(|m| m.prot.contains(Prot::W)).map(|m| m.pfn).collect()
        };
        let pages: Vec<Pfn> = self.vm_in(slot).map(writable).unwrap_or_default();
        for pfn in pages {
            let page = self.oracle.pages.index(pfn.raw());
            let Some(page) = page.filter(|page| self.oracle.pages.changed(*page)) else { continue };
            let mut foreign = false;
            for n in 0..WORDS {
                let word = self.oracle.pages.read(page, n);
                self.may_know(word, slot);
                foreign |=
                    whence(word).is_some_and(|of| self.oracle.pages.numbered(of) != Some(page));
            }
            self.tally.writes += 1;
            // A canary copied here must not go on to the next VM with the page. And no chance here:
            // the generator must not depend on what a guest does in its time.
            if foreign || (page as u64 ^ self.tally.runs) & 3 == 0 {
                self.oracle.pages.fill(page);
            }
            self.oracle.pages.record(page);
        }
        // Of all others one at a time, and all of them now and then.
        let page = self.any_page();
        let page = self.oracle.pages.index(page).filter(|_| !self.is_el2s(page));
        if let Some(page) = page {
            self.oracle.pages.verify(page);
        }
    }

    /// The guest's registers hold nothing that it never had.
    fn look_at_registers(&mut self, run_page: usize, slot: usize) {
        let end = run::CTX_SYSREGS + run::SYSREGS.len();
        let before: Vec<u64> = (0..WORDS).map(|n| self.oracle.pages.read(run_page, n)).collect();
        self.oracle.call(H::VcpuSyncState, [0; 4]);
        for (n, word) in before.iter().enumerate() {
            let now = self.oracle.pages.read(run_page, n);
            let context = (run::CTX..end).contains(&n);
            ensure!(context || now == *word, "sync_state wrote {now:#x} to word {n}");
            if context {
                self.may_know(now, slot);
            }
        }
        // EL0 or EL1; at EL0 it may have chosen AArch32.
        let pstate = self.oracle.pages.read(run_page, run::CTX_PSTATE);
        ensure!([0, 4, 5, 0x10].contains(&(pstate & 0x1f)), "the guest's pstate is {pstate:#x}");
        self.oracle.pages.record(run_page);
    }

    /// A canary that the VM in `slot` has may only come from a page that it once had.
    fn may_know(&self, word: u64, slot: usize) {
        if let Some(number) = whence(word) {
            let seen = self.oracle.seen.get(slot);
            let own = self.oracle.pages.numbered(number);
            let had = own.is_some_and(|page| seen.is_some_and(|seen| seen.contains(page)));
            ensure!(had, "a guest knows {word:#x} of page {number} of all");
        }
    }

    fn is_el2s(&self, pfn: u64) -> bool {
        Pfn::new(pfn).is_some_and(|pfn| self.oracle.state.page(pfn) == hyp_model::Page::EL2)
    }

    /// The interrupt that only the host may end is still active.
    pub fn check_gic(&self) {
        ensure!(gic::get().is_active(HELD), "a guest has ended the host's interrupt");
        ensure!(
            gic::get().read_bit(gic::dist::ISENABLER, PHYSICAL_PPI),
            "a guest has disabled the host's timer interrupt"
        );
    }
}
