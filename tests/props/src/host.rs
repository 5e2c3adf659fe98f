//! The random host: what to do next, drawn from a generator.
//!
//! Knows which numbers are plausible and which hurt. Must not know what is right.

use hyp_abi::run::ENTRY_FLAGS;
use hyp_abi::{Gfn, Hypercall, Pfn};
use hyp_core::cpu::{ExitKind, RawExit};

use crate::rig::{CPUS, EL2_FIRST, GICH, GICV, Rig};
use crate::rng::Rng;

/// RAM pages that it plays with.
const PLAY: [(u64, u64); 3] = [(0x40000, 6), (0x40240, 24), (0x80000, 6)];
/// A few of them, which most calls are about, so that they meet.
const BUSY: u64 = 0x40250;
/// Half of all calls are these, without which nothing is mapped.
const OFTEN: [Hypercall; 6] = [
    Hypercall::ShareGuest,
    Hypercall::ShareGuest,
    Hypercall::UnshareGuest,
    Hypercall::VcpuLoad,
    Hypercall::MemcacheTopup,
    Hypercall::TestClearYoung,
];
/// Why a guest leaves (ESR_EL2): interrupts, calls, WFI, CNTP_CTL_EL0, a fetch, a load with and without
/// a syndrome, an access flag at level 3.
const SYNDROMES: [u64; 8] = [
    0x16 << 26 | 1 << 25,
    0x17 << 26 | 1 << 25,
    0x01 << 26 | 1 << 25,
    0x18 << 26 | 1 << 25 | 3 << 20 | 1 << 17 | 3 << 14 | 14 << 10 | 2 << 1 | 1,
    0x20 << 26 | 1 << 25 | 7,
    0x24 << 26 | 1 << 25 | 1 << 24 | 3 << 22 | 1 << 15 | 7,
    0x24 << 26 | 1 << 25 | 1 << 8 | 7,
    0x24 << 26 | 1 << 25 | 11,
];

impl Rig {
    /// A random call, often a sensible one.
    pub fn random(&mut self, rng: &mut Rng) {
        let cpu = rng.below(CPUS as u64) as usize;
        match rng.below(16) {
            0 => {
                let page = self.some_pfn(rng);
                if let Some(page) = Pfn::new(page) {
                    self.touch(cpu, page);
                }
            }
            1 => {
                let slot = rng.below(3) as usize;
                if let Some(gfn) = Gfn::new(self.some_gfn(rng)) {
                    self.guest_touch(cpu, slot, gfn, rng.one_in(2));
                }
            }
            2 => self.live(cpu, rng),
            _ => {
                let regs = self.random_call(rng);
                self.call(cpu, regs);
            }
        }
    }

    /// The vCPU loaded on a CPU is run, with whatever answer, and leaves.
    fn live(&mut self, cpu: usize, rng: &mut Rng) {
        let Some(page) = self.run_page(cpu) else { return };
        let flags = match rng.below(8) {
            0..=2 => 0,
            3..=6 => 1 << (1 + rng.below(4)) | rng.below(2),
            _ => hostile(rng),
        };
        self.hyp().machine().poke(page, ENTRY_FLAGS, flags);
        if !self.run(cpu) {
            return;
        }
        let ipa = self.some_gfn(rng) << 12 | rng.below(512) << 3;
        let kind = rng.pick(&[ExitKind::Sync, ExitKind::Sync, ExitKind::Sync, ExitKind::Irq]);
        let esr = rng.pick(&SYNDROMES) | if rng.one_in(8) { rng.bits() & 0x1ff_ffff } else { 0 };
        self.exit(cpu, RawExit { kind, esr, far: ipa, hpfar: ipa >> 8 & 0xfff_ffff_fff0 });
    }

    fn random_call(&self, rng: &mut Rng) -> [u64; 5] {
        use Hypercall as H;
        let which = if rng.one_in(2) { rng.pick(&OFTEN) } else { rng.pick(H::ALL) };
        if rng.one_in(64) {
            return [hostile(rng), hostile(rng), hostile(rng), hostile(rng), hostile(rng)];
        }
        let nr = if rng.one_in(16) { hostile(rng) } else { 1 };
        let (p, g, h) = (self.some_pfn(rng), self.some_gfn(rng), self.some_handle(rng));
        let idx = if rng.one_in(16) { hostile(rng) } else { rng.below(2) };
        let prot = if rng.one_in(8) { rng.below(20) } else { rng.pick(&[15, 13, 3, 1]) };
        let span = if rng.one_in(16) { hostile(rng) } else { 1 + rng.below(70) };
        let args = match which {
            H::ShareHyp | H::UnshareHyp | H::MemcacheTopup | H::AuditHost => [p, 0, 0, 0],
            H::ShareGuest => [p, g, nr, prot],
            H::UnshareGuest => [h, g, nr, 0],
            H::RelaxPerms => [g, prot, 0, 0],
            H::Wrprotect => [h, g, span, 0],
            H::TestClearYoung => [h, g, span, rng.below(3)],
            H::Mkyoung | H::MapGicv => [g, 0, 0, 0],
            H::UnmapGicv | H::AuditVm => [h, g, 0, 0],
            H::InitVm => {
                [h, 1 + rng.below(2), p & !u64::from(rng.below(8) != 0), u64::from(rng.one_in(16))]
            }
            H::InitVcpu => [h, idx, p, 0],
            H::VcpuLoad => [h, idx, 0, 0],
            H::ReserveVm if self.handles_live() >= 3 => return self.random_call(rng),
            H::StartTeardownVm | H::UnreserveVm if !rng.one_in(6) => return self.random_call(rng),
            _ => [h, 0, 0, 0],
        };
        let [a, b, c, d] = args;
        [which.function_id(), a, b, c, d]
    }

    fn handles_live(&self) -> usize {
        self.model().slots.iter().flatten().count()
    }

    fn some_handle(&self, rng: &mut Rng) -> u64 {
        let live: Vec<u64> =
            self.model().slots.iter().flatten().map(|vm| vm.handle.raw()).collect();
        match rng.below(16) {
            0 => hostile(rng),
            1 if !self.handles.is_empty() => rng.pick(&self.handles),
            _ if !live.is_empty() => rng.pick(&live),
            _ => 0,
        }
    }

    fn some_pfn(&self, rng: &mut Rng) -> u64 {
        if rng.one_in(24) {
            return hostile(rng);
        }
        if rng.one_in(24) {
            return rng.pick(&[
                EL2_FIRST,
                EL2_FIRST + 3,
                GICV,
                GICH,
                0x9000,
                0x403ff,
                0x40400,
                0x80040,
            ]);
        }
        if rng.one_in(2) {
            return BUSY + rng.below(4);
        }
        let (first, n) = rng.pick(&PLAY);
        first + rng.below(n)
    }

    fn some_gfn(&self, rng: &mut Rng) -> u64 {
        if rng.one_in(24) {
            return hostile(rng);
        }
        rng.pick(&[0, 0x1ff, 0x200, 0x40000, 0x40001, 0x3ffff, (1 << 28) - 1, (1 << 28) - 2])
    }
}

/// Numbers that hurt.
fn hostile(rng: &mut Rng) -> u64 {
    let edge = rng.pick(&[0, 1, 12, 28, 36, 40, 48, 52, 63]);
    let base = 1u64 << edge;
    match rng.below(6) {
        0 => u64::MAX,
        1 => base,
        2 => base - 1,
        3 => base.wrapping_neg(),
        4 => rng.bits(),
        _ => base + 1,
    }
}
