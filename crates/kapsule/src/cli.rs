//! The command line.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates as Offer;

use crate::completion::{containers, features, images, keys, running, snapshots, stopped};
use crate::error::{Error, Result};
use crate::manager::Manager;
use crate::progress::{Kind, note};
use crate::{agent, command, completion, distrobox};

/// Containers as a second home
///
/// A container is another Linux system beside yours, in which you are at home: the same user, the same
/// files, the same desktop. Docker and podman work inside, systemd runs, and snapshots take you back. The
/// shell is there within milliseconds.
#[derive(Debug, Parser)]
#[command(
    name = "kapsule",
    version,
    after_help = "\
Examples:
  kapsule create work --image images:debian/13
  kapsule enter work                      a shell inside
  kapsule run work -- make test           a command inside; its exit status is ours
  kapsule export work org.kde.kate        an application in your menu
  kapsule snapshot work before-upgrade    ... kapsule restore work before-upgrade

Each command has its own --help. docs/kapsule.md goes from nothing to a shell in five lines."
)]
pub struct Cli {
    /// The bus of the daemon: system, session, or an address
    #[arg(
        long,
        global = true,
        env = "KAPSULE_BUS",
        value_name = "BUS",
        default_value = "system",
        hide_env_values = true
    )]
    pub bus: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container
    #[command(after_help = "\
An image is one of the local store (kapsule images), or SERVER:ALIAS of a simplestreams server,
such as images:debian/13. Without --image it is the default image.

Features (kapsule features) are all on unless --without says otherwise. Docker and podman work in
every container.

Examples:
  kapsule create work
  kapsule create old --image images:ubuntu/22.04
  kapsule create cage --without home --without dbus     nothing of your files, no desktop services
  kapsule create box --home ~/boxes/box                 a home of its own")]
    Create(Create),
    /// Open a shell in a container, or run a command there
    #[command(after_help = "\
Without NAME it is the default container, which is made if it is not there. A container that does
not run is started.

The exit status is the command's; 125 if it could not be run.

Examples:
  kapsule enter
  kapsule enter work
  kapsule enter work -- htop")]
    Enter(Enter),
    /// Run a command in a container
    #[command(
        visible_alias = "exec",
        after_help = "\
The command has a terminal if you have one on stdin and stdout, else your own pipes and files.
Arguments arrive as they are given; no shell is between. The exit status is the command's, or 128
and the number of the signal that ended it; 125 if it could not be run. Signals are passed on.

Examples:
  kapsule run work -- make -j8
  kapsule run work -- sh -c 'cat /etc/os-release' | head -1
  tar c . | kapsule run work -- tar x -C /tmp
  kapsule run --root work -- apt-get install -y git"
    )]
    Run(Run),
    /// List containers
    #[command(visible_alias = "ls")]
    List(List),
    /// Show what is known of a container
    Info(Info),
    /// Start containers
    Start(Names),
    /// Stop containers
    Stop(NamesForce),
    /// Start containers whenever you log in
    #[command(after_help = "\
It is a file in ~/.config/autostart, which desktops read at login, and show in their settings.

Examples:
  kapsule autostart work
  kapsule autostart work --off")]
    Autostart(Autostart),
    /// Delete containers, with what they have exported
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(Remove),
    /// Rename a container that does not run
    Rename(Rename),
    /// Put an application or a program of a container into yours
    #[command(after_help = "\
An application (APP is the name of its desktop file, or what the menu calls it) gets an entry in
your menu, with its icons; a program (--bin) gets a command in ~/.local/bin. Both start it inside.
Without APP it lists what can be exported, and what is.

`kapsule rm` takes away what was exported.

Examples:
  kapsule export work                      what there is
  kapsule export work org.kde.kate
  kapsule export work --bin /usr/bin/hugo
  kapsule export work org.kde.kate --delete")]
    Export(Export),
    /// List the features that a container can have
    Features(Json),
    /// Images: list, import, delete, refresh
    #[command(visible_alias = "image")]
    Images(Images),
    /// Take a snapshot of a container; or list or delete its snapshots
    #[command(after_help = "\
