//! The guest's interrupt controller: registers, lines and list registers, by several vCPUs in any order.

mod ledger;
mod registers;

use host_vmm::vgic::{Filled, Version, Vgic};
use hyp_abi::lr;
use hyp_abi::run::vgic_hcr;
use hyp_core::vgic::{LrPolicy, Version as Physical};

use crate::Tape;
use ledger::Ledger;

/// The virtual timer's PPI, the one interrupt that is linked to a physical one.
const HARDWARE: u32 = 27;
/// Interrupts that lines are about: PPIs, and SPIs of the first, second and last bank.
const LINES: [u32; 8] = [HARDWARE, 30, 33, 34, 63, 64, 287, 16];

/// A GIC, the vCPUs inside the guest with their list registers, and what we know of each interrupt.
struct Bench {
    gic: Vgic,
    vcpus: usize,
    /// List registers there are.
    lrs: usize,
    runs: Vec<Option<Filled>>,
    on: Vec<bool>,
    /// Whether a vCPU was inside the guest since it was last asked for news.
    inside: Vec<bool>,
    /// Whether a vCPU had something to wake for when it was last asked for news.
    awake: Vec<bool>,
    ledger: Ledger,
    /// Accesses so far that must not change anything.
    odd: usize,
}

/// Does what the tape says.
///
/// What is proposed for list registers is in order by EL2's own rules, in one list register of one
/// vCPU at most, enabled and told of if it does not fit. No interrupt is lost or made up on the way
/// into list registers and back, whatever the guest did to them. Registers read the same through every
/// access that reaches them, and other accesses change nothing.
pub fn vgic(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let version = if tape.flag() { Version::V3 } else { Version::V2 };
    let (vcpus, lrs) = (1 + usize::from(tape.below(8)), tape.pick(&[4, 2, 16]));
    let mut bench = Bench {
        gic: Vgic::new(version, vcpus, lrs, HARDWARE),
        vcpus,
        lrs,
        runs: vec![None; vcpus],
        on: (0..vcpus).map(|n| n == 0).collect(),
        inside: vec![false; vcpus],
        awake: vec![false; vcpus],
        ledger: Ledger::new(version, vcpus),
        odd: 0,
    };
    while tape.more() {
        bench.step(&mut tape);
    }
    for vcpu in 0..vcpus {
        bench.leave(vcpu);
    }
    bench.ledger.compare(&bench.gic);
}

impl Bench {
    fn step(&mut self, tape: &mut Tape<'_>) {
        let what = tape.byte();
        let vcpu = usize::from(what >> 4) % self.vcpus;
        match what & 15 {
            0..=2 => {
                let (access, value) = (registers::dist(tape), registers::value(tape));
                self.odd += registers::write_dist(&mut self.gic, vcpu, access, value, self.odd);
                self.ledger.wrote_dist(vcpu, access, value);
            }
            3 => {
                self.on[vcpu] = tape.flag();
                self.gic.set_power(vcpu, self.on[vcpu]);
            }
            // A GICv2 has no redistributors; nobody calls these then.
            4 | 6 if self.gic.version() == Version::V2 => {}
            4 => {
                let (access, value) = (registers::redist(tape, self.vcpus), registers::value(tape));
                self.odd += registers::write_redist(&mut self.gic, access, value, self.odd);
                self.ledger.wrote_redist(access, value);
            }
            5 => registers::check_dist(&self.gic, vcpu, tape),
            6 => registers::check_redist(&self.gic, self.vcpus, tape),
            7 | 8 => {
                let (intid, level) = (tape.pick(&LINES), tape.flag());
                self.ledger.line(&self.gic, vcpu, intid, level);
                self.gic.set_line(vcpu, intid, level);
            }
            9 => self.enter(vcpu),
            10 | 11 => self.guest(vcpu, tape.byte()),
            12 => self.leave(vcpu),
            13 => {
                let (value, group1) = (tape.number(), tape.flag());
                self.ledger.sgi_register(&self.gic, vcpu, value, group1);
                self.gic.write_sgi_register(vcpu, value, group1);
            }
            14 => {
                let intid = tape.pick(&[0, 15, HARDWARE, 33, 64, 287, 288, 1023]);
                self.gic.deactivate(vcpu, intid);
                self.ledger.deactivated(vcpu, intid);
            }
            _ => self.news(),
        }
    }

