//! Tables that a person reads.

use comfy_table::{Cell, ContentArrangement, Table};

use crate::text::plain;

/// A table with a row of headings and no lines around it.
pub fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        // A line is one thing; what is too wide for the terminal is wrapped by the terminal.
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings.map(Cell::new));
    for row in rows {
        table.add_row(row.map(|text| Cell::new(plain(&text))));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A day and a time, to the minute, from what RFC 3339 has; as it is if it is not that.
pub fn moment(rfc3339: &str) -> String {
    let (day, time) = rfc3339.split_once('T').unwrap_or((rfc3339, ""));
    let time: String = time.chars().take(5).collect();
    format!("{day} {time}").trim().to_owned()
}

/// A day and a time in UTC, from seconds since 1970: `2026-11-20 10:13`.
pub fn moment_of(seconds: u64) -> String {
    let (day, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(day);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}",
        rest / 3600,
        rest / 60 % 60
    )
}

/// A date from days since 1970, in years that begin with March (so that the leap day is the last).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from March 1st of the year 0
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day_of_month)
}

/// A size for a person: `1.4 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{size:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_harmless() {
        let rows = [
            ["a".to_owned(), "\u{1b}[31mred".to_owned()],
            ["longer".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            table(["NAME", "STATUS"], rows),
            "NAME    STATUS\na       \\u{1b}[31mred\nlonger  x\n"
        );
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        assert_eq!(
            moment("2026-11-20T10:13:58.123Z"),
            "2026-11-20 10:13".to_owned()
        );
        assert_eq!(moment("whenever"), "whenever");
        assert_eq!(moment_of(0), "1970-01-01 00:00");
        assert_eq!(moment_of(951_782_399), "2000-02-28 23:59");
        assert_eq!(moment_of(951_825_600), "2000-02-29 12:00");
        assert_eq!(moment_of(1_795_169_638), "2026-11-20 10:13");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1_503_238_553), "1.4 GiB");
    }
}
