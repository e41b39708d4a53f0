//! That docs/corner-cases.md has every line, and every line its tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What has to be set in the environment for the list to be written instead of compared.
const WRITE: &str = "WRITE_CORNER_CASES";

/// Where the tests of the list stand, as the list writes it.
const HERE: &str = "crates/kapsule-dbus-mux/tests/corner_cases";

/// The line that is for what comes after this: exported names.
const LATER: &str = "25";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All lines of the list: 1 to 36, and the two that came later.
fn lines() -> impl Iterator<Item = String> {
    (1..=36).flat_map(|number| {
        let more = matches!(number, 15 | 24).then(|| format!("{number}a"));
        [Some(number.to_string()), more].into_iter().flatten()
    })
}

/// The names of the tests in a file: those with the attribute, and those that run in topologies.
fn tests_in(source: &str) -> Vec<String> {
    let name_after_fn = |text: &str| {
        let name: String = text
            .chars()
            .take_while(|it| it.is_alphanumeric() || *it == '_')
            .collect();
        (!name.is_empty()).then_some(name)
    };
    let attributed = source.split("#[test]").skip(1).filter_map(|rest| {
        let (_, after) = rest.split_once("fn ")?;
        name_after_fn(after)
    });
    let in_topologies = source.split("in_topologies!(").skip(1).flat_map(|rest| {
        let list = rest.split_once(");").map_or("", |(list, _)| list);
        // `@ TEST: …` names the topologies one by one.
        let names = match list.split_once(':') {
            Some((test, _)) if test.starts_with('@') => &test[1..],
            Some((_, tests)) => tests,
            None => "",
        };
        names
            .split(',')
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
    });
    attributed.chain(in_topologies).collect()
}

/// The numbers with which the documentation of a function begins: `Line 4.`, `Lines 2 and 3.`, `Line 21, line 22.`
fn lines_of(source: &str, function: &str) -> Vec<String> {
    let Some(at) = source.find(&format!("fn {function}(")) else {
        return Vec::new();
    };
    // What is before `fn` on its own line is no documentation.
    let above = source[..at]
        .rsplit_once('\n')
        .map_or("", |(above, _)| above);
    let first = above
        .lines()
        .rev()
        .map(str::trim_start)
        .take_while(|line| line.starts_with("///") || line.starts_with("#["))
        .filter_map(|line| line.strip_prefix("/// "))
        .last()
        .unwrap_or_default();
    let Some(numbers) = first
        .strip_prefix("Line")
        .and_then(|rest| rest.split('.').next())
    else {
        return Vec::new();
    };
    numbers
        .split(|it: char| !(it.is_ascii_alphanumeric()))
        .filter(|word| word.starts_with(|it: char| it.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

/// Each test of this directory by the heading to which it belongs, as the list writes it.
fn tests_by_heading() -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut files: Vec<PathBuf> = fs::read_dir(repository().join(HERE))
        .expect("this directory")
        .map(|entry| entry.expect("this directory").path())
        .collect();
    files.sort();
    for file in files {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name == "every_line.rs" {
            continue;
        }
        let source = fs::read_to_string(&file).expect("a file of this directory");
        for test in tests_in(&source) {
            let entry = format!("- `{HERE}/{name}`: `{test}`");
            let lines = lines_of(&source, &test);
            let headings = match (&*name, lines.is_empty()) {
                (_, false) => lines,
                ("hostile.rs", true) => vec!["Clients that mean harm".to_owned()],
                ("applications.rs", true) => vec!["Applications".to_owned()],
                (_, true) => panic!("{name}: the documentation of {test} begins with no line"),
            };
            for heading in headings {
                found.entry(heading).or_default().push(entry.clone());
            }
        }
    }
    found
}

/// The heading of a section: `4` of `## 4: File descriptors`, or all of it.
fn heading(line: &str) -> Option<String> {
    let title = line.strip_prefix("## ")?;
    let word = title.split(':').next().unwrap_or(title);
    Some(word.to_owned())
}

/// The list with these tests of this directory in it, in the place of those that it has.
fn with_tests(list: &str, tests: &BTreeMap<String, Vec<String>>) -> String {
    let ours = format!("- `{HERE}/");
    let mut sections: Vec<(Option<String>, Vec<String>)> = vec![(None, Vec::new())];
    for line in list.lines().filter(|line| !line.starts_with(&ours)) {
        if let Some(heading) = heading(line) {
            sections.push((Some(heading), Vec::new()));
        }
        let section = sections
            .last_mut()
            .expect("there is the one before the first heading");
        section.1.push(line.to_owned());
    }
    let mut text = String::new();
    for (heading, mut lines) in sections {
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        if let Some(tests) = heading.and_then(|heading| tests.get(&heading)) {
            if !lines.last().is_some_and(|line| line.starts_with("- ")) {
                lines.push(String::new());
            }
            lines.extend(tests.iter().cloned());
        }
        text.push_str(&lines.join("\n"));
        text.push_str("\n\n");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Every line has a heading in the list and a test; every test that says a line is in the list, and those of other
/// crates that the list names are there.
#[test]
fn every_line_has_a_test() {
    let path = repository().join("docs/corner-cases.md");
    let list = fs::read_to_string(&path).expect("docs/corner-cases.md");
    let tests = tests_by_heading();
    let headings: Vec<String> = list.lines().filter_map(heading).collect();
    for heading in lines().chain(tests.keys().cloned()) {
        assert!(
            headings.contains(&heading),
            "docs/corner-cases.md has no heading {heading}"
        );
    }
    for line in lines().filter(|line| line != LATER) {
        assert!(
            tests.contains_key(&line),
            "no test begins with `/// Line {line}.`"
        );
    }

    let current = with_tests(&list, &tests);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &current).expect("docs/corner-cases.md");
    } else {
        let differs = list
            .lines()
            .zip(current.lines())
            .find(|(old, new)| old != new);
        assert!(
            list == current,
            "docs/corner-cases.md is not up to date, from {differs:?} on; \
             `{WRITE}=1 cargo test -p kapsule-dbus-mux --test corner_cases every_line` writes it"
        );
    }

    for line in current
        .lines()
        .filter(|line| line.starts_with("- `crates/"))
    {
        let mut words = line.split('`').skip(1).step_by(2);
        let (Some(file), Some(test)) = (words.next(), words.next()) else {
            panic!("`FILE`: `TEST` was awaited, not {line}");
        };
        let source = fs::read_to_string(repository().join(file)).unwrap_or_default();
        assert!(
            source.contains(&format!("fn {test}(")),
            "{file} has no test {test}"
        );
    }
}
