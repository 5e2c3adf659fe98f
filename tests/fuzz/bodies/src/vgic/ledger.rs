//! What must have become of each interrupt: kept beside the model, from what went in and came out.
//!
//! Of each interrupt its latch (an edge, a write to ISPENDR, an SGI), its line and whether it is active.
//! What is written while it is in a list register counts from when that is folded back. Only of a GICv2's
//! SGI whose sender is taken away meanwhile the ledger does not know whether it came too late.

use std::collections::BTreeMap;

use host_vmm::vgic::{Access, Version, Vgic};
use hyp_abi::lr;

use super::registers::{REDIST, SGI_FRAME, bank_word};

/// An interrupt: of this vCPU if it is private, of vCPU 0 otherwise.
type Key = (usize, u32);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    latch: bool,
    active: bool,
    line: bool,
}

/// What went into a list register.
#[derive(Clone, Copy, Debug)]
struct Listed {
    word: u64,
    /// The latch went with it, and has not been cleared since.
    took: bool,
    /// Made active or inactive since.
    activated: Option<bool>,
}

pub struct Ledger {
    version: Version,
    vcpus: usize,
    states: BTreeMap<Key, State>,
    /// GICv2: for each vCPU and SGI the senders that wait.
    sources: Vec<[Option<u8>; 16]>,
    listed: Vec<Vec<Listed>>,
}

impl Ledger {
    pub fn new(version: Version, vcpus: usize) -> Self {
        Self {
            version,
            vcpus,
            states: BTreeMap::new(),
            sources: vec![[Some(0); 16]; vcpus],
            listed: vec![Vec::new(); vcpus],
        }
    }

    fn state(&mut self, vcpu: usize, intid: u32) -> &mut State {
        self.states.entry(key(vcpu, intid)).or_default()
    }

    /// The list register of a vCPU inside the guest that it is in.
    fn listed_in(&mut self, vcpu: usize, intid: u32) -> Option<&mut Listed> {
        let all = self.listed.iter_mut().enumerate();
        let mine = all.filter(|(n, _)| *n == vcpu || intid >= 32);
        mine.flat_map(|(_, l)| l).find(|l| lr::vintid(l.word) == intid)
    }

    fn is_sourced(&self, intid: u32) -> bool {
        self.version == Version::V2 && intid < 16
    }

    pub fn wrote_dist(&mut self, vcpu: usize, Access { offset, size }: Access, value: u64) {
        let v2 = self.version == Version::V2;
        let word = size == 4 && offset.is_multiple_of(4);
        match offset {
            0xf00 if v2 && word => self.sgir(vcpu, value),
            0xf10..0xf30 if v2 && (word || size == 1) => {
                for n in 0..size {
                    let at = offset + n;
                    let senders = (value >> (8 * n)) as u8 & self.exist();
                    self.pend_sgi(vcpu, (at & 15) as usize, senders, at >= 0xf20);
                }
            }
            0x200..0x400 if word => {
                let bank = (offset >> 2 & 31) as u32;
                if bank < 9 && (v2 || bank > 0) {
                    self.bits(vcpu, bank * 32, offset, value);
                }
            }
            _ => {}
        }
    }

    pub fn wrote_redist(&mut self, Access { offset, size }: Access, value: u64) {
        let (of, inner) = ((offset / REDIST) as usize, offset % REDIST);
        let Some(inner) = inner.checked_sub(SGI_FRAME) else { return };
        let bank0 = [0x200, 0x280, 0x300, 0x380].contains(&inner);
        if self.version == Version::V3 && of < self.vcpus && size == 4 && bank0 {
            self.bits(of, 0, inner, value);
        }
    }

    /// A write to ISPENDR, ICPENDR, ISACTIVER or ICACTIVER.
    fn bits(&mut self, vcpu: usize, first: u32, offset: u64, value: u64) {
        for intid in (first..first + 32).filter(|intid| value >> (intid % 32) & 1 != 0) {
            match offset & 0x380 {
                0x200 if !self.is_sourced(intid) => self.state(vcpu, intid).latch = true,
                0x280 if !self.is_sourced(intid) => {
                    self.state(vcpu, intid).latch = false;
                    if let Some(listed) = self.listed_in(vcpu, intid) {
                        listed.took = false;
                    }
                }
                0x300 => self.activate(vcpu, intid, true),
                0x380 => self.activate(vcpu, intid, false),
                _ => {}
            }
        }
    }

    fn activate(&mut self, vcpu: usize, intid: u32, active: bool) {
        match self.listed_in(vcpu, intid) {
            Some(listed) => listed.activated = Some(active),
            None => self.state(vcpu, intid).active = active,
        }
    }

    /// GICD_SGIR.
    fn sgir(&mut self, vcpu: usize, value: u64) {
        let me = 1_u8 << vcpu;
        let targets = match value >> 24 & 3 {
            0 => (value >> 16) as u8,
            1 => !me,
            2 => me,
            _ => 0,
        };
        for target in (0..self.vcpus).filter(|target| targets >> target & 1 != 0) {
            self.pend_sgi(target, (value & 15) as usize, me, true);
        }
    }

