//! What hostile guests are made of: random code, tables, run pages.

use alloc::vec::Vec;

use hyp_abi::run::{self, Exit, entry};
use hyp_abi::{Gfn, lr};

use super::canary::WORDS;
use super::{Attack, insn};
use crate::timer::{self, PHYSICAL_PPI};

/// EL1h, all masked.
const EL1H: u64 = 0x3c5;
/// `SCTLR_EL1` with MMU and caches off.
const SCTLR_OFF: u64 = 0x30d0_0800;
/// The interrupt that the attacker holds active, which no guest may end.
pub const HELD: u32 = 60;

/// What a guest may find interesting.
#[derive(Default)]
pub struct Scene {
    /// Where it has something.
    pub maps: Vec<Gfn>,
    /// Where it has code.
    pub code: Vec<Gfn>,
    /// Where it has a GICv2's virtual CPU interface.
    pub gicv: Option<Gfn>,
}

impl Attack {
    /// A page of random code, or of tables for stage 1.
    pub fn compose_code(&mut self, scene: &Scene, mut set: impl FnMut(usize, u64)) {
        if self.rng.one_in(8) {
            for n in 0..WORDS {
                let descriptor = self.address(&scene.maps) & !0xfff | self.rng.bits() & 0xffc | 3;
                set(n, descriptor | 1 << 10);
            }
            return;
        }
        for n in 0..WORDS {
            let low = u64::from(insn::any(&mut self.rng, self.counted));
            let high = u64::from(insn::any(&mut self.rng, self.counted));
            set(n, high << 32 | low);
        }
        if self.rng.one_in(2) {
            for (n, pair) in insn::TAKE_INTERRUPT.iter().enumerate() {
                set(n, *pair);
            }
        }
        let handles = !self.rng.one_in(4);
        for at in insn::VECTORS {
            // Where time is instructions each exception must take some.
            if self.counted {
                set(at, insn::TWO_NOPS);
            }
            if handles && insn::HANDLER_AT.contains(&at) {
                set(at, insn::HANDLER[0]);
                set(at + 1, insn::HANDLER[1]);
            }
        }
    }

    /// A run page; answers the flags in it.
    pub fn compose_run_page(
        &mut self,
        scene: &Scene,
        first: bool,
        mut set: impl FnMut(usize, u64),
    ) -> u64 {
        for n in 0..run::CTX {
            set(n, self.rng.hostile());
        }
        for n in run::CTX..WORDS {
            let hostile = n >= run::CTX + 16 && self.rng.one_in(3);
            set(n, if hostile { self.rng.hostile() } else { self.address(&scene.maps) });
        }
        if self.rng.one_in(2) {
            propose_interrupts(&mut set);
        }
        let kind = self.rng.below(8);
        // Noise in SCTLR_EL1 and VBAR_EL1 leads to exceptions without an instruction between them.
        let kind = if self.counted && kind < 3 { 3 } else { kind };
        if kind > 0 {
            self.compose_context(scene, kind, &mut set);
        }
        let answer = self.rng.pick(match self.last_exit {
            Some(Exit::Abort) => &[entry::COMPLETE, entry::INJECT_ABORT, 0],
            Some(Exit::Sysreg) => &[entry::COMPLETE, entry::INJECT_UNDEF, 0],
            Some(Exit::Hvc | Exit::Smc) => &[entry::SET_RESULT, entry::INJECT_UNDEF, 0],
            _ => &[entry::TRAP_WFX, 0],
        });
        let flags = match self.rng.below(12) {
            0 => self.rng.hostile(),
            1 => self.rng.bits() & entry::MASK,
            2 => 1 << (1 + self.rng.below(4)),
            3 => entry::LOAD_CONTEXT | entry::TRAP_WFX,
            _ if first => entry::LOAD_CONTEXT,
            _ => answer.unwrap_or(0),
        };
        set(run::ENTRY_FLAGS, flags);
        flags
    }

    fn compose_context(&mut self, scene: &Scene, kind: u64, set: &mut impl FnMut(usize, u64)) {
        let pc = self.address(if kind > 1 { &scene.code } else { &scene.maps });
        // The beginning of a page is where an interrupt is taken.
        let pc = if kind > 5 { pc & !0xfff } else { pc & !3 };
        let modes = [0x3c0, 0x3c4, 0x3c8, 0x3c9, 0x3cc, 0x3cd, 0x1d0, 0x1d3, self.rng.hostile()];
        let mode = self.rng.pick(&modes).filter(|_| kind == 1).unwrap_or(EL1H);
        let vectors = self.address(&scene.code) & !0x7ff;
        let vectors = match self.rng.pick(&scene.code).filter(|_| self.counted) {
            Some(gfn) => gfn.raw() << 12,
            None => vectors,
        };
        let gicv = scene.gicv.map_or(pc, |gfn| gfn.raw() << 12);
        let names = run::SYSREGS.iter().enumerate();
        let named = |name| names.clone().find(|(_, n)| **n == name).map_or(0, |(i, _)| i);
        set(run::CTX_PC, pc);
        set(run::CTX_PSTATE, mode);
        if kind == 2 {
            set(run::CTX_SYSREGS + named("SCTLR_EL1"), SCTLR_OFF | 1);
            set(run::CTX_SYSREGS + named("TCR_EL1"), 25 | 1 << 23);
        }
        if kind > 2 {
            set(run::CTX + 1, gicv);
            set(run::CTX_SYSREGS + named("VBAR_EL1"), vectors);
            set(run::CTX_SYSREGS + named("SCTLR_EL1"), SCTLR_OFF);
            set(run::CTX_SYSREGS + named("CPACR_EL1"), 3 << 20);
        }
    }

    /// An address that a guest may find interesting.
    fn address(&mut self, maps: &[Gfn]) -> u64 {
        let offset = self.rng.below(WORDS as u64) * 8;
        match self.rng.below(40) {
            0 => self.land.el2(&mut self.rng) << 12 | offset,
            1 => self.any_page() << 12 | offset,
            2 => self.land.anywhere(&mut self.rng),
            3 => self.rng.hostile(),
            _ => self.rng.pick(maps).map_or(offset, |gfn| gfn.raw() << 12 | offset),
        }
    }
}

/// Virtual interrupts that seem right, linked to physical ones that are the host's.
fn propose_interrupts(set: &mut impl FnMut(usize, u64)) {
    for (n, intid) in [HELD, PHYSICAL_PPI, timer::VIRTUAL_PPI, HELD].into_iter().enumerate() {
        // One of them another one for the guest, which must not help.
        let named = if n == 3 { timer::VIRTUAL_PPI - 2 } else { intid };
        let linked = u64::from(intid) << lr::PINTID_SHIFT | u64::from(named);
        set(run::LR + n, lr::STATE_PENDING | lr::HW | lr::GROUP1 | linked);
    }
    set(run::VGIC_USED_LRS, 4);
}
