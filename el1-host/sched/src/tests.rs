//! Whole machines of CPUs that follow the protocol, with an audit after every step.

mod fairness;
mod interleavings;
mod random;
mod rules;

use crate::scheduler::State;
use crate::{CpuSet, Next, Scheduler, Stay, Task};

pub(crate) const SLICE: u64 = 100;

/// Miri looks for undefined behaviour, which shows in few steps; how fair they are does not.
pub(crate) const fn steps(usual: u64) -> u64 {
    if cfg!(miri) { usual / 100 } else { usual }
}

pub(crate) fn task(vm: usize, vcpu: usize) -> Task {
    Task { vm, vcpu }
}

/// What a simulated CPU is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Idle(Option<u64>),
    Running(Task, u64),
    Ending(usize),
}

/// CPUs around a scheduler; interrupts are remembered until their CPU looks.
pub(crate) struct Machine {
    pub sched: Scheduler,
    pub at: Vec<At>,
    pub kicked: CpuSet,
    pub now: u64,
}

impl Machine {
    pub fn new(cpus: usize) -> Self {
        let at = vec![At::Idle(None); cpus];
        let mut machine =
            Self { sched: Scheduler::new(cpus, SLICE), at, kicked: CpuSet::EMPTY, now: 0 };
        (0..cpus).for_each(|cpu| machine.next(cpu));
        machine
    }

    pub fn audit(&self) {
        self.sched.audit(self.kicked).unwrap_or_else(|why| panic!("{why}: {:#?}", self.sched));
        self.audit_clocks();
    }

    /// I5: no deadline is forgotten. Some CPU has set its timer to it or is about to look, unless all are
    /// busy with the ends of VMs and will look after that.
    fn audit_clocks(&self) {
        let mut kicked = self.kicked;
        let looks_by = |(cpu, at): (usize, &At)| match at {
            At::Ending(_) => None,
            _ if kicked.remove(cpu) => Some(0),
            At::Idle(until) => Some(until.unwrap_or(u64::MAX)),
            At::Running(_, until) => Some(*until),
        };
        let Some(looks) = self.at.iter().enumerate().filter_map(looks_by).min() else { return };
        for (task, record) in &self.sched.tasks {
            if let State::Blocked(Some(at)) = record.state {
                assert!(
                    looks <= at,
                    "nobody wakes {task:?} at {at}: {:?} {:#?}",
                    self.at,
                    self.sched
                );
            }
        }
    }

    pub fn next(&mut self, cpu: usize) {
        self.kicked.remove(cpu);
        let (next, kicks) = self.sched.next(cpu, self.now);
        self.kicked.add(kicks);
        self.at[cpu] = match next {
            Next::Run(task, until) => At::Running(task, until),
            Next::Idle(until) => At::Idle(until),
            Next::End(vm) => At::Ending(vm),
        };
        self.audit();
    }

    pub fn wake(&mut self, task: Task) {
        let kicks = self.sched.wake(task, self.now);
        self.kicked.add(kicks);
        self.audit();
    }

    pub fn stop(&mut self, vm: usize) {
        let kicks = self.sched.stop(vm);
        self.kicked.add(kicks);
        self.audit();
    }

    /// Adds a VM and wakes all its vCPUs.
    pub fn start(&mut self, vm: usize, vcpus: usize) {
        self.sched.add(vm, vcpus);
        (0..vcpus).for_each(|vcpu| self.wake(task(vm, vcpu)));
    }

    /// The CPU takes its interrupts.
    pub fn look(&mut self, cpu: usize) {
        match self.at[cpu] {
            At::Idle(_) => self.next(cpu),
            At::Ending(_) => {}
            At::Running(task, _) => {
                self.kicked.remove(cpu);
                let (stay, kicks) = self.sched.check(cpu, self.now);
                self.kicked.add(kicks);
                match stay {
                    Stay::Until(until) => self.at[cpu] = At::Running(task, until),
                    Stay::Leave => {
                        self.sched.release(cpu, false, self.now);
                        self.next(cpu);
                    }
                }
            }
        }
        self.audit();
    }

    pub fn block(&mut self, cpu: usize, until: Option<u64>) {
        self.sched.block(cpu, until, self.now);
        self.next(cpu);
    }

    /// Interrupts and timers until nothing happens at this moment any more.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let due = |at: &At| match at {
                At::Idle(until) => until.is_some_and(|at| at <= self.now),
                At::Running(_, until) => *until <= self.now,
                At::Ending(_) => false,
            };
            let mut kicked = self.kicked;
            let busy = |cpu: &usize| matches!(self.at[*cpu], At::Ending(_));
            let first = (0..self.at.len())
                .find(|cpu| !busy(cpu) && (due(&self.at[*cpu]) || kicked.remove(*cpu)));
            let Some(cpu) = first else { return };
            self.look(cpu);
        }
        panic!("it never settles: {:?} {:#?}", self.at, self.sched);
    }

    /// Lets time pass in steps; answers how often each task was seen to run.
    pub fn pass(&mut self, steps: u64, step: u64) -> std::collections::BTreeMap<Task, u64> {
        let mut ran = std::collections::BTreeMap::new();
        for _ in 0..steps {
            self.now += step;
            self.settle();
            for at in &self.at {
                if let At::Running(task, _) = at {
                    *ran.entry(*task).or_insert(0) += step;
                }
            }
        }
        ran
    }

    pub fn running(&self) -> Vec<Task> {
        let tasks = self.at.iter().filter_map(|at| match at {
            At::Running(task, _) => Some(*task),
            _ => None,
        });
        tasks.collect()
    }
}