    fn pend_sgi(&mut self, target: usize, sgi: usize, senders: u8, set: bool) {
        let late = !set && senders != 0 && self.listed_in(target, sgi as u32).is_some();
        let waiting = &mut self.sources[target][sgi];
        let changed = |w: u8| if set { w | senders } else { w & !senders };
        *waiting = waiting.map(changed).filter(|_| !late);
    }

    fn exist(&self) -> u8 {
        (u16::MAX >> (16 - self.vcpus)) as u8
    }

    /// ICC_SGI1R_EL1 (`group1`) or ICC_SGI0R_EL1.
    pub fn sgi_register(&mut self, gic: &Vgic, vcpu: usize, value: u64, group1: bool) {
        if self.version == Version::V2 {
            return;
        }
        let intid = (value >> 24 & 15) as u32;
        let elsewhere = value & 0x00ff_f0ff_00ff_0000 != 0;
        for target in 0..self.vcpus {
            let meant = match value >> 40 & 1 {
                0 => !elsewhere && value >> target & 1 != 0,
                _ => target != vcpu,
            };
            let group = bank_word(gic, target, intid, 0x080) >> intid & 1 != 0;
            if meant && group == group1 {
                self.state(target, intid).latch = true;
            }
        }
    }

    /// Before a line changes.
    pub fn line(&mut self, gic: &Vgic, vcpu: usize, intid: u32, level: bool) {
        let edge = is_edge(gic, vcpu, intid);
        let state = self.state(vcpu, intid);
        if level && !state.line && edge {
            state.latch = true;
        }
        state.line = level;
    }

    pub fn deactivated(&mut self, vcpu: usize, intid: u32) {
        if intid < 288 {
            self.activate(vcpu, intid, false);
        }
    }

    /// A list register was filled.
    pub fn listed(&mut self, vcpu: usize, word: u64) {
        let intid = lr::vintid(word);
        let (pending, active) = (word & lr::STATE_PENDING != 0, word & lr::STATE_ACTIVE != 0);
        let sourced = self.is_sourced(intid);
        let state = self.state(vcpu, intid);
        assert_eq!(state.active, active, "{intid}: {state:?} in {word:#x}");
        let mut took = state.latch && pending;
        if pending && !sourced {
            assert!(state.latch || state.line, "{intid} was made up: {state:?}");
            state.latch = false;
        }
        if pending && sourced {
            let waiting = &mut self.sources[vcpu][intid as usize];
            let sender = 1_u8 << (word >> lr::SOURCE_SHIFT & 7);
            assert!(waiting.is_none_or(|w| w & sender != 0), "nobody sent {intid}: {word:#x}");
            *waiting = waiting.map(|w| w & !sender);
            took = true;
        }
        self.listed[vcpu].push(Listed { word, took, activated: None });
    }

    /// The vCPU left the guest with these list registers.
    pub fn folded(&mut self, vcpu: usize, now: &[u64]) {
        for (was, now) in core::mem::take(&mut self.listed[vcpu]).into_iter().zip(now) {
            let intid = lr::vintid(was.word);
            let back = was.took && now & lr::STATE_PENDING != 0;
            let sourced = self.is_sourced(intid);
            let state = self.state(vcpu, intid);
            state.active = was.activated.unwrap_or(now & lr::STATE_ACTIVE != 0);
            if !sourced {
                state.latch |= back;
            } else if back {
                let sender = 1_u8 << (was.word >> lr::SOURCE_SHIFT & 7);
                let waiting = &mut self.sources[vcpu][intid as usize];
                *waiting = waiting.map(|w| w | sender);
            }
        }
    }

    /// With no vCPU inside the guest: the registers say what the ledger says.
    pub fn compare(&self, gic: &Vgic) {
        for (&(vcpu, intid), state) in &self.states {
            let bit = |offset| {
                let offset = offset + u64::from(intid / 32) * 4;
                bank_word(gic, vcpu, intid, offset) >> (intid % 32) & 1 != 0
            };
            let level = state.line && !is_edge(gic, vcpu, intid);
            if !self.is_sourced(intid) {
                assert_eq!(bit(0x200), state.latch || level, "{vcpu}, {intid}: {state:?}");
            }
            assert_eq!(bit(0x300), state.active, "{vcpu}, {intid}: {state:?}");
        }
        for (vcpu, sources) in self.sources.iter().enumerate() {
            for (sgi, waiting) in (0..).zip(sources) {
                let found = gic.read_dist(vcpu, Access { offset: 0xf20 + sgi, size: 1 }) as u8;
                let right = self.version == Version::V3 || waiting.is_none_or(|w| w == found);
                assert!(right, "SGI {sgi} of {vcpu}: {found:#x}, not {waiting:?}");
            }
        }
    }
}

fn key(vcpu: usize, intid: u32) -> Key {
    (if intid < 32 { vcpu } else { 0 }, intid)
}

/// ICFGR: SGIs are edges, PPIs here are levels, SPIs are what the guest says.
fn is_edge(gic: &Vgic, vcpu: usize, intid: u32) -> bool {
    let offset = 0xc00 + u64::from(intid / 16) * 4;
    bank_word(gic, vcpu, intid, offset) >> (intid % 16 * 2 + 1) & 1 != 0
}
