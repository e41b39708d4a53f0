//! distrobox' command line, for programs that know no other: terminals and graphical front ends run
//! `distrobox list` and `distrobox enter NAME`, and read what it prints.
//!
//! It is how we answer when we are called by that name (a link), or as `kapsule distrobox …` (a shell
//! function). What distrobox does and we do not is refused, and not left out silently.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::agent::Agent;
use crate::cli;
use crate::command::create::{Plan, absolute, absolute_mount};
use crate::command::enter::ended;
use crate::command::export::{export_application, export_program};
use crate::command::{assemble, life, print, upgrade};
use crate::error::{Error, Result};
use crate::export::application;
use crate::export::record::{Record, What};
use crate::inside::Program;
use crate::manager::{Manager, Row};
use crate::progress::{Kind, note};
use crate::terminal::MarkType;
use crate::text::plain;

/// The version of distrobox whose command line this is: front ends ask for it.
const VERSION: &str = "1.8.0";

/// Containers made by kapsule, under the names that distrobox has for things
#[derive(Debug, Parser)]
#[command(name = "distrobox", version = VERSION)]
struct Distrobox {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List containers
    #[command(visible_alias = "ls")]
    List(List),
    /// Open a shell, or run a command
    Enter(Enter),
    /// Make a container
    Create(Create),
    /// Stop containers
    Stop(Stop),
    /// Delete containers
    Rm(Stop),
    /// Upgrade containers
    Upgrade {
        /// The containers
        names: Vec<String>,
        /// All of them
        #[arg(long, short)]
        all: bool,
    },
    /// Make or delete what a manifest describes
    Assemble(Assemble),
    /// Make an entry in the menu; kapsule has none for whole containers
    GenerateEntry {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Print the version
    Version,
}

/// What distrobox has for every command, and makes no difference here.
#[derive(Debug, Args)]
struct Common {
    #[arg(long, short)]
    verbose: bool,
    #[arg(long, short)]
    root: bool,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    _common: Common,
    #[arg(long)]
    no_color: bool,
}

#[derive(Debug, Args)]
struct Enter {
    /// The container
    name: Option<String>,
    #[arg(long = "name", short = 'n', conflicts_with = "name")]
    named: Option<String>,
    /// The command
    #[arg(last = true)]
    command: Vec<String>,
    /// The command, in the old way
    #[arg(
        long = "exec",
        short = 'e',
        num_args = 1..,
        allow_hyphen_values = true,
        conflicts_with = "command"
    )]
    exec: Vec<String>,
    #[arg(long, short = 'T', visible_short_alias = 'H')]
    no_tty: bool,
    #[arg(long)]
    no_workdir: bool,
    #[arg(long)]
    clean_path: bool,
    #[command(flatten)]
    _common: Common,
}

#[derive(Debug, Args)]
struct Create {
    /// The container
    name: Option<String>,
    #[arg(long = "name", short = 'n', conflicts_with = "name")]
    named: Option<String>,
    /// The image: of kapsule, or one that a registry has for a distribution
    #[arg(long, short)]
    image: Option<String>,
    /// A home of its own
    #[arg(long, short = 'H')]
    home: Option<PathBuf>,
    /// A directory that is there inside
    #[arg(long)]
    volume: Vec<String>,
    /// Packages that are installed
    #[arg(long = "additional-packages", visible_alias = "ap", short = 'a')]
    additional_packages: Vec<String>,
    /// Commands that root runs at the end
    #[arg(long)]
    init_hooks: Vec<String>,
    /// A container that is copied
    #[arg(long, short)]
    clone: Option<String>,
    /// List images
    #[arg(long, short = 'C')]
    compatibility: bool,
    #[arg(long, short)]
    pull: bool,
    #[arg(long, short = 'Y')]
    yes: bool,
    #[arg(long, short = 'I')]
    init: bool,
    #[arg(long)]
    nvidia: bool,
    #[arg(long)]
    no_entry: bool,
    #[arg(long)]
    hostname: Option<String>,
    #[arg(long)]
    unshare_all: bool,
    #[arg(long)]
    unshare_devsys: bool,
    #[arg(long)]
    unshare_groups: bool,
    #[arg(long)]
    unshare_ipc: bool,
    #[arg(long)]
    unshare_netns: bool,
    #[arg(long)]
    unshare_process: bool,
    #[command(flatten)]
    _common: Common,
}

#[derive(Debug, Args)]
struct Stop {
    /// The containers
    names: Vec<String>,
    #[arg(long, short)]
    all: bool,
    #[arg(long, short)]
    force: bool,
    #[arg(long, short = 'Y')]
    yes: bool,
    #[arg(long)]
    rm_home: bool,
    #[command(flatten)]
    _common: Common,
}

