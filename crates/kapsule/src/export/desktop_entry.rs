//! Desktop files (Desktop Entry Specification): read from a container, and written anew for the host.

use crate::export::exec;

/// The longest desktop file that is read.
pub const SIZE_MAX: usize = 512 * 1024;

/// The keys that are passed on as they are: none starts anything outside. Others are dropped, above all
/// unknown ones: some of them start programs, or start them as another user.
const KEPT: [&str; 14] = [
    "Type",
    "GenericName",
    "Comment",
    "Terminal",
    "MimeType",
    "Categories",
    "Keywords",
    "StartupNotify",
    "StartupWMClass",
    "NoDisplay",
    "OnlyShowIn",
    "NotShowIn",
    "SingleMainWindow",
    "PrefersNonDefaultGPU",
];

/// A desktop file that describes an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesktopEntry {
    groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    /// Key (with the locale, as in `Name[de]`) and value, as they stand in the file.
    entries: Vec<(String, String)>,
}

impl Group {
    fn get(&self, key: &str) -> Option<&str> {
        let entry = self.entries.iter().find(|(k, _)| k == key);
        entry.map(|(_, value)| value.as_str())
    }
}

/// Why a file is no application's desktop file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnApplication {
    /// It is too large, or not text.
    #[error("it is no desktop file")]
    NotText,
    /// A key is missing.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// It describes something else.
    #[error("it describes no application")]
    OtherType,
    /// The command cannot be read.
    #[error("its Exec has a quote that does not end")]
    Quotes,
}

/// What a desktop file on the host says besides what the container's says.
#[derive(Clone, Debug)]
pub struct Rewriting<'a> {
    /// The container.
    pub container: &'a str,
    /// The command and arguments before those of the application.
    pub launcher: &'a [String],
    /// What `Icon` is to be; `None`: none.
    pub icon: Option<&'a str>,
    /// The name of the desktop file inside, without its ending.
    pub id: &'a str,
    /// Where it is inside.
    pub path: &'a str,
}

impl DesktopEntry {
    /// Reads a desktop file.
    ///
    /// # Errors
    /// It is none, or none of an application.
    pub fn parse(bytes: &[u8]) -> Result<DesktopEntry, NotAnApplication> {
        if bytes.len() > SIZE_MAX {
            return Err(NotAnApplication::NotText);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| NotAnApplication::NotText)?;
        let mut groups: Vec<Group> = Vec::new();
        for line in text.lines() {
            let line = line.trim_end_matches('\r');
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                groups.push(Group {
                    name: name.to_owned(),
                    entries: Vec::new(),
                });
            } else if let (Some(group), Some((key, value))) =
                (groups.last_mut(), line.split_once('='))
            {
                // No control character has a place in a value.
                let value: String = value
                    .trim_start()
                    .chars()
                    .filter(|c| !c.is_control())
                    .collect();
                group.entries.push((key.trim_end().to_owned(), value));
            }
        }
        let entry = DesktopEntry { groups };
        let main = entry.main().ok_or(NotAnApplication::NotText)?;
        match main.get("Type") {
            Some("Application") => {}
            Some(_) => return Err(NotAnApplication::OtherType),
            None => return Err(NotAnApplication::Missing("Type")),
        }
        for key in ["Name", "Exec"] {
            if main.get(key).is_none_or(str::is_empty) {
                return Err(NotAnApplication::Missing(key));
            }
        }
        Ok(entry)
    }

    fn main(&self) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == "Desktop Entry")
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.main()?.get(key)
    }

    /// What the menu calls it.
    pub fn name(&self) -> String {
        exec::unescape_value(self.get("Name").unwrap_or_default())
    }

    /// Its icon: a name or a path.
    pub fn icon(&self) -> Option<String> {
        self.get("Icon")
            .filter(|icon| !icon.is_empty())
            .map(exec::unescape_value)
    }

    /// Whether the menu shows it.
    pub fn is_shown(&self) -> bool {
        self.get("NoDisplay") != Some("true") && self.get("Hidden") != Some("true")
    }

    /// The same application for the host's menu: its command is run inside.
    ///
    /// # Errors
    /// A command cannot be read.
    pub fn rewrite(&self, to: &Rewriting<'_>) -> Result<String, NotAnApplication> {
        let main = self.main().ok_or(NotAnApplication::NotText)?;
        let mut out = String::from("[Desktop Entry]\n");
        let mut line = |key: &str, value: &str| out.push_str(&format!("{key}={value}\n"));
        for (key, value) in &main.entries {
            let (base, locale) = split(key);
            if base == "Name" && is_locale(locale) {
                let suffix = exec::escape_value(&format!("({})", to.container));
                line(key, &format!("{value} {suffix}"));
            } else if KEPT.contains(&base) && is_locale(locale) {
                line(key, value);
            }
        }
        line("Exec", &command(main, to)?);
        if let Some(icon) = to.icon {
            line("Icon", &exec::escape_value(icon));
        }
        if main.get("StartupWMClass").is_none() {
            // By it taskbars know windows whose application id is the name of the file inside.
            line("StartupWMClass", &exec::escape_value(to.id));
        }
        let actions: Vec<(&str, &Group)> = main
            .get("Actions")
            .unwrap_or_default()
            .split(';')
            .filter(|id| {
                !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            })
            .filter_map(|id| {
                let name = format!("Desktop Action {id}");
                let group = self.groups.iter().find(|group| group.name == name)?;
                (group.get("Exec").is_some() && group.get("Name").is_some()).then_some((id, group))
            })
            .collect();
        if !actions.is_empty() {
            let ids: String = actions.iter().map(|(id, _)| format!("{id};")).collect();
            line("Actions", &ids);
        }
        line("X-Kapsule-Container", &exec::escape_value(to.container));
        line("X-Kapsule-Source", &exec::escape_value(to.path));
        for (id, group) in actions {
            out.push_str(&format!("\n[Desktop Action {id}]\n"));
            for (key, value) in &group.entries {
                let (base, locale) = split(key);
                if base == "Name" && is_locale(locale) {
                    out.push_str(&format!("{key}={value}\n"));
                }
            }
            out.push_str(&format!("Exec={}\n", command(group, to)?));
        }
        Ok(out)
    }
}

