//! The composition root: from the first Rust instruction to the host's first.
//!
//! Knows the order of the boot and what is wired to what. Every step that can fail says why in one
//! line on the console, and then EL2 stops: nothing of EL1 has run yet.

use core::fmt;

use hyp_core::hyp::ConfigError;
use hyp_core::plan::PlanError;
use hyp_core::sysreg::ID_REGISTERS;
use hyp_core::{Config, Hyp};
use hyp_dtb::{Dtb, DtbError, Psci};
use hyp_s2::TablePfn;
use hyp_s2::geometry::Geometry;
use hyp_sync::Once;

use crate::arch::bringup;
use crate::arch::cpu::{self, Features};
use crate::arch::gic::Vgic;
use crate::arch::{boot, idreg, mmu, smc};
use crate::board;
use crate::machine::Hw;
#[cfg(feature = "oracle")]
use crate::oracle;
use crate::panic;
use crate::payload::{Payload, PayloadError};
use crate::smp;
use crate::stage1::{Map, MapError};
use crate::survey::{self, Interrupts, Memory};

/// Widest IPA space in use: with 40 bits stage 2 begins at level 1, by concatenated roots.
const IPA_BITS: u8 = 40;

static HYP: Once<Hyp<Hw>> = Once::new();
static VGIC: Once<Vgic> = Once::new();

/// The hypervisor; it is there before the host's first instruction.
pub fn hyp() -> &'static Hyp<Hw> {
    HYP.get().expect("the boot is over")
}

/// The virtual interrupt interface; it is there before the host's first instruction.
pub fn vgic() -> &'static Vgic {
    VGIC.get().expect("the boot is over")
}

/// The first Rust code: MMU and caches are on, only the image is mapped.
pub fn start(dtb: u64) -> ! {
    let mut map = mmu::early();
    bringup::guess_console(&mut map, board::fallback_uart(boot::base()));
    match bringup::with_device_tree(&mut map, dtb, |map, tree| boot_with(map, tree, dtb)) {
        Ok(entry) => bringup::enter_host(entry, dtb),
        Err(error) => {
            log::error!("cannot start: {error}");
            panic::stop()
        }
    }
}

/// Boots on the machine that the tree describes; answers where the payload begins.
fn boot_with(map: &mut Map, tree: &Dtb<'_>, dtb: u64) -> Result<u64, BootError> {
    let uart = tree.uart()?;
    bringup::use_console(map, uart)?;
    if tree.psci()? == Some(Psci::Smc) {
        smc::found();
    }
    let features = Features::detect();
    let version = env!("CARGO_PKG_VERSION");
    log::info!("redan {version} at {:#x}, CPU {:#010x}", boot::base(), cpu::midr());
    let ram = survey::ram(tree)?;
    let cpus = tree.cpus()?;
    smp::check(&cpus, &ram)?;
    let payload = Payload::find(map, &ram)?;
    let ipa_bits = features.pa_bits().min(IPA_BITS);
    let geometry = Geometry::new(ipa_bits).ok_or(BootError::AddressBits(ipa_bits))?;
    let interrupts = Interrupts::survey(tree)?;
    let memory = Memory::survey(tree, ram, &payload, dtb, geometry)?;
    log::info!("RAM {} MiB, guest addresses {ipa_bits} bits", memory.ram.pages() >> 8);

    let power = board::power(tree);
    let devices = [uart.map(|uart| uart.registers), interrupts.gich, power];
    let hw = bringup::take_over(&memory, devices)?;
    if let Some(registers) = power {
        bringup::power(registers);
    }
    let vgic = interrupts.gich.map_or_else(Vgic::v3, bringup::gicv2);
    let size = vgic.size();
    let version = if interrupts.gich.is_some() { 2 } else { 3 };
    log::info!("GICv{version}, {} list registers", size.list_registers);
    VGIC.call_once(|| vgic);
    let root = memory.plan.host_root.iter().next().map(TablePfn::new);
    let root = root.ok_or(BootError::AddressBits(ipa_bits))?;
    let firmware = memory.firmware(tree)?;
    for (start, end) in firmware.iter().map(|range| bringup::bytes_of(*range)) {
        log::info!("withheld from the host: {start:#x}..{end:#x}, reserved by firmware");
    }
    let owned = [&memory.own()[..], &firmware].concat();
    let private = [interrupts.private(), &memory.unmapped(tree, geometry)?].concat();
    #[cfg(feature = "oracle")]
    let specified = oracle::specified(&memory.ram, &owned, &private, interrupts.gic, ipa_bits);
    let mut hyp = Hyp::new(
        hw,
        Config {
            memmap: memory.ram,
            el2_owned: &owned,
            private_devices: &private,
            host_root: root,
            host_ipa_bits: ipa_bits,
            guest_ipa_bits: ipa_bits,
            pool: &[memory.plan.pool],
            gic: interrupts.gic,
            nr_lrs: size.list_registers,
            lr_priority_bits: size.priority_bits,
            vtimer_intid: tree.timer()?.virt,
            id_values: ID_REGISTERS.map(idreg::read),
        },
    )?;
    if survey::strict(tree)? {
        if interrupts.gich.is_none() {
            return Err(BootError::StrictGic);
        }
        hyp.restrict_devices(survey::harmless_devices(tree)?);
    } else if let masters @ 1.. = survey::masters(tree)? {
        log::info!(
            "no IOMMU: the host has {masters} ways to all memory; redan.dma=strict takes them"
        );
    }
    let speculation = smc::speculation();
    log::info!("{speculation}");
    HYP.call_once(|| hyp.with_speculation(speculation));
    #[cfg(feature = "oracle")]
    oracle::start(specified, survey::strict(tree)?);
    let (start, end) = bringup::bytes_of(memory.plan.carve_out);
    log::info!("EL2 keeps its image and {start:#x}..{end:#x}");
    let host = self::hyp().host_regime();
    smp::init(&cpus, smp::Common { host, geometry, vgic: size }, &features);
    smp::gather(&cpus)?;
    log::info!("{} of {} CPUs can run", smp::count(), cpus.len());
    log::info!("payload of {} KiB at {:#x}", payload.size >> 10, payload.start);
    Ok(payload.start)
}

