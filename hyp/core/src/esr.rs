//! What an exception taken to EL2 was about: `ESR_EL2`, `HPFAR_EL2` and `FAR_EL2` decoded.
//!
//! Knows the syndrome formats (DDI0487 D24.2.39, ESR_ELx) and which of the address registers hold
//! something for which fault. Must not know what anybody does about it.
//!
//! Invariants:
//! - I1: decoding is total: every 64-bit value has a [`Syndrome`], and none panics.
//! - I2: an [`Access`] is only handed out where the architecture says that the syndrome describes
//!   one register of 1, 2, 4 or 8 bytes; nothing is ever guessed from the instruction.

use hyp_abi::PAGE_SIZE;

use crate::bits::union;
use crate::inject::it_state;
use crate::sysreg::Enc;

/// Exception classes that something here or elsewhere names (ESR_ELx.EC).
pub mod ec {
    /// Unknown reason: an undefined instruction.
    pub const UNKNOWN: u8 = 0x00;
    /// Instruction abort from a lower exception level.
    pub const INSTRUCTION_ABORT_LOWER: u8 = 0x20;
    /// Instruction abort without a change of exception level.
    pub const INSTRUCTION_ABORT_SAME: u8 = 0x21;
    /// Data abort from a lower exception level.
    pub const DATA_ABORT_LOWER: u8 = 0x24;
    /// Data abort without a change of exception level.
    pub const DATA_ABORT_SAME: u8 = 0x25;
}

/// A syndrome register's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Esr(u64);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syndrome {
    /// An instruction that is undefined here, or a reason the CPU does not tell.
    Unknown,
    /// WFI or WFE, or their forms with a timeout.
    Wfx(Wfx),
    /// AArch32 access to a coprocessor register (CP14, CP15), at EL0 only.
    Cp32,
    /// FP or Advanced SIMD instruction while `CPTR_EL2.TFP` is set.
    Fp,
    /// SVE, or SME, while `CPTR_EL2` traps it.
    Vector,
    /// Pointer authentication instruction while `HCR_EL2.API` is clear.
    PointerAuth,
    /// Return to, or execution in, an illegal state.
    IllegalState,
    /// HVC from AArch64.
    Hvc(u16),
    /// SMC from AArch64, trapped by `HCR_EL2.TSC`.
    Smc(u16),
    /// HVC or SMC from AArch32: no guest of ours runs EL1 in AArch32, so it comes from nowhere.
    Call32,
    /// MSR, MRS or a system instruction of AArch64.
    Sysreg(SysregAccess),
    /// Instruction fetch from a lower exception level.
    InstructionAbort(Abort),
    /// Data access from a lower exception level.
    DataAbort(DataAbort),
    /// Asynchronous error.
    SError,
    /// An exception that EL2 itself caused: our own bug, never a guest's doing.
    FromEl2(u8),
    /// Any other class, with its number.
    Other(u8),
}

/// Which instruction waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wfx {
    /// Wait for interrupt.
    Wfi,
    /// Wait for event.
    Wfe,
    /// Wait for interrupt with timeout.
    Wfit,
    /// Wait for event with timeout.
    Wfet,
}

/// A trapped MSR, MRS or system instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysregAccess {
    /// Which register.
    pub enc: Enc,
    /// The general register, 31 is XZR.
    pub rt: u8,
    /// MRS rather than MSR.
    pub read: bool,
}

/// Why a translation or access failed: DFSC or IFSC. Levels run from -1 (FEAT_LPA2) to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Output address or table base out of range.
    AddressSize(i8),
    /// Nothing is mapped.
    Translation(i8),
    /// Mapped, access flag clear.
    AccessFlag(i8),
    /// Mapped, right missing.
    Permission(i8),
    /// Synchronous external abort, not on a table walk.
    External,
    /// Synchronous external abort on a table walk.
    ExternalOnWalk(i8),
    /// Parity or ECC error, not on a table walk.
    Parity,
    /// Parity or ECC error on a table walk.
    ParityOnWalk(i8),
    /// Synchronous tag check.
    TagCheck,
    /// Unaligned where it may not be.
    Alignment,
    /// Two TLB entries for one address.
    TlbConflict,
    /// Hardware update of a descriptor, or an atomic, on memory that cannot.
    UnsupportedUpdate,
    /// Exclusive or atomic access that the memory does not support.
    UnsupportedExclusive,
    /// Implementation defined (cache lockdown).
    Lockdown,
    /// A code that this table does not know.
    Other(u8),
}

