//! Software-generated interrupts, and the deactivation that GICv2 traps.

use super::bank::{Bank, BitRegister};
use super::{Version, Vgic, bank_of, bit_of, mask};

impl Vgic {
    /// A write to GICD_SGIR (IHI0048 4.3.15).
    pub(super) fn write_sgir(&mut self, vcpu: usize, value: u32) {
        let list = (value >> 16) & 0xff;
        let me = bit_of(vcpu);
        let targets = match (value >> 24) & 3 {
            0 => list,
            1 => !me,
            2 => me,
            _ => return, // reserved
        };
        let sgi = (value & 15) as usize;
        for target in 0..self.cpus.len() {
            if targets & bit_of(target) != 0 {
                self.add_sources(target, sgi, low_byte(me));
            }
        }
    }

    /// Makes an SGI pending on a vCPU from these senders.
    fn add_sources(&mut self, target: usize, sgi: usize, senders: u8) {
        self.change_sources(target, sgi, |waiting| waiting | senders);
    }

    fn change_sources(&mut self, target: usize, sgi: usize, change: impl Fn(u8) -> u8) {
        let Some(cpu) = self.cpus.get_mut(target) else { return };
        let Some(waiting) = cpu.sources.get_mut(sgi) else { return };
        *waiting = change(*waiting);
        sync_sgi(&mut cpu.private, bit_of(sgi), *waiting);
        self.touched |= 1;
        // Another sender's SGI, beside that in the list register.
        self.recall(target, 0, bit_of(sgi));
    }

    /// Byte `at` of GICD_CPENDSGIR and GICD_SPENDSGIR: the senders that wait, of existing vCPUs.
    pub(super) fn pending_sources(&self, vcpu: usize, at: usize) -> u8 {
        self.cpus.get(vcpu).and_then(|cpu| cpu.sources.get(at)).copied().unwrap_or(0)
    }

    /// A byte write to GICD_SPENDSGIR (`set`) or GICD_CPENDSGIR.
    pub(super) fn write_sources(&mut self, vcpu: usize, at: usize, value: u8, set: bool) {
        let senders = value & self.cpu_mask();
        let change = |waiting: u8| if set { waiting | senders } else { waiting & !senders };
        self.change_sources(vcpu, at, change);
    }

    /// The vCPUs that exist, a bit each.
    pub(super) fn cpu_mask(&self) -> u8 {
        low_byte(bit_of(self.cpus.len()).wrapping_sub(1))
    }

    /// A write to ICC_SGI1R_EL1 (`group1`), ICC_SGI0R_EL1 or ICC_ASGI1R_EL1 (IHI0069 12.2): with one
    /// security state the first makes group 1 SGIs, the others group 0 SGIs, and an SGI
    /// configured otherwise is not sent.
    pub fn write_sgi_register(&mut self, vcpu: usize, value: u64, group1: bool) {
        if self.version != Version::V3 {
            return;
        }
        let mask = u32::try_from((value >> 24) & 15).map_or(0, mask);
        let all_but_self = value & (1 << 40) != 0;
        // vCPUs have affinity 0.0.0.n with n below 16: one target list, range 0.
        let range_and_affinity = value & 0x00ff_f0ff_00ff_0000;
        for target in 0..self.cpus.len() {
            let listed = range_and_affinity == 0 && value & u64::from(bit_of(target)) != 0;
            let meant = if all_but_self { target != vcpu } else { listed };
            let Some(bank) = self.bank_mut(target, 0).filter(|_| meant) else { continue };
            if (bank.group & mask != 0) == group1 {
                let concerned = bank.latch(mask);
                self.recall(target, 0, concerned);
            }
        }
    }

    /// A write to GICC_DIR or ICC_DIR_EL1 (IHI0048 4.4.15): ends an interrupt whose priority was dropped
    /// before. To deactivate what is not active, or does not exist, changes nothing.
    pub fn deactivate(&mut self, vcpu: usize, intid: u32) {
        self.write_bits(vcpu, bank_of(intid), BitRegister::ClearActive, mask(intid));
    }
}

/// A GICv2 SGI is pending as long as any sender waits.
pub(super) const fn sync_sgi(private: &mut Bank, mask: u32, waiting: u8) {
    if waiting == 0 {
        private.latched &= !mask;
    } else {
        private.latched |= mask;
    }
}

pub(super) fn low_byte(word: u32) -> u8 {
    u8::try_from(word & 0xff).unwrap_or(0)
}
