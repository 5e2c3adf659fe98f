//! What a CPU gives away by speculation, what its firmware does about it, and what EL1 is told.
//!
//! Three weaknesses have a mitigation in firmware (DEN0028, Arm architecture calls): branch target
//! injection (ARCH_WORKAROUND_1), speculative store bypass (2) and branch history injection (3). EL2
//! uses it for itself, each time somebody less trusted has run, so that all that EL1 wants of it has
//! been done by the time EL1's own call has reached EL2. Knows ID registers and answers of the
//! firmware, for one CPU. Must not know how an SMC is issued.

use core::fmt;

use crate::psci::{id, status};

/// Function ids of the mitigations.
pub mod workaround {
    /// Forgets branch targets.
    pub const BRANCH_TARGETS: u32 = 0x8000_8000;
    /// Stops or allows bypassing of stores, by its argument.
    pub const STORE_BYPASS: u32 = 0x8000_7fff;
    /// Forgets branch history, and branch targets as well.
    pub const BRANCH_HISTORY: u32 = 0x8000_3fff;
}

/// Answers of `SMCCC_ARCH_FEATURES`.
mod feature {
    use crate::psci::status;

    /// The mitigation is there and needed.
    pub const NEEDED: u64 = 0;
    /// This CPU does not need it, though others of the machine may.
    pub const UNAFFECTED: u64 = 1;
    /// No CPU needs it, or it is always on.
    pub const NOT_REQUIRED: u64 = (-2_i64) as u64;
    /// Nobody knows.
    pub const NOT_SUPPORTED: u64 = status::NOT_SUPPORTED;
}

/// A CPU's state with respect to one weakness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not have it.
    Unaffected,
    /// The firmware mitigates it, by this function.
    Firmware(u32),
    /// It has it, as far as anybody knows.
    Vulnerable,
}

/// What the CPU's ID registers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `MIDR_EL1`.
    pub midr: u64,
    /// `ID_AA64PFR0_EL1`.
    pub pfr0: u64,
    /// `ID_AA64PFR1_EL1`.
    pub pfr1: u64,
    /// `ID_AA64MMFR1_EL1`.
    pub mmfr1: u64,
}

impl Identity {
    const fn csv2(&self) -> u64 {
        (self.pfr0 >> 56) & 0xf
    }
    /// Cortex-A35, A53, A55: they speculate too little to have any of the three.
    const fn speculates_little(&self) -> bool {
        const ARM: u64 = 0x41;
        let (implementer, part) = ((self.midr >> 24) & 0xff, (self.midr >> 4) & 0xfff);
        implementer == ARM && matches!(part, 0xd03..=0xd05)
    }
    /// PSTATE.SSBS is each exception level's own means against store bypass.
    const fn ssbs(&self) -> bool {
        (self.pfr1 >> 4) & 0xf != 0
    }
    /// Exceptions to a higher level leave the history behind, or predictions keep contexts apart.
    const fn history_is_kept_apart(&self) -> bool {
        (self.mmfr1 >> 60) & 0xf != 0 || self.csv2() >= 3
    }
}

/// What the firmware of this CPU answers to `SMCCC_ARCH_FEATURES` of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    branch_targets: u64,
    store_bypass: u64,
    branch_history: u64,
}

impl Answers {
    /// Nobody is there to be asked.
    pub const NONE: Self = Self {
        branch_targets: feature::NOT_SUPPORTED,
        store_bypass: feature::NOT_SUPPORTED,
        branch_history: feature::NOT_SUPPORTED,
    };

    /// Asks the firmware, which has PSCI. `call` makes an SMC with this function and argument, and
    /// answers x0 as a signed number. Firmware before SMCCC 1.1 hears no question that it might not
    /// survive (DEN0028, the discovery of SMCCC_VERSION by PSCI_FEATURES).
    #[must_use]
    pub fn ask(mut call: impl FnMut(u32, u64) -> u64) -> Self {
        let positive = |x0: u64| x0 >> 63 == 0;
        if !positive(call(id::FEATURES, id::SMCCC_VERSION.into())) {
            return Self::NONE;
        }
        let version = call(id::SMCCC_VERSION, 0);
        if !positive(version) || version < status::SMCCC_1_1 {
            return Self::NONE;
        }
        let mut feature = |function: u32| call(id::SMCCC_ARCH_FEATURES, function.into());
        Self {
            branch_targets: feature(workaround::BRANCH_TARGETS),
            store_bypass: feature(workaround::STORE_BYPASS),
            branch_history: feature(workaround::BRANCH_HISTORY),
        }
    }
}