/// Why EL2 cannot start.
#[derive(Clone, Copy, Debug)]
pub enum BootError {
    /// x0 held no address of a device tree.
    NoDeviceTree(u64),
    /// The device tree is broken, or lacks something.
    Tree(DtbError),
    /// This CPU waits at EL2 for an address in memory, which a host could write.
    SpinTable(u64),
    /// The command line says something about DMA that is not understood.
    Dma,
    /// Strict about DMA, with an interrupt controller that writes to memory.
    StrictGic,
    /// Memory.
    Plan(PlanError),
    /// EL2's own tables.
    Map(MapError),
    /// The payload.
    Payload(PayloadError),
    /// Something lies outside all addresses.
    Nowhere {
        /// Where it is said to be.
        base: u64,
        /// Its bytes.
        size: u64,
    },
    /// The CPU has too few address bits.
    AddressBits(u8),
    /// The core refuses what this boot has put together.
    Config(ConfigError),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDeviceTree(x0) => write!(f, "no device tree (x0 = {x0:#x})"),
            Self::Tree(e) => write!(f, "{e}"),
            Self::SpinTable(mpidr) => write!(
                f,
                "CPU {mpidr:#x} does not come out of its spin table, where a host could start it at EL2"
            ),
            Self::Dma => write!(f, "redan.dma= on the command line can only be `strict`"),
            Self::StrictGic => write!(
                f,
                "redan.dma=strict needs a GICv2: a GICv3 keeps tables in memory where the host says"
            ),
            Self::Plan(e) => write!(f, "{e}"),
            Self::Map(e) => write!(f, "EL2's page tables: {e:?}"),
            Self::Payload(e) => write!(f, "{e}"),
            Self::Nowhere { base, size } => {
                write!(f, "{size:#x} bytes at {base:#x} are outside the address space")
            }
            Self::AddressBits(bits) => write!(f, "{bits} bits of address are too few"),
            Self::Config(e) => write!(f, "contradictory set-up: {e:?}"),
        }
    }
}

macro_rules! from {
    ($($variant:ident($error:ty),)*) => {
        $(impl From<$error> for BootError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}
from! { Tree(DtbError), Plan(PlanError), Map(MapError), Payload(PayloadError), Config(ConfigError), }
