//! Serial input: from the UART to the guest that hears it.
//!
//! What that guest cannot take stays in the hardware, which then must not interrupt, for its line stays
//! high; whoever runs the guest asks `is_deaf` after each of its exits, and feeds it.
//!
//! Invariant I1: who finds a guest full has said so before it looked the last time (`Ear`). The guest's next
//! exit is after that, or that look sees what its last one has changed.

use core::sync::atomic::{AtomicUsize, Ordering};

use spin::mutex::SpinMutex;

use crate::console::say;
use crate::ear::Ear;
use crate::guests::Shared;
use crate::keys::{Key, Keys};
use crate::shim::Shim;

/// The way from the UART to a guest.
pub struct Input {
    state: SpinMutex<State>,
    /// The guest that hears.
    focus: AtomicUsize,
    ear: Ear,
}

struct State {
    keys: Keys,
    /// A byte that its guest could not take.
    held: Option<u8>,
}

impl Input {
    /// Nobody hears yet.
    pub const fn new() -> Self {
        Self {
            state: SpinMutex::new(State { keys: Keys::new(), held: None }),
            focus: AtomicUsize::new(0),
            ear: Ear::new(),
        }
    }

    /// Whether this guest may have room again for what could not be delivered.
    pub fn is_deaf(&self, guest: usize) -> bool {
        self.ear.is_deaf() && self.focus.load(Ordering::Relaxed) == guest
    }

    /// Gives the guest as much input as it can take.
    pub fn feed(&self, shim: &Shim) {
        let mut state = self.state.lock();
        let mut deaf = true;
        while let Some((guest, vm)) = self.hearer(shim) {
            let several = shim.guests.get().is_some_and(|guests| guests.living() > 1);
            let byte = match state.held.take() {
                Some(byte) => byte,
                None => {
                    let Some(byte) = shim.uart.receive() else {
                        deaf = false;
                        break;
                    };
                    match state.keys.take(byte, several) {
                        Key::Byte(byte) => byte,
                        key => {
                            self.turn(shim, guest, key);
                            continue;
                        }
                    }
                }
            };
            if !self.ear.has_room(|| vm.can_receive()) {
                state.held = Some(byte);
                break;
            }
            vm.receive(byte);
            shim.kick(shim.deliver(guest, &vm));
        }
        self.ear.set_deaf(deaf);
        shim.uart.listen(!deaf);
    }

    /// Lets another guest hear.
    fn turn(&self, shim: &Shim, guest: usize, key: Key) {
        let Some(guests) = shim.guests.get() else { return };
        let found = match key {
            Key::Guest(wanted) => Some(wanted).filter(|wanted| guests.is_living(*wanted)),
            Key::Next => guests.first_living(guest + 1).or_else(|| guests.first_living(0)),
            Key::Byte(_) | Key::Nothing => return,
        };
        if let Some(guest) = found {
            self.focus.store(guest, Ordering::Relaxed);
            say(format_args!("input goes to {}", guests.name(guest)));
        }
    }

    /// The guest that hears: the one that was chosen, or the first that lives.
    fn hearer(&self, shim: &Shim) -> Option<(usize, Shared)> {
        let guests = shim.guests.get()?;
        let focus = self.focus.load(Ordering::Relaxed);
        if guests.is_living(focus) {
            return Some((focus, guests.vm(focus)?));
        }
        let first = guests.first_living(0)?;
        self.focus.store(first, Ordering::Relaxed);
        Some((first, guests.vm(first)?))
    }
}
