//! The environment of a program inside: what a login there would give, and little of the caller's.

use std::collections::BTreeMap;

use super::accounts::Inmate;
use super::inside::Root;

/// What of the caller's environment is passed on, beside `LC_*`: what belongs to the terminal, the language and the
/// desktop. Everything else would tell the container of the host, or be wrong inside.
///
/// This list decides. `kapsule` sends no more than what is in it, and has it a second time, because it does without the
/// daemon's code; a test of its compares them.
pub const PASSED_ON: [&str; 26] = [
    "COLORFGBG",
    "COLORTERM",
    "DESKTOP_SESSION",
    "DISPLAY",
    "FORCE_COLOR",
    "KDE_FULL_SESSION",
    "KDE_SESSION_VERSION",
    "KONSOLE_VERSION",
    "LANG",
    "LANGUAGE",
    "NO_COLOR",
    "QT_SCALE_FACTOR",
    "TERM",
    "TERM_PROGRAM",
    "TERM_PROGRAM_VERSION",
    "TZ",
    "VTE_VERSION",
    "WAYLAND_DISPLAY",
    "WINDOWID",
    "XAUTHORITY",
    "XCURSOR_SIZE",
    "XCURSOR_THEME",
    "XDG_ACTIVATION_TOKEN",
    "XDG_CURRENT_DESKTOP",
    "XDG_SESSION_DESKTOP",
    "XDG_SESSION_TYPE",
];
/// Those of them that mean a screen: only for a container that has one (the feature `graphics`).
const SCREEN: [&str; 6] = [
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "WINDOWID",
    "XAUTHORITY",
    "XDG_ACTIVATION_TOKEN",
    "XDG_SESSION_TYPE",
];
/// As long as a name and its value may be together.
const LONGEST: usize = 4096;
/// Where programs are if the container does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An environment.
#[derive(Debug, Default, Clone)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// As a login inside would begin: the account's, and what `/etc/environment`, the locale's file and `/etc/login.defs` say.
    pub(super) fn of_login(root: &Root, inmate: &Inmate, shell: &str) -> Self {
        let mut environment = Self::default();
        let defs = root.text("/etc/login.defs");
        let key = if inmate.uid == 0 {
            "ENV_SUPATH"
        } else {
            "ENV_PATH"
        };
        let path = defs.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == key)
                .then(|| words.next()?.strip_prefix("PATH="))
                .flatten()
        });
        environment.set("PATH", path.unwrap_or(PATH));
        for file in [
            "/etc/locale.conf",
            "/etc/default/locale",
            "/etc/environment",
        ] {
            for (name, value) in assignments(&root.text(file)) {
                environment.set(name, value);
            }
        }
        environment.set("HOME", &inmate.home);
        environment.set("USER", &inmate.name);
        environment.set("LOGNAME", &inmate.name);
        environment.set("SHELL", shell);
        environment
    }

    /// Sets a variable; a name or value that cannot be one is left out.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        if is_name(name) && !value.contains('\0') && name.len() + value.len() <= LONGEST {
            self.0.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Sets what a caller may. `screen`: whether the container has one.
    pub(super) fn allow(&mut self, name: &str, value: &str, screen: bool) {
        let is_known = PASSED_ON.contains(&name) || name.starts_with("LC_");
        if is_known && (screen || !SCREEN.contains(&name)) {
            self.set(name, value);
        }
    }

    /// Takes out a variable.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// A variable's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// `NAME=value` for each.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}"))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The lines of a file as pam_env reads it: `NAME=value`, perhaps in quotes, perhaps after `export`.
fn assignments(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().take(1000).filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        let value = value.trim();
        let bare = ['"', '\'']
            .iter()
            .find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote))
            .unwrap_or(value);
        is_name(name).then_some((name, bare))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_container_says_of_its_logins_is_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).expect("it is new");
        std::fs::write(
            etc.join("environment"),
            "# a comment\nEDITOR=\"vi -e\"\nexport A=b\nnot this\n1=2\n",
        )
        .expect("writable");
        std::fs::write(
            etc.join("login.defs"),
            "#ENV_PATH PATH=/no\nENV_PATH\tPATH=/bin:/usr/bin\n",
        )
        .expect("writable");
        let root = Root::at(dir.path()).expect("it is there");
        let mut inmate = Inmate::root(&root);
        inmate.uid = 1000;
        let environment = Environment::of_login(&root, &inmate, "/bin/sh");
        assert_eq!(environment.get("PATH"), Some("/bin:/usr/bin"));
        assert_eq!(environment.get("EDITOR"), Some("vi -e"));
        assert_eq!(environment.get("A"), Some("b"));
        assert_eq!(environment.get("1"), None);
    }

    #[test]
    fn of_the_callers_environment_only_the_terminal_the_language_and_the_desktop_pass() {
        let passed = |screen| {
            let mut environment = Environment::default();
            for name in [
                "TERM",
                "LC_TIME",
                "WAYLAND_DISPLAY",
                "SSH_AUTH_SOCK",
                "LD_PRELOAD",
                "PATH",
                "A=B",
            ] {
                environment.allow(name, "x", screen);
            }
            environment.lines().collect::<Vec<_>>()
        };
        assert_eq!(passed(true), ["LC_TIME=x", "TERM=x", "WAYLAND_DISPLAY=x"]);
        assert_eq!(passed(false), ["LC_TIME=x", "TERM=x"]);
        assert!(SCREEN.iter().all(|name| PASSED_ON.contains(name)));
    }
}
