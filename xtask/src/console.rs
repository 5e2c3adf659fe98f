//! One run of QEMU, watched: its console goes through us, with limits and a verdict.
//!
//! Knows nothing of bundles or tests; it plays a [`Script`] and reports how the run ended.
//!
//! Invariants:
//! I1. Every run ends: by itself, by its limit, by silence before the guest is up, or by Ctrl-C.
//! I2. Reading the console never waits for anyone who types: typing has its own thread.
//! I3. Piped input is held back until the guest seems to ask for it or has gone quiet, because
//!     what is typed while a UART is being set up is lost, on real machines too. The end of the
//!     input ends nothing.

use std::io::Read;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::child::{Guard, SavedTerminal, last_lines};
use crate::keys::Keys;
use crate::screen::Screen;
use crate::script::Script;
use crate::watch::Watch;

/// Who types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// QEMU reads our terminal itself, in raw mode.
    Terminal,
    /// Our standard input is passed on.
    Forward,
    /// The script.
    Script,
}

/// What to run and how to watch it.
pub struct Plan {
    /// QEMU with its console on standard input and output.
    pub cmd: Command,
    /// What to wait for; with [`Input::Script`], what to type.
    pub script: Script,
    /// End the run when the script is done.
    pub stop_when_done: bool,
    /// The word that makes the host's verdict trustworthy.
    pub nonce: Option<String>,
    /// Show the console on standard output.
    pub echo: bool,
    /// Who types.
    pub input: Input,
    /// The longest the run may take.
    pub limit: Option<Duration>,
    /// The longest silence before the first prompt.
    pub silence: Duration,
    /// "panicked at" counts in any line, not only in EL2's and the host's.
    pub any_panic: bool,
    /// Keep all console output here.
    pub log: Option<PathBuf>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// QEMU ended by itself.
    Exited(ExitStatus),
    /// The script is done and that was all we wanted.
    Done,
    /// The limit passed.
    TimedOut(Duration),
    /// Nothing was printed for this long before there was a prompt.
    Silent(Duration),
    /// Input has ended and nothing was printed for this long.
    Abandoned(Duration),
    /// EL2, the host or a payload of ours panicked.
    Panicked,
}

/// The host's own last word on its guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every page is the host's again and every VM ended as it should.
    Ok,
    /// What the host says went wrong.
    Failed(String),
}

/// What is known after a run.
pub struct Report {
    /// How it ended.
    pub end: End,
    /// The verdict line with the run's nonce, if there was one.
    pub verdict: Option<Verdict>,
    /// What of the script was not met.
    pub script: Script,
    /// The console.
    pub screen: Screen,
    /// What QEMU itself complained about.
    pub stderr: String,
}

impl Report {
    /// The last lines of the console and of QEMU's own complaints.
    #[must_use]
    pub fn tail(&self) -> String {
        let mut text = String::from("  the last lines of the console:\n");
        let tail = self.screen.tail(20);
        text.push_str(if tail.is_empty() { "    (nothing was printed)" } else { &tail });
        // That it was ended by us is no complaint.
        let complaints = self.stderr.lines().filter(|l| !l.contains("terminating on signal"));
        let complaints = complaints.collect::<Vec<_>>().join("\n");
        if !complaints.trim().is_empty() {
            text.push_str("\n  QEMU said:\n");
            text.push_str(&last_lines(&complaints, 8));
        }
        text
    }
}

