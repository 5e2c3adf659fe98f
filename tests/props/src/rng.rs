//! What random choices are made from: a small repeatable generator (xorshift64*), so that a seed names
//! a run for ever, or words that somebody else has chosen and can shrink.

/// The generator.
#[derive(Clone, Debug)]
pub struct Rng(Source);

#[derive(Clone, Debug)]
enum Source {
    Seeded(u64),
    Told(std::vec::IntoIter<u64>),
}

impl Rng {
    /// From a seed; zero is taken as one.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Source::Seeded(seed.max(1)))
    }
    /// These words, then zeros. The smaller a word, the plainer is what it leads to.
    #[must_use]
    pub fn told(words: Vec<u64>) -> Self {
        Self(Source::Told(words.into_iter()))
    }
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        match &mut self.0 {
            Source::Seeded(state) => {
                *state ^= *state >> 12;
                *state ^= *state << 25;
                *state ^= *state >> 27;
                state.wrapping_mul(0x2545_f491_4f6c_dd1d)
            }
            Source::Told(words) => words.next().unwrap_or(0),
        }
    }
    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let bits = self.bits();
        match self.0 {
            Source::Seeded(_) => (bits >> 16) % n,
            Source::Told(_) => bits % n,
        }
    }
    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        let drawn = self.below(n);
        match self.0 {
            Source::Seeded(_) => drawn == 0,
            Source::Told(_) => drawn + 1 == n,
        }
    }
    /// One of a slice that is not empty.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
