//! What this CPU has, and the trap configuration that follows from it.
//!
//! Two settings exist, [`Traps::host`] and [`Traps::guest`]; the world switch changes from one to
//! the other. A feature that a CPU does not have has its bits RES0 or RES1, and they are written so.

use aarch64_cpu::registers::{
    CPTR_EL2, HCR_EL2, MDCR_EL2, MIDR_EL1, MPIDR_EL1, VBAR_EL2, VMPIDR_EL2,
};
use hyp_core::inject;
use hyp_core::speculation::Identity;
use hyp_core::sysreg as id;
use tock_registers::interfaces::{Readable, Writeable};

use super::sysreg::{
    ctr_el0, dczid_el0, isb, pmcr_el0, set_hafgrtr_el2, set_hcrx_el2, set_hdfgrtr_el2,
    set_hdfgwtr_el2, set_hfgitr_el2, set_hfgrtr_el2, set_hfgwtr_el2, set_hstr_el2, set_vpidr_el2,
};
use super::{idreg, vectors};

/// CPTR_EL2.TFP: floating point and SIMD trap.
const TFP: u64 = 1 << 10;
/// CPTR_EL2 with all that it can name trapped but FP and AMU; RES1 where there is no SVE or SME.
const CPTR_BASE: u64 = 0x33ff;

/// Features that EL2 must know of.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    pauth: bool,
    /// Something that the host must not see in its ID registers.
    hidden: bool,
    scxtnum: bool,
    mte: bool,
    ras: bool,
    amu: bool,
    trace: bool,
    pmu: bool,
    /// Event counters, and the cycle counter, can be kept from counting at EL2.
    pmu_not_el2: (bool, bool),
    spe: bool,
    trace_filter: bool,
    lor: bool,
    hcx: bool,
    fgt: bool,
    mops: bool,
    tcr2: bool,
    sctlr2: bool,
    /// The walker sets access flags.
    pub hardware_af: bool,
    /// ID_AA64MMFR0_EL1.PARange.
    pub pa_range: u8,
    /// What an exception to EL1 does to PSTATE.
    pub at_el1: inject::Features,
}

impl Features {
    /// Reads the ID registers.
    pub fn detect() -> Self {
        let pfr0 = idreg::read(id::ID_AA64PFR0_EL1);
        let pfr1 = idreg::read(id::ID_AA64PFR1_EL1);
        let dfr0 = idreg::read(id::ID_AA64DFR0_EL1);
        let mmfr0 = idreg::read(id::ID_AA64MMFR0_EL1);
        let mmfr1 = idreg::read(id::ID_AA64MMFR1_EL1);
        let mmfr3 = idreg::read(idreg::ID_AA64MMFR3_EL1);
        let isar1 = idreg::read(id::ID_AA64ISAR1_EL1);
        let isar2 = idreg::read(id::ID_AA64ISAR2_EL1);
        let has = |register: u64, shift: u32| field(register, shift) != 0;
        // 0xf: no PMU of the architecture's.
        let pmu = Some(field(dfr0, 8)).filter(|version| *version != 0xf).unwrap_or(0);
        Self {
            pauth: isar1 & 0xff00_0ff0 != 0 || has(isar2, 12) || has(isar2, 8),
            hidden: idreg::hides_something(),
            scxtnum: field(pfr0, 56) >= 2,
            mte: field(pfr1, 8) >= 2,
            ras: has(pfr0, 28),
            amu: has(pfr0, 44),
            trace: has(dfr0, 4),
            pmu: pmu != 0,
            pmu_not_el2: (pmu >= 4, pmu >= 6),
            spe: has(dfr0, 32),
            trace_filter: has(dfr0, 40),
            lor: has(mmfr1, 16),
            hcx: has(mmfr1, 40),
            fgt: has(mmfr0, 56),
            mops: has(isar2, 16),
            tcr2: has(mmfr3, 0),
            sctlr2: has(mmfr3, 4),
            hardware_af: has(mmfr1, 0),
            pa_range: field(mmfr0, 0),
            at_el1: inject::Features::from_id(pfr1, mmfr1),
        }
    }

    /// Width of physical addresses, of which EL2's tables can name 48 bits.
    pub fn pa_bits(&self) -> u8 {
        match self.pa_range {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            _ => 48,
        }
    }
}

/// A four-bit ID field.
fn field(register: u64, shift: u32) -> u8 {
    ((register >> shift) & 0xf) as u8
}

/// One setting of the trap registers.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    hcr: u64,
    hcrx: Option<u64>,
    cptr: u64,
    mdcr: u64,
    hstr: u64,
    vbar: u64,
}

impl Setting {
    /// Writes it, vectors included; the caller's next `isb` makes it effective. `fp`: floating point may be used;
    /// `extra`: further bits of HCR_EL2.
    pub fn apply(&self, fp: bool, extra: u64) {
        HCR_EL2.set(self.hcr | extra);
        CPTR_EL2.set(if fp { self.cptr } else { self.cptr | TFP });
        MDCR_EL2.set(self.mdcr);
        if let Some(hcrx) = self.hcrx {
            set_hcrx_el2(hcrx);
        }
        set_hstr_el2(self.hstr);
        VBAR_EL2.set(self.vbar);
    }