Examples:
  kapsule snapshot work                    named by the time
  kapsule snapshot work before-upgrade
  kapsule snapshot work --list
  kapsule snapshot work before-upgrade --delete")]
    Snapshot(Snapshot),
    /// Bring a container back to a snapshot
    Restore(Restore),
    /// Copy a container
    #[command(visible_alias = "copy")]
    Clone(Clone),
    /// Write a container into a file
    Save(Save),
    /// Make a container from a file that save has written
    Load(Load),
    /// Upgrade the packages of containers, with a snapshot before
    #[command(after_help = "\
Known are apt, dnf, pacman, zypper, apk, xbps and emerge. The snapshots are called upgrade-TIME;
the three newest are kept.

Examples:
  kapsule upgrade work
  kapsule upgrade --all
  kapsule upgrade work --undo              back to before the last upgrade")]
    Upgrade(Upgrade),
    /// Make the containers that a file describes
    #[command(after_help = "\
The file, in TOML; all but the table's name can be left out:

  [work]
  image = \"images:debian/13\"
  without = [\"gpu\"]
  home = \"~/boxes/work\"
  packages = [\"git\", \"hugo\"]
  setup = [\"git config --system init.defaultBranch main\"]
  export = [\"org.kde.kate\"]
  export-bin = [\"/usr/bin/hugo\"]

A container that is there already stays as it is, unless --replace. A manifest of distrobox (NAME.ini)
is read as well.")]
    Assemble(Assemble),
    /// Set up Incus: a storage pool, a network, the default profile
    Init(Init),
    /// Show the configuration, or set a key of yours
    #[command(after_help = "\
What you set is in ~/.config/kapsule/config.toml; the system's is in /etc/kapsule/kapsule.toml.

Examples:
  kapsule config
  kapsule config default_image
  kapsule config default_image images:fedora/42
  kapsule config default_image --unset")]
    Config(Config),
    /// Ask how the daemon is, or run one
    Daemon(Daemon),
    /// Answer as distrobox does
    #[command(hide = true, disable_help_flag = true)]
    Distrobox {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The image of a container, and what it can have.
#[derive(Debug, Args)]
pub struct Create {
    /// The container's name
    pub name: String,
    /// What it is made from [default: the configuration's default_image]
    #[arg(long, short, value_name = "IMAGE", add = Offer::new(images))]
    pub image: Option<String>,
    /// A feature that it has; may be given several times
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', add = Offer::new(features))]
    pub with: Vec<String>,
    /// A feature that it has not; may be given several times
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', add = Offer::new(features))]
    pub without: Vec<String>,
    /// Let root inside be root outside: only for what you trust as much as yourself
    #[arg(long)]
    pub privileged: bool,
    /// A directory of yours that is the home inside, instead of your own home
    #[arg(long, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// A directory of yours that is there inside as well: DIR, DIR:PATH-INSIDE or DIR:PATH-INSIDE:ro
    #[arg(long = "mount", visible_alias = "custom-mounts", value_name = "DIR")]
    pub mounts: Vec<String>,
    /// Delete it when it stops
    #[arg(long)]
    pub ephemeral: bool,
    #[command(flatten)]
    first: FirstDesign,
}

/// What the first design called its features; still understood.
#[derive(Debug, Args)]
struct FirstDesign {
    #[arg(long, hide = true)]
    with_docker: bool,
    #[arg(long, hide = true)]
    with_podman: bool,
    #[arg(long, hide = true)]
    with_nesting: bool,
    #[arg(long, hide = true, alias = "graphics")]
    with_graphics: bool,
    #[arg(long, hide = true, alias = "audio")]
    with_audio: bool,
    #[arg(long, hide = true, alias = "dbus")]
    with_dbus: bool,
    #[arg(long, hide = true, conflicts_with = "home")]
    with_home: bool,
    #[arg(long, hide = true, alias = "gpu")]
    with_gpu: bool,
    #[arg(long, hide = true)]
    without_graphics: bool,
    #[arg(long, hide = true)]
    without_audio: bool,
    #[arg(long, hide = true)]
    without_dbus: bool,
    #[arg(long, hide = true, alias = "no-mount-home")]
    without_home: bool,
    #[arg(long, hide = true)]
    without_gpu: bool,
    #[arg(long, hide = true, short = 's')]
    session: bool,
    #[arg(long, hide = true, short = 'm')]
    dbus_mux: bool,
    #[arg(long, hide = true, value_enum)]
    preset: Option<Preset>,
}

#[derive(Copy, Clone, Debug, ValueEnum)]
enum Preset {
    Desktop,
    Minimal,
    Server,
}

impl Create {
    /// All features that are asked for, whatever they were called.
    pub fn all_with(&self) -> Vec<String> {
        let first = &self.first;
        let mut with = self.with.clone();
        for (wanted, name) in [
            (first.with_docker, "docker"),
            (first.with_podman, "podman"),
            (first.with_nesting, "nesting"),
            (first.with_graphics, "graphics"),
            (first.with_audio, "audio"),
            (first.with_dbus || first.session || first.dbus_mux, "dbus"),
            (first.with_home, "home"),
            (first.with_gpu, "gpu"),
        ] {
            if wanted {
                with.push(name.to_owned());
            }
        }
        with
    }

    /// All features that are not wanted, whatever they were called.
    pub fn all_without(&self) -> Vec<String> {
        let first = &self.first;
        let mut without = self.without.clone();
        for (unwanted, name) in [
            (first.without_graphics, "graphics"),
            (first.without_audio, "audio"),
            (first.without_dbus, "dbus"),
            (first.without_home, "home"),
            (first.without_gpu, "gpu"),
        ] {
            if unwanted {
                without.push(name.to_owned());
            }
        }
        let preset: &[&str] = match first.preset {
            None | Some(Preset::Desktop) => &[],
            Some(Preset::Minimal) => &["graphics", "audio", "dbus", "home", "gpu"],
            Some(Preset::Server) => &["graphics", "audio", "home", "gpu"],
        };
        let with = self.all_with();
        without.extend(
            preset
                .iter()
                .map(|name| (*name).to_owned())
                .filter(|name| !with.contains(name)),
        );
        without
    }
}

/// A shell or a command, in a container that may be the default one.
#[derive(Debug, Args)]
pub struct Enter {
    /// The container [default: the configuration's default_container]
    #[arg(default_value = "", hide_default_value = true, add = Offer::new(containers))]
    pub name: String,
    /// The command, and its arguments
    #[arg(last = true)]
    pub command: Vec<String>,
    /// Be root inside
    #[arg(long)]
    pub root: bool,
    /// Begin in this directory [default: the one where you are, if it is there inside]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
}

/// A command in a container.
#[derive(Debug, Args)]
pub struct Run {
    /// The container; '' is the default one
    #[arg(add = Offer::new(containers))]
    pub name: String,
    /// The command, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Be root inside
    #[arg(long)]
    pub root: bool,
    /// Begin in this directory [default: the one where you are, if it is there inside]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Give it a terminal
    #[arg(long, short = 't', conflicts_with = "no_tty")]
    pub tty: bool,
    /// Give it no terminal
    #[arg(long, short = 'T')]
    pub no_tty: bool,
}

/// Which containers are listed.
#[derive(Debug, Args)]
pub struct List {
    /// Also those of other users, and those that kapsule has not made
    #[arg(long, short)]
    pub all: bool,
    /// Only those that run
    #[arg(long)]
    pub running: bool,
    /// Only their names, one a line
    #[arg(long, short, conflicts_with = "json")]
    pub quiet: bool,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// A container to look at.
#[derive(Debug, Args)]
pub struct Info {
    /// The container [default: the configuration's default_container]
    #[arg(default_value = "", hide_default_value = true, add = Offer::new(containers))]
    pub name: String,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Containers.
#[derive(Debug, Args)]
pub struct Names {
    /// The containers
    #[arg(required = true, value_name = "NAME", add = Offer::new(stopped))]
    pub names: Vec<String>,
}

/// Containers, and whether their programs are waited for.
#[derive(Debug, Args)]
pub struct NamesForce {
    /// The containers
    #[arg(required = true, value_name = "NAME", add = Offer::new(running))]
    pub names: Vec<String>,
    /// Do not wait for the programs inside to end
    #[arg(long, short)]
    pub force: bool,
}

/// Containers that are started at login.
#[derive(Debug, Args)]
pub struct Autostart {
    /// The containers
    #[arg(required = true, value_name = "NAME", add = Offer::new(containers))]
    pub names: Vec<String>,
    /// Start them no more
    #[arg(long)]
    pub off: bool,
}

/// Containers that go.
#[derive(Debug, Args)]
pub struct Remove {
    /// The containers
    #[arg(required = true, value_name = "NAME", add = Offer::new(containers))]
    pub names: Vec<String>,
    /// Also if they run
    #[arg(long, short)]
    pub force: bool,
}

/// A new name.
#[derive(Debug, Args)]
pub struct Rename {
    /// The container
    #[arg(add = Offer::new(stopped))]
    pub name: String,
    /// What it is to be called
    pub new_name: String,
}

/// What is exported.
#[derive(Debug, Args)]
pub struct Export {
    /// The container
    #[arg(add = Offer::new(containers))]
    pub name: String,
    /// The application: the name of its desktop file, or what the menu calls it
    #[arg(conflicts_with = "bin")]
    pub app: Option<String>,
    /// The program, by its path inside; may be given several times
    #[arg(long, value_name = "PATH")]
    pub bin: Vec<String>,
    /// Where the command for --bin goes [default: ~/.local/bin]
    #[arg(long, value_name = "DIR", requires = "bin")]
    pub to: Option<PathBuf>,
    /// Take it away again
    #[arg(long, short)]
    pub delete: bool,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["app", "bin", "delete"])]
    pub json: bool,
}

/// How it is printed.
#[derive(Debug, Args)]
pub struct Json {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is done to images.
#[derive(Debug, Args)]
pub struct Images {
    /// What to do [default: list]
    #[command(subcommand)]
    pub command: Option<ImagesCommand>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The commands of `kapsule images`.
#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// List the images of the local store
    #[command(visible_alias = "ls")]
    List(Json),
    /// Take an image from a directory into the local store
    ///
    /// The directory has incus.tar.xz with rootfs.squashfs, or one tarball; a kapsule.toml beside them has
    /// the requirements and default options.
    Import {
        /// The directory
        directory: PathBuf,
        /// What to call the image [default: the directory's name]
        #[arg(long)]
        alias: Option<String>,
    },
    /// Delete an image; containers made from it stay
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// The image: its alias or fingerprint
        #[arg(add = Offer::new(images))]
        image: String,
    },
    /// Fetch newer versions of images that came from a server
    #[command(visible_alias = "update")]
    Refresh {
        /// The image [default: all]
        #[arg(add = Offer::new(images))]
        image: Option<String>,
    },
}

/// A snapshot.
#[derive(Debug, Args)]
pub struct Snapshot {
    /// The container
    #[arg(add = Offer::new(containers))]
    pub name: String,
    /// The snapshot [default: named by the time]
    #[arg(add = Offer::new(snapshots))]
    pub snapshot: Option<String>,
    /// List the snapshots
    #[arg(long, short, conflicts_with_all = ["snapshot", "delete"])]
    pub list: bool,
    /// Delete the snapshot
    #[arg(long, short, requires = "snapshot")]
    pub delete: bool,
    /// Print JSON
    #[arg(long, requires = "list")]
    pub json: bool,
}

/// Where to go back to.
#[derive(Debug, Args)]
pub struct Restore {
    /// The container
    #[arg(add = Offer::new(containers))]
    pub name: String,
    /// The snapshot [default: the newest]
    #[arg(add = Offer::new(snapshots))]
    pub snapshot: Option<String>,
}

/// A copy.
#[derive(Debug, Args)]
pub struct Clone {
    /// The container
    #[arg(add = Offer::new(containers))]
    pub source: String,
    /// What the copy is called
    pub target: String,
}

/// A container into a file.
#[derive(Debug, Args)]
pub struct Save {
    /// The container
    #[arg(add = Offer::new(containers))]
    pub name: String,
    /// The file
    pub file: PathBuf,
    /// Write over a file that is there
    #[arg(long, short)]
    pub force: bool,
}

/// A container from a file.
#[derive(Debug, Args)]
pub struct Load {
    /// The file
    pub file: PathBuf,
    /// What the container is called [default: as it was]
    #[arg(default_value = "", hide_default_value = true)]
    pub name: String,
}

/// What is upgraded.
#[derive(Debug, Args)]
pub struct Upgrade {
    /// The containers
    #[arg(
        value_name = "NAME",
        required_unless_present = "all",
        conflicts_with = "all",
        add = Offer::new(containers)
    )]
    pub names: Vec<String>,
    /// All containers of yours
    #[arg(long, short)]
    pub all: bool,
    /// Go back to before the last upgrade
    #[arg(long)]
    pub undo: bool,
}

/// A manifest.
#[derive(Debug, Args)]
pub struct Assemble {
    /// The file; NAME.ini is one of distrobox
    pub file: PathBuf,
    /// Only this container of it; may be given several times
    #[arg(long, short = 'n', value_name = "NAME")]
    pub name: Vec<String>,
    /// Make those anew that are there already
    #[arg(long, short = 'R')]
    pub replace: bool,
    /// Delete them instead
    #[arg(long, conflicts_with = "replace")]
    pub delete: bool,
    /// Only say what would be done
    #[arg(long, short = 'd')]
    pub dry_run: bool,
}

/// How Incus is set up.
#[derive(Debug, Args)]
pub struct Init {
    /// The driver of the storage pool: btrfs, dir, zfs, lvm [default: btrfs where it can be had, else dir]
    #[arg(long, value_name = "DRIVER")]
    pub storage: Option<String>,
    /// How large the pool is, if it is in a file: 30GiB
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,
    /// Make no network
    #[arg(long)]
    pub no_network: bool,
}

/// A key of the configuration.
#[derive(Debug, Args)]
pub struct Config {
    /// The key [default: all]
    #[arg(add = Offer::new(keys))]
    pub key: Option<String>,
    /// What it is to be, for you; of a list the elements, one by one
    pub value: Vec<String>,
    /// Take away what you had set
    #[arg(long, requires = "key", conflicts_with = "value")]
    pub unset: bool,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["value", "unset"])]
    pub json: bool,
}

/// The daemon.
#[derive(Debug, Args)]
pub struct Daemon {
    /// What to do [default: status]
    #[command(subcommand)]
    pub command: Option<DaemonCommand>,
}

/// The commands of `kapsule daemon`.
#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Say whether it runs, whether it reaches Incus, and what it is doing
    Status(Json),
    /// Become the daemon: kapsuled with these arguments
    #[command(disable_help_flag = true)]
    Run {
        /// The daemon's arguments; --help has them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program, by whichever name it is called.
pub fn main() -> ExitCode {
    if completion::answer() {
        return ExitCode::SUCCESS;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("kapsule=warn,zbus=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    let called = std::env::args_os().next();
    let called = called
        .as_deref()
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(OsStr::to_str)
        .unwrap_or("kapsule");
    let result = match called.strip_prefix("distrobox") {
        Some(rest) => {
            // distrobox-enter, distrobox-list: the command is part of the name.
            let command = rest.strip_prefix('-').map(str::to_owned);
            let arguments = command.into_iter().chain(std::env::args().skip(1));
            in_runtime(distrobox::main(arguments.collect(), None))
        }
        None => {
            let cli = Cli::parse();
            in_runtime(run(cli))
        }
    };
    agent::Agent::stop();
    result.unwrap_or_else(|error| {
        note(Kind::Error, &format!("{error}"));
        let no_daemon = matches!(error, Error::NoDaemon { .. } | Error::NoBus { .. });
        if let (true, Ok(container)) = (no_daemon, std::env::var("KAPSULE_CONTAINER")) {
            let text = format!("this is inside the container {container}; the daemon is outside");
            note(Kind::Hint, &text);
        }
        error.exit_code()
    })
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let bus = cli.bus;
    let manager = || Manager::connect(&bus);
    // What usually needs a password has somebody ready to ask for it.
    let manager_with_agent = async || {
        agent::Agent::start().await;
        Manager::connect(&bus).await
    };
    match cli.command {
        Command::Create(options) => {
            let manager = manager_with_agent().await?;
            command::create::create(&manager, &options).await
        }
        Command::Enter(options) => command::enter::enter(manager().await, options).await,
        Command::Run(options) => command::enter::run(manager().await, options).await,
        Command::List(options) => command::list::list(&manager().await?, &options).await,
        Command::Info(options) => command::info::info(&manager().await?, &options).await,
        Command::Start(options) => {
            command::life::start(&manager_with_agent().await?, &options).await
        }
        Command::Stop(options) => command::life::stop(&manager_with_agent().await?, &options).await,
        Command::Autostart(options) => command::autostart::autostart(&bus, &options).await,
        Command::Rm(options) => command::life::remove(&manager_with_agent().await?, &options).await,
        Command::Rename(options) => {
            command::life::rename(&manager_with_agent().await?, &bus, &options).await
        }
        Command::Export(options) => command::export::export(&bus, options).await,
        Command::Features(options) => {
            command::features::features(&manager().await?, &options).await
        }
        Command::Images(options) => match options.command {
            None => command::images::list(&manager().await?, options.json).await,
            Some(ImagesCommand::List(json)) => {
                command::images::list(&manager().await?, options.json || json.json).await
            }
            Some(change) => command::images::change(&manager_with_agent().await?, change).await,
        },
        Command::Snapshot(options) => {
            command::snapshot::snapshot(&manager_with_agent().await?, &options).await
        }
        Command::Restore(options) => {
            command::snapshot::restore(&manager_with_agent().await?, &options).await
        }
        Command::Clone(options) => {
            command::snapshot::clone(&manager_with_agent().await?, &options).await
        }
        Command::Save(options) => {
            command::snapshot::save(&manager_with_agent().await?, &options).await
        }
        Command::Load(options) => {
            command::snapshot::load(&manager_with_agent().await?, &options).await
        }
        Command::Upgrade(options) => {
            command::upgrade::upgrade(&manager_with_agent().await?, &options).await
        }
        Command::Assemble(options) => command::assemble::assemble(&bus, &options).await,
        Command::Init(options) => command::init::init(&manager_with_agent().await?, &options).await,
        Command::Config(options) => command::config::config(&bus, &options).await,
        Command::Daemon(options) => match options.command {
            None => command::daemon::status(&bus, false).await,
            Some(DaemonCommand::Status(json)) => command::daemon::status(&bus, json.json).await,
            Some(DaemonCommand::Run { arguments }) => Err(command::daemon::run(&arguments)),
        },
        Command::Distrobox { arguments } => distrobox::main(arguments, Some(&bus)).await,
        Command::Completions { shell } => {
            let program = completion::this_program();
            command::print(&completion::script(shell, "kapsule", &program));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// One thread: everything here waits, or is a few microseconds of work.
fn in_runtime(future: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::doing("starting"))?;
    let result = runtime.block_on(future);
    // A thread that still waits for what is typed must not keep us.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(arguments: &[&str]) -> Create {
        let line = ["kapsule", "create", "box"].iter().chain(arguments);
        match Cli::try_parse_from(line).expect("it is understood").command {
            Command::Create(create) => create,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn options_of_the_first_design_are_features() {
        let first = create(&["--with-docker", "--with-graphics", "--with-home", "--gpu"]);
        assert_eq!(first.all_with(), ["docker", "graphics", "home", "gpu"]);
        assert!(first.all_without().is_empty());

        let last = create(&["--with", "graphics,audio", "--without", "home", "-m"]);
        assert_eq!(last.all_with(), ["graphics", "audio", "dbus"]);
        assert_eq!(last.all_without(), ["home"]);

        let server = create(&["--preset", "server", "--with", "gpu"]);
        assert_eq!(server.all_without(), ["graphics", "audio", "home"]);
    }

    #[test]
    fn a_command_inside_keeps_its_own_options() {
        let line = ["kapsule", "run", "box", "--", "-c", "--json", "a b"];
        let Command::Run(run) = Cli::try_parse_from(line).expect("it is understood").command else {
            panic!("it is run");
        };
        assert_eq!(run.command, ["-c", "--json", "a b"]);
        let line = ["kapsule", "exec", "box", "ls", "-la"];
        let Command::Run(run) = Cli::try_parse_from(line).expect("it is understood").command else {
            panic!("it is run");
        };
        assert_eq!(run.command, ["ls", "-la"]);
        let line = ["kapsule", "enter", "--", "ls", "-la"];
        let Command::Enter(enter) = Cli::try_parse_from(line).expect("it is understood").command
        else {
            panic!("it is enter");
        };
        assert_eq!((enter.name.as_str(), enter.command.len()), ("", 2));
    }
}
