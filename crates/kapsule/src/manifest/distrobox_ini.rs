//! The manifest of distrobox: sections with keys, which may come several times.

use std::path::Path;

use crate::command::create::{Plan, absolute, absolute_mount};
use crate::distrobox::image_of;
use crate::manifest::kapsule_toml::is_package;
use crate::manifest::{Mistake, Wanted, wrong_name};

/// What is so in every container of ours, or makes no difference to it.
const NEEDLESS: [&str; 12] = [
    "entry",
    "init",
    "nvidia",
    "pull",
    "root",
    "start_now",
    "unshare_all",
    "unshare_devsys",
    "unshare_groups",
    "unshare_ipc",
    "unshare_netns",
    "unshare_process",
];

/// Reads a manifest.
///
/// # Errors
/// It has a mistake.
pub fn parse(text: &str) -> Result<Vec<Wanted>, Mistake> {
    let mut all: Vec<Wanted> = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let begin = start;
        start += line.len();
        let content = without_comment(line);
        let trimmed = content.trim();
        if trimmed.is_empty() {
            continue;
        }
        let begin = begin + (content.len() - content.trim_start().len());
        let at = begin..begin + trimmed.len();
        if let Some(name) = trimmed.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let name = name.trim();
            if let Some(what) = wrong_name(name) {
                let what = what.to_owned();
                return Err(Mistake { what, at });
            }
            all.push(Wanted {
                plan: Plan {
                    name: name.to_owned(),
                    ..Plan::default()
                },
                ..Wanted::default()
            });
            continue;
        }
        let Some((key, value)) = trimmed.split_once('=') else {
            let what = "a line is [NAME], or KEY=VALUE".to_owned();
            return Err(Mistake { what, at });
        };
        let Some(last) = all.last_mut() else {
            let what = "a key belongs to a container, so [NAME] comes first".to_owned();
            return Err(Mistake { what, at });
        };
        let key_at = at.start..at.start + key.trim_end().len();
        let value_start = at.end - value.trim_start().len();
        let value = unquoted(value.trim());
        take(last, key.trim(), value).map_err(|(of_value, what)| Mistake {
            what,
            at: if of_value {
                value_start..at.end
            } else {
                key_at
            },
        })?;
    }
    Ok(all)
}

/// A comment begins with `#` at the line's beginning or after a space, outside of quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        before = c;
    }
    line
}

fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q))
        .unwrap_or(value)
}

/// What a key says. The mistake is the value's (true) or the key's.
fn take(wanted: &mut Wanted, key: &str, value: &str) -> Result<(), (bool, String)> {
    let words = || value.split_whitespace().map(str::to_owned);
    let wrong = |error: crate::Error| (true, error.to_string());
    match key {
        "image" => {
            wanted.plan.image = image_of(value).map_err(|what| (true, what))?;
        }
        "home" => wanted.plan.home = Some(absolute(Path::new(value)).map_err(wrong)?),
        "volume" => {
            for mount in words() {
                let mount = absolute_mount(mount.trim_end_matches(":rw")).map_err(wrong)?;
                wanted.plan.mounts.push(mount);
            }
        }
        "additional_packages" => {
            if let Some(bad) = words().find(|word| !is_package(word)) {
                return Err((true, format!("{bad} is no name of a package")));
            }
            wanted.packages.extend(words());
        }
        "init_hooks" | "pre_init_hooks" => wanted.setup.push(value.to_owned()),
        "exported_apps" => wanted.export.extend(words()),
        "exported_bins" => wanted.export_bin.extend(words()),
        "replace" => wanted.replace = is_true(value),
        "hostname" if value == wanted.plan.name => {}
        "hostname" => wanted.notes.push(format!(
            "{}: its host name is its name, and not {value}",
            wanted.plan.name
        )),
        "exported_bins_path" => wanted.notes.push(format!(
            "{}: programs are exported to ~/.local/bin, and not to {value}",
            wanted.plan.name
        )),
        key if NEEDLESS.contains(&key) => {}
        "additional_flags" | "clone" | "include" => {
            return Err((false, format!("{key} is not understood here: leave it out")));
        }
        _ => return Err((false, "distrobox has no such key".to_owned())),
    }
    Ok(())
}

fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::shown;

    #[test]
    fn the_example_of_its_manual_is_understood() {
        let text = r#"[ubuntu]
additional_packages="git vim tmux nodejs"
image=ubuntu:24.04
init=false
nvidia=false
pull=true
root=false
replace=true
start_now=false

# You can add comments using this #
[arch] # also inline comments are supported
additional_packages="git vim"
home=/tmp/home
image=archlinux:latest
init_hooks="touch /init-normal"
volume="/tmp/test:/run/a /tmp/test:/run/b:ro"
"#;
        let wanted = parse(text).expect("it is right");
        let [ubuntu, arch] = &wanted[..] else {
            panic!("{wanted:?}");
        };
        assert_eq!(ubuntu.plan.image, "images:ubuntu/24.04");
        assert_eq!(ubuntu.packages, ["git", "vim", "tmux", "nodejs"]);
        assert!(ubuntu.replace);
        assert_eq!(arch.plan.name, "arch");
        assert_eq!(arch.plan.image, "images:archlinux");
        assert_eq!(arch.plan.home.as_deref(), Some("/tmp/home"));
        assert_eq!(
            arch.plan.mounts,
            ["/tmp/test:/run/a", "/tmp/test:/run/b:ro"]
        );
        assert_eq!(arch.setup, ["touch /init-normal"]);
    }

    #[test]
    fn a_mistake_is_pointed_at() {
        let mistake_in = |text: &str| {
            let mistake = parse(text).expect_err("it has a mistake");
            shown("d.ini", text, &mistake)
        };
        assert_eq!(
            mistake_in("[a]\n  imagge=x # y\n"),
            "d.ini:2:3: distrobox has no such key\n  |\n2 |   imagge=x # y\n  |   ^^^^^^"
        );
        assert_eq!(
            mistake_in("image=x\n"),
            "d.ini:1:1: a key belongs to a container, so [NAME] comes first\n  |\n1 | image=x\n  | ^^^^^^^"
        );
        assert_eq!(
            mistake_in("[a]\nadditional_packages=\"git --root=/\"\n"),
            "d.ini:2:21: --root=/ is no name of a package\n  |\n\
             2 | additional_packages=\"git --root=/\"\n  |                     ^^^^^^^^^^^^^^"
        );
    }
}
