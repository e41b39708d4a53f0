//! `cargo xtask dist`: what a package holds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;
use testbed::Failure;

use crate::dist_arguments::Arguments;
use crate::{cargo, guest_package, steps};

/// A program that people install: its name, its command line, its units.
struct Program {
    name: &'static str,
    /// The crate that it is of.
    package: &'static str,
    command: fn() -> clap::Command,
    kind: Kind,
    /// Other names, by which people call it.
    aliases: &'static [&'static str],
    /// Its completion script for a shell and one of its names, if it is not made from the command line.
    completion: Option<fn(Shell, &str) -> String>,
    user_units: &'static [(&'static str, &'static str)],
    system_units: &'static [(&'static str, &'static str)],
    /// Other files, by their paths below the prefix.
    data: &'static [(&'static str, &'static str)],
}

/// Who starts a program.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Kind {
    /// A person: in `bin`, with a page in section 1 and completions.
    Command,
    /// systemd or the bus: in `libexec`, with a page in section 8.
    Daemon,
}

/// A file of `data/`, by its path below the prefix.
macro_rules! data {
    ($to:literal, $from:literal) => {
        ($to, include_str!(concat!("../../data/", $from)))
    };
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "kapsule",
        package: "kapsule",
        command: kapsule::cli::command,
        kind: Kind::Command,
        aliases: &["kap"],
        completion: Some(|shell, name| kapsule::completion::script(shell, name, name)),
        user_units: &[],
        system_units: &[],
        data: &[(
            "share/doc/kapsule/kapsule.md",
            include_str!("../../docs/kapsule.md"),
        )],
    },
    Program {
        name: "kapsuled",
        package: "kapsule-daemon",
        command: kapsule_daemon::program::command,
        kind: Kind::Daemon,
        aliases: &[],
        completion: None,
        user_units: &[],
        system_units: &[
            data!("kapsuled.service", "systemd/kapsuled.service"),
            data!(
                "kapsule-first-boot.service",
                "systemd/kapsule-first-boot.service"
            ),
        ],
        data: &[
            data!(
                "share/dbus-1/interfaces/org.kde.kapsule.Manager.xml",
                "dbus-1/interfaces/org.kde.kapsule.Manager.xml"
            ),
            data!(
                "share/dbus-1/interfaces/org.kde.kapsule.Operation.xml",
                "dbus-1/interfaces/org.kde.kapsule.Operation.xml"
            ),
            data!(
                "share/dbus-1/interfaces/org.kde.kapsule.Session.xml",
                "dbus-1/interfaces/org.kde.kapsule.Session.xml"
            ),
            data!(
                "share/dbus-1/system.d/org.kde.kapsule.conf",
                "dbus-1/system.d/org.kde.kapsule.conf"
            ),
            data!(
                "share/dbus-1/system-services/org.kde.kapsule.service",
                "dbus-1/system-services/org.kde.kapsule.service"
            ),
            data!(
                "share/polkit-1/actions/org.kde.kapsule.policy",
                "polkit-1/org.kde.kapsule.policy"
            ),
            data!("share/kapsule/profiles/audio.toml", "profiles/audio.toml"),
            data!("share/kapsule/profiles/dbus.toml", "profiles/dbus.toml"),
            data!("share/kapsule/profiles/gpu.toml", "profiles/gpu.toml"),
            data!(
                "share/kapsule/profiles/graphics.toml",
                "profiles/graphics.toml"
            ),
            data!("share/kapsule/profiles/home.toml", "profiles/home.toml"),
            data!("share/doc/kapsuled/kapsule.toml", "kapsule.toml"),
        ],
    },
    Program {
        name: "kapsule-dbus-mux",
        package: "kapsule-dbus-mux",
        command: kapsule_dbus_mux::cli::command,
        kind: Kind::Command,
        aliases: &[],
        completion: None,
        system_units: &[],
        user_units: &[
            (
                "kapsule-dbus-mux@.service",
                include_str!("../../crates/kapsule-dbus-mux/systemd/kapsule-dbus-mux@.service"),
            ),
            (
                "kapsule-dbus-mux@.socket",
                include_str!("../../crates/kapsule-dbus-mux/systemd/kapsule-dbus-mux@.socket"),
            ),
        ],
        data: &[],
    },
    Program {
        name: "dbus-router",
        package: "dbus-router",
        command: dbus_router::tool::cli::command,
        kind: Kind::Command,
        aliases: &[],
        completion: None,
        system_units: &[],
        user_units: &[],
        // In the place of the page made from the command line: its options are xdg-dbus-proxy's.
        data: &[(
            "share/man/man1/dbus-router-proxy.1",
            include_str!("../../crates/dbus-router/man/dbus-router-proxy.1"),
        )],
    },
    Program {
        name: "shield-bridge",
        package: "shield",
        command: shield::cli::command,
        kind: Kind::Command,
        aliases: &[],
        completion: None,
        system_units: &[],
        user_units: &[
            (
                "shield-bridge.service",
                include_str!("../../crates/shield/data/shield-bridge.service"),
            ),
            (
                "shield-notify.service",
                include_str!("../../crates/shield/data/shield-notify.service"),
            ),
        ],
        data: &[
            (
                "share/dbus-1/interfaces/org.terok.Shield1.xml",
                include_str!("../../crates/shield/data/org.terok.Shield1.xml"),
            ),
            (
                "share/dbus-1/interfaces/org.terok.Shield2.xml",
                include_str!("../../crates/shield/data/org.terok.Shield2.xml"),
            ),
            (
                "share/dbus-1/system.d/org.terok.Shield1.conf",
                include_str!("../../crates/shield/data/org.terok.Shield1.conf"),
            ),
            (
                "share/doc/shield-bridge/shield.md",
                include_str!("../../docs/shield.md"),
            ),
            (
                "share/doc/shield-bridge/shield-event.svg",
                include_str!("../../docs/shield-event.svg"),
            ),
        ],
    },
    Program {
        name: "sidebus-broker",
        package: "sidebus",
        command: sidebus::broker::cli::command,
        kind: Kind::Command,
        aliases: &[],
        completion: None,
        system_units: &[],
        user_units: &[
            (
                "sidebus-broker@.service",
                include_str!("../../crates/sidebus/data/host/sidebus-broker@.service"),
            ),
            (
                "sidebus-broker@.socket",
                include_str!("../../crates/sidebus/data/host/sidebus-broker@.socket"),
            ),
        ],
        data: &[
            (
                "share/doc/sidebus-broker/sidebus.md",
                include_str!("../../docs/sidebus.md"),
            ),
            (
                "share/doc/sidebus-broker/sidebus-portals.md",
                include_str!("../../docs/sidebus-portals.md"),
            ),
        ],
    },
];

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if !arguments.prefix.is_absolute() {
        return Err(Failure::new(format!(
            "--prefix is where the programs will run, so it begins with a slash: {}",
            arguments.prefix.display()
        )));
    }
    let mut build = cargo::build(&["--release"]);
    for program in PROGRAMS {
        build.args(["--package", program.package]);
    }
    let built = steps::run("build the programs for release", build, steps::last_line)?;
    if !built.status.success() {
        built.show_tail();
        return Err(Failure::new("the programs do not build (see above)"));
    }

    let dist = cargo::root().join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist)
            .map_err(Failure::doing(format_args!("removing {}", dist.display())))?;
    }
    let mut tree = Tree::new(dist);
    fill(&mut tree, &arguments.prefix)?;
    println!("{}", tree.root.display());
    for file in &tree.files {
        println!("  {}", file.display());
    }

    let guests = cargo::root().join("dist-guest");
    if guests.exists() {
        fs::remove_dir_all(&guests).map_err(Failure::doing(format_args!(
            "removing {}",
            guests.display()
        )))?;
    }
    let agent = cargo::target_dir().join("release/sidebus-agent");
    // A home of this machine is none of the guest's.
    let guest_prefix = match arguments.prefix.starts_with("/usr") {
        true => arguments.prefix.as_path(),
        false => Path::new("/usr/local"),
    };
    let archive = guest_package::make(&guests, guest_prefix, &agent)?;
    println!(
        "{} (for a virtual machine: tar -xzf … -C {})",
        archive.display(),
        guest_prefix.display()
    );

    if arguments.install {
        let target = match &arguments.destdir {
            Some(destdir) => below(destdir, &arguments.prefix),
            None => arguments.prefix.clone(),
        };
        for file in &tree.files {
            copy(&tree.root.join(file), &target.join(file))?;
        }
        println!("installed in {}", target.display());
        if arguments.destdir.is_none() {
            println!("Units are seen after: systemctl --user daemon-reload");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The files of a package, by their paths below the prefix.
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<PathBuf>,
}

impl Tree {
    pub(crate) fn new(root: PathBuf) -> Tree {
        Tree {
            root,
            files: Vec::new(),
        }
    }

    pub(crate) fn write(
        &mut self,
        file: impl Into<PathBuf>,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), Failure> {
        let file = file.into();
        let path = self.root.join(&file);
        make_parent(&path)?;
        fs::write(&path, contents)
            .map_err(Failure::doing(format_args!("writing {}", path.display())))?;
        // A page written by hand takes the place of one made from the command line.
        if !self.files.contains(&file) {
            self.files.push(file);
        }
        Ok(())
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A link to a file beside it.
    fn link(&mut self, to: &str, file: impl Into<PathBuf>) -> Result<(), Failure> {
        let file = file.into();
        let path = self.root.join(&file);
        make_parent(&path)?;
        std::os::unix::fs::symlink(to, &path)
            .map_err(Failure::doing(format_args!("linking {}", path.display())))?;
        self.files.push(file);
        Ok(())
    }

    pub(crate) fn copy(&mut self, from: &Path, file: impl Into<PathBuf>) -> Result<(), Failure> {
        let file = file.into();
        copy(from, &self.root.join(&file))?;
        self.files.push(file);
        Ok(())
    }
}

fn fill(tree: &mut Tree, prefix: &Path) -> Result<(), Failure> {
    let release = cargo::target_dir().join("release");
    for program in PROGRAMS {
        let name = program.name;
        let built = release.join(name);
        match program.kind {
            Kind::Command => {
                tree.copy(&built, format!("bin/{name}"))?;
                completions(tree, program)?;
            }
            Kind::Daemon => tree.copy(&built, format!("libexec/{name}"))?,
        }
        for alias in program.aliases {
            tree.link(name, format!("bin/{alias}"))?;
            tree.link(&format!("{name}.1"), format!("share/man/man1/{alias}.1"))?;
        }
        let section = match program.kind {
            Kind::Command => "1",
            Kind::Daemon => "8",
        };
        pages_of_section(tree, &(program.command)(), section)?;
        let user = user_units(prefix);
        for (directory, units) in [
            (user, program.user_units),
            ("lib/systemd/system", program.system_units),
        ] {
            for (unit, text) in units {
                tree.write(format!("{directory}/{unit}"), placed(text, prefix))?;
            }
        }
        for (file, text) in program.data {
            tree.write(*file, placed(text, prefix))?;
        }
        for document in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
            let path = cargo::root().join(document);
            if path.is_file() {
                tree.copy(&path, format!("share/doc/{name}/{document}"))?;
            }
        }
    }
    Ok(())
}

fn completions(tree: &mut Tree, program: &Program) -> Result<(), Failure> {
    let names = std::iter::once(&program.name).chain(program.aliases);
    for name in names {
        for (shell, file) in [
            (
                Shell::Bash,
                format!("share/bash-completion/completions/{name}"),
            ),
            (Shell::Zsh, format!("share/zsh/site-functions/_{name}")),
            (
                Shell::Fish,
                format!("share/fish/vendor_completions.d/{name}.fish"),
            ),
        ] {
            match program.completion {
                Some(script) => tree.write(file, script(shell, name))?,
                None => {
                    let mut script = Vec::new();
                    clap_complete::generate(shell, &mut (program.command)(), *name, &mut script);
                    tree.write(file, script)?;
                }
            }
        }
    }
    Ok(())
}

/// A unit or a service file with the directories of programs as they are below the prefix.
fn placed(text: &str, prefix: &Path) -> String {
    let directory = |name: &str| prefix.join(name).display().to_string();
    text.replace("@bindir@", &directory("bin"))
        .replace("=/usr/libexec/", &format!("={}/", directory("libexec")))
}

/// Where systemd looks for the units of users: in a home it knows only where data is.
fn user_units(prefix: &Path) -> &'static str {
    match std::env::var_os("HOME") {
        Some(home) if prefix.starts_with(&home) => "share/systemd/user",
        _ => "lib/systemd/user",
    }
}

