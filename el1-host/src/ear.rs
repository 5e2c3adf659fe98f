//! Whether a guest that hears is full: two CPUs must agree on that, or input waits for ever.
//!
//! One CPU finds the guest full, while on another the guest makes room, leaves, and is asked whether it
//! is waited for. One of the two must see the other.

use core::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody waits for room in the guest that hears.
pub struct Ear {
    deaf: AtomicBool,
}

impl Ear {
    /// Nobody hears yet.
    pub const fn new() -> Self {
        Self { deaf: AtomicBool::new(true) }
    }

    /// Whether who runs the guest has to look whether it has made room.
    pub fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }

    /// Says whether somebody waits.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Whether the guest has room, as `look` says. If not, the last look was made after the waiting had
    /// been announced: room that it did not see is made by somebody who then hears of the waiting.
    pub fn has_room(&self, look: impl Fn() -> bool) -> bool {
        if look() {
            return true;
        }
        self.set_deaf(true);
        look()
    }
}

#[cfg(test)]
mod tests {
    use super::Ear;
    use core::cell::Cell;

    #[test]
    fn who_makes_room_between_two_looks_is_seen_or_sees_that_it_is_waited_for() {
        // The guest makes room after the first look, or after the last.
        for makes_room_after in 1..=2 {
            let (ear, looks, room) = (Ear::new(), Cell::new(0), Cell::new(false));
            ear.set_deaf(false);
            let heard = Cell::new(false);
            let guest = || {
                room.set(true);
                heard.set(ear.is_deaf());
            };
            let found = ear.has_room(|| {
                let seen = room.get();
                looks.set(looks.get() + 1);
                if looks.get() == makes_room_after {
                    guest();
                }
                seen
            });
            assert!(found || heard.get(), "nobody feeds the guest any more");
        }
    }

    #[test]
    fn a_guest_with_room_is_not_waited_for() {
        let ear = Ear::new();
        ear.set_deaf(false);
        assert!(ear.has_room(|| true));
        assert!(!ear.is_deaf());
    }
}
