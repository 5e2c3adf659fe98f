//! A guest's memory: slots, mirror, and the path from a fault to a mapped page.
//!
//! A page comes into being when the guest first touches it: slot -> frame -> content -> map. The
//! frame is filled before it is mapped, and belongs to this code until EL2 has agreed. EL2 makes
//! the content visible to observers without caches when it maps the page.
//!
//! Lock order: the mirror's lock, then the dirty log's; neither is held while the other is taken, except
//! that callbacks of the mirror free frames.
//!
//! Invariant: frames taken for guest pages = pages in the mirror = pages EL2 maps. Table pages are
//! EL2's from the top-up until it hands them back.

use core::sync::atomic::{AtomicU64, Ordering};

use host_mirror::{Calls, Destroyed, Hypercalls, Mirror};
use hyp_abi::{Gfn, Handle, Prot, Refusal};

use crate::dirty::DirtyLog;
use crate::host::Frames;
use crate::slots::Slots;

/// Pages that one fault may need for tables: a walk from level 0 has three below its root; one
/// more try says that EL2 asks for ever.
const TOPUPS: usize = 4;

/// What the guest was doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// A page is mapped, without the right that was needed.
    pub permission: bool,
}

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest can try its instruction again.
    Retry,
    /// No memory there.
    Outside,
    /// A write to memory that the guest may only read.
    ReadOnly,
    /// The host has no more frames.
    OutOfFrames,
    /// EL2 refuses for good.
    Refused(Refusal),
}

/// Frames a VM holds, by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Frames that are guest memory.
    pub guest: u64,
    /// Frames given to EL2 for tables.
    pub tables: u64,
}

/// One VM's memory.
#[derive(Debug)]
pub struct Memory<'a> {
    slots: Slots<'a>,
    mirror: Mirror,
    pub(crate) log: DirtyLog,
    guest: AtomicU64,
    tables: AtomicU64,
}

impl<'a> Memory<'a> {
    /// The memory of a VM, nothing of it touched.
    #[must_use]
    pub fn new(handle: Handle, slots: Slots<'a>) -> Self {
        Self {
            slots,
            mirror: Mirror::new(handle),
            log: DirtyLog::new(),
            guest: AtomicU64::new(0),
            tables: AtomicU64::new(0),
        }
    }

    /// The mirror.
    #[must_use]
    pub const fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The slots.
    #[must_use]
    pub const fn slots(&self) -> &Slots<'a> {
        &self.slots
    }

    /// Frames in use.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        Accounts {
            guest: self.guest.load(Ordering::Relaxed),
            tables: self.tables.load(Ordering::Relaxed),
        }
    }

    /// Resolves a fault of this VM's loaded vCPU.
    pub fn fault<H: Hypercalls + Frames + ?Sized>(
        &self,
        host: &H,
        gfn: Gfn,
        access: Access,
    ) -> Fault {
        let Some(slot) = self.slots.find(gfn) else { return Fault::Outside };
        let prot = slot.prot();
        if access.write && !prot.contains(Prot::W) {
            return Fault::ReadOnly;
        }
        if access.permission {
            return self.relax(host, gfn, prot, access);
        }
        let Some(frame) = host.alloc_frame() else { return Fault::OutOfFrames };
        slot.fill(host, gfn, frame);
        // While the log is on, a page that is only read must still fault at its first write.
        let read_only = self.log.is_on() && !access.write;
        let granted = if read_only { prot.without(Prot::W) } else { prot };
        let answer = self.with_tables(host, || self.mirror.map(host, gfn, frame, granted));
        if answer.is_ok() {
            self.guest.fetch_add(1, Ordering::Relaxed);
            self.granted(gfn, granted);
            return Fault::Retry;
        }
        host.free_frame(frame);
        match answer {
            Err(Refusal::Raced) => Fault::Retry,
            Err(Refusal::NoMemory) => Fault::OutOfFrames,
            Err(refusal) => Fault::Refused(refusal),
            Ok(()) => Fault::Retry,
        }
    }

    /// Logs a page that has just been made writable. After, not before: if the log is restarted while
    /// the right is being given, either its sweep takes the right away again or this mark is in the
    /// new log.
    fn granted(&self, gfn: Gfn, prot: Prot) {
        if prot.contains(Prot::W) {
            self.log.mark(gfn);
        }
    }

    /// A permission fault: a page was write-protected, or mapped while the log was on.
    fn relax<H: Hypercalls + ?Sized>(
        &self,
        host: &H,
        gfn: Gfn,
        slot: Prot,
        access: Access,
    ) -> Fault {
        let wanted = if access.write {
            Prot::W
        } else if access.fetch {
            Prot::X
        } else {
            Prot::R
        };
        if !slot.contains(wanted) {
            return Fault::Refused(Refusal::NotPermitted);
        }
        match self.mirror.relax_perms(host, gfn, wanted) {
            Ok(()) => {
                self.granted(gfn, wanted);
                Fault::Retry
            }
            Err(Refusal::Raced) => Fault::Retry,
            Err(refusal) => Fault::Refused(refusal),
        }
    }

    /// Calls `attempt` until EL2 no longer lacks table pages. `NoMemory` at the end: the host has no
    /// frames, or EL2 asks for more than a walk can use.
    pub(crate) fn with_tables<H: Hypercalls + Frames + ?Sized>(
        &self,
        host: &H,
        attempt: impl Fn() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        for _ in 0..TOPUPS {
            match attempt() {
                Err(Refusal::NoMemory) => self.top_up(host)?,
                other => return other,
            }
        }
        attempt()
    }

    fn top_up<H: Hypercalls + Frames + ?Sized>(&self, host: &H) -> Result<(), Refusal> {
        let frame = host.alloc_frame().ok_or(Refusal::NoMemory)?;
        match host.memcache_topup(frame) {
            Ok(_) => {
                self.tables.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(refusal) => {
                host.free_frame(frame);
                Err(refusal)
            }
        }
    }

    /// Takes every page back from EL2 and gives the frames back to the host.
    pub fn release<H: Hypercalls + Frames + ?Sized>(&self, host: &H) -> Destroyed {
        let done = self.mirror.destroy(host, |_, frame| host.free_frame(frame));
        self.guest.fetch_sub(done.pages, Ordering::Relaxed);
        done
    }

    /// Notes that a table page came back.
    pub(crate) fn table_returned(&self) {
        let less = |n: u64| Some(n.saturating_sub(1));
        let _ = self.tables.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

#[cfg(test)]
pub(crate) mod tests;
