//! What a run waits for and what it types: a list of steps played against a console.
//!
//! Whole lines are matched as they end. The unfinished line is matched only when the console
//! pauses, because a prompt has no newline and a line half written is not yet what it will be.
//! After a match the rest of the same line is still there for the next step. A kernel's message does not
//! wait for the end of anybody's line: what stands before it is an unfinished line as well.

use std::collections::VecDeque;
use std::sync::LazyLock;

use regex::Regex;

/// How a kernel's message begins.
static MESSAGE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[ *\d+\.\d{6}\] ").ok());

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Wait until a line matches.
    Expect(Regex),
    /// Type this.
    Send(String),
}

/// The steps that remain.
#[derive(Clone, Debug, Default)]
pub struct Script {
    steps: VecDeque<Step>,
    /// Bytes of the unfinished line that earlier steps have used up.
    used: usize,
}

impl Script {
    /// Play `steps` in order.
    #[must_use]
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), used: 0 }
    }

    /// Nothing remains.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    /// What the script waits for now, for a failure message.
    #[must_use]
    pub fn waiting_for(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| match step {
            Step::Expect(regex) => Some(regex.as_str()),
            Step::Send(_) => None,
        })
    }

    /// A line has ended. Returns what to type.
    pub fn line(&mut self, line: &str) -> String {
        let message = MESSAGE.as_ref().and_then(|message| message.find(line));
        let before = message.and_then(|message| line.get(..message.start()));
        let mut typed = before.map(|before| self.pause(before)).unwrap_or_default();
        typed += &self.play(line);
        self.used = 0;
        typed
    }

    /// The console paused in the middle of `partial`. Returns what to type.
    pub fn pause(&mut self, partial: &str) -> String {
        if partial.is_empty() { String::new() } else { self.play(partial) }
    }

    fn play(&mut self, text: &str) -> String {
        let mut typed = String::new();
        loop {
            match self.steps.front() {
                Some(Step::Send(keys)) => typed.push_str(keys),
                Some(Step::Expect(regex)) => {
                    let found = text.get(self.used..).and_then(|rest| regex.find(rest));
                    let Some(found) = found else { return typed };
                    self.used += found.end();
                }
                None => return typed,
            }
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(pattern: &str) -> Step {
        Step::Expect(Regex::new(pattern).unwrap())
    }

    #[test]
    fn a_prompt_without_newline_is_met_when_the_console_pauses() {
        let mut s = Script::new([expect("/ # $"), Step::Send("uname\n".into()), expect("^Linux")]);
        assert_eq!(s.line("Booting / # not yet at the end"), "");
        assert_eq!(s.pause("/ # "), "uname\n");
        assert_eq!(s.line("/ # uname"), "");
        assert!(!s.is_done());
        assert_eq!(s.line("Linux"), "");
        assert!(s.is_done());
    }

    #[test]
    fn a_prompt_that_a_kernel_s_message_follows_at_once_is_met() {
        let mut s = Script::new([expect("# $"), Step::Send("reboot\n".into()), expect("^/ # reb")]);
        assert_eq!(s.line("[    9.990916] GICv3: CPU2: no prompt # yet"), "");
        assert_eq!(s.line("/ # [   10.294326] hrtimer: interrupt took 176607184 ns"), "reboot\n");
        assert_eq!(s.line("/ # reboot"), "");
        assert!(s.is_done());
    }

    #[test]
    fn one_line_can_satisfy_two_steps_but_not_the_same_words_twice() {
        let mut s = Script::new([expect("a"), expect("a")]);
        s.line("a");
        assert!(!s.is_done());
        s.line("a");
        assert!(s.is_done());
        let mut s = Script::new([expect("a"), expect("b")]);
        s.line("a then b");
        assert!(s.is_done());
    }

    #[test]
    fn the_same_prompt_seen_twice_in_two_pauses_is_one_prompt() {
        let mut s = Script::new([expect("# "), Step::Send("one\n".into()), expect("# ")]);
        assert_eq!(s.pause("/ # "), "one\n");
        s.pause("/ # ");
        assert!(!s.is_done());
        s.line("/ # one");
        s.pause("/ # ");
        assert!(s.is_done());
    }

    #[test]
    fn it_says_what_it_waits_for() {
        let s = Script::new([Step::Send("x".into()), expect("never")]);
        assert_eq!(s.waiting_for(), Some("never"));
    }
}
