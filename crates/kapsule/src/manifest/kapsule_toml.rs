//! The manifest of our own, in TOML: a table for each container.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::command::create::{Plan, absolute, absolute_mount};
use crate::manifest::{Mistake, Wanted, wrong_name};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Container {
    image: Option<String>,
    #[serde(default)]
    with: Vec<Spanned<String>>,
    #[serde(default)]
    without: Vec<Spanned<String>>,
    #[serde(default)]
    privileged: bool,
    home: Option<Spanned<String>>,
    #[serde(default)]
    mounts: Vec<Spanned<String>>,
    #[serde(default)]
    ephemeral: bool,
    #[serde(default)]
    packages: Vec<Spanned<String>>,
    #[serde(default)]
    setup: Vec<String>,
    #[serde(default)]
    run: Vec<String>,
    #[serde(default)]
    export: Vec<String>,
    #[serde(default)]
    export_bin: Vec<Spanned<String>>,
    #[serde(default)]
    replace: bool,
}

/// Features that every container has, whatever it is given.
const ALWAYS: [&str; 3] = ["docker", "podman", "nesting"];

/// Reads a manifest. `features` are those that there are.
///
/// # Errors
/// It has a mistake.
pub fn parse(text: &str, features: &[String]) -> Result<Vec<Wanted>, Mistake> {
    let tables: BTreeMap<Spanned<String>, Container> =
        toml::from_str(text).map_err(|error| Mistake {
            what: error.message().to_owned(),
            at: error.span().unwrap_or(0..0),
        })?;
    let mut tables: Vec<_> = tables.into_iter().collect();
    // As the person has ordered them.
    tables.sort_by_key(|(name, _)| name.span().start);
    tables
        .into_iter()
        .map(|(name, container)| wanted(name, container, features))
        .collect()
}

fn wanted(
    name: Spanned<String>,
    container: Container,
    features: &[String],
) -> Result<Wanted, Mistake> {
    if let Some(what) = wrong_name(name.get_ref()) {
        return Err(mistake(&name, what));
    }
    for feature in container.with.iter().chain(&container.without) {
        let known = |known: &str| known == feature.get_ref();
        if !features.iter().any(|f| known(f)) && !ALWAYS.iter().any(|f| known(f)) {
            let what = format!(
                "there is no such feature; there are {}",
                features.join(", ")
            );
            return Err(mistake(feature, what));
        }
    }
    for package in &container.packages {
        if !is_package(package.get_ref()) {
            return Err(mistake(package, "this is no name of a package"));
        }
    }
    for program in &container.export_bin {
        if !program.get_ref().starts_with('/') {
            return Err(mistake(program, "a program is named by its path inside"));
        }
    }
    let path = |path: &Spanned<String>| {
        absolute(Path::new(path.get_ref())).map_err(|error| mistake(path, error.to_string()))
    };
    let mounts = container.mounts.iter().map(|mount| {
        absolute_mount(mount.get_ref()).map_err(|error| mistake(mount, error.to_string()))
    });
    Ok(Wanted {
        plan: Plan {
            name: name.into_inner(),
            image: container.image.unwrap_or_default(),
            with: plain(container.with),
            without: plain(container.without),
            privileged: container.privileged,
            home: container.home.as_ref().map(path).transpose()?,
            mounts: mounts.collect::<Result<_, _>>()?,
            ephemeral: container.ephemeral,
        },
        packages: plain(container.packages),
        setup: container.setup,
        run: container.run,
        export: container.export,
        export_bin: plain(container.export_bin),
        replace: container.replace,
        notes: Vec::new(),
    })
}

fn plain(list: Vec<Spanned<String>>) -> Vec<String> {
    list.into_iter().map(Spanned::into_inner).collect()
}

fn mistake<T>(at: &Spanned<T>, what: impl Into<String>) -> Mistake {
    Mistake {
        what: what.into(),
        at: at.span(),
    }
}

/// Whether a package manager takes this for a package, and not for an option.
pub fn is_package(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::shown;

    fn features() -> Vec<String> {
        ["graphics", "gpu", "home"].map(str::to_owned).to_vec()
    }

    fn mistake_in(text: &str) -> String {
        let mistake = parse(text, &features()).expect_err("it has a mistake");
        shown("boxes.toml", text, &mistake)
    }

    #[test]
    fn containers_come_in_the_order_of_the_file_with_all_that_they_want() {
        let text = r#"
[work]
image = "images:debian/13"
with = ["docker"]
without = ["gpu"]
packages = ["git"]
setup = ["true"]
export-bin = ["/usr/bin/git"]

[alone]
home = "/srv/alone"
"#;
        let wanted = parse(text, &features()).expect("it is right");
        let [work, alone] = &wanted[..] else {
            panic!("{wanted:?}");
        };
        assert_eq!(work.plan.name, "work");
        assert_eq!(work.plan.image, "images:debian/13");
        assert_eq!(work.plan.without, ["gpu"]);
        assert_eq!(work.packages, ["git"]);
        assert_eq!(work.export_bin, ["/usr/bin/git"]);
        assert_eq!(alone.plan.name, "alone");
        assert_eq!(alone.plan.home.as_deref(), Some("/srv/alone"));
    }

    #[test]
    fn a_mistake_is_pointed_at() {
        let unknown_key = mistake_in("[work]\nimagee = \"x\"\n");
        assert!(
            unknown_key.starts_with("boxes.toml:2:1: unknown field `imagee`"),
            "{unknown_key}"
        );
        assert!(
            unknown_key.ends_with("\n  |\n2 | imagee = \"x\"\n  | ^^^^^^"),
            "{unknown_key}"
        );
        assert_eq!(
            mistake_in("[work]\nwith = [\"gpu\", \"sound\"]\n"),
            "boxes.toml:2:16: there is no such feature; there are graphics, gpu, home\n  |\n\
             2 | with = [\"gpu\", \"sound\"]\n  |                ^^^^^^^"
        );
        assert_eq!(
            mistake_in("[\"../x\"]\n"),
            "boxes.toml:1:2: a container's name begins with a letter\n  |\n1 | [\"../x\"]\n  |  ^^^^^^"
        );
        assert!(mistake_in("[work]\npackages = [\"--root=/\"]").contains("no name of a package"));
        assert!(mistake_in("[work\n").starts_with("boxes.toml:1:"));
    }
}
