//! Why a caller was refused. Stable ABI: numbers never change meaning (pKVM's, which are Linux's
//! errno values).

/// A refusal; a refused call changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Refusal {
    /// The ownership state forbids it (-EPERM).
    NotPermitted = -1,
    /// Nothing is mapped, or no such object (-ENOENT).
    NotFound = -2,
    /// The granule differs from the mapping's (-E2BIG).
    WrongSize = -7,
    /// Raced with another change; retry the guest instruction (-EAGAIN).
    Raced = -11,
    /// Table memory is short: top up the memcache and retry (-ENOMEM).
    NoMemory = -12,
    /// Not RAM (-EFAULT).
    NotRam = -14,
    /// Pinned, in use, or a counter is full (-EBUSY).
    Busy = -16,
    /// Malformed argument, wrong kind of VM, or no vCPU loaded (-EINVAL).
    Invalid = -22,
    /// Beyond the IPA space (-ERANGE).
    OutOfRange = -34,
    /// The gfn lost its page by force (-EHWPOISON).
    Poisoned = -133,
}

impl Refusal {
    const ALL: [Self; 10] = [
        Self::NotPermitted,
        Self::NotFound,
        Self::WrongSize,
        Self::Raced,
        Self::NoMemory,
        Self::NotRam,
        Self::Busy,
        Self::Invalid,
        Self::OutOfRange,
        Self::Poisoned,
    ];

    /// The negative errno that stands in x1.
    #[must_use]
    pub const fn code(self) -> i64 {
        self as i64
    }
    /// The refusal behind a code, if there is one.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_linux_errno_values_and_round_trip() {
        let codes = [-1, -2, -7, -11, -12, -14, -16, -22, -34, -133];
        for (r, code) in Refusal::ALL.into_iter().zip(codes) {
            assert_eq!(r.code(), code);
            assert_eq!(Refusal::from_code(code), Some(r));
        }
        assert_eq!(Refusal::from_code(0), None);
        assert_eq!(Refusal::from_code(i64::MIN), None);
    }
}
