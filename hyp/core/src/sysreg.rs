//! Which system registers a guest sees, and what becomes of a trapped access.
//!
//! Knows encodings (DDI0487 C5, D24) and the policy; `idreg` has the fields of the ID
//! registers. Must not know a register's present value or how to read one.
//!
//! Rule: what is not named here is UNDEFINED to a guest. That covers, on purpose, the PMU, SPE,
//! TRBE, trace, LORegions, SVE, SME, RAS error records, pointer authentication keys, MTE and
//! everything that is IMPLEMENTATION DEFINED (CRn 11 and 15).

use crate::debug;

pub use crate::idreg::{GuestView, ID_REGISTERS};

/// Encoding of a system register: op0, op1, CRn, CRm, op2, packed as in bits 20:5 of MRS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Enc(u16);

impl Enc {
    /// Packs an encoding; each part is cut to its width.
    #[must_use]
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            (((op0 & 3) as u16) << 14)
                | (((op1 & 7) as u16) << 11)
                | (((crn & 15) as u16) << 7)
                | (((crm & 15) as u16) << 3)
                | ((op2 & 7) as u16),
        )
    }
    /// From the ISS of exception class 0x18.
    #[must_use]
    pub const fn from_iss(iss: u32) -> Self {
        Self::new(
            ((iss >> 20) & 3) as u8,
            ((iss >> 14) & 7) as u8,
            ((iss >> 10) & 15) as u8,
            ((iss >> 1) & 15) as u8,
            ((iss >> 17) & 7) as u8,
        )
    }
    /// The packed number.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// (op0, op1, CRn, CRm, op2).
    #[must_use]
    pub const fn parts(self) -> (u8, u8, u8, u8, u8) {
        (
            (self.0 >> 14) as u8,
            ((self.0 >> 11) & 7) as u8,
            ((self.0 >> 7) & 15) as u8,
            ((self.0 >> 3) & 15) as u8,
            (self.0 & 7) as u8,
        )
    }
    /// In the space of the feature ID registers that `HCR_EL2.TID3` traps: op0 = 3, op1 = 0,
    /// CRn = 0, CRm = 1..7. Encodings there without a register read as zero.
    #[must_use]
    pub const fn is_feature_id(self) -> bool {
        let (op0, op1, crn, crm, _) = self.parts();
        op0 == 3 && op1 == 0 && crn == 0 && crm >= 1 && crm <= 7
    }
}

