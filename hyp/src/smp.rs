//! The host's CPUs: turned on, off and to sleep for the host, and the way up of each.
//!
//! Knows the order of things; which state follows which is `hyp_core::power`'s business, and what a
//! call means `hyp_core::psci`'s. A CPU comes up in EL2, by EL2's own entry (boot/entry.S), and
//! only then begins where the host wants it to.
//!
//! Where the firmware has CPUs wait in a spin table EL2 takes them all before the host runs, and is
//! their firmware: off is a wait in EL2 ([`HELD`]). Nobody looks at the table after that.
//!
//! Lock rank: power, a leaf; not held while the firmware is called.

use core::sync::atomic::{AtomicU64, Ordering};

use hyp_abi::Pa;
use hyp_core::memmap::MemMap;
use hyp_core::power::{self, Affinity, Power, Start};
use hyp_core::psci::{self, Firmware, MPIDR_AFFINITY, Request, status};
use hyp_core::sysreg::ID_REGISTERS;
use hyp_dtb::{Cpu, Enable};
use hyp_s2::Regime;
use hyp_s2::geometry::Geometry;
use hyp_sync::{Lock, Once, rank};

use crate::arch::cpu::{self, Features};
use crate::arch::percpu::{self, PerCpu};
use crate::arch::{boot, bringup, gic, idreg, pm, smc, sysreg, timer};
use crate::el2::{self, BootError};
use crate::panic;

/// What is the same on every CPU.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// The host's stage 2.
    pub host: Regime,
    /// Its shape.
    pub geometry: Geometry,
    /// The virtual interrupt interface.
    pub vgic: gic::Size,
}

struct Shared {
    common: Common,
    cache_geometry: [u64; 2],
    power: Lock<Power, rank::Power>,
}

static SHARED: Once<Shared> = Once::new();

/// CPUs, by bit, that no firmware turns off or on: EL2 has them while they are off.
static HELD: AtomicU64 = AtomicU64::new(0);
/// Those of them that have come.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// How long a CPU may take to leave its spin table, in seconds.
const PATIENCE: u64 = 5;

fn is_held(number: usize) -> bool {
    HELD.load(Ordering::Relaxed) & bit(number) != 0
}

/// The bit of a CPU; none for a number that no CPU has.
fn bit(number: usize) -> u64 {
    1_u64.checked_shl(number as u32).unwrap_or(0)
}

fn shared() -> &'static Shared {
    SHARED.get().expect("the boot is over")
}

/// Where CPU `cpu` waits, if it waits in a spin table.
fn spins_at(cpu: &Cpu) -> Option<u64> {
    match cpu.enable {
        Enable::SpinTable(at) if cpu.mpidr != cpu::mpidr() & MPIDR_AFFINITY => Some(at),
        _ => None,
    }
}

/// Whether all spin tables are where EL2 can write to them.
pub fn check(cpus: &[Cpu], ram: &MemMap) -> Result<(), BootError> {
    let good = |at: &u64| {
        at.is_multiple_of(8) && Pa::new(*at).is_some_and(|pa| *at > 0 && ram.contains(pa.frame()))
    };
    match cpus.iter().find(|cpu| spins_at(cpu).is_some_and(|at| !good(&at))) {
        Some(cpu) => Err(BootError::SpinTable(cpu.mpidr)),
        None => Ok(()),
    }
}

/// The boot CPU, and what it has found out for all. Tells the CPUs from each other.
pub fn init(cpus: &[Cpu], common: Common, features: &Features) {
    let relays = matches!(smc::firmware(), Firmware::Psci { .. });
    let startable = cpus.iter().filter(|cpu| match cpu.enable {
        Enable::Psci => relays,
        Enable::SpinTable(_) => true,
        Enable::Unknown => false,
    });
    let power = Power::new(cpu::mpidr(), startable.map(|cpu| cpu.mpidr));
    for number in 0..percpu::CPUS {
        power.mpidr(number).into_iter().for_each(|mpidr| boot::name_cpu(number, mpidr));
    }
    if !relays {
        HELD.store(bit(percpu::number()), Ordering::Relaxed);
    }
    let cache_geometry = cpu::cache_geometry();
    let shared = SHARED.call_once(|| Shared { common, cache_geometry, power: Lock::new(power) });
    shared.prepare(features);
}

/// Takes every CPU out of its spin table, after [`check`] and [`init`]. One that stayed there would
/// start wherever the host tells it to, at EL2.
pub fn gather(cpus: &[Cpu]) -> Result<(), BootError> {
    let waiting = || cpus.iter().filter_map(|cpu| spins_at(cpu).map(|at| (cpu.mpidr, at)));
    let number = |mpidr| shared().power.with(|power| power.number(mpidr));
    let mut all = 0;
    for (mpidr, _) in waiting() {
        all |= number(mpidr).map(bit).ok_or(BootError::SpinTable(mpidr))?;
    }
    HELD.fetch_or(all, Ordering::Relaxed);
    waiting().for_each(|(_, at)| bringup::release(at));
    let came = |number| TAKEN.load(Ordering::Acquire) & bit(number) != 0;
    for (mpidr, _) in waiting() {
        if !timer::wait(PATIENCE, || number(mpidr).is_some_and(came)) {
            return Err(BootError::SpinTable(mpidr));
        }
    }
    if all != 0 {
        log::info!("{} CPUs taken out of their spin table", all.count_ones());
    }
    Ok(())
}

/// How many CPUs the host can have.
pub fn count() -> usize {
    shared().power.with(|power| power.count())
}

