//! How the host knows the guest's applications: `vm.NAME.APP`.
//!
//! xdg-desktop-portal (1.20 and later) takes an application's id from a connection that registers it, if there is a
//! desktop file of that name. The guest's applications have none on the host, so one is written for each that asks for
//! a portal: it is not shown in menus and starts nothing, but gives the dialogs a name to show.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Desktop files of one virtual machine at most; the guest makes up the ids.
const MOST: usize = 256;
/// Ids are file names.
const LONGEST: usize = 240;
/// Who watches the directory knows of a file after this at the latest.
const NEW: Duration = Duration::from_secs(5);
/// The line by which files of ours are known.
const MARK: &str = "X-Kapsule-Sidebus";

/// The id that stands for a whole virtual machine.
///
/// ```
/// assert_eq!(sidebus::portals::applications::machine_id("work"), "vm.work");
/// assert_eq!(sidebus::portals::applications::machine_id("my vm.2"), "vm.my_vm_2");
/// ```
pub fn machine_id(vm: &str) -> String {
    format!("vm.{}", element(vm))
}

/// The id of an application of the guest. What it says of itself is made to fit; one that says nothing is `unknown`.
///
/// ```
/// use sidebus::portals::applications::application_id;
/// assert_eq!(application_id("work", Some("org.kde.okular")), "vm.work.org.kde.okular");
/// assert_eq!(application_id("work", Some("../../x")), "vm.work.______x");
/// assert_eq!(application_id("work", None), "vm.work.unknown");
/// ```
pub fn application_id(vm: &str, claimed: Option<&str>) -> String {
    let machine = machine_id(vm);
    let claimed = claimed
        .filter(|claimed| !claimed.is_empty())
        .unwrap_or("unknown");
    let legal = claimed.split('.').all(|part| !part.is_empty());
    let mut id = if legal {
        let parts: Vec<String> = claimed.split('.').map(element).collect();
        format!("{machine}.{}", parts.join("."))
    } else {
        format!("{machine}.{}", element(claimed))
    };
    // Elements are ASCII: every byte is the end of a character.
    id.truncate(LONGEST);
    id.trim_end_matches('.').to_owned()
}

/// One element of an id: letters, digits, `_`, not beginning with a digit.
fn element(text: &str) -> String {
    let mut element: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '_'
            }
        })
        .collect();
    if element.is_empty() || element.starts_with(|c: char| c.is_ascii_digit()) {
        element.insert(0, '_');
    }
    element
}

/// The desktop files of one virtual machine's applications. They go with this.
#[derive(Debug)]
pub struct DesktopFiles {
    dir: PathBuf,
    vm: String,
    written: Mutex<HashMap<String, Instant>>,
}

impl DesktopFiles {
    /// They go into `dir` (`$XDG_DATA_HOME/applications`). What an earlier broker of this machine left behind is
    /// removed.
    pub fn new(dir: PathBuf, vm: &str) -> DesktopFiles {
        let files = DesktopFiles {
            dir,
            vm: vm.to_owned(),
            written: Mutex::default(),
        };
        files.remove_old();
        files
    }

    /// Sees to it that there is one for `id`; `claimed` is what the application calls itself. True if it is so new
    /// that the host's portal may not know of it.
    ///
    /// # Errors
    /// It cannot be written, or there are too many.
    pub fn provide(&self, id: &str, claimed: Option<&str>) -> io::Result<bool> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(when) = written.get(id) {
            return Ok(when.elapsed() < NEW);
        }
        if written.len() >= MOST {
            return Err(io::Error::other(format!(
                "there are {MOST} of this virtual machine already"
            )));
        }
        fs::create_dir_all(&self.dir)?;
        let path = self.path(id);
        if is_somebody_elses(&path) {
            return Err(io::Error::other(format!(
                "{} is not ours; it is left as it is",
                path.display()
            )));
        }
        let name = value(claimed.unwrap_or("A program"));
        let vm = value(&self.vm);
        let text = format!(
            "[Desktop Entry]\nType=Application\nName={name} ({vm})\n\
             Comment=A program of the virtual machine {vm}\nExec=false\nNoDisplay=true\n{MARK}={vm}\n"
        );
        // In one step: somebody watches the directory.
        let new = self.dir.join(format!(".{id}.new"));
        fs::write(&new, text)?;
        fs::rename(&new, &path)?;
        written.insert(id.to_owned(), Instant::now());
        Ok(true)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.desktop"))
    }

    fn remove_old(&self) {
        let ours = format!("{MARK}={}\n", value(&self.vm));
        let prefix = format!("{}.", machine_id(&self.vm));
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(&prefix)
                && name.ends_with(".desktop")
                && fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&ours))
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Drop for DesktopFiles {
    fn drop(&mut self) {
        let written = self
            .written
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (id, _) in std::mem::take(written) {
            let path = self.path(&id);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a desktop file cannot be removed");
            }
        }
    }
}

fn is_somebody_elses(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| !text.contains(MARK))
}

/// Text as a value of a desktop file: one line, nothing to be unescaped.
fn value(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || c == '\\' { '_' } else { c })
        .take(128)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_name_whatever_the_guest_says() {
        for claimed in [
            "",
            ".",
            "..",
            "a..b",
            "1.2",
            "a/b.c",
            "ü.x",
            &"a.".repeat(400),
            "a b",
        ] {
            let id = application_id("2nd vm", Some(claimed));
            assert!(id.starts_with("vm._2nd_vm."), "{claimed}: {id}");
            assert!(id.len() <= LONGEST);
            assert!(
                dbus_wire::names::is_well_known_name(&id) && !id.contains('/'),
                "{claimed}: {id}"
            );
        }
    }

    #[test]
    fn a_desktop_file_is_there_as_long_as_the_broker() {
        let dir = tempfile::tempdir().unwrap();
        let apps = dir.path().join("applications");
        let files = DesktopFiles::new(apps.clone(), "work");
        let id = application_id("work", Some("org.example.A"));
        assert!(files.provide(&id, Some("org.example.A\nExec=rm")).unwrap());
        assert!(files.provide(&id, None).unwrap(), "it is still new");
        let path = apps.join("vm.work.org.example.A.desktop");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.matches("Exec=").count(),
            2,
            "one line of it, and one in the name: {text}"
        );
        assert!(text.contains("\nExec=false\n") && !text.contains("\nExec=rm"));
        drop(files);
        assert!(!path.exists());
    }

    #[test]
    fn files_of_an_earlier_broker_are_removed_and_others_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("vm.work.x.desktop");
        fs::write(&old, "[Desktop Entry]\nX-Kapsule-Sidebus=work\n").unwrap();
        let others = dir.path().join("vm.work.y.desktop");
        fs::write(&others, "[Desktop Entry]\n").unwrap();
        let files = DesktopFiles::new(dir.path().to_owned(), "work");
        assert!(!old.exists() && others.exists());
        assert!(files.provide("vm.work.y", None).is_err());
        drop(files);
        assert!(others.exists());
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_guest_says_is_an_id_below_its_machine(claimed in "\\PC*") {
            let id = application_id("work", Some(&claimed));
            proptest::prop_assert!(id.starts_with("vm.work."));
            proptest::prop_assert!(dbus_wire::names::is_well_known_name(&id), "{}", id);
        }
    }
}
