//! Every interleaving of two or three CPUs at one lock, and of its weak orderings, by loom.
//!
//! `cargo xtask loom` runs these. Each model is a function of the lock's [`Flaw`]: it passes with
//! the sound lock and must fail with each broken one, or it would show nothing.

use std::sync::Arc;

use loom::model::Builder;
use loom::thread;

use crate::rank::{Console, Host, Pool, Vm};
use crate::turns::Flaw;
use crate::{Held, Lock};

/// Explores `model`; with more than two CPUs only schedules of at most one preemption (and every
/// switch while one waits): with more, loom lets two waiting CPUs take turns at spinning for ever.
fn explore(threads: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    if threads > 2 {
        builder.preemption_bound = Some(1);
    }
    builder.check(model);
}

/// Each CPU adds one.
fn counting(cpus: usize, flaw: Flaw) {
    explore(cpus, move || {
        let counter = Arc::new(Lock::<usize, Pool>::flawed(0, flaw));
        let add = |counter: &Lock<usize, Pool>| {
            let mut nothing = Held::root();
            let (mut n, _held) = counter.lock(&mut nothing);
            *n += 1;
        };
        let others: Vec<_> = (1..cpus)
            .map(|_| {
                let counter = Arc::clone(&counter);
                thread::spawn(move || add(&counter))
            })
            .collect();
        add(&counter);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(*counter.lock(&mut Held::root()).0, cpus);
    });
}

/// One CPU moves a page from the host to a VM, another from the pool to a VM, as EL2 nests them.
/// Pages are neither lost nor made, and neither CPU waits for the other for ever.
fn nesting(flaw: Flaw) {
    explore(2, move || {
        let host = Arc::new(Lock::<usize, Host>::flawed(1, flaw));
        let vm = Arc::new(Lock::<usize, Vm>::flawed(0, flaw));
        let pool = Arc::new(Lock::<usize, Pool>::flawed(1, flaw));
        let other = {
            let (vm, pool) = (Arc::clone(&vm), Arc::clone(&pool));
            thread::spawn(move || {
                let mut nothing = Held::root();
                let (mut vm, mut held) = vm.lock(&mut nothing);
                let (mut pool, _) = pool.lock(&mut held);
                *pool -= 1;
                *vm += 1;
            })
        };
        let mut nothing = Held::root();
        {
            let (mut host, mut held) = host.lock(&mut nothing);
            let (mut vm, mut held) = vm.lock(&mut held);
            let (pool, _) = pool.lock(&mut held);
            assert_eq!(*host + *vm + *pool, 2);
            *host -= 1;
            *vm += 1;
        }
        other.join().unwrap();
        assert_eq!(*vm.lock(&mut nothing).0, 2);
    });
}

/// A panicking CPU looks at the console while another writes a line of two words.
fn looking(flaw: Flaw) {
    explore(2, move || {
        let console = Arc::new(Lock::<(u8, u8), Console>::flawed((0, 0), flaw));
        let writer = {
            let console = Arc::clone(&console);
            thread::spawn(move || {
                console.with(|line| {
                    line.0 = 1;
                    thread::yield_now();
                    line.1 = 1;
                });
            })
        };
        if let Some((first, second)) = console.try_with(|line| *line) {
            assert_eq!(first, second);
        }
        writer.join().unwrap();
        assert_eq!(console.try_with(|line| *line), Some((1, 1)));
    });
}

macro_rules! noticed {
    ($($name:ident: $model:expr;)*) => { $(
        #[test]
        #[should_panic = "Causality violation"]
        fn $name() {
            $model;
        }
    )* };
}

#[test]
fn two_cpus_take_turns_and_see_what_the_other_wrote() {
    counting(2, Flaw::Sound);
}

#[test]
fn three_cpus_take_turns_and_see_what_the_others_wrote() {
    counting(3, Flaw::Sound);
}

#[test]
fn nested_locks_keep_what_spans_them_whole() {
    nesting(Flaw::Sound);
}

#[test]
fn a_held_leaf_shows_no_half_written_line() {
    looking(Flaw::Sound);
}

noticed! {
    without_the_lock_two_cpus_meet: counting(2, Flaw::Open);
    without_acquire_a_cpu_sees_old_data: counting(2, Flaw::NoAcquire);
    without_release_a_cpu_sees_old_data: counting(2, Flaw::NoRelease);
    without_the_lock_three_cpus_meet: counting(3, Flaw::Open);
    without_the_locks_nesting_protects_nothing: nesting(Flaw::Open);
    without_acquire_nesting_protects_nothing: nesting(Flaw::NoAcquire);
    without_release_nesting_protects_nothing: nesting(Flaw::NoRelease);
    without_the_lock_a_half_written_line_shows: looking(Flaw::Open);
    without_release_a_look_races: looking(Flaw::NoRelease);
}
