//! What the user sees while we work: a spinner on a terminal, one plain line per step elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Whether standard error is a terminal: only then anything moves.
#[must_use]
pub fn on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// One line on standard error that marks what we say from what others print.
pub fn say(text: impl AsRef<str>) {
    eprintln!("xtask: {}", text.as_ref());
}

/// A step that may take a while. Dropping it takes the spinner away.
pub struct Step(Option<ProgressBar>);

impl Step {
    /// Announce the step.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if !on_terminal() {
            say(text);
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
