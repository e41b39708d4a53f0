//! The file with the rules: TOML, and what is wrong with it at its place.
//!
//! Everything that is wrong is found at once, and a file with one fault in it gives no rules at all.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::decision_log::{DecisionLog, LogTarget};
use super::diagnostic::{Problem, Report, line_of, nearest};
use crate::{
    Access, Export, Glob, HostPass, InterfaceExport, MemberRule, NamePattern, NameRule, Rename,
    RuleId, Rules, Side,
};

/// What a file says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConfigFile {
    /// The rules.
    pub rules: Rules,
    /// `[log]`.
    pub log: Option<DecisionLog>,
}

const KEYS: [&str; 12] = [
    "app_id",
    "container",
    "default",
    "export",
    "export_interface",
    "filter",
    "host_environment",
    "host_monitor",
    "host_routes",
    "hostpass",
    "log",
    "unmentioned",
];

/// Why there is no [`ConfigFile`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What is in it is wrong.
    #[error("{0}")]
    Wrong(#[from] Report),
}

/// Reads the file at `path`.
///
/// # Errors
/// It cannot be read, is not UTF-8, or something in it is wrong.
pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(parse(&path.display().to_string(), &text)?)
}

/// Reads `text`; `file` is what it is called in errors.
///
/// # Errors
/// Everything that is wrong in it.
pub fn parse(file: &str, text: &str) -> Result<ConfigFile, Report> {
    let (table, faults) = DeTable::parse_recoverable(text);
    if !faults.is_empty() {
        let problems = faults
            .iter()
            .map(|fault| Problem::new(fault.span().unwrap_or(0..0), fault.message()))
            .collect();
        return Err(Report::new(file, text, problems));
    }
    let mut reader = Reader {
        text,
        problems: Vec::new(),
    };
    let config = reader.config(table.get_ref());
    if reader.problems.is_empty() {
        Ok(config)
    } else {
        Err(Report::new(file, text, reader.problems))
    }
}

type Value<'a> = Spanned<DeValue<'a>>;

/// What a key may be, where it is none of the simple kinds.
type ReadText<T> = fn(&str) -> Result<T, String>;

struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn config(&mut self, table: &DeTable<'_>) -> ConfigFile {
        self.keys(table, &KEYS, "the file");
        let mut rules = Rules::default();
        if let Some(side) = self.text(table, "default", side) {
            rules.default = side;
        }
        if let Some(access) = self.text(table, "unmentioned", access) {
            rules.unmentioned = access;
        }
        if let Some(container) = self.text(table, "container", any_text) {
            rules.container = container;
        }
        rules.app_id = self.text(table, "app_id", app_id);
        rules.host_monitor = self.flag(table, "host_monitor").unwrap_or(false);
        rules.host_environment = self.flag(table, "host_environment").unwrap_or(false);
        self.each(table, "host_routes", |reader, id, rule, span| {
            let name = reader.needed(rule, "destination", name_or_all, id, span)?;
            let access = reader.text(rule, "access", access);
            rules.names.push(NameRule {
                id,
                name,
                access: access.unwrap_or(Access::Talk),
                lives_on_host: true,
                calls: reader.members(rule, "calls").unwrap_or_default(),
                broadcasts: reader.members(rule, "broadcasts").unwrap_or_default(),
            });
            Some(())
        });
        self.each(table, "filter", |reader, id, rule, span| {
            let name = reader.needed(rule, "name", name_or_all, id, span.clone());
            let calls = reader.members(rule, "calls");
            let broadcasts = reader.members(rule, "broadcasts");
            let access = if rule.contains_key("access") {
                reader.text(rule, "access", access)?
            } else if calls.is_some() || broadcasts.is_some() {
                Access::See
            } else {
                reader
                    .problems
                    .push(Problem::new(span, "this rule allows nothing").help(
                        "write access = \"see\", \"talk\" or \"own\", or give calls or broadcasts",
                    ));
                return None;
            };
            rules.names.push(NameRule {
                id,
                name: name?,
                access,
                lives_on_host: false,
                calls: calls.unwrap_or_default(),
                broadcasts: broadcasts.unwrap_or_default(),
            });
            Some(())
        });
        // All host routes first, then all filters: put them in the order in which they stand.
        rules.names.sort_by_key(|rule| rule.id.line);
        self.each(table, "hostpass", |reader, id, rule, span| {
            let pass = HostPass {
                id,
                process: reader.text(rule, "process", process),
                cgroup: reader.text(rule, "cgroup", glob),
                unit: reader.text(rule, "unit", glob),
                everyone: reader.flag(rule, "everyone").unwrap_or(false),
                access: reader.text(rule, "access", access).unwrap_or(Access::Own),
            };
            let matches_somebody = ["process", "cgroup", "unit"]
                .iter()
                .any(|key| rule.contains_key(*key));
            if !matches_somebody && !pass.everyone {
                reader.problems.push(
                    Problem::new(span, "this rule matches no client").help(
                        "say which: process = \"/usr/bin/…\", cgroup, unit, or everyone = true",
                    ),
                );
            }
            rules.hostpass.push(pass);
            Some(())
        });
        self.each(table, "export", |reader, id, rule, span| {
            let name = reader.needed(rule, "name", name, id, span);
            let rename = reader.text(rule, "rename", rename);
            let export = Export {
                id,
                name: name?,
                rename,
                signals: reader.flag(rule, "signals").unwrap_or(false),
                replace: reader.flag(rule, "replace").unwrap_or(false),
                calls: reader.members(rule, "calls"),
            };
            // Two names inside must not become one outside.
            let loses = |rename: &Rename| {
                let text = rename.to_string();
                !matches!(export.name, NamePattern::Exact(_))
                    && !text.contains("{rest}")
                    && !text.contains("{name}")
            };
            if export.rename.as_ref().is_some_and(loses)
                && let Some(value) = rule.get("rename")
            {
                reader.problems.push(
                    Problem::new(
                        value.span(),
                        format!(
                            "every name that matches {} would get the same name",
                            export.name
                        ),
                    )
                    .help("put {rest} (what the asterisk stands for) or {name} into it"),
                );
            }
            rules.exports.push(export);
            Some(())
        });
        self.each(table, "export_interface", |reader, id, rule, span| {
            let interface = reader.needed(rule, "interface", interface, id, span.clone());
            let signals = reader.flag(rule, "signals").unwrap_or(false);
            let calls = reader.flag(rule, "calls").unwrap_or(false);
            if !signals && !calls {
                reader
                    .problems
                    .push(Problem::new(span, "this rule allows nothing").help(
                        "write signals = true (they go out), calls = true (they come in), or both",
                    ));
            }
            rules.interfaces.push(InterfaceExport {
                id,
                interface: interface?,
                signals,
                calls,
            });
            Some(())
        });
        ConfigFile {
            log: self.log(table),
            rules,
        }
    }

    fn log(&mut self, table: &DeTable<'_>) -> Option<DecisionLog> {
        let value = table.get("log")?;
        let Some(log) = value.get_ref().as_table() else {
            self.wrong(value.span(), "expected a table: [log]");
            return None;
        };
        self.keys(log, known_keys("log"), "[log]");
        let refused_only = self.flag(log, "refused_only").unwrap_or(false);
        let to = self.text(log, "decisions", |text| match text {
            "" => Err("expected the path of a file, or \"journal\"".to_owned()),
            "journal" => Ok(LogTarget::Journal),
            path => Ok(LogTarget::File(path.into())),
        });
        if !log.contains_key("decisions") {
            self.problems.push(
                Problem::new(
                    value.span(),
                    "[log] does not say where decisions are written",
                )
                .help("write decisions = \"/a/file\" or decisions = \"journal\""),
            );
        }
        Some(DecisionLog {
            to: to?,
            refused_only,
        })
    }

    fn wrong(&mut self, span: Range<usize>, what: impl Into<String>) {
        self.problems.push(Problem::new(span, what));
    }

    /// Every key has to be known.
    fn keys(&mut self, table: &DeTable<'_>, known: &[&str], place: &str) {
        for key in table.keys() {
            if !known.contains(&&**key.get_ref()) {
                let problem = Problem::unknown_key(key.span(), key.get_ref(), known, place);
                self.problems.push(problem);
            }
        }
    }

    /// Calls `read` for each table of `[[name]]`.
    fn each(
        &mut self,
        table: &DeTable<'_>,
        name: &'static str,
        mut read: impl FnMut(&mut Self, RuleId, &DeTable<'_>, Range<usize>) -> Option<()>,
    ) {
        let Some(value) = table.get(name) else { return };
        let Some(array) = value.get_ref().as_array() else {
            self.problems.push(
                Problem::new(value.span(), format!("\"{name}\" is a list of tables"))
                    .help(format!("write [[{name}]] with two brackets on each side")),
            );
            return;
        };
        for (index, item) in array.iter().enumerate() {
            let Some(rule) = item.get_ref().as_table() else {
                self.wrong(
                    item.span(),
                    format!("expected a table, as [[{name}]] begins"),
                );
                continue;
            };
            self.keys(rule, known_keys(name), &format!("[[{name}]]"));
            let line = line_of(self.text, item.span().start);
            let id = RuleId {
                table: name,
                index,
                line: Some(line),
            };
            read(self, id, rule, item.span());
        }
    }

    /// The text at `key`, as `read` understands it.
    fn text<T>(&mut self, table: &DeTable<'_>, key: &str, read: ReadText<T>) -> Option<T> {
        let value = table.get(key)?;
        self.understand(value, key, read)
    }

    fn understand<T>(&mut self, value: &Value<'_>, key: &str, read: ReadText<T>) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            let found = kind(value.get_ref());
            self.wrong(
                value.span(),
                format!("\"{key}\" is a text in quotes, and this is {found}"),
            );
            return None;
        };
        read(text)
            .map_err(|what| self.wrong(value.span(), what))
            .ok()
    }

    /// The text at a key that has to be there.
    fn needed<T>(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        read: ReadText<T>,
        id: RuleId,
        span: Range<usize>,
    ) -> Option<T> {
        if !table.contains_key(key) {
            self.wrong(span, format!("[[{}]] lacks the key \"{key}\"", id.table));
        }
        self.text(table, key, read)
    }

    fn flag(&mut self, table: &DeTable<'_>, key: &str) -> Option<bool> {
        let value = table.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            let found = kind(value.get_ref());
            self.wrong(
                value.span(),
                format!("\"{key}\" is true or false, and this is {found}"),
            );
        }
        flag
    }

    /// A list of `[METHOD][@PATH]`.
    fn members(&mut self, table: &DeTable<'_>, key: &str) -> Option<Vec<MemberRule>> {
        let value = table.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.problems.push(
                Problem::new(value.span(), format!("\"{key}\" is a list of texts")).help(format!(
                    "write {key} = [\"org.example.Interface.Member@/path\"]"
                )),
            );
            return Some(Vec::new());
        };
        let rules = array
            .iter()
            .filter_map(|item| {
                self.understand(item, key, |text| {
                    MemberRule::parse(text).map_err(|error| error.to_string())
                })
            })
            .collect();
        Some(rules)
    }
}