    /// The vCPU goes into the guest.
    fn enter(&mut self, vcpu: usize) {
        if self.runs[vcpu].is_some() {
            return;
        }
        let before = self.gic.clone();
        let filled = self.gic.fill(vcpu);
        let used = &filled.lrs[..filled.used];
        assert!(filled.used <= self.lrs && used.iter().all(|word| *word != 0));
        self.acceptable(used);
        for word in used {
            let intid = lr::vintid(*word);
            let others =
                self.runs.iter().enumerate().filter_map(|(n, run)| Some((n, run.as_ref()?)));
            for (_, other) in others.filter(|(n, _)| *n == vcpu || intid >= 32) {
                let listed = |w: &u64| *w != 0 && lr::vintid(*w) == intid;
                assert!(!other.lrs.iter().any(listed), "{intid} is in two list registers");
            }
            if word & lr::STATE_ACTIVE == 0 {
                registers::deliverable(&before, vcpu, intid);
            }
            self.ledger.listed(vcpu, *word);
        }
        if self.gic.pending_for(vcpu) {
            assert_eq!(filled.used, self.lrs, "there was room");
            let told = filled.hcr & vgic_hcr::NPIE != 0 || used.iter().any(|w| w & lr::EOI != 0);
            assert!(told, "nobody will say when there is room: {used:x?}");
        }
        let linked = used.iter().any(|word| word & lr::HW != 0);
        assert!(!linked || self.gic.hardware_active(vcpu));
        self.runs[vcpu] = Some(filled);
        self.inside[vcpu] = true;
    }

    /// EL2 takes all of it as it is.
    fn acceptable(&self, words: &[u64]) {
        let version = match self.gic.version() {
            Version::V2 => Physical::V2,
            Version::V3 => Physical::V3,
        };
        let policy = LrPolicy { version, priority_bits: 5, vtimer: HARDWARE };
        let mut checked = words.to_vec();
        assert_eq!((policy.check_all(&mut checked), checked.as_slice()), (0, words));
    }

    /// The guest acknowledges or ends what is in a list register; the hardware changes the state.
    fn guest(&mut self, vcpu: usize, choice: u8) {
        let Some(run) = &mut self.runs[vcpu] else { return };
        let at = usize::from(choice) % run.used.max(1);
        let word = &mut run.lrs[at];
        let state = match *word & lr::STATE_MASK {
            lr::STATE_PENDING => lr::STATE_ACTIVE,
            lr::STATE_ACTIVE => 0,
            lr::STATE_MASK => lr::STATE_PENDING,
            _ => return,
        };
        *word = *word & !lr::STATE_MASK | state;
    }

    /// The vCPU leaves the guest.
    fn leave(&mut self, vcpu: usize) {
        if let Some(run) = self.runs[vcpu].take() {
            self.gic.fold(vcpu, &run.lrs);
            self.ledger.folded(vcpu, &run.lrs);
        }
    }

    /// Whoever is on and has something to wake for and had nothing before is named; so is who must
    /// leave the guest, and nobody else.
    fn news(&mut self) {
        let gained = self.gic.news();
        for vcpu in 0..self.vcpus {
            let now = self.gic.pending_for(vcpu);
            let was = core::mem::replace(&mut self.awake[vcpu], now);
            let told = gained.contains(vcpu);
            assert!(told || !now || was || !self.on[vcpu], "vCPU {vcpu} was not told");
            assert!(!told || now || self.inside[vcpu], "vCPU {vcpu} was told for nothing");
            self.inside[vcpu] = self.runs[vcpu].is_some();
        }
        assert!(self.gic.news().is_empty(), "news twice");
    }
}
