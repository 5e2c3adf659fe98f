//! Single rules, one by one.

use super::{At, Machine, SLICE, task};
use crate::{CpuSet, Next, Scheduler, Stay};

fn list(set: CpuSet) -> Vec<usize> {
    set.iter().collect()
}

#[test]
fn a_task_wakes_on_its_last_cpu_if_that_idles_else_on_any_idle_one() {
    let mut machine = Machine::new(2);
    machine.sched.add(1, 1);
    machine.wake(task(1, 0));
    assert_eq!(list(machine.kicked), [1]);
    machine.settle();
    machine.block(1, None);
    machine.wake(task(1, 0));
    assert_eq!(list(machine.kicked), [1]);
    machine.settle();
    machine.block(1, None);
    machine.start(3, 1);
    machine.settle();
    assert_eq!(machine.at[1], At::Running(task(3, 0), SLICE));
    machine.wake(task(1, 0));
    assert_eq!(list(machine.kicked), [0]);
}

#[test]
fn busy_tasks_spread_over_all_cpus() {
    let mut machine = Machine::new(4);
    machine.start(0, 4);
    machine.settle();
    assert_eq!(machine.running().len(), 4);
}

#[test]
fn a_blocked_task_wakes_at_its_time() {
    let mut machine = Machine::new(1);
    machine.start(0, 1);
    machine.settle();
    machine.block(0, Some(70));
    assert_eq!(machine.at[0], At::Idle(Some(70)));
    machine.now = 69;
    machine.look(0);
    assert_eq!(machine.at[0], At::Idle(Some(70)));
    machine.now = 70;
    machine.settle();
    assert_eq!(machine.running(), [task(0, 0)]);
}

#[test]
fn a_task_that_runs_ends_its_run_for_the_timer_of_another_and_yields_to_it() {
    let mut machine = Machine::new(1);
    machine.start(0, 1);
    machine.settle();
    machine.pass(30, SLICE);
    machine.start(1, 1);
    machine.settle();
    assert_eq!(machine.running(), [task(1, 0)]);
    machine.block(0, Some(machine.now + 30));
    assert_eq!(machine.at[0], At::Running(task(0, 0), machine.now + 30));
    machine.pass(3, 10);
    assert_eq!(machine.running(), [task(1, 0)], "what sleeps runs at once when it wakes");
}

#[test]
fn a_task_alone_goes_on_without_leaving() {
    let mut sched = Scheduler::new(1, SLICE);
    sched.add(0, 1);
    assert_eq!(sched.wake(task(0, 0), 0), CpuSet::EMPTY);
    assert_eq!(sched.next(0, 0).0, Next::Run(task(0, 0), SLICE));
    assert_eq!(sched.check(0, SLICE).0, Stay::Until(2 * SLICE));
    assert!(!sched.has_others(0));
}

#[test]
fn giving_time_away_lets_the_next_in_the_queue_run_even_if_it_has_had_more() {
    let mut machine = Machine::new(1);
    machine.start(0, 2);
    machine.settle();
    let first = machine.running()[0];
    machine.now += 1;
    assert!(machine.sched.has_others(0));
    machine.sched.release(0, true, machine.now);
    machine.next(0);
    let second = machine.running()[0];
    assert_ne!(first, second);
    machine.now += 40;
    machine.sched.release(0, true, machine.now);
    machine.next(0);
    assert_eq!(machine.running(), [first]);
}

#[test]
fn those_who_give_their_time_away_reach_everybody_in_turn() {
    let mut machine = Machine::new(1);
    machine.start(0, 4);
    machine.settle();
    machine.pass(7, SLICE);
    // All of them spin until the one that has had most has run.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        seen.insert(machine.running()[0]);
        machine.now += 1;
        machine.sched.release(0, true, machine.now);
        machine.next(0);
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_vm_is_ended_once_and_only_when_all_its_vcpus_have_left() {
    let mut machine = Machine::new(3);
    machine.start(0, 3);
    machine.settle();
    machine.stop(0);
    assert_eq!(list(machine.kicked), [0, 1, 2]);
    machine.stop(0);
    machine.look(2);
    machine.look(1);
    assert!(!machine.at.contains(&At::Ending(0)));
    assert_eq!(machine.sched.wake(task(0, 0), 0), CpuSet::EMPTY.with(0));
    machine.look(0);
    assert_eq!(machine.at[0], At::Ending(0));
    machine.stop(0);
    machine.settle();
    assert_eq!(machine.at.iter().filter(|at| **at == At::Ending(0)).count(), 1);
    assert!(machine.sched.is_empty());
}

#[test]
fn a_vm_that_sleeps_is_ended_by_an_idle_cpu() {
    let mut machine = Machine::new(2);
    machine.sched.add(0, 2);
    machine.stop(0);
    machine.settle();
    assert_eq!(machine.at.iter().filter(|at| **at == At::Ending(0)).count(), 1);
}

#[test]
fn while_a_cpu_ends_a_vm_the_others_look_after_its_tasks_and_timers() {
    let mut machine = Machine::new(2);
    machine.start(0, 1);
    machine.start(1, 1);
    machine.settle();
    machine.start(2, 1);
    machine.settle();
    // VM 3 waits for a time on CPU 0.
    machine.start(4, 1);
    let at = machine.at.clone();
    let At::Running(sleeper, _) = at[0] else { panic!("{at:?}") };
    machine.block(0, Some(1000));
    let At::Running(last, _) = machine.at[0] else { panic!("{:?}", machine.at) };
    machine.stop(last.vm);
    machine.look(0);
    assert_eq!(machine.at[0], At::Ending(last.vm));
    let seen = machine.pass(20, 100);
    assert!(seen.contains_key(&sleeper), "{seen:?}");
    assert_eq!(machine.at[0], At::Ending(last.vm));
    assert_eq!(seen.len(), 3);
}

#[test]
fn numbers_that_do_not_exist_change_nothing() {
    let mut sched = Scheduler::new(2, SLICE);
    let before = sched.clone();
    assert_eq!(sched.wake(task(9, 9), 0), CpuSet::EMPTY);
    assert_eq!(sched.stop(9), CpuSet::EMPTY);
    assert_eq!(sched.next(2, 0), (Next::Idle(None), CpuSet::EMPTY));
    assert_eq!(sched.check(7, 0), (Stay::Leave, CpuSet::EMPTY));
    sched.block(0, Some(1), 0);
    sched.release(5, true, 0);
    assert_eq!(sched, before);
}