/// A CPU's state with respect to all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speculation {
    /// Branch target injection.
    pub branch_targets: State,
    /// Speculative store bypass.
    pub store_bypass: State,
    /// Branch history injection.
    pub branch_history: State,
    /// Each exception level has its own means against store bypass (PSTATE.SSBS).
    pub ssbs: bool,
}

impl Speculation {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        branch_targets: State::Vulnerable,
        store_bypass: State::Vulnerable,
        branch_history: State::Vulnerable,
        ssbs: false,
    };

    /// Judges a CPU.
    #[must_use]
    pub const fn of(cpu: &Identity, firmware: &Answers) -> Self {
        let little = cpu.speculates_little();
        Self {
            branch_targets: judge(
                little || cpu.csv2() != 0,
                firmware.branch_targets,
                workaround::BRANCH_TARGETS,
            ),
            store_bypass: judge(little, firmware.store_bypass, workaround::STORE_BYPASS),
            branch_history: judge(
                little || cpu.history_is_kept_apart(),
                firmware.branch_history,
                workaround::BRANCH_HISTORY,
            ),
            ssbs: cpu.ssbs(),
        }
    }

    /// What EL2 must call as the first thing after anybody else has run.
    #[must_use]
    pub const fn at_entry(&self) -> Option<u32> {
        match (self.branch_history, self.branch_targets) {
            (State::Firmware(function), _) | (_, State::Firmware(function)) => Some(function),
            _ => None,
        }
    }

    /// What EL2 must call, with 1, once on each CPU: the mitigation of store bypass then stays on for
    /// everybody. Where each level has SSBS it has it for that.
    #[must_use]
    pub const fn at_start(&self) -> Option<u32> {
        match self.store_bypass {
            State::Firmware(function) if !self.ssbs => Some(function),
            _ => None,
        }
    }

    /// Answers a firmware call of EL1's with this x0 and x1, if it is about any of this.
    #[must_use]
    pub const fn answer(&self, x0: u64, x1: u64) -> Option<u64> {
        match low32(x0) {
            id::SMCCC_ARCH_FEATURES => self.feature(low32(x1)),
            // Done before the call arrived ([`Speculation::at_entry`]), or not needed.
            workaround::BRANCH_TARGETS => Some(called(self.branch_targets)),
            workaround::BRANCH_HISTORY => Some(called(self.branch_history)),
            // It stays on, whatever is asked for.
            workaround::STORE_BYPASS => Some(called(self.store_bypass)),
            _ => None,
        }
    }

    const fn feature(&self, function: u32) -> Option<u64> {
        let state = match function {
            workaround::BRANCH_TARGETS => self.branch_targets,
            workaround::BRANCH_HISTORY => self.branch_history,
            workaround::STORE_BYPASS => {
                return Some(match self.store_bypass {
                    State::Unaffected => feature::NOT_REQUIRED,
                    // SSBS is the means then, and ID_AA64PFR1_EL1 tells.
                    _ if self.ssbs => feature::NOT_SUPPORTED,
                    State::Firmware(_) => feature::NOT_REQUIRED,
                    State::Vulnerable => feature::NOT_SUPPORTED,
                });
            }
            _ => return None,
        };
        Some(match state {
            State::Unaffected => feature::UNAFFECTED,
            State::Firmware(_) => feature::NEEDED,
            State::Vulnerable => feature::NOT_SUPPORTED,
        })
    }
}

impl fmt::Display for Speculation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |state| match state {
            State::Unaffected => "safe",
            State::Firmware(_) => "mitigated",
            State::Vulnerable => "vulnerable",
        };
        let bypass = if self.ssbs { "controlled" } else { word(self.store_bypass) };
        let (targets, history) = (word(self.branch_targets), word(self.branch_history));
        write!(f, "speculation: branch targets {targets}, history {history}, store bypass {bypass}")
    }
}