impl Shared {
    /// Makes this CPU ready for the host.
    fn prepare(&self, features: &Features) {
        let Common { host, geometry, .. } = self.common;
        el2::vgic().prepare();
        let vtcr = geometry.vtcr(features.pa_range, features.hardware_af);
        bringup::prepare_cpu(features, host, vtcr);
    }

    /// Why this CPU cannot do what the boot CPU promised for all.
    fn objection(&self, features: &Features) -> Option<&'static str> {
        if el2::hyp().broken_promise(&ID_REGISTERS.map(idreg::read)).is_some() {
            return Some("it has not the features that guests were promised");
        }
        if features.pa_bits() < self.common.geometry.ipa_bits() {
            return Some("it has too few address bits");
        }
        if self.cache_geometry != cpu::cache_geometry() {
            return Some("its cache lines, or what clears them, have another size");
        }
        (self.common.vgic != el2::vgic().size())
            .then_some("its interrupt interface is not that of the others")
    }
}

/// A CPU has come up in EL2: started for the host, resumed, out of its spin table, or because the
/// host turned it off and EL2 is to keep it.
pub fn arrive() -> ! {
    panic::park_if_over();
    let (number, shared) = (percpu::number(), shared());
    TAKEN.fetch_or(bit(number), Ordering::Release);
    let features = Features::detect();
    el2::vgic().prepare();
    if let Some(why) = shared.objection(&features) {
        shared.power.with(|power| power.refuse(number));
        stay_out(why);
    }
    shared.prepare(&features);
    loop {
        match shared.power.with(|power| power.arrive(number)) {
            Some(Start { entry, context }) => bringup::enter_host(entry, context),
            None if is_held(number) => sysreg::wait_for_event(),
            None => stay_out("nobody has started it"),
        }
        panic::park_if_over();
    }
}

/// This CPU can never run for the host.
#[cold]
fn stay_out(why: &str) -> ! {
    log::error!("CPU {:#x} stays out: {why}", cpu::mpidr() & MPIDR_AFFINITY);
    sysreg::park()
}

/// An SMC of the host; answers its x0.
pub fn firmware_call(cpu: &mut PerCpu, imm: u16, args: [u64; 4]) -> u64 {
    if let (0, Some(x0)) = (imm, cpu.speculation.answer(args[0], args[1])) {
        return x0;
    }
    match psci::request(imm, args, smc::firmware()) {
        Request::Answer(x0) => x0,
        Request::Forward(call) => smc::call(call),
        Request::On { target, entry, context } => turn_on(cpu, target, Start { entry, context }),
        Request::Off => turn_off(cpu),
        Request::End { reset } => {
            if reset {
                pm::system_reset()
            } else {
                pm::system_off()
            }
            // The board takes a moment, in which the host is not to run.
            sysreg::park()
        }
        Request::Suspend { state, power_down, entry, context } => {
            suspend(cpu, state, power_down.then_some(Start { entry, context }))
        }
        Request::Affinity { target, level } => {
            match shared().power.with(|power| power.affinity(target, level)) {
                Affinity::Answer(x0) => x0,
                Affinity::Off(number) if is_held(number) => power::OFF,
                Affinity::Off(_) => smc::affinity_info(target),
            }
        }
    }
}

fn turn_on(cpu: &mut PerCpu, target: u64, start: Start) -> u64 {
    let (by, power) = (cpu.local.cpu(), &shared().power);
    let reachable = el2::hyp().host_can_fetch(&mut cpu.local, start.entry);
    match power.with(|power| power.begin_on(by, target, start, reachable)) {
        Err(x0) => x0,
        Ok(number) if is_held(number) => {
            sysreg::send_event();
            status::SUCCESS
        }
        Ok(number) => {
            let x0 = smc::cpu_on(target);
            if x0 != status::SUCCESS {
                power.with(|power| power.cancel_on(by, number));
            }
            x0
        }
    }
}

fn turn_off(cpu: &mut PerCpu) -> u64 {
    // A vCPU that is here could run nowhere else.
    if cpu.local.regime().is_some() {
        return status::DENIED;
    }
    let (number, power) = (cpu.local.cpu(), &shared().power);
    if let Err(x0) = power.with(|power| power.begin_off(number)) {
        return x0;
    }
    if is_held(number) {
        boot::come_up_again();
    }
    let x0 = smc::cpu_off();
    // Who starts this CPU at this moment is about to hear that it is on.
    while !power.with(|power| power.cancel_off(number)) {
        core::hint::spin_loop();
    }
    x0
}

/// `resume`: where to go on if the CPU loses its state.
fn suspend(cpu: &mut PerCpu, state: u32, resume: Option<Start>) -> u64 {
    let number = cpu.local.cpu();
    let Some(start) = resume else { return wait(number, state) };
    if cpu.local.regime().is_some() {
        return status::DENIED;
    }
    if !el2::hyp().host_can_fetch(&mut cpu.local, start.entry) {
        return status::INVALID_ADDRESS;
    }
    let power = &shared().power;
    power.with(|power| power.begin_suspend(number, start));
    let x0 = wait(number, state);
    power.with(|power| power.cancel_suspend(number));
    x0
}

/// Waits in this power state; in EL2's own hands a CPU does not lose its state, which is as if an
/// interrupt had come at once (DEN0022 5.4).
fn wait(number: usize, state: u32) -> u64 {
    if is_held(number) {
        sysreg::wait_for_interrupt();
        return status::SUCCESS;
    }
    smc::cpu_suspend(state)
}
