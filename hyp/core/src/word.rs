//! One page's metadata word and its transitions: the two-party table of host and EL2.
//!
//! Pure: a transition takes a word and gives the next one or a refusal. Must not know which page.
//!
//! Invariants, after every transition:
//! - I1: (host, EL2) is (Owned, NoPage): an ordinary page; (SharedOwned, SharedBorrowed): lent to
//!   EL2; (SharedOwned, NoPage) with share count > 0: lent to guests; or (NoPage, Owned): EL2's.
//! - I2: the share count is the number of guest leaves that map the page.
//! - I3: pins are held only on pages lent to EL2. In a table page of EL2's the same field counts
//!   entries ([`hyp_s2::Refs`]).

use hyp_abi::{PageState, Refusal};

use crate::bits::{flag, union};

/// A page's metadata. All zero: the host's own, exclusively.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(u64);

const HYP_SHIFT: u32 = 2;
/// Both states.
const STATES: u64 = 0xf;
/// EL2's state is stored complemented, so that zero means `NoPage`.
const HYP_COMPLEMENT: u64 = 3;
/// The page is in a free list of EL2's.
const FREE: u64 = 1 << 4;
const PINS_SHIFT: u32 = 16;
const PINS: u64 = 0xffff << PINS_SHIFT;
const SHARES_SHIFT: u32 = 32;
const SHARES: u64 = 0xffff_ffff << SHARES_SHIFT;

impl Word {
    /// EL2's page, in no free list, without table entries.
    pub const HYP: Self = Self(0).with(PageState::NoPage, PageState::Owned);

    /// From the metadata table.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
    /// For the metadata table.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// The page as the host sees it.
    #[must_use]
    pub const fn host(self) -> PageState {
        PageState::from_bits(self.0)
    }
    /// The page as EL2 sees it.
    #[must_use]
    pub const fn hyp(self) -> PageState {
        PageState::from_bits((self.0 >> HYP_SHIFT) ^ HYP_COMPLEMENT)
    }
    /// How many guest leaves map it.
    #[must_use]
    pub const fn shares(self) -> u32 {
        (self.0 >> SHARES_SHIFT) as u32
    }
    /// How often it is pinned (or, for a table page of EL2's, its entry count).
    #[must_use]
    pub const fn pins(self) -> u16 {
        ((self.0 & PINS) >> PINS_SHIFT) as u16
    }
    /// Whether it is in a free list of EL2's.
    #[must_use]
    pub const fn is_free(self) -> bool {
        self.0 & FREE != 0
    }

    /// The same word with other bits in one field.
    const fn replaced(self, field: u64, bits: u64) -> Self {
        Self(union(&[self.0 & !field, bits]))
    }
    const fn with(self, host: PageState, hyp: PageState) -> Self {
        let hyp = (hyp.bits() ^ HYP_COMPLEMENT) << HYP_SHIFT;
        self.replaced(STATES, union(&[host.bits(), hyp]))
    }
    /// The same word with this number of pins, or table entries.
    #[must_use]
    pub const fn with_pins(self, pins: u16) -> Self {
        self.replaced(PINS, (pins as u64) << PINS_SHIFT)
    }
    const fn with_shares(self, shares: u32) -> Self {
        self.replaced(SHARES, (shares as u64) << SHARES_SHIFT)
    }
    /// The same word, in a free list or in none.
    #[must_use]
    pub const fn with_free(self, free: bool) -> Self {
        self.replaced(FREE, flag(free, FREE))
    }
    const fn is(self, host: PageState, hyp: PageState) -> bool {
        self.host() as u8 == host as u8 && self.hyp() as u8 == hyp as u8
    }

    /// The host lends the page to EL2.
    ///
    /// # Errors
    /// `NotPermitted`: not exclusively the host's.
    pub const fn share_hyp(self) -> Result<Self, Refusal> {
        if !self.is(PageState::Owned, PageState::NoPage) {
            return Err(Refusal::NotPermitted);
        }
        Ok(self.with(PageState::SharedOwned, PageState::SharedBorrowed))
    }

