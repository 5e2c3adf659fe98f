//! Random accesses, lines, entries and exits of several vCPUs, step by step beside the [`Ideal`].
//!
//! A vCPU that is poked while it is inside leaves the guest and enters it again at once. With that,
//! list registers and distributor together must be what the ideal is, after every step: what a vCPU
//! can take, what wakes it, what registers say.

use hyp_abi::run::vgic_hcr::NPIE;

use super::ideal::Ideal;
use super::*;

const VCPUS: usize = 3;
/// More than fit the list registers.
const INTIDS_USED: [u32; 14] = [0, 1, 5, 15, 27, 30, 32, 33, 40, 63, 64, 65, 200, 287];

const PRIORITIES: [u8; 6] = [0, 0x40, 0x80, 0xa0, 0xc8, 0xf0];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A vCPU as the hardware has it.
#[derive(Clone, Default)]
struct Hardware {
    inside: bool,
    lrs: [u64; lr::MAX],
    npie: bool,
    /// It waits for an interrupt.
    asleep: bool,
}

struct World {
    gic: Vgic,
    ideal: Ideal,
    cpus: Vec<Hardware>,
}

impl World {
    fn new(version: Version, lrs: usize) -> Self {
        let mut gic = Vgic::new(version, VCPUS, lrs, 27);
        (0..VCPUS).for_each(|vcpu| gic.set_power(vcpu, true));
        gic.news();
        let ideal = Ideal::new(version, VCPUS);
        Self { gic, ideal, cpus: vec![Hardware::default(); VCPUS] }
    }

    /// As a guest does that means to use its interrupts.
    fn set_up(&mut self, rng: &mut Random) {
        self.write(0, 0, 4, 3);
        self.ideal.ctlr = 3;
        for vcpu in 0..VCPUS {
            for intid in INTIDS_USED {
                self.write_bit(vcpu, 0x100, intid);
                self.ideal.change(vcpu, intid).enabled = true;
                self.set_priority(vcpu, intid, PRIORITIES[rng.below(PRIORITIES.len())]);
                self.set_target(vcpu, intid, rng.below(VCPUS));
                if intid >= 32 {
                    self.set_config(vcpu, intid, rng.one_in(2));
                }
            }
        }
    }

    fn leave(&mut self, vcpu: usize) {
        if self.cpus[vcpu].inside {
            self.cpus[vcpu].inside = false;
            let lrs = self.cpus[vcpu].lrs;
            self.gic.fold(vcpu, &lrs);
        }
    }

    fn enter(&mut self, vcpu: usize) {
        self.leave(vcpu);
        let filled = self.gic.fill(vcpu);
        self.cpus[vcpu] =
            Hardware { inside: true, lrs: filled.lrs, npie: filled.hcr & NPIE != 0, asleep: false };
    }

    /// Those who are poked do what the image around does.
    fn poke(&mut self) {
        for _ in 0..8 {
            let news = self.gic.news();
            if news.is_empty() {
                return;
            }
            for vcpu in news.iter() {
                self.cpus[vcpu].asleep = false;
                if self.cpus[vcpu].inside {
                    self.enter(vcpu);
                }
            }
        }
        panic!("they poke each other for ever");
    }

    /// The vCPU reads IAR.
    fn acknowledge(&mut self, vcpu: usize) {
        let running = self.ideal.running_priority(vcpu);
        let pending = |word: &u64| word & lr::STATE_MASK == lr::STATE_PENDING;
        let lrs = self.cpus[vcpu].lrs.iter().enumerate();
        let best = lrs
            .filter(|(_, word)| pending(word) && lr::priority(**word) < running)
            .min_by_key(|(_, word)| lr::priority(**word))
            .map(|(at, word)| (at, *word));
        let expected = self.ideal.best(vcpu);
        let lrs = self.cpus[vcpu].lrs;
        let can = best.map(|(_, word)| lr::priority(word));
        let all: Vec<(u32, u8)> = INTIDS_USED
            .iter()
            .filter(|intid| self.ideal.deliverable(vcpu, **intid))
            .map(|intid| (*intid, self.ideal.of(vcpu, *intid).priority))
            .collect();
        assert_eq!(can, expected, "{all:?}: what vCPU {vcpu} can take, from {lrs:x?}");
        let Some((at, word)) = best else { return };
        let (intid, source) = (lr::vintid(word), (word >> lr::SOURCE_SHIFT & 7) as u8);
        assert!(self.ideal.deliverable(vcpu, intid), "{intid} is not vCPU {vcpu}'s to take");
        assert_eq!(word & lr::GROUP1 != 0, self.ideal.of(vcpu, intid).group1, "{intid}");
        self.ideal.acknowledge(vcpu, intid, source);
        self.cpus[vcpu].lrs[at] = (word & !lr::STATE_MASK) | lr::STATE_ACTIVE;
        if self.cpus[vcpu].npie && !self.cpus[vcpu].lrs.iter().any(pending) {
            self.enter(vcpu);
        }
    }

