//! The host's own words on the machine's command line: those that begin with `redan.`.

use core::fmt;

use log::LevelFilter;

/// Longest nonce that is repeated in the verdict.
const NONCE_MAX: usize = 64;
/// Without its own, `redan.kill` ends VMs within this many milliseconds.
const KILL_WITHIN_MS: &str = "2000";

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words<'a> {
    /// `redan.nonce=WORD`: end with a verdict line that carries it.
    pub nonce: Option<&'a str>,
    /// `redan.timeout=SECONDS`: end a VM that still runs then.
    pub timeout: Option<u64>,
    /// `redan.rounds=N`: run the whole bundle so many times.
    pub rounds: u32,
    /// `redan.kill=SEED` or `redan.kill=SEED,MS`: kill each VM at a moment that depends on the seed.
    pub kill: Option<Kill>,
    /// `redan.fair=PERCENT`: fail if the VMs of a round have had times further apart than that.
    pub fair: Option<u64>,
    /// `redan.log=LEVEL`.
    pub log: LevelFilter,
}

/// When VMs are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// What the moments depend on.
    pub seed: u64,
    /// All are in the first so many milliseconds.
    pub within_ms: u64,
}

impl Kill {
    /// `SEED` or `SEED,MS`.
    fn parse(text: &str) -> Option<Self> {
        let (seed, within) = text.split_once(',').unwrap_or((text, KILL_WITHIN_MS));
        let within_ms = within.parse().ok().filter(|ms| *ms > 0)?;
        Some(Self { seed: seed.parse().ok()?, within_ms })
    }
}

/// A word of ours that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown<'a>(pub &'a str);

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ignoring '{}' on the command line: known are redan.nonce=WORD, redan.timeout=SECONDS, \
             redan.rounds=N, redan.kill=SEED,MS, redan.fair=PERCENT and redan.log=off|error|warn|info|debug|trace",
            self.0
        )
    }
}

impl Default for Words<'_> {
    fn default() -> Self {
        Self {
            nonce: None,
            timeout: None,
            rounds: 1,
            kill: None,
            fair: None,
            log: LevelFilter::Info,
        }
    }
}

impl<'a> Words<'a> {
    /// Reads the command line; each word of ours that is not understood goes to `unknown`. Of two
    /// equal keys the last counts.
    pub fn parse(line: &'a str, mut unknown: impl FnMut(Unknown<'a>)) -> Self {
        let mut words = Self::default();
        for word in line.split_ascii_whitespace().filter(|word| word.starts_with("redan.")) {
            if words.take(word).is_none() {
                unknown(Unknown(word));
            }
        }
        words
    }

    fn take(&mut self, word: &'a str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "redan.nonce" => {
                let fine = !value.is_empty() && value.len() <= NONCE_MAX;
                self.nonce = Some(fine.then_some(value)?);
            }
            "redan.timeout" => {
                self.timeout = Some(value.parse().ok().filter(|seconds| *seconds > 0)?);
            }
            "redan.rounds" => self.rounds = value.parse().ok().filter(|rounds| *rounds > 0)?,
            "redan.kill" => self.kill = Some(Kill::parse(value)?),
            "redan.fair" => self.fair = Some(value.parse().ok()?),
            // EL2's own.
            "redan.dma" => {}
            "redan.log" => self.log = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Kill, Words};
    use log::LevelFilter;

    #[test]
    fn our_words_are_found_among_others() {
        let words =
            Words::parse("quiet redan.nonce=ab12 redan.timeout=7 x=redan.y redan.log=debug", |w| {
                panic!("{w}")
            });
        assert_eq!((words.nonce, words.timeout), (Some("ab12"), Some(7)));
        assert_eq!((words.log, words.rounds, words.kill), (LevelFilter::Debug, 1, None));
        let words =
            Words::parse("redan.rounds=50 redan.kill=7 redan.dma=strict", |w| panic!("{w}"));
        assert_eq!((words.rounds, words.kill), (50, Some(Kill { seed: 7, within_ms: 2000 })));
        let words = Words::parse("redan.kill=9,300 redan.fair=5", |w| panic!("{w}"));
        assert_eq!(words.kill, Some(Kill { seed: 9, within_ms: 300 }));
        assert_eq!(words.fair, Some(5));
    }

    #[test]
    fn what_is_not_understood_is_named_and_changes_nothing() {
        let mut bad = Vec::new();
        let line = "redan.nonce= redan.timeout=0 redan.timeout=-1 redan.log=loud redan.x=1 redan.nonce \
             redan.rounds=0 redan.kill=x redan.kill=1,0 redan.kill=1, redan.fair=much";
        let words = Words::parse(line, |w| bad.push(w.0));
        assert_eq!(bad, line.split(' ').collect::<Vec<_>>());
        assert_eq!(words, Words::default());
    }
}
