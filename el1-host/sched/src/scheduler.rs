//! The decisions.
//!
//! Each task carries the CPU time it has had. A CPU runs the task of its queue that has had least, for
//! a slice. A CPU without work takes the poorest task from the others' queues; at the end of a slice
//! it does so too if one has fallen behind by [`LAG`] slices, which makes time equal across CPUs as
//! well (three busy tasks on two CPUs take turns). A task that wakes counts as having had at most one
//! slice less than the poorest that runs: sleeping saves no time up, and what sleeps much runs at
//! once when it wakes.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::queues::{Cpu, Duty, blank, poorest};
use crate::{CpuSet, Task};

/// Slices that a ready task may fall behind one that runs on another CPU before it is taken there.
const LAG: u64 = 2;

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Run this task; look again (`check`) at this time at the latest.
    Run(Task, u64),
    /// Nothing: sleep until this time, or until interrupted.
    Idle(Option<u64>),
    /// All vCPUs of this VM have stopped, and it is this CPU's to end. Other CPUs take over whatever
    /// waits for this one until it asks `next` again.
    End(usize),
}

/// Whether a CPU goes on with its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stay {
    /// It does; look again at this time at the latest.
    Until(u64),
    /// It does not: unload the vCPU, `release` the task, ask `next`.
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// It waits to be woken, perhaps by time; its timer is on its home CPU.
    Blocked(Option<u64>),
    /// It is in the queue of its home CPU.
    Ready,
    /// It runs on its home CPU.
    Running,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub state: State,
    /// The CPU it belongs to; blocked, the one it ran on last.
    pub home: usize,
    /// CPU time it has had, or counts as having had.
    pub had: u64,
    /// Woken while it ran.
    pub woken: bool,
}

/// All tasks and all CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scheduler {
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) tasks: BTreeMap<Task, Record>,
    slice: u64,
    /// Nobody who runs has had less. Never goes back.
    floor: u64,
    /// VMs that are to stop, and have tasks that run.
    pub(crate) stopping: BTreeSet<usize>,
    /// VMs whose tasks have all stopped.
    pub(crate) ended: BTreeSet<usize>,
}

impl Scheduler {
    /// A scheduler for CPUs `0..cpus`; each takes part from its first `next` on. `slice`: how long a task
    /// runs while others wait.
    #[must_use]
    pub fn new(cpus: usize, slice: u64) -> Self {
        Self {
            cpus: blank(cpus.min(CpuSet::MAX)),
            tasks: BTreeMap::new(),
            slice: slice.max(1),
            floor: 0,
            stopping: BTreeSet::new(),
            ended: BTreeSet::new(),
        }
    }

