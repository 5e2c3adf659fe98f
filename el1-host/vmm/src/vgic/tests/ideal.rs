//! A GIC as the specifications tell it, without list registers: what is pending, what is active, who takes
//! what. Slow, small, and with no code of the model's. EOImode 0.

use super::Version;

#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt {
    pub enabled: bool,
    pub group1: bool,
    pub edge: bool,
    pub line: bool,
    pub latch: bool,
    /// The vCPU on which it is active.
    pub active: Option<usize>,
    pub priority: u8,
    /// SPIs: the vCPU it goes to.
    pub target: Option<usize>,
    /// GICv2 SGIs: who sent it.
    pub sources: u8,
}

impl Interrupt {
    pub fn pending(&self) -> bool {
        self.latch || self.sources != 0 || (self.line && !self.edge)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Ideal {
    pub version: Version,
    pub ctlr: u32,
    /// SGIs and PPIs of each vCPU.
    private: Vec<Vec<Interrupt>>,
    shared: Vec<Interrupt>,
    /// What each vCPU has acknowledged and not ended: INTID and priority.
    pub running: Vec<Vec<(u32, u8)>>,
}

impl Ideal {
    pub fn new(version: Version, vcpus: usize) -> Self {
        let sgi = Interrupt { edge: true, enabled: version == Version::V2, ..Default::default() };
        let private = [vec![sgi; 16], vec![Interrupt::default(); 16]].concat();
        // On a GICv3 an SPI goes to affinity 0.0.0.0 after reset, on a GICv2 to nobody.
        let target = (version == Version::V3 || vcpus == 1).then_some(0);
        Self {
            version,
            ctlr: 0,
            private: vec![private; vcpus],
            shared: vec![Interrupt { target, ..Default::default() }; 256],
            running: vec![Vec::new(); vcpus],
        }
    }

    pub fn of(&self, vcpu: usize, intid: u32) -> &Interrupt {
        let at = intid as usize;
        if at < 32 { &self.private[vcpu][at] } else { &self.shared[at - 32] }
    }

    pub fn change(&mut self, vcpu: usize, intid: u32) -> &mut Interrupt {
        let at = intid as usize;
        if at < 32 { &mut self.private[vcpu][at] } else { &mut self.shared[at - 32] }
    }

    pub fn set_line(&mut self, vcpu: usize, intid: u32, level: bool) {
        let it = self.change(vcpu, intid);
        it.latch |= it.edge && level && !it.line;
        it.line = level;
    }

    /// It would be signalled to this vCPU, priorities aside.
    pub fn deliverable(&self, vcpu: usize, intid: u32) -> bool {
        let it = self.of(vcpu, intid);
        let group = if it.group1 { self.ctlr & 2 } else { self.ctlr & 1 };
        let mine = intid < 32 || it.target == Some(vcpu);
        it.pending() && it.enabled && group != 0 && it.active.is_none() && mine
    }

    pub fn running_priority(&self, vcpu: usize) -> u8 {
        self.running[vcpu].last().map_or(0xff, |(_, priority)| *priority)
    }

    /// The priority of what a read of IAR would answer; `None`: spurious.
    pub fn best(&self, vcpu: usize) -> Option<u8> {
        let all = (0..288).filter(|intid| self.deliverable(vcpu, *intid));
        let best = all.map(|intid| self.of(vcpu, intid).priority).min()?;
        (best < self.running_priority(vcpu)).then_some(best)
    }

    /// The vCPU takes this one (of the best), from that source.
    pub fn acknowledge(&mut self, vcpu: usize, intid: u32, source: u8) {
        let v2 = self.version == Version::V2;
        let it = self.change(vcpu, intid);
        let priority = it.priority;
        it.active = Some(vcpu);
        if v2 && intid < 16 {
            assert_ne!(it.sources & (1 << source), 0, "SGI {intid} is not from vCPU {source}");
            it.sources &= !(1 << source);
        } else {
            it.latch = false;
        }
        self.running[vcpu].push((intid, priority));
    }

    /// The end of what the vCPU acknowledged last: which, and whether that deactivates it.
    pub fn end(&mut self, vcpu: usize) -> Option<(u32, bool)> {
        let (intid, _) = self.running[vcpu].pop()?;
        let it = self.change(vcpu, intid);
        let here = it.active == Some(vcpu);
        if here {
            it.active = None;
        }
        Some((intid, here))
    }
}
