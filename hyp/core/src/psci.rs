//! The host's firmware calls, understood: what is answered, what is relayed, what EL2 does itself.
//!
//! The host asks for power services by SMC, which `HCR_EL2.TSC` traps. Firmware would start a CPU,
//! or resume this one, at EL2 and at an address of the caller's choice: those calls never pass as
//! they are ([`crate::power`] and the EL2 image stand between). Knows PSCI (DEN0022) and SMCCC
//! (DEN0028) numbers. Must not know how to issue an SMC, or which CPUs are on.

/// PSCI and SMCCC function ids. The 64-bit form of a PSCI call has bit 30 set as well.
pub mod id {
    /// `SMCCC_VERSION`.
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    /// `SMCCC_ARCH_FEATURES`.
    pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
    /// `PSCI_VERSION`.
    pub const VERSION: u32 = 0x8400_0000;
    /// `CPU_SUSPEND`.
    pub const CPU_SUSPEND: u32 = 0x8400_0001;
    /// `CPU_OFF`.
    pub const CPU_OFF: u32 = 0x8400_0002;
    /// `CPU_ON`.
    pub const CPU_ON: u32 = 0x8400_0003;
    /// `AFFINITY_INFO`.
    pub const AFFINITY_INFO: u32 = 0x8400_0004;
    /// `MIGRATE_INFO_TYPE`.
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    /// `SYSTEM_OFF`.
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    /// `SYSTEM_RESET`.
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    /// `PSCI_FEATURES`.
    pub const FEATURES: u32 = 0x8400_000a;
    /// `SYSTEM_RESET2`.
    pub const SYSTEM_RESET2: u32 = 0x8400_0012;
    /// Set in the id of a call with 64-bit arguments (SMC64).
    pub const WIDE: u32 = 1 << 30;
}

/// Return values, as x0 holds them.
pub mod status {
    /// Done.
    pub const SUCCESS: u64 = 0;
    /// Unknown call (the same number in SMCCC).
    pub const NOT_SUPPORTED: u64 = (-1_i64) as u64;
    /// Bad argument.
    pub const INVALID_PARAMETERS: u64 = (-2_i64) as u64;
    /// Not allowed.
    pub const DENIED: u64 = (-3_i64) as u64;
    /// That CPU runs already.
    pub const ALREADY_ON: u64 = (-4_i64) as u64;
    /// That CPU is being started already.
    pub const ON_PENDING: u64 = (-5_i64) as u64;
    /// That CPU cannot be used.
    pub const INTERNAL_FAILURE: u64 = (-6_i64) as u64;
    /// The entry point cannot be one.
    pub const INVALID_ADDRESS: u64 = (-9_i64) as u64;
    /// SMCCC 1.1.
    pub const SMCCC_1_1: u64 = 0x1_0001;
    /// PSCI 1.1.
    pub const PSCI_1_1: u64 = 0x1_0001;
    /// `MIGRATE_INFO_TYPE`: nothing has to be migrated.
    pub const NOT_MIGRATED: u64 = 2;
}

/// Affinity bits of an MPIDR: Aff3 and Aff2..Aff0.
pub const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// How the firmware reads the power state of `CPU_SUSPEND`, as its `PSCI_FEATURES` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendFormat {
    /// As PSCI 0.2 defined it: bit 16 says power-down.
    Original,
    /// The extended format: bit 30 does.
    Extended,
}

impl SuspendFormat {
    /// From what the firmware answers to `PSCI_FEATURES` of `CPU_SUSPEND`; `None`: it has none.
    #[must_use]
    pub const fn from_features(x0: u64) -> Option<Self> {
        // The answer is an int32; bit 1 is the format, bit 0 OS-initiated mode.
        match low32(x0) {
            flags if flags >> 31 != 0 => None,
            flags if flags & 2 != 0 => Some(Self::Extended),
            _ => Some(Self::Original),
        }
    }

    /// What the host is told: the format. Nothing relays the call that selects OS-initiated mode.
    const fn features(self) -> u64 {
        match self {
            Self::Original => 0,
            Self::Extended => 2,
        }
    }

    const fn powers_down(self, state: u32) -> bool {
        match self {
            Self::Original => state & 1 << 16 != 0,
            Self::Extended => state & 1 << 30 != 0,
        }
    }
}

