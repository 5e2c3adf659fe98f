//! What a CPU has: its duty, the tasks that wait for it, the tasks whose time will come on it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::Task;

/// What a CPU does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Duty {
    /// It does not take part: not up yet, or busy with the end of a VM.
    #[default]
    Away,
    /// It runs nothing, or is about to ask what to run.
    Idle,
    /// It runs this task.
    Running {
        /// Which.
        task: Task,
        /// It is paid up to here.
        since: u64,
        /// Its slice ends.
        end: u64,
    },
}

/// One CPU. Both sets are ordered, so that the first element is the one that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Cpu {
    pub duty: Duty,
    /// Ready tasks, by the time they have had.
    pub ready: BTreeSet<(u64, Task)>,
    /// Blocked tasks, by the time at which they wake.
    pub timers: BTreeSet<(u64, Task)>,
}

impl Cpu {
    /// It sleeps, or will as soon as it asks: nothing to run, nothing in its queue.
    pub fn is_idle(&self) -> bool {
        self.duty == Duty::Idle && self.ready.is_empty()
    }

    /// It takes part.
    pub fn is_here(&self) -> bool {
        self.duty != Duty::Away
    }

    /// Whether a task of its queue would run sooner elsewhere.
    pub fn can_spare(&self) -> bool {
        self.duty != Duty::Idle || self.ready.len() > 1
    }

    /// Tasks that it runs or will run.
    pub fn load(&self) -> usize {
        let running = usize::from(matches!(self.duty, Duty::Running { .. }));
        self.ready.len().saturating_add(running)
    }
}

/// The ready task that has had least, and whose queue it is in, among the CPUs that are `fit`.
pub(crate) fn poorest(cpus: &[Cpu], fit: impl Fn(&Cpu) -> bool) -> Option<(u64, Task, usize)> {
    let firsts = cpus.iter().enumerate().filter(|(_, cpu)| fit(cpu)).filter_map(|(n, cpu)| {
        let (had, task) = cpu.ready.first()?;
        Some((*had, *task, n))
    });
    firsts.min()
}

/// So many CPUs that have nothing.
pub(crate) fn blank(n: usize) -> Vec<Cpu> {
    (0..n).map(|_| Cpu::default()).collect()
}