#[derive(Debug, Args)]
struct Assemble {
    /// create or rm
    what: String,
    #[arg(long, default_value = "./distrobox.ini")]
    file: PathBuf,
    #[arg(long, short)]
    name: Option<String>,
    #[arg(long, short = 'R')]
    replace: bool,
    #[arg(long, short)]
    dry_run: bool,
    #[command(flatten)]
    _common: Common,
}

/// `distrobox-export`, which distrobox has inside and we have outside.
#[derive(Debug, Parser)]
#[command(name = "distrobox-export", version = VERSION)]
struct Export {
    #[arg(long, short)]
    app: Option<String>,
    #[arg(long, short)]
    bin: Option<String>,
    #[arg(long, visible_alias = "ep")]
    export_path: Option<PathBuf>,
    #[arg(long, short)]
    delete: bool,
    #[arg(long)]
    list_apps: bool,
    #[arg(long)]
    list_binaries: bool,
    #[arg(long, visible_alias = "el")]
    export_label: Option<String>,
}

/// Answers `arguments` as distrobox does.
///
/// # Errors
/// As those of the commands of kapsule.
pub async fn main(arguments: Vec<String>, bus: Option<&str>) -> Result<ExitCode> {
    let from_environment = std::env::var("KAPSULE_BUS").unwrap_or_else(|_| "system".to_owned());
    let bus = bus.unwrap_or(&from_environment);
    let line = std::iter::once("distrobox".to_owned()).chain(arguments);
    let matches = Distrobox::command().get_matches_from(line);
    let cli = Distrobox::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command {
        Command::Version => {
            print(&format!("distrobox: {VERSION}\n"));
            Ok(ExitCode::SUCCESS)
        }
        Command::List(_) => list(bus).await,
        Command::Enter(options) => enter(bus, options).await,
        Command::Create(options) => create(bus, options).await,
        Command::Stop(options) => {
            let (manager, names) = targets(bus, options.all, options.names).await?;
            let force = false;
            life::stop(&manager, &cli::NamesForce { names, force }).await
        }
        Command::Rm(options) => {
            if options.rm_home {
                return Err(Error::Usage(
                    "kapsule does not delete homes\n  hint: rm -r DIRECTORY, after a look at it"
                        .to_owned(),
                ));
            }
            let (manager, names) = targets(bus, options.all, options.names).await?;
            // There, -Y is what does away with the question.
            let force = options.force || options.yes;
            life::remove(&manager, &cli::Remove { names, force }).await
        }
        Command::Upgrade { names, all } => {
            let (manager, names) = targets(bus, all, names).await?;
            let (all, undo) = (false, false);
            upgrade::upgrade(&manager, &cli::Upgrade { names, all, undo }).await
        }
        Command::Assemble(options) => {
            let delete = match options.what.as_str() {
                "create" => false,
                "rm" => true,
                other => {
                    return Err(Error::Usage(format!(
                        "distrobox assemble has create and rm, and no {}",
                        plain(other)
                    )));
                }
            };
            let options = cli::Assemble {
                file: options.file,
                name: options.name.into_iter().collect(),
                replace: options.replace,
                delete,
                dry_run: options.dry_run,
            };
            assemble::assemble(bus, &options).await
        }
        Command::GenerateEntry { .. } => Ok(ExitCode::SUCCESS),
    }
}

async fn targets(bus: &str, all: bool, names: Vec<String>) -> Result<(Manager, Vec<String>)> {
    Agent::start().await;
    let manager = Manager::connect(bus).await?;
    let names = match all {
        true => manager
            .list_containers()
            .await?
            .into_iter()
            .map(|row| row.name)
            .collect(),
        false => names,
    };
    if names.is_empty() && !all {
        return Err(Error::Usage(
            "no container is named\n  hint: distrobox list".to_owned(),
        ));
    }
    Ok((manager, names))
}

async fn list(bus: &str) -> Result<ExitCode> {
    let mut rows = Manager::connect(bus).await?.list_containers().await?;
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    print(&table(&rows));
    Ok(ExitCode::SUCCESS)
}

/// The table of distrobox: `ID | NAME | STATUS | IMAGE`, a container a line. Readers want an id of twelve
/// hexadecimal digits, and take for running whatever is neither `Created` nor `Exited`.
fn table(rows: &[Row]) -> String {
    let line = |id: &str, name: &str, status: &str, image: &str| {
        // A bar would be another column.
        let field = |text: &str| match plain(text).replace('|', "/") {
            text if text.is_empty() => "-".to_owned(),
            text => text,
        };
        let (name, status, image) = (field(name), field(status), field(image));
        format!("{id:<12} | {name:<20} | {status:<18} | {image:<30}\n")
    };
    let mut out = line("ID", "NAME", "STATUS", "IMAGE");
    for row in rows {
        let status = match row.status.as_str() {
            "Running" => "Up",
            "Stopped" => "Exited",
            other => other,
        };
        out.push_str(&line(&id(&row.name), &row.name, status, &row.image));
    }
    out
}

