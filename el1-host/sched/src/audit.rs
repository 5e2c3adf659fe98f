//! The invariants, as a check that tests run after every step.

use alloc::format;
use alloc::string::String;

use crate::queues::{Cpu, Duty};
use crate::scheduler::State;
use crate::{CpuSet, Scheduler};

impl Scheduler {
    /// Checks I1, I2 and I4. `told`: CPUs that were interrupted and have not asked `next` since.
    ///
    /// # Errors
    /// What is wrong.
    pub fn audit(&self, told: CpuSet) -> Result<(), String> {
        for (task, record) in &self.tasks {
            let here = |(n, cpu): (usize, &Cpu)| {
                let runs = matches!(cpu.duty, Duty::Running { task: other, .. } if other == *task);
                let waits = cpu.ready.contains(&(record.had, *task));
                let queued = cpu.ready.iter().filter(|(_, other)| other == task).count();
                let timed = cpu.timers.iter().filter(|(_, other)| other == task).count();
                let home = n == record.home;
                let right = match record.state {
                    State::Running => runs == home && queued == 0 && timed == 0,
                    State::Ready => {
                        waits == home && queued == usize::from(home) && timed == 0 && !runs
                    }
                    State::Blocked(until) => {
                        let wanted = usize::from(home && until.is_some());
                        timed == wanted && queued == 0 && !runs
                    }
                };
                right.then_some(())
            };
            let right = self.cpus.iter().enumerate().try_for_each(here);
            right.ok_or_else(|| format!("{task:?} is not where {record:?} says (I1)"))?;
        }
        for (n, cpu) in self.cpus.iter().enumerate() {
            let mut named = cpu.ready.iter().chain(&cpu.timers).map(|(_, task)| task);
            if !named.all(|task| self.tasks.contains_key(task)) {
                return Err(format!("CPU {n} names a task that does not exist (I1)"));
            }
            if let Duty::Running { task, .. } = cpu.duty
                && !self.tasks.contains_key(&task)
            {
                return Err(format!("CPU {n} runs {task:?}, which does not exist (I1)"));
            }
        }
        // A queue of a CPU that is about to ask `next` does not wait.
        let waits = |cpu: &Cpu| cpu.duty != Duty::Idle && !cpu.ready.is_empty();
        let told = |n| told.iter().any(|other| other == n);
        let idle = self.cpus.iter().enumerate().find(|(n, cpu)| cpu.is_idle() && !told(*n));
        if let Some((n, _)) = idle
            && self.cpus.iter().any(waits)
        {
            return Err(format!("CPU {n} idles while a task waits (I2)"));
        }
        match self.ended.iter().find(|vm| self.tasks.keys().any(|task| task.vm == **vm)) {
            Some(vm) => Err(format!("VM {vm} has ended and still has tasks (I4)")),
            None => Ok(()),
        }
    }
}
