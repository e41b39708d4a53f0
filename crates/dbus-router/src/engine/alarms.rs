//! What is to happen at a point in time: alarms, and the clock that wakes for the earliest of them.
//!
//! The clock is a timerfd and not the timeout of epoll_wait: a timeout is armed and disarmed by the kernel at each
//! wait, which is on the way of every message, while nearly every alarm (a client that has to say Hello in time) is
//! for something that has long happened when it rings.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::io::{Alarm, Key};

/// The alarms of one router.
pub(super) struct Alarms {
    clock: OwnedFd,
    /// When the clock rings.
    set_for: Option<Instant>,
    alarms: BTreeMap<Key, Alarm>,
    next: u64,
}

impl Alarms {
    /// # Errors
    /// The system has no clock for us.
    pub fn new() -> std::io::Result<Alarms> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Alarms {
            clock: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            set_for: None,
            alarms: BTreeMap::new(),
            next: 0,
        })
    }

    /// Readable when an alarm may be due.
    pub fn clock(&self) -> BorrowedFd<'_> {
        self.clock.as_fd()
    }

    /// The number that the next alarm gets.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Sets an alarm.
    pub fn set(&mut self, after: Duration, alarm: Alarm) -> Key {
        let key = (Instant::now() + after, self.next);
        self.next += 1;
        self.alarms.insert(key, alarm);
        if self.set_for.is_none_or(|it| key.0 < it) {
            self.wind(Some(key.0));
        }
        key
    }

    /// Takes an alarm back. The clock may ring for nothing then.
    pub fn cancel(&mut self, key: Key) {
        self.alarms.remove(&key);
    }

    /// The clock has rung: the next alarm whose time has come. None: the clock is set for the one after.
    pub fn due(&mut self) -> Option<Alarm> {
        let now = Instant::now();
        let first = self.alarms.first_entry();
        let next = first.as_ref().map(|entry| entry.key().0);
        match first {
            Some(entry) if entry.key().0 <= now => Some(entry.remove()),
            _ => {
                self.wind(next);
                None
            }
        }
    }

    fn wind(&mut self, at: Option<Instant>) {
        let wait = at.map(|at| {
            // Zero would stop the clock.
            at.saturating_duration_since(Instant::now())
                .max(Duration::from_nanos(1))
        });
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = wait.map_or(zero, |wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        let time = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        // Also makes the clock unreadable until then.
        match timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &time) {
            Ok(_) => self.set_for = at,
            Err(error) => tracing::error!(%error, "the clock cannot be set"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(alarms: &Alarms, within: Duration) -> bool {
        let mut fds = [rustix::event::PollFd::new(
            &alarms.clock,
            rustix::event::PollFlags::IN,
        )];
        let wait = Timespec::try_from(within).unwrap();
        rustix::event::poll(&mut fds, Some(&wait)).unwrap() > 0
    }

    #[test]
    fn the_clock_rings_for_the_earliest_and_then_for_the_next() {
        let mut alarms = Alarms::new().unwrap();
        let hour = Duration::from_secs(3600);
        alarms.set(hour, Alarm::Connect(3));
        alarms.set(Duration::from_millis(2), Alarm::Connect(2));
        alarms.set(Duration::from_millis(1), Alarm::Connect(1));
        let mut rung = Vec::new();
        while rung.len() < 2 {
            assert!(rings(&alarms, Duration::from_secs(30)));
            while let Some(alarm) = alarms.due() {
                rung.push(alarm);
            }
        }
        assert_eq!(rung, [Alarm::Connect(1), Alarm::Connect(2)]);
        assert!(!rings(&alarms, Duration::ZERO));
        assert!(alarms.set_for.is_some());
    }

    #[test]
    fn a_clock_without_alarms_is_silent() {
        let mut alarms = Alarms::new().unwrap();
        let key = alarms.set(Duration::from_nanos(1), Alarm::Accept);
        alarms.cancel(key);
        assert!(rings(&alarms, Duration::from_secs(30)));
        assert_eq!(alarms.due(), None);
        assert!(!rings(&alarms, Duration::ZERO));
        assert_eq!(alarms.set_for, None);
    }
}
