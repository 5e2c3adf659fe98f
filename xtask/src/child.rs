//! Child processes with a limit.
//!
//! Invariants:
//! I1. No child is waited for without a limit.
//! I2. A child does not outlive us: [`Guard`] ends it when dropped, and the handler installed by
//!     [`end_children_on_signal`] ends all of them when we are told to stop.
//! I3. A child is first asked (SIGTERM), then killed: QEMU puts the terminal back when asked.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use wait_timeout::ChildExt;

/// How long a child may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(2);

/// The children alive now, for the signal handler.
static LIVE: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Ctrl-C and SIGTERM end our children, then us, with the shell's usual status.
pub fn end_children_on_signal() -> Result<()> {
    let terminal = SavedTerminal::save();
    ctrlc::set_handler(move || {
        let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pid in &live {
            let _ = kill_process(*pid, Signal::TERM);
        }
        if !live.is_empty() {
            thread::sleep(Duration::from_millis(300));
        }
        for pid in &live {
            let _ = kill_process(*pid, Signal::KILL);
        }
        terminal.restore();
        std::process::exit(130);
    })
    .context("cannot install the handler for Ctrl-C")
}

/// A running child that ends when this is dropped.
pub struct Guard {
    child: Child,
    pid: Option<Pid>,
}

impl Guard {
    /// Start `cmd`.
    pub fn spawn(cmd: &mut Command) -> std::io::Result<Self> {
        let child = cmd.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            LIVE.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        }
        Ok(Self { child, pid })
    }

    /// The child, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Wait at most `limit`; `None` if the child still runs then.
    pub fn wait(&mut self, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
        self.child.wait_timeout(limit)
    }

    /// Ask the child to end, kill it if it does not.
    pub fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        if !matches!(self.child.wait_timeout(GRACE), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait_timeout(GRACE);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|p| Some(*p) != self.pid);
    }
}

/// The settings of our terminal, to put back after a child that changed them was killed.
pub struct SavedTerminal(Option<rustix::termios::Termios>);

impl SavedTerminal {
    /// Remember the settings of standard input, if it is a terminal.
    #[must_use]
    pub fn save() -> Self {
        Self(rustix::termios::tcgetattr(std::io::stdin()).ok())
    }

    /// Put them back.
    pub fn restore(&self) {
        if let Some(termios) = &self.0 {
            let _ = rustix::termios::tcsetattr(
                std::io::stdin(),
                rustix::termios::OptionalActions::Now,
                termios,
            );
        }
    }
}

/// What a finished child left behind.
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A command with a name for messages and a limit.
pub struct Task {
    what: String,
    cmd: Command,
    limit: Duration,
    input: Option<Vec<u8>>,
}

impl Task {
    /// `what` is how messages call it.
    pub fn new(what: impl Into<String>, cmd: Command, limit: Duration) -> Self {
        Self { what: what.into(), cmd, limit, input: None }
    }

    /// Feed `input` to its standard input, which is empty otherwise.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Run with our own output; any status but success is an error.
    pub fn show(mut self) -> Result<()> {
        self.cmd.stdin(Stdio::null());
        let mut guard =
            Guard::spawn(&mut self.cmd).with_context(|| format!("cannot start {}", self.what))?;
        let Some(status) = guard.wait(self.limit)? else {
            bail!("{} did not end within {} s", self.what, self.limit.as_secs())
        };
        if !status.success() {
            bail!("{} failed ({status})", self.what)
        }
        Ok(())
    }

    /// Run and keep both outputs, whatever the status.
    pub fn capture(mut self) -> Result<Finished> {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        self.cmd.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut guard =
            Guard::spawn(&mut self.cmd).with_context(|| format!("cannot start {}", self.what))?;
        let stdout = drain(guard.child().stdout.take());
        let stderr = drain(guard.child().stderr.take());
        if let (Some(mut pipe), Some(input)) = (guard.child().stdin.take(), self.input.take()) {
            thread::spawn(move || pipe.write_all(&input));
        }
        let Some(status) = guard.wait(self.limit)? else {
            bail!("{} did not end within {} s", self.what, self.limit.as_secs())
        };
        let text = |t: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&t.join().unwrap_or_default()).into_owned()
        };
        Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Run and return standard output; any status but success is an error that quotes the last
    /// lines of standard error.
    pub fn stdout(self) -> Result<String> {
        let what = self.what.clone();
        let done = self.capture()?;
        if !done.status.success() {
            bail!("{what} failed ({})\n{}", done.status, last_lines(&done.stderr, 8))
        }
        Ok(done.stdout)
    }
}

/// The last `n` lines of `text`, indented.
#[must_use]
pub fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(n);
    lines.iter().skip(from).map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut cmd = Command::new("sh");
        cmd.args(["-c", script]);
        cmd
    }

    #[test]
    fn a_child_past_its_limit_is_ended_and_named() {
        let task = Task::new("the sleeper", sh("exec sleep 60"), Duration::from_millis(50));
        let error = task.stdout().unwrap_err().to_string();
        assert!(error.contains("the sleeper did not end"), "{error}");
    }

    #[test]
    fn a_failing_child_shows_its_last_words() {
        let task = Task::new("the liar", sh("echo why >&2; exit 3"), Duration::from_secs(10));
        let error = task.stdout().unwrap_err().to_string();
        assert!(error.contains("the liar failed") && error.contains("why"), "{error}");
    }

    #[test]
    fn a_dropped_guard_ends_its_child() {
        let guard = Guard::spawn(&mut sh("exec sleep 60")).unwrap();
        let pid = guard.pid.unwrap();
        drop(guard);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
