//! What the mirror did, counted. Relaxed: the numbers are for people and tests, never for decisions.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($( $(#[$doc:meta])+ $name:ident, )*) => {
        /// Live counters of one mirror.
        #[derive(Debug, Default)]
        pub struct Counters { $( $(#[$doc])+ pub(crate) $name: AtomicU64, )* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $( $(#[$doc])+ pub $name: u64, )* }

        impl Counters {
            /// Reads all counters.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $( $name: self.$name.load(Ordering::Relaxed), )* }
            }
        }
    };
}

counters! {
    /// Pages mapped.
    mapped,
    /// Pages unmapped.
    unmapped,
    /// `map` calls that found a page there already.
    raced,
    /// Refusals by EL2, of any operation.
    refused,
    /// Pages that `wrprotect` passed.
    wrprotected,
    /// Pages that ageing looked at.
    aged,
    /// Pages found young.
    young,
    /// Pages given more rights.
    relaxed,
    /// Pages made young.
    made_young,
    /// Pages cleaned by `flush`.
    flushed,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
