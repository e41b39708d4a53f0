//! The applications of a container: which there are, and how one is exported.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::export::desktop_entry::{DesktopEntry, Rewriting};
use crate::export::record::{Record, What};
use crate::export::{data_home, icon, is_harmless};
use crate::inside::{self, Captured};
use crate::manager::Manager;
use crate::progress::{Kind, note};
use crate::text::plain;

/// Where applications are described inside.
const DATA_DIRECTORIES: [&str; 4] = [
    "/usr/local/share",
    "/usr/share",
    "/var/lib/flatpak/exports/share",
    "/opt/share",
];

/// How much a container may print when it lists its applications.
const LISTING_MAX: usize = 16 * 1024 * 1024;

/// Prints `PATH\0CONTENTS\0` for each desktop file in `applications` below its arguments, or for each
/// argument that is one.
const SCRIPT: &str = r#"
show() {
    for file do
        [ -f "$file" ] || continue
        printf '%s\0' "$file"
        cat "$file"
        printf '\0'
    done
}
for data do
    case $data in
    *.desktop) show "$data" ;;
    *) show "$data"/applications/*.desktop "$data"/applications/*/*.desktop ;;
    esac
done
exit 0
"#;

/// An application inside.
#[derive(Clone, Debug)]
pub struct Application {
    /// The name of its desktop file, without the ending: `org.kde.kate`.
    pub id: String,
    /// Where that is inside.
    pub path: String,
    /// What it says.
    pub entry: DesktopEntry,
}

/// The applications of a container.
///
/// # Errors
/// They cannot be listed.
pub async fn list(manager: &Manager, container: &str) -> Result<Vec<Application>> {
    let directories = DATA_DIRECTORIES.map(str::to_owned);
    let mut applications = read(manager, container, &directories).await?;
    applications.sort_by(|a, b| a.id.cmp(&b.id));
    // The first directory is the one that counts, as the specification has it.
    applications.dedup_by(|b, a| a.id == b.id);
    Ok(applications)
}

async fn read(
    manager: &Manager,
    container: &str,
    arguments: &[String],
) -> Result<Vec<Application>> {
    let captured = script(manager, container, SCRIPT, arguments).await?;
    let mut parts = captured.stdout.split(|byte| *byte == 0);
    let mut applications = Vec::new();
    while let (Some(path), Some(contents)) = (parts.next(), parts.next()) {
        let Ok(path) = std::str::from_utf8(path) else {
            continue;
        };
        let Some(id) = id(path).filter(|id| is_harmless(id)) else {
            continue;
        };
        match DesktopEntry::parse(contents) {
            Ok(entry) => applications.push(Application {
                id,
                path: path.to_owned(),
                entry,
            }),
            Err(why) => tracing::debug!(path, %why, "left out"),
        }
    }
    Ok(applications)
}

/// The id of a desktop file: below a directory of applications, slashes become dashes.
fn id(path: &str) -> Option<String> {
    let below = match path.rsplit_once("/applications/") {
        Some((_, below)) => below,
        None => path.rsplit('/').next()?,
    };
    Some(below.strip_suffix(".desktop")?.replace('/', "-"))
}

/// Runs a script inside, with arguments.
async fn script(
    manager: &Manager,
    container: &str,
    script: &str,
    arguments: &[String],
) -> Result<Captured> {
    let mut argv = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    argv.extend(arguments.iter().cloned());
    let captured = inside::capture(manager, container, &argv, LISTING_MAX).await?;
    if captured.status != 0 {
        return Err(Error::Failed(format!(
            "looking for applications in container {container} ended with status {}\n{}",
            captured.status,
            captured.stderr.trim_end()
        )));
    }
    Ok(captured)
}

/// The application that a person means: by the name of its desktop file, by what the menu calls it, or by
/// its path inside.
///
/// # Errors
/// There is none, or several.
pub async fn find(manager: &Manager, container: &str, wanted: &str) -> Result<Application> {
    if wanted.starts_with('/') {
        let found = read(manager, container, &[wanted.to_owned()]).await?;
        return found.into_iter().next().ok_or_else(|| {
            Error::Usage(format!(
                "{} is no desktop file of an application in container {}",
                plain(wanted),
                plain(container)
            ))
        });
    }
    let applications = list(manager, container).await?;
    let id = wanted.strip_suffix(".desktop").unwrap_or(wanted);
    let exact = |application: &&Application| application.id == id;
    if let Some(application) = applications.iter().find(exact) {
        return Ok(application.clone());
    }
    let lower = wanted.to_lowercase();
    let mut alike: Vec<_> = applications
        .iter()
        .filter(|application| {
            application.entry.name().to_lowercase() == lower
                || application.id.to_lowercase() == lower
                || application
                    .id
                    .to_lowercase()
                    .rsplit('.')
                    .next()
                    .is_some_and(|last| last == lower)
        })
        .collect();
    match (alike.pop(), alike.is_empty()) {
        (Some(application), true) => Ok(application.clone()),
        (None, _) => Err(Error::Usage(format!(
            "container {} has no application {}\n  hint: kapsule export {} lists what it has",
            plain(container),
            plain(wanted),
            plain(container)
        ))),
        (Some(last), false) => {
            alike.push(last);
            let ids: Vec<_> = alike.iter().map(|a| plain(&a.id)).collect();
            Err(Error::Usage(format!(
                "several applications are called {}: {}",
                plain(wanted),
                ids.join(", ")
            )))
        }
    }
}