    /// The host takes it back from EL2.
    ///
    /// # Errors
    /// `NotPermitted`: not lent to EL2; `Busy`: pinned.
    pub const fn unshare_hyp(self) -> Result<Self, Refusal> {
        if !self.is(PageState::SharedOwned, PageState::SharedBorrowed) {
            return Err(Refusal::NotPermitted);
        }
        if self.pins() > 0 {
            return Err(Refusal::Busy);
        }
        Ok(self.with(PageState::Owned, PageState::NoPage))
    }

    /// EL2 needs a lent page to stay.
    ///
    /// # Errors
    /// `NotPermitted`: not lent to EL2; `Busy`: pinned as often as can be counted.
    pub const fn pin(self) -> Result<Self, Refusal> {
        if !self.is(PageState::SharedOwned, PageState::SharedBorrowed) {
            return Err(Refusal::NotPermitted);
        }
        match self.pins().checked_add(1) {
            Some(pins) => Ok(self.with_pins(pins)),
            None => Err(Refusal::Busy),
        }
    }

    /// EL2 needs it once less.
    ///
    /// # Errors
    /// `NotPermitted`: not lent to EL2, or not pinned.
    pub const fn unpin(self) -> Result<Self, Refusal> {
        if !self.is(PageState::SharedOwned, PageState::SharedBorrowed) {
            return Err(Refusal::NotPermitted);
        }
        match self.pins().checked_sub(1) {
            Some(pins) => Ok(self.with_pins(pins)),
            None => Err(Refusal::NotPermitted),
        }
    }

    /// The host gives the page to EL2.
    ///
    /// # Errors
    /// `NotPermitted`: not exclusively the host's.
    pub const fn donate_hyp(self) -> Result<Self, Refusal> {
        if !self.is(PageState::Owned, PageState::NoPage) {
            return Err(Refusal::NotPermitted);
        }
        Ok(self.with(PageState::NoPage, PageState::Owned))
    }

    /// EL2 gives the page to the host.
    ///
    /// # Errors
    /// `NotPermitted`: not EL2's; `Busy`: in a free list or a table with entries.
    pub const fn donate_host(self) -> Result<Self, Refusal> {
        if !self.is(PageState::NoPage, PageState::Owned) {
            return Err(Refusal::NotPermitted);
        }
        if self.is_free() || self.pins() > 0 {
            return Err(Refusal::Busy);
        }
        Ok(self.with(PageState::Owned, PageState::NoPage))
    }

    /// The host lends the page to a guest, the first one or one more.
    ///
    /// # Errors
    /// `NotPermitted`: not the host's, or lent to EL2; `Busy`: lent as often as can be counted.
    pub const fn share_guest(self) -> Result<Self, Refusal> {
        let shared = self.is(PageState::SharedOwned, PageState::NoPage) && self.shares() > 0;
        if !shared && !self.is(PageState::Owned, PageState::NoPage) {
            return Err(Refusal::NotPermitted);
        }
        match self.shares().checked_add(1) {
            Some(n) => Ok(self.with(PageState::SharedOwned, PageState::NoPage).with_shares(n)),
            None => Err(Refusal::Busy),
        }
    }

