//! A heap object whose allocation may fail, which `Box` cannot express on stable Rust.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use hyp_abi::Refusal;

/// One `T` on EL2's heap. Where it is in memory does not change, however the owner moves.
#[derive(Debug)]
pub struct Boxed<T>(Box<[T; 1]>);

impl<T> Boxed<T> {
    /// Moves a value to the heap.
    ///
    /// # Errors
    /// `NoMemory`: the heap is full.
    pub fn try_new(value: T) -> Result<Self, Refusal> {
        let mut one = Vec::new();
        one.try_reserve_exact(1).map_err(|_| Refusal::NoMemory)?;
        one.push(value);
        // Capacity is length: neither step allocates.
        Box::<[T; 1]>::try_from(one.into_boxed_slice()).map(Self).map_err(|_| Refusal::NoMemory)
    }
}

impl<T> Deref for Boxed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        let [value] = &*self.0;
        value
    }
}

impl<T> DerefMut for Boxed<T> {
    fn deref_mut(&mut self) -> &mut T {
        let [value] = &mut *self.0;
        value
    }
}
