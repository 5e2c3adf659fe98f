//! What the CPUs tell each other about the VMs and pages that they race for.
//!
//! EL2 decides a race; the winner notes it here afterwards. So a note is never early, only late, and a
//! reader may conclude from it what must have been so before his call:
//!
//! L1. A handle is the highest of its slot and minted once, so "at least this one" is for ever.
//! L2. Whoever has loaded a vCPU notes it after `vcpu_load` and strikes it out before `vcpu_put`: while
//!     the note stands the vCPU is on that CPU, and its VM is neither dying nor gone.
//! L3. A page given to a loaded vCPU's memcache cannot come back before that vCPU is put.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use hyp_abi::hcall::{MAX_VCPUS, MAX_VMS};

use super::canary::POOL;
use crate::cpu::CPUS;
use crate::ensure;

/// Most VMs of the pool at one time.
pub const VMS: u64 = 6;
/// Bits of a page number of the pool, beside a handle.
const PAGE_BITS: u32 = 8;
const _: () = assert!(POOL < 1 << PAGE_BITS);

/// One slot of EL2's table of VMs.
pub struct Slot {
    /// The VM that is there now, or 0.
    live: AtomicU64,
    /// The newest handle of each stage of life.
    minted: AtomicU64,
    born: AtomicU64,
    dying: AtomicU64,
    over: AtomicU64,
    /// Which CPU has each vCPU: its number plus one, and how often somebody loaded one before.
    holders: [AtomicU64; MAX_VCPUS],
    /// The run page of each vCPU: handle and page.
    runs: [AtomicU64; MAX_VCPUS],
}

const fn zeros<const N: usize>() -> [AtomicU64; N] {
    [const { AtomicU64::new(0) }; N]
}

static SLOTS: [Slot; MAX_VMS] = [const {
    Slot {
        live: AtomicU64::new(0),
        minted: AtomicU64::new(0),
        born: AtomicU64::new(0),
        dying: AtomicU64::new(0),
        over: AtomicU64::new(0),
        holders: zeros(),
        runs: zeros(),
    }
}; MAX_VMS];
/// VMs of the pool, those included that are about to be.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Loads so far.
static LOADS: AtomicU64 = AtomicU64::new(0);
/// The page that each CPU has last given to the vCPU that it has loaded, with a number of its own.
static GIVEN: [AtomicU64; CPUS] = zeros();
/// Pages of the pool that somebody may have written since they got their canaries.
static TOUCHED: [AtomicU64; POOL.div_ceil(64)] = zeros();
/// Pages of the pool that EL2 had since.
static TAKEN: [AtomicU64; POOL.div_ceil(64)] = zeros();

/// How far a VM has come, as noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Reserved, or further.
    Minted,
    /// Initialised, or further.
    Born,
    /// Its end has begun.
    Dying,
    /// There is no such VM any more.
    Over,
}

/// The slot of a handle, if it has one.
pub fn slot(handle: u64) -> Option<&'static Slot> {
    SLOTS.get(usize::try_from(handle & 0xff).ok()?)
}

impl Slot {
    fn newest(&self, stage: Stage) -> &AtomicU64 {
        match stage {
            Stage::Minted => &self.minted,
            Stage::Born => &self.born,
            Stage::Dying => &self.dying,
            Stage::Over => &self.over,
        }
    }

    /// Who has which vCPU.
    pub fn holders(&self) -> [u64; MAX_VCPUS] {
        core::array::from_fn(|n| self.holders.get(n).map_or(0, |holder| holder.load(SeqCst)))
    }
}

/// A VM has come to this stage: it can only once.
pub fn reach(handle: u64, stage: Stage) {
    let Some(slot) = slot(handle) else {
        ensure!(false, "a VM is called {handle:#x}");
        return;
    };
    let before = slot.newest(stage).fetch_max(handle, SeqCst);
    // A note may come so late that the next VM there has come as far; not that of a new handle, which
    // nobody knows before.
    let late = before > handle && stage != Stage::Minted;
    ensure!(before < handle || late, "{handle:#x} has become {stage:?} after {before:#x}");
    match stage {
        Stage::Minted => slot.live.store(handle, Release),
        // Another may have the slot by now.
        Stage::Over => {
            let _ = slot.live.compare_exchange(handle, 0, SeqCst, Relaxed);
            COUNT.fetch_sub(1, SeqCst);
        }
        Stage::Born | Stage::Dying => {}
    }
}

