//! Steps in which all CPUs want the same: pages, VMs and vCPUs of the pool.
//!
//! Nobody knows the order in which EL2 serves them, so no answer is foreseen. What is judged: the
//! refusals that a call may have, and no other that is known here (`verdicts`); that each thing happens
//! once (`ledger`); that a page given away is out of reach on every CPU; and that guests leave alone
//! what is not theirs. `muster` looks at the rest when all stand still.

use alloc::vec::Vec;

use hyp_abi::Hypercall as H;
use hyp_abi::hcall::FEATURE_GICV2;
use hyp_abi::run;
use hyp_abi::{Gfn, Refusal};

use super::calls::{takes_handle, takes_page};
use super::canary::{self, Field, POOL, Pages, WORDS, whence};
use super::finding::CALLS;
use super::guest::RUNS;
use super::ledger::{self, Stage};
use super::scene::Scene;
use super::verdicts::{Known, possible};
use super::{Attack, canary::POOL_FIRST};
use crate::hcall::{self, Answer};
use crate::{cpu, ensure, probe};

/// How often each call is made by itself.
const WEIGHTS: [(H, u64); 24] = [
    (H::ShareHyp, 6),
    (H::UnshareHyp, 6),
    (H::ShareGuest, 14),
    (H::UnshareGuest, 10),
    (H::RelaxPerms, 4),
    (H::Wrprotect, 4),
    (H::TestClearYoung, 4),
    (H::Mkyoung, 2),
    (H::UnreserveVm, 1),
    (H::InitVm, 3),
    (H::InitVcpu, 5),
    (H::StartTeardownVm, 1),
    (H::FinalizeTeardownVm, 4),
    (H::VcpuLoad, 10),
    (H::VcpuPut, 5),
    (H::VcpuSyncState, 2),
    (H::TlbFlushVmid, 1),
    (H::MemcacheTopup, 6),
    (H::ReclaimVmPage, 6),
    (H::AuditVm, 2),
    (H::AuditHost, 2),
    (H::MapGicv, 2),
    (H::UnmapGicv, 1),
    (H::VmStats, 2),
];
/// Where VMs of the pool have their pages.
const GFN: u64 = 0x40000;
/// How many gfns are in use there; few, so that they are fought for.
const GFNS: u64 = 12;
/// Rights that make sense.
const PROTS: [u64; 5] = [15, 15, 3, 13, 1];
/// A page that was zeroed has none of its canaries; a guest may have put a few back.
const FEW: usize = 8;
/// More entries than a VM of the pool has.
const ENTRIES: usize = 64;

/// What a CPU knows of the pool.
pub struct Racer {
    /// The pool.
    pub pages: Pages<POOL>,
    /// Where everybody's pages are.
    pub field: Field,
    /// The vCPU that is loaded here.
    mine: Option<(u64, usize)>,
    gicv2: bool,
}

impl Racer {
    /// One for each CPU.
    pub fn all(crew: usize, field: Field) -> Vec<Self> {
        let gicv2 = hcall::call(H::Features, [0; 4]).x1 as u64 & FEATURE_GICV2 != 0;
        let racer = |_| Self { pages: Pages::pool(field), field, mine: None, gicv2 };
        (0..crew).map(racer).collect()
    }
}

/// Whether a call is about the vCPU that is loaded.
const fn needs_vcpu(which: H) -> bool {
    matches!(
        which,
        H::VcpuRun
            | H::VcpuPut
            | H::VcpuSyncState
            | H::ShareGuest
            | H::RelaxPerms
            | H::Mkyoung
            | H::MemcacheTopup
            | H::MapGicv
    )
}

impl Attack {
    /// One step of a race.
    pub fn race(&mut self) {
        match self.rng.below(100) {
            0..=49 => self.one_call(),
            50..=57 => self.raise_together(),
            58..=65 => self.bury_one(),
            66..=77 => self.run_together(),
            78..=83 => self.scribble(),
            84..=91 => self.peep(),
            92..=96 => self.other(Self::access),
            _ => self.other(Self::register),
        }
    }