/// A page for the command and one for each of its subcommands: `NAME-SUBCOMMAND(1)`.
pub(crate) fn man_pages(tree: &mut Tree, command: &clap::Command) -> Result<(), Failure> {
    pages_of_section(tree, command, "1")
}

fn pages_of_section(
    tree: &mut Tree,
    command: &clap::Command,
    section: &str,
) -> Result<(), Failure> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let mut pages = vec![command];
    while let Some(command) = pages.pop() {
        let name = command
            .get_display_name()
            .unwrap_or_else(|| command.get_name())
            .to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone())
            .title(name.to_uppercase())
            .section(section)
            .render(&mut page)
            .map_err(Failure::doing(format_args!(
                "writing the man page of {name}"
            )))?;
        tree.write(format!("share/man/man{section}/{name}.{section}"), page)?;
        pages.extend(
            command
                .get_subcommands()
                .filter(|subcommand| !subcommand.is_hide_set())
                .cloned(),
        );
    }
    Ok(())
}

/// `prefix` as a packager's staging directory has it: below `destdir`.
fn below(destdir: &Path, prefix: &Path) -> PathBuf {
    let inside: PathBuf = prefix
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    destdir.join(inside)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    make_parent(to)?;
    let doing = format!("copying {} to {}", from.display(), to.display());
    // A program that runs cannot be written over, and can be replaced.
    let _ = fs::remove_file(to);
    if let Ok(target) = fs::read_link(from) {
        return std::os::unix::fs::symlink(target, to).map_err(Failure::doing(&doing));
    }
    fs::copy(from, to).map_err(Failure::doing(&doing))?;
    // Whatever the umask was when the file was made: what is installed is for everybody.
    let executable = fs::metadata(to)
        .map_err(Failure::doing(&doing))?
        .permissions()
        .mode()
        & 0o100
        != 0;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(Failure::doing(&doing))
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent).map_err(Failure::doing(format_args!("making {}", parent.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staging_directory_holds_the_prefix() {
        let staged = below(Path::new("/tmp/stage"), Path::new("/usr"));
        assert_eq!(staged, Path::new("/tmp/stage/usr"));
    }

    #[test]
    fn the_tree_holds_pages_completions_and_units_that_name_the_prefix() {
        let dir = testbed::TestDir::new();
        let mut tree = Tree::new(dir.join("dist"));
        let mux = PROGRAMS
            .iter()
            .find(|program| program.name == "kapsule-dbus-mux")
            .expect("it is installed");
        man_pages(&mut tree, &(mux.command)()).expect("pages are written");
        let page = tree.root.join("share/man/man1/kapsule-dbus-mux.1");
        assert!(
            fs::read_to_string(page)
                .expect("a page")
                .contains("container")
        );
        for file in ["kapsule-dbus-mux-run.1", "kapsule-dbus-mux-status.1"] {
            assert!(
                tree.files.contains(&Path::new("share/man/man1").join(file)),
                "{file}"
            );
        }
    }

    #[test]
    fn the_documents_that_an_installed_one_refers_to_are_installed() {
        let installed = || PROGRAMS.iter().flat_map(|program| program.data);
        let name = |file: &str| file.rsplit('/').next().unwrap_or_default().to_owned();
        let mut seen = 0;
        for (file, text) in installed().filter(|(file, _)| file.ends_with(".md")) {
            // A link to another document beside it in the source: `[words](name.md)`, perhaps with a heading.
            for link in text.split("](").skip(1) {
                let link = link.split([')', '#']).next().unwrap_or_default();
                if link.contains('/') || !(link.ends_with(".md") || link.ends_with(".svg")) {
                    continue;
                }
                seen += 1;
                assert!(
                    installed().any(|(other, _)| name(other) == link),
                    "{file} refers to {link}"
                );
            }
        }
        assert!(seen > 0, "no links were found");
    }

    #[test]
    fn completions_of_kapsule_ask_the_program_for_names() {
        let dir = testbed::TestDir::new();
        let mut tree = Tree::new(dir.join("dist"));
        let kapsule = PROGRAMS
            .iter()
            .find(|program| program.name == "kapsule")
            .expect("it is installed");
        completions(&mut tree, kapsule).expect("scripts are written");
        for (file, asks) in [
            (
                "share/bash-completion/completions/kapsule",
                "\"kapsule\" --",
            ),
            ("share/bash-completion/completions/kap", "\"kap\" --"),
            ("share/zsh/site-functions/_kapsule", "kapsule --"),
            ("share/fish/vendor_completions.d/kap.fish", "kap --"),
        ] {
            let script = fs::read_to_string(tree.root.join(file)).expect("a script");
            assert!(script.contains(asks), "{file}: {script}");
        }
    }

    #[test]
    fn an_alias_and_a_daemon_have_their_places() {
        let dir = testbed::TestDir::new();
        let mut tree = Tree::new(dir.join("dist"));
        tree.write("bin/kapsule", "a program").expect("written");
        tree.link("kapsule", "bin/kap").expect("linked");
        copy(&tree.root.join("bin/kap"), &dir.join("usr/bin/kap")).expect("copied");
        let target = fs::read_link(dir.join("usr/bin/kap")).expect("still a link");
        assert_eq!(target, Path::new("kapsule"));

        pages_of_section(&mut tree, &kapsule_daemon::program::command(), "8").expect("written");
        assert!(tree.root.join("share/man/man8/kapsuled.8").is_file());
        let unit = placed("ExecStart=/usr/libexec/kapsuled\n", Path::new("/opt/k"));
        assert_eq!(unit, "ExecStart=/opt/k/libexec/kapsuled\n");
    }
}
