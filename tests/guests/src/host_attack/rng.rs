//! xorshift64*: small, and a seed names a run for ever.

/// Values at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    u64::MAX,
    u64::MAX - 1,
    1 << 63,
    (1 << 63) - 1,
    1 << 52,
    1 << 48,
    1 << 40,
    1 << 36,
    1 << 32,
    0xffff_ffff,
];

/// The generator.
pub struct Rng(u64);

impl Rng {
    /// From a seed, spread so that neighbouring seeds differ at once; never the zero state.
    pub fn new(seed: u64) -> Self {
        let mut rng = Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1);
        for _ in 0..8 {
            rng.bits();
        }
        rng
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.bits() >> 20) % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of a list, or `None` of an empty one.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        if list.is_empty() {
            None
        } else {
            list.get(self.below(list.len() as u64) as usize).copied()
        }
    }

    /// A value at an edge, one bit, its neighbours, or anything.
    pub fn hostile(&mut self) -> u64 {
        match self.below(4) {
            0 => self.pick(&EDGES).unwrap_or(0),
            1 => 1 << self.below(64),
            2 => (1u64 << self.below(64)).wrapping_sub(1),
            _ => self.bits() >> self.below(64),
        }
    }
}