    /// Whether no VM is left: all have been handed out to be ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.ended.is_empty()
    }

    /// Adds a VM whose vCPUs are all blocked (or off, which is the same here).
    pub fn add(&mut self, vm: usize, vcpus: usize) {
        for vcpu in 0..vcpus {
            let home = vm.wrapping_add(vcpu).checked_rem(self.cpus.len()).unwrap_or(0);
            let record = Record { state: State::Blocked(None), home, had: 0, woken: false };
            self.tasks.insert(Task { vm, vcpu }, record);
        }
    }

    /// A task has something to do. Interrupt the answer's CPUs.
    pub fn wake(&mut self, task: Task, now: u64) -> CpuSet {
        let mut kicks = CpuSet::EMPTY;
        let Some(record) = self.tasks.get_mut(&task) else { return kicks };
        match record.state {
            State::Ready => {}
            State::Running => {
                record.woken = true;
                kicks.insert(record.home);
            }
            State::Blocked(until) => {
                let home = record.home;
                if let (Some(at), Some(cpu)) = (until, self.cpus.get_mut(home)) {
                    cpu.timers.remove(&(at, task));
                }
                self.rise();
                let least = self.floor.saturating_sub(self.slice);
                self.place(task, least, now, &mut kicks);
            }
        }
        kicks
    }

    /// What this CPU does next; it runs nothing now.
    pub fn next(&mut self, cpu: usize, now: u64) -> (Next, CpuSet) {
        let mut kicks = CpuSet::EMPTY;
        let Some(this) = self.cpus.get_mut(cpu) else { return (Next::Idle(None), kicks) };
        this.duty = Duty::Idle;
        self.expire(cpu, now, &mut kicks);
        if let Some(vm) = self.ended.pop_first() {
            self.depart(cpu, now, &mut kicks);
            return (Next::End(vm), kicks);
        }
        let next = match self.choose(cpu) {
            None => Next::Idle(self.first_timer(cpu)),
            Some((had, task, from)) => {
                let end = now.saturating_add(self.slice);
                if let Some(queue) = self.cpus.get_mut(from) {
                    queue.ready.remove(&(had, task));
                }
                if let Some(record) = self.tasks.get_mut(&task) {
                    (record.state, record.home, record.woken) = (State::Running, cpu, false);
                }
                if let Some(this) = self.cpus.get_mut(cpu) {
                    this.duty = Duty::Running { task, since: now, end };
                }
                Next::Run(task, self.look(cpu, end))
            }
        };
        self.spread(&mut kicks);
        (next, kicks)
    }

    /// Whether this CPU goes on with the task that it runs. It must look for what may have woken the
    /// task after this, not before.
    pub fn check(&mut self, cpu: usize, now: u64) -> (Stay, CpuSet) {
        let mut kicks = CpuSet::EMPTY;
        self.expire(cpu, now, &mut kicks);
        let had = self.pay(cpu, now);
        let Some(Duty::Running { task, since, end }) = self.cpus.get(cpu).map(|c| c.duty) else {
            return (Stay::Leave, kicks);
        };
        if self.stopping.contains(&task.vm) || !self.ended.is_empty() {
            return (Stay::Leave, kicks);
        }
        let over = now >= end;
        let own = self.cpus.get(cpu).and_then(|c| c.ready.first()).map(|(least, _)| *least);
        let own_first = own.is_some_and(|least| self.is_urgent(least, had) || over && least <= had);
        if own_first || over && self.far_behind(had).is_some() {
            return (Stay::Leave, kicks);
        }
        if let Some(record) = self.tasks.get_mut(&task) {
            record.woken = false;
        }
        let end = if over { now.saturating_add(self.slice) } else { end };
        if let Some(this) = self.cpus.get_mut(cpu) {
            this.duty = Duty::Running { task, since, end };
        }
        (Stay::Until(self.look(cpu, end)), kicks)
    }

    /// The task of this CPU, unloaded already, waits to be woken, at `until` at the latest. Ask `next`.
    pub fn block(&mut self, cpu: usize, until: Option<u64>, now: u64) {
        let Some(task) = self.take_off(cpu, now) else { return };
        let Some(record) = self.tasks.get_mut(&task) else { return };
        let Some(this) = self.cpus.get_mut(cpu) else { return };
        if record.woken {
            record.state = State::Ready;
            this.ready.insert((record.had, task));
        } else {
            record.state = State::Blocked(until);
            this.timers.extend(until.map(|at| (at, task)));
        }
    }

    /// The task of this CPU, unloaded already, wants to go on later. `behind`: after the others that wait
    /// for this CPU, because it gives its time away. Ask `next`.
    pub fn release(&mut self, cpu: usize, behind: bool, now: u64) {
        let Some(task) = self.take_off(cpu, now) else { return };
        let Some(record) = self.tasks.get_mut(&task) else { return };
        let Some(this) = self.cpus.get_mut(cpu) else { return };
        // Behind all of them: it may wait for something that any of them must do first, and those
        // who wait for the same would otherwise only make way for each other.
        if behind && let Some((most, _)) = this.ready.last() {
            record.had = record.had.max(most.saturating_add(1));
        }
        record.state = State::Ready;
        this.ready.insert((record.had, task));
    }

    /// Whether giving its time away would let another task run on this CPU.
    #[must_use]
    pub fn has_others(&self, cpu: usize) -> bool {
        self.cpus.get(cpu).is_some_and(|this| !this.ready.is_empty())
    }

    /// Stops all vCPUs of a VM. Those that run are gone once their CPUs have released them; then some
    /// CPU's `next` says that the VM is to be ended.
    pub fn stop(&mut self, vm: usize) -> CpuSet {
        let mut kicks = CpuSet::EMPTY;
        let of_it: Vec<Task> = self.of(vm).collect();
        if of_it.is_empty() {
            return kicks;
        }
        self.stopping.insert(vm);
        for task in of_it {
            let Some(record) = self.tasks.get(&task) else { continue };
            if record.state == State::Running {
                kicks.insert(record.home);
                continue;
            }
            if let Some(cpu) = self.cpus.get_mut(record.home) {
                cpu.ready.remove(&(record.had, task));
                if let State::Blocked(Some(at)) = record.state {
                    cpu.timers.remove(&(at, task));
                }
            }
            self.tasks.remove(&task);
        }
        self.settle(vm);
        if !self.ended.is_empty()
            && let Some(idle) = self.cpus.iter().position(Cpu::is_idle)
        {
            kicks.insert(idle);
        }
        kicks
    }

    fn of(&self, vm: usize) -> impl Iterator<Item = Task> {
        let (first, last) = (Task { vm, vcpu: 0 }, Task { vm, vcpu: usize::MAX });
        self.tasks.range(first..=last).map(|(task, _)| *task)
    }

    /// A stopping VM without tasks has ended.
    fn settle(&mut self, vm: usize) {
        if self.of(vm).next().is_none() && self.stopping.remove(&vm) {
            self.ended.insert(vm);
        }
    }

    /// Takes the running task off a CPU; `None` if it had none or it is to stop.
    fn take_off(&mut self, cpu: usize, now: u64) -> Option<Task> {
        self.pay(cpu, now);
        let this = self.cpus.get_mut(cpu)?;
        let Duty::Running { task, .. } = this.duty else { return None };
        this.duty = Duty::Idle;
        if self.stopping.contains(&task.vm) {
            self.tasks.remove(&task);
            self.settle(task.vm);
            return None;
        }
        Some(task)
    }

    /// Counts the time that has passed as had by the running task; answers what it has had.
    fn pay(&mut self, cpu: usize, now: u64) -> u64 {
        let mut had = 0;
        if let Some(this) = self.cpus.get_mut(cpu)
            && let Duty::Running { task, since, .. } = &mut this.duty
            && let Some(record) = self.tasks.get_mut(task)
        {
            record.had = record.had.saturating_add(now.saturating_sub(*since));
            *since = now.max(*since);
            had = record.had;
        }
        self.rise();
        had
    }

    /// Raises the floor to the least that any task which is ready or runs has had.
    fn rise(&mut self) {
        let running = self.cpus.iter().filter_map(|cpu| match cpu.duty {
            Duty::Running { task, .. } => self.tasks.get(&task).map(|record| record.had),
            _ => None,
        });
        let ready = poorest(&self.cpus, |_| true).map(|(had, ..)| had);
        self.floor = running.chain(ready).min().unwrap_or(0).max(self.floor);
    }

    /// When a CPU that runs must look again.
    fn look(&self, cpu: usize, end: u64) -> u64 {
        self.first_timer(cpu).map_or(end, |at| at.min(end))
    }

    /// CPUs whose timers this CPU sets its own timer for: itself, and those that are away.
    fn wards(&self, cpu: usize) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().enumerate().filter(move |(n, c)| *n == cpu || !c.is_here()).map(|(_, c)| c)
    }

    fn first_timer(&self, cpu: usize) -> Option<u64> {
        self.wards(cpu).filter_map(|c| c.timers.first()).map(|(at, _)| *at).min()
    }

    /// A ready task that has had so much less than the running one need not wait for its slice's end.
    const fn is_urgent(&self, least: u64, had: u64) -> bool {
        least.saturating_add(self.slice / 2) < had
    }

    /// The poorest ready task anywhere, if it has had much less than `had`.
    fn far_behind(&self, had: u64) -> Option<(u64, Task, usize)> {
        let lag = self.slice.saturating_mul(LAG);
        poorest(&self.cpus, |_| true).filter(|(least, ..)| least.saturating_add(lag) <= had)
    }

    /// The task that a CPU without one runs: of its own queue, unless another is far behind; of any
    /// queue if its own is empty.
    fn choose(&self, cpu: usize) -> Option<(u64, Task, usize)> {
        let own = self.cpus.get(cpu).and_then(|this| this.ready.first());
        match own {
            None => poorest(&self.cpus, |_| true),
            Some((had, task)) => self.far_behind(*had).or(Some((*had, *task, cpu))),
        }
    }

    /// Wakes the blocked tasks whose time has come, as far as that is this CPU's to do.
    fn expire(&mut self, cpu: usize, now: u64, kicks: &mut CpuSet) {
        while let Some(task) = self.due(cpu, now) {
            kicks.add(self.wake(task, now));
        }
    }

    fn due(&self, cpu: usize, now: u64) -> Option<Task> {
        let mut firsts = self.wards(cpu).filter_map(|c| c.timers.first());
        firsts.find(|(at, _)| *at <= now).map(|(_, task)| *task)
    }

    /// Puts a task that is in no queue into one: its home's if that CPU idles, any idle CPU's, else its
    /// home's. It counts as having had `least` at least.
    fn place(&mut self, task: Task, least: u64, now: u64, kicks: &mut CpuSet) {
        let Some(record) = self.tasks.get_mut(&task) else { return };
        let home = self.cpus.get(record.home);
        let target = if home.is_some_and(Cpu::is_idle) {
            record.home
        } else if let Some(idle) = self.cpus.iter().position(Cpu::is_idle) {
            idle
        } else if home.is_some_and(Cpu::is_here) {
            record.home
        } else {
            // Its home is away: the least busy of the others, and if all are, the first to be back.
            let here = self.cpus.iter().enumerate().filter(|(_, cpu)| cpu.is_here());
            here.min_by_key(|(_, cpu)| cpu.load()).map_or(record.home, |(n, _)| n)
        };
        let Some(cpu) = self.cpus.get_mut(target) else { return };
        record.had = record.had.max(least);
        (record.state, record.home) = (State::Ready, target);
        let had = record.had;
        cpu.ready.insert((had, task));
        let urgent = match cpu.duty {
            Duty::Idle => true,
            Duty::Away => false,
            Duty::Running { task: other, since, .. } => {
                let paid = self.tasks.get(&other).map_or(0, |other| other.had);
                self.is_urgent(had, paid.saturating_add(now.saturating_sub(since)))
            }
        };
        if urgent {
            kicks.insert(target);
        }
    }

    /// Gives idle CPUs what waits in the queues of others. A CPU that is about to ask keeps one.
    fn spread(&mut self, kicks: &mut CpuSet) {
        while let Some(idle) = self.cpus.iter().position(Cpu::is_idle)
            && let Some((had, task, from)) = poorest(&self.cpus, Cpu::can_spare)
        {
            self.hand_over(task, had, from, idle);
            kicks.insert(idle);
        }
    }

    fn hand_over(&mut self, task: Task, had: u64, from: usize, to: usize) {
        if let Some(cpu) = self.cpus.get_mut(from) {
            cpu.ready.remove(&(had, task));
        }
        if let Some(record) = self.tasks.get_mut(&task)
            && let Some(cpu) = self.cpus.get_mut(to)
        {
            record.home = to;
            cpu.ready.insert((had, task));
        }
    }

    /// A CPU does not take part for a while: the others look after its tasks, if there are others.
    fn depart(&mut self, cpu: usize, now: u64, kicks: &mut CpuSet) {
        let Some(this) = self.cpus.get_mut(cpu) else { return };
        this.duty = Duty::Away;
        let ready = core::mem::take(&mut this.ready);
        for (had, task) in ready {
            self.place(task, had, now, kicks);
        }
        // One of them must set its timer anew, to what `first_timer` says now.
        let here = self.cpus.iter().enumerate().filter(|(_, other)| other.is_here());
        if let Some((heir, _)) = here.min_by_key(|(_, other)| other.load()) {
            kicks.insert(heir);
        }
    }
}
