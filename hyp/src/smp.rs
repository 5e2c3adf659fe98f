//! The host's CPUs: turned on, off and to sleep for the host, and the way up of each.
//!
//! Knows the order of things; which state follows which is `hyp_core::power`'s business, and what a
//! call means `hyp_core::psci`'s. A CPU comes up in EL2, by EL2's own entry (boot/entry.S), and
//! only then begins where the host wants it to.
//!
//! Lock rank: power, a leaf; not held while the firmware is called.

use hyp_core::power::{Affinity, Power, Start};
use hyp_core::psci::{self, MPIDR_AFFINITY, Request, status};
use hyp_core::sysreg::ID_REGISTERS;
use hyp_dtb::Cpu;
use hyp_s2::Regime;
use hyp_s2::geometry::Geometry;
use hyp_sync::{Lock, Once, rank};

use crate::arch::cpu::{self, Features};
use crate::arch::percpu::{self, PerCpu};
use crate::arch::{bringup, gic, idreg, smc, sysreg};
use crate::{el2, panic};

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

fn shared() -> &'static Shared {
    SHARED.get().expect("the boot is over")
}

/// The boot CPU, and what it has found out for all.
pub fn init(cpus: impl IntoIterator<Item = Cpu>, common: Common, features: &Features) {
    let power = Power::new(cpu::mpidr(), cpus.into_iter().map(|cpu| cpu.mpidr));
    let cache_geometry = cpu::cache_geometry();
    let shared = SHARED.call_once(|| Shared { common, cache_geometry, power: Lock::new(power) });
    shared.prepare(features);
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
            return Some("it lacks features that guests were promised");
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

/// A CPU other than the first has come up in EL2: started for the host, or resumed.
pub fn arrive() -> ! {
    panic::park_if_over();
    let (number, shared) = (percpu::number(), shared());
    let mpidr = cpu::mpidr() & MPIDR_AFFINITY;
    if shared.power.with(|power| power.mpidr(number)) != Some(mpidr) {
        log::error!("CPU {mpidr:#x} came up in the place of number {number}");
        sysreg::park();
    }
    let features = Features::detect();
    el2::vgic().prepare();
    if let Some(why) = shared.objection(&features) {
        shared.power.with(|power| power.refuse(number));
        log::error!("CPU {mpidr:#x} stays out: {why}");
        sysreg::park();
    }
    shared.prepare(&features);
    match shared.power.with(|power| power.arrive(number)) {
        Some(Start { entry, context }) => bringup::enter_host(entry, context),
        None => {
            log::error!("CPU {mpidr:#x} came up and nobody had started it");
            sysreg::park()
        }
    }
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
        Request::Suspend { state, power_down, entry, context } => {
            suspend(cpu, state, power_down.then_some(Start { entry, context }))
        }
        Request::Affinity { target, level } => {
            match shared().power.with(|power| power.affinity(target, level)) {
                Affinity::Answer(x0) => x0,
                Affinity::AskFirmware => smc::affinity_info(target),
            }
        }
    }
}

fn turn_on(cpu: &mut PerCpu, target: u64, start: Start) -> u64 {
    let (by, power) = (cpu.local.cpu(), &shared().power);
    let reachable = el2::hyp().host_can_fetch(&mut cpu.local, start.entry);
    match power.with(|power| power.begin_on(by, target, start, reachable)) {
        Err(x0) => x0,
        Ok(number) => {
            let x0 = smc::cpu_on(target, number);
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
    let x0 = smc::cpu_off();
    power.with(|power| power.cancel_off(number));
    x0
}

/// `resume`: where to go on if the CPU loses its state.
fn suspend(cpu: &mut PerCpu, state: u32, resume: Option<Start>) -> u64 {
    let number = cpu.local.cpu();
    let Some(start) = resume else { return smc::cpu_suspend(state, number) };
    if cpu.local.regime().is_some() {
        return status::DENIED;
    }
    if !el2::hyp().host_can_fetch(&mut cpu.local, start.entry) {
        return status::INVALID_ADDRESS;
    }
    let power = &shared().power;
    power.with(|power| power.begin_suspend(number, start));
    let x0 = smc::cpu_suspend(state, number);
    power.with(|power| power.cancel_suspend(number));
    x0
}
