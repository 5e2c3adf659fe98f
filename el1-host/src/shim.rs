//! What all CPUs of the host share: memory, the interrupt controller, the scheduler, the guests.
//!
//! Locks, outermost first: input < a guest's `vm` (to look it up, never held for long) < host-vmm's own <
//! scheduler < frames < console < heap. None is held while a guest runs, or while a VM is made or ended.
//! None is handed over in turn: a lock that goes to the next in line waits for a CPU that an emulator, with
//! more CPUs than its machine has, is not running. What a CPU could starve of is the host's own; EL2's
//! locks, which hosts that attack come to as well, are first come, first served.

use core::sync::atomic::{AtomicU64, Ordering};

use host_sched::{CpuSet, Scheduler, Task};
use host_vmm::vm::Vm;
use spin::Once;
use spin::mutex::SpinMutex;

use crate::arch::boot::CPUS;
use crate::arch::gic::{Address, Gic};
use crate::arch::phys::Memory;
use crate::arch::timer;
use crate::arch::uart::Uart;
use crate::guests::Guests;
use crate::input::Input;
use crate::machine::{Machine, Voice};
use crate::{console, frames};

/// Slices in a second. At the end of each the host also looks at its interrupt controller: when a guest
/// deactivates the virtual timer's interrupt, the linked physical one must become pending again at once
/// if its line is high again (IHI0048, hardware interrupts), and QEMU's GICv2 looks at that line only
/// when some other line or register changes. Without, a guest whose next timer fires before it has
/// deactivated the last would wait for ever.
const SLICES_PER_SECOND: u64 = 100;

/// The host.
pub struct Shim {
    pub memory: Memory,
    pub frames: SpinMutex<frames::Frames>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The console, whose input goes to one of the guests.
    pub uart: Uart,
    /// Interrupts the host knows.
    pub intids: Intids,
    /// Who runs where.
    pub sched: SpinMutex<Scheduler>,
    /// Who runs.
    pub guests: Once<Guests>,
    /// Who hears the console.
    pub input: Input,
    /// Where SGIs for each CPU go; of a CPU that is not up, nowhere.
    doors: [AtomicU64; CPUS],
    /// When some CPU must look after what is nobody's in particular (`alarm`).
    alarm: AtomicU64,
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
    /// The maintenance interrupt of guests' list registers.
    pub maintenance: u32,
}

/// No CPU has this address.
const NOWHERE: u64 = u64::MAX;
/// No time.
const NEVER: u64 = u64::MAX;

impl Shim {
    /// Puts the host together.
    pub fn new(
        memory: Memory,
        frames: frames::Frames,
        gic: Gic,
        uart: Uart,
        voice: &Voice,
        machine: &Machine<'_>,
    ) -> Self {
        let intids = Intids {
            uart: voice.uart_intid,
            timer: machine.timer_intid,
            vtimer: machine.vtimer_intid,
            maintenance: machine.maintenance_intid,
        };
        let cpus = machine.cpus.len().clamp(1, CPUS);
        let slice = timer::frequency() / SLICES_PER_SECOND;
        Self {
            memory,
            frames: SpinMutex::new(frames),
            gic,
            uart,
            intids,
            sched: SpinMutex::new(Scheduler::new(cpus, slice)),
            guests: Once::new(),
            input: Input::new(),
            doors: [const { AtomicU64::new(NOWHERE) }; CPUS],
            alarm: AtomicU64::new(NEVER),
        }
    }

    /// This CPU can be interrupted from now on.
    pub fn open_door(&self, cpu: usize, address: Address) {
        if let Some(door) = self.doors.get(cpu) {
            door.store(address.0, Ordering::Release);
        }
    }

    /// Makes other CPUs look around.
    pub fn kick(&self, cpus: CpuSet) {
        for cpu in cpus.iter() {
            let door = self.doors.get(cpu).map_or(NOWHERE, |door| door.load(Ordering::Acquire));
            if door != NOWHERE {
                self.gic.kick(Address(door));
            }
        }
    }

    /// Wakes, starts or interrupts the vCPUs of a VM that have gained something to do. Whom to
    /// interrupt is the answer.
    pub fn deliver(&self, guest: usize, vm: &Vm<'_>) -> CpuSet {
        let mut kicks = CpuSet::EMPTY;
        let pokes = vm.take_pokes();
        if pokes.is_empty() {
            return kicks;
        }
        let now = timer::now();
        let mut sched = self.sched.lock();
        for vcpu in pokes.iter() {
            kicks.add(sched.wake(Task { vm: guest, vcpu }, now));
        }
        kicks
    }

    /// When a CPU that sets its timer must wake at the latest, whatever else it does.
    pub fn next_alarm(&self) -> u64 {
        self.alarm.load(Ordering::Acquire)
    }

    /// Something is to be done then, whoever does it.
    pub fn set_alarm(&self, at: u64) {
        self.alarm.fetch_min(at, Ordering::AcqRel);
    }

    /// Does what is due: guests whose time is over, lines of theirs that wait for their ends.
    pub fn alarm(&self) {
        if timer::now() < self.next_alarm() {
            return;
        }
        // First, so that what others ask for from here on is not lost.
        self.alarm.store(NEVER, Ordering::Release);
        if let Some(next) = console::tend() {
            self.set_alarm(next);
        }
        if let Some(next) = self.guests.get().and_then(|guests| guests.end_the_late(self)) {
            self.set_alarm(next);
        }
    }

    /// Frames that are out at the moment.
    pub fn frames_out(&self) -> u64 {
        self.frames.lock().out()
    }
}