    /// The vCPU writes EOIR for what it took last.
    fn end(&mut self, vcpu: usize) {
        let Some((intid, active)) = self.ideal.end(vcpu) else { return };
        let ends = |word: &u64| word & lr::STATE_ACTIVE != 0 && lr::vintid(*word) == intid;
        let Some(at) = self.cpus[vcpu].lrs.iter().position(ends) else {
            assert!(!active, "{intid} is active, but in no list register of vCPU {vcpu}");
            return;
        };
        let word = &mut self.cpus[vcpu].lrs[at];
        *word &= !lr::STATE_ACTIVE;
        // The maintenance interrupt; or the linked physical interrupt fires again.
        let told = *word & lr::STATE_MASK == 0 && *word & lr::HW == 0 && *word & lr::EOI != 0;
        let fires = *word & lr::HW != 0 && self.ideal.of(vcpu, intid).line;
        if told || fires {
            self.enter(vcpu);
        }
    }

    fn write(&mut self, vcpu: usize, offset: u64, size: u64, value: u64) {
        self.leave(vcpu);
        self.gic.write_dist(vcpu, access(offset, size), value);
    }

    /// A bit register of this interrupt: where it is in the frame that holds it.
    fn write_bit(&mut self, vcpu: usize, base: u64, intid: u32) {
        let value = 1 << (intid % 32);
        if intid < 32 && self.gic.version() == Version::V3 {
            self.leave(vcpu);
            let at = vcpu as u64 * 0x2_0000 + 0x1_0000 + base;
            self.gic.write_redist(access(at, 4), value);
        } else {
            self.write(vcpu, base + u64::from(intid / 32) * 4, 4, value);
        }
    }

    fn read_bit(&self, vcpu: usize, base: u64, intid: u32) -> bool {
        let word = if intid < 32 && self.gic.version() == Version::V3 {
            self.gic.read_redist(access(vcpu as u64 * 0x2_0000 + 0x1_0000 + base, 4))
        } else {
            self.gic.read_dist(vcpu, access(base + u64::from(intid / 32) * 4, 4))
        };
        word >> (intid % 32) & 1 != 0
    }

    /// One access of `vcpu` to a register of the interrupt.
    fn access(&mut self, rng: &mut Random, vcpu: usize, intid: u32) {
        let v2 = self.gic.version() == Version::V2;
        let fixed = v2 && intid < 16;
        match rng.below(13) {
            0 | 1 => {
                self.write_bit(vcpu, 0x100, intid);
                self.ideal.change(vcpu, intid).enabled = true;
            }
            2 if rng.one_in(2) => {
                self.write_bit(vcpu, 0x180, intid);
                self.ideal.change(vcpu, intid).enabled = false;
            }
            2..=4 => {
                self.write_bit(vcpu, 0x200, intid);
                self.ideal.change(vcpu, intid).latch |= !fixed;
            }
            5 => {
                self.write_bit(vcpu, 0x280, intid);
                self.ideal.change(vcpu, intid).latch = false;
            }
            // Not those that a vCPU has yet to end: that would end what software has made active.
            6 if rng.one_in(4) && !self.is_running(intid) => {
                self.write_bit(vcpu, 0x300, intid);
                self.ideal.change(vcpu, intid).active.get_or_insert(vcpu);
            }
            7 if rng.one_in(2) => {
                if rng.one_in(2) {
                    self.write_bit(vcpu, 0x380, intid);
                } else {
                    self.leave(vcpu);
                    self.gic.deactivate(vcpu, intid);
                }
                self.ideal.change(vcpu, intid).active = None;
            }
            8 => self.set_priority(vcpu, intid, PRIORITIES[rng.below(PRIORITIES.len())]),
            9 => self.set_target(vcpu, intid, rng.below(VCPUS)),
            10 if rng.one_in(2) => {
                let group1 = !self.ideal.of(vcpu, intid).group1;
                self.set_group(vcpu, intid, group1);
            }
            11 if intid >= 32 => self.set_config(vcpu, intid, rng.one_in(2)),
            11 if rng.one_in(2) => {
                let ctlr = rng.below(4) as u32 | if rng.one_in(4) { 0 } else { 3 };
                self.write(vcpu, 0, 4, u64::from(ctlr));
                self.ideal.ctlr = ctlr;
            }
            _ => self.send(rng, vcpu, INTIDS_USED[intid as usize % 4]),
        }
    }

