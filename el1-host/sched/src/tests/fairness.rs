//! Equal time, and nobody waits for ever.

use super::{Machine, SLICE, steps, task};

/// Always busy tasks have had equal times after 400 slices.
fn assert_equal_times(cpus: usize, vcpus: &[usize]) {
    let mut machine = Machine::new(cpus);
    vcpus.iter().enumerate().for_each(|(vm, n)| machine.start(vm, *n));
    machine.settle();
    let ran = machine.pass(steps(4000), SLICE / 10);
    assert!(cfg!(miri) || ran.len() == vcpus.iter().sum());
    let (least, most) = (ran.values().min().unwrap(), ran.values().max().unwrap());
    let equal = (most - least) * 100 <= most * 5;
    assert!(cfg!(miri) || equal, "{cpus}, {vcpus:?}: {least}..{most}");
}

#[test]
fn two_busy_guests_get_equal_time() {
    for cpus in 1..=2 {
        assert_equal_times(cpus, &[1, 1]);
    }
}

#[test]
fn every_busy_vcpu_gets_the_same_share_whatever_the_number_of_cpus() {
    for cpus in (1..=8).step_by(if cfg!(miri) { 7 } else { 1 }) {
        for vcpus in [&[1, 1, 1][..], &[4, 1], &[2, 3, 1, 1], &[1; 9], &[8, 8]] {
            assert_equal_times(cpus, vcpus);
        }
    }
}

#[test]
fn a_late_guest_gets_its_share_but_nothing_for_the_time_before() {
    let mut machine = Machine::new(1);
    machine.start(0, 1);
    machine.settle();
    machine.pass(steps(5000), SLICE);
    machine.start(1, 1);
    let ran = machine.pass(1000, SLICE / 10);
    let (old, new) = (ran[&task(0, 0)], ran[&task(1, 0)]);
    assert!(old.abs_diff(new) <= 3 * SLICE, "{old} {new}");
}

#[test]
fn a_guest_that_naps_all_the_time_gets_no_more_than_its_share() {
    let mut machine = Machine::new(1);
    machine.start(0, 1);
    machine.start(1, 1);
    machine.settle();
    let mut napper = 0;
    let mut other = 0;
    for _ in 0..steps(20_000) {
        let before = machine.running();
        machine.now += 10;
        let naps = before.contains(&task(0, 0));
        *if naps { &mut napper } else { &mut other } += 10;
        machine.settle();
        if naps && machine.running() == before {
            machine.block(0, Some(machine.now + 1));
        }
    }
    assert!(napper <= other + 3 * SLICE, "{napper} {other}");
    assert!(cfg!(miri) || napper * 100 >= other * 90, "{napper} {other}");
}

#[test]
fn the_longest_wait_of_a_ready_task_is_bounded() {
    for (cpus, vms) in [(1, 6), (2, 7), (3, 4), (4, 12)] {
        let mut machine = Machine::new(cpus);
        (0..vms).for_each(|vm| machine.start(vm, 1));
        machine.settle();
        let mut waited = vec![0; vms];
        for _ in 0..steps(20_000) {
            machine.now += SLICE / 10;
            machine.settle();
            let running = machine.running();
            for (vm, waited) in waited.iter_mut().enumerate() {
                let runs = running.contains(&task(vm, 0));
                *waited = if runs { 0 } else { *waited + SLICE / 10 };
                let bound = (vms as u64 + 3) * SLICE;
                assert!(*waited <= bound, "{cpus} CPUs, VM {vm} of {vms} waits {waited}");
            }
        }
    }
}
