//! A virtual machine, and the slots that VMs live in.
//!
//! A slot goes free → reserved → live → dying → free. Each reservation mints a handle with a new
//! generation, so an old handle never reaches a newer VM. A vCPU is in its slot here or, while it
//! is loaded, with the CPU that loaded it: so it cannot be on two CPUs.
//!
//! Invariants:
//! - I1: `loaded` is the number of vCPUs that are away; a VM with one away is neither dying nor freed.
//! - I2: `shared` and `devices` count the leaves in `map`.
//! - I3: while `unflushed` is set, some CPU may still write through a right that was taken away;
//!   nobody enters this VM before a flush.
//!
//! Lock rank: VM. One slot is locked at a time.

use hyp_abi::hcall::MAX_VCPUS;
use hyp_abi::{Handle, Pfn, Refusal};
use hyp_s2::GuestMap;

use crate::boxed::Boxed;
use crate::machine::Machine;
use crate::owner::Pages;
use crate::pool::Stock;
use crate::vcpu::Vcpu;

/// CPUs whose last vCPU is remembered; others flush at every load.
pub const MAX_CPUS: usize = 8;

/// Where a vCPU is.
#[derive(Debug)]
pub enum VcpuSlot {
    /// Not initialised.
    Absent,
    /// Here.
    Here(Boxed<Vcpu>),
    /// With the CPU that loaded it.
    Loaded,
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    /// Its stage 2.
    pub map: GuestMap,
    /// Its table pages.
    pub stock: Stock,
    /// Pages of the host's that `map` maps.
    pub shared: u64,
    /// Device pages that it maps.
    pub devices: u64,
    /// Rights were taken away without TLB flush.
    pub unflushed: bool,
    /// Being torn down.
    pub dying: bool,
    vcpus: [VcpuSlot; MAX_VCPUS],
    /// How many vCPUs it may have.
    nr_vcpus: usize,
    loaded: usize,
    /// Which vCPU each CPU ran last: index + 1, 0 = none since this VM began.
    last_ran: [u8; MAX_CPUS],
}

impl Vm {
    /// A VM without vCPUs. `nr_vcpus` is at most [`MAX_VCPUS`].
    #[must_use]
    pub fn new(map: GuestMap, nr_vcpus: usize) -> Self {
        Self {
            map,
            stock: Stock::default(),
            shared: 0,
            devices: 0,
            unflushed: false,
            dying: false,
            vcpus: [const { VcpuSlot::Absent }; MAX_VCPUS],
            nr_vcpus,
            loaded: 0,
            last_ran: [0; MAX_CPUS],
        }
    }

    /// The place of vCPU `idx`.
    ///
    /// # Errors
    /// `Invalid`: the VM has no such vCPU.
    pub fn vcpu_slot(&mut self, idx: u64) -> Result<&mut VcpuSlot, Refusal> {
        let nr = self.nr_vcpus;
        let idx = usize::try_from(idx).map_err(|_| Refusal::Invalid)?;
        self.vcpus.get_mut(idx).filter(|_| idx < nr).ok_or(Refusal::Invalid)
    }

    /// The places for its vCPUs.
    pub(crate) fn places(&self) -> &[VcpuSlot] {
        self.vcpus.get(..self.nr_vcpus).unwrap_or(&self.vcpus)
    }

    /// Hands vCPU `idx` to a CPU.
    ///
    /// # Errors
    /// `Invalid`: dying, or no such vCPU; `NotFound`: not initialised; `Busy`: with another CPU.
    pub fn load(&mut self, idx: u64) -> Result<Boxed<Vcpu>, Refusal> {
        if self.dying {
            return Err(Refusal::Invalid);
        }
        let slot = self.vcpu_slot(idx)?;
        match core::mem::replace(slot, VcpuSlot::Loaded) {
            VcpuSlot::Here(vcpu) => {
                self.loaded = self.loaded.saturating_add(1);
                Ok(vcpu)
            }
            VcpuSlot::Loaded => Err(Refusal::Busy),
            VcpuSlot::Absent => {
                *slot = VcpuSlot::Absent;
                Err(Refusal::NotFound)
            }
        }
    }

