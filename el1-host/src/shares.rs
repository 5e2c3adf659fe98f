//! Whether guests have had equal time.
//!
//! Knows ticks, names. What counts as had is the time between a vCPU's entry and its exit: all of it, and
//! nothing else, is what the scheduler gives away.

use alloc::format;
use alloc::string::String;

use log::info;

/// What a guest has had.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    pub name: &'a str,
    /// Ticks in the guest, of all its vCPUs.
    pub ran: u64,
}

/// All must have had the same, but for so many percent of the most.
///
/// # Errors
/// Who has had most and least.
pub fn check(shares: &[Share<'_>], percent: u64) -> Result<(), String> {
    let most = shares.iter().max_by_key(|share| share.ran);
    let least = shares.iter().min_by_key(|share| share.ran);
    let (Some(most), Some(least)) = (most, least) else { return Ok(()) };
    let apart = apart(most.ran, least.ran);
    let (whole, hundredths) = (apart / 100, apart % 100);
    let line = format!(
        "times are {whole}.{hundredths:02} % apart: {} had {} ticks, {} had {}",
        most.name, most.ran, least.name, least.ran,
    );
    if apart > percent.saturating_mul(100) {
        return Err(line);
    }
    info!("{line}");
    Ok(())
}

/// The difference in hundredths of a percent of the larger one, rounded up.
fn apart(most: u64, least: u64) -> u64 {
    let difference = u128::from(most.saturating_sub(least)) * 10_000;
    let apart = difference.div_ceil(u128::from(most.max(1)));
    u64::try_from(apart).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Share, apart, check};

    #[test]
    fn a_difference_is_measured_by_the_larger_share() {
        assert_eq!((apart(100, 95), apart(100, 0), apart(0, 0)), (500, 10_000, 0));
        assert_eq!(apart(1_000_000, 949_999), 501);
        assert_eq!(apart(u64::MAX, 0), 10_000);
    }

    #[test]
    fn shares_are_equal_up_to_the_percentage() {
        let shares = |all: &[u64]| -> Vec<Share<'static>> {
            all.iter().map(|ran| Share { name: "x", ran: *ran }).collect()
        };
        assert!(check(&shares(&[1000, 950, 990]), 5).is_ok());
        assert!(check(&shares(&[1000, 949, 990]), 5).is_err_and(|why| why.contains("5.10 %")));
        assert!(check(&shares(&[1000, 0]), 5).is_err());
        assert!(check(&[], 0).is_ok());
    }
}
