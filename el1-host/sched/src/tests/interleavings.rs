//! Every interleaving of a vCPU that is about to sleep with others that wake it.
//!
//! The scheduler is behind a lock, so one call is one step; between the calls of one CPU any steps of
//! the others may come. What a wake-up is about (an interrupt that is pending) is a flag outside the
//! scheduler, as it is in host-vmm: set before `wake`, looked at before sleeping.

use std::collections::HashSet;

use super::{SLICE, task};
use crate::{CpuSet, Next, Scheduler, Stay};

const SLEEPER: usize = 0;

/// The program of a CPU: where it is in the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pc {
    /// About to ask what to run.
    Ask,
    /// Has the sleeper; about to look for interrupts and run it.
    Look,
    /// It has run, and waits: unloaded, about to say so.
    Block,
    /// It has been interrupted; about to ask whether to go on.
    Check,
    /// Sleeps, or runs the guest, until interrupted.
    Asleep,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    sched: Scheduler,
    cpus: [Pc; 2],
    kicked: CpuSet,
    /// Interrupts the sleeper has pending, and has taken.
    pending: bool,
    taken: u8,
    /// What the waker still has to do: two steps a wake-up.
    waker: u8,
}

impl World {
    /// The waker: makes an interrupt pending, then tells the scheduler.
    fn waker(&mut self) {
        if self.waker.is_multiple_of(2) {
            self.pending = true;
        } else {
            let kicks = self.sched.wake(task(0, SLEEPER), 1);
            self.kicked.add(kicks);
        }
        self.waker -= 1;
    }

    fn step(&mut self, cpu: usize) {
        let kicks = match self.cpus[cpu] {
            Pc::Ask => {
                let (next, kicks) = self.sched.next(cpu, 1);
                self.cpus[cpu] = match next {
                    Next::Run(..) => Pc::Look,
                    Next::Idle(_) => Pc::Asleep,
                    Next::End(_) => panic!("nothing ends"),
                };
                kicks
            }
            Pc::Look => {
                // Takes what is pending. Without any it sleeps at once.
                self.cpus[cpu] = if self.pending { Pc::Look } else { Pc::Block };
                self.taken += u8::from(core::mem::take(&mut self.pending));
                if self.kicked.remove(cpu) {
                    self.cpus[cpu] = Pc::Check;
                }
                CpuSet::EMPTY
            }
            Pc::Check => {
                let (stay, kicks) = self.sched.check(cpu, 1);
                if stay == Stay::Leave {
                    self.sched.release(cpu, false, 1);
                    self.cpus[cpu] = Pc::Ask;
                } else {
                    self.cpus[cpu] = Pc::Look;
                }
                kicks
            }
            Pc::Block => {
                self.sched.block(cpu, None, 1);
                self.cpus[cpu] = Pc::Ask;
                CpuSet::EMPTY
            }
            Pc::Asleep => {
                self.kicked.remove(cpu);
                self.cpus[cpu] = Pc::Ask;
                CpuSet::EMPTY
            }
        };
        self.kicked.add(kicks);
    }

    fn can_step(&self, cpu: usize) -> bool {
        let mut kicked = self.kicked;
        self.cpus[cpu] != Pc::Asleep || kicked.remove(cpu)
    }
}

/// Visits every state that can be reached; answers how many, and how many of them are final.
fn explore(wakes: u8) -> (usize, usize) {
    let mut sched = Scheduler::new(2, SLICE);
    sched.add(0, 1);
    assert_eq!(sched.wake(task(0, SLEEPER), 0), CpuSet::EMPTY);
    let first = World {
        sched,
        cpus: [Pc::Ask; 2],
        kicked: CpuSet::EMPTY,
        pending: false,
        taken: 0,
        waker: wakes * 2,
    };
    let (mut seen, mut open) = (HashSet::new(), vec![first]);
    let mut ends = 0;
    while let Some(world) = open.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        let mut stuck = true;
        if world.waker > 0 {
            let mut next = world.clone();
            next.waker();
            open.push(next);
            stuck = false;
        }
        for cpu in 0..2 {
            if world.can_step(cpu) {
                let mut next = world.clone();
                next.step(cpu);
                open.push(next);
                stuck = false;
            }
        }
        if stuck {
            ends += 1;
            assert!(!world.pending, "a wake-up is lost: {:?} {:#?}", world.cpus, world.sched);
            assert!(world.taken > 0 || wakes == 0);
        }
    }
    (seen.len(), ends)
}

#[test]
fn no_wake_up_is_lost_in_any_interleaving() {
    let most = if cfg!(miri) { 1 } else { 3 };
    let sizes: Vec<(usize, usize)> = (0..=most).map(explore).collect();
    assert!(sizes.iter().all(|(_, ends)| *ends > 0), "{sizes:?}");
    assert!(cfg!(miri) || sizes[3].0 > 500, "{sizes:?}");
}
