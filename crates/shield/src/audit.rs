//! The audit log: one JSON object a line, written before anybody is told.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// When the log has grown to this, it becomes `audit.jsonl.1`, and a new one begins.
const ROTATE_AT: u64 = 16 * 1024 * 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, in UTC: `2026-04-05T10:00:00Z`.
    pub ts: String,
    /// The container.
    pub container: String,
    /// `blocked`, `allowed`, `denied`, `lost`, `failed`, `up`, `down`.
    pub action: String,
    /// The address, or a name, or empty.
    pub dest: String,
    /// What else there is to say.
    #[serde(default)]
    pub detail: String,
}

/// The log of one container.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    container: String,
    file: File,
    length: u64,
}

impl AuditLog {
    /// Opens the log for appending.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, container: &str) -> io::Result<Self> {
        let file = append_to(path)?;
        Ok(Self {
            length: file.metadata()?.len(),
            path: path.to_path_buf(),
            container: container.to_owned(),
            file,
        })
    }

    /// Writes one line, whole.
    ///
    /// # Errors
    /// What the file system says; who cannot write it must not open anything.
    pub fn write(&mut self, action: &str, dest: &str, detail: &str) -> io::Result<()> {
        if self.length >= ROTATE_AT {
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            self.file = append_to(&self.path)?;
            self.length = 0;
        }
        let line = Line {
            ts: timestamp(SystemTime::now()),
            container: self.container.clone(),
            action: action.to_owned(),
            dest: dest.to_owned(),
            detail: detail.to_owned(),
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The time in UTC as RFC 3339 has it, to the second.
pub fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years of 146097 days: March as the first month puts the leap
    // day last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_775_383_200, "2026-04-05T10:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_line_has_its_keys_in_the_order_that_readers_know() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = AuditLog::open(&path, "c").unwrap();
        log.write("allowed", "203.0.113.1", "x").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let after_time = text.split_once("Z\",").unwrap().1;
        assert_eq!(
            after_time,
            "\"container\":\"c\",\"action\":\"allowed\",\"dest\":\"203.0.113.1\",\"detail\":\"x\"}\n"
        );
    }

    #[test]
    fn a_log_that_has_grown_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = AuditLog::open(&path, "c").unwrap();
        log.length = ROTATE_AT;
        log.write("blocked", "203.0.113.1", "").unwrap();
        assert!(dir.path().join("audit.jsonl.1").exists());
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
    }
}
