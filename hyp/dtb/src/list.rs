//! A short list without allocation.

use crate::DtbError;

/// Up to `N` plain values, in the order of the tree.
#[derive(Clone, Copy, Debug)]
pub struct List<T, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy + Default, const N: usize> List<T, N> {
    pub(crate) fn new() -> Self {
        Self { items: [T::default(); N], len: 0 }
    }

    /// Appends, or says what there were too many of.
    pub(crate) fn push(&mut self, item: T, what: &'static str) -> Result<(), DtbError> {
        *self.items.get_mut(self.len).ok_or(DtbError::TooMany(what))? = item;
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

impl<T, const N: usize> core::ops::Deref for List<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or_default()
    }
}

impl<T: PartialEq, const N: usize> PartialEq for List<T, N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq, const N: usize> Eq for List<T, N> {}
