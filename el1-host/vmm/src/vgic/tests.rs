//! The distributors against their specifications, and the list registers against a model of a CPU interface.

mod ideal;
mod lists;
mod random;
mod smp;
mod v2;
mod v3;

use hyp_abi::lr;

use super::*;

/// A GIC whose linked interrupt is 27, with 4 list registers.
fn gic(version: Version, vcpus: usize) -> Vgic {
    Vgic::new(version, vcpus, 4, 27)
}

fn access(offset: u64, size: u64) -> Access {
    Access { offset, size }
}

/// The state of all enabled, groups on, as a guest sets it up for these interrupts.
fn set_up(gic: &mut Vgic, vcpu: usize, intids: &[u32]) {
    gic.write_dist(vcpu, access(0, 4), 3);
    for intid in intids {
        let (word, bit) = (u64::from(intid / 32) * 4, 1_u64 << (intid % 32));
        if gic.version() == Version::V3 && *intid < 32 {
            gic.write_redist(access(vcpu as u64 * 0x2_0000 + 0x1_0100, 4), bit);
        } else {
            gic.write_dist(vcpu, access(0x100 + word, 4), bit);
        }
        if gic.version() == Version::V2 && *intid >= 32 {
            gic.write_dist(vcpu, access(0x800 + u64::from(*intid), 1), 1 << vcpu);
        }
    }
}

/// What a run's list registers hold, as (INTID, state bits).
fn listed(filled: &Filled) -> Vec<(u32, u64)> {
    filled.lrs[..filled.used].iter().map(|w| (lr::vintid(*w), w & lr::STATE_MASK)).collect()
}

/// The guest takes (acknowledges) the interrupt in list register `n`.
fn acknowledge(lrs: &mut [u64; lr::MAX], n: usize) {
    assert_ne!(lrs[n] & lr::STATE_PENDING, 0);
    lrs[n] = (lrs[n] & !lr::STATE_PENDING) | lr::STATE_ACTIVE;
}

/// The guest deactivates it.
fn deactivate(lrs: &mut [u64; lr::MAX], n: usize) {
    lrs[n] &= !lr::STATE_ACTIVE;
}
