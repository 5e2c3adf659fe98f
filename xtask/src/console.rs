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

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::child::{Guard, SavedTerminal, last_lines};
use crate::screen::Screen;
use crate::script::Script;
use crate::ui;

/// A console that says nothing for this long has paused: its unfinished line counts.
const PAUSE: Duration = Duration::from_millis(150);
/// A pause this long makes any unfinished line a prompt, whatever it ends with.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Input without any prompt is let through after this much silence.
const QUIET: Duration = Duration::from_millis(2500);
/// After a panic, time for the rest of its message.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// With the input at its end and nothing more printed, nobody can wake the guest.
const ABANDONED: Duration = Duration::from_secs(300);

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

enum Event {
    Out(Vec<u8>),
    OutEnded,
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
    let keys = guard.child().stdin.take().map(|pipe| Keys::new(pipe, plan.input, events));

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
    let Watch { verdict, plan, screen, stderr, .. } = watch;
    Ok(Report { end, verdict, script: plan.script, screen, stderr })
}

/// The way to type.
enum Keys {
    Script(Sender<Vec<u8>>),
    Forward { open: Option<Sender<()>> },
}

impl Keys {
    fn new(mut pipe: ChildStdin, input: Input, events: Sender<Event>) -> Self {
        if input == Input::Script {
            let (send, typed) = mpsc::channel::<Vec<u8>>();
            thread::spawn(move || {
                for keys in typed {
                    if pipe.write_all(&keys).and_then(|()| pipe.flush()).is_err() {
                        return;
                    }
                }
            });
            return Self::Script(send);
        }
        let (open, opened) = mpsc::channel();
        thread::spawn(move || {
            let mut block = [0; 1024];
            let mut held = true;
            loop {
                let Ok(n) = std::io::stdin().read(&mut block) else { return };
                if n == 0 {
                    let _ = events.send(Event::InputEnded(pipe));
                    return;
                }
                if std::mem::take(&mut held) && opened.recv().is_err() {
                    return;
                }
                if pipe.write_all(&block[..n]).and_then(|()| pipe.flush()).is_err() {
                    return;
                }
            }
        });
        Self::Forward { open: Some(open) }
    }
}

struct Watch {
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
    fn new(plan: Plan, keys: Option<Keys>, log: Option<std::fs::File>) -> Self {
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

    fn until_end(&mut self, inbox: &Receiver<Event>, guard: &mut Guard) -> Result<End> {
        loop {
            match inbox.recv_timeout(PAUSE / 3) {
                Ok(Event::OutEnded) | Err(RecvTimeoutError::Disconnected) => {
                    let status = guard.wait(Duration::from_secs(10))?;
                    let status = status.context("QEMU closed its console but does not end")?;
                    return Ok(if self.panicked.is_some() {
                        End::Panicked
                    } else {
                        End::Exited(status)
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

    fn ended(&mut self) -> Option<End> {
        if self.panicked.is_some_and(|at| at.elapsed() >= LAST_WORDS) {
            return Some(End::Panicked);
        }
        if self.plan.stop_when_done && self.plan.script.is_done() && self.panicked.is_none() {
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

    fn take(&mut self, event: Event) {
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
            self.type_keys(typed);
        }
    }

    fn pause(&mut self) {
        self.paused = true;
        let partial = self.screen.partial();
        if !partial.is_empty() {
            let typed = self.plan.script.pause(&partial);
            self.type_keys(typed);
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

    fn type_keys(&mut self, typed: String) {
        if let (Some(Keys::Script(keys)), false) = (&self.keys, typed.is_empty()) {
            let _ = keys.send(typed.into_bytes());
        }
    }

    fn let_input_through(&mut self) {
        if let Some(Keys::Forward { open }) = &mut self.keys
            && let Some(open) = open.take()
        {
            let _ = open.send(());
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
    fn only_a_verdict_with_the_nonce_counts() {
        assert_eq!(verdict("/ # [host] redan n0nce: ok 3 VMs", "n0nce"), Some(Verdict::Ok));
        assert_eq!(verdict("[host] redan other: ok", "n0nce"), None);
        assert!(verdict("[host] redan n0nce: okay?", "n0nce").is_some());
        assert_eq!(
            verdict("[host] redan n0nce: FAILED 2 pages missing", "n0nce"),
            Some(Verdict::Failed("2 pages missing".into()))
        );
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
