//! Which of the machine's CPUs run for the host: their power states, as PSCI names them (DEN0022 6.6).
//!
//! Knows: the CPUs that EL2 may run on, what each does, and where one that comes up shall begin.
//! Must not know: how to reach the firmware, or whose memory an entry point is in.
//!
//! Every change is one call under one lock (rank: power, a leaf), and the firmware is called between
//! two of them: `begin_*` claims a state that nobody else will take, then the firmware is asked, and
//! `cancel_*` gives the claim back if it refuses. A CPU that does come up says so itself (`arrive`).
//!
//! Invariants:
//! - I1: a CPU has one number for good, below [`MAX_CPUS`]; the boot CPU's is 0. One without number
//!   can never be started.
//! - I2: at any time at least one CPU is neither off nor unfit.
//! - I3: a CPU that comes up without anybody having asked for it gets no entry point.

use crate::psci::{MPIDR_AFFINITY, status};
use crate::vm::MAX_CPUS;

/// Where a CPU begins at EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its first instruction.
    pub entry: u64,
    /// Its x0.
    pub context: u64,
}

/// What a CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is off, or on its way.
    Off,
    /// CPU number `by` is starting it.
    Pending { by: usize, start: Start },
    /// It runs.
    On,
    /// It asked to lose its state until an interrupt comes.
    Suspended(Start),
    /// It came up and cannot do what the boot CPU can: it waits in EL2 for ever.
    Unfit,
}

#[derive(Clone, Copy, Debug)]
struct Cpu {
    /// Affinity bits of its MPIDR.
    mpidr: u64,
    state: State,
}

/// The power state of every CPU that EL2 may run on.
#[derive(Clone, Debug)]
pub struct Power {
    cpus: [Option<Cpu>; MAX_CPUS],
}

/// How an AFFINITY_INFO is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// By EL2.
    Answer(u64),
    /// It is this CPU, which is off or on its way: who turned it off knows more.
    Off(usize),
}

/// AFFINITY_INFO: on.
const ON: u64 = 0;
/// AFFINITY_INFO: off.
pub const OFF: u64 = 1;
/// AFFINITY_INFO: being started.
const ON_PENDING: u64 = 2;

impl Power {
    /// The boot CPU runs, `others` are off. MPIDRs may have all their bits; a CPU named twice
    /// counts once, and those beyond [`MAX_CPUS`] not at all.
    pub fn new(boot: u64, others: impl IntoIterator<Item = u64>) -> Self {
        let mut power = Self { cpus: [None; MAX_CPUS] };
        power.add(boot, State::On);
        others.into_iter().for_each(|mpidr| power.add(mpidr, State::Off));
        power
    }

    fn add(&mut self, mpidr: u64, state: State) {
        let mpidr = mpidr & MPIDR_AFFINITY;
        if self.number(mpidr).is_none()
            && let Some(free) = self.cpus.iter_mut().find(|cpu| cpu.is_none())
        {
            *free = Some(Cpu { mpidr, state });
        }
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cpus.iter().flatten().count()
    }

    /// Number of the CPU that `target` names, which has affinity bits only.
    #[must_use]
    pub fn number(&self, target: u64) -> Option<usize> {
        self.cpus.iter().position(|cpu| cpu.is_some_and(|cpu| cpu.mpidr == target))
    }

    /// Affinity bits of CPU `number`.
    #[must_use]
    pub fn mpidr(&self, number: usize) -> Option<u64> {
        self.cpus.get(number).copied().flatten().map(|cpu| cpu.mpidr)
    }

    fn state(&mut self, number: usize) -> Option<&mut State> {
        self.cpus.get_mut(number)?.as_mut().map(|cpu| &mut cpu.state)
    }

    /// CPU `by` wants to start the CPU `target`; `reachable`: the host could fetch from `start.entry`
    /// itself. Answers the number of the CPU that the firmware is to be asked for.
    ///
    /// # Errors
    /// The status that CPU_ON returns.
    pub fn begin_on(
        &mut self,
        by: usize,
        target: u64,
        start: Start,
        reachable: bool,
    ) -> Result<usize, u64> {
        let number = self.number(target).ok_or(status::INVALID_PARAMETERS)?;
        let state = self.state(number).ok_or(status::INVALID_PARAMETERS)?;
        match state {
            State::On | State::Suspended(_) => Err(status::ALREADY_ON),
            State::Pending { .. } => Err(status::ON_PENDING),
            State::Unfit => Err(status::INTERNAL_FAILURE),
            State::Off if !reachable => Err(status::INVALID_ADDRESS),
            State::Off => {
                *state = State::Pending { by, start };
                Ok(number)
            }
        }
    }

