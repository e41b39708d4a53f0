//! The file that says what a virtual machine may have: TOML, and what is wrong with it at its place.
//!
//! ```toml
//! [portals]
//! deny = ["Screenshot", "Location"]     # by the last part of the interface's name; or: allow = [...], and no others
//!
//! [settings]
//! namespaces = ["org.freedesktop.appearance", "org.gnome.desktop.interface.*"]
//!
//! [open_uri]
//! schemes = ["http", "https", "mailto"]
//!
//! [documents]
//! persistent = false                    # whether chosen files are still shared after the broker was restarted
//!
//! [applications]
//! desktop_files = true                  # whether the host gets a desktop file for each application of the guest
//!
//! [guest]
//! services = ["org.example.*"]          # names that programs of the guest may own on their bus
//!
//! [limits]
//! requests = 64
//!
//! [log]
//! decisions = "journal"                 # or a file
//! refused_only = true
//! ```
//!
//! Everything that is wrong is found at once, and a file with one fault in it gives no policy at all.

use std::ops::Range;
use std::path::{Path, PathBuf};

use dbus_router::NamePattern;
use dbus_router::tool::decision_log::{DecisionLog, LogTarget};
use dbus_router::tool::diagnostic::{Problem, Report, nearest};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::broker::limits::Limits;
use crate::portals::table;

/// What a virtual machine may have. The default is what there is without a file.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// Which portals.
    pub portals: PortalChoice,
    /// Which namespaces of the host's settings can be read.
    pub settings: Vec<Namespace>,
    /// Schemes of URIs that the host opens, in lower case.
    pub schemes: Vec<String>,
    /// Whether a document outlives the broker.
    pub persistent_documents: bool,
    /// Whether desktop files are written for the guest's applications, by which the host's portal knows them.
    pub desktop_files: bool,
    /// Names that the guest's programs may own on their bus.
    pub services: Vec<NamePattern>,
    /// How much of everything.
    pub limits: Limits,
    /// Where decisions are written.
    pub log: Option<DecisionLog>,
}

/// `[portals]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortalChoice {
    /// All that can be carried but these interfaces.
    AllBut(Vec<String>),
    /// These interfaces alone.
    Only(Vec<String>),
}

/// One entry of `namespaces`: a namespace, or with `.*` all below it, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    name: String,
    below: bool,
}

impl Namespace {
    /// Reads `a.b` or `a.b.*`.
    fn parse(text: &str) -> Result<Namespace, String> {
        if text == "*" {
            return Ok(Namespace {
                name: String::new(),
                below: true,
            });
        }
        let (name, below) = match text.strip_suffix(".*") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.is_empty() || name.contains('*') {
            return Err(format!(
                "\"{text}\" is not a namespace: expected something like org.freedesktop.appearance, or \
                 org.gnome.desktop.* with all that is below it"
            ));
        }
        Ok(Namespace {
            name: name.to_owned(),
            below,
        })
    }

    fn covers(&self, namespace: &str) -> bool {
        if self.below {
            self.name.is_empty()
                || namespace
                    .strip_prefix(&self.name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        } else {
            self.name == namespace
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            portals: PortalChoice::AllBut(Vec::new()),
            settings: NAMESPACES
                .iter()
                // Each of them is one: the tests read them.
                .filter_map(|text| Namespace::parse(text).ok())
                .collect(),
            schemes: SCHEMES.map(str::to_owned).to_vec(),
            persistent_documents: false,
            desktop_files: true,
            services: Vec::new(),
            limits: Limits::default(),
            log: None,
        }
    }
}

/// What toolkits look at, and nothing that tells of the person's programs.
const NAMESPACES: [&str; 9] = [
    "org.freedesktop.appearance",
    "org.gnome.desktop.interface",
    "org.gnome.desktop.a11y.*",
    "org.gnome.desktop.sound",
    "org.gnome.desktop.wm.preferences",
    "org.gnome.fontconfig",
    "org.gnome.settings-daemon.plugins.xsettings",
    "org.kde.kdeglobals.*",
    "org.kde.TabletMode",
];

const SCHEMES: [&str; 3] = ["http", "https", "mailto"];

/// Why there is no [`Policy`].
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the policy file {path}: {source}")]
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

impl Policy {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, is not UTF-8, or something in it is wrong.
    pub fn read(path: &Path) -> Result<Policy, PolicyError> {
        let text = std::fs::read_to_string(path).map_err(|source| PolicyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::parse(&path.display().to_string(), &text)?)
    }

