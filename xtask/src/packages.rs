//! Gets what tests and demo need from the distribution, or says exactly what to install.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::Command;

use testbed::Failure;
use testbed::tools::{Packages, Tool};

use crate::backports::Backports;
use crate::{crates, steps};

/// Looks for `tools`, and installs what is not here: after asking, or unasked with `--yes` or in CI.
///
/// What cannot be had is said, with what will be skipped for lack of it; that is no error here.
///
/// # Errors
/// The package manager cannot be run at all.
pub fn provide(tools: &[&'static Tool], yes: bool) -> Result<(), Failure> {
    let missing = steps::run_here("look for the programs that are needed", || {
        Ok(missing_of(tools))
    })?;
    if missing.is_empty() {
        return Ok(());
    }
    let distribution = Distribution::read();
    if distribution.family != Family::Debian {
        eprint!("{}", instructions(&distribution, &missing));
        return Ok(());
    }
    let packages = packages_of(&missing, |packages| packages.debian);
    eprintln!("These are not here:");
    for tool in &missing {
        let from = match tool.from_crate() {
            Some(program) => format!("built by cargo: {} {}", program.name, program.version),
            None => format!("package {}", tool.packages.debian.join(" ")),
        };
        eprintln!("  {:32} for {} ({from})", tool.name, tool.purpose);
    }
    let root = rustix::process::geteuid().is_root();
    let mut shown = format!(
        "{}apt-get install --no-install-recommends {}",
        if root { "" } else { "sudo " },
        packages.iter().copied().collect::<Vec<_>>().join(" ")
    );
    // apt's lists may be older than its sources, or not be there at all: then it is asked for more than is used.
    let backports = Backports::wanted(&packages, &distribution.codename);
    if let Some(backports) = &backports {
        shown = format!("{shown}`, where it is needed {}, `", backports.shown());
    }
    for program in crates::of(&missing) {
        shown = format!("{shown} && {}", crates::shown(program));
    }
    if !yes && std::env::var_os("CI").is_none() && !agreed(&shown) {
        say_what_is_skipped(&missing);
        return Ok(());
    }
    install(&packages, &distribution.codename, root)?;
    crates::install(&crates::of(&missing_of(&missing)))?;
    say_what_is_skipped(&missing_of(&missing));
    Ok(())
}

fn missing_of(tools: &[&'static Tool]) -> Vec<&'static Tool> {
    tools
        .iter()
        .copied()
        .filter(|tool| tool.find().is_none())
        .collect()
}

fn packages_of(
    tools: &[&'static Tool],
    of: impl Fn(&Packages) -> &'static [&'static str],
) -> BTreeSet<&'static str> {
    tools
        .iter()
        .flat_map(|tool| of(&tool.packages).iter().copied())
        .collect()
}

fn say_what_is_skipped(missing: &[&Tool]) {
    for tool in missing {
        eprintln!("Without {}, what is skipped: {}.", tool.name, tool.purpose);
    }
}

/// Asks at the terminal. Nobody there to answer is a no.
fn agreed(shown: &str) -> bool {
    if !io::stdin().is_terminal() {
        eprintln!("To install them: {shown}\nOr run this again with --yes.");
        return false;
    }
    eprint!("Install them with `{shown}`? [Y/n] ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    match io::stdin().lock().read_line(&mut answer) {
        Ok(0) | Err(_) => false,
        Ok(_) => matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"),
    }
}

fn install(packages: &BTreeSet<&str>, codename: &str, root: bool) -> Result<(), Failure> {
    if !root {
        // Asks for the password now, with the terminal to itself.
        let status = Command::new("sudo")
            .arg("--validate")
            .status()
            .map_err(Failure::doing(
                "running sudo, to install packages (run this as root without it)",
            ))?;
        if !status.success() {
            return Err(Failure::new("sudo refused; nothing was installed"));
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    // What the lists do not know, or know at an address that is gone by now, wants new lists first.
    if apt(root, "install packages", &install_arguments(packages))? {
        return Ok(());
    }
    apt(root, "fetch the package lists", &["update".to_owned()])?;
    if apt(
        root,
        "install packages, again",
        &install_arguments(packages),
    )? {
        return Ok(());
    }
    if let Some(backports) = Backports::wanted(packages, codename) {
        let written = run_as_root(root, "add a source to apt's", &backports.writing()?)?;
        if written
            && apt(
                root,
                "fetch the package lists, again",
                &["update".to_owned()],
            )?
            && apt(
                root,
                "install packages, with the new source",
                &install_arguments(packages),
            )?
        {
            return Ok(());
        }
    }
    // One that is not to be had must not cost the others.
    for package in packages {
        let one = BTreeSet::from([*package]);
        if !apt(
            root,
            &format!("install {package}"),
            &install_arguments(&one),
        )? {
            eprintln!("{package} cannot be installed here.");
        }
    }
    Ok(())
}

fn install_arguments(packages: &BTreeSet<&str>) -> Vec<String> {
    ["install", "--yes", "--no-install-recommends"]
        .into_iter()
        .chain(packages.iter().copied())
        .map(str::to_owned)
        .collect()
}

/// Runs apt-get without questions; true if it went well. The log of what did not is shown.
fn apt(root: bool, step: &str, arguments: &[String]) -> Result<bool, Failure> {
    let mut line: Vec<String> = [
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        // Another apt may be at work, as on a machine that has just been set up.
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Use-Pty=0",
    ]
    .map(str::to_owned)
    .into();
    line.extend_from_slice(arguments);
    run_as_root(root, step, &line)
}

/// Runs a command line of `env`; true if it went well. The log of what did not is shown.
fn run_as_root(root: bool, step: &str, line: &[String]) -> Result<bool, Failure> {
    let mut command = match root {
        true => Command::new("env"),
        false => {
            let mut sudo = Command::new("sudo");
            sudo.args(["--non-interactive", "env"]);
            sudo
        }
    };
    command.args(line);
    let finished = steps::run(step, command, steps::last_line)?;
    if !finished.status.success() {
        finished.show_tail();
    }
    Ok(finished.status.success())
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Family {
    Debian,
    Fedora,
    Arch,
    OpenSuse,
    Other,
}

struct Distribution {
    name: String,
    family: Family,
    /// Of a release of Debian itself; empty elsewhere.
    codename: String,
}

impl Distribution {
    fn read() -> Distribution {
        let text = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(os_release: &str) -> Distribution {
        let value = |key: &str| {
            os_release
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']).to_owned())
                .unwrap_or_default()
        };
        let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
        let family = ids
            .split_whitespace()
            .find_map(|id| match id {
                "debian" | "ubuntu" => Some(Family::Debian),
                "fedora" | "rhel" | "centos" => Some(Family::Fedora),
                "arch" => Some(Family::Arch),
                "suse" | "opensuse" => Some(Family::OpenSuse),
                id if id.starts_with("opensuse") => Some(Family::OpenSuse),
                _ => None,
            })
            .unwrap_or(Family::Other);
        let name = match value("PRETTY_NAME") {
            name if name.is_empty() => "this distribution".to_owned(),
            name => name,
        };
        let codename = match value("ID").as_str() {
            "debian" => value("VERSION_CODENAME"),
            _ => String::new(),
        };
        Distribution {
            name,
            family,
            codename,
        }
    }
}

/// What to install by hand, and what is skipped without it.
fn instructions(distribution: &Distribution, missing: &[&'static Tool]) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{arguments}");
    };
    line(format_args!(
        "Packages are installed by this task on Debian and its kin only, and this is {}.",
        distribution.name
    ));
    type Of = fn(&Packages) -> &'static [&'static str];
    let managers: [(Family, &str, &str, Of); 3] = [
        (Family::Fedora, "Fedora", "dnf install", |packages| {
            packages.fedora
        }),
        (Family::Arch, "Arch", "pacman -S --needed", |packages| {
            packages.arch
        }),
        (Family::OpenSuse, "openSUSE", "zypper install", |packages| {
            packages.opensuse
        }),
    ];
    let known = managers
        .iter()
        .any(|(family, ..)| *family == distribution.family);
    for (family, name, manager, of) in managers {
        if known && family != distribution.family {
            continue;
        }
        let packages = packages_of(missing, of);
        if !packages.is_empty() {
            line(format_args!(
                "On {name}:  sudo {manager} {}",
                packages.into_iter().collect::<Vec<_>>().join(" ")
            ));
        }
        let nowhere = |tool: &&&Tool| of(&tool.packages).is_empty() && tool.from_crate().is_none();
        for tool in missing.iter().filter(nowhere) {
            line(format_args!("  {name} has no package of {}.", tool.name));
        }
    }
    for program in crates::of(missing) {
        line(format_args!("Then:  {}", crates::shown(program)));
    }
    line(format_args!("Until then, what is skipped:"));
    for tool in missing {
        line(format_args!("  without {:32} {}", tool.name, tool.purpose));
    }
    text
}

#[cfg(test)]
mod tests {
    use testbed::tools;

    use super::*;

    fn family(os_release: &str) -> Family {
        Distribution::parse(os_release).family
    }

    #[test]
    fn the_family_comes_from_the_id_or_from_what_it_is_like() {
        assert_eq!(
            family("PRETTY_NAME=\"Debian\"\nID=debian\n"),
            Family::Debian
        );
        assert_eq!(
            family("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"),
            Family::Debian
        );
        assert_eq!(
            family("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"),
            Family::Fedora
        );
        assert_eq!(family("ID=\"opensuse-tumbleweed\"\n"), Family::OpenSuse);
        assert_eq!(family("ID=manjaro\nID_LIKE=arch\n"), Family::Arch);
        assert_eq!(family("ID=alpine\n"), Family::Other);
        assert_eq!(family(""), Family::Other);
    }

    #[test]
    fn elsewhere_the_packages_and_what_is_skipped_are_named() {
        let missing: [&'static Tool; 2] = [&tools::REFERENCE_SUITES, &tools::XVFB];
        let on = |os_release: &str| instructions(&Distribution::parse(os_release), &missing);

        let fedora = on("ID=fedora\nPRETTY_NAME=\"Fedora Linux 42\"\n");
        assert!(
            fedora.contains("sudo dnf install dbus-tests xorg-x11-server-Xvfb"),
            "{fedora}"
        );
        assert!(!fedora.contains("pacman"), "{fedora}");
        assert!(fedora.contains(tools::XVFB.purpose), "{fedora}");

        let arch = on("ID=arch\n");
        assert!(
            arch.contains("Arch has no package of the reference"),
            "{arch}"
        );

        let unknown = on("ID=alpine\n");
        for manager in ["dnf", "pacman", "zypper"] {
            assert!(unknown.contains(manager), "{unknown}");
        }
    }
}