impl core::fmt::Debug for Enc {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (op0, op1, crn, crm, op2) = self.parts();
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

macro_rules! registers {
    ($( $(#[$doc:meta])* $name:ident = ($op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal); )*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`.")]
            $(#[$doc])*
            pub const $name: Enc = Enc::new($op0, $op1, $crn, $crm, $op2);
        )*
    };
}

registers! {
    ID_PFR0_EL1 = (3, 0, 0, 1, 0);
    ID_PFR1_EL1 = (3, 0, 0, 1, 1);
    ID_DFR0_EL1 = (3, 0, 0, 1, 2);
    ID_MMFR0_EL1 = (3, 0, 0, 1, 4);
    ID_MMFR1_EL1 = (3, 0, 0, 1, 5);
    ID_MMFR2_EL1 = (3, 0, 0, 1, 6);
    ID_MMFR3_EL1 = (3, 0, 0, 1, 7);
    ID_ISAR0_EL1 = (3, 0, 0, 2, 0);
    ID_ISAR1_EL1 = (3, 0, 0, 2, 1);
    ID_ISAR2_EL1 = (3, 0, 0, 2, 2);
    ID_ISAR3_EL1 = (3, 0, 0, 2, 3);
    ID_ISAR4_EL1 = (3, 0, 0, 2, 4);
    ID_ISAR5_EL1 = (3, 0, 0, 2, 5);
    ID_MMFR4_EL1 = (3, 0, 0, 2, 6);
    ID_ISAR6_EL1 = (3, 0, 0, 2, 7);
    MVFR0_EL1 = (3, 0, 0, 3, 0);
    MVFR1_EL1 = (3, 0, 0, 3, 1);
    MVFR2_EL1 = (3, 0, 0, 3, 2);
    ID_PFR2_EL1 = (3, 0, 0, 3, 4);
    ID_AA64PFR0_EL1 = (3, 0, 0, 4, 0);
    ID_AA64PFR1_EL1 = (3, 0, 0, 4, 1);
    ID_AA64DFR0_EL1 = (3, 0, 0, 5, 0);
    ID_AA64ISAR0_EL1 = (3, 0, 0, 6, 0);
    ID_AA64ISAR1_EL1 = (3, 0, 0, 6, 1);
    ID_AA64ISAR2_EL1 = (3, 0, 0, 6, 2);
    ID_AA64MMFR0_EL1 = (3, 0, 0, 7, 0);
    ID_AA64MMFR1_EL1 = (3, 0, 0, 7, 1);
    ID_AA64MMFR2_EL1 = (3, 0, 0, 7, 2);
    /// Trapped by `HCR_EL2.TID1`.
    REVIDR_EL1 = (3, 0, 0, 0, 6);
    /// Trapped by `HCR_EL2.TID1`.
    AIDR_EL1 = (3, 1, 0, 0, 7);
    ACTLR_EL1 = (3, 0, 1, 0, 1);
    MDCCINT_EL1 = (2, 0, 0, 2, 0);
    MDSCR_EL1 = (2, 0, 0, 2, 2);
    OSDTRRX_EL1 = (2, 0, 0, 0, 2);
    OSDTRTX_EL1 = (2, 0, 0, 3, 2);
    OSECCR_EL1 = (2, 0, 0, 6, 2);
    MDRAR_EL1 = (2, 0, 1, 0, 0);
    OSLAR_EL1 = (2, 0, 1, 0, 4);
    OSLSR_EL1 = (2, 0, 1, 1, 4);
    OSDLR_EL1 = (2, 0, 1, 3, 4);
    DBGPRCR_EL1 = (2, 0, 1, 4, 4);
    DBGCLAIMSET_EL1 = (2, 0, 7, 8, 6);
    DBGCLAIMCLR_EL1 = (2, 0, 7, 9, 6);
    DBGAUTHSTATUS_EL1 = (2, 0, 7, 14, 6);
    MDCCSR_EL0 = (2, 3, 0, 1, 0);
    DBGDTR_EL0 = (2, 3, 0, 4, 0);
    /// `DBGDTRTX_EL0` when written.
    DBGDTRRX_EL0 = (2, 3, 0, 5, 0);
    ICC_DIR_EL1 = (3, 0, 12, 11, 1);
    ICC_SGI1R_EL1 = (3, 0, 12, 11, 5);
    ICC_ASGI1R_EL1 = (3, 0, 12, 11, 6);
    ICC_SGI0R_EL1 = (3, 0, 12, 11, 7);
    ICC_SRE_EL1 = (3, 0, 12, 12, 5);
    CNTPCT_EL0 = (3, 3, 14, 0, 1);
    CNTP_TVAL_EL0 = (3, 3, 14, 2, 0);
    CNTP_CTL_EL0 = (3, 3, 14, 2, 1);
    CNTP_CVAL_EL0 = (3, 3, 14, 2, 2);
    DC_ISW = (1, 0, 7, 6, 2);
    DC_CSW = (1, 0, 7, 10, 2);
    DC_CISW = (1, 0, 7, 14, 2);
}

/// What becomes of a trapped access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysregAction {
    /// Read of an ID register: [`GuestView::id_register`] of the real one.
    Id,
    /// Reads as this value.
    Value(u64),
    /// Reads as zero; a write is ignored.
    RazWi,
    /// Read or write of `MDSCR_EL1` in the vCPU's context, with
    /// [`MDSCR_MASK`](crate::debug::MDSCR_MASK).
    Mdscr,
    /// Another debug register in the vCPU's context.
    Debug(debug::Register),
    /// Undefined instruction exception at EL1.
    Undef,
    /// For the host's device models.
    ToHost,
}

impl GuestView {
    /// Decides a trapped MRS (`read`), MSR or system instruction.
    #[must_use]
    pub fn trap(&self, enc: Enc, read: bool) -> SysregAction {
        use SysregAction::{Debug, Id, Mdscr, RazWi, ToHost, Undef, Value};
        if enc.is_feature_id() {
            return if read { Id } else { Undef };
        }
        match enc {
            REVIDR_EL1 | AIDR_EL1 => reads(read, Id),
            ACTLR_EL1 => RazWi,
            // A GICv3's SGIs and deactivation are the distributor model's. Write-only.
            ICC_SGI0R_EL1 | ICC_SGI1R_EL1 | ICC_ASGI1R_EL1 | ICC_DIR_EL1 if self.gic_v3 => {
                writes(read, ToHost)
            }
            // SRE, DFB, DIB: the register interface is on and there is no other.
            ICC_SRE_EL1 if self.gic_v3 => {
                if read {
                    Value(7)
                } else {
                    RazWi
                }
            }
            CNTP_TVAL_EL0 | CNTP_CTL_EL0 | CNTP_CVAL_EL0 => ToHost,
            CNTPCT_EL0 => reads(read, ToHost),
            // EL2 need not trap these, as HCR_EL2.SWIO makes invalidation clean as well. Where it
            // does they do nothing: set/way maintenance has no meaning for a vCPU that moves between
            // CPUs (DDI0487 D7.5.9.8), and memory is cleaned to PoC when it is mapped.
            DC_ISW | DC_CSW | DC_CISW => writes(read, RazWi),
            MDSCR_EL1 => Mdscr,
            // No debugger is at the other end of these.
            MDCCINT_EL1 | OSDTRRX_EL1 | OSDTRTX_EL1 | OSECCR_EL1 | DBGPRCR_EL1 | DBGDTR_EL0
            | DBGDTRRX_EL0 => RazWi,
            MDRAR_EL1 | DBGAUTHSTATUS_EL1 | MDCCSR_EL0 => reads(read, Value(0)),
            OSLAR_EL1 => writes(read, Debug(debug::Register::OsLockAccess)),
            OSLSR_EL1 => reads(read, Debug(debug::Register::OsLockStatus)),
            // Without FEAT_DoubleLock the register stays, and does nothing.
            OSDLR_EL1 if self.double_lock => Debug(debug::Register::OsDoubleLock),
            OSDLR_EL1 => RazWi,
            DBGCLAIMSET_EL1 => Debug(debug::Register::ClaimSet),
            DBGCLAIMCLR_EL1 => Debug(debug::Register::ClaimClear),
            other => self.point(other).map_or(Undef, Debug),
        }
    }

    /// `DBGBVR<n>`, `DBGBCR<n>`, `DBGWVR<n>`, `DBGWCR<n>` of those that are there.
    fn point(&self, enc: Enc) -> Option<debug::Register> {
        use debug::Register::{
            BreakpointControl, BreakpointValue, WatchpointControl, WatchpointValue,
        };
        let (2, 0, 0, n, op2) = enc.parts() else { return None };
        let (register, count) = match op2 {
            4 => (BreakpointValue(n), self.breakpoints),
            5 => (BreakpointControl(n), self.breakpoints),
            6 => (WatchpointValue(n), self.watchpoints),
            7 => (WatchpointControl(n), self.watchpoints),
            _ => return None,
        };
        (n < count).then_some(register)
    }
}

/// For a read-only register.
const fn reads(read: bool, action: SysregAction) -> SysregAction {
    if read { action } else { SysregAction::Undef }
}

/// For a write-only register.
const fn writes(read: bool, action: SysregAction) -> SysregAction {
    reads(!read, action)
}

#[cfg(test)]
mod tests {
    use super::SysregAction::{Debug, Id, Mdscr, RazWi, ToHost, Undef, Value};
    use super::debug::Register;
    use super::*;

    const V3: GuestView = GuestView {
        ipa_bits: 40,
        gic_v3: true,
        aarch32_el0: true,
        breakpoints: 6,
        watchpoints: 4,
        double_lock: true,
    };
    const V2: GuestView = GuestView { gic_v3: false, ..V3 };

    fn all() -> impl Iterator<Item = Enc> {
        // Miri sees a sample.
        (0..=u16::MAX).step_by(if cfg!(miri) { 509 } else { 1 }).map(Enc)
    }

    #[test]
    fn encodings_pack_and_unpack() {
        assert_eq!(ID_AA64PFR0_EL1.raw(), 3 << 14 | 4 << 3);
        assert_eq!(CNTP_CVAL_EL0.raw(), 3 << 14 | 3 << 11 | 14 << 7 | 2 << 3 | 2);
        assert_eq!(format!("{CNTP_CVAL_EL0:?}"), "S3_3_C14_C2_2");
        for enc in all() {
            let (op0, op1, crn, crm, op2) = enc.parts();
            assert_eq!(Enc::new(op0, op1, crn, crm, op2), enc);
            let iss = (u32::from(op0) << 20)
                | (u32::from(op2) << 17)
                | (u32::from(op1) << 14)
                | (u32::from(crn) << 10)
                | (u32::from(crm) << 1);
            // Rt, direction and what lies above are not part of the name.
            for rest in [0, 0x3e1, 0x1c0_0000] {
                assert_eq!(Enc::from_iss(iss | rest), enc);
            }
        }
    }

    #[test]
    fn feature_registers_are_read_only_and_all_of_their_space_is_covered() {
        let mut found = 0;
        for enc in all().filter(|e| e.is_feature_id()) {
            let (op0, op1, crn, crm, _) = enc.parts();
            assert_eq!((op0, op1, crn), (3, 0, 0));
            assert!((1..=7).contains(&crm));
            assert_eq!(V3.trap(enc, true), Id);
            assert_eq!(V3.trap(enc, false), Undef);
            found += 1;
        }
        assert!(cfg!(miri) || found == 7 * 8);
    }

    /// Every access that is not undefined, with what becomes of it.
    fn allowed() -> Vec<(Enc, bool, SysregAction)> {
        let sgi = |enc| [(enc, false, ToHost)];
        let both = |enc, action| [(enc, true, action), (enc, false, action)];
        let read = |enc, action| [(enc, true, action)];
        let mut list = Vec::new();
        for enc in [ICC_SGI0R_EL1, ICC_SGI1R_EL1, ICC_ASGI1R_EL1, ICC_DIR_EL1] {
            list.extend(sgi(enc));
        }
        list.extend([(ICC_SRE_EL1, true, Value(7)), (ICC_SRE_EL1, false, RazWi)]);
        for enc in [CNTP_TVAL_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0] {
            list.extend(both(enc, ToHost));
        }
        list.extend(read(CNTPCT_EL0, ToHost));
        list.extend(read(REVIDR_EL1, Id));
        list.extend(read(AIDR_EL1, Id));
        list.extend(both(MDSCR_EL1, Mdscr));
        list.extend(read(OSLSR_EL1, Debug(Register::OsLockStatus)));
        list.push((OSLAR_EL1, false, Debug(Register::OsLockAccess)));
        list.extend(both(OSDLR_EL1, Debug(Register::OsDoubleLock)));
        list.extend(both(DBGCLAIMSET_EL1, Debug(Register::ClaimSet)));
        list.extend(both(DBGCLAIMCLR_EL1, Debug(Register::ClaimClear)));
        for enc in [MDRAR_EL1, DBGAUTHSTATUS_EL1, MDCCSR_EL0] {
            list.extend(read(enc, Value(0)));
        }
        for enc in [DC_ISW, DC_CSW, DC_CISW] {
            list.push((enc, false, RazWi));
        }
        let debug = [
            MDCCINT_EL1,
            OSDTRRX_EL1,
            OSDTRTX_EL1,
            OSECCR_EL1,
            DBGPRCR_EL1,
            DBGDTR_EL0,
            DBGDTRRX_EL0,
        ];
        for enc in debug.into_iter().chain([ACTLR_EL1]) {
            list.extend(both(enc, RazWi));
        }
        for n in 0..6 {
            list.extend(both(Enc::new(2, 0, 0, n, 4), Debug(Register::BreakpointValue(n))));
            list.extend(both(Enc::new(2, 0, 0, n, 5), Debug(Register::BreakpointControl(n))));
        }
        for n in 0..4 {
            list.extend(both(Enc::new(2, 0, 0, n, 6), Debug(Register::WatchpointValue(n))));
            list.extend(both(Enc::new(2, 0, 0, n, 7), Debug(Register::WatchpointControl(n))));
        }
        list
    }

    #[test]
    fn what_is_not_on_the_list_is_undefined() {
        let allowed = allowed();
        for enc in all().filter(|e| !e.is_feature_id()) {
            for read in [true, false] {
                let entry = allowed.iter().find(|(e, r, _)| (*e, *r) == (enc, read));
                let expected = entry.map_or(Undef, |(_, _, action)| *action);
                assert_eq!(V3.trap(enc, read), expected, "{enc:?} read {read}");
            }
        }
    }

    #[test]
    fn a_guest_with_a_gicv2_has_no_gic_registers() {
        for (enc, read, action) in allowed() {
            let (_, _, crn, crm, _) = enc.parts();
            let gic = (crn, crm) == (12, 11) || (crn, crm) == (12, 12);
            assert_eq!(V2.trap(enc, read), if gic { Undef } else { action }, "{enc:?}");
        }
    }

    #[test]
    fn a_cpu_without_the_double_lock_ignores_it() {
        let without = GuestView { double_lock: false, ..V3 };
        for read in [true, false] {
            assert_eq!(without.trap(OSDLR_EL1, read), RazWi);
        }
    }

    #[test]
    fn names_and_encodings_agree_with_the_architecture() {
        // DDI0487 C5 and D24, one of each group.
        let table = [
            (ID_DFR0_EL1, (3, 0, 0, 1, 2)),
            (MVFR2_EL1, (3, 0, 0, 3, 2)),
            (ID_AA64MMFR2_EL1, (3, 0, 0, 7, 2)),
            (OSLSR_EL1, (2, 0, 1, 1, 4)),
            (DBGAUTHSTATUS_EL1, (2, 0, 7, 14, 6)),
            (MDCCSR_EL0, (2, 3, 0, 1, 0)),
            (ICC_DIR_EL1, (3, 0, 12, 11, 1)),
            (ICC_SRE_EL1, (3, 0, 12, 12, 5)),
            (DC_CISW, (1, 0, 7, 14, 2)),
        ];
        for (enc, parts) in table {
            assert_eq!(enc.parts(), parts);
        }
    }
}