    /// Reads `text`; `file` is what it is called in errors.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn parse(file: &str, text: &str) -> Result<Policy, Report> {
        let (table, faults) = DeTable::parse_recoverable(text);
        if !faults.is_empty() {
            let problems = faults
                .iter()
                .map(|fault| Problem::new(fault.span().unwrap_or(0..0), fault.message()))
                .collect();
            return Err(Report::new(file, text, problems));
        }
        let mut reader = Reader::default();
        let policy = reader.policy(table.get_ref());
        if reader.problems.is_empty() {
            Ok(policy)
        } else {
            Err(Report::new(file, text, reader.problems))
        }
    }

    /// Whether the guest may have this portal (an interface's whole name).
    pub fn allows_portal(&self, interface: &str) -> bool {
        match &self.portals {
            PortalChoice::AllBut(denied) => !denied.iter().any(|name| name == interface),
            PortalChoice::Only(allowed) => allowed.iter().any(|name| name == interface),
        }
    }

    /// Whether the guest may read this namespace of the settings.
    pub fn allows_setting(&self, namespace: &str) -> bool {
        self.settings.iter().any(|entry| entry.covers(namespace))
    }

    /// Whether the host opens URIs of this scheme for the guest. `file` never: a file goes by its descriptor.
    pub fn allows_scheme(&self, scheme: &str) -> bool {
        let scheme = scheme.to_ascii_lowercase();
        scheme != "file" && self.schemes.contains(&scheme)
    }
}

type Value<'a> = Spanned<DeValue<'a>>;

#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
}

const KEYS: [&str; 8] = [
    "applications",
    "documents",
    "guest",
    "limits",
    "log",
    "open_uri",
    "portals",
    "settings",
];

impl Reader {
    fn policy(&mut self, file: &DeTable<'_>) -> Policy {
        self.keys(file, &KEYS, "the file");
        let mut policy = Policy::default();
        if let Some(portals) = self.table(file, "portals", &["allow", "deny"]) {
            policy.portals = self.portals(portals);
        }
        if let Some(settings) = self.table(file, "settings", &["namespaces"])
            && let Some(namespaces) = self.list(settings, "namespaces", Namespace::parse)
        {
            policy.settings = namespaces;
        }
        if let Some(uris) = self.table(file, "open_uri", &["schemes"])
            && let Some(schemes) = self.list(uris, "schemes", scheme)
        {
            policy.schemes = schemes;
        }
        if let Some(documents) = self.table(file, "documents", &["persistent"])
            && let Some(persistent) = self.flag(documents, "persistent")
        {
            policy.persistent_documents = persistent;
        }
        if let Some(applications) = self.table(file, "applications", &["desktop_files"])
            && let Some(desktop_files) = self.flag(applications, "desktop_files")
        {
            policy.desktop_files = desktop_files;
        }
        if let Some(guest) = self.table(file, "guest", &["services"])
            && let Some(services) = self.list(guest, "services", service)
        {
            policy.services = services;
        }
        if let Some(limits) = self.limits(file) {
            policy.limits = limits;
        }
        policy.log = self.log(file);
        policy
    }

    fn portals(&mut self, table: &DeTable<'_>) -> PortalChoice {
        let allow = self.list(table, "allow", portal);
        let deny = self.list(table, "deny", portal);
        match (allow, deny) {
            (Some(_), Some(_)) => {
                if let Some(value) = table.get("deny") {
                    self.problems.push(
                        Problem::new(value.span(), "both \"allow\" and \"deny\" are given").help(
                            "write allow = […] and no others, or deny = […] and all others are allowed",
                        ),
                    );
                }
                PortalChoice::Only(Vec::new())
            }
            (Some(allow), None) => PortalChoice::Only(allow),
            (None, deny) => PortalChoice::AllBut(deny.unwrap_or_default()),
        }
    }

    /// The keys are the fields of [`Limits`], whichever those are.
    fn limits(&mut self, file: &DeTable<'_>) -> Option<Limits> {
        let serde_json::Value::Object(mut fields) = serde_json::to_value(Limits::default()).ok()?
        else {
            return None;
        };
        let known: Vec<String> = fields.keys().cloned().collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let table = self.table(file, "limits", &known)?;
        for key in known {
            if let Some(number) = self.number(table, key) {
                fields.insert(key.to_owned(), number.into());
            }
        }
        match serde_json::from_value(serde_json::Value::Object(fields)) {
            Ok(limits) => Some(limits),
            Err(error) => {
                let span = file.get("limits")?.span();
                self.wrong(span, format!("one of these numbers is too large: {error}"));
                None
            }
        }
    }