/// What data and instruction aborts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The status code.
    pub fault: Fault,
    /// Stage-2 fault of a stage-1 table walk's own access.
    pub s1ptw: bool,
    /// `FAR_EL2` holds the address (FnV clear).
    pub far_valid: bool,
    /// External abort type bit (implementation defined).
    pub ea: bool,
}

/// A data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort {
    /// The common part.
    pub abort: Abort,
    /// WnR as it stands in the syndrome; see [`DataAbort::is_write`].
    pub wnr: bool,
    /// By a cache maintenance or address translation instruction (CM).
    pub cache_op: bool,
    /// The register access, if the syndrome describes one.
    pub access: Option<Access>,
}

/// One load or store of one general register (ISS bits 24:14, valid with ISV).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// log2 of the bytes accessed: 0..=3 (SAS).
    pub size_log2: u8,
    /// A load sign-extends (SSE).
    pub sign_extend: bool,
    /// The general register, 31 is XZR (SRT).
    pub rt: u8,
    /// The register is 64 bits wide (SF), else 32.
    pub wide: bool,
    /// It had acquire or release semantics (AR).
    pub ordered: bool,
}

/// ISS bit and field positions (DDI0487, ISS encodings of data and instruction aborts).
mod iss {
    pub const ISV: u32 = 1 << 24;
    pub const SSE: u32 = 1 << 21;
    pub const SF: u32 = 1 << 15;
    pub const AR: u32 = 1 << 14;
    pub const FNV: u32 = 1 << 10;
    pub const EA: u32 = 1 << 9;
    pub const CM: u32 = 1 << 8;
    pub const S1PTW: u32 = 1 << 7;
    pub const WNR: u32 = 1 << 6;
    /// Condition valid, in the classes that AArch32 instructions cause.
    pub const CV: u32 = 1 << 24;
}

impl Esr {
    /// Wraps `ESR_EL2`.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The register.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// Exception class.
    #[must_use]
    pub const fn class(self) -> u8 {
        ((self.0 >> 26) & 0x3f) as u8
    }
    /// Instruction specific syndrome, 25 bits.
    #[must_use]
    pub const fn iss(self) -> u32 {
        (self.0 & 0x1ff_ffff) as u32
    }
    /// Bytes of the trapped instruction: 2 (T32) or 4.
    #[must_use]
    pub const fn instruction_bytes(self) -> u64 {
        if self.0 & (1 << 25) == 0 { 2 } else { 4 }
    }

    /// Decodes the whole syndrome.
    #[must_use]
    pub const fn decode(self) -> Syndrome {
        let iss = self.iss();
        let imm = (iss & 0xffff) as u16;
        match self.class() {
            ec::UNKNOWN => Syndrome::Unknown,
            0x01 => Syndrome::Wfx(match iss & 3 {
                0 => Wfx::Wfi,
                1 => Wfx::Wfe,
                2 => Wfx::Wfit,
                _ => Wfx::Wfet,
            }),
            0x03..=0x06 | 0x08 | 0x0c => Syndrome::Cp32,
            0x07 => Syndrome::Fp,
            0x09 => Syndrome::PointerAuth,
            0x0e => Syndrome::IllegalState,
            0x12 | 0x13 => Syndrome::Call32,
            0x16 => Syndrome::Hvc(imm),
            0x17 => Syndrome::Smc(imm),
            0x18 => Syndrome::Sysreg(SysregAccess {
                enc: Enc::from_iss(iss),
                rt: ((iss >> 5) & 0x1f) as u8,
                read: iss & 1 != 0,
            }),
            0x19 | 0x1d => Syndrome::Vector,
            ec::INSTRUCTION_ABORT_LOWER => Syndrome::InstructionAbort(Abort::decode(iss)),
            ec::DATA_ABORT_LOWER => Syndrome::DataAbort(DataAbort::decode(iss)),
            0x2f => Syndrome::SError,
            // Breakpoint, step and watchpoint come as 0x31, 0x33, 0x35 from EL2 itself.
            own @ (ec::INSTRUCTION_ABORT_SAME | ec::DATA_ABORT_SAME | 0x31 | 0x33 | 0x35) => {
                Syndrome::FromEl2(own)
            }
            other => Syndrome::Other(other),
        }
    }

