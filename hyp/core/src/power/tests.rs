//! What each power call answers in each state, and every order in which CPUs can meet.

use super::Affinity::{Answer, Off};
use super::*;

const BOOT: u64 = 0x8000_0000;
const SECOND: u64 = 0x8000_0101;
const THIRD: u64 = 0x12_8000_0200;
const AT: Start = Start { entry: 0x4000, context: 7 };

fn three() -> Power {
    Power::new(BOOT, [BOOT, SECOND, THIRD])
}

/// CPU 1 is on.
fn two_on() -> Power {
    let mut power = three();
    power.begin_on(0, 0x101, AT, true).unwrap();
    assert_eq!(power.arrive(1), Some(AT));
    power
}

#[test]
fn numbers_are_given_in_order_once_each_and_no_more_than_there_are() {
    let power = three();
    assert_eq!(power.count(), 3);
    assert_eq!(
        [0, 1, 2, 3].map(|n| power.mpidr(n)),
        [Some(0), Some(0x101), Some(0x12_0000_0200), None]
    );
    let many = Power::new(BOOT, 1..100);
    assert_eq!(many.count(), MAX_CPUS);
    assert_eq!(many.number(7), Some(7));
    assert_eq!(many.number(8), None);
}

#[test]
fn a_cpu_that_is_off_starts_where_it_was_told_to() {
    let mut power = three();
    assert_eq!(power.begin_on(0, 0x12_0000_0200, AT, true), Ok(2));
    assert_eq!(power.affinity(0x12_0000_0200, 0), Answer(2));
    assert_eq!(power.arrive(2), Some(AT));
    assert_eq!(power.affinity(0x12_0000_0200, 0), Answer(0));
    // Once.
    assert_eq!(power.arrive(2), None);
}

#[test]
fn names_that_no_cpu_has_are_invalid() {
    let mut power = three();
    for target in [1, 0x100, 0x8000_0101, 0x101 | 1 << 24, 0x200, 1 << 63, u64::MAX] {
        assert_eq!(power.begin_on(0, target, AT, true), Err(status::INVALID_PARAMETERS));
        assert_eq!(power.affinity(target, 0), Answer(status::INVALID_PARAMETERS));
    }
}

#[test]
fn a_start_is_refused_by_what_the_cpu_does() {
    let mut power = three();
    let on = |power: &mut Power, reachable| power.begin_on(0, 0x101, AT, reachable);
    assert_eq!(power.begin_on(0, 0, AT, true), Err(status::ALREADY_ON));
    assert_eq!(on(&mut power, false), Err(status::INVALID_ADDRESS));
    assert_eq!(on(&mut power, true), Ok(1));
    assert_eq!(on(&mut power, true), Err(status::ON_PENDING));
    assert_eq!(on(&mut power, false), Err(status::ON_PENDING));
    power.arrive(1);
    assert_eq!(on(&mut power, true), Err(status::ALREADY_ON));
    power.begin_suspend(1, AT);
    assert_eq!(on(&mut power, true), Err(status::ALREADY_ON));
    power.refuse(1);
    assert_eq!(on(&mut power, true), Err(status::INTERNAL_FAILURE));
    assert_eq!(power.arrive(1), None);
}

#[test]
fn a_start_that_the_firmware_refuses_can_be_tried_again() {
    let mut power = three();
    assert_eq!(power.begin_on(0, 0x101, AT, true), Ok(1));
    power.cancel_on(0, 1);
    assert_eq!(power.arrive(1), None);
    assert_eq!(power.affinity(0x101, 0), Off(1));
    assert_eq!(power.begin_on(0, 0x101, AT, true), Ok(1));
}

#[test]
fn only_its_own_start_does_a_cpu_give_up() {
    let mut power = two_on();
    assert_eq!(power.begin_on(0, 0x12_0000_0200, AT, true), Ok(2));
    power.cancel_on(1, 2);
    assert_eq!(power.arrive(2), Some(AT));
    power.cancel_on(0, 2);
    assert_eq!(power.affinity(0x12_0000_0200, 0), Answer(0), "it runs");
}