fn command(group: &Group, to: &Rewriting<'_>) -> Result<String, NotAnApplication> {
    let value = group.get("Exec").unwrap_or_default();
    let arguments = exec::parse(value).ok_or(NotAnApplication::Quotes)?;
    if arguments.is_empty() {
        return Err(NotAnApplication::Missing("Exec"));
    }
    Ok(exec::compose(to.launcher, &arguments))
}

/// `Name[de]` is the key `Name` in the locale `de`.
fn split(key: &str) -> (&str, Option<&str>) {
    match key.split_once('[') {
        Some((base, rest)) => (base, Some(rest.strip_suffix(']').unwrap_or(rest))),
        None => (key, None),
    }
}

fn is_locale(locale: Option<&str>) -> bool {
    locale.is_none_or(|locale| {
        !locale.is_empty()
            && locale
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.@-".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KATE: &str = r#"# a comment
[Desktop Entry]
Type=Application
Name=Kate
Name[de]=Kate
GenericName[de]=Erweiterter Texteditor
Exec=kate -b %U
TryExec=kate
Icon=kate
MimeType=text/plain;
DBusActivatable=true
Path=/usr/lib/kate
X-KDE-SubstituteUID=true
X-Evil=1
Actions=new-window;missing;bad/one;

[Desktop Action new-window]
Name=New Window
Icon=window-new
Exec=kate --new "a b"

[Desktop Action bad/one]
Name=Bad
Exec=bad
"#;

    fn rewriting<'a>(launcher: &'a [String]) -> Rewriting<'a> {
        Rewriting {
            container: "work",
            launcher,
            icon: Some("kapsule-work-kate"),
            id: "org.kde.kate",
            path: "/usr/share/applications/org.kde.kate.desktop",
        }
    }

    #[test]
    fn an_application_is_started_inside_and_says_where_it_is_from() {
        let launcher = ["/usr/bin/kapsule", "run", "work", "--"].map(str::to_owned);
        let entry = DesktopEntry::parse(KATE.as_bytes()).expect("an application");
        assert_eq!((entry.name().as_str(), entry.is_shown()), ("Kate", true));
        let out = entry.rewrite(&rewriting(&launcher)).expect("it can be");
        assert_eq!(
            out,
            r#"[Desktop Entry]
Type=Application
Name=Kate (work)
Name[de]=Kate (work)
GenericName[de]=Erweiterter Texteditor
MimeType=text/plain;
Exec=/usr/bin/kapsule run work -- kate -b %U
Icon=kapsule-work-kate
StartupWMClass=org.kde.kate
Actions=new-window;
X-Kapsule-Container=work
X-Kapsule-Source=/usr/share/applications/org.kde.kate.desktop

[Desktop Action new-window]
Name=New Window
Exec=/usr/bin/kapsule run work -- kate --new "a b"
"#
        );
    }

    #[test]
    fn what_is_no_application_is_told_by_what_it_lacks() {
        let parse = |text: &str| DesktopEntry::parse(text.as_bytes()).map(|_| ());
        assert_eq!(parse("hello"), Err(NotAnApplication::NotText));
        assert_eq!(
            parse("[Desktop Entry]\nType=Link\nName=x\n"),
            Err(NotAnApplication::OtherType)
        );
        assert_eq!(
            parse("[Desktop Entry]\nType=Application\nName=x\n"),
            Err(NotAnApplication::Missing("Exec"))
        );
        assert_eq!(
            DesktopEntry::parse(&[0xff, 0xfe]).map(|_| ()),
            Err(NotAnApplication::NotText)
        );
    }

    #[test]
    fn no_value_brings_a_line_of_its_own() {
        let launcher = ["/k".to_owned()];
        let text =
            "[Desktop Entry]\nType=Application\nName=x\\nExec=evil\u{b}\u{85}\u{2028}\nExec=x\n";
        let entry = DesktopEntry::parse(text.as_bytes()).expect("an application");
        let out = entry.rewrite(&rewriting(&launcher)).expect("it can be");
        let commands: Vec<_> = out
            .lines()
            .filter(|line| line.starts_with("Exec="))
            .collect();
        assert_eq!(commands, ["Exec=/k x"]);
    }
}
