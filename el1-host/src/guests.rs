//! The VMs of the bundle, from their start to their end, whichever CPU that happens on.
//!
//! Invariants:
//! - I1: a VM is ended by one CPU, the one that the scheduler tells to (`finish`), after all its vCPUs
//!   have been unloaded everywhere.
//! - I2: the first reason to end counts.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use host_sched::{CpuSet, Task};
use host_vmm::vm::{Config, Platform, Vm};
use hyp_abi::hcall::MAX_VCPUS;
use log::info;
use spin::mutex::SpinMutex;

use crate::accounts::{count_pages, tear_down};
use crate::arch::timer;
use crate::console;
use crate::end::End;
use crate::ground::Ground;
use crate::outcome::Outcome;
use crate::shares::Share;
use crate::shim::Shim;

/// Most resets of one VM: a guest that resets for ever ends like one that runs for ever.
const RESETS_MAX: u32 = 100;
/// The CPU that waits for the end of all guests.
const BOOT_CPU: usize = 0;
/// A vCPU that does not wait.
const AWAKE: u64 = 0;
/// No time.
const NEVER: u64 = u64::MAX;

/// A VM in use.
pub type Shared = Arc<Vm<'static>>;

/// One VM of the bundle.
pub struct Guest {
    config: Config<'static>,
    vm: SpinMutex<Option<Shared>>,
    living: AtomicBool,
    end: SpinMutex<Option<End>>,
    /// Frames that it has.
    frames: AtomicU64,
    /// Ticks that its vCPUs have been in the guest.
    ran: AtomicU64,
    resets: AtomicU32,
    /// When it is to end at the latest, and how.
    limit: AtomicU64,
    kill: AtomicU64,
    /// vCPUs that wait for an interrupt: until when at the latest.
    waits: [AtomicU64; MAX_VCPUS],
}

impl Guest {
    fn new(config: Config<'static>) -> Self {
        Self {
            config,
            vm: SpinMutex::new(None),
            living: AtomicBool::new(false),
            end: SpinMutex::new(None),
            frames: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            limit: AtomicU64::new(NEVER),
            kill: AtomicU64::new(NEVER),
            waits: [const { AtomicU64::new(AWAKE) }; MAX_VCPUS],
        }
    }

    /// Its name in the manifest.
    pub fn name(&self) -> &str {
        &self.config.manifest().name
    }

    /// Until when a vCPU waits for an interrupt, if it does.
    pub fn wait(&self, vcpu: usize) -> Option<u64> {
        let until = self.waits.get(vcpu)?.load(Ordering::Relaxed);
        (until != AWAKE).then_some(until)
    }

    /// A vCPU waits until then, or does not. Only the CPU that has it says so.
    pub fn set_wait(&self, vcpu: usize, until: Option<u64>) {
        if let Some(wait) = self.waits.get(vcpu) {
            wait.store(until.unwrap_or(AWAKE), Ordering::Relaxed);
        }
    }

    /// Counts time in the guest.
    pub fn count_run(&self, ticks: u64) {
        self.ran.fetch_add(ticks, Ordering::Relaxed);
    }

    /// What it stands on.
    pub fn ground<'a>(&'a self, shim: &'a Shim, guest: usize) -> Ground<'a> {
        Ground { shim, guest, frames: &self.frames }
    }
}

/// All of them.
pub struct Guests {
    list: Vec<Guest>,
    platform: Platform,
    /// Seconds that each may run.
    timeout: Option<u64>,
    living: AtomicUsize,
    /// VMs that EL2 knows at the moment, the most there were, and all there ever were.
    existing: AtomicUsize,
    most: AtomicUsize,
    made: AtomicUsize,
    /// What came of them.
    pub outcome: SpinMutex<Outcome>,
}