/// What can happen during a run.
pub(crate) enum Event {
    /// The console.
    Out(Vec<u8>),
    /// QEMU closed its console.
    OutEnded,
    /// What QEMU itself says.
    Err(Vec<u8>),
    /// Our own input has ended; the pipe comes back so that it stays open.
    InputEnded(#[expect(dead_code, reason = "held, so that QEMU sees no end of file")] ChildStdin),
}

/// Run `plan` to its end.
pub fn run(mut plan: Plan) -> Result<Report> {
    let terminal = SavedTerminal::save();
    let stdin = if plan.input == Input::Terminal { Stdio::inherit() } else { Stdio::piped() };
    plan.cmd.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut guard = Guard::spawn(&mut plan.cmd)
        .with_context(|| format!("cannot start {}", plan.cmd.get_program().display()))?;
    let (events, inbox) = mpsc::channel();
    let stdout = guard.child().stdout.take().context("no pipe from QEMU")?;
    let stderr = guard.child().stderr.take().context("no pipe from QEMU")?;
    read_all(stdout, events.clone(), Event::Out, Some(|| Event::OutEnded));
    read_all(stderr, events.clone(), Event::Err, None);
    let ended = move |pipe| {
        let _ = events.send(Event::InputEnded(pipe));
    };
    let keys = guard.child().stdin.take().map(|pipe| Keys::new(pipe, plan.input, ended));

    let log = match &plan.log {
        Some(path) => Some(std::fs::File::create(path)?),
        None => None,
    };
    let mut watch = Watch::new(plan, keys, log);
    let end = watch.until_end(&inbox, &mut guard)?;
    guard.end();
    terminal.restore();
    // What QEMU wrote to standard error just before it ended may still be on its way.
    while let Ok(event) = inbox.recv_timeout(Duration::from_millis(50)) {
        watch.take(event);
    }
    Ok(watch.report(end))
}

fn read_all(
    mut pipe: impl Read + Send + 'static,
    events: Sender<Event>,
    wrap: fn(Vec<u8>) -> Event,
    at_end: Option<fn() -> Event>,
) {
    thread::spawn(move || {
        let mut block = [0; 4096];
        while let Ok(n) = pipe.read(&mut block)
            && n > 0
        {
            if events.send(wrap(block[..n].to_vec())).is_err() {
                return;
            }
        }
        if let Some(end) = at_end {
            let _ = events.send(end());
        }
    });
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::script::Step;

    fn plan(script: &str, steps: Vec<Step>) -> Plan {
        let mut cmd = Command::new("sh");
        cmd.args(["-c", script]);
        Plan {
            cmd,
            script: Script::new(steps),
            stop_when_done: true,
            nonce: Some("n0nce".into()),
            echo: false,
            input: Input::Script,
            limit: Some(Duration::from_secs(20)),
            silence: Duration::from_secs(20),
            any_panic: false,
            log: None,
        }
    }

    fn expect(pattern: &str) -> Step {
        Step::Expect(Regex::new(pattern).unwrap())
    }

    #[test]
    fn a_prompt_is_answered_and_the_answer_awaited() {
        let shell = "printf 'name? '; read n; echo \"hello $n\"; sleep 60";
        let steps = vec![expect(r"\? $"), Step::Send("redan\n".into()), expect("^.*hello redan$")];
        assert_eq!(run(plan(shell, steps)).unwrap().end, End::Done);
    }

    #[test]
    fn the_last_line_counts_even_without_an_end_of_line() {
        let p = plan("printf 'the last words'", vec![expect("^the last words$")]);
        assert_eq!(run(p).unwrap().end, End::Done);
    }

    #[test]
    fn a_run_past_its_limit_ends_and_shows_its_last_lines() {
        let mut p = plan("echo last words; exec sleep 60", vec![expect("never")]);
        p.limit = Some(Duration::from_millis(500));
        let report = run(p).unwrap();
        assert!(matches!(report.end, End::TimedOut(_)));
        assert!(report.tail().contains("last words"));
    }

    #[test]
    fn silence_before_a_prompt_ends_the_run() {
        let mut p = plan("echo up; exec sleep 60", vec![expect("never")]);
        p.silence = Duration::from_millis(300);
        assert!(matches!(run(p).unwrap().end, End::Silent(_)));
    }

    #[test]
    fn a_panic_of_ours_ends_the_run_even_if_the_machine_parks() {
        let p = plan("echo '[EL2] panicked at x.rs:1'; echo why; exec sleep 60", vec![]);
        let report = run(p).unwrap();
        assert_eq!(report.end, End::Panicked);
        assert!(report.tail().contains("why"));
    }

    #[test]
    fn the_exit_status_and_complaints_are_kept() {
        let mut p = plan("echo broken >&2; exit 7", vec![]);
        p.stop_when_done = false;
        let report = run(p).unwrap();
        assert!(matches!(report.end, End::Exited(s) if s.code() == Some(7)));
        assert!(report.tail().contains("broken"));
    }
}