fn known_keys(table: &str) -> &'static [&'static str] {
    match table {
        "host_routes" => &["access", "broadcasts", "calls", "destination"],
        "filter" => &["access", "broadcasts", "calls", "name"],
        "hostpass" => &["access", "cgroup", "everyone", "process", "unit"],
        "export" => &["calls", "name", "rename", "replace", "signals"],
        "export_interface" => &["calls", "interface", "signals"],
        "log" => &["decisions", "refused_only"],
        _ => &[],
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false without quotes",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

// ── What texts mean ──

/// One of a few words.
fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*meaning);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    Err(match nearest(text, &known) {
        Some(near) => format!("\"{text}\" is unknown: did you mean \"{near}\"?"),
        None => format!(
            "\"{text}\" is unknown: expected one of {}",
            known.join(", ")
        ),
    })
}

fn side(text: &str) -> Result<Side, String> {
    word(
        text,
        &[
            ("sandbox", Side::Inside),
            ("inside", Side::Inside),
            ("host", Side::Host),
        ],
    )
}

fn access(text: &str) -> Result<Access, String> {
    word(
        text,
        &[
            ("hidden", Access::Hidden),
            ("see", Access::See),
            ("talk", Access::Talk),
            ("own", Access::Own),
        ],
    )
}

fn any_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("expected a text that is not empty".to_owned());
    }
    Ok(text.to_owned())
}

fn app_id(text: &str) -> Result<String, String> {
    if !dbus_wire::names::is_well_known_name(text) {
        return Err(format!(
            "\"{text}\" is not an application's id: expected something like org.example.App"
        ));
    }
    Ok(text.to_owned())
}

fn name(text: &str) -> Result<NamePattern, String> {
    NamePattern::parse(text).map_err(|error| error.to_string())
}

fn name_or_all(text: &str) -> Result<NamePattern, String> {
    match text {
        "*" => Ok(NamePattern::Any),
        text => name(text),
    }
}

fn interface(text: &str) -> Result<NamePattern, String> {
    name(text).map_err(|_| {
        format!(
            "\"{text}\" is not an interface: expected something like org.example.Interface or org.example.*"
        )
    })
}

fn rename(text: &str) -> Result<Rename, String> {
    Rename::parse(text).map_err(|error| error.to_string())
}

fn glob(text: &str) -> Result<Glob, String> {
    if text.is_empty() {
        return Err("an empty pattern matches nothing".to_owned());
    }
    Ok(Glob::new(text))
}