const fn judge(unaffected: bool, answer: u64, function: u32) -> State {
    if unaffected {
        return State::Unaffected;
    }
    match answer {
        feature::NEEDED => State::Firmware(function),
        feature::UNAFFECTED | feature::NOT_REQUIRED => State::Unaffected,
        _ => State::Vulnerable,
    }
}

const fn called(state: State) -> u64 {
    match state {
        State::Vulnerable => status::NOT_SUPPORTED,
        State::Unaffected | State::Firmware(_) => status::SUCCESS,
    }
}

const fn low32(x: u64) -> u32 {
    (x & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::State::{Firmware, Unaffected, Vulnerable};
    use super::workaround::{BRANCH_HISTORY, BRANCH_TARGETS, STORE_BYPASS};
    use super::*;

    const NO: u64 = u64::MAX;
    const A72: Identity = Identity { midr: 0x410f_d083, pfr0: 0, pfr1: 0, mmfr1: 0 };
    const ALL: Answers = Answers { branch_targets: 0, store_bypass: 0, branch_history: 0 };
    const FUNCTIONS: [u32; 3] = [BRANCH_TARGETS, STORE_BYPASS, BRANCH_HISTORY];

    fn states(s: &Speculation) -> [State; 3] {
        [s.branch_targets, s.store_bypass, s.branch_history]
    }

    /// What EL1 hears: features, then calls.
    fn told(s: &Speculation) -> ([u64; 3], [u64; 3]) {
        (
            FUNCTIONS.map(|f| s.answer(id::SMCCC_ARCH_FEATURES.into(), f.into()).unwrap()),
            FUNCTIONS.map(|f| s.answer(f.into(), 1).unwrap()),
        )
    }

    #[test]
    fn a_cortex_a72_is_vulnerable_unless_its_firmware_helps() {
        let alone = Speculation::of(&A72, &Answers::NONE);
        assert_eq!(alone, Speculation::UNKNOWN);
        assert_eq!(told(&alone), ([NO; 3], [NO; 3]));
        assert_eq!((alone.at_entry(), alone.at_start()), (None, None));
        let helped = Speculation::of(&A72, &ALL);
        assert_eq!(states(&helped), FUNCTIONS.map(Firmware));
        // Store bypass is never EL1's to allow, so it need not do anything.
        assert_eq!(told(&helped), ([0, -2_i64 as u64, 0], [0; 3]));
        assert_eq!(
            (helped.at_entry(), helped.at_start()),
            (Some(BRANCH_HISTORY), Some(STORE_BYPASS))
        );
        let older = Speculation::of(&A72, &Answers { branch_history: NO, ..ALL });
        assert_eq!(older.at_entry(), Some(BRANCH_TARGETS));
        assert_eq!(told(&older).0, [0, -2_i64 as u64, NO]);
        let newer = Speculation::of(&A72, &Answers { branch_targets: NO, ..ALL });
        assert_eq!(newer.at_entry(), Some(BRANCH_HISTORY));
    }

    #[test]
    fn the_boot_log_says_what_is_known() {
        let mixed = Speculation {
            branch_targets: Unaffected,
            branch_history: Firmware(BRANCH_HISTORY),
            ..Speculation::UNKNOWN
        };
        let text = "speculation: branch targets safe, history mitigated, store bypass vulnerable";
        assert_eq!(mixed.to_string(), text);
        let text = Speculation { ssbs: true, ..mixed }.to_string();
        assert!(text.ends_with("store bypass controlled"));
    }

    #[test]
    fn firmware_may_know_that_a_cpu_is_not_affected() {
        for none in [1, -2_i64 as u64] {
            let answers =
                Answers { branch_targets: none, store_bypass: none, branch_history: none };
            let s = Speculation::of(&A72, &answers);
            assert_eq!(states(&s), [Unaffected; 3]);
            assert_eq!(told(&s), ([1, -2_i64 as u64, 1], [0; 3]));
            assert_eq!((s.at_entry(), s.at_start()), (None, None));
        }
        for strange in [2, -3_i64 as u64, 1 << 32] {
            let answers =
                Answers { branch_targets: strange, store_bypass: strange, branch_history: strange };
            assert_eq!(states(&Speculation::of(&A72, &answers)), [Vulnerable; 3], "{strange:#x}");
        }
    }

    #[test]
    fn small_cores_are_not_affected_whatever_firmware_says() {
        for part in [0xd03, 0xd04, 0xd05] {
            let cpu = Identity { midr: 0x410f_0004 | part << 4, ..A72 };
            let s = Speculation::of(&cpu, &ALL);
            assert_eq!(states(&s), [Unaffected; 3], "{part:#x}");
            assert_eq!((s.at_entry(), s.at_start()), (None, None));
            assert_eq!(told(&s), ([1, -2_i64 as u64, 1], [0; 3]));
        }
        // The same part number of another maker, and neighbours.
        for midr in [0x420f_d034, 0x410f_d024, 0x410f_d064] {
            let cpu = Identity { midr, ..A72 };
            assert_eq!(states(&Speculation::of(&cpu, &Answers::NONE)), [Vulnerable; 3]);
        }
    }

    #[test]
    fn id_registers_say_what_a_newer_core_has() {
        let csv2 = |n: u64| Identity { pfr0: n << 56, ..A72 };
        let of = |cpu: &Identity| states(&Speculation::of(cpu, &Answers::NONE));
        assert_eq!(of(&csv2(1)), [Unaffected, Vulnerable, Vulnerable]);
        assert_eq!(of(&csv2(2)), [Unaffected, Vulnerable, Vulnerable]);
        assert_eq!(of(&csv2(3)), [Unaffected, Vulnerable, Unaffected]);
        let ecbhb = Identity { mmfr1: 1 << 60, ..A72 };
        assert_eq!(of(&ecbhb), [Vulnerable, Vulnerable, Unaffected]);
        // With SSBS there is nothing to ask the firmware for.
        for ssbs in [1, 2] {
            let cpu = Identity { pfr1: ssbs << 4, ..A72 };
            let s = Speculation::of(&cpu, &ALL);
            assert_eq!((told(&s).0, s.at_start()), ([0, NO, 0], None));
        }
    }

    #[test]
    fn what_is_not_about_this_is_not_answered_here() {
        let s = Speculation::of(&A72, &ALL);
        for x0 in [0, 0x8000_0000, 0x8400_0000, 0xc000_8000, 0x8000_0002, 0xc600_0009] {
            assert_eq!(s.answer(x0, 0), None, "{x0:#x}");
        }
        for x1 in [0, 0x8000_0000, 0x8000_0001, 0x8400_0000] {
            assert_eq!(s.answer(id::SMCCC_ARCH_FEATURES.into(), x1), None, "{x1:#x}");
        }
        // Function ids are 32 bits.
        let upper = 0xdead_beef << 32;
        assert_eq!(s.answer(upper | 0x8000_8000, 0), Some(0));
        assert_eq!(s.answer(upper | 0x8000_0001, upper | 0x8000_8000), Some(0));
    }

    /// Firmware that answers from a list, and notes what it was asked.
    fn asked(answers: &[(u32, u64, u64)]) -> (Answers, Vec<(u32, u64)>) {
        let mut log = Vec::new();
        let found = Answers::ask(|function, argument| {
            log.push((function, argument));
            let known = answers.iter().find(|(f, a, _)| (*f, *a) == (function, argument));
            known.map_or(NO, |(_, _, x0)| *x0)
        });
        (found, log)
    }

    #[test]
    fn firmware_is_asked_only_what_it_can_understand() {
        const VERSION: u64 = 0x8000_0000;
        let features = (id::FEATURES, VERSION, 0);
        // PSCI before 1.0, or without SMCCC_VERSION.
        assert_eq!(asked(&[]), (Answers::NONE, vec![(0x8400_000a, VERSION)]));
        // SMCCC 1.0 in two ways.
        for version in [0x1_0000, NO] {
            let (found, log) = asked(&[features, (id::SMCCC_VERSION, 0, version)]);
            assert_eq!((found, log.len()), (Answers::NONE, 2));
        }
        for version in [0x1_0001, 0x1_0004] {
            let (found, log) = asked(&[
                features,
                (id::SMCCC_VERSION, 0, version),
                (id::SMCCC_ARCH_FEATURES, 0x8000_8000, 0),
                (id::SMCCC_ARCH_FEATURES, 0x8000_7fff, 1),
            ]);
            let expected = Answers { branch_targets: 0, store_bypass: 1, branch_history: NO };
            assert_eq!((found, log.len()), (expected, 5));
        }
    }
}