    fn is_running(&self, intid: u32) -> bool {
        self.ideal.running.iter().flatten().any(|(running, _)| *running == intid)
    }

    fn set_priority(&mut self, vcpu: usize, intid: u32, priority: u8) {
        self.leave(vcpu);
        if intid < 32 && self.gic.version() == Version::V3 {
            let at = vcpu as u64 * 0x2_0000 + 0x1_0400 + u64::from(intid);
            self.gic.write_redist(access(at, 1), u64::from(priority));
        } else {
            self.write(vcpu, 0x400 + u64::from(intid), 1, u64::from(priority));
        }
        self.ideal.change(vcpu, intid).priority = priority;
    }

    fn set_target(&mut self, vcpu: usize, intid: u32, target: usize) {
        if self.gic.version() == Version::V2 {
            self.write(vcpu, 0x800 + u64::from(intid), 1, 1 << target);
        } else {
            self.write(vcpu, 0x6000 + u64::from(intid) * 8, 8, target as u64);
        }
        self.ideal.change(vcpu, intid).target = Some(target);
    }

    /// Groups are written whole.
    fn set_group(&mut self, vcpu: usize, intid: u32, group1: bool) {
        self.ideal.change(vcpu, intid).group1 = group1;
        let first = intid / 32 * 32;
        let word = (0..32)
            .fold(0, |word, bit| word | u64::from(self.ideal.of(vcpu, first + bit).group1) << bit);
        if intid < 32 && self.gic.version() == Version::V3 {
            self.leave(vcpu);
            self.gic.write_redist(access(vcpu as u64 * 0x2_0000 + 0x1_0080, 4), word);
        } else {
            self.write(vcpu, 0x80 + u64::from(intid / 32) * 4, 4, word);
        }
    }

    fn set_config(&mut self, vcpu: usize, intid: u32, edge: bool) {
        self.ideal.change(vcpu, intid).edge = edge;
        let first = intid / 16 * 16;
        let word = (0..16).fold(0, |word, n| {
            word | u64::from(self.ideal.of(vcpu, first + n).edge) << (2 * n + 1)
        });
        self.write(vcpu, 0xc00 + u64::from(intid / 16) * 4, 4, word);
    }

    /// An SGI to a random set.
    fn send(&mut self, rng: &mut Random, vcpu: usize, sgi: u32) {
        let (filter, list) = (rng.below(3), rng.below(1 << VCPUS) as u64);
        let v2 = self.gic.version() == Version::V2;
        let group1 = rng.one_in(2);
        self.leave(vcpu);
        if v2 {
            let value = (filter as u64) << 24 | list << 16 | u64::from(sgi);
            self.gic.write_dist(vcpu, access(0xf00, 4), value);
        } else {
            let others = if filter == 1 { 1 << 40 } else { 0 };
            let value = others | list | u64::from(sgi) << 24;
            self.gic.write_sgi_register(vcpu, value, group1);
        }
        for target in 0..VCPUS {
            let meant = match (filter, v2) {
                (1, _) => target != vcpu,
                (2, true) => target == vcpu,
                _ => list >> target & 1 != 0,
            };
            let it = self.ideal.change(target, sgi);
            if meant && v2 {
                it.sources |= 1 << vcpu;
            } else if meant && it.group1 == group1 {
                it.latch = true;
            }
        }
    }

