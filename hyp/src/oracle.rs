//! Feature `oracle`: the specification beside the running hypervisor.
//!
//! Knows where hypercalls, exits and aborts pass on their way into the core, and the one lock that makes
//! them pass one at a time, whichever CPU they are on. Must not know what is compared.
//!
//! The lock is the outermost: a CPU takes it when it holds none of the core's, and never across a guest's
//! run. A divergence is a panic, which ends the machine and fails every test.

use core::sync::atomic::{AtomicU64, Ordering};

use hyp_abi::run::ENTRY_FLAGS;
use hyp_abi::{Ipa, Pfn};
use hyp_core::cpu::{GuestNext, HostAbort, Outcome, RawExit};
use hyp_core::memmap::{MemMap, PageRange};
use hyp_core::vcpu::MEMCACHE_PAGES;
use hyp_core::{CpuLocal, Gic};
use hyp_model::{State, World};
use hyp_oracle::{Divergence, Oracle};
use hyp_sync::Once;
use spin::mutex::TicketMutex;

use crate::arch::percpu::CPUS;
use crate::el2;

static ORACLE: Once<TicketMutex<Oracle>> = Once::new();

/// The word that was last read where a run page has its entry flags. Only the holder of the lock
/// asks, after a `vcpu_run`, which reads it once and nothing else there.
static ENTRY: AtomicU64 = AtomicU64::new(0);

/// The specification's state at boot, from what the core is told too.
pub fn specified(
    ram: &MemMap,
    owned: &[PageRange],
    private: &[PageRange],
    gic: Gic,
    ipa_bits: u8,
) -> State {
    let ranges = |from: &mut dyn Iterator<Item = PageRange>| {
        from.filter_map(|range| Some((Pfn::new(range.start())?, range.pages()))).collect()
    };
    let pages = 1 << u32::from(ipa_bits).saturating_sub(hyp_abi::PAGE_SHIFT);
    let world = World {
        ram: ranges(&mut ram.regions()),
        private: ranges(&mut private.iter().copied()),
        host_pages: pages,
        guest_pages: pages,
        gicv: if let Gic::V2 { gicv } = gic { gicv } else { None },
        cpus: CPUS,
        memcache: MEMCACHE_PAGES,
    };
    State::boot(world, owned.iter().flat_map(|range| range.iter()))
}

/// From now on everything is judged. Nothing has passed yet. `strict`: which devices the host may
/// touch is the core's decision.
pub fn start(state: State, strict: bool) {
    let oracle = Oracle::new(state, Oracle::EVERY).trusting_devices(strict);
    ORACLE.call_once(|| TicketMutex::new(oracle));
    log::info!("the specification looks on");
}

/// A word of RAM was read.
pub fn note_read(index: usize, value: u64) {
    if index == ENTRY_FLAGS {
        ENTRY.store(value, Ordering::Relaxed);
    }
}

/// The way into the core, past the specification.
pub fn judged() -> Judged {
    Judged(ORACLE.get().expect("the boot is over"))
}

/// See [`judged`].
pub struct Judged(&'static TicketMutex<Oracle>);

impl Judged {
    /// As the core's.
    pub fn hypercall(&self, cpu: &mut CpuLocal, regs: [u64; 5]) -> Outcome {
        let entry = || ENTRY.load(Ordering::Relaxed);
        sound(self.0.lock().hypercall(el2::hyp(), cpu, regs, entry))
    }

    /// As the core's.
    pub fn guest_exit(&self, cpu: &mut CpuLocal, raw: RawExit) -> GuestNext {
        sound(self.0.lock().guest_exit(el2::hyp(), cpu, raw))
    }

    /// As the core's.
    pub fn host_abort(&self, cpu: &mut CpuLocal, ipa: Ipa) -> HostAbort {
        sound(self.0.lock().host_abort(el2::hyp(), cpu, ipa))
    }
}

fn sound<T>(judged: Result<T, Divergence>) -> T {
    judged.unwrap_or_else(|why| panic!("divergence from the specification: {why}"))
}
