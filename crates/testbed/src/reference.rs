//! The reference implementation's own tests (Debian package `dbus-tests`), pointed at a bus of ours.
//!
//! Each case runs in a process of its own, because a case that fails takes the rest of its process along,
//! and because one that hangs is to cost only itself.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::processes::{indented, run_to_end};
use crate::world::{Topology, World, WorldOptions};

/// The suites that can be pointed at a running bus, and do not skip themselves as a whole then.
pub const SUITES: [&str; 5] = [
    "test-dbus-daemon",
    "test-dbus-daemon-eavesdrop",
    "test-fdpass",
    "test-header-fields",
    "test-monitor",
];

/// The slowest case takes a tenth of a second.
const CASE_LIMIT: Duration = Duration::from_secs(30);

/// Where the suites are installed.
pub struct Installation {
    dir: PathBuf,
}

impl Installation {
    /// Finds them, where the distributions put them or where `DBUS_TEST_EXEC` says. `None`: they are not
    /// there, or do not run.
    pub fn find() -> Option<Installation> {
        let named = std::env::var_os("DBUS_TEST_EXEC").map(PathBuf::from);
        let usual = [
            "/usr/lib/dbus-1.0/installed-tests/dbus",
            "/usr/libexec/installed-tests/dbus",
            "/usr/lib64/dbus-1.0/installed-tests/dbus",
        ];
        named
            .into_iter()
            .chain(usual.map(PathBuf::from))
            .map(|dir| Installation { dir })
            .find(|installation| installation.cases(SUITES[0]).is_ok())
    }

    /// The directory with the suites' programs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of a suite's cases.
    ///
    /// # Errors
    /// The suite cannot be run.
    pub fn cases(&self, suite: &str) -> Result<Vec<String>, Failure> {
        let mut command = Command::new(self.dir.join(suite));
        command.arg("-l");
        let output = run_to_end(command, CASE_LIMIT)?;
        let cases: Vec<String> = output
            .stdout
            .lines()
            .filter(|line| line.starts_with('/'))
            .map(str::to_owned)
            .collect();
        if cases.is_empty() {
            return Err(Failure::new(format!(
                "{suite} -l named no cases:\n{}",
                indented(&output.both())
            )));
        }
        Ok(cases)
    }

    /// The command that runs a suite against the bus that programs inside `world` see.
    pub fn command(&self, suite: &str, world: &World) -> Command {
        let address = world.inside();
        let mut command = world.command(&self.dir.join(suite).display().to_string(), &address);
        command
            .env("DBUS_TEST_DAEMON_ADDRESS", address)
            .env("DBUS_TEST_DATA", self.dir.join("data"))
            .env("DBUS_TEST_EXEC", &self.dir);
        command
    }

    fn run_case(&self, suite: &str, case: &str, world: &World) -> Outcome {
        let mut command = self.command(suite, world);
        command.args(["--tap", "-p", case]);
        match run_to_end(command, CASE_LIMIT) {
            Ok(output) => Outcome {
                verdict: verdict_of(case, &output.stdout, output.status.success()),
                log: output.both(),
            },
            Err(failure) => Outcome {
                verdict: Verdict::Failed,
                log: failure.to_string(),
            },
        }
    }