    /// A guest loses one mapping of the page; with the last it is the host's own again.
    ///
    /// # Errors
    /// `NotPermitted`: not lent to a guest.
    pub const fn unshare_guest(self) -> Result<Self, Refusal> {
        if !self.is(PageState::SharedOwned, PageState::NoPage) {
            return Err(Refusal::NotPermitted);
        }
        match self.shares().checked_sub(1) {
            Some(0) => Ok(self.with_shares(0).with(PageState::Owned, PageState::NoPage)),
            Some(n) => Ok(self.with_shares(n)),
            None => Err(Refusal::NotPermitted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PageState::{NoPage, Owned, SharedBorrowed, SharedOwned};
    use Refusal::{Busy, NotPermitted};

    type Transition = fn(Word) -> Result<Word, Refusal>;
    const ALL: [(&str, Transition); 8] = [
        ("donate_hyp", Word::donate_hyp),
        ("share_hyp", Word::share_hyp),
        ("unshare_hyp", Word::unshare_hyp),
        ("donate_host", Word::donate_host),
        ("pin", Word::pin),
        ("unpin", Word::unpin),
        ("share_guest", Word::share_guest),
        ("unshare_guest", Word::unshare_guest),
    ];

    fn host() -> Word {
        Word::default()
    }
    fn facts(w: Word) -> (PageState, PageState, u16, u32) {
        (w.host(), w.hyp(), w.pins(), w.shares())
    }

    #[test]
    fn zero_means_the_hosts_own() {
        assert_eq!(facts(host()), (Owned, NoPage, 0, 0));
        assert!(!host().is_free());
        assert_eq!(facts(Word::HYP), (NoPage, Owned, 0, 0));
    }

    /// One row: a state, then what each transition answers, in the order of `ALL`.
    #[test]
    fn every_state_meets_every_transition_with_its_exact_code() {
        let lent = host().share_hyp().unwrap();
        let pinned = lent.pin().unwrap();
        let one = host().share_guest().unwrap();
        let two = one.share_guest().unwrap();
        let table = Word::HYP.with_pins(1);
        let free = Word::HYP.with_free(true);
        let p: Result<(), Refusal> = Err(NotPermitted);
        let b: Result<(), Refusal> = Err(Busy);
        let rows = [
            (host(), [Ok(()), Ok(()), p, p, p, p, Ok(()), p]),
            (Word::HYP, [p, p, p, Ok(()), p, p, p, p]),
            (table, [p, p, p, b, p, p, p, p]),
            (free, [p, p, p, b, p, p, p, p]),
            (lent, [p, p, Ok(()), p, Ok(()), p, p, p]),
            (pinned, [p, p, b, p, Ok(()), Ok(()), p, p]),
            (pinned.with_pins(u16::MAX), [p, p, b, p, b, Ok(()), p, p]),
            (one, [p, p, p, p, p, p, Ok(()), Ok(())]),
            (two, [p, p, p, p, p, p, Ok(()), Ok(())]),
            (one.with_shares(u32::MAX), [p, p, p, p, p, p, b, Ok(())]),
            // Not reachable, but a count of zero must not wrap.
            (one.with_shares(0), [p, p, p, p, p, p, p, p]),
        ];
        for (state, answers) in rows {
            for ((name, transition), answer) in ALL.into_iter().zip(answers) {
                assert_eq!(transition(state).map(|_| ()), answer, "{name} of {state:?}");
            }
        }
    }

    #[test]
    fn transitions_lead_where_they_say() {
        let lent = host().share_hyp().unwrap();
        assert_eq!(facts(lent), (SharedOwned, SharedBorrowed, 0, 0));
        assert_eq!(lent.unshare_hyp(), Ok(host()));
        assert_eq!(facts(lent.pin().unwrap()), (SharedOwned, SharedBorrowed, 1, 0));
        assert_eq!(lent.pin().unwrap().unpin(), Ok(lent));
        assert_eq!(host().donate_hyp(), Ok(Word::HYP));
        assert_eq!(Word::HYP.donate_host(), Ok(host()));
        let one = host().share_guest().unwrap();
        assert_eq!(facts(one), (SharedOwned, NoPage, 0, 1));
        let two = one.share_guest().unwrap();
        assert_eq!(facts(two), (SharedOwned, NoPage, 0, 2));
        assert_eq!(two.unshare_guest(), Ok(one));
        assert_eq!(one.unshare_guest(), Ok(host()));
    }

    #[test]
    fn counts_do_not_touch_their_neighbours() {
        let full = Word::HYP.with_pins(u16::MAX).with_shares(u32::MAX).with_free(true);
        assert_eq!(facts(full), (NoPage, Owned, u16::MAX, u32::MAX));
        assert!(full.is_free());
        assert_eq!(full.with_pins(0).with_shares(0).with_free(false), Word::HYP);
        assert_eq!(full.with_pins(0x1234).pins(), 0x1234);
        assert_eq!(full.with_shares(0x1234_5678).shares(), 0x1234_5678);
    }
}