    /// Takes a vCPU back from its CPU.
    pub fn put(&mut self, idx: u64, vcpu: Boxed<Vcpu>) {
        if let Ok(slot) = self.vcpu_slot(idx) {
            *slot = VcpuSlot::Here(vcpu);
            self.loaded = self.loaded.saturating_sub(1);
        }
    }

    /// Whether any vCPU is with a CPU.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.loaded > 0
    }

    /// Notes that `cpu` now has vCPU `idx`. Says whether the CPU may remember stage-1 translations
    /// of another vCPU of this VM: same VMID, perhaps the same ASID, other tables.
    #[must_use]
    pub fn switch(&mut self, cpu: usize, idx: u64) -> bool {
        let now = u8::try_from(idx).map_or(u8::MAX, |idx| idx.saturating_add(1));
        let Some(last) = self.last_ran.get_mut(cpu) else { return true };
        let before = core::mem::replace(last, now);
        before != 0 && before != now
    }

    /// The vCPUs that are here.
    pub fn vcpus(&mut self) -> impl Iterator<Item = &mut Vcpu> {
        self.vcpus.iter_mut().filter_map(|slot| match slot {
            VcpuSlot::Here(vcpu) => Some(&mut **vcpu),
            VcpuSlot::Absent | VcpuSlot::Loaded => None,
        })
    }

    /// Takes one page, zeroed, that neither the tables nor any vCPU here will use any more.
    pub fn reclaim<M: Machine>(&mut self, pages: Pages<'_, M>) -> Option<Pfn> {
        let caches = self.vcpus.iter_mut().filter_map(|slot| match slot {
            VcpuSlot::Here(vcpu) => Some(&mut vcpu.memcache),
            VcpuSlot::Absent | VcpuSlot::Loaded => None,
        });
        self.stock.reclaim(pages, caches)
    }
}

/// What a slot holds.
#[derive(Debug)]
pub enum State {
    /// Nothing.
    Free,
    /// A handle was given out; no VM yet.
    Reserved,
    /// A VM, living or dying.
    Live(Boxed<Vm>),
}

/// A place for a VM.
#[derive(Debug)]
pub struct Slot {
    generation: u64,
    handle: Handle,
    state: State,
}

impl Slot {
    /// An empty place.
    #[must_use]
    pub const fn new() -> Self {
        Self { generation: 0, handle: Handle::from_raw(0), state: State::Free }
    }

    /// What it holds.
    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// The handle minted last.
    pub(crate) const fn handle(&self) -> Handle {
        self.handle
    }

    /// Takes the place for a new VM, if it is free, and mints the VM's handle.
    pub fn reserve(&mut self, index: u8) -> Option<Handle> {
        let State::Free = self.state else { return None };
        self.generation = self.generation.saturating_add(1);
        self.handle = Handle::compose(index, self.generation);
        self.state = State::Reserved;
        Some(self.handle)
    }

    /// Checks that `handle` names this slot's reservation, without a VM yet.
    ///
    /// # Errors
    /// `Invalid` otherwise.
    pub fn reserved(&mut self, handle: Handle) -> Result<&mut State, Refusal> {
        match self.state {
            State::Reserved if self.handle == handle => Ok(&mut self.state),
            _ => Err(Refusal::Invalid),
        }
    }

    /// The VM that `handle` names, living or dying.
    ///
    /// # Errors
    /// `Invalid`: there is none.
    pub fn vm(&mut self, handle: Handle) -> Result<&mut Vm, Refusal> {
        match &mut self.state {
            State::Live(vm) if self.handle == handle => Ok(vm),
            _ => Err(Refusal::Invalid),
        }
    }

    /// The dying VM that `handle` names.
    ///
    /// # Errors
    /// `Invalid`: there is none, or it lives.
    pub fn dying(&mut self, handle: Handle) -> Result<&mut Vm, Refusal> {
        self.vm(handle).and_then(|vm| if vm.dying { Ok(vm) } else { Err(Refusal::Invalid) })
    }

    /// Ends the VM: its objects go with what this returns.
    pub fn free(&mut self) -> State {
        core::mem::replace(&mut self.state, State::Free)
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}