    /// Runs all cases of a suite on one bus, one after the other; on a new one if that bus has died.
    ///
    /// # Errors
    /// The bus or the suite cannot be started.
    pub fn run_suite(&self, suite: &str, topology: Topology) -> Result<Vec<Outcome>, Failure> {
        let mut world = World::try_start(topology, &WorldOptions::default())?;
        let mut outcomes = Vec::new();
        for case in self.cases(suite)? {
            let mut outcome = self.run_case(suite, &case, &world);
            if let Some(mux) = &mut world.mux {
                // One that is about to die takes a moment to be gone.
                let patience = match outcome.verdict {
                    Verdict::Failed => Duration::from_millis(300),
                    Verdict::Passed | Verdict::Skipped => Duration::ZERO,
                };
                if mux.process().wait(Deadline::after(patience)).is_some() {
                    let failure = mux.process().failure("The multiplexer died in this case.");
                    outcome.verdict = Verdict::Failed;
                    write!(outcome.log, "\n{failure}").expect("a String takes all that is written");
                    world = World::try_start(topology, &WorldOptions::default())?;
                } else if outcome.verdict == Verdict::Failed {
                    let log = mux.process().log();
                    write!(
                        outcome.log,
                        "\nThe multiplexer's log so far:\n{}",
                        indented(last_lines(&log, 40))
                    )
                    .expect("a String takes all that is written");
                }
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// Runs a suite in each of `topologies`, all at the same time.
    ///
    /// # Errors
    /// A bus or the suite cannot be started.
    pub fn compare(&self, suite: &str, topologies: &[Topology]) -> Result<Comparison, Failure> {
        let columns = std::thread::scope(|scope| {
            let running: Vec<_> = topologies
                .iter()
                .map(|topology| (*topology, scope.spawn(|| self.run_suite(suite, *topology))))
                .collect();
            running
                .into_iter()
                .map(|(topology, thread)| {
                    let outcomes = thread.join().unwrap_or_else(|panic| {
                        std::panic::resume_unwind(panic);
                    })?;
                    Ok(Column { topology, outcomes })
                })
                .collect::<Result<Vec<_>, Failure>>()
        })?;
        Ok(Comparison {
            suite: suite.to_owned(),
            cases: self.cases(suite)?,
            columns,
        })
    }
}

/// How a case came out.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It says that it does not apply here.
    Skipped,
    /// It failed, hung, or took its process along.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Passed => "ok",
            Verdict::Skipped => "-",
            Verdict::Failed => "FAILED",
        })
    }
}

/// A case's verdict, and all that was said while it ran.
pub struct Outcome {
    /// How it came out.
    pub verdict: Verdict,
    /// What the test printed, and the multiplexer's log if it failed.
    pub log: String,
}

/// One suite in one topology.
pub struct Column {
    /// In which it ran.
    pub topology: Topology,
    /// In the order of the suite's cases.
    pub outcomes: Vec<Outcome>,
}

/// One suite in several topologies.
pub struct Comparison {
    /// Its name.
    pub suite: String,
    /// Its cases.
    pub cases: Vec<String>,
    /// What came out, topology by topology.
    pub columns: Vec<Column>,
}

impl Comparison {
    /// The cases that pass on a plain bus, by their index; all, if it was not among the topologies.
    fn expected(&self) -> Vec<bool> {
        match self
            .columns
            .iter()
            .find(|column| column.topology == Topology::Plain)
        {
            Some(plain) => plain
                .outcomes
                .iter()
                .map(|outcome| outcome.verdict == Verdict::Passed)
                .collect(),
            None => vec![true; self.cases.len()],
        }
    }

