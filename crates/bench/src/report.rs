//! Medians over rounds, ratios, a table, JSON, and a plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::scenario::{Figures, Scenario};
use crate::subject::Kind;

#[derive(Default)]
struct Cell {
    runs: Vec<Figures>,
    syscalls: Option<f64>,
    failure: Option<String>,
}

struct Row {
    name: &'static str,
    inside: bool,
    cells: BTreeMap<Kind, Cell>,
}

struct Table {
    title: &'static str,
    rows: Vec<(&'static str, Vec<String>)>,
}

/// Everything that was measured.
pub struct Report {
    kinds: Vec<Kind>,
    rows: Vec<Row>,
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Cell {
    fn of(&self, figure: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        if self.failure.is_some() {
            return None;
        }
        median(self.runs.iter().filter_map(figure))
    }

    fn ns(&self) -> Option<f64> {
        self.of(|figures| Some(figures.ns))
    }
}

impl Report {
    pub fn new(kinds: &[Kind]) -> Report {
        Report {
            kinds: kinds.to_vec(),
            rows: Vec::new(),
        }
    }

    pub fn add(&mut self, scenario: &Scenario, kind: Kind, outcome: Result<Figures, String>) {
        if self.rows.last().is_none_or(|row| row.name != scenario.name) {
            let (name, inside) = (scenario.name, scenario.inside);
            self.rows.push(Row {
                name,
                inside,
                cells: BTreeMap::new(),
            });
        }
        let Some(row) = self.rows.last_mut() else {
            return;
        };
        let cell = row.cells.entry(kind).or_default();
        match outcome {
            Ok(figures) => cell.runs.push(figures),
            Err(problem) => cell.failure = Some(problem),
        }
    }

    /// Adds what a run in which system calls were counted has found.
    pub fn add_count(&mut self, scenario: &Scenario, kind: Kind, outcome: Result<Figures, String>) {
        let rows = self.rows.iter_mut();
        let row = rows.rev().find(|row| row.name == scenario.name);
        let Some(cell) = row.and_then(|row| row.cells.get_mut(&kind)) else {
            return;
        };
        match outcome {
            Ok(figures) => cell.syscalls = figures.cost.syscalls,
            Err(problem) => cell.failure = Some(problem),
        }
    }

    pub fn has_failures(&self) -> bool {
        self.rows
            .iter()
            .flat_map(|row| row.cells.values())
            .any(|cell| cell.failure.is_some())
    }

    /// What a row is compared with.
    fn base(row: &Row) -> Kind {
        if row.inside {
            Kind::Direct
        } else {
            Kind::Relay
        }
    }

    /// The median of each round's ratio: what drifts between rounds is in neither.
    fn ratio(row: &Row, kind: Kind) -> Option<f64> {
        let (base, cell) = (row.cells.get(&Report::base(row))?, row.cells.get(&kind)?);
        if base.failure.is_some() || cell.failure.is_some() {
            return None;
        }
        let rounds = cell.runs.iter().zip(&base.runs);
        median(rounds.map(|(run, base)| run.ns / base.ns))
    }

    /// The tables: a title, and for each row its name and a cell for each subject.
    fn tables(&self) -> Vec<Table> {
        let times = |row: &Row| {
            let cell = |kind: &Kind| match row.cells.get(kind) {
                None => "-".to_owned(),
                Some(cell) if cell.failure.is_some() => "FAILED".to_owned(),
                Some(cell) => {
                    let ratio = Report::ratio(row, *kind);
                    let ratio = ratio.map_or(String::new(), |it| format!(" ({it:.2}×)"));
                    format!("{}{ratio}", time(cell.ns().unwrap_or(0.0)))
                }
            };
            (row.name, self.kinds.iter().map(cell).collect())
        };
        let mut tables = vec![Table {
            title: "Time for one call, delivery or connection",
            rows: self.rows.iter().map(times).collect(),
        }];
        type Get = fn(&Cell) -> Option<f64>;
        type Show = fn(f64) -> String;
        let more: [(&str, Get, Show); 4] = [
            ("99th percentile", |cell| cell.of(|it| it.p99_ns), time),
            (
                "Processor time of the subject for one message",
                |cell| cell.of(|it| it.cost.cpu_ns),
                time,
            ),
            (
                "System calls of the subject for one message",
                |cell| cell.syscalls,
                |count| format!("{count:.2}"),
            ),
            (
                "Memory: of one idle client, or at the peak over the start",
                |cell| cell.of(|it| it.kib),
                |kib| format!("{kib:.1} KiB"),
            ),
        ];
        for (title, get, show) in more {
            let rows = self.rows.iter().filter_map(|row| {
                let values = self.kinds.iter().map(|kind| get(row.cells.get(kind)?));
                let values: Vec<Option<f64>> = values.collect();
                let shown = values.iter().map(|it| it.map_or("-".to_owned(), show));
                let measured = values.iter().any(Option::is_some);
                measured.then(|| (row.name, shown.collect()))
            });
            let rows: Vec<_> = rows.collect();
            if !rows.is_empty() {
                tables.push(Table { title, rows });
            }
        }
        tables
    }