    fn line(&mut self, rng: &mut Random, intid: u32) {
        let (vcpu, level) = (rng.below(VCPUS), rng.one_in(2));
        if intid < 32 {
            // Timers: their lines are looked at while their vCPU is outside.
            let inside = self.cpus[vcpu].inside;
            self.leave(vcpu);
            self.gic.set_line(vcpu, intid, level);
            if inside {
                self.enter(vcpu);
            }
        } else {
            self.gic.set_line(0, intid, level);
        }
        if intid >= 16 {
            self.ideal.set_line(vcpu, intid, level);
        }
    }

    /// What must be true after every step.
    fn check(&mut self) {
        let mut listed = Vec::new();
        for (vcpu, cpu) in self.cpus.iter().enumerate().filter(|(_, cpu)| cpu.inside) {
            for word in cpu.lrs.iter().filter(|word| **word & lr::STATE_MASK != 0) {
                let intid = lr::vintid(*word);
                let name = (intid, if intid < 32 { Some(vcpu) } else { None });
                assert!(!listed.contains(&name), "I1: {intid} is in two list registers");
                listed.push(name);
            }
        }
        for vcpu in 0..VCPUS {
            let all = INTIDS_USED.iter().copied();
            let wakers: Vec<u32> =
                all.filter(|intid| self.ideal.deliverable(vcpu, *intid)).collect();
            let wakes = !wakers.is_empty();
            if !self.cpus[vcpu].inside {
                let known = self.gic.cpus[vcpu].known;
                let what = format!("vCPU {vcpu} is woken by {wakers:?}, not {known:x?}");
                assert_eq!(self.gic.pending_for(vcpu), wakes, "{what}");
                assert!(!(self.cpus[vcpu].asleep && wakes), "vCPU {vcpu} was never poked");
            }
        }
    }

    /// What the registers say, once nobody is inside who would have to leave first.
    fn check_registers(&mut self) {
        (0..VCPUS).for_each(|vcpu| self.leave(vcpu));
        for vcpu in 0..VCPUS {
            for intid in INTIDS_USED {
                let it = self.ideal.of(vcpu, intid);
                let says = [0x80, 0x100, 0x200, 0x300].map(|r| self.read_bit(vcpu, r, intid));
                let is = [it.group1, it.enabled, it.pending(), it.active.is_some()];
                assert_eq!(says, is, "{intid} of vCPU {vcpu}: group, enabled, pending, active");
            }
        }
    }

    fn step(&mut self, rng: &mut Random) {
        let vcpu = rng.below(VCPUS);
        let intid = INTIDS_USED[rng.below(INTIDS_USED.len())];
        match rng.below(16) {
            0..=3 => self.access(rng, vcpu, intid),
            4..=6 => self.line(rng, intid),
            7 if rng.one_in(4) => self.leave(vcpu),
            7 | 8 => self.enter(vcpu),
            9..=12 if self.cpus[vcpu].inside => self.acknowledge(vcpu),
            13 | 14 if self.cpus[vcpu].inside => self.end(vcpu),
            15 if !self.cpus[vcpu].inside => {
                self.cpus[vcpu].asleep = !self.gic.pending_for(vcpu);
            }
            _ => {}
        }
        self.poke();
    }
}

fn run(version: Version, seed: u64, steps: usize) {
    let mut rng = Random(seed | 1);
    let mut world = World::new(version, 2 + rng.below(3));
    if !rng.one_in(4) {
        world.set_up(&mut rng);
    }
    for at in 0..steps {
        let step = std::panic::AssertUnwindSafe(|| {
            world.step(&mut rng);
            world.check();
            if at % 64 == 63 {
                world.check_registers();
                world.poke();
            }
        });
        if let Err(why) = std::panic::catch_unwind(step) {
            eprintln!("{version:?}, seed {seed}, step {at}");
            std::panic::resume_unwind(why);
        }
    }
}

#[test]
fn a_gicv2_of_list_registers_is_as_good_as_the_ideal_one() {
    let (seeds, steps) = if cfg!(miri) { (1, 40) } else { (200, 400) };
    (1..=seeds).for_each(|seed| run(Version::V2, seed * 0x9e37_79b9, steps));
}

#[test]
fn a_gicv3_of_list_registers_is_as_good_as_the_ideal_one() {
    let (seeds, steps) = if cfg!(miri) { (1, 40) } else { (200, 400) };
    (1..=seeds).for_each(|seed| run(Version::V3, seed * 0x9e37_79b9, steps));
}
