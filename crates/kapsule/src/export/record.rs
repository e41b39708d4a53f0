//! What was exported from a container: which files are ours, so that they can be taken away again.
//!
//! It is `~/.local/share/kapsule/exports/CONTAINER.json`. Files are written first into the record and then
//! to the disk, and taken from the disk first: whatever interrupts us, no file is forgotten.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::export::{data_home, is_harmless, wrapper};

/// The longest record that is read.
const SIZE_MAX: u64 = 4 * 1024 * 1024;

/// What is exported.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// An application, by the name of its desktop file without the ending.
    Application,
    /// A program, by its path inside.
    Program,
}

/// Something that is exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Whether it is an application or a program.
    pub what: What,
    /// Which.
    pub name: String,
    /// The files on the host.
    pub files: Vec<PathBuf>,
}

/// The record of one container. Two at a time wait for each other.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    exported: Vec<Exported>,
    _lock: Option<File>,
}

impl Record {
    /// Opens the record of a container; it need not be there.
    ///
    /// # Errors
    /// It cannot be read, or the name is none of a container.
    pub fn open(container: &str) -> Result<Record> {
        if !is_harmless(container) {
            return Err(Error::Usage(format!(
                "{} is no name of a container",
                crate::text::plain(container)
            )));
        }
        let directory = data_home()?.join("kapsule/exports");
        let path = directory.join(format!("{container}.json"));
        let doing = || format!("reading {}", path.display());
        // Without a directory there is nothing to be locked; saving makes it.
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(".lock"))
            .ok();
        if let Some(lock) = &lock {
            flock(lock, FlockOperation::LockExclusive).map_err(Error::doing(doing()))?;
        }
        let exported = match File::open(&path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(SIZE_MAX)
                    .read_to_string(&mut text)
                    .map_err(Error::doing(doing()))?;
                serde_json::from_str(&text).map_err(|error| {
                    Error::Failed(format!(
                        "{}: {error}\n  hint: it is kapsule's record of what was exported; without it nothing of that is found",
                        doing()
                    ))
                })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::doing(doing())(error)),
        };
        Ok(Record {
            path,
            exported,
            _lock: lock,
        })
    }

    /// All that is exported.
    pub fn all(&self) -> &[Exported] {
        &self.exported
    }

    /// Whether this is exported.
    pub fn has(&self, what: What, name: &str) -> bool {
        self.exported
            .iter()
            .any(|one| one.what == what && one.name == name)
    }

    /// Writes files and remembers them. What the same thing had exported before and does not any more is
    /// removed.
    ///
    /// # Errors
    /// A file cannot be written, or is there already and not ours.
    pub fn add(
        &mut self,
        what: What,
        name: &str,
        files: Vec<(PathBuf, Vec<u8>, bool)>,
    ) -> Result<()> {
        let place = self
            .exported
            .iter()
            .position(|one| one.what == what && one.name == name);
        let before = place.map(|place| self.exported.remove(place));
        let before = before.map(|one| one.files).unwrap_or_default();
        for (path, _, _) in &files {
            if !before.contains(path) && path.symlink_metadata().is_ok() && !is_ours(path) {
                return Err(Error::Usage(format!(
                    "{} is there already, and is none of kapsule's\n  hint: move it away, or export to another place",
                    path.display()
                )));
            }
        }
        let mut all: Vec<PathBuf> = files.iter().map(|(path, _, _)| path.clone()).collect();
        let gone: Vec<PathBuf> = before
            .into_iter()
            .filter(|path| !all.contains(path))
            .collect();
        all.extend(gone.iter().cloned());
        self.exported.push(Exported {
            what,
            name: name.to_owned(),
            files: all,
        });
        self.save()?;
        for (path, contents, executable) in &files {
            write(path, contents, *executable)?;
        }
        for path in &gone {
            remove_file(path)?;
        }
        if let (false, Some(last)) = (gone.is_empty(), self.exported.last_mut()) {
            last.files.retain(|path| !gone.contains(path));
            self.save()?;
        }
        Ok(())
    }

    /// Removes the files of something that was exported. Gives back which there were; `None`: it is not
    /// exported.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn remove(&mut self, what: What, name: &str) -> Result<Option<Vec<PathBuf>>> {
        let Some(place) = self
            .exported
            .iter()
            .position(|one| one.what == what && one.name == name)
        else {
            return Ok(None);
        };
        let mut removed = Vec::new();
        for path in &self.exported[place].files {
            if remove_file(path)? {
                removed.push(path.clone());
            }
        }
        self.exported.remove(place);
        self.save()?;
        Ok(Some(removed))
    }

    /// Removes all that was exported. Gives back which files there were.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn remove_all(mut self) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        while let Some(one) = self.exported.last().cloned() {
            removed.extend(self.remove(one.what, &one.name)?.unwrap_or_default());
        }
        Ok(removed)
    }

    fn save(&self) -> Result<()> {
        if self.exported.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::doing(format!("removing {}", self.path.display()))(
                        error,
                    ))
                }
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec_pretty(&self.exported)
            .map_err(|error| Error::Failed(format!("writing {}: {error}", self.path.display())))?;
        write(&self.path, &text, false)
    }
}

/// Writes a file whole or not at all.
pub(super) fn write(path: &Path, contents: &[u8], executable: bool) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(Error::doing(doing()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = directory.join(format!(".{name}.{}", std::process::id()));
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(contents)?;
        let mode = if executable { 0o755 } else { 0o644 };
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map_err(Error::doing(doing()))
}

/// Whether a file of a kind that people have, too, is one that we made. Icons are told by their name.
fn is_ours(path: &Path) -> bool {
    let contents = fs::read(path).unwrap_or_default();
    match path.extension().and_then(|e| e.to_str()) {
        Some("desktop") => String::from_utf8_lossy(&contents).contains("\nX-Kapsule-Container="),
        Some("png" | "svg" | "xpm") => true,
        _ => wrapper::is_ours(&contents),
    }
}

/// Removes a file that is ours. What somebody has put in its place stays.
fn remove_file(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Ok(metadata) if !metadata.is_file() || !is_ours(path) => return Ok(false),
        _ => {}
    }
    fs::remove_file(path)
        .map(|()| true)
        .map_err(Error::doing(format!("removing {}", path.display())))
}