    /// For a person at a terminal.
    pub fn table(&self) -> String {
        const COLUMN: usize = 19;
        let mut out = String::from(
            "\nMedians. Ratios are to the relay in the same round; inside, to dbus-daemon (direct).\n",
        );
        for table in self.tables() {
            let heads = self.kinds.iter().map(|kind| kind.name().to_owned());
            let first = ("", heads.collect());
            let _ = writeln!(out, "\n{}", table.title);
            for (name, cells) in std::iter::once(&first).chain(&table.rows) {
                let cells: String = cells.iter().map(|it| format!("{it:>COLUMN$}")).collect();
                let _ = writeln!(out, "{name:31}{cells}");
            }
        }
        for row in &self.rows {
            for (kind, cell) in &row.cells {
                if let Some(problem) = &cell.failure {
                    let _ = writeln!(out, "FAILED {} on {}: {problem}", row.name, kind.name());
                }
            }
        }
        out
    }

    /// The same tables for a document.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for table in self.tables() {
            let heads: String = self
                .kinds
                .iter()
                .map(|kind| format!(" {} |", kind.name()))
                .collect();
            let lines = "---|".repeat(self.kinds.len());
            let _ = writeln!(out, "## {}\n\n| |{heads}\n|---|{lines}", table.title);
            for (name, cells) in &table.rows {
                let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
            }
            out.push('\n');
        }
        out
    }

    /// Everything, for programs.
    pub fn json(&self) -> String {
        let rows: Vec<serde_json::Value> = self
            .rows
            .iter()
            .flat_map(|row| {
                row.cells.iter().map(move |(kind, cell)| {
                    serde_json::json!({
                        "scenario": row.name,
                        "subject": kind.name(),
                        "ratio": Report::ratio(row, *kind),
                        "compared_with": Report::base(row).name(),
                        "median_ns": cell.ns(),
                        "syscalls": cell.syscalls,
                        "failure": cell.failure,
                        "runs": cell.runs,
                    })
                })
            })
            .collect();
        serde_json::to_string_pretty(&rows).expect("numbers and strings can be written as JSON")
    }

    /// The ratios as bars.
    pub fn svg(&self) -> String {
        const COLOURS: [&str; 8] = [
            "#888", "#e6ab02", "#bbb", "#d95f02", "#1b9e77", "#7570b3", "#66a61e", "#a6761d",
        ];
        const BAR: usize = 12;
        const LEFT: usize = 230;
        const SCALE: f64 = 220.0;
        let mut body = String::new();
        let mut y = 40;
        for row in &self.rows {
            let middle = y + self.kinds.len() * BAR / 2 + 4;
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
                LEFT - 8,
                row.name
            );
            for (number, kind) in self.kinds.iter().enumerate() {
                let Some(ratio) = Report::ratio(row, *kind) else {
                    continue;
                };
                let width = (ratio * SCALE).min(3.2 * SCALE);
                let top = y + number * BAR;
                let _ = writeln!(
                    body,
                    "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.0}\" height=\"{}\" fill=\"{}\"/>\
                     <text x=\"{:.0}\" y=\"{}\" class=\"small\">{ratio:.2}</text>",
                    BAR - 2,
                    COLOURS[number % COLOURS.len()],
                    LEFT as f64 + width + 4.0,
                    top + BAR - 3
                );
            }
            y += self.kinds.len() * BAR + 14;
        }
        let legend: String = self
            .kinds
            .iter()
            .enumerate()
            .map(|(number, kind)| {
                let x = LEFT + number * 130;
                format!(
                    "<rect x=\"{x}\" y=\"10\" width=\"10\" height=\"10\" fill=\"{}\"/>\
                     <text x=\"{}\" y=\"19\">{}</text>",
                    COLOURS[number % COLOURS.len()],
                    x + 14,
                    kind.name()
                )
            })
            .collect();
        let one = LEFT as f64 + SCALE;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1000\" height=\"{}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<style>.small {{ font-size: 9px }}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{legend}\n\
             <line x1=\"{one}\" x2=\"{one}\" y1=\"30\" y2=\"{y}\" stroke=\"#444\" stroke-dasharray=\"3\"/>\n\
             {body}</svg>\n",
            y + 10
        )
    }
}

fn time(ns: f64) -> String {
    if ns < 10_000.0 {
        format!("{ns:.0} ns")
    } else if ns < 10_000_000.0 {
        format!("{:.1} µs", ns / 1e3)
    } else {
        format!("{:.1} ms", ns / 1e6)
    }
}
