//! Counts what a test harness says: cargo's own, or cargo-nextest.

use std::fmt;

/// Whose output it is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Harness {
    /// `cargo test`, with `--show-output`.
    Cargo,
    /// `cargo nextest run`, with the output of what passes shown at once and of what fails at the end.
    Nextest,
}

/// How many tests came out how, and what is to be said of them.
#[derive(Default, Clone, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Tests that the harness says passed.
    ok: usize,
    /// Tests that failed.
    pub failed: usize,
    /// The tests that could not run here, `TEST: WHY`. The harness counts most of them as passed.
    pub skipped: Vec<String>,
    /// How many of those the harness does not count as passed.
    ignored: usize,
    /// What the harness says of the failures.
    pub details: String,
}

impl Tally {
    /// Tests that ran and passed.
    pub fn passed(&self) -> usize {
        (self.ok + self.ignored).saturating_sub(self.skipped.len())
    }

    /// One more that passed.
    pub fn pass(&mut self) {
        self.ok += 1;
    }

    /// One more that failed, and what is to be said of it.
    pub fn fail(&mut self, details: &str) {
        self.failed += 1;
        self.detail(details);
    }

    /// One more that cannot run here: `TEST: WHY`.
    pub fn skip(&mut self, skipped: String) {
        self.skipped.push(skipped);
        self.ignored += 1;
    }

    /// Adds another's counts to these.
    pub fn add(&mut self, other: Tally) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.ignored += other.ignored;
        self.details.push_str(&other.details);
    }

    fn detail(&mut self, line: &str) {
        self.details.push_str(line);
        self.details.push('\n');
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed(),
            self.failed,
            self.skipped.len()
        )
    }
}

/// Reads a harness's output line by line.
pub struct Reader {
    harness: Harness,
    /// What has been counted.
    tally: Tally,
    /// Of cargo's: the test program that runs, until it has told its result.
    running: Option<String>,
    /// In the part that tells of the failures.
    in_details: bool,
}

impl Reader {
    /// Of this harness.
    pub fn new(harness: Harness) -> Reader {
        Reader {
            harness,
            tally: Tally::default(),
            running: None,
            in_details: false,
        }
    }

    /// Reads one line. Gives back what to show of the progress, if the line tells of any.
    pub fn line(&mut self, line: &str) -> Option<String> {
        let trimmed = line.trim();
        if let Some(skipped) = trimmed.strip_prefix("SKIPPED: ") {
            if !self.tally.skipped.iter().any(|known| known == skipped) {
                self.tally.skipped.push(skipped.to_owned());
            }
            return None;
        }
        let name = match self.harness {
            Harness::Cargo => self.cargo_line(line, trimmed)?,
            Harness::Nextest => self.nextest_line(line, trimmed)?,
        };
        let failed = match self.tally.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        Some(format!("{} passed{failed}: {name}", self.tally.ok))
    }

    /// What was counted, once there is no more to read.
    pub fn finish(mut self, ended_well: bool) -> Tally {
        self.program_ends();
        if !ended_well && self.tally.failed == 0 {
            self.tally
                .fail("the test run failed (its log is named above)");
        }
        self.tally
    }

    /// `test NAME ... ok`, and around it `Running PROGRAM` and `test result: …`.
    fn cargo_line<'a>(&mut self, line: &'a str, trimmed: &'a str) -> Option<&'a str> {
        let program = trimmed
            .strip_prefix("Running ")
            .or(trimmed.strip_prefix("Doc-tests "));
        if let Some(program) = program {
            self.program_ends();
            self.running = Some(program.to_owned());
            return Some(program);
        }
        if trimmed.starts_with("test result: ") {
            self.running = None;
            self.in_details = false;
            return None;
        }
        if trimmed == "failures:" {
            self.in_details = true;
        }
        if self.in_details {
            self.tally.detail(line);
            return None;
        }
        let (name, outcome) = trimmed.strip_prefix("test ")?.rsplit_once(" ... ")?;
        match outcome {
            "ok" => self.tally.ok += 1,
            "FAILED" => self.tally.failed += 1,
            outcome if outcome.starts_with("ignored") => {
                self.tally.skip(format!("{name}: {outcome}"));
            }
            _ => return None,
        }
        Some(name)
    }

    /// A program that ends without its result has died in the middle of a test.
    fn program_ends(&mut self) {
        if let Some(program) = self.running.take() {
            self.tally
                .fail(&format!("{program} died before it told its result"));
        }
    }

    /// `PASS [   0.010s] (1/3) PACKAGE NAME`, and at the end `Summary […] …` with the failures below it.
    fn nextest_line<'a>(&mut self, line: &str, trimmed: &'a str) -> Option<&'a str> {
        if self.in_details {
            self.tally.detail(line);
            return None;
        }
        let (word, rest) = trimmed.split_once(" [")?;
        if word == "Summary" {
            self.in_details = true;
            return None;
        }
        let (_time, name) = rest.split_once(']')?;
        match word {
            "PASS" | "LEAK" => self.tally.ok += 1,
            "FAIL" | "ABORT" | "TIMEOUT" | "LEAK-FAIL" => self.tally.failed += 1,
            word if word.starts_with("SIG") => self.tally.failed += 1,
            _ => return None,
        }
        Some(name.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(harness: Harness, output: &str, ended_well: bool) -> Tally {
        let mut reader = Reader::new(harness);
        for line in output.lines() {
            reader.line(line);
        }
        reader.finish(ended_well)
    }

    #[test]
    fn of_cargo_a_skipped_test_does_not_count_as_passed() {
        let tally = read(
            Harness::Cargo,
            "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\
             running 3 tests\ntest a ... ok\nSKIPPED: b: no bus here\ntest b ... ok\n\
             test c ... ignored, slow\ntest result: ok. 2 passed; 0 failed\n",
            true,
        );
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn of_cargo_the_failures_are_kept_and_a_program_that_dies_is_one() {
        let tally = read(
            Harness::Cargo,
            "     Running tests/a.rs (a)\ntest x ... FAILED\n\nfailures:\n\n---- x stdout ----\nwhy\n\n\
             test result: FAILED. 0 passed; 1 failed\n     Running tests/b.rs (b)\nrunning 9 tests\n\
             error: test failed\n",
            false,
        );
        assert_eq!(tally.to_string(), "0 passed, 2 failed, 0 skipped");
        assert!(tally.details.contains("why"));
        assert!(tally.details.contains("tests/b.rs (b) died"));
    }

    #[test]
    fn of_nextest_failures_count_once_although_they_are_listed_twice() {
        let tally = read(
            Harness::Nextest,
            "        PASS [   0.006s] (1/4) p a\n  stdout ───\n    test a ... ok\n\
             \x20       PASS [   0.006s] (2/4) p b\n  stderr ───\n    SKIPPED: b: no bus here\n\
             \x20    SIGABRT [   0.007s] (3/4) p d\n        FAIL [   0.093s] (4/4) p c\n────────────\n\
             \x20    Summary [   0.093s] 4 tests run: 2 passed, 2 failed, 1 skipped\n\
             \x20    SIGABRT [   0.007s] (3/4) p d\n        FAIL [   0.093s] (4/4) p c\n    why\n",
            false,
        );
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 1 skipped");
        assert!(tally.details.contains("why"));
    }

    #[test]
    fn a_run_that_fails_before_any_test_is_a_failure() {
        let tally = read(Harness::Cargo, "error: could not compile\n", false);
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 0 skipped");
    }
}
