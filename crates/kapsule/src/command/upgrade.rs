//! `kapsule upgrade`

use std::process::ExitCode;

use crate::cli::Upgrade;
use crate::command::print;
use crate::command::snapshot::{back_to, name_by_time, newest, take};
use crate::error::{Error, Result};
use crate::inside::{self, Program};
use crate::manager::Manager;
use crate::operation;
use crate::progress::{Kind, note};
use crate::terminal::MarkType;
use crate::text::plain;

/// What the snapshots before upgrades are called, before the time.
const PREFIX: &str = "upgrade-";

/// How many of them are kept.
const KEPT: usize = 3;

/// The status of a script that finds no package manager: EX_UNAVAILABLE.
const NO_MANAGER: u8 = 69;

const SCRIPT: &str = r#"
has() { command -v "$1" >/dev/null 2>&1; }
if has apt-get; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update && apt-get -y -o Dpkg::Options::=--force-confold dist-upgrade && exec apt-get -y autoremove
elif has dnf; then
    exec dnf -y --refresh upgrade
elif has pacman; then
    exec pacman -Syu --noconfirm
elif has zypper; then
    zypper --non-interactive refresh || exit
    grep -qi tumbleweed /etc/os-release && exec zypper --non-interactive dist-upgrade
    exec zypper --non-interactive update
elif has apk; then
    exec apk upgrade --update-cache
elif has xbps-install; then
    xbps-install -Suy xbps && exec xbps-install -Suy
elif has emerge; then
    emerge --sync && exec emerge --update --deep --newuse @world
else
    exit 69
fi
exit 1
"#;

/// Upgrades containers.
pub async fn upgrade(manager: &Manager, options: &Upgrade) -> Result<ExitCode> {
    let names = match options.all {
        true => {
            let mut names: Vec<_> = manager
                .list_containers()
                .await?
                .into_iter()
                .map(|row| row.name)
                .collect();
            names.sort();
            names
        }
        false => options.names.clone(),
    };
    let mut failed = 0;
    for name in &names {
        let result = match options.undo {
            true => undo(manager, name).await,
            false => upgrade_one(manager, name).await,
        };
        match result {
            Ok(said) => print(&format!("{}: {said}\n", plain(name))),
            Err(error) if names.len() == 1 => return Err(error),
            Err(
                error @ (Error::NoDaemon { .. } | Error::DaemonGone { .. } | Error::Cancelled(_)),
            ) => {
                return Err(error);
            }
            Err(error) => {
                failed += 1;
                note(Kind::Error, &format!("{name}: {error}"));
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

async fn undo(manager: &Manager, name: &str) -> Result<String> {
    let snapshot = newest(manager, name, PREFIX).await?;
    back_to(manager, name, &snapshot).await?;
    Ok(format!("back at {}", plain(&snapshot)))
}

async fn upgrade_one(manager: &Manager, name: &str) -> Result<String> {
    let snapshot = name_by_time(PREFIX);
    take(manager, name, &snapshot).await?;
    let program = Program {
        container: name.to_owned(),
        argv: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        as_root: true,
        terminal: None,
        cwd: Some("/".into()),
        mark: MarkType::Kapsule,
    };
    let status = inside::run(manager, &program).await;
    let name = plain(name);
    match status {
        Ok(0) => {
            forget_old(manager, &name).await;
            Ok(format!("upgraded; back: kapsule upgrade {name} --undo"))
        }
        Ok(NO_MANAGER) => {
            // Nothing was done, so there is nothing to go back to.
            let doing = format!("deleting snapshot {snapshot}");
            operation::follow(manager, &doing, manager.delete_snapshot(&name, &snapshot)).await?;
            Err(Error::Failed(format!(
                "container {name} has no package manager that kapsule knows\n  hint: kapsule run --root {name} -- COMMAND upgrades it your way"
            )))
        }
        Ok(status) => Err(Error::Failed(format!(
            "upgrading container {name} failed (status {status}, see above)\n  hint: kapsule upgrade {name} --undo brings it back as it was"
        ))),
        Err(error) => {
            note(
                Kind::Hint,
                &format!("kapsule upgrade {name} --undo brings it back as it was"),
            );
            Err(error)
        }
    }
}

/// Old snapshots take room. That they cannot be deleted is no failure of the upgrade.
async fn forget_old(manager: &Manager, name: &str) {
    let Ok(mut snapshots) = manager.snapshots(name).await else {
        return;
    };
    snapshots.retain(|snapshot| snapshot.name.starts_with(PREFIX));
    snapshots.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let old = snapshots.len().saturating_sub(KEPT);
    for snapshot in &snapshots[..old] {
        let doing = format!("deleting snapshot {}", snapshot.name);
        let begin = manager.delete_snapshot(name, &snapshot.name);
        if let Err(error) = operation::follow(manager, &doing, begin).await {
            note(
                Kind::Warning,
                &format!("the old snapshot {} stays: {error}", snapshot.name),
            );
        }
    }
}
