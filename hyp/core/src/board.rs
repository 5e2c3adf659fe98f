//! The machine as the boot code describes it, and what of it a guest's entry and exit need.
//!
//! Knows numbers only. Must not know who uses them.

use hyp_abi::Pfn;
use hyp_s2::TablePfn;

use crate::idreg::debug_view;
use crate::inject::Features;
use crate::memmap::{MemMap, PageRange};
use crate::speculation::Speculation;
use crate::sysreg::{self, Enc, GuestView, ID_REGISTERS};
use crate::vgic::{LrPolicy, Version};

/// The interrupt controller of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2: the first page of the virtual CPU interface (GICV), if it has a page of its own.
    V2 {
        /// GICV's frame.
        gicv: Option<Pfn>,
    },
    /// GICv3.
    V3,
}

/// What the boot code knows about the machine and has set aside.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    /// All RAM.
    pub memmap: MemMap,
    /// RAM that is EL2's: image, stacks, metadata, heap, the pool and the host's root tables.
    pub el2_owned: &'a [PageRange],
    /// Device pages that only EL2 may touch (GICH, GICV).
    pub private_devices: &'a [PageRange],
    /// First of the host's root tables: zeroed, side by side, inside `el2_owned`.
    pub host_root: TablePfn,
    /// Width of the host's IPA space.
    pub host_ipa_bits: u8,
    /// Width of a guest's IPA space: 40, or what the CPU has if that is less.
    pub guest_ipa_bits: u8,
    /// EL2's page pool: inside `el2_owned`, used for the host's tables.
    pub pool: &'a [PageRange],
    /// The interrupt controller.
    pub gic: Gic,
    /// How many list registers it has.
    pub nr_lrs: usize,
    /// Priority bits of a list register: 5 on a GICv2, ICH_VTR_EL2.PRIbits + 1 on a GICv3.
    pub lr_priority_bits: u8,
    /// INTID of the virtual timer, the only interrupt a list register may link to.
    pub vtimer_intid: u32,
    /// The CPU's ID registers, in the order of [`ID_REGISTERS`].
    pub id_values: [u64; ID_REGISTERS.len()],
}

/// Why [`Hyp::new`](crate::Hyp::new) refused: what the boot code says contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// More list registers than any GIC has.
    ListRegisters,
    /// An IPA width that stage 2 cannot have, or roots that are not aligned to it.
    Ipa,
    /// A page said to be EL2's is not RAM, a device is, a pool page is not EL2's, or a page is named
    /// twice.
    Memory,
    /// The pool is too small to keep EL2's own memory from the host.
    Pool,
}

/// The machine as a guest's entry and exit need it.
#[derive(Clone, Debug)]
pub struct Board {
    /// How many list registers there are.
    pub nr_lrs: usize,
    /// What they may say.
    pub lr_policy: LrPolicy,
    /// Which registers a guest sees.
    pub view: GuestView,
    /// Which extensions matter when an exception is injected.
    pub features: Features,
    /// What the CPUs give away by speculation, and what guests are told about it.
    pub speculation: Speculation,
    id_values: [u64; ID_REGISTERS.len()],
}

impl Board {
    pub(crate) fn new(config: &Config<'_>) -> Self {
        let mut board = Self {
            nr_lrs: config.nr_lrs,
            lr_policy: LrPolicy {
                version: match config.gic {
                    Gic::V2 { .. } => Version::V2,
                    Gic::V3 => Version::V3,
                },
                priority_bits: config.lr_priority_bits,
                vtimer: config.vtimer_intid,
            },
            view: GuestView {
                ipa_bits: config.guest_ipa_bits,
                gic_v3: config.gic == Gic::V3,
                aarch32_el0: false,
                breakpoints: 0,
                watchpoints: 0,
                double_lock: false,
            },
            features: Features::default(),
            speculation: Speculation::UNKNOWN,
            id_values: config.id_values,
        };
        // ID_AA64PFR0_EL1.EL0: 2 says AArch32 too.
        board.view.aarch32_el0 = board.id_value(sysreg::ID_AA64PFR0_EL1) & 0xf == 2;
        let (breakpoints, watchpoints, double_lock) =
            debug_view(board.id_value(sysreg::ID_AA64DFR0_EL1));
        board.view = GuestView { breakpoints, watchpoints, double_lock, ..board.view };
        board.features = Features::from_id(
            board.id_value(sysreg::ID_AA64PFR1_EL1),
            board.id_value(sysreg::ID_AA64MMFR1_EL1),
        );
        board
    }

    /// The first register in which a guest would see less on a CPU with these values than on the boot
    /// CPU, whose values it is shown everywhere, or find a state that it could not take to that one.
    pub(crate) fn broken_promise(&self, values: &[u64; ID_REGISTERS.len()]) -> Option<Enc> {
        let mut all = ID_REGISTERS.iter().zip(values).zip(self.id_values);
        let broken = all.find(|((enc, here), promised)| {
            let shown = |raw| self.view.id_register(**enc, raw);
            !offers(**enc, shown(**here), shown(*promised))
        });
        broken.map(|((enc, _), _)| *enc)
    }

    /// The CPU's own value of an ID register; 0 for one that no guest is shown.
    #[must_use]
    pub fn id_value(&self, register: Enc) -> u64 {
        let mut known = ID_REGISTERS.iter().zip(self.id_values);
        known.find(|(enc, _)| **enc == register).map_or(0, |(_, value)| value)
    }
}

/// Whether each field of an ID register says as much `here` as was `promised` (DDI0487 D24.1.3).
fn offers(register: Enc, here: u64, promised: u64) -> bool {
    // AArch32 at EL0 (PFR0.EL0) is a state that a guest can be in when it leaves. A return to it is
    // illegal on a CPU without (D1.4.4), and an illegal return stays in EL2: neither more nor less.
    if register == sysreg::ID_AA64PFR0_EL1 && here & 0xf != promised & 0xf {
        return false;
    }
    // Which fixes of errata a core carries: no feature.
    if register == sysreg::REVIDR_EL1 {
        return true;
    }
    // FP, AdvSIMD, TGran4 and TGran64: 0xf is less than 0.
    let signed = [sysreg::ID_AA64PFR0_EL1, sysreg::ID_AA64MMFR0_EL1].contains(&register);
    let rank = |value: u64, shift: u32| match (value >> shift) & 0xf {
        0xf if signed => 0,
        field => field.saturating_add(1),
    };
    (0..64).step_by(4).all(|shift| rank(here, shift) >= rank(promised, shift))
}