/// The name of the desktop file of an exported application, without the ending.
fn host_id(container: &str, application: &str) -> String {
    format!("{container}-{application}")
}

/// Exports an application. Gives back its desktop file on the host.
///
/// # Errors
/// It cannot be read, or the files cannot be written.
pub async fn export(
    manager: &Manager,
    container: &str,
    launcher: &[String],
    application: &Application,
) -> Result<PathBuf> {
    let data = data_home()?;
    let mut files = Vec::new();
    let icon = icon_files(manager, container, application, &data).await?;
    let icon_name = icon.map(|(name, icons)| {
        files.extend(icons);
        name
    });
    let launcher: Vec<String> = launcher
        .iter()
        .cloned()
        .chain([container.to_owned(), "--".to_owned()])
        .collect();
    let rewriting = Rewriting {
        container,
        launcher: &launcher,
        icon: icon_name.as_deref(),
        id: &application.id,
        path: &application.path,
    };
    let text = application.entry.rewrite(&rewriting).map_err(|why| {
        Error::Failed(format!(
            "{} of container {container} cannot be exported: {why}",
            plain(&application.path)
        ))
    })?;
    let file = format!("{}.desktop", host_id(container, &application.id));
    let path = data.join("applications").join(file);
    files.push((path.clone(), text.into_bytes(), false));
    Record::open(container)?.add(What::Application, &application.id, files)?;
    menu_has_changed(&data);
    Ok(path)
}

/// What `Icon` is to be, and the files for it.
async fn icon_files(
    manager: &Manager,
    container: &str,
    application: &Application,
    data: &Path,
) -> Result<Option<(String, Vec<(PathBuf, Vec<u8>, bool)>)>> {
    let Some(icon) = application.entry.icon() else {
        return Ok(None);
    };
    let base = Path::new(&icon)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let base = match icon.starts_with('/') {
        true => base.rsplit_once('.').map_or(base, |(base, _)| base),
        // A name, though some write it with an ending.
        false => [".png", ".svg", ".xpm"]
            .iter()
            .find_map(|ending| base.strip_suffix(ending))
            .unwrap_or(base),
    };
    if !is_harmless(base) {
        note(
            Kind::Warning,
            &format!("its icon is left out: {icon:?} is no name of an icon"),
        );
        return Ok(None);
    }
    let wanted = if icon.starts_with('/') { &icon } else { base };
    let mut arguments = vec![wanted.to_owned(), icon::SIZE_MAX.to_string()];
    arguments.extend(DATA_DIRECTORIES.map(str::to_owned));
    let captured = script(manager, container, icon::SCRIPT, &arguments).await?;
    let name = format!("kapsule-{container}-{base}");
    let files = icon::files(&captured.stdout, &name);
    let themed = files.iter().any(|file| file.themed);
    let Some(first) = files.first() else {
        note(
            Kind::Warning,
            &format!("its icon {} is not there inside", plain(base)),
        );
        // A name that the host's theme may have as well.
        return Ok((!icon.starts_with('/')).then(|| (base.to_owned(), Vec::new())));
    };
    let shown = match themed {
        true => name,
        false => data.join(&first.place).display().to_string(),
    };
    let files = files
        .into_iter()
        .filter(|file| file.themed == themed)
        .map(|file| (data.join(file.place), file.bytes, false))
        .collect();
    Ok(Some((shown, files)))
}

/// Takes an application away again; the container need not be there any more. Gives back its files;
/// `None`: it is not exported.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(container: &str, wanted: &str) -> Result<Option<Vec<PathBuf>>> {
    let mut record = Record::open(container)?;
    let id = wanted.strip_suffix(".desktop").unwrap_or(wanted);
    let id = id.rsplit('/').next().unwrap_or(id);
    let mut named: Vec<String> = record
        .all()
        .iter()
        .filter(|one| one.what == What::Application)
        .filter(|one| {
            one.name == id
                || one
                    .name
                    .rsplit('.')
                    .next()
                    .is_some_and(|last| last.eq_ignore_ascii_case(id))
        })
        .map(|one| one.name.clone())
        .collect();
    named.sort_by_key(|name| name != id);
    let Some(name) = named.first() else {
        return Ok(None);
    };
    let removed = record.remove(What::Application, name)?;
    menu_has_changed(&data_home()?);
    Ok(removed)
}

/// Desktops see a change of the menu by themselves; which application opens what, some read from a cache.
fn menu_has_changed(data: &Path) {
    let _ = std::process::Command::new("update-desktop-database")
        .arg("-q")
        .arg(data.join("applications"))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_named_by_its_file() {
        assert_eq!(
            id("/usr/share/applications/org.kde.kate.desktop").as_deref(),
            Some("org.kde.kate")
        );
        assert_eq!(
            id("/usr/share/applications/kde4/foo.desktop").as_deref(),
            Some("kde4-foo")
        );
        assert_eq!(id("/opt/x/foo.desktop").as_deref(), Some("foo"));
        assert_eq!(id("/opt/x/foo"), None);
    }
}
