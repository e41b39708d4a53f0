//! How long to wait before a daemon that has ended is started again.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(10);
/// One that has run for as long as this has recovered: its next end is a new matter.
const RECOVERED: Duration = Duration::from_secs(30);

/// Counts the failures of one daemon; doubles the wait with each, until it has run well for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BackOff {
    failures: u32,
}

impl BackOff {
    /// It has failed, having been ready for `ran` before: how long to wait now.
    pub fn failed(&mut self, ran: Duration) -> Duration {
        if ran >= RECOVERED {
            self.failures = 0;
        }
        let wait = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// How often in a row it has failed.
    pub fn failures(self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_in_a_row_doubles_the_wait_up_to_a_bound() {
        let mut back_off = BackOff::default();
        let waits: Vec<u128> = (0..10)
            .map(|_| back_off.failed(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
        );
        for _ in 0..100 {
            assert_eq!(back_off.failed(Duration::ZERO), LONGEST);
        }
    }

    #[test]
    fn one_that_ran_well_starts_from_the_beginning() {
        let mut back_off = BackOff::default();
        for _ in 0..5 {
            back_off.failed(Duration::from_secs(1));
        }
        assert_eq!(back_off.failed(RECOVERED), FIRST);
        assert_eq!(back_off.failures(), 1);
    }
}
