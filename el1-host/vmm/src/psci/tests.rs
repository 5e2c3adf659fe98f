//! PSCI and SMCCC as a guest sees them.

use super::*;

const RAM: std::ops::Range<u64> = 0x4000_0000..0x5000_0000;

fn ask(x: [u64; 4], on: &[bool]) -> Answer {
    answer(Call::new(x), on, |at| RAM.contains(&at))
}

fn value(x: [u64; 4]) -> i64 {
    match ask(x, &[true, false, false]) {
        Answer::Value(x0) => x0 as i64,
        other => panic!("{x:x?}: {other:?}"),
    }
}

#[test]
fn versions_and_features_are_told() {
    assert_eq!(value([0x8400_0000, 0, 0, 0]), 0x1_0001);
    assert_eq!(value([0x8000_0000, 0, 0, 0]), 0x1_0001);
    assert_eq!(value([0x8400_0006, 0, 0, 0]), 2);
    for id in [
        0x8400_0000,
        0x8400_0001,
        0xc400_0001,
        0x8400_0002,
        0x8400_0003,
        0xc400_0003,
        0x8400_0004,
        0xc400_0004,
        0x8400_0006,
        0x8400_0008,
        0x8400_0009,
        0x8400_000a,
        0x8000_0000,
    ] {
        assert_eq!(value([0x8400_000a, id, 0, 0]), 0, "{id:#x}");
    }
    for id in [
        0xc400_0000,
        0xc400_0002,
        0x8400_0005,
        0xc400_0005,
        0x8400_0007,
        0xc400_0008,
        0x8400_000b,
        0x8400_000e,
        0x8400_0012,
        0xc400_0012,
        0x8000_0001,
        0,
        0x8400_001f,
        0xffff_ffff,
    ] {
        assert_eq!(value([0x8400_000a, id, 0, 0]), -1, "{id:#x}");
    }
}

#[test]
fn smccc_features_name_what_is_there_and_no_workaround() {
    assert_eq!(value([0x8000_0001, 0x8000_0000, 0, 0]), 0);
    assert_eq!(value([0x8000_0001, 0x8000_0001, 0, 0]), 0);
    for id in [0x8000_8000_u64, 0x8000_7fff, 0x8000_3fff, 0x8000_0002, 0] {
        assert_eq!(value([0x8000_0001, id, 0, 0]), -1);
    }
}

#[test]
fn unknown_functions_are_unknown() {
    for id in [
        0x8400_0005,
        0xc400_0005,
        0x8400_0007,
        0xc400_0000,
        0xc400_0002,
        0xc400_0008,
        0x8400_000b,
        0x8400_0012,
        0x8000_8000,
        0xc600_00f0,
        0x8600_ff01,
        0,
        1,
        0xffff_ffff,
        0x0400_0003,
    ] {
        assert_eq!(ask([id, 0, 0, 0], &[true]), Answer::Unknown, "{id:#x}");
    }
}

#[test]
fn of_x0_only_the_low_half_is_the_function_and_the_hint_is_none() {
    assert_eq!(value([0xdead_beef_8400_0000, 0, 0, 0]), 0x1_0001);
    assert_eq!(value([0x8401_0000, 0, 0, 0]), 0x1_0001);
    assert_eq!(Call::new([0xffff_ffff_c601_00f0, 0, 0, 0]).id(), 0xc600_00f0);
}

#[test]
fn the_system_functions_end_or_restart_it() {
    assert_eq!(ask([0x8400_0008, 0, 0, 0], &[true]), Answer::SystemOff);
    assert_eq!(ask([0x8400_0009, 0, 0, 0], &[true]), Answer::SystemReset);
    assert_eq!(ask([0x8400_0002, 0, 0, 0], &[true]), Answer::CpuOff);
}

#[test]
fn a_cpu_that_is_off_is_started_where_it_shall() {
    let start = Start { entry: 0x4008_0000, context: 0x1_2345_6789 };
    let on = [true, false, false];
    let answer = ask([0xc400_0003, 2, start.entry, start.context], &on);
    assert_eq!(answer, Answer::CpuOn { vcpu: 2, start });
    // The 32-bit call has 32-bit arguments.
    let answer = ask([0x8400_0003, 0xf_0000_0001, 0xf_4008_0000, 0x1_2345_6789], &on);
    let start = Start { entry: 0x4008_0000, context: 0x2345_6789 };
    assert_eq!(answer, Answer::CpuOn { vcpu: 1, start });
}

#[test]
fn cpu_on_has_its_refusals() {
    let on = |target, entry| value([0xc400_0003, target, entry, 0]);
    assert_eq!(on(0, 0x4000_0000), -4);
    for target in [3, 0x100, 0x1_0000, 1 << 32, 1 << 24, u64::MAX, 1 << 63, (1 << 31) | 1] {
        assert_eq!(on(target, 0x4000_0000), -2, "{target:#x}");
    }
    for entry in [0, 0x4000_0002, 0x4000_0001, 0x3fff_fffc, 0x5000_0000, u64::MAX - 3] {
        assert_eq!(on(1, entry), -9, "{entry:#x}");
    }
    // Which of two faults is told: the one of the target.
    assert_eq!(on(0, 0), -4);
    assert_eq!(on(9, 0), -2);
}

#[test]
fn suspend_waits_in_a_state_that_loses_nothing() {
    let suspend = |state, entry, context| ask([0xc400_0001, state, entry, context], &[true]);
    assert_eq!(suspend(0, 0, 0), Answer::Standby);
    assert_eq!(suspend(0xffff, 0, 0), Answer::Standby);
    // Powerdown is allowed, and not needed; but its entry must be right.
    assert_eq!(suspend(0x1_0000, 0x4000_1000, 7), Answer::Standby);
    assert_eq!(suspend(0x1_0000, 0x1000, 7), Answer::Value(INVALID_ADDRESS));
    for state in [0x2_0000, 0x100_0000, 0x200_0000, 0x8000_0000] {
        assert_eq!(suspend(state, 0x4000_0000, 0), Answer::Value(INVALID_PARAMETERS));
    }
    assert_eq!(ask([0x8400_0001, 0, 0, 0], &[true]), Answer::Standby);
}

#[test]
fn affinity_info_tells_who_is_on() {
    let info = |target, level| value([0xc400_0004, target, level, 0]);
    assert_eq!((info(0, 0), info(1, 0), info(2, 0)), (0, 1, 1));
    assert_eq!(info(3, 0), -2);
    // Above level 0 the lower fields do not count: one of them is on.
    for level in 1..=3 {
        assert_eq!(info(0x5, level), 0);
    }
    assert_eq!(info(0x100, 1), -2);
    assert_eq!(info(0x100, 2), 0);
    assert_eq!(info(0x1_0000, 2), -2);
    assert_eq!(info(0x1_0000, 3), 0);
    assert_eq!(info(1 << 32, 3), -2);
    assert_eq!(info(0, 4), -2);
    assert_eq!(info(0, u64::MAX), -2);
    for bad in [1 << 24, 1 << 31, 1 << 40, u64::MAX] {
        assert_eq!(info(bad, 0), -2);
        assert_eq!(info(bad, 3), -2);
    }
    let off = ask([0x8400_0004, 0, 1, 0], &[false, false]);
    assert_eq!(off, Answer::Value(1));
    let last = ask([0x8400_0004, 0, 1, 0], &[false, true]);
    assert_eq!(last, Answer::Value(0));
}