    /// The firmware does not start CPU `number` for CPU `by`.
    pub fn cancel_on(&mut self, by: usize, number: usize) {
        if let Some(state) = self.state(number)
            && matches!(state, State::Pending { by: owner, .. } if *owner == by)
        {
            *state = State::Off;
        }
    }

    /// CPU `number` wants to be off.
    ///
    /// # Errors
    /// Denied: no other runs, and nobody would be left to start it, nor any other.
    pub fn begin_off(&mut self, number: usize) -> Result<(), u64> {
        let others = (0..MAX_CPUS).zip(&self.cpus).filter(|(n, _)| *n != number);
        let mut states = others.filter_map(|(_, cpu)| cpu.map(|cpu| cpu.state));
        // One that is just being started may yet fail to come: it does not count.
        if !states.any(|state| matches!(state, State::On | State::Suspended(_))) {
            return Err(status::DENIED);
        }
        if let Some(state) = self.state(number) {
            *state = State::Off;
        }
        Ok(())
    }

    /// The firmware did not turn CPU `number` off: it runs on. Says whether that could be noted: not
    /// while another CPU is starting it, which the firmware refuses in a moment, for it is on.
    #[must_use]
    pub fn cancel_off(&mut self, number: usize) -> bool {
        match self.state(number) {
            Some(State::Pending { .. }) => false,
            Some(state) => {
                *state = State::On;
                true
            }
            None => true,
        }
    }

    /// CPU `number` is about to lose its state, and wants to go on at `start`.
    pub fn begin_suspend(&mut self, number: usize, start: Start) {
        if let Some(state) = self.state(number) {
            *state = State::Suspended(start);
        }
    }

    /// CPU `number` has not lost its state.
    pub fn cancel_suspend(&mut self, number: usize) {
        if let Some(state) = self.state(number) {
            *state = State::On;
        }
    }

    /// CPU `number` has come up: where it begins, if somebody has asked for it.
    pub fn arrive(&mut self, number: usize) -> Option<Start> {
        let state = self.state(number)?;
        match *state {
            State::Pending { start, .. } | State::Suspended(start) => {
                *state = State::On;
                Some(start)
            }
            State::Off | State::On | State::Unfit => None,
        }
    }

    /// CPU `number` has come up, and is not what the boot CPU promised for all.
    pub fn refuse(&mut self, number: usize) {
        if let Some(state) = self.state(number) {
            *state = State::Unfit;
        }
    }

    /// AFFINITY_INFO of `target` from affinity level `level` up.
    #[must_use]
    pub fn affinity(&self, target: u64, level: u64) -> Affinity {
        use Affinity::{Answer, Off};
        // The fields of the levels below are ignored (DEN0022 5.1.5).
        let same = match level {
            0 => MPIDR_AFFINITY,
            1 => 0xff_00ff_ff00,
            2 => 0xff_00ff_0000,
            3 => 0xff_0000_0000,
            _ => return Answer(status::INVALID_PARAMETERS),
        };
        if target & !MPIDR_AFFINITY != 0 {
            return Answer(status::INVALID_PARAMETERS);
        }
        let cpus = (0..MAX_CPUS).zip(&self.cpus).filter_map(|(n, cpu)| cpu.map(|cpu| (n, cpu)));
        let (mut found, mut pending) = (false, false);
        for (number, cpu) in cpus.filter(|(_, cpu)| (cpu.mpidr ^ target) & same == 0) {
            match cpu.state {
                State::On | State::Suspended(_) => return Answer(ON),
                State::Pending { .. } => pending = true,
                State::Off if level == 0 => return Off(number),
                State::Off | State::Unfit => {}
            }
            found = true;
        }
        Answer(match (found, pending) {
            (true, true) => ON_PENDING,
            (true, false) => OFF,
            (false, _) => status::INVALID_PARAMETERS,
        })
    }
}

#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