#[test]
fn the_last_cpu_that_runs_cannot_go() {
    let mut power = three();
    assert_eq!(power.begin_off(0), Err(status::DENIED));
    power.begin_on(0, 0x101, AT, true).unwrap();
    assert_eq!(power.begin_off(0), Err(status::DENIED), "the other may fail to come");
    power.arrive(1);
    assert_eq!(power.begin_off(0), Ok(()));
    assert_eq!(power.begin_off(1), Err(status::DENIED));
    assert_eq!(power.begin_on(1, 0, AT, true), Ok(0), "the boot CPU is like any other");
    power.arrive(0);
    power.begin_suspend(0, AT);
    assert_eq!(power.begin_off(1), Ok(()), "an interrupt wakes the one that sleeps");
}

#[test]
fn a_cpu_that_the_firmware_does_not_turn_off_runs_on() {
    let mut power = two_on();
    assert_eq!(power.begin_off(1), Ok(()));
    assert!(power.cancel_off(1));
    assert_eq!(power.affinity(0x101, 0), Answer(0));
    assert_eq!(power.begin_off(0), Ok(()));
}

#[test]
fn a_cpu_that_is_not_turned_off_waits_for_the_end_of_a_vain_start() {
    let mut power = two_on();
    power.begin_off(1).unwrap();
    assert_eq!(power.begin_on(0, 0x101, AT, true), Ok(1));
    assert!(!power.cancel_off(1));
    power.cancel_on(0, 1);
    assert!(power.cancel_off(1));
    assert_eq!(power.affinity(0x101, 0), Answer(0));
}

#[test]
fn a_cpu_that_sleeps_is_on_and_resumes_where_it_said() {
    let mut power = two_on();
    let resume = Start { entry: 0x8000, context: 9 };
    power.begin_suspend(1, resume);
    assert_eq!(power.affinity(0x101, 0), Answer(0));
    assert_eq!(power.arrive(1), Some(resume));
    power.begin_suspend(1, resume);
    power.cancel_suspend(1);
    assert_eq!(power.arrive(1), None, "it has not lost its state");
}

#[test]
fn an_affinity_level_stands_for_all_cpus_below_it() {
    let mut power = Power::new(0, [1, 0x100, 0x101, 0x1_0000, 1 << 32]);
    let at = |power: &Power, target, level| power.affinity(target, level);
    // A level with a CPU that is on, by any of its names.
    for target in [0, 1, 0xff] {
        assert_eq!(at(&power, target, 1), Answer(0));
    }
    assert_eq!(at(&power, 0x100, 1), Answer(1));
    assert_eq!(at(&power, 0x1_0000, 2), Answer(1));
    assert_eq!(at(&power, 1 << 32, 3), Answer(1));
    assert_eq!(at(&power, 0x100, 2), Answer(0));
    power.begin_on(0, 0x101, AT, true).unwrap();
    assert_eq!(at(&power, 0x100, 1), Answer(2));
    power.arrive(3);
    assert_eq!(at(&power, 0x100, 1), Answer(0));
    assert_eq!(at(&power, 0x200, 1), Answer(status::INVALID_PARAMETERS));
    assert_eq!(at(&power, 0x2_0000, 2), Answer(status::INVALID_PARAMETERS));
    assert_eq!(at(&power, 2 << 32, 3), Answer(status::INVALID_PARAMETERS));
    for level in [4, 0x1_0000_0000, u64::MAX] {
        assert_eq!(at(&power, 0, level), Answer(status::INVALID_PARAMETERS));
    }
    power.refuse(4);
    assert_eq!(at(&power, 0x1_0000, 0), Answer(1));
    assert_eq!(at(&power, 0x1_0000, 2), Answer(1));
}

#[test]
fn calls_about_a_cpu_that_does_not_exist_change_nothing() {
    let mut power = three();
    power.cancel_on(0, 5);
    assert!(power.cancel_off(5));
    power.cancel_suspend(5);
    power.begin_suspend(5, AT);
    power.refuse(MAX_CPUS);
    assert_eq!(power.arrive(5), None);
    assert_eq!(power.arrive(MAX_CPUS), None);
    assert_eq!((power.count(), power.mpidr(MAX_CPUS)), (3, None));
}
