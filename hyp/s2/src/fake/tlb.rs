//! One CPU's TLB, and the walk that fills it.

use std::collections::BTreeMap;

use hyp_abi::{Ipa, Pa, Vmid};

use super::{Inner, Place};

const VALID: u64 = 1;
const TABLE: u64 = 1 << 1;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
const AF: u64 = 1 << 10;
const XN: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// A stage-2 fault and the level it was found at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An invalid descriptor.
    Translation(u8),
    /// A right is missing.
    Permission(u8),
    /// The access flag is clear.
    AccessFlag(u8),
    /// The IPA is wider than the regime.
    AddressSize,
    /// No regime of this VMID was watched.
    NoRegime,
}

/// A copy of a valid descriptor, leaf or table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    vmid: Vmid,
    /// First address that it translates, and how many bits lie below.
    base: u64,
    bits: u32,
    level: u8,
    desc: u64,
    leaf: bool,
}

impl Entry {
    fn covers(&self, vmid: Vmid, ipa: u64) -> bool {
        self.vmid == vmid && self.base == ipa >> self.bits << self.bits
    }
}

/// Everything that one CPU remembers of the tables it walked.
#[derive(Debug, Default)]
pub(super) struct CpuTlb {
    entries: Vec<Entry>,
    /// Whose stage-1 entries are here.
    vcpus: BTreeMap<Vmid, usize>,
}

impl CpuTlb {
    /// By IPA. A hint names the level of the leaf: then nothing else has to go (D8, "TTL").
    pub(super) fn drop_ipa(&mut self, vmid: Vmid, ipa: Ipa, hint: Option<u8>) {
        self.entries.retain(|entry| {
            let meant = hint.is_none_or(|level| entry.leaf && entry.level == level);
            !(entry.covers(vmid, ipa.raw()) && meant)
        });
    }
    pub(super) fn drop_vmid(&mut self, vmid: Vmid) {
        self.entries.retain(|entry| entry.vmid != vmid);
        self.forget_vcpu(vmid);
    }
    pub(super) fn forget_vcpu(&mut self, vmid: Vmid) {
        self.vcpus.remove(&vmid);
    }
    /// Returns whose entries were here.
    pub(super) fn run_vcpu(&mut self, vmid: Vmid, vcpu: usize) -> Option<usize> {
        self.vcpus.insert(vmid, vcpu)
    }
    pub(super) fn knows_vmid(&self, vmid: Vmid) -> bool {
        self.entries.iter().any(|entry| entry.vmid == vmid)
    }
    /// The entry nearest to the leaf.
    fn best(&self, vmid: Vmid, ipa: u64) -> Option<Entry> {
        let hits = self.entries.iter().filter(|entry| entry.covers(vmid, ipa));
        hits.max_by_key(|entry| (entry.leaf, entry.level)).copied()
    }
}

impl Inner {
    pub(super) fn access(
        &mut self,
        cpu: usize,
        vmid: Vmid,
        ipa: Ipa,
        kind: Access,
    ) -> Result<Pa, Fault> {
        let entry = self.translate(cpu, vmid, ipa.raw())?;
        let allowed = match kind {
            Access::Read => entry.desc & S2AP_READ != 0,
            Access::Write => entry.desc & S2AP_WRITE != 0,
            Access::Fetch => entry.desc & S2AP_READ != 0 && entry.desc & XN == 0,
        };
        if !allowed {
            return Err(Fault::Permission(entry.level));
        }
        let low = (1u64 << entry.bits) - 1;
        Ok(Pa::new((entry.desc & ADDRESS & !low) | (ipa.raw() & low)).expect("48 bits"))
    }
    /// The TLB's entry for an address, filled by a walk if there is none yet.
    fn translate(&mut self, cpu: usize, vmid: Vmid, ipa: u64) -> Result<Entry, Fault> {
        let tree = self.trees.iter_mut().find(|tree| tree.regime.vmid == vmid);
        let tree = tree.ok_or(Fault::NoRegime)?;
        tree.flushed = false;
        // As the hardware reads it: T0SZ gives the width, SL0 the first level.
        let vtcr = tree.geometry.vtcr(5, false);
        let width = 64 - (vtcr & 0x3f);
        if ipa >> width != 0 {
            return Err(Fault::AddressSize);
        }
        let root = tree.regime.root.pfn().raw();
        let mut level = 2 - (vtcr >> 6 & 3) as u8;
        let bits_below = |level: u8| 39 - 9 * u32::from(level);
        // Concatenated roots are one array, indexed by all bits above.
        let first = ipa >> bits_below(level);
        let mut place: Place = (root + first / 512, (first & 511) as usize);

        let known = self.tlbs.get(cpu).expect("such a CPU").best(vmid, ipa);
        if let Some(entry) = known {
            if entry.leaf {
                return Ok(entry);
            }
            level = entry.level + 1;
            place = next(entry.desc, ipa, bits_below(level));
        }
        loop {
            let desc = self.walker_read(place);
            let leaf = (level == 3) == (desc & TABLE != 0);
            let reserved = (level == 3 || level == 0) && desc & TABLE == 0;
            if desc & VALID == 0 || reserved {
                return Err(Fault::Translation(level));
            }
            if leaf && desc & AF == 0 {
                // Never cached (D8, "The Access flag").
                return Err(Fault::AccessFlag(level));
            }
            let bits = bits_below(level);
            let entry = Entry { vmid, base: ipa >> bits << bits, bits, level, desc, leaf };
            self.tlbs.get_mut(cpu).expect("such a CPU").entries.push(entry);
            if leaf {
                return Ok(entry);
            }
            level += 1;
            place = next(desc, ipa, bits_below(level));
        }
    }
}

fn next(table: u64, ipa: u64, bits: u32) -> Place {
    ((table & ADDRESS) >> 12, (ipa >> bits & 511) as usize)
}