fn process(text: &str) -> Result<Glob, String> {
    if !text.starts_with(['/', '*', '?']) {
        return Err(format!(
            "\"{text}\" matches no program: it is compared with the whole path, so write \"/usr/bin/{text}\" or \
             \"*/{text}\""
        ));
    }
    glob(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> String {
        parse("rules.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_of_the_documentation_is_read() {
        let text = include_str!("example.toml");
        let config = parse("example.toml", text).unwrap_or_else(|report| panic!("{report}"));
        let rules = &config.rules;
        assert!(rules.names[0].lives_on_host);
        assert_eq!(rules.names[0].name.to_string(), "org.freedesktop.portal.*");
        assert_eq!(rules.hostpass.len(), 1);
        assert!(rules.exports[0].signals);
        assert!(rules.exports[0].rename.is_some());
        assert!(config.log.is_some());
        let line = rules.names[0].id.line.unwrap();
        assert_eq!(text.lines().nth(line - 1), Some("[[host_routes]]"));
    }

    #[test]
    fn every_example_of_the_manual_is_right() {
        let manual = include_str!("../../../../docs/dbus-router.md");
        let examples: Vec<&str> = manual
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .collect();
        assert!(examples.len() > 5, "the manual has examples");
        for example in examples {
            parse("docs/dbus-router.md", example)
                .unwrap_or_else(|report| panic!("{report}\nin\n{example}"));
        }
    }

    #[test]
    fn rules_stand_in_the_order_of_the_file_with_their_lines() {
        let config = parse(
            "f",
            "[[filter]]\nname = \"a.b\"\naccess = \"see\"\n\n[[host_routes]]\ndestination = \"a.c\"\n\n\
             [[filter]]\nname = \"a.d\"\ncalls = [\"x.y.Z@/p/*\"]\n",
        )
        .unwrap();
        let ids: Vec<String> = config
            .rules
            .names
            .iter()
            .map(|it| it.id.to_string())
            .collect();
        assert_eq!(
            ids,
            [
                "[[filter]] 1 (line 1)",
                "[[host_routes]] 1 (line 5)",
                "[[filter]] 2 (line 8)"
            ]
        );
        assert_eq!(config.rules.names[2].access, Access::See);
        assert_eq!(config.rules.names[2].calls.len(), 1);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        assert_eq!(
            errors("[[host_routes]]\ndestinaton = \"a.b\"\n")
                .lines()
                .take(4)
                .collect::<Vec<_>>(),
            [
                "rules.toml:1:1: [[host_routes]] lacks the key \"destination\"",
                "1 | [[host_routes]]",
                "  | ^^^^^^^^^^^^^^^",
                "rules.toml:2:1: unknown key \"destinaton\" in [[host_routes]]",
            ]
        );
        assert!(errors("[[host_route]]\n").contains("did you mean \"host_routes\"?"));
        assert!(errors("[[exprot]]\n").contains("did you mean \"export\"?"));
        assert!(errors("zzzzzz = 1\n").contains("known are: app_id"));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let report = parse(
            "f",
            "unmentioned = \"tlak\"\nhost_monitor = \"yes\"\n[[filter]]\nname = \"a\"\naccess = 1\n\
             [[export]]\nname = \"a.*\"\nrename = \"x.y\"\n[[hostpass]]\nprocess = \"python3\"\n[[hostpass]]\n[log]\n",
        )
        .unwrap_err();
        let text = report.to_string();
        for said in [
            "f:1:15: \"tlak\" is unknown: did you mean \"talk\"?",
            "f:2:16: \"host_monitor\" is true or false, and this is a text",
            "f:4:8: \"a\" is not a bus name",
            "f:5:10: \"access\" is a text in quotes, and this is a number",
            "f:8:10: every name that matches a.* would get the same name",
            "f:10:11: \"python3\" matches no program",
            "f:11:1: this rule matches no client",
            "f:12:1: [log] does not say",
        ] {
            assert!(text.contains(said), "{said}\nin\n{text}");
        }
    }

    #[test]
    fn what_is_no_toml_is_shown_at_its_place() {
        let text = errors("a = \n");
        assert!(text.starts_with("rules.toml:1:"), "{text}");
        assert!(errors("[[filter]\n").contains('^'));
        let twice = errors("container = \"a\"\ncontainer = \"b\"\n");
        assert!(
            twice.starts_with("rules.toml:2:1: duplicate key"),
            "{twice}"
        );
    }

    #[test]
    fn a_single_table_is_an_error_that_shows_the_brackets() {
        assert!(errors("[export]\nname = \"a.b\"\n").contains("[[export]]"));
        assert!(errors("export = 1\n").contains("[[export]]"));
    }
}
