//! Device memory.
//!
//! A [`Window`] is minted by `mmu::Map::device` only, so it names mapped device memory; register
//! blocks are laid over it with a bounds check.

/// A register block: a type made of volatile cells only, valid for any content of the device.
///
/// # Safety
///
/// Every field must be a `tock_registers` cell or padding.
pub unsafe trait Registers {}

/// Device memory that stage 1 maps as Device-nGnRE for as long as the host runs.
#[derive(Clone, Copy)]
pub struct Window {
    base: usize,
    size: usize,
}

impl Window {
    /// Only for `mmu`, which has just mapped it.
    pub(super) fn new(base: u64, size: u64) -> Self {
        Self { base: base as usize, size: size as usize }
    }

    /// The register block at `offset`; `None` if it would leave the window.
    pub fn regs<T: Registers + 'static>(&self, offset: usize) -> Option<&'static T> {
        let end = offset.checked_add(size_of::<T>())?;
        let fits = end <= self.size && (self.base + offset).is_multiple_of(align_of::<T>());
        // SAFETY:
        // 1. The bytes are inside the window and aligned, by the test before `then`.
        // 2. The window is mapped as device memory and never unmapped (`mmu::Map::device`).
        // 3. `T` holds volatile cells only (`Registers`), so shared references may alias.
        fits.then(|| unsafe { &*((self.base + offset) as *const T) })
    }
}
