//! `kapsule assemble`

use std::process::ExitCode;

use crate::agent::Agent;
use crate::cli::Assemble;
use crate::command::export::{export_application, export_program};
use crate::command::life::remove_one;
use crate::command::print;
use crate::error::{Error, Result};
use crate::inside::{self, Program};
use crate::manager::Manager;
use crate::manifest::{self, Wanted};
use crate::progress::{Kind, note};
use crate::terminal::MarkType;
use crate::text::plain;

/// Installs its arguments with whatever package manager there is.
const INSTALL: &str = r#"
has() { command -v "$1" >/dev/null 2>&1; }
if has apt-get; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update && exec apt-get install -y -- "$@"
elif has dnf; then
    exec dnf install -y -- "$@"
elif has pacman; then
    exec pacman -Syu --noconfirm --needed -- "$@"
elif has zypper; then
    exec zypper --non-interactive install -- "$@"
elif has apk; then
    exec apk add --update-cache -- "$@"
elif has xbps-install; then
    exec xbps-install -Suy "$@"
elif has emerge; then
    exec emerge --noreplace "$@"
fi
echo "no package manager that kapsule knows is here" >&2
exit 69
"#;

/// Makes the containers that a file describes.
pub async fn assemble(bus: &str, options: &Assemble) -> Result<ExitCode> {
    let manager = Manager::connect(bus).await?;
    let features = manager.features().await?;
    let mut wanted = manifest::read(&options.file, &features)?;
    for name in &options.name {
        if !wanted.iter().any(|one| one.plan.name == *name) {
            return Err(Error::Usage(format!(
                "{} has no container {}",
                plain(&options.file.display().to_string()),
                plain(name)
            )));
        }
    }
    wanted.retain(|one| options.name.is_empty() || options.name.contains(&one.plan.name));
    let there: Vec<String> = manager
        .list_containers()
        .await?
        .into_iter()
        .map(|row| row.name)
        .collect();
    if !options.dry_run {
        Agent::start().await;
    }
    for one in &mut wanted {
        one.replace |= options.replace;
        let is_there = there.contains(&one.plan.name);
        let name = plain(&one.plan.name);
        for text in &one.notes {
            note(Kind::Warning, text);
        }
        match (options.delete, is_there, one.replace) {
            (true, false, _) => print(&format!("{name}: is not there\n")),
            (true, true, _) if options.dry_run => print(&format!("{name}: would be deleted\n")),
            (true, true, _) => {
                remove_one(&manager, &one.plan.name, true).await?;
                print(&format!("{name}: deleted\n"));
            }
            (false, true, false) => print(&format!("{name}: is there already\n")),
            (false, _, _) if options.dry_run => print(&what_would_be(one, is_there)),
            (false, _, _) => {
                if is_there {
                    remove_one(&manager, &one.plan.name, true).await?;
                }
                make(&manager, bus, one).await?;
                print(&format!("{name}: is there\n"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn what_would_be(one: &Wanted, is_there: bool) -> String {
    let mut text = format!(
        "{}: would be made{} from {}\n",
        plain(&one.plan.name),
        if is_there { " anew" } else { "" },
        match one.plan.image.as_str() {
            "" => "the default image".to_owned(),
            image => plain(image),
        }
    );
    let mut line = |what: &str, list: &[String]| {
        if !list.is_empty() {
            text.push_str(&format!("  {what}: {}\n", plain(&list.join(", "))));
        }
    };
    line("with", &one.plan.with);
    line("without", &one.plan.without);
    line("home", one.plan.home.as_slice());
    line("mounts", &one.plan.mounts);
    line("packages", &one.packages);
    line("as root", &one.setup);
    line("as you", &one.run);
    line("exported", &one.export);
    line("exported", &one.export_bin);
    text
}

/// Makes one container, and puts into it what it wants. It stays when that fails: the person may want to
/// see why.
pub async fn make(manager: &Manager, bus: &str, one: &Wanted) -> Result<()> {
    let name = &one.plan.name;
    one.plan.carry_out(manager).await?;
    if !one.packages.is_empty() {
        let mut argv = ["sh", "-c", INSTALL, "sh"].map(str::to_owned).to_vec();
        argv.extend(one.packages.iter().cloned());
        command(manager, name, "installing its packages", argv, true).await?;
    }
    for (commands, as_root) in [(&one.setup, true), (&one.run, false)] {
        for line in commands {
            let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
            command(manager, name, line, argv, as_root).await?;
        }
    }
    for app in &one.export {
        export_application(manager, bus, name, app).await?;
    }
    for program in &one.export_bin {
        export_program(manager, bus, name, program, None).await?;
    }
    Ok(())
}

async fn command(
    manager: &Manager,
    name: &str,
    what: &str,
    argv: Vec<String>,
    as_root: bool,
) -> Result<()> {
    let program = Program {
        container: name.to_owned(),
        argv,
        as_root,
        terminal: None,
        cwd: Some("/".into()),
        mark: MarkType::Kapsule,
    };
    match inside::run(manager, &program).await? {
        0 => Ok(()),
        status => Err(Error::Failed(format!(
            "container {name} is there, but this failed in it (status {status}): {what}\n  hint: kapsule enter {name} to look, kapsule assemble --replace to begin anew"
        ))),
    }
}