impl Guests {
    /// None of them lives yet.
    pub fn new(
        configs: Vec<Config<'static>>,
        platform: Platform,
        timeout: Option<u64>,
        outcome: Outcome,
    ) -> Self {
        Self {
            list: configs.into_iter().map(Guest::new).collect(),
            platform,
            timeout,
            living: AtomicUsize::new(0),
            existing: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
            outcome: SpinMutex::new(outcome),
        }
    }

    /// One of them.
    pub fn get(&self, guest: usize) -> Option<&Guest> {
        self.list.get(guest)
    }

    /// Its name.
    pub fn name(&self, guest: usize) -> &str {
        self.get(guest).map_or("nobody", Guest::name)
    }

    /// How many live.
    pub fn living(&self) -> usize {
        self.living.load(Ordering::Acquire)
    }

    /// Whether this one does.
    pub fn is_living(&self, guest: usize) -> bool {
        self.get(guest).is_some_and(|guest| guest.living.load(Ordering::Acquire))
    }

    /// How many VMs were made, and how many there were at once at most.
    pub fn made(&self) -> (usize, usize) {
        (self.made.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed))
    }

    /// What each has had of the CPUs since it was last started.
    pub fn shares(&self) -> Vec<Share<'_>> {
        let ran = |guest: &Guest| guest.ran.load(Ordering::Relaxed);
        self.list.iter().map(|guest| Share { name: guest.name(), ran: ran(guest) }).collect()
    }

    /// The first that lives, from `from` on.
    pub fn first_living(&self, from: usize) -> Option<usize> {
        (from..self.list.len()).find(|guest| self.is_living(*guest))
    }

    /// The VM, unless it is being made or ended at the moment.
    pub fn vm(&self, guest: usize) -> Option<Shared> {
        self.get(guest)?.vm.lock().clone()
    }

    /// Starts all. `kill` says for each after how many ticks it is killed.
    pub fn start_all(&self, shim: &Shim, mut kill: impl FnMut() -> Option<u64>) {
        // All of them live before the first one runs: the console's lines are named from the start.
        self.living.store(self.list.len(), Ordering::Release);
        for (n, guest) in self.list.iter().enumerate() {
            let now = timer::now();
            let ticks = |seconds: u64| seconds.saturating_mul(timer::frequency());
            let limit = self.timeout.map_or(NEVER, |s| now.saturating_add(ticks(s)));
            let kill = kill().map_or(NEVER, |ticks| now.saturating_add(ticks));
            *guest.end.lock() = None;
            guest.resets.store(0, Ordering::Relaxed);
            guest.ran.store(0, Ordering::Relaxed);
            guest.limit.store(limit, Ordering::Relaxed);
            guest.kill.store(kill, Ordering::Relaxed);
            guest.living.store(true, Ordering::Release);
            console::enter(n, guest.name());
        }
        for n in 0..self.list.len() {
            if let Err(why) = self.start(shim, n) {
                self.over(shim, n, Err(why));
            }
        }
        shim.set_alarm(timer::now());
    }

    /// Makes a VM and lets its boot vCPU run.
    fn start(&self, shim: &Shim, n: usize) -> Result<(), String> {
        let Some(guest) = self.get(n) else { return Ok(()) };
        info!(
            "{}: starting, with {} MiB of memory",
            guest.name(),
            guest.config.manifest().memory_mib
        );
        let vm = Vm::create(&guest.ground(shim, n), &guest.config, self.platform)
            .map_err(|why| why.to_string())?;
        self.made.fetch_add(1, Ordering::Relaxed);
        self.most.fetch_max(self.existing.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let vcpus = vm.vcpus();
        (0..vcpus).for_each(|vcpu| guest.set_wait(vcpu, None));
        *guest.vm.lock() = Some(Arc::new(vm));
        let boot = Task { vm: n, vcpu: 0 };
        let kicks = {
            let mut sched = shim.sched.lock();
            sched.add(n, vcpus);
            sched.wake(boot, timer::now())
        };
        shim.kick(kicks);
        // Its end may have been decided while it was made.
        if guest.end.lock().is_some() {
            shim.kick(shim.sched.lock().stop(n));
        }
        shim.input.feed(shim);
        Ok(())
    }

    /// Ends a VM: its vCPUs stop, wherever they run; then some CPU will `finish` it.
    pub fn end(&self, shim: &Shim, n: usize, end: End) {
        let Some(guest) = self.get(n) else { return };
        guest.end.lock().get_or_insert(end);
        let kicks = shim.sched.lock().stop(n);
        shim.kick(kicks);
    }

    /// Ends those whose time is over; answers when the next one's will be.
    pub fn end_the_late(&self, shim: &Shim) -> Option<u64> {
        let now = timer::now();
        let mut next = None;
        for (n, guest) in self.list.iter().enumerate() {
            if !self.is_living(n) || guest.end.lock().is_some() {
                continue;
            }
            let limit =
                (guest.limit.load(Ordering::Relaxed), End::TimedOut(self.timeout.unwrap_or(0)));
            let kill = (guest.kill.load(Ordering::Relaxed), End::Killed);
            let (at, how) = if kill.0 < limit.0 { kill } else { limit };
            if at <= now {
                self.end(shim, n, how);
            } else if at != NEVER {
                next = Some(next.map_or(at, |other: u64| other.min(at)));
            }
        }
        next
    }

    /// Takes apart a VM none of whose vCPUs is loaded any more; a reset makes it anew.
    pub fn finish(&self, shim: &Shim, n: usize) {
        let Some(guest) = self.get(n) else { return };
        let Some(vm) = guest.vm.lock().take() else { return };
        let vm = unshare(vm);
        let end = guest.end.lock().take();
        // Its vCPUs were stopped by `end`, after it had noted why.
        let Some(end) = end else { return };
        let name = guest.name();
        info!("{name}: {end}");
        let ground = guest.ground(shim, n);
        self.outcome.lock().count(&vm.exits());
        let counted = count_pages(&ground, name, &vm);
        let vcpus = vm.vcpus();
        let torn_down = tear_down(&ground, name, vm);
        self.existing.fetch_sub(1, Ordering::Relaxed);
        let micros = guest.ran.load(Ordering::Relaxed).saturating_mul(1000)
            / (timer::frequency() / 1000).max(1);
        info!("{name}: ran {}.{:06} s on {vcpus} vCPU(s)", micros / 1_000_000, micros % 1_000_000);
        let result = counted.and(torn_down).and(match end {
            End::PowerOff | End::Killed => Ok(()),
            End::Reset => match guest.resets.fetch_add(1, Ordering::Relaxed) {
                RESETS_MAX => Err(format!("stopped: it has reset itself {RESETS_MAX} times")),
                _ => match self.start(shim, n) {
                    Ok(()) => return,
                    failed => failed,
                },
            },
            other => Err(other.to_string()),
        });
        self.over(shim, n, result);
    }

    /// A guest is no more.
    fn over(&self, shim: &Shim, n: usize, result: Result<(), String>) {
        let Some(guest) = self.get(n) else { return };
        console::leave(n);
        {
            let mut outcome = self.outcome.lock();
            match result {
                Ok(()) => outcome.good += 1,
                Err(why) => outcome.fail(format!("{}: {why}", guest.name())),
            }
        }
        guest.living.store(false, Ordering::Release);
        self.living.fetch_sub(1, Ordering::AcqRel);
        shim.input.feed(shim);
        shim.kick(CpuSet::EMPTY.with(BOOT_CPU));
    }
}

/// The VM itself: all others that looked at it are about to let it go.
fn unshare(mut vm: Shared) -> Vm<'static> {
    loop {
        match Arc::try_unwrap(vm) {
            Ok(vm) => return vm,
            Err(still) => vm = still,
        }
        core::hint::spin_loop();
    }
}
