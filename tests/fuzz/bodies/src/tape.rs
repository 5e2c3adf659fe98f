//! Bytes read as numbers. Beyond the end everything is zero.
//!
//! `arbitrary` would do this too, but a derived decoder changes with the type it is derived for: a
//! new variant would give every committed seed another meaning. Here a byte is the same action for ever.

/// The tape.
#[derive(Clone, Debug)]
pub struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    /// At its beginning.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether anything is left.
    #[must_use]
    pub const fn more(&self) -> bool {
        !self.0.is_empty()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (now, later) = self.0.split_at(N.min(self.0.len()));
        bytes[..now.len()].copy_from_slice(now);
        self.0 = later;
        bytes
    }

    /// 8 bits.
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    /// 16 bits.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// 32 bits.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// 64 bits.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A byte, cut to a number below `n`, which is not 0.
    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    /// One of a slice that is not empty, of at most 256.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Whether a byte has its lowest bit set.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// A number of 64 bits, of those that hurt rather than of all: small ones, and those near a
    /// power of two, in two bytes; any other in nine.
    pub fn number(&mut self) -> u64 {
        let kind = self.byte();
        let edge = 1_u64 << (kind & 63);
        match kind >> 6 {
            0 => u64::from(self.byte()),
            1 => edge.wrapping_add(u64::from(self.byte())),
            2 => edge.wrapping_sub(u64::from(self.byte())),
            _ => self.long(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tape;

    #[test]
    fn beyond_its_end_a_tape_is_zero() {
        let mut tape = Tape::new(&[1, 2, 3]);
        assert!(tape.more());
        assert_eq!((tape.half(), tape.word(), tape.long()), (0x201, 3, 0));
        assert!(!tape.more());
    }

    #[test]
    fn numbers_that_hurt_cost_two_bytes() {
        let mut tape = Tape::new(&[
            0,
            9,
            0x40 | 40,
            1,
            0x80 | 12,
            1,
            0x80,
            2,
            0xff,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
            0x80,
        ]);
        let numbers: Vec<u64> = (0..5).map(|_| tape.number()).collect();
        assert_eq!(numbers, [9, (1 << 40) + 1, 0xfff, u64::MAX, 1 << 63 | 1]);
        assert!(!tape.more());
    }
}