    /// Did the trapped AArch32 instruction pass its condition? It may trap without (DDI0487
    /// G1.20.3 leaves that to the CPU); then it must be skipped like a NOP. `true` for AArch64,
    /// whose syndromes carry no condition (`CV` set, `COND` = always).
    #[must_use]
    pub const fn condition_passed(self, spsr: u64) -> bool {
        let aarch32 = spsr & (1 << 4) != 0;
        if !aarch32 || !matches!(self.class(), 0x01 | 0x03..=0x08 | 0x0c | 0x13) {
            return true;
        }
        let iss = self.iss();
        // Without CV the condition is that of the IT block, or none (T32 outside a block).
        let cond = if iss & iss::CV != 0 { (iss >> 20) & 0xf } else { it_condition(spsr) };
        let (n, z) = (spsr & (1 << 31) != 0, spsr & (1 << 30) != 0);
        let (c, v) = (spsr & (1 << 29) != 0, spsr & (1 << 28) != 0);
        let base = match cond >> 1 {
            0 => z,
            1 => c,
            2 => n,
            3 => v,
            4 => c && !z,
            5 => n == v,
            6 => n == v && !z,
            _ => return true,
        };
        base != (cond & 1 != 0)
    }
}

/// Condition of the next instruction of an IT block: `IT[7:4]` is its condition, `IT[3:0]` = 0 means
/// outside a block (DDI0487 G1.8). In `SPSR_ELx` `IT[7:2]` is at 15:10, `IT[1:0]` at 26:25.
const fn it_condition(spsr: u64) -> u32 {
    let it = it_state(spsr);
    if it & 0xf == 0 { 0xe } else { ((it >> 4) & 0xf) as u32 }
}

impl Abort {
    const fn decode(iss: u32) -> Self {
        Self {
            fault: Fault::decode((iss & 0x3f) as u8),
            s1ptw: iss & iss::S1PTW != 0,
            far_valid: iss & iss::FNV == 0,
            ea: iss & iss::EA != 0,
        }
    }

    /// Must the faulting page be found by `AT S1E1R` of `FAR_EL2`, for [`hpfar_from_par`]? The
    /// architecture writes `HPFAR_EL2` for translation, access flag and address size faults at stage
    /// 2, and for every stage-2 fault of a stage-1 walk; for another permission fault it is UNKNOWN
    /// (DDI0487, HPFAR_EL2). Of all else nobody needs the page, and to translate again after an error
    /// of the memory that holds the tables would be to meet it in EL2.
    #[must_use]
    pub const fn needs_translation(&self) -> bool {
        matches!(self.fault, Fault::Permission(_)) && !self.s1ptw
    }

    /// The faulting IPA; `None` with [`HPFAR_INVALID`]. A fault of a table walk has no offset:
    /// `FAR_EL2` is then the address that was being translated, not the table entry's.
    #[must_use]
    pub const fn ipa(&self, hpfar: u64, far: u64) -> Option<u64> {
        if hpfar & HPFAR_INVALID != 0 {
            return None;
        }
        // FIPA, bits 43:4, is IPA[51:12].
        let page = (hpfar & 0xfff_ffff_fff0) << 8;
        let offset = if self.s1ptw || !self.far_valid { 0 } else { far & (PAGE_SIZE - 1) };
        Some(union(&[page, offset]))
    }
}

/// In place of `HPFAR_EL2`: nobody knows the page. Bit 63 is NS, RES0 in Non-secure state.
pub const HPFAR_INVALID: u64 = 1 << 63;

/// What `HPFAR_EL2` would hold, from the `PAR_EL1` that `AT S1E1R` of `FAR_EL2` left behind;
/// [`HPFAR_INVALID`] if that translation failed, for then the tables have changed meanwhile: let
/// the access be tried again.
#[must_use]
pub const fn hpfar_from_par(par: u64) -> u64 {
    if par & 1 != 0 {
        return HPFAR_INVALID;
    }
    // PA, bits 51:12, becomes FIPA, bits 43:4.
    (par & 0xf_ffff_ffff_f000) >> 8
}

