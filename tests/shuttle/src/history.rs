//! What the CPUs' calls were, and whether some order of them explains the answers.

use std::sync::{Mutex, PoisonError};

use hyp_abi::{Hypercall, Ret};
use hyp_core::Outcome;
use hyp_model::{Answer, Call, State, broken, step};

/// A call, from when to when it ran, and what it answered.
#[derive(Clone, Debug)]
struct Event {
    call: Call,
    answer: Outcome,
    begun: usize,
    ended: usize,
}

/// All calls of a run. Shuttle does not see it: it orders nothing.
#[derive(Debug, Default)]
pub struct History(Mutex<(usize, Vec<Event>)>);

impl History {
    /// Now, later than every moment before.
    pub fn now(&self) -> usize {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0 += 1;
        inner.0
    }

    /// Notes a call that began then and ends now.
    pub fn note(&self, begun: usize, call: Call, answer: Outcome) {
        let ended = self.now();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1.push(Event { call, answer, begun, ended });
    }

    /// The state after all calls, in an order that keeps each CPU's own and explains every answer.
    ///
    /// # Panics
    /// There is no such order.
    pub fn explain(&self, start: &State) -> State {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        search(start, &events).unwrap_or_else(|| {
            let lines = events.iter().map(|event| {
                let Event { call, answer, begun, ended } = event;
                let name = Hypercall::from_function_id(call.regs[0]);
                format!(
                    "{begun}..{ended} CPU {}: {name:?} {:x?} -> {answer:?}\n",
                    call.cpu, call.regs
                )
            });
            panic!("no order explains:\n{}", lines.collect::<String>())
        })
    }
}

fn search(state: &State, left: &[Event]) -> Option<State> {
    let Some(first_end) = left.iter().map(|event| event.ended).min() else {
        return Some(state.clone());
    };
    // What began after another call had ended came after it.
    left.iter().enumerate().filter(|(_, event)| event.begun < first_end).find_map(|(n, event)| {
        let after = apply(state, event)?;
        let mut rest = left.to_vec();
        rest.remove(n);
        search(&after, &rest)
    })
}

/// The state after a call, if it answers this there.
fn apply(state: &State, event: &Event) -> Option<State> {
    let seen = match event.answer {
        Outcome::Ret(ret) => ret,
        _ => Ret::default(),
    };
    let (after, answer) = step(state, event.call, seen);
    let same = match (event.answer, answer) {
        (Outcome::Run, Answer::Run) | (Outcome::Ret(_), Answer::Reads) => true,
        (Outcome::Ret(found), Answer::Ret(expected)) => found == expected,
        _ => false,
    };
    assert_eq!(broken(&after), None);
    same.then_some(after)
}

#[cfg(test)]
mod tests {
    use hyp_abi::Pfn;
    use hyp_model::World;

    use super::*;

    /// Two CPUs lend one page to EL2; the first is told that it may not.
    fn both_lend(at_once: bool) -> History {
        let history = History::default();
        let regs = [Hypercall::ShareHyp.function_id(), 1, 0, 0, 0];
        let begun = [history.now(), history.now()];
        for cpu in 0..2 {
            let answer = Outcome::Ret(Ret { x1: if cpu == 0 { -1 } else { 0 }, ..Ret::default() });
            let begun = if at_once { begun[cpu] } else { history.now() };
            history.note(begun, Call { cpu, regs, entry: 0 }, answer);
        }
        history
    }

    fn start() -> State {
        let ram = vec![(Pfn::new(0).expect("a frame"), 2)];
        let world = World {
            ram,
            private: vec![],
            host_pages: 1 << 28,
            guest_pages: 1 << 28,
            gicv: None,
            cpus: 2,
            memcache: 32,
        };
        State::boot(world, [])
    }

    #[test]
    fn calls_at_the_same_time_may_have_come_in_either_order() {
        both_lend(true).explain(&start());
    }

    #[test]
    #[should_panic = "no order explains"]
    fn a_call_that_had_ended_came_first() {
        both_lend(false).explain(&start());
    }
}