    /// Its VBAR_EL2.
    pub fn vectors(&self) -> u64 {
        self.vbar
    }
}

/// Lets EL2 itself, and whoever runs next, use the FP registers.
pub fn open_fp() {
    CPTR_EL2.set(CPTR_EL2.get() & !TFP);
    isb();
}

/// Both settings.
#[derive(Clone, Copy, Debug)]
pub struct Traps {
    /// While the host runs.
    pub host: Setting,
    /// While a guest runs.
    pub guest: Setting,
    /// There is a PMU, which guests do not have.
    pub pmu: bool,
    /// There is FEAT_RAS, which guests do not have.
    pub ras: bool,
}

/// HCR_EL2.TWI and TWE.
pub const TRAP_WFX: u64 = 1 << 13 | 1 << 14;

impl Traps {
    /// What this CPU's features make of the policy. `at_entry`: the firmware call that EL2 must make
    /// when it is entered.
    pub fn new(f: &Features, at_entry: Option<u32>) -> Self {
        let bit = |wanted: bool, n: u32| u64::from(wanted) << n;
        // VM, SWIO, TSC, TIDCP, RW: set/way invalidation must not lose EL2's dirty lines, and
        // implementation defined registers can switch off coherency.
        let both = 1 | 1 << 1 | 1 << 19 | 1 << 20 | 1 << 31;
        let host = both
            | bit(f.pauth, 41) // API
            | bit(f.pauth, 40) // APK
            | bit(f.mte, 56) // ATA
            | bit(f.scxtnum, 53) // EnSCXT
            | bit(f.hidden, 18); // TID3
        // PTW, FMO, IMO, AMO, FB, BSU = inner shareable, TID1, TID3, TACR.
        let guest = both | 0x3c | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18 | 1 << 21
            | bit(f.lor, 35) // TLOR
            | bit(f.ras, 36) // TERR
            | bit(f.mte, 58); // TID5
        // HPMN: all counters are EL1's; with 0 (which some CPUs forbid) only if there are none.
        let hpmn = if f.pmu { (pmcr_el0() >> 11) & 0x1f } else { 0 };
        // HPMD, HCCD: what EL2 does is nobody's to count (FEAT_PMUv3p1, FEAT_PMUv3p5).
        let counters = hpmn | bit(f.pmu_not_el2.0, 17) | bit(f.pmu_not_el2.1, 23);
        Self {
            host: Setting {
                hcr: host,
                hcrx: f.hcx.then_some(bit(f.mops, 11) | bit(f.tcr2, 14) | bit(f.sctlr2, 15)),
                cptr: CPTR_BASE,
                // TPMS. E2PB = E2TB = 0 in both settings: EL1 cannot reach the profiling and trace
                // buffers. They would write by EL2's own translation as soon as a setting says that
                // they are EL2's, so nobody may ever enable them (DDI0487, MDCR_EL2.E2PB).
                mdcr: counters | bit(f.spe, 14),
                hstr: 0,
                vbar: vectors::host(at_entry),
            },
            guest: Setting {
                hcr: guest,
                hcrx: f.hcx.then_some(0),
                cptr: CPTR_BASE | bit(f.trace, 20) | bit(f.amu, 30),
                // TDA, TDOSA, TDRA, TPM, TPMCR, TPMS, TTRF.
                mdcr: counters
                    | 0b111 << 9
                    | bit(f.pmu, 6)
                    | bit(f.pmu, 5)
                    | bit(f.spe, 14)
                    | bit(f.trace_filter, 19),
                hstr: 1 << 15, // AArch32 EL0: CP15 c15
                vbar: vectors::guest(at_entry),
            },
            pmu: f.pmu,
            ras: f.ras,
        }
    }
}

/// What programs read at EL0 and rely on wherever they run next: CTR_EL0 and DCZID_EL0.
pub fn cache_geometry() -> [u64; 2] {
    [ctr_el0(), dczid_el0()]
}

/// Who this CPU is, as far as its speculation depends on it.
pub fn identity() -> Identity {
    Identity {
        midr: midr(),
        pfr0: idreg::read(id::ID_AA64PFR0_EL1),
        pfr1: idreg::read(id::ID_AA64PFR1_EL1),
        mmfr1: idreg::read(id::ID_AA64MMFR1_EL1),
    }
}

/// MIDR_EL1.
pub fn midr() -> u64 {
    MIDR_EL1.get()
}

/// MPIDR_EL1.
pub fn mpidr() -> u64 {
    MPIDR_EL1.get()
}

/// The identity that EL1 reads: the host's is the CPU's own.
pub fn identity_of_host() {
    set_vpidr_el2(MIDR_EL1.get());
    VMPIDR_EL2.set(MPIDR_EL1.get());
}

/// Registers that stay as they are set here. Fine-grained traps come out of reset with any value.
pub fn init_once(f: &Features) {
    if f.fgt {
        set_hfgrtr_el2(0);
        set_hfgwtr_el2(0);
        set_hfgitr_el2(0);
        set_hdfgrtr_el2(0);
        set_hdfgwtr_el2(0);
        if f.amu {
            set_hafgrtr_el2(0);
        }
    }
    identity_of_host();
    isb();
}
