//! The order of locks, as types.

/// A place in the order.
pub trait Rank {
    /// What it is called.
    const NAME: &'static str;
}
/// `A: Below<B>`: holding A (and nothing above it), B may be taken.
pub trait Below<R: Rank>: Rank {}
/// Nothing is taken under such a lock, so it needs no token.
pub trait Leaf: Rank {}

macro_rules! ranks {
    ($($(#[$doc:meta])* $name:ident below $($above:ident)*;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum $name {}
            impl Rank for $name {
                const NAME: &'static str = stringify!($name);
            }
            $(impl Below<$above> for $name {})*
        )*
    };
}

ranks! {
    /// No lock is held.
    Nothing below Host Vm Pool;
    /// The host's stage 2 and the page ownership.
    Host below Vm Pool;
    /// One VM's slot; one at a time.
    Vm below Pool;
    /// EL2's page pool.
    Pool below;
    /// EL2's object heap.
    Heap below;
    /// The power states of the CPUs.
    Power below;
    /// The console.
    Console below;
}

impl Leaf for Heap {}
impl Leaf for Power {}
impl Leaf for Console {}