/// Who has the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// PSCI by SMC.
    Psci {
        /// If it has `CPU_SUSPEND`.
        suspend: Option<SuspendFormat>,
    },
    /// EL2 itself, for an SMC would hang or be undefined (a Raspberry Pi with the default stub).
    Own {
        /// The board can be turned off, and reset.
        off: bool,
    },
}

impl Firmware {
    /// The format of `CPU_SUSPEND`, if there is one.
    const fn suspend(self) -> Option<SuspendFormat> {
        match self {
            Self::Psci { suspend } => suspend,
            Self::Own { .. } => Some(SuspendFormat::Original),
        }
    }

    /// A call without arguments: the firmware's to answer, or `own`.
    fn relay(self, function: u32, own: Request) -> Request {
        match self {
            Self::Psci { .. } => Request::Forward([u64::from(function), 0, 0, 0]),
            Self::Own { .. } => own,
        }
    }

    /// `PSCI_FEATURES` of a function that the host may know about.
    fn features(self, asked: u32) -> Request {
        let ends = matches!(asked & !id::WIDE, id::SYSTEM_OFF | id::SYSTEM_RESET);
        match self {
            Self::Psci { .. } => {
                Request::Forward([u64::from(id::FEATURES), u64::from(asked), 0, 0])
            }
            Self::Own { off } if ends && !off => Request::Answer(status::NOT_SUPPORTED),
            Self::Own { .. } if asked & !id::WIDE == id::SYSTEM_RESET2 => {
                Request::Answer(status::NOT_SUPPORTED)
            }
            Self::Own { .. } => Request::Answer(status::SUCCESS),
        }
    }
}

/// What to do for the host. Its x1..x3 become 0 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Answer x0 at once.
    Answer(u64),
    /// Ask the firmware with exactly these x0..x3 (x4 and up zero); its x0 is the answer.
    Forward([u64; 4]),
    /// Start another CPU.
    On {
        /// MPIDR of that CPU, as the host named it.
        target: u64,
        /// Where it begins.
        entry: u64,
        /// Its x0.
        context: u64,
    },
    /// Turn this CPU off.
    Off,
    /// Let this CPU wait.
    Suspend {
        /// How, in the firmware's words.
        state: u32,
        /// It may lose its state.
        power_down: bool,
        /// Where it goes on if it did.
        entry: u64,
        /// Its x0 then.
        context: u64,
    },
    /// End it all, by the board's own means.
    End {
        /// And start again.
        reset: bool,
    },
    /// Say what a CPU does.
    Affinity {
        /// MPIDR, as the host named it.
        target: u64,
        /// Lowest affinity level that counts.
        level: u64,
    },
}

/// Understands an SMC of the host: `args` are its x0..x3.
#[must_use]
pub fn request(imm: u16, args: [u64; 4], firmware: Firmware) -> Request {
    use Request::{Answer, Forward};
    // SMCCC defines immediate 0 only.
    if imm != 0 {
        return Answer(status::NOT_SUPPORTED);
    }
    let [x0, x1, x2, x3] = args;
    // SMCCC: the function id is w0; the upper half of x0 is ignored on purpose.
    let function = low32(x0);
    match function {
        id::SMCCC_VERSION => return Answer(status::SMCCC_1_1),
        id::SMCCC_ARCH_FEATURES => return Answer(arch_feature(low32(x1))),
        _ => {}
    }
    let wide = function & id::WIDE != 0;
    let width = if wide { u64::MAX } else { 0xffff_ffff };
    let [x1, x2, x3] = [x1 & width, x2 & width, x3 & width];
    match function & !id::WIDE {
        id::CPU_ON => Request::On { target: x1, entry: x2, context: x3 },
        id::AFFINITY_INFO => Request::Affinity { target: x1, level: x2 },
        id::CPU_SUSPEND => match firmware.suspend() {
            Some(format) => {
                let state = low32(x1);
                let power_down = format.powers_down(state);
                Request::Suspend { state, power_down, entry: x2, context: x3 }
            }
            None => Answer(status::NOT_SUPPORTED),
        },
        id::SYSTEM_RESET2 if matches!(firmware, Firmware::Psci { .. }) => {
            Forward([u64::from(function), x1, x2, x3])
        }
        // The rest has no 64-bit form.
        _ if wide => Answer(status::NOT_SUPPORTED),
        id::CPU_OFF => Request::Off,
        id::VERSION => firmware.relay(function, Answer(status::PSCI_1_1)),
        id::MIGRATE_INFO_TYPE => firmware.relay(function, Answer(status::NOT_MIGRATED)),
        id::SYSTEM_OFF | id::SYSTEM_RESET if firmware == (Firmware::Own { off: false }) => {
            Answer(status::NOT_SUPPORTED)
        }
        id::SYSTEM_OFF => firmware.relay(function, Request::End { reset: false }),
        id::SYSTEM_RESET => firmware.relay(function, Request::End { reset: true }),
        id::FEATURES => match low32(x1) {
            id::SMCCC_VERSION => Answer(status::SUCCESS),
            asked if asked & !id::WIDE == id::CPU_SUSPEND => {
                Answer(firmware.suspend().map_or(status::NOT_SUPPORTED, SuspendFormat::features))
            }
            asked if is_known(asked) => firmware.features(asked),
            _ => Answer(status::NOT_SUPPORTED),
        },
        // SYSTEM_SUSPEND too: the machine would resume at EL2.
        _ => Answer(status::NOT_SUPPORTED),
    }
}