/// Twelve hexadecimal digits that stay the same for a name (FNV-1a).
fn id(name: &str) -> String {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{:012x}", hash & 0xffff_ffff_ffff)
}

async fn enter(bus: &str, options: Enter) -> Result<ExitCode> {
    let name = options.name.or(options.named).unwrap_or_default();
    let mut argv = options.command;
    argv.extend(options.exec);
    // Front ends export by running distrobox' own program inside.
    if argv
        .first()
        .is_some_and(|program| program.ends_with("distrobox-export"))
    {
        let export = Export::try_parse_from(&argv).unwrap_or_else(|error| error.exit());
        return export_as(bus, &name, export).await;
    }
    let program = Program {
        container: name,
        argv,
        as_root: false,
        terminal: options.no_tty.then_some(false),
        cwd: options.no_workdir.then(std::env::home_dir).flatten(),
        mark: MarkType::Distrobox,
    };
    ended(Manager::connect(bus).await, &program).await
}

async fn export_as(bus: &str, container: &str, options: Export) -> Result<ExitCode> {
    if options.list_apps || options.list_binaries {
        let wanted = match options.list_apps {
            true => What::Application,
            false => What::Program,
        };
        for one in Record::open(container)?.all() {
            if let (true, Some(file)) = (one.what == wanted, one.files.last()) {
                let file = file.display().to_string();
                print(&format!("{} | {}\n", plain(&one.name), plain(&file)));
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let manager = Manager::connect(bus).await?;
    match (options.app, options.bin, options.delete) {
        (Some(app), _, true) => {
            if application::remove(container, &app)?.is_none() {
                return Err(Error::Usage(format!("{} is not exported", plain(&app))));
            }
            print(&format!(
                "Application {} successfully un-exported.\n",
                plain(&app)
            ));
        }
        (Some(app), _, false) => {
            export_application(&manager, bus, container, &app).await?;
            print(&format!(
                "Application {} successfully exported.\nOK!\n{} will appear in your applications list in a few seconds.\n",
                plain(&app),
                plain(&app)
            ));
        }
        (None, Some(bin), true) => {
            if Record::open(container)?
                .remove(What::Program, &bin)?
                .is_none()
            {
                return Err(Error::Usage(format!("{} is not exported", plain(&bin))));
            }
            print(&format!("{} successfully un-exported.\n", plain(&bin)));
        }
        (None, Some(bin), false) => {
            let to = options.export_path.as_deref();
            let path = export_program(&manager, bus, container, &bin, to).await?;
            print(&format!(
                "{} successfully exported in {}.\nOK!\n",
                plain(&bin),
                path.parent().unwrap_or(Path::new("/")).display()
            ));
        }
        (None, None, _) => {
            return Err(Error::Usage(
                "distrobox-export wants --app APP or --bin PATH".to_owned(),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(bus: &str, options: Create) -> Result<ExitCode> {
    if options.compatibility {
        for (reference, image) in IMAGES {
            let latest = image.1;
            print(&format!("{reference}:{latest}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    Agent::start().await;
    let manager = Manager::connect(bus).await?;
    let name = match options.name.or(options.named) {
        Some(name) => name,
        None => crate::inside::name(&manager, "").await?,
    };
    if options
        .hostname
        .as_ref()
        .is_some_and(|wanted| *wanted != name)
    {
        note(
            Kind::Warning,
            &format!("the host name of {name} is its name, and no other"),
        );
    }
    if let Some(source) = options.clone {
        let target = name;
        return crate::command::snapshot::clone(&manager, &cli::Clone { source, target }).await;
    }
    let wanted = crate::manifest::Wanted {
        plan: Plan {
            name: name.clone(),
            image: match options.image.as_deref() {
                Some(image) => image_of(image).map_err(Error::Usage)?,
                None => String::new(),
            },
            home: options.home.as_deref().map(absolute).transpose()?,
            mounts: options
                .volume
                .iter()
                .map(|mount| absolute_mount(mount.trim_end_matches(":rw")))
                .collect::<Result<_>>()?,
            ..Plan::default()
        },
        packages: options
            .additional_packages
            .iter()
            .flat_map(|list| list.split_whitespace().map(str::to_owned))
            .collect(),
        setup: options.init_hooks,
        ..crate::manifest::Wanted::default()
    };
    assemble::make(&manager, bus, &wanted).await?;
    let name = plain(&name);
    print(&format!(
        "Distrobox '{name}' successfully created.\nTo enter, run:\n\ndistrobox enter {name}\n\n"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Distributions by the names that registries have for them: the name on the server `images:`, and the
/// version that `latest` means.
const IMAGES: [(&str, (&str, &str)); 22] = [
    ("almalinux", ("almalinux", "9")),
    ("alpine", ("alpine", "3.22")),
    ("alpine-toolbox", ("alpine", "3.22")),
    ("amazonlinux", ("amazonlinux", "2023")),
    ("arch-toolbox", ("archlinux", "current")),
    ("archlinux", ("archlinux", "current")),
    ("base-devel", ("archlinux", "current")),
    ("centos", ("centos", "9-Stream")),
    ("debian", ("debian", "13")),
    ("debian-toolbox", ("debian", "13")),
    ("fedora", ("fedora", "42")),
    ("fedora-toolbox", ("fedora", "42")),
    ("kali-rolling", ("kali", "current")),
    ("leap", ("opensuse", "15.6")),
    ("opensuse-toolbox", ("opensuse", "tumbleweed")),
    ("oraclelinux", ("oracle", "9")),
    ("rockylinux", ("rockylinux", "9")),
    ("toolbox-ubuntu", ("ubuntu", "24.04")),
    ("tumbleweed", ("opensuse", "tumbleweed")),
    ("ubuntu", ("ubuntu", "24.04")),
    ("ubuntu-toolbox", ("ubuntu", "24.04")),
    ("void-glibc-full", ("voidlinux", "current")),
];

/// The image that stands for one of a registry: `docker.io/library/debian:12` is `images:debian/12`. What is
/// named as kapsule has it, stays.
///
/// # Errors
/// It is one of a registry, and of no distribution that we know.
pub fn image_of(reference: &str) -> std::result::Result<String, String> {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    let (name, tag) = last.split_once(':').unwrap_or((last, "latest"));
    if let Some((_, (image, latest))) = IMAGES.iter().find(|(known, _)| *known == name) {
        // `debian/12` has a slash, and is named as it should be; images:debian/12 as well.
        let version = match tag {
            "latest" | "rolling" | "" => latest,
            "trixie" => "13",
            "bookworm" => "12",
            "noble" => "24.04",
            "jammy" => "22.04",
            tag => tag,
        };
        return Ok(match version {
            "current" => format!("images:{image}"),
            version => format!("images:{image}/{version}"),
        });
    }
    let is_registry = reference
        .split_once('/')
        .is_some_and(|(host, _)| host.contains('.') || host == "localhost");
    if is_registry {
        return Err(format!(
            "{} is an image of a registry; kapsule has whole systems, from image servers, as in images:debian/13",
            plain(reference)
        ));
    }
    Ok(reference.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Distrobox::command().debug_assert();
        Export::command().debug_assert();
    }

    #[test]
    fn the_table_is_one_that_front_ends_read() {
        let row = |name: &str, status: &str, image: &str| Row {
            name: name.to_owned(),
            status: status.to_owned(),
            image: image.to_owned(),
            created: String::new(),
            mode: String::new(),
        };
        let out = table(&[
            row("work", "Running", "images:debian/13"),
            row("x\u{1b}[2J|y", "Stopped", ""),
        ]);
        let lines: Vec<Vec<&str>> = out
            .lines()
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(lines[0], ["ID", "NAME", "STATUS", "IMAGE"]);
        assert_eq!(lines[1][1..], ["work", "Up", "images:debian/13"]);
        assert_eq!(lines[2][1..], ["x\\u{1b}[2J/y", "Exited", "-"]);
        for line in &lines[1..] {
            assert!(
                line[0].len() == 12 && line[0].bytes().all(|b| b.is_ascii_hexdigit()),
                "{line:?}"
            );
        }
    }

    #[test]
    fn images_of_registries_are_those_of_the_distribution() {
        for (reference, image) in [
            ("ubuntu:latest", "images:ubuntu/24.04"),
            ("docker.io/library/debian:12", "images:debian/12"),
            ("quay.io/toolbx/arch-toolbox:latest", "images:archlinux"),
            (
                "registry.fedoraproject.org/fedora-toolbox:41",
                "images:fedora/41",
            ),
            ("images:debian/13", "images:debian/13"),
            ("trixie", "trixie"),
        ] {
            assert_eq!(image_of(reference).as_deref(), Ok(image));
        }
        assert!(image_of("ghcr.io/ublue-os/bluefin-cli").is_err());
    }

    #[test]
    fn what_front_ends_run_is_understood() {
        for line in [
            "list --no-color",
            "ls --no-color",
            "enter work",
            "enter work -- distrobox-export --app kate --delete",
            "enter -n work -T -- ls -la",
            "create -n work -i debian:12 -Y --init --additional-packages systemd --home /tmp/x --volume /a:/b",
            "rm work --force",
            "stop -Y work",
            "assemble create --file x.ini",
            "upgrade work",
            "version",
        ] {
            let words = std::iter::once("distrobox").chain(line.split(' '));
            Distrobox::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