    /// What passes on a plain bus and does not pass through the multiplexer.
    pub fn regressions(&self) -> Vec<Regression<'_>> {
        let expected = self.expected();
        self.columns
            .iter()
            .filter(|column| column.topology != Topology::Plain)
            .flat_map(|column| {
                column
                    .outcomes
                    .iter()
                    .enumerate()
                    .filter(|(case, outcome)| expected[*case] && outcome.verdict != Verdict::Passed)
                    .map(|(case, outcome)| Regression {
                        suite: &self.suite,
                        case: &self.cases[case],
                        topology: column.topology,
                        outcome,
                    })
            })
            .collect()
    }

    /// How many cases pass on a plain bus and in every form of the multiplexer.
    pub fn passed_everywhere(&self) -> usize {
        let lost: std::collections::BTreeSet<&str> =
            self.regressions().iter().map(|lost| lost.case).collect();
        self.expected().iter().filter(|passes| **passes).count() - lost.len()
    }

    /// A table of the cases; `only_telling` leaves out those that came out the same everywhere.
    pub fn table(&self, only_telling: bool) -> String {
        let mut table = String::new();
        let mut line = |first: &str, cells: &mut dyn Iterator<Item = String>| {
            let _ = write!(table, "{first:44}");
            for cell in cells {
                let _ = write!(table, " {cell:>8}");
            }
            table.push('\n');
        };
        line(
            &self.suite,
            &mut self
                .columns
                .iter()
                .map(|column| column.topology.to_string()),
        );
        for (index, case) in self.cases.iter().enumerate() {
            let verdicts = self
                .columns
                .iter()
                .map(|column| column.outcomes[index].verdict);
            let first = self.columns[0].outcomes[index].verdict;
            if only_telling && first != Verdict::Failed && verdicts.clone().all(|one| one == first)
            {
                continue;
            }
            line(
                &format!("  {case}"),
                &mut verdicts.map(|verdict| verdict.to_string()),
            );
        }
        line(
            "  passed of those that do not skip themselves",
            &mut self.columns.iter().map(|column| {
                let count = |verdict| {
                    column
                        .outcomes
                        .iter()
                        .filter(|one| one.verdict == verdict)
                        .count()
                };
                let passed = count(Verdict::Passed);
                format!("{passed}/{}", passed + count(Verdict::Failed))
            }),
        );
        table
    }
}

/// A case that passes on a plain bus and not through the multiplexer.
pub struct Regression<'a> {
    /// The suite's name.
    pub suite: &'a str,
    /// The case's name.
    pub case: &'a str,
    /// Where it did not pass.
    pub topology: Topology,
    /// What came out.
    pub outcome: &'a Outcome,
}

impl fmt::Display for Regression<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} {} in topology {}: by itself,\n  cargo xtask reference --suite {} --topology {} -- -p {}",
            self.suite, self.case, self.topology, self.suite, self.topology, self.case
        )?;
        f.write_str(&indented(last_lines(&self.outcome.log, 60)))
    }
}

/// A case's line in the Test Anything Protocol: `ok NUMBER NAME`, `not ok NUMBER NAME`, and
/// `# SKIP WHY` behind it. A failed assertion gives no line for its case, and ends the process.
fn verdict_of(case: &str, tap: &str, ended_well: bool) -> Verdict {
    let line = tap.lines().find_map(|line| {
        let (ok, rest) = match line.strip_prefix("not ") {
            Some(rest) => (false, rest),
            None => (true, line),
        };
        let (_number, rest) = rest.strip_prefix("ok ")?.split_once(' ')?;
        let (name, directive) = match rest.split_once(" # ") {
            Some((name, directive)) => (name, directive),
            None => (rest, ""),
        };
        (name.trim() == case).then_some((ok, directive))
    });
    match line {
        Some((true, directive)) if directive.starts_with("SKIP") => Verdict::Skipped,
        Some((true, _)) if ended_well => Verdict::Passed,
        _ => Verdict::Failed,
    }
}

fn last_lines(text: &str, count: usize) -> &str {
    let from = text
        .rmatch_indices('\n')
        .nth(count)
        .map_or(0, |(index, _)| index + 1);
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_passes_only_by_its_own_line_and_a_clean_exit() {
        let tap = "1..2\nok 1 /a/b\nok 2 /c # SKIP not at an address\n";
        assert_eq!(verdict_of("/a/b", tap, true), Verdict::Passed);
        assert_eq!(verdict_of("/a/b", tap, false), Verdict::Failed);
        assert_eq!(verdict_of("/a", tap, true), Verdict::Failed);
        assert_eq!(verdict_of("/c", tap, true), Verdict::Skipped);
        assert_eq!(verdict_of("/a", "not ok 1 /a\n", false), Verdict::Failed);
        assert_eq!(verdict_of("/a", "", true), Verdict::Failed);
    }

    #[test]
    fn the_last_lines_of_a_text_are_whole() {
        assert_eq!(last_lines("a\nb\nc\n", 1), "c\n");
        assert_eq!(last_lines("a\nb\nc\n", 9), "a\nb\nc\n");
    }
}
