//! What an observer may know of the state: the feature `oracle` of the EL2 image, and the properties.
//!
//! Numbers as they are stored, for others to make sense of. Nothing can be changed from here. The
//! observer sees to it that nobody else does meanwhile.

use hyp_abi::hcall::MAX_VCPUS;
use hyp_abi::{Handle, Pfn};

use crate::cpu::CpuLocal;
use crate::hyp::Hyp;
use crate::machine::Machine;
use crate::owner::Word;
use crate::pool::FreeList;
use crate::vcpu::Vcpu;
use crate::vm::{Slot, State, VcpuSlot};

/// A chain through free pages: word 0 of each is the number of the next one plus one, or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The first page.
    pub head: Option<Pfn>,
    /// How many it is said to have.
    pub len: usize,
}

impl Chain {
    fn of(list: &FreeList) -> Self {
        Self { head: list.head(), len: list.len() }
    }
}

/// A vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuFacts {
    /// Its run page.
    pub run_page: Pfn,
    /// Its pages for tables.
    pub memcache: Chain,
}

impl VcpuFacts {
    fn of(vcpu: &Vcpu) -> Self {
        Self { run_page: vcpu.run_page, memcache: Chain::of(&vcpu.memcache) }
    }
}

/// A place for a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Not initialised.
    Absent,
    /// In its VM.
    Here(VcpuFacts),
    /// With the CPU that loaded it.
    Loaded,
}

/// A VM that was initialised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFacts {
    /// Being torn down.
    pub dying: bool,
    /// First page of its root table.
    pub root: Pfn,
    /// How many vCPUs it may have.
    pub nr_vcpus: usize,
    /// The places; those from `nr_vcpus` on are absent.
    pub vcpus: [Place; MAX_VCPUS],
    /// RAM pages mapped, as EL2 counts them.
    pub shared: u64,
    /// Device pages mapped, likewise.
    pub devices: u64,
    /// Tables below the root in use, likewise.
    pub tables: usize,
    /// Pages given for tables, likewise.
    pub given: usize,
    /// Tables that came free.
    pub freed: Chain,
}

/// A slot that is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts {
    /// Its handle.
    pub handle: Handle,
    /// The VM, unless it is only reserved.
    pub vm: Option<VmFacts>,
}

impl SlotFacts {
    fn of(slot: &Slot) -> Option<Self> {
        let vm = match slot.state() {
            State::Free => return None,
            State::Reserved => None,
            State::Live(vm) => {
                let mut vcpus = [Place::Absent; MAX_VCPUS];
                for (place, vcpu) in vcpus.iter_mut().zip(vm.places()) {
                    *place = match vcpu {
                        VcpuSlot::Absent => Place::Absent,
                        VcpuSlot::Here(vcpu) => Place::Here(VcpuFacts::of(vcpu)),
                        VcpuSlot::Loaded => Place::Loaded,
                    };
                }
                Some(VmFacts {
                    dying: vm.dying,
                    root: vm.map.regime().root.pfn(),
                    nr_vcpus: vm.places().len(),
                    vcpus,
                    shared: vm.shared,
                    devices: vm.devices,
                    tables: vm.stock.in_use(),
                    given: vm.stock.given(),
                    freed: Chain::of(vm.stock.freed()),
                })
            }
        };
        Some(Self { handle: slot.handle(), vm })
    }
}

impl<M: Machine> Hyp<M> {
    /// The metadata word of a page; `None` if it is not RAM.
    pub fn observe_page(&self, pfn: Pfn) -> Option<u64> {
        self.pages().word(pfn).map(Word::raw)
    }

    /// What is in a VM slot; `None` if it is free, or there is no such slot.
    pub fn observe_slot(&self, cpu: &mut CpuLocal, index: usize) -> Option<SlotFacts> {
        let (slot, _held) = self.slots.get(index)?.lock(&mut cpu.locks);
        SlotFacts::of(&slot)
    }
}

impl CpuLocal {
    /// The loaded vCPU: its VM, its number, and itself.
    #[must_use]
    pub fn observe_loaded(&self) -> Option<(Handle, u64, VcpuFacts)> {
        self.loaded.as_ref().map(|l| (l.handle, l.idx, VcpuFacts::of(&l.vcpu)))
    }
}
