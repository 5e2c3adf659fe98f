//! Words put together from parts.

/// Every bit that is in any of the parts.
#[must_use]
pub const fn union(mut parts: &[u64]) -> u64 {
    let mut all = 0;
    while let [part, rest @ ..] = parts {
        all |= *part;
        parts = rest;
    }
    all
}

/// `bit` if `set`, else nothing.
#[must_use]
pub const fn flag(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_may_overlap() {
        assert_eq!(union(&[]), 0);
        assert_eq!(union(&[1, 6, 3, 1 << 63]), 7 | 1 << 63);
        assert_eq!((flag(true, 4), flag(false, 4)), (4, 0));
    }
}
