//! What host-vmm asks of the image around it: frames, run pages, time, the console, EL2.

use core::sync::atomic::{AtomicU64, Ordering};

use host_vmm::host::{Clock, Console, Frames, Hypercalls, RunPage, RunPages};
use hyp_abi::{Hypercall, PAGE_SIZE, Pfn, Ret};
use spin::mutex::TicketMutex;

use crate::arch::gic::Gic;
use crate::arch::phys::{Memory, PAGE_WORDS};
use crate::arch::pl011::Pl011;
use crate::arch::timer;
use crate::el2::El2;
use crate::machine::{Machine, Voice};
use crate::{console, frames};

/// The host.
pub struct Shim {
    memory: Memory,
    frames: TicketMutex<frames::Frames>,
    /// The interrupt controller of the one CPU.
    pub gic: Gic,
    /// The console, whose input goes to the guest that runs.
    pub uart: Pl011,
    /// Interrupts the host knows.
    pub intids: Intids,
}

/// Physical interrupts.
#[derive(Clone, Copy, Debug)]
pub struct Intids {
    /// The console UART; without one there is no input.
    pub uart: Option<u32>,
    /// The host's own timer.
    pub timer: u32,
    /// The guests' virtual timer.
    pub vtimer: u32,
}

impl Shim {
    /// Puts the host together and lets its interrupts through.
    pub fn new(
        memory: Memory,
        frames: frames::Frames,
        gic: Gic,
        uart: Pl011,
        voice: &Voice,
        machine: &Machine<'_>,
    ) -> Self {
        let intids = Intids {
            uart: voice.uart_intid,
            timer: machine.timer_intid,
            vtimer: machine.vtimer_intid,
        };
        for intid in [intids.uart, Some(intids.timer), Some(intids.vtimer)] {
            intid.into_iter().for_each(|intid| gic.enable(intid));
        }
        // The maintenance interrupt ends a guest's run; it is over when EL2 has switched the list
        // registers off, before anybody could acknowledge it. So it needs no handler.
        gic.enable(machine.maintenance_intid);
        Self { memory, frames: TicketMutex::new(frames), gic, uart, intids }
    }

    /// Frames that are out at the moment.
    pub fn frames_out(&self) -> u64 {
        self.frames.lock().out()
    }
}

impl Hypercalls for Shim {
    fn call(&self, call: Hypercall, args: [u64; 4]) -> Ret {
        El2.call(call, args)
    }
}

impl Frames for Shim {
    fn alloc_frame(&self) -> Option<Pfn> {
        self.frames.lock().take()
    }

    fn alloc_pair(&self) -> Option<Pfn> {
        self.frames.lock().take_pair()
    }

    fn free_frame(&self, frame: Pfn) {
        let put = self.frames.lock().put(frame);
        // Only a bug of the host gives back what is not out; going on would hand it out twice.
        assert!(put.is_ok(), "{frame:?} came back: {put:?}");
    }

    fn zero(&self, frame: Pfn) {
        self.memory.zero(frame);
    }

    fn fill(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        let room = (PAGE_SIZE as usize).saturating_sub(offset);
        self.memory.write(frame, offset.min(PAGE_SIZE as usize), &bytes[..bytes.len().min(room)]);
    }
}

/// A run page, word by word: EL2 writes it while the host holds it.
#[derive(Clone, Copy)]
pub struct Page(&'static [AtomicU64; PAGE_WORDS]);

impl RunPage for Page {
    fn read(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn write(&self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

impl RunPages for Shim {
    type Page = Page;

    fn run_page(&self, frame: Pfn) -> Page {
        Page(self.memory.words(frame))
    }
}

impl Clock for Shim {
    fn now(&self) -> u64 {
        timer::now()
    }
}

impl Console for Shim {
    fn put(&self, byte: u8) {
        console::send(byte);
    }
}
