//! The keys that are the host's while several guests live: who hears the rest.
//!
//! Ctrl-] and then a digit: the guest of that number, from 1, in the order of the bundle; `n`: the next
//! one; Ctrl-] again: that byte itself. Anything else is dropped with it.

/// Ctrl-].
pub const ESCAPE: u8 = 0x1d;

/// What a byte from the terminal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// It is for the guest.
    Byte(u8),
    /// From now on this guest hears it, by number from 0.
    Guest(usize),
    /// The next living guest does.
    Next,
    /// It is for nobody.
    Nothing,
}

/// The state between two bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Nothing was pressed yet.
    pub const fn new() -> Self {
        Self { escaped: false }
    }

    /// Takes a byte. With one guest (`several` is false) all bytes are the guest's.
    pub fn take(&mut self, byte: u8, several: bool) -> Key {
        if !several {
            self.escaped = false;
            return Key::Byte(byte);
        }
        if !core::mem::take(&mut self.escaped) {
            self.escaped = byte == ESCAPE;
            return if self.escaped { Key::Nothing } else { Key::Byte(byte) };
        }
        match byte {
            ESCAPE => Key::Byte(ESCAPE),
            b'n' => Key::Next,
            b'1'..=b'9' => Key::Guest(usize::from(byte - b'1')),
            _ => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ESCAPE, Key, Keys};

    #[test]
    fn the_escape_key_chooses_who_hears_the_rest() {
        let mut keys = Keys::new();
        let mut take = |byte| keys.take(byte, true);
        assert_eq!(take(b'2'), Key::Byte(b'2'));
        assert_eq!((take(ESCAPE), take(b'2')), (Key::Nothing, Key::Guest(1)));
        assert_eq!((take(ESCAPE), take(b'n')), (Key::Nothing, Key::Next));
        assert_eq!((take(ESCAPE), take(ESCAPE)), (Key::Nothing, Key::Byte(ESCAPE)));
        assert_eq!((take(ESCAPE), take(b'x')), (Key::Nothing, Key::Nothing));
        assert_eq!(take(b'x'), Key::Byte(b'x'));
    }

    #[test]
    fn a_guest_alone_hears_everything() {
        let mut keys = Keys::new();
        assert_eq!(keys.take(ESCAPE, false), Key::Byte(ESCAPE));
        assert_eq!(keys.take(b'1', false), Key::Byte(b'1'));
    }
}