    fn log(&mut self, file: &DeTable<'_>) -> Option<DecisionLog> {
        let span = file.get("log")?.span();
        let log = self.table(file, "log", &["decisions", "refused_only"])?;
        let refused_only = self.flag(log, "refused_only").unwrap_or(false);
        let Some(value) = log.get("decisions") else {
            self.problems.push(
                Problem::new(span, "[log] does not say where decisions are written")
                    .help("write decisions = \"/a/file\" or decisions = \"journal\""),
            );
            return None;
        };
        let to = self.understand(value, "decisions", |text| match text {
            "" => Err("expected the path of a file, or \"journal\"".to_owned()),
            "journal" => Ok(LogTarget::Journal),
            path => Ok(LogTarget::File(path.into())),
        })?;
        Some(DecisionLog { to, refused_only })
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

    /// The table `[name]`, with its keys checked.
    fn table<'t, 'a>(
        &mut self,
        file: &'t DeTable<'a>,
        name: &str,
        known: &[&str],
    ) -> Option<&'t DeTable<'a>> {
        let value = file.get(name)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(value.span(), format!("expected a table: [{name}]"));
            return None;
        };
        self.keys(table, known, &format!("[{name}]"));
        Some(table)
    }

    fn understand<T>(
        &mut self,
        value: &Value<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
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

    fn number(&mut self, table: &DeTable<'_>, key: &str) -> Option<u64> {
        let value = table.get(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|integer| u64::from_str_radix(integer.as_str(), integer.radix()).ok());
        if number.is_none() {
            self.wrong(
                value.span(),
                format!("\"{key}\" is a whole number from 0 upwards"),
            );
        }
        number
    }

    /// A list of texts.
    fn list<T>(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        read: fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = table.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            let found = kind(value.get_ref());
            self.problems.push(
                Problem::new(
                    value.span(),
                    format!("\"{key}\" is a list of texts, and this is {found}"),
                )
                .help(format!("write {key} = [\"…\"]")),
            );
            return None;
        };
        let items = array
            .iter()
            .filter_map(|item| self.understand(item, key, read))
            .collect();
        Some(items)
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false without quotes",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A portal's interface, by its whole name or the last part of it.
fn portal(text: &str) -> Result<String, String> {
    let last = text.strip_prefix(table::INTERFACE_PREFIX).unwrap_or(text);
    let carried: Vec<&str> = table::carried()
        .map(|interface| interface.short())
        .collect();
    if carried.contains(&last) {
        return Ok(format!("{}{last}", table::INTERFACE_PREFIX));
    }
    let full = format!("{}{last}", table::INTERFACE_PREFIX);
    if let Some(why) = table::why_refused(&full) {
        return Err(format!("{last} is never carried: {why}"));
    }
    Err(match nearest(last, &carried) {
        Some(near) => format!("there is no portal \"{text}\": did you mean \"{near}\"?"),
        None => format!(
            "there is no portal \"{text}\": known are {}",
            carried.join(", ")
        ),
    })
}

/// The scheme of a URI (RFC 3986, 3.1).
fn scheme(text: &str) -> Result<String, String> {
    let text = text.strip_suffix(':').unwrap_or(text).to_ascii_lowercase();
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if !begins
        || !text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return Err(format!(
            "\"{text}\" is not the scheme of a URI: expected something like https"
        ));
    }
    if text == "file" {
        return Err(
            "file: URIs are never opened for a guest, whose files are not the host's; programs open a file by its \
             descriptor (OpenFile)"
                .to_owned(),
        );
    }
    Ok(text)
}

fn service(text: &str) -> Result<NamePattern, String> {
    let pattern = NamePattern::parse(text).map_err(|error| error.to_string())?;
    if text.starts_with("org.freedesktop.portal") || text.starts_with("org.freedesktop.DBus") {
        return Err(format!(
            "\"{text}\": this name is the broker's own, no program of the guest can have it"
        ));
    }
    Ok(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_the_guest_may_have() {
        let policy = Policy::parse(
            "policy.toml",
            "[portals]\ndeny = [\"Screenshot\", \"org.freedesktop.portal.Location\"]\n\
             [settings]\nnamespaces = [\"org.freedesktop.appearance\", \"org.kde.*\"]\n\
             [open_uri]\nschemes = [\"HTTPS\"]\n[documents]\npersistent = true\n\
             [guest]\nservices = [\"org.example.*\"]\n[limits]\nrequests = 3\ndocuments = 0x10\n\
             [applications]\ndesktop_files = false\n\
             [log]\ndecisions = \"journal\"\nrefused_only = true\n",
        )
        .unwrap();
        assert!(!policy.allows_portal("org.freedesktop.portal.Screenshot"));
        assert!(!policy.allows_portal("org.freedesktop.portal.Location"));
        assert!(policy.allows_portal("org.freedesktop.portal.FileChooser"));
        assert!(policy.allows_setting("org.freedesktop.appearance"));
        assert!(!policy.allows_setting("org.freedesktop.appearance.more"));
        assert!(policy.allows_setting("org.kde.kdeglobals.General"));
        assert!(!policy.allows_setting("org.kdevelop"));
        assert!(policy.allows_scheme("https") && !policy.allows_scheme("http"));
        assert!(policy.persistent_documents && !policy.desktop_files);
        assert_eq!(policy.services.len(), 1);
        assert_eq!((policy.limits.requests, policy.limits.documents), (3, 16));
        assert_eq!(policy.limits.clients, Limits::default().clients);
        assert_eq!(
            policy.log,
            Some(DecisionLog {
                to: LogTarget::Journal,
                refused_only: true
            })
        );
    }

    #[test]
    fn the_file_in_the_documentation_is_a_policy() {
        let text = include_str!("../../../docs/sidebus-portals.md");
        let (_, rest) = text.split_once("```toml\n").expect("an example");
        let (example, _) = rest.split_once("```").expect("its end");
        let policy = Policy::parse("docs/sidebus-portals.md", example).unwrap();
        assert_eq!(
            policy.limits,
            Limits::default(),
            "it shows what there is without it"
        );
        assert_eq!(policy.schemes, Policy::default().schemes);
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let policy = Policy::parse("policy.toml", "").unwrap();
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.settings.len(), NAMESPACES.len());
        assert!(policy.allows_scheme("https"));
        assert!(!policy.allows_scheme("file") && !policy.allows_scheme("FILE"));
    }

    #[test]
    fn what_is_wrong_is_shown_at_its_place_with_the_nearest_word() {
        for (text, shown) in [
            (
                "[portal]\n",
                "policy.toml:1:2: unknown key \"portal\" in the file\n1 | [portal]\n  |  ^^^^^^\n  = did you mean \"portals\"?",
            ),
            (
                "[portals]\ndeny = [\"Screenshots\"]",
                "policy.toml:2:9: there is no portal \"Screenshots\": did you mean \"Screenshot\"?",
            ),
            (
                "[portals]\nallow = [\"ScreenCast\"]",
                "policy.toml:2:10: ScreenCast is never carried: ",
            ),
            (
                "[portals]\nallow = []\ndeny = []\n",
                "policy.toml:3:8: both \"allow\" and \"deny\" are given",
            ),
            (
                "[limits]\nrequest = 3",
                "unknown key \"request\" in [limits]",
            ),
            ("[limits]\nrequests = -3", "\"requests\" is a whole number"),
            ("[open_uri]\nschemes = [\"file\"]", "file: URIs are never"),
            (
                "[open_uri]\nschemes = \"https\"",
                "\"schemes\" is a list of texts, and this is a text",
            ),
            (
                "[guest]\nservices = [\"org.freedesktop.portal.Desktop\"]",
                "this name is the broker's own",
            ),
            ("[settings]\nnamespaces = [\"a.*.b\"]", "is not a namespace"),
            (
                "[log]\nrefused_only = true",
                "[log] does not say where decisions are written",
            ),
            ("portals = 1", "expected a table: [portals]"),
            ("[portals", "policy.toml:1:"),
        ] {
            let report = Policy::parse("policy.toml", text)
                .expect_err(text)
                .to_string();
            assert!(report.contains(shown), "{text}\ngave:\n{report}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let report = Policy::parse("p", "x = 1\ny = 2\n").unwrap_err();
        assert_eq!(report.problems().len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_policy_or_is_told_why_not(text in "\\PC*") {
            if let Err(report) = Policy::parse("policy.toml", &text) {
                proptest::prop_assert!(report.to_string().starts_with("policy.toml:"));
            }
        }
    }
}
