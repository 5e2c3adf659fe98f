//! Watching one run: what the console says, when it pauses, and when the run is over.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::child::Guard;
use crate::console::{End, Event, Input, Plan, Report, Verdict};
use crate::keys::Keys;
use crate::screen::Screen;
use crate::ui;

/// A console that says nothing for this long has paused: its unfinished line counts.
const PAUSE: Duration = Duration::from_millis(150);
/// A pause this long makes any unfinished line a prompt, whatever it ends with.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Input without any prompt is let through after this much silence. A kernel that unpacks its
/// initrd on a busy machine says nothing for seconds, and loses what is typed before its UART is up.
const QUIET: Duration = Duration::from_secs(10);
/// After a panic, time for the rest of its message.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// With the input at its end and nothing more printed, nobody can wake the guest.
const ABANDONED: Duration = Duration::from_secs(300);

/// A run that is going on.
pub(crate) struct Watch {
    plan: Plan,
    keys: Option<Keys>,
    log: Option<std::fs::File>,
    screen: Screen,
    stderr: String,
    verdict: Option<Verdict>,
    panicked: Option<Instant>,
    started: Instant,
    heard: Instant,
    /// The pause at the present end of the output has been looked at.
    paused: bool,
    prompted: bool,
    warned: bool,
    input_ended: Option<Event>,
}

impl Watch {
    pub(crate) fn new(plan: Plan, keys: Option<Keys>, log: Option<std::fs::File>) -> Self {
        let now = Instant::now();
        Self {
            plan,
            keys,
            log,
            screen: Screen::default(),
            stderr: String::new(),
            verdict: None,
            panicked: None,
            started: now,
            heard: now,
            paused: false,
            prompted: false,
            warned: false,
            input_ended: None,
        }
    }

    /// Take in what comes until the run is over.
    pub(crate) fn until_end(&mut self, inbox: &Receiver<Event>, guard: &mut Guard) -> Result<End> {
        loop {
            match inbox.recv_timeout(PAUSE / 3) {
                Ok(Event::OutEnded) | Err(RecvTimeoutError::Disconnected) => {
                    let status = guard.wait(Duration::from_secs(10))?;
                    let status = status.context("QEMU closed its console but does not end")?;
                    // No more will come: the unfinished line is what it will be.
                    self.pause();
                    return Ok(match self.said_all() {
                        _ if self.panicked.is_some() => End::Panicked,
                        true => End::Done,
                        false => End::Exited(status),
                    });
                }
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.heard.elapsed() >= PAUSE && !self.paused {
                self.pause();
            }
            if let Some(end) = self.ended() {
                return Ok(end);
            }
        }
    }

    /// What is known now that it is over.
    pub(crate) fn report(self, end: End) -> Report {
        let Self { verdict, plan, screen, stderr, .. } = self;
        Report { end, verdict, script: plan.script, screen, stderr }
    }

    fn said_all(&self) -> bool {
        self.plan.stop_when_done && self.plan.script.is_done()
    }

    fn ended(&mut self) -> Option<End> {
        if self.panicked.is_some_and(|at| at.elapsed() >= LAST_WORDS) {
            return Some(End::Panicked);
        }
        if self.said_all() && self.panicked.is_none() {
            return Some(End::Done);
        }
        if let Some(limit) = self.plan.limit
            && self.started.elapsed() >= limit
        {
            return Some(End::TimedOut(limit));
        }
        let quiet = self.heard.elapsed();
        if quiet >= QUIET || self.at_prompt(quiet) {
            self.let_input_through();
        }
        if !self.prompted && quiet >= self.plan.silence {
            if self.plan.input != Input::Terminal {
                return Some(End::Silent(self.plan.silence));
            }
            if !std::mem::replace(&mut self.warned, true) {
                let s = quiet.as_secs();
                ui::say(format!("no output for {s} s; leave with Ctrl-A x\r"));
            }
        }
        let unattended = self.plan.limit.is_none() && self.input_ended.is_some();
        (unattended && quiet >= ABANDONED).then_some(End::Abandoned(ABANDONED))
    }

    /// Take in one thing that happened.
    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Out(bytes) => self.output(&bytes),
            Event::Err(bytes) => self.stderr.push_str(&String::from_utf8_lossy(&bytes)),
            Event::InputEnded(_) => self.input_ended = Some(event),
            Event::OutEnded => {}
        }
    }

    fn output(&mut self, bytes: &[u8]) {
        self.heard = Instant::now();
        self.paused = false;
        if self.plan.echo {
            let mut out = std::io::stdout().lock();
            // A closed pipe behind us (`| head`) is no reason to stop the machine.
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
        if let Some(log) = &mut self.log {
            let _ = log.write_all(bytes);
        }
        for line in self.screen.push(bytes) {
            self.judge(&line);
            let typed = self.plan.script.line(&line);
            self.type_text(typed);
        }
    }

    fn pause(&mut self) {
        self.paused = true;
        let partial = self.screen.partial();
        if !partial.is_empty() {
            let typed = self.plan.script.pause(&partial);
            self.type_text(typed);
        }
    }

    /// Whether the guest seems to wait for someone to type. A machine that is busy elsewhere may
    /// pause in the middle of any line, so a short pause needs a line that ends like a prompt.
    fn at_prompt(&mut self, quiet: Duration) -> bool {
        let like_one = || {
            let partial = self.screen.partial();
            let ends =
                ["# ", "$ ", "> ", "% ", "? ", "login: "].iter().any(|e| partial.ends_with(e));
            ends || (quiet >= LONG_PAUSE && !partial.is_empty())
        };
        self.prompted |= quiet >= PAUSE && like_one();
        self.prompted
    }

    fn judge(&mut self, line: &str) {
        let ours = line.starts_with("[EL2]") || line.starts_with("[host]");
        if line.contains("panicked at") && (ours || self.plan.any_panic) {
            self.panicked.get_or_insert_with(Instant::now);
        }
        if let Some(nonce) = &self.plan.nonce
            && let Some(verdict) = verdict(line, nonce)
        {
            self.verdict = Some(verdict);
        }
    }

    fn type_text(&self, text: String) {
        if let Some(keys) = &self.keys {
            keys.type_text(text);
        }
    }

    fn let_input_through(&mut self) {
        if let Some(keys) = &mut self.keys {
            keys.let_input_through();
        }
    }
}

/// The verdict in `line`, if it carries `nonce`. A guest may have left an unfinished line before.
fn verdict(line: &str, nonce: &str) -> Option<Verdict> {
    let word = line.split_once(&format!("[host] redan {nonce}: "))?.1;
    if word == "ok" || word.starts_with("ok ") {
        return Some(Verdict::Ok);
    }
    Some(Verdict::Failed(word.strip_prefix("FAILED").unwrap_or(word).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verdict_with_the_nonce_counts() {
        assert_eq!(verdict("/ # [host] redan n0nce: ok 3 VMs", "n0nce"), Some(Verdict::Ok));
        assert_eq!(verdict("[host] redan other: ok", "n0nce"), None);
        assert!(verdict("[host] redan n0nce: okay?", "n0nce").is_some());
        assert_eq!(
            verdict("[host] redan n0nce: FAILED 2 pages missing", "n0nce"),
            Some(Verdict::Failed("2 pages missing".into()))
        );
    }
}