impl Fault {
    /// Decodes a six-bit status code.
    #[must_use]
    pub const fn decode(code: u8) -> Self {
        let level = (code & 3) as i8;
        match code & 0x3f {
            0x00..=0x03 => Self::AddressSize(level),
            0x04..=0x07 => Self::Translation(level),
            0x08..=0x0b => Self::AccessFlag(level),
            0x0c..=0x0f => Self::Permission(level),
            0x10 => Self::External,
            0x11 => Self::TagCheck,
            0x13 => Self::ExternalOnWalk(-1),
            0x14..=0x17 => Self::ExternalOnWalk(level),
            0x18 => Self::Parity,
            0x1b => Self::ParityOnWalk(-1),
            0x1c..=0x1f => Self::ParityOnWalk(level),
            0x21 => Self::Alignment,
            0x29 => Self::AddressSize(-1),
            0x2b => Self::Translation(-1),
            0x30 => Self::TlbConflict,
            0x31 => Self::UnsupportedUpdate,
            0x34 => Self::Lockdown,
            0x35 => Self::UnsupportedExclusive,
            other => Self::Other(other),
        }
    }
    /// Is it one that stage 2 raises to have a page brought in, aged or made writable?
    #[must_use]
    pub const fn is_translation_kind(self) -> bool {
        matches!(self, Self::Translation(_) | Self::AccessFlag(_) | Self::Permission(_))
    }
}

impl DataAbort {
    const fn decode(iss: u32) -> Self {
        let abort = Abort::decode(iss);
        let cache_op = iss & iss::CM != 0;
        // Outside stage-2 translation faults the same bits mean other things (LST, SET).
        let described = iss & iss::ISV != 0
            && !abort.s1ptw
            && !cache_op
            && (abort.fault.is_translation_kind() || matches!(abort.fault, Fault::AddressSize(_)));
        let access = if described { Some(Access::decode(iss)) } else { None };
        Self { abort, wnr: iss & iss::WNR != 0, cache_op, access }
    }

    /// Must the page be writable? In a table walk WnR tells of the access that caused the walk, not
    /// of the walk: that only writes (access flag, dirty state) where reading was already allowed.
    /// For cache maintenance WnR is always set, but only what lacks a right wants it.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        if self.abort.s1ptw || self.cache_op {
            matches!(self.abort.fault, Fault::Permission(_))
        } else {
            self.wnr
        }
    }
}

impl Access {
    const fn decode(iss: u32) -> Self {
        Self {
            size_log2: ((iss >> 22) & 3) as u8,
            sign_extend: iss & iss::SSE != 0,
            rt: ((iss >> 16) & 0x1f) as u8,
            wide: iss & iss::SF != 0,
            ordered: iss & iss::AR != 0,
        }
    }

    /// What a store wrote: the register's low bytes.
    #[must_use]
    pub const fn stored(&self, register: u64) -> u64 {
        match self.size_log2 & 3 {
            0 => register & 0xff,
            1 => register & 0xffff,
            2 => register & 0xffff_ffff,
            _ => register,
        }
    }