/// Whether a VM was noted to have come so far.
pub fn reached(handle: u64, stage: Stage) -> bool {
    slot(handle).is_some_and(|slot| slot.newest(stage).load(SeqCst) >= handle)
}

/// Whether the pool has room for another VM; then it is counted.
pub fn make_room() -> bool {
    let room = COUNT.fetch_add(1, SeqCst) < VMS;
    if !room {
        COUNT.fetch_sub(1, SeqCst);
    }
    room
}

/// The VMs of the pool.
pub fn live() -> impl Iterator<Item = u64> {
    SLOTS.iter().map(|slot| slot.live.load(Acquire)).filter(|handle| *handle != 0)
}

/// Whether this names a VM of the pool, of now or of the past.
pub fn is_pools(handle: u64) -> bool {
    slot(handle).is_some_and(|slot| slot.live.load(Acquire) == handle)
        || reached(handle, Stage::Over)
}

/// This CPU has a vCPU now, and nobody else.
pub fn hold(handle: u64, idx: usize, me: usize) {
    let mark = (LOADS.fetch_add(1, Relaxed) + 1) << 8 | (me as u64 + 1);
    if let Some(holder) = slot(handle).and_then(|slot| slot.holders.get(idx)) {
        let before = holder.swap(mark, SeqCst);
        ensure!(before == 0, "vCPU {idx} of {handle:#x} is on CPU {} too", (before & 0xff) - 1);
    }
}

/// It is about to let go of it.
pub fn let_go(handle: u64, idx: usize, me: usize) {
    if let Some(given) = GIVEN.get(me) {
        given.store(0, SeqCst);
    }
    if let Some(holder) = slot(handle).and_then(|slot| slot.holders.get(idx)) {
        holder.store(0, SeqCst);
    }
}

/// A vCPU has this run page, of the pool.
pub fn note_run_page(handle: u64, idx: usize, page: usize) {
    if let Some(run) = slot(handle).and_then(|slot| slot.runs.get(idx)) {
        run.fetch_max(handle << PAGE_BITS | page as u64, SeqCst);
    }
}

/// The run page of a vCPU, once it was noted.
pub fn run_page(handle: u64, idx: usize) -> Option<usize> {
    let noted = slot(handle)?.runs.get(idx)?.load(SeqCst);
    (noted >> PAGE_BITS == handle).then_some((noted & ((1 << PAGE_BITS) - 1)) as usize)
}

/// This CPU has given a page to the vCPU that it has loaded.
pub fn give(page: usize, me: usize) {
    if let Some(given) = GIVEN.get(me) {
        let again = given.load(Relaxed) >> PAGE_BITS;
        let number = LOADS.fetch_add(1, Relaxed).max(again) + 1;
        given.store(number << PAGE_BITS | page as u64, SeqCst);
    }
}

/// What CPU `n` has given, as a word that is another one each time, and its page.
pub fn given(n: usize) -> Option<(u64, usize)> {
    let word = GIVEN.get(n)?.load(SeqCst);
    (word != 0).then_some((word, (word & ((1 << PAGE_BITS) - 1)) as usize))
}

fn mark(set: &[AtomicU64], page: usize) {
    if let Some(word) = set.get(page / 64) {
        word.fetch_or(1 << (page % 64), SeqCst);
    }
}

fn has(set: &[AtomicU64], page: usize) -> bool {
    set.get(page / 64).is_some_and(|word| word.load(SeqCst) >> (page % 64) & 1 != 0)
}

/// Somebody may write this page from now on.
pub fn touch(page: usize) {
    mark(&TOUCHED, page);
}

/// EL2 has it.
pub fn take(page: usize) {
    mark(&TAKEN, page);
}

/// Whether anybody may have written it.
pub fn touched(page: usize) -> bool {
    has(&TOUCHED, page)
}

/// Whether EL2 had it.
pub fn taken(page: usize) -> bool {
    has(&TAKEN, page)
}

/// It has its canaries again.
pub fn renew(page: usize) {
    for set in [&TOUCHED, &TAKEN] {
        if let Some(word) = set.get(page / 64) {
            word.fetch_and(!(1 << (page % 64)), SeqCst);
        }
    }
}
