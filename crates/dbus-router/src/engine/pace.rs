//! The pace of a router under load: when it lets others run before it waits for more.
//!
//! With many calls under way a bus writes its answers one by one. Who reads each at once pays three system calls
//! for a message, and takes the processor away from the bus that is about to write the next; who gives way first
//! finds them all together. Giving way costs a system call, and time where others have something longer to do, so it
//! is done only while messages come in bunches, and given up for a while where it does not help.

use std::time::Duration;

/// Below this many messages in a turn, on average, there are no bunches: a call and its reply come one by one.
const BUNCH: u32 = 3;
/// The average is of about so many turns.
const TURNS: u32 = 8;
/// One message, in the average's unit.
const ONE: u32 = 256;
/// More messages in a turn than this count as so many: one large bunch is no habit.
const MOST: u32 = 64;
/// Giving way was worth it, if the turn after it has at least so many messages, and took at most so long for each:
/// about what a bus and a service need for one.
const WORTH: u32 = 4;
const EACH: Duration = Duration::from_micros(50);
/// For at most so many turns it is not tried again.
const LONGEST: u32 = 4096;

/// Whether to give way before waiting.
#[derive(Debug)]
pub(super) struct Pace {
    /// Messages in a turn, on average, in units of 1/256.
    average: u32,
    /// Turns until giving way is tried again.
    pause: u32,
    /// How long the next pause is.
    next_pause: u32,
    /// For how long it gave way before this turn.
    gave: Option<Duration>,
}

impl Pace {
    pub fn new() -> Pace {
        Pace {
            average: 0,
            pause: 0,
            next_pause: 1,
            gave: None,
        }
    }

    /// A turn is over in which so many messages came. Returns whether to give way before the next.
    pub fn turn(&mut self, messages: u32) -> bool {
        let messages = messages.min(MOST);
        self.average = self.average - self.average / TURNS + messages * ONE / TURNS;
        if let Some(gave) = self.gave.take() {
            if messages >= WORTH && gave <= EACH * messages {
                self.next_pause = 1;
            } else {
                self.pause = self.next_pause;
                self.next_pause = (self.next_pause * 2).min(LONGEST);
            }
        }
        if self.average < BUNCH * ONE {
            return false;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        true
    }

    /// It gave way, and was back after so long.
    pub fn gave(&mut self, time: Duration) {
        self.gave = Some(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs turns; each gives way for `time` if the pace says so. Returns how often it did.
    fn turns(pace: &mut Pace, messages: impl IntoIterator<Item = u32>, time: Duration) -> usize {
        let mut count = 0;
        for messages in messages {
            if pace.turn(messages) {
                pace.gave(time);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_call_at_a_time_never_gives_way() {
        let mut pace = Pace::new();
        assert_eq!(turns(&mut pace, [1; 10_000], Duration::ZERO), 0);
    }

    #[test]
    fn one_bunch_is_no_habit() {
        let mut pace = Pace::new();
        let lonely = [[500, 1, 1, 1].as_slice(), &[1; 500]].concat();
        assert!(turns(&mut pace, lonely, Duration::ZERO) < 20);
        assert_eq!(turns(&mut pace, [1; 1000], Duration::ZERO), 0);
    }

    #[test]
    fn while_bunches_come_it_gives_way_before_each() {
        let mut pace = Pace::new();
        turns(&mut pace, [20; 20], Duration::from_micros(300));
        assert_eq!(turns(&mut pace, [20; 100], Duration::from_micros(300)), 100);
    }

    #[test]
    fn where_it_brings_nothing_it_is_seldom_tried() {
        let mut pace = Pace::new();
        let count = turns(&mut pace, [3; 20_000], Duration::from_micros(1));
        assert!((1..30).contains(&count), "{count}");
    }

    #[test]
    fn where_others_take_long_it_is_seldom_tried_and_again_when_they_are_gone() {
        let mut pace = Pace::new();
        let count = turns(&mut pace, [10; 20_000], Duration::from_millis(3));
        assert!((1..30).contains(&count), "{count}");
        turns(&mut pace, [10; 5000], Duration::from_micros(100));
        assert_eq!(turns(&mut pace, [10; 100], Duration::from_micros(100)), 100);
    }
}