    /// Ends this CPU's part in a race.
    pub fn leave_race(&mut self) {
        if self.racer.mine.is_some() {
            self.contest(H::VcpuPut, [0; 4], true);
        }
    }

    /// One call, now and then with a wrong number.
    fn one_call(&mut self) {
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(total);
        let fits = WEIGHTS.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let which = fits.map_or(H::Version, |(which, _)| *which);
        let mut args = self.sound(which);
        let wrong = self.rng.one_in(8);
        if wrong {
            let n = self.rng.below(4) as usize;
            args[n] = match self.rng.below(4) {
                0 => args[n].wrapping_add(1),
                1 => args[n] ^ 1 << self.rng.below(64),
                2 => self.land.el2(&mut self.rng),
                _ => self.rng.hostile(),
            };
            self.spare_others(which, &mut args);
        }
        self.contest(which, args, !wrong);
    }

    /// Numbers of the right kind.
    fn sound(&mut self, which: H) -> [u64; 4] {
        let (handle, page) = (self.some_vm(), self.pool_page());
        let gfn = GFN + self.rng.below(GFNS);
        match which {
            H::ShareHyp | H::UnshareHyp | H::MemcacheTopup | H::AuditHost => [page, 0, 0, 0],
            H::ShareGuest => [page, gfn, 1, self.rng.pick(&PROTS).unwrap_or(1)],
            H::UnshareGuest => [handle, gfn, 1, 0],
            H::RelaxPerms => [gfn, self.rng.pick(&PROTS).unwrap_or(1), 0, 0],
            H::Wrprotect => [handle, gfn, 1 + self.rng.below(GFNS), 0],
            H::TestClearYoung => [handle, gfn, 1 + self.rng.below(GFNS), self.rng.below(2)],
            H::Mkyoung | H::MapGicv => [gfn, 0, 0, 0],
            H::InitVm => [handle, 1 + self.rng.below(3), page & !1, 0],
            H::InitVcpu => [handle, self.rng.below(3), page, 0],
            H::VcpuLoad => [handle, self.rng.below(2), 0, 0],
            H::UnmapGicv | H::AuditVm => [handle, gfn, 0, 0],
            _ if takes_handle(which) => [handle, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// Keeps a wrong number from hitting what is not in play.
    fn spare_others(&self, which: H, args: &mut [u64; 4]) {
        let pool = self.racer.field.pool()..self.racer.field.pool() + POOL as u64;
        if let Some(n) = takes_page(which) {
            let hit = |pfn: u64| self.land.is_hosts_ram(pfn) && !pool.contains(&pfn);
            if hit(args[n]) || (which == H::InitVm && hit(args[n].wrapping_add(1))) {
                args[n] = pool.start;
            }
        }
        if takes_handle(which) && args[0] >> 8 < 1 << 32 && !ledger::is_pools(args[0]) {
            args[0] |= 1 << 40;
        }
    }

    fn pool_page(&mut self) -> u64 {
        self.racer.field.pool() + self.rng.below(POOL as u64)
    }

    /// A VM of the pool; one in a while that is not any more.
    fn some_vm(&mut self) -> u64 {
        if let Some((handle, _)) = self.racer.mine.filter(|_| self.rng.one_in(4)) {
            return handle;
        }
        let mut vms = [0; ledger::VMS as usize];
        let mut known = 0;
        for (place, handle) in vms.iter_mut().zip(ledger::live()) {
            *place = handle;
            known += 1;
        }
        match self.rng.pick(&vms[..known]) {
            Some(handle) if !self.rng.one_in(16) => {
                self.stale = handle;
                handle
            }
            _ => self.stale | 1 << 40,
        }
    }

    /// What is known of a call that is about to be made.
    fn known(&self, which: H, [handle, idx, ..]: [u64; 4], sound: bool) -> Known {
        let open = if sound { Known::Sound } else { Known::Nothing };
        match self.racer.mine {
            None if needs_vcpu(which) => return Known::Refused,
            Some(_) if which == H::VcpuLoad => return Known::Refused,
            // What else its flags and answers lead to is the other CPUs' doing too.
            Some(_) if which == H::VcpuRun => return Known::Nothing,
            Some(_) if which == H::MapGicv && !self.racer.gicv2 => return Known::Refused,
            Some(_) if needs_vcpu(which) && sound => return Known::Alive,
            _ => {}
        }
        if !takes_handle(which) {
            return open;
        }
        let makes = matches!(which, H::UnreserveVm | H::InitVm);
        let ends = matches!(which, H::FinalizeTeardownVm | H::ReclaimVmPage);
        let uses = matches!(which, H::VcpuLoad | H::InitVcpu | H::StartTeardownVm);
        let past = |stage| ledger::reached(handle, stage);
        let refused = !past(Stage::Minted)
            || past(Stage::Over)
            || (past(Stage::Dying) && (makes || uses))
            || (past(Stage::Born) && makes);
        // A VM with a loaded vCPU is neither dying nor gone, and cannot begin to be.
        let loaded = self.racer.mine.is_some_and(|(mine, _)| mine == handle);
        match loaded {
            _ if refused => Known::Refused,
            true if makes || ends || which == H::StartTeardownVm => Known::Refused,
            true if sound && !(which == H::InitVcpu && idx < 8) => Known::Alive,
            _ => open,
        }
    }

    /// Makes a call that others may interfere with; `sound` if its numbers are of the right kind.
    fn contest(&mut self, which: H, args: [u64; 4], sound: bool) -> Answer {
        CALLS.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        let me = cpu::me();
        let known = self.known(which, args, sound);
        for n in [args[0], args[2], args[2].wrapping_add(1)] {
            if let Some(page) = self.racer.pages.index(n).filter(|_| takes_page(which).is_some()) {
                ledger::touch(page);
            }
        }
        let slot = ledger::slot(args[0]);
        let held = slot.map(|slot| slot.holders()).filter(|_| which == H::StartTeardownVm);
        if let (H::VcpuPut, Some((handle, idx))) = (which, self.racer.mine) {
            ledger::let_go(handle, idx, me);
        }
        let answer = hcall::call(which, args);
        let possible = possible(which, known, answer);
        ensure!(possible, "{}{args:x?} answered {answer:x?}, it being {known:?}", which.name());
        if let Some((made, accepted)) = self.tally.tried.get_mut(place(which)) {
            *made += 1;
            *accepted += u64::from(answer.x1 >= 0);
        }
        if answer.x1 >= 0 {
            if let (Some(before), Some(after)) = (held, slot.map(|slot| slot.holders())) {
                let both = before.iter().zip(after).any(|(a, b)| *a != 0 && *a == b);
                ensure!(!both, "{:#x} begins to end with a vCPU on a CPU", args[0]);
            }
            self.note(which, args, answer.x1 as u64);
        }
        answer
    }

    /// Notes what this CPU has won.
    fn note(&mut self, which: H, args: [u64; 4], x1: u64) {
        let (handle, me) = (args[0], cpu::me());
        let index = |pfn| self.racer.pages.index(pfn);
        match which {
            H::ReserveVm => ledger::reach(x1, Stage::Minted),
            H::UnreserveVm | H::FinalizeTeardownVm => ledger::reach(handle, Stage::Over),
            H::StartTeardownVm => ledger::reach(handle, Stage::Dying),
            H::InitVm => {
                ledger::reach(handle, Stage::Born);
                [args[2], args[2] + 1].into_iter().filter_map(index).for_each(ledger::take);
            }
            H::InitVcpu => {
                let Some(page) = index(args[2]) else { return };
                ledger::note_run_page(handle, args[1] as usize, page);
            }
            H::VcpuLoad => {
                ledger::hold(handle, args[1] as usize, me);
                self.racer.mine = Some((handle, args[1] as usize));
            }
            H::VcpuPut => self.racer.mine = None,
            H::MemcacheTopup => {
                let Some(page) = index(args[0]) else { return };
                ledger::take(page);
                ledger::give(page, me);
                let still = probe::load64(args[0] << 12).is_ok();
                ensure!(!still, "page {:#x} can be read where it was given away", args[0]);
            }
            H::ReclaimVmPage => {
                let Some(page) = index(x1) else {
                    ensure!(false, "page {x1:#x} came back, which was nobody's to give");
                    return;
                };
                // Somebody else may have given it away again, and then it cannot be read.
                let own = canary::own_canaries(POOL_FIRST + page, |word| {
                    probe::load64((x1 << 12) + 8 * word as u64).unwrap_or(0)
                });
                ensure!(own < FEW, "page {x1:#x} came back with {own} words of before");
            }
            _ => {}
        }
    }

    /// A VM from its reservation to its first pages; others may take any of it away.
    fn raise_together(&mut self) {
        self.leave_race();
        if !ledger::make_room() {
            return;
        }
        let handle = self.contest(H::ReserveVm, [0; 4], true).x1;
        ensure!(handle > 0, "there is room for a VM, but the answer is {handle}");
        let handle = handle as u64;
        let root = self.pool_page() & !1;
        let vcpus = 1 + self.rng.below(3);
        self.contest(H::InitVm, [handle, vcpus, root, 0], true);
        for idx in 0..1 + self.rng.below(2) {
            let run = self.pool_page();
            self.contest(H::ShareHyp, [run, 0, 0, 0], true);
            self.contest(H::InitVcpu, [handle, idx, run, 0], true);
        }
        self.contest(H::VcpuLoad, [handle, 0, 0, 0], true);
        for _ in 0..3 + self.rng.below(3) {
            let page = self.pool_page();
            self.contest(H::MemcacheTopup, [page, 0, 0, 0], true);
        }
        for n in 0..2 + self.rng.below(6) {
            let args = [self.pool_page(), GFN + n, 1, if n % 2 == 0 { 15 } else { 3 }];
            self.contest(H::ShareGuest, args, true);
        }
    }

    /// Ends a VM, as far as the others let it.
    fn bury_one(&mut self) {
        let handle = self.some_vm();
        if self.racer.mine.is_some_and(|(mine, _)| mine == handle) {
            self.leave_race();
        }
        self.bury(handle);
    }

    /// All that belongs to the end of a VM. Where nobody interferes it is gone afterwards.
    pub fn bury(&mut self, handle: u64) {
        if self.contest(H::UnreserveVm, [handle, 0, 0, 0], true).x1 == 0 {
            return;
        }
        self.contest(H::StartTeardownVm, [handle, 0, 0, 0], true);
        if !ledger::reached(handle, Stage::Dying) {
            return;
        }
        let mut at = 0;
        for _ in 0..ENTRIES {
            let answer = self.contest(H::AuditVm, [handle, at, 0, 0], true);
            let [gfn, _, attrs, next] = answer.rest;
            if answer.x1 < 0 {
                break;
            }
            for gfn in gfn..gfn + answer.x1 as u64 {
                let device = attrs >> 17 & 1 != 0;
                let call = if device { H::UnmapGicv } else { H::UnshareGuest };
                self.contest(call, [handle, gfn, u64::from(!device), 0], true);
            }
            at = next;
        }
        for _ in 0..POOL {
            if self.contest(H::ReclaimVmPage, [handle, 0, 0, 0], true).x1 < 0 {
                break;
            }
        }
        self.contest(H::FinalizeTeardownVm, [handle, 0, 0, 0], true);
    }

    /// Lets a guest run while everybody changes what it has, and its run page too.
    fn run_together(&mut self) {
        if self.racer.mine.is_none() {
            let handle = self.some_vm();
            let idx = self.rng.below(2);
            self.contest(H::VcpuLoad, [handle, idx, 0, 0], true);
        }
        let Some((handle, idx)) = self.racer.mine else { return };
        let Some(page) = ledger::run_page(handle, idx) else { return self.leave_race() };
        if self.rng.one_in(2) {
            self.scribble();
        }
        let run_page = self.racer.pages.pfn(page);
        let all: Vec<Gfn> = (GFN..GFN + GFNS).filter_map(Gfn::new).collect();
        let gicv = self.rng.pick(&all);
        let scene = Scene { maps: all.clone(), code: all, gicv };
        for n in 0..RUNS {
            self.compose_run_page(&scene, n == 0, |n, word| canary::write(run_page, n, word));
            let answer = self.guarded_run(|attack| attack.contest(H::VcpuRun, [0; 4], true));
            if answer.x1 == Refusal::Invalid.code() {
                continue;
            }
            self.note_exit(answer);
            for word in run::LR..run::CTX {
                self.may_know_of_pool(self.racer.pages.read(page, word));
            }
        }
        if self.rng.one_in(4) {
            self.contest(H::VcpuSyncState, [0; 4], true);
            for word in 0..WORDS {
                self.may_know_of_pool(self.racer.pages.read(page, word));
            }
        }
        if self.rng.one_in(2) {
            self.leave_race();
        }
    }

    /// A guest of the pool may know what the pool's pages had, and no other page.
    fn may_know_of_pool(&self, word: u64) {
        let foreign = whence(word).is_some_and(|number| number < POOL_FIRST);
        ensure!(!foreign, "a guest knows {word:#x}, of no page that it can have had");
    }

    /// Code for whoever runs it, in a page that may be anybody's or EL2's by now.
    fn scribble(&mut self) {
        let page = self.pool_page();
        if let Some(page) = self.racer.pages.index(page) {
            ledger::touch(page);
        }
        let mut gone = false;
        let scene = Scene::default();
        self.compose_code(&scene, |n, word| {
            gone = gone || probe::store64((page << 12) + 8 * n as u64, word).is_err();
        });
        let _ = crate::try_insn!("dsb ish\nic iallu\ndsb ish\nisb");
    }

    /// Tries to read what another CPU has given to EL2, and will have given all the while.
    fn peep(&mut self) {
        let other = self.rng.below(self.crew as u64) as usize;
        let Some((word, page)) = ledger::given(other) else { return };
        let pfn = self.racer.pages.pfn(page);
        let store = self.rng.one_in(2);
        let at = (pfn << 12) + 8 * self.rng.below(WORDS as u64);
        ledger::touch(page);
        let done = if store { probe::store64(at, 0) } else { probe::load64(at).map(drop) };
        let all_the_while = ledger::given(other) == Some((word, page));
        ensure!(
            done.is_err() || !all_the_while,
            "page {pfn:#x}, which CPU {other} has given away, can be reached"
        );
    }

    /// Everything of the pool goes back. Nobody else is in it any more.
    pub fn empty_pool(&mut self) {
        for _ in 0..ledger::VMS {
            let Some(handle) = ledger::live().next() else { break };
            self.bury(handle);
        }
        let left = ledger::live().next();
        ensure!(left.is_none(), "{left:x?} does not end");
        for page in 0..POOL {
            let pfn = self.racer.pages.pfn(page);
            self.contest(H::UnshareHyp, [pfn, 0, 0, 0], true);
        }
    }
}

/// The place of a call in the table.
fn place(which: H) -> usize {
    H::ALL.iter().position(|call| *call == which).unwrap_or(H::ALL.len())
}
