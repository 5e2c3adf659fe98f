//! A console's bytes as lines of text: escape sequences and carriage returns taken out.
//!
//! Knows nothing of QEMU or of what the text means. Keeps the last lines for failure messages and
//! bounds every line, so that a guest that prints without end costs no memory.

use std::collections::VecDeque;

/// How many finished lines are kept for a failure message.
const KEPT: usize = 40;
/// A line longer than this is cut in two.
const LONGEST: usize = 4096;

/// The text a console has shown.
#[derive(Default)]
pub struct Screen {
    kept: VecDeque<String>,
    line: Vec<u8>,
    escape: Escape,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// Seen ESC.
    Begun,
    /// Inside `ESC [ ...`.
    Csi,
}

impl Screen {
    /// Take in `bytes`; returns the lines they finish.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut done = Vec::new();
        for &byte in bytes {
            if self.swallow_escape(byte) || byte == b'\r' || byte == 0 {
                continue;
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
            if byte == b'\n' || self.line.len() >= LONGEST {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                if self.kept.len() == KEPT {
                    self.kept.pop_front();
                }
                self.kept.push_back(line.clone());
                done.push(line);
            }
        }
        done
    }

    /// The unfinished line: a prompt, or a line being written.
    #[must_use]
    pub fn partial(&self) -> String {
        String::from_utf8_lossy(&self.line).into_owned()
    }

    /// The last lines, for a failure message.
    #[must_use]
    pub fn tail(&self, n: usize) -> String {
        let partial = self.partial();
        let mut lines: Vec<&str> = self.kept.iter().map(String::as_str).collect();
        if !partial.is_empty() {
            lines.push(&partial);
        }
        let from = lines.len().saturating_sub(n);
        lines.drain(..from);
        lines.iter().map(|l| format!("    | {l}")).collect::<Vec<_>>().join("\n")
    }

    fn swallow_escape(&mut self, byte: u8) -> bool {
        let (next, swallowed) = match (self.escape, byte) {
            (Escape::None, 0x1b) => (Escape::Begun, true),
            (Escape::None, _) => (Escape::None, false),
            (Escape::Begun, b'[') => (Escape::Csi, true),
            (Escape::Begun, _) => (Escape::None, true),
            (Escape::Csi, 0x40..=0x7e) => (Escape::None, true),
            (Escape::Csi, b'\n') => (Escape::None, false),
            (Escape::Csi, _) => (Escape::Csi, true),
        };
        self.escape = next;
        swallowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_clean_and_once() {
        let mut s = Screen::default();
        assert_eq!(s.push(b"one\r\ntw"), ["one"]);
        assert_eq!(s.push(b"o\n"), ["two"]);
        assert!(s.push(b"/ # \x1b[6n").is_empty());
        assert_eq!(s.partial(), "/ # ");
    }

    #[test]
    fn an_escape_cut_in_the_middle_is_still_taken_out() {
        let mut s = Screen::default();
        s.push(b"a\x1b[3");
        s.push(b"1mb");
        assert_eq!(s.partial(), "ab");
    }

    #[test]
    fn an_endless_line_is_cut_and_an_endless_log_forgotten() {
        let mut s = Screen::default();
        assert_eq!(s.push(&vec![b'x'; LONGEST * 3]).len(), 3);
        for n in 0..1000 {
            s.push(format!("{n}\n").as_bytes());
        }
        assert_eq!(s.kept.len(), KEPT);
        assert!(s.tail(2).ends_with("    | 998\n    | 999"));
    }
}
