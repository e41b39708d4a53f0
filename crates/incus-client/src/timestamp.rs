//! Times as Incus writes them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A time as Incus writes it (RFC 3339, such as `2026-03-01T12:30:00.123456789Z`).
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(String);

impl Timestamp {
    /// The text, as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Seconds since 1970-01-01 00:00 UTC; `None` for the times that stand for "never" (Go's year 1, and the
    /// epoch itself), and for what is no time.
    pub fn unix_seconds(&self) -> Option<i64> {
        let seconds = parse(&self.0)?;
        (seconds > 0).then_some(seconds)
    }

    /// The same in nanoseconds, for what came before what. Incus writes as many digits as are not zero.
    pub fn unix_nanoseconds(&self) -> Option<i128> {
        let seconds = self.unix_seconds()?;
        let digits = self.0.get(19..)?.strip_prefix('.').unwrap_or_default();
        let fraction = digits
            .bytes()
            .take_while(u8::is_ascii_digit)
            .chain(std::iter::repeat(b'0'))
            .take(9)
            .fold(0, |number, digit| number * 10 + i128::from(digit - b'0'));
        Some(i128::from(seconds) * 1_000_000_000 + fraction)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Timestamp {
    fn from(text: &str) -> Timestamp {
        Timestamp(text.to_owned())
    }
}

fn parse(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        all_digits.then(|| digits.parse::<i64>().ok()).flatten()
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let bytes = text.as_bytes();
    if separators
        .iter()
        .any(|(at, byte)| bytes.get(*at) != Some(byte))
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let zone = text
        .get(19..)?
        .trim_start_matches(['.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
    let offset = match zone.as_bytes() {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), hours @ .., b':', _, _] if hours.len() == 2 => {
            let hours: i64 = zone.get(1..3)?.parse().ok()?;
            let minutes: i64 = zone.get(4..6)?.parse().ok()?;
            let offset = hours * 3600 + minutes * 60;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    // Days since the epoch in the Gregorian calendar, with years that begin in March.
    let (shifted_year, shifted_month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100
        + day_of_year
        - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_second_in_any_zone() {
        let seconds = |text: &str| Timestamp::from(text).unix_seconds();
        assert_eq!(seconds("2001-09-09T01:46:40Z"), Some(1_000_000_000));
        assert_eq!(seconds("2001-09-09T03:46:40.5+02:00"), Some(1_000_000_000));
        assert_eq!(seconds("2001-09-08T20:16:40-05:30"), Some(1_000_000_000));
        assert_eq!(seconds("2024-02-29T00:00:00Z"), Some(1_709_164_800));
    }

    #[test]
    fn times_are_compared_to_the_nanosecond() {
        let after = |text: &str| {
            let nanoseconds = Timestamp::from(text).unix_nanoseconds()?;
            Some(nanoseconds - 1_000_000_000_000_000_000)
        };
        assert_eq!(after("2001-09-09T01:46:40Z"), Some(0));
        assert_eq!(after("2001-09-09T01:46:40.5Z"), Some(500_000_000));
        assert_eq!(after("2001-09-09T03:46:40.000000042+02:00"), Some(42));
        assert_eq!(after("2001-09-09T01:46:40.0000000429Z"), Some(42));
        assert_eq!(after("0001-01-01T00:00:00Z"), None);
    }

    #[test]
    fn never_and_nonsense_are_no_times() {
        for text in [
            "0001-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z",
            "",
            "yesterday",
            "2001-13-09T01:46:40Z",
            "2001-09-09T01:46:40",
            "2001-09-09T+1:46:40Z",
            "2001-09-09T01:46:40+é:0",
        ] {
            assert_eq!(Timestamp::from(text).unix_seconds(), None, "{text}");
        }
    }
}