    /// What a load of `value` puts into the register: truncated to the size, sign-extended to the
    /// register's width if asked, and zero above a 32-bit register (DDI0487 C6.2, LDRSB..LDR).
    #[must_use]
    pub const fn loaded(&self, value: u64) -> u64 {
        let value = self.stored(value);
        let extended = match (self.sign_extend, self.size_log2 & 3) {
            (true, 0) => ((value << 56) as i64 >> 56) as u64,
            (true, 1) => ((value << 48) as i64 >> 48) as u64,
            (true, 2) => ((value << 32) as i64 >> 32) as u64,
            _ => value,
        };
        if self.wide { extended } else { extended & 0xffff_ffff }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysreg::{CNTP_CTL_EL0, ICC_SGI1R_EL1};

    fn esr(class: u8, iss: u64) -> Esr {
        Esr::new((u64::from(class) << 26) | (1 << 25) | iss)
    }

    #[test]
    fn every_class_has_its_meaning_and_only_its_own() {
        for class in 0..64 {
            let expected = match class {
                0x00 => Syndrome::Unknown,
                0x01 => Syndrome::Wfx(Wfx::Wfi),
                0x03 | 0x04 | 0x05 | 0x06 | 0x08 | 0x0c => Syndrome::Cp32,
                0x07 => Syndrome::Fp,
                0x09 => Syndrome::PointerAuth,
                0x0e => Syndrome::IllegalState,
                0x12 | 0x13 => Syndrome::Call32,
                0x16 => Syndrome::Hvc(0),
                0x17 => Syndrome::Smc(0),
                0x18 => {
                    let enc = Enc::new(0, 0, 0, 0, 0);
                    Syndrome::Sysreg(SysregAccess { enc, rt: 0, read: false })
                }
                0x19 | 0x1d => Syndrome::Vector,
                0x20 => Syndrome::InstructionAbort(Abort::decode(0)),
                0x24 => Syndrome::DataAbort(DataAbort::decode(0)),
                0x2f => Syndrome::SError,
                0x21 | 0x25 | 0x31 | 0x33 | 0x35 => Syndrome::FromEl2(class),
                _ => Syndrome::Other(class),
            };
            assert_eq!(esr(class, 0).decode(), expected, "{class:#x}");
        }
        // ISS2 above bit 32 belongs to no class.
        assert_eq!(Esr::new(0xff << 32).class(), 0);
        assert_eq!(Esr::new(u64::MAX).class(), 0x3f);
        assert_eq!(Esr::new(u64::MAX).iss(), 0x1ff_ffff);
    }

    #[test]
    fn calls_carry_sixteen_bits_and_waits_two() {
        assert_eq!(esr(0x16, 0x1ff_0000).decode(), Syndrome::Hvc(0));
        assert_eq!(esr(0x16, 0x1ff_ffff).decode(), Syndrome::Hvc(0xffff));
        assert_eq!(esr(0x17, 0x1234).decode(), Syndrome::Smc(0x1234));
        for (ti, wfx) in [Wfx::Wfi, Wfx::Wfe, Wfx::Wfit, Wfx::Wfet].into_iter().enumerate() {
            assert_eq!(esr(0x01, 0x1e0_0000 | ti as u64).decode(), Syndrome::Wfx(wfx));
        }
    }

    #[test]
    fn real_sysreg_syndromes_name_the_register() {
        // mrs x7, cntp_ctl_el0 and msr icc_sgi1r_el1, xzr, as a CPU reports them.
        let read = SysregAccess { enc: CNTP_CTL_EL0, rt: 7, read: true };
        assert_eq!(Esr::new(0x6232_f8e5).decode(), Syndrome::Sysreg(read));
        let write = SysregAccess { enc: ICC_SGI1R_EL1, rt: 31, read: false };
        assert_eq!(Esr::new(0x623a_33f6).decode(), Syndrome::Sysreg(write));
    }

    #[test]
    fn every_status_code_decodes() {
        for code in 0..64_u8 {
            let level = (code & 3).cast_signed();
            let expected = match code {
                0x00..=0x03 => Fault::AddressSize(level),
                0x04..=0x07 => Fault::Translation(level),
                0x08..=0x0b => Fault::AccessFlag(level),
                0x0c..=0x0f => Fault::Permission(level),
                0x10 => Fault::External,
                0x11 => Fault::TagCheck,
                0x13 => Fault::ExternalOnWalk(-1),
                0x14..=0x17 => Fault::ExternalOnWalk(level),
                0x18 => Fault::Parity,
                0x1b => Fault::ParityOnWalk(-1),
                0x1c..=0x1f => Fault::ParityOnWalk(level),
                0x21 => Fault::Alignment,
                0x29 => Fault::AddressSize(-1),
                0x2b => Fault::Translation(-1),
                0x30 => Fault::TlbConflict,
                0x31 => Fault::UnsupportedUpdate,
                0x34 => Fault::Lockdown,
                0x35 => Fault::UnsupportedExclusive,
                _ => Fault::Other(code),
            };
            assert_eq!(Fault::decode(code), expected, "{code:#x}");
            assert_eq!(Fault::decode(code | 0xc0), expected);
            assert_eq!(expected.is_translation_kind(), matches!(code, 4..=15 | 0x2b), "{code:#x}");
        }
    }

    /// The data abort of `ldrsh w3, [x1]`, or of what else `iss` says.
    fn data_abort(iss: u64) -> DataAbort {
        match esr(ec::DATA_ABORT_LOWER, iss).decode() {
            Syndrome::DataAbort(abort) => abort,
            other => panic!("{other:?}"),
        }
    }

    const ISV: u64 = 1 << 24;
    const DFSC_TRANSLATION_3: u64 = 0x07;

    #[test]
    fn a_described_access_is_taken_apart() {
        let base = ISV | DFSC_TRANSLATION_3;
        let access = |iss| data_abort(base | iss).access.unwrap();
        let none = Access { size_log2: 0, sign_extend: false, rt: 0, wide: false, ordered: false };
        assert_eq!(access(0), none);
        assert_eq!(access(1 << 22), Access { size_log2: 1, ..none });
        assert_eq!(access(3 << 22), Access { size_log2: 3, ..none });
        assert_eq!(access(1 << 21), Access { sign_extend: true, ..none });
        assert_eq!(access(31 << 16), Access { rt: 31, ..none });
        assert_eq!(access(1 << 16), Access { rt: 1, ..none });
        assert_eq!(access(1 << 15), Access { wide: true, ..none });
        assert_eq!(access(1 << 14), Access { ordered: true, ..none });
        let ldrsh = data_abort(base | (1 << 22) | (1 << 21) | (3 << 16));
        assert_eq!(ldrsh.abort.fault, Fault::Translation(3));
        assert!(!ldrsh.is_write() && !ldrsh.cache_op && ldrsh.abort.far_valid);
    }

    #[test]
    fn nothing_is_described_but_a_plain_stage_2_fault() {
        for code in 0..64 {
            let described = matches!(code, 0..=15 | 0x29 | 0x2b);
            assert_eq!(data_abort(ISV | code).access.is_some(), described, "{code:#x}");
            assert_eq!(data_abort(code).access, None);
        }
        assert_eq!(data_abort(ISV | DFSC_TRANSLATION_3 | (1 << 7)).access, None); // S1PTW
        assert_eq!(data_abort(ISV | DFSC_TRANSLATION_3 | (1 << 8)).access, None); // CM
    }

    #[test]
    fn abort_flags_are_where_they_belong() {
        let flags = |iss| {
            let d = data_abort(DFSC_TRANSLATION_3 | iss);
            (d.wnr, d.abort.s1ptw, d.cache_op, d.abort.ea, d.abort.far_valid)
        };
        assert_eq!(flags(0), (false, false, false, false, true));
        assert_eq!(flags(1 << 6), (true, false, false, false, true));
        assert_eq!(flags(1 << 7), (false, true, false, false, true));
        assert_eq!(flags(1 << 8), (false, false, true, false, true));
        assert_eq!(flags(1 << 9), (false, false, false, true, true));
        assert_eq!(flags(1 << 10), (false, false, false, false, false));
    }

    #[test]
    fn a_table_walk_writes_only_where_it_lacks_permission() {
        let (wnr, s1ptw) = (1 << 6, 1 << 7);
        assert!(data_abort(0x07 | wnr).is_write());
        assert!(data_abort(0x0f | wnr).is_write());
        assert!(!data_abort(0x0f).is_write());
        assert!(!data_abort(0x07 | wnr | s1ptw).is_write());
        assert!(data_abort(0x0f | s1ptw).is_write());
        assert!(!data_abort(0x0b | wnr | s1ptw).is_write());
    }

    #[test]
    fn a_permission_fault_outside_a_walk_is_translated_again_and_nothing_else() {
        for code in 0..64 {
            let permission = matches!(code, 12..=15);
            assert_eq!(data_abort(code).abort.needs_translation(), permission, "{code:#x}");
            assert!(!data_abort(code | 1 << 7).abort.needs_translation(), "{code:#x}");
        }
    }

    #[test]
    fn the_ipa_is_the_page_of_hpfar_and_the_offset_of_far() {
        let abort = data_abort(DFSC_TRANSLATION_3).abort;
        assert_eq!(abort.ipa(0x0009_0000, 0xffff_8000_1234_5678), Some(0x0900_0678));
        assert_eq!(abort.ipa(0xfff_ffff_fff0, 0xfff), Some(0xf_ffff_ffff_ffff));
        // Bits outside FIPA say nothing about the page.
        assert_eq!(abort.ipa(0x7000_0000_0000_000f, 0), Some(0));
        assert_eq!(abort.ipa(HPFAR_INVALID | 0x90000, 0x678), None);
        // On a walk FAR is the address that was being translated; with FnV it is nothing.
        let walk = data_abort(DFSC_TRANSLATION_3 | 1 << 7).abort;
        assert_eq!(walk.ipa(0x90000, 0x678), Some(0x0900_0000));
        let unknown = data_abort(DFSC_TRANSLATION_3 | 1 << 10).abort;
        assert_eq!(unknown.ipa(0x90000, 0x678), Some(0x0900_0000));
    }

    #[test]
    fn an_address_translation_stands_in_for_hpfar() {
        // Attributes (63:56), NS and SH (11:7) are no address.
        let par = 0xff00_0000_0900_0f80;
        assert_eq!(hpfar_from_par(par), 0x90000);
        assert_eq!(hpfar_from_par(0xf_ffff_ffff_f000), 0xfff_ffff_fff0);
        assert_eq!(hpfar_from_par(par | 1), HPFAR_INVALID);
    }

    #[test]
    fn loads_are_cut_extended_and_widened_as_the_instruction_says() {
        let load = |size_log2, sign_extend, wide, value| {
            Access { size_log2, sign_extend, rt: 0, wide, ordered: false }.loaded(value)
        };
        let ones = u64::MAX;
        // (size, value) -> LDR Wt, LDR Xt, LDRS Wt, LDRS Xt
        let table = [
            (0, 0x1234_5680, 0x80, 0x80, 0xffff_ff80, 0xffff_ffff_ffff_ff80),
            (0, 0xff7f, 0x7f, 0x7f, 0x7f, 0x7f),
            (1, 0x1_8000, 0x8000, 0x8000, 0xffff_8000, 0xffff_ffff_ffff_8000),
            (1, 0xf_7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff),
            (2, 0x1_8000_0000, 0x8000_0000, 0x8000_0000, 0x8000_0000, 0xffff_ffff_8000_0000),
            (2, 0xf_7fff_ffff, 0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff),
            (3, ones, 0xffff_ffff, ones, 0xffff_ffff, ones),
        ];
        for (size, value, w, x, sw, sx) in table {
            assert_eq!(load(size, false, false, value), w, "size {size}");
            assert_eq!(load(size, false, true, value), x, "size {size}");
            assert_eq!(load(size, true, false, value), sw, "size {size}");
            assert_eq!(load(size, true, true, value), sx, "size {size}");
        }
    }

    #[test]
    fn stores_hand_over_no_more_than_their_size() {
        let value = 0x1122_3344_5566_7788;
        let expected = [0x88, 0x7788, 0x5566_7788, value];
        for (size_log2, stored) in (0..).zip(expected) {
            let access = Access { size_log2, sign_extend: true, rt: 0, wide: true, ordered: false };
            assert_eq!(access.stored(value), stored);
        }
    }

    #[test]
    fn instructions_are_two_or_four_bytes() {
        assert_eq!(esr(0x18, 0).instruction_bytes(), 4);
        assert_eq!(Esr::new(0x03 << 26).instruction_bytes(), 2);
    }

    const AARCH32: u64 = 0x10;
    const CV: u64 = 1 << 24;

    #[test]
    fn every_condition_is_decided_by_every_set_of_flags() {
        for flags in 0..16_u64 {
            let [v, c, z, n] = [0, 1, 2, 3].map(|bit| flags & (1 << bit) != 0);
            let pass = [
                z,
                !z,
                c,
                !c,
                n,
                !n,
                v,
                !v,
                c && !z,
                !c || z,
                n == v,
                n != v,
                n == v && !z,
                n != v || z,
                true,
                true,
            ];
            for (cond, pass) in (0_u64..).zip(pass) {
                let trap = esr(0x03, CV | (cond << 20));
                let spsr = AARCH32 | (flags << 28);
                assert_eq!(trap.condition_passed(spsr), pass, "cond {cond} flags {flags:04b}");
                // AArch64 has no conditional instructions that trap, and these no condition.
                assert!(trap.condition_passed(flags << 28));
                assert!(esr(0x24, CV | (cond << 20)).condition_passed(spsr));
            }
        }
    }

    #[test]
    fn without_a_condition_the_it_block_decides() {
        let trap = esr(0x03, 0);
        let it = |it: u64| AARCH32 | ((it >> 2) << 10) | ((it & 3) << 25);
        let z = 1 << 30;
        assert!(trap.condition_passed(AARCH32)); // outside a block
        assert!(!trap.condition_passed(it(0x08))); // ITT EQ, last: needs Z
        assert!(trap.condition_passed(it(0x08) | z));
        assert!(trap.condition_passed(it(0x11))); // NE
        assert!(!trap.condition_passed(it(0x12) | z));
    }
}
