//! Several guests on one terminal: whose line it is.
//!
//! Knows: bytes, guests by number, time. Must not know: the UART. Bytes go out by a closure, so that this
//! runs on a PC as well.
//!
//! One living guest has the terminal to itself: its bytes pass as they are. Of several, each line
//! carries its guest's name, and is held back until it is whole. A piece of a line (a prompt) comes out
//! after a while without another byte; from then on the line is its guest's, whose bytes pass at once
//! until the line ends or another interrupts it.

use alloc::string::String;
use alloc::vec::Vec;

/// A line this long is not held back further.
const LONG: usize = 256;

#[derive(Default)]
struct Guest {
    name: String,
    living: bool,
    /// What is held back of its line, and when its last byte came.
    held: Vec<u8>,
    since: u64,
}

/// The terminal.
#[derive(Default)]
pub struct Lines {
    guests: Vec<Guest>,
    /// Who wrote the unfinished line on the terminal; with none the cursor is at the left.
    line: Option<usize>,
}

impl Lines {
    /// Nobody yet.
    pub const fn new() -> Self {
        Self { guests: Vec::new(), line: None }
    }

    /// Whether the cursor is at the left.
    pub fn at_start(&self) -> bool {
        self.line.is_none()
    }

    /// A guest lives from now on.
    pub fn enter(&mut self, guest: usize, name: &str) {
        if self.guests.len() <= guest {
            self.guests.resize_with(guest + 1, Guest::default);
        }
        let entry = &mut self.guests[guest];
        entry.name.clear();
        entry.name.push_str(name);
        entry.living = true;
    }

    /// A guest is no more. What it had not finished comes out.
    pub fn leave(&mut self, guest: usize, out: &mut impl FnMut(&[u8])) {
        self.release(guest, out);
        if let Some(entry) = self.guests.get_mut(guest) {
            entry.living = false;
        }
    }

    /// A guest's byte. Whether it begins a piece that is held back.
    pub fn put(&mut self, guest: usize, byte: u8, now: u64, out: &mut impl FnMut(&[u8])) -> bool {
        let alone = self.guests.iter().filter(|other| other.living).count() <= 1;
        if alone {
            self.release(guest, out);
        }
        if alone || self.line == Some(guest) {
            out(&[byte]);
            self.line = if byte == b'\n' { None } else { Some(guest) };
            return false;
        }
        let Some(entry) = self.guests.get_mut(guest) else { return false };
        let first = entry.held.is_empty();
        entry.since = now;
        entry.held.push(byte);
        if byte == b'\n' || entry.held.len() >= LONG {
            self.release(guest, out);
            return false;
        }
        first
    }

    /// Puts out what got its last byte at `before` or earlier; answers when the rest did.
    pub fn release_old(&mut self, before: u64, out: &mut impl FnMut(&[u8])) -> Option<u64> {
        for guest in 0..self.guests.len() {
            if self.guests[guest].since <= before {
                self.release(guest, out);
            }
        }
        let held = self.guests.iter().filter(|guest| !guest.held.is_empty());
        held.map(|guest| guest.since).min()
    }

    /// Begins a line of the host's.
    pub fn fresh(&mut self, out: &mut impl FnMut(&[u8])) {
        if self.line.is_some() {
            out(b"\r\n");
        }
        self.line = None;
    }

    /// Puts out what is held back of a guest's line.
    fn release(&mut self, guest: usize, out: &mut impl FnMut(&[u8])) {
        let Some(entry) = self.guests.get_mut(guest) else { return };
        let held = core::mem::take(&mut entry.held);
        if held.is_empty() {
            return;
        }
        self.fresh(out);
        out(b"[");
        out(self.guests[guest].name.as_bytes());
        out(b"] ");
        out(&held);
        self.line = if held.ends_with(b"\n") { None } else { Some(guest) };
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    struct Terminal(Lines, Vec<u8>);

    impl Terminal {
        fn new(names: &[&str]) -> Self {
            let mut lines = Lines::new();
            names.iter().enumerate().for_each(|(n, name)| lines.enter(n, name));
            Self(lines, Vec::new())
        }

        fn say(&mut self, guest: usize, text: &str, now: u64) {
            for byte in text.bytes() {
                self.0.put(guest, byte, now, &mut |b| self.1.extend_from_slice(b));
            }
        }

        fn old(&mut self, before: u64) -> Option<u64> {
            self.0.release_old(before, &mut |b| self.1.extend_from_slice(b))
        }

        fn text(&self) -> &str {
            core::str::from_utf8(&self.1).unwrap()
        }
    }

    #[test]
    fn a_guest_alone_has_the_terminal_to_itself() {
        let mut t = Terminal::new(&["a"]);
        t.say(0, "x\x1b[K\r\n", 0);
        assert!(t.0.at_start());
        t.say(0, "# ", 0);
        assert!(!t.0.at_start());
        assert_eq!(t.text(), "x\x1b[K\r\n# ");
    }

    #[test]
    fn lines_of_several_guests_are_whole_and_named() {
        let mut t = Terminal::new(&["a", "b"]);
        t.say(0, "on", 0);
        t.say(1, "two\r\n", 0);
        t.say(0, "e\r\n", 1);
        assert_eq!(t.text(), "[b] two\r\n[a] one\r\n");
    }

    #[test]
    fn a_prompt_comes_out_after_a_while_and_the_line_is_its_guest_s() {
        let mut t = Terminal::new(&["a", "b"]);
        t.say(0, "# ", 5);
        assert_eq!((t.old(4), t.text()), (Some(5), ""));
        assert_eq!((t.old(5), t.text()), (None, "[a] # "));
        t.say(0, "ls", 6);
        assert_eq!(t.text(), "[a] # ls");
        t.say(1, "hm\r\n", 7);
        t.say(0, "\r\n", 8);
        assert_eq!(t.text(), "[a] # ls\r\n[b] hm\r\n[a] \r\n");
    }

    #[test]
    fn what_a_guest_had_not_finished_comes_out_at_its_end_and_the_last_one_is_alone() {
        let mut t = Terminal::new(&["a", "b"]);
        t.say(0, "bye", 0);
        t.say(1, "half", 0);
        let Terminal(lines, out) = &mut t;
        lines.leave(0, &mut |b| out.extend_from_slice(b));
        t.say(1, " a line\r\nraw", 1);
        assert_eq!(t.text(), "[a] bye\r\n[b] half a line\r\nraw");
    }

    #[test]
    fn a_line_without_end_is_not_held_back_for_ever() {
        let mut t = Terminal::new(&["a", "b"]);
        t.say(0, &"x".repeat(10_000), 0);
        assert!(t.text().len() > 10_000);
    }
}