/// May the host hear the firmware's opinion of this function? Only if the call itself is known.
const fn is_known(function: u32) -> bool {
    match function & !id::WIDE {
        id::CPU_ON | id::AFFINITY_INFO | id::SYSTEM_RESET2 => true,
        _ => matches!(
            function,
            id::VERSION
                | id::CPU_OFF
                | id::MIGRATE_INFO_TYPE
                | id::SYSTEM_OFF
                | id::SYSTEM_RESET
                | id::FEATURES
        ),
    }
}

const fn arch_feature(function: u32) -> u64 {
    match function {
        id::SMCCC_VERSION | id::SMCCC_ARCH_FEATURES => status::SUCCESS,
        _ => status::NOT_SUPPORTED,
    }
}

const fn low32(x: u64) -> u32 {
    (x & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::Request::{Affinity, Answer, Forward, Off, On, Suspend};
    use super::*;

    const QEMU: Firmware = Firmware::Psci { suspend: Some(SuspendFormat::Original) };
    const BARE: Firmware = Firmware::Own { off: false };

    #[test]
    fn answers_have_the_numbers_of_the_specification() {
        use super::status as s;
        let errors = [s::NOT_SUPPORTED, s::INVALID_PARAMETERS, s::DENIED, s::ALREADY_ON];
        let more = [s::ON_PENDING, s::INTERNAL_FAILURE, s::INVALID_ADDRESS];
        let below_zero = |number: u64| number.wrapping_neg();
        assert_eq!(errors.map(below_zero), [1, 2, 3, 4]);
        assert_eq!(more.map(below_zero), [5, 6, 9]);
    }

    fn smc(args: [u64; 4]) -> Request {
        request(0, args, QEMU)
    }

    fn call(function: u32, x1: u64) -> Request {
        smc([u64::from(function), x1, 2, 3])
    }

    #[test]
    fn calls_about_the_whole_system_are_forwarded_with_nothing_else() {
        for function in [0x8400_0000, 0x8400_0006, 0x8400_0008, 0x8400_0009] {
            assert_eq!(call(function, 1), Forward([u64::from(function), 0, 0, 0]));
        }
    }

    #[test]
    fn arguments_are_cut_to_the_width_of_the_call() {
        let args = [0x1_0000_0001, 0x2_0000_0002, 0x3_0000_0003];
        let [x1, x2, x3] = args;
        let narrow = |function| smc([function, x1, x2, x3]);
        let wide = |function: u64| smc([function | 0x4000_0000, x1, x2, x3]);
        assert_eq!(narrow(0x8400_0012), Forward([0x8400_0012, 1, 2, 3]));
        assert_eq!(wide(0x8400_0012), Forward([0xc400_0012, x1, x2, x3]));
        assert_eq!(narrow(0x8400_0003), On { target: 1, entry: 2, context: 3 });
        assert_eq!(wide(0x8400_0003), On { target: x1, entry: x2, context: x3 });
        assert_eq!(narrow(0x8400_0004), Affinity { target: 1, level: 2 });
        assert_eq!(wide(0x8400_0004), Affinity { target: x1, level: x2 });
        let power_down = false;
        assert_eq!(narrow(0x8400_0001), Suspend { state: 1, power_down, entry: 2, context: 3 });
        // The power state has 32 bits in either form.
        assert_eq!(wide(0x8400_0001), Suspend { state: 1, power_down, entry: x2, context: x3 });
    }

    #[test]
    fn nothing_that_starts_stops_or_resumes_a_cpu_is_ever_forwarded() {
        for low in (0..=0xffff_u64).step_by(if cfg!(miri) { 511 } else { 1 }) {
            for base in [0x8400_0000, 0xc400_0000] {
                let function = base | low;
                let forwarded = matches!(smc([function, 0, 0, 0]), Forward(_));
                let allowed = match low {
                    0x12 => true,
                    0x00 | 0x06 | 0x08 | 0x09 => base == 0x8400_0000,
                    // FEATURES of function 0 is not known.
                    _ => false,
                };
                assert_eq!(forwarded, allowed, "{function:#x}");
            }
        }
    }

    #[test]
    fn off_is_a_32_bit_call_and_system_suspend_is_not_there() {
        assert_eq!(call(0x8400_0002, 0), Off);
        for function in [0x8400_000e, 0xc400_000e, 0x8400_000f] {
            assert_eq!(call(function, 0), Answer(u64::MAX), "{function:#x}");
        }
        // No 64-bit form.
        for function in [0xc400_0000, 0xc400_0002, 0xc400_0008, 0xc400_000a] {
            assert_eq!(call(function, 0), Answer(u64::MAX), "{function:#x}");
        }
    }

    #[test]
    fn the_firmware_s_format_says_which_suspend_loses_state() {
        let suspend = |format, state: u32| {
            let firmware = Firmware::Psci { suspend: format };
            request(0, [0xc400_0001, u64::from(state), 7, 8], firmware)
        };
        let (original, extended) = (SuspendFormat::Original, SuspendFormat::Extended);
        for (format, state, down) in [
            (original, 0x1_0000, true),
            (original, 0x4000_0000, false),
            (extended, 0x4000_0000, true),
            (extended, 0x1_0000, false),
        ] {
            let wanted = Suspend { state, power_down: down, entry: 7, context: 8 };
            assert_eq!(suspend(Some(format), state), wanted);
        }
        assert_eq!(suspend(None, 0), Answer(u64::MAX));
        // int32: the upper half says nothing.
        assert_eq!(SuspendFormat::from_features(0xffff_ffff), None);
        assert_eq!(SuspendFormat::from_features(u64::MAX), None);
        assert_eq!(SuspendFormat::from_features(0), Some(original));
        assert_eq!(SuspendFormat::from_features(1), Some(original));
        assert_eq!(SuspendFormat::from_features(3), Some(extended));
        assert_eq!(SuspendFormat::from_features(1 << 32 | 2), Some(extended));
    }

    #[test]
    fn features_are_asked_for_what_is_relayed_and_for_nothing_else() {
        let features = |asked| call(0x8400_000a, asked);
        let relayed = [
            0x8400_0000,
            0x8400_0002,
            0x8400_0003,
            0xc400_0003,
            0x8400_0004,
            0xc400_0004,
            0x8400_0006,
            0x8400_0008,
            0x8400_0009,
            0x8400_000a,
            0x8400_0012,
            0xc400_0012,
        ];
        for asked in relayed {
            assert_eq!(features(asked), Forward([0x8400_000a, asked, 0, 0]));
            assert_eq!(features(asked | 1 << 32), Forward([0x8400_000a, asked, 0, 0]));
        }
        for asked in [0xc400_0002, 0xc400_0008, 0x8400_000e, 0] {
            assert_eq!(features(asked), Answer(u64::MAX), "{asked:#x}");
        }
        assert_eq!(features(0x8000_0000), Answer(0));
    }

    #[test]
    fn features_of_suspend_tell_the_format_and_never_os_initiated_mode() {
        let features =
            |suspend, asked| request(0, [0x8400_000a, asked, 0, 0], Firmware::Psci { suspend });
        for asked in [0x8400_0001, 0xc400_0001] {
            assert_eq!(features(None, asked), Answer(u64::MAX));
            assert_eq!(features(Some(SuspendFormat::Original), asked), Answer(0));
            assert_eq!(features(SuspendFormat::from_features(3), asked), Answer(2));
        }
    }

    #[test]
    fn smccc_is_ours_with_or_without_firmware() {
        for firmware in [QEMU, BARE] {
            let ask = |x0, x1| request(0, [x0, x1, 0, 0], firmware);
            assert_eq!(ask(0x8000_0000, 0), Answer(0x1_0001));
            assert_eq!(ask(0x8000_0001, 0x8000_0000), Answer(0));
            assert_eq!(ask(0x8000_0001, 0x8000_0001), Answer(0));
            assert_eq!(ask(0x8000_0001, 0x8000_8000), Answer(u64::MAX));
            assert_eq!(ask(0x8000_8000, 0), Answer(u64::MAX));
        }
    }

    #[test]
    fn without_firmware_psci_is_ours_and_nothing_is_ever_forwarded() {
        for low in (0..=0xffff_u64).step_by(if cfg!(miri) { 511 } else { 1 }) {
            for (base, asked) in [(0x8400_0000, 0), (0xc400_0000, 0), (0, 0x8400_0000)] {
                let call = if base == 0 {
                    [0x8400_000a, asked | low, 0, 0]
                } else {
                    [base | low, 0, 0, 0]
                };
                let action = request(0, call, BARE);
                assert!(!matches!(action, Forward(_)), "{call:x?}");
            }
        }
        let call = |function, firmware| request(0, [function, 1, 2, 3], firmware);
        assert_eq!(call(0x8400_0000, BARE), Answer(0x1_0001));
        assert_eq!(call(0x8400_0006, BARE), Answer(2));
        assert_eq!(call(0xc400_0003, BARE), On { target: 1, entry: 2, context: 3 });
        assert_eq!(call(0xc400_0004, BARE), Affinity { target: 1, level: 2 });
        assert_eq!(call(0x8400_0002, BARE), Off);
        let power_down = false;
        assert_eq!(call(0xc400_0001, BARE), Suspend { state: 1, power_down, entry: 2, context: 3 });
        for reset2 in [0x8400_0012, 0xc400_0012] {
            assert_eq!(call(reset2, BARE), Answer(u64::MAX));
        }
    }

    #[test]
    fn without_firmware_the_board_says_whether_the_machine_can_be_turned_off() {
        let able = Firmware::Own { off: true };
        let features = |asked, firmware| request(0, [0x8400_000a, asked, 0, 0], firmware);
        for (function, reset) in [(0x8400_0008, false), (0x8400_0009, true)] {
            assert_eq!(request(0, [function, 0, 0, 0], able), Request::End { reset });
            assert_eq!(features(function, able), Answer(0));
            assert_eq!(request(0, [function, 0, 0, 0], BARE), Answer(u64::MAX));
            assert_eq!(features(function, BARE), Answer(u64::MAX));
        }
        for asked in [0x8400_0000, 0x8400_0001, 0xc400_0001, 0x8400_0002, 0xc400_0003, 0x8400_000a]
        {
            assert_eq!(features(asked, BARE), Answer(0), "{asked:#x}");
        }
        for asked in [0x8400_000e, 0xc400_0012, 0xc400_0002] {
            assert_eq!(features(asked, able), Answer(u64::MAX), "{asked:#x}");
        }
    }

    #[test]
    fn only_immediate_zero_is_a_call() {
        for imm in [1, 0x8000, 0xffff] {
            assert_eq!(request(imm, [0x8400_0008, 0, 0, 0], QEMU), Answer(u64::MAX));
        }
    }

    #[test]
    fn the_upper_half_of_x0_is_ignored_and_not_passed_on() {
        assert_eq!(smc([0xdead_beef_8400_0008, 0, 0, 0]), Forward([0x8400_0008, 0, 0, 0]));
    }

    #[test]
    fn other_owners_calls_are_unknown() {
        for function in [0, 1, 0x8200_0000, 0x8300_0000, 0x8400_0060, 0xbf00_0000, 0xffff_ffff] {
            assert_eq!(call(function, 0), Answer(u64::MAX), "{function:#x}");
        }
    }
}
