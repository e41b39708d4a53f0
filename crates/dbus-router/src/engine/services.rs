//! What is installed inside: D-Bus service files and desktop files, and their directories being watched.
//!
//! Specification, "Message Bus Starting Services (Activation)"; Desktop Entry Specification, "File naming".

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use dbus_wire::names::WellKnownName;
use rustix::fs::inotify;

use crate::local_bus::{Service, ServiceSet};

/// A service file is small; what is larger is none.
const LARGEST_FILE: u64 = 64 * 1024;
/// Files that one directory may hold.
const MOST_FILES: usize = 20_000;

/// Directories of data (as in XDG_DATA_DIRS), the first ones first.
#[derive(Debug)]
pub(super) struct ServiceDirs {
    dirs: Vec<PathBuf>,
    watch: Option<OwnedFd>,
}

impl ServiceDirs {
    /// Watches `dirs` as far as that is possible.
    pub fn new(dirs: Vec<PathBuf>) -> ServiceDirs {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = match inotify::init(flags) {
            Ok(watch) if !dirs.is_empty() => Some(watch),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "directories of services cannot be watched");
                None
            }
        };
        let dirs = ServiceDirs { dirs, watch };
        dirs.add_watches();
        dirs
    }

    /// What to poll for changes.
    pub fn watch_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    fn add_watches(&self) {
        let Some(watch) = &self.watch else { return };
        use inotify::WatchFlags as W;
        let flags =
            W::CREATE | W::DELETE | W::MOVED_FROM | W::MOVED_TO | W::CLOSE_WRITE | W::ONLYDIR;
        for dir in &self.dirs {
            for path in [
                dir.clone(),
                dir.join("dbus-1"),
                dir.join("dbus-1/services"),
                dir.join("applications"),
            ] {
                // What is not there (yet) is seen when its parent changes.
                let _ = inotify::add_watch(watch, &path, flags);
            }
        }
    }

    /// Swallows the notes of changes, and watches what is new.
    pub fn changed(&self) {
        let Some(watch) = &self.watch else { return };
        let mut buffer = [0u8; 4096];
        while rustix::io::read(watch, &mut buffer).is_ok_and(|read| read > 0) {}
        self.add_watches();
    }

    /// Reads everything.
    pub fn load(&self) -> ServiceSet {
        let mut set = ServiceSet::default();
        for dir in &self.dirs {
            let services = dir.join("dbus-1/services");
            for file in files(&services, "service") {
                let path = services.join(&file);
                match read_service(&path) {
                    // Directories that come first win.
                    Ok(service) => {
                        set.services.entry(service.name.clone()).or_insert(service);
                    }
                    Err(problem) => {
                        tracing::warn!(file = %path.display(), problem, "not a service file");
                    }
                }
            }
            let names = files(&dir.join("applications"), "desktop");
            let stem = |file: PathBuf| file.file_stem().and_then(OsStr::to_str).map(Box::from);
            let applications: HashSet<Box<str>> = names.into_iter().filter_map(stem).collect();
            set.applications.extend(
                applications
                    .into_iter()
                    .filter(|name| dbus_wire::names::is_well_known_name(name)),
            );
        }
        set
    }
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| PathBuf::from(entry.file_name()))
        .filter(|name| name.extension() == Some(OsStr::new(extension)))
        .take(MOST_FILES)
        .collect();
    files.sort_unstable();
    files
}

fn read_service(path: &Path) -> Result<Service, String> {
    let problem = |error: io::Error| error.to_string();
    let metadata = std::fs::metadata(path).map_err(problem)?;
    if !metadata.is_file() || metadata.len() > LARGEST_FILE {
        return Err("it is no regular file of a reasonable size".to_owned());
    }
    parse_service(&std::fs::read_to_string(path).map_err(problem)?)
}

/// Reads the text of a service file.
fn parse_service(text: &str) -> Result<Service, String> {
    let (mut name, mut exec) = (None, None);
    let mut in_group = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(group) = line.strip_prefix('[') {
            in_group = group.strip_suffix(']') == Some("D-BUS Service");
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("line {}: expected KEY=VALUE", number + 1));
        };
        match key.trim_end() {
            "Name" if in_group => name = Some(value.trim_start()),
            "Exec" if in_group => exec = Some(value.trim_start()),
            _ => {}
        }
    }
    let name = name.ok_or("it has no Name= in [D-BUS Service]")?;
    let name = WellKnownName::parse(name).map_err(|_| format!("{name} is not a bus name"))?;
    let exec = exec.ok_or("it has no Exec= in [D-BUS Service]")?;
    let command = split_command(exec)?;
    if command.is_empty() {
        return Err("Exec= is empty".to_owned());
    }
    Ok(Service { name, command })
}

/// Splits a command line as a shell does, without any expansion.
fn split_command(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err(format!("Exec={text}: a ' is not closed")),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err(format!("Exec={text}: it ends in a \\")),
                        },
                        Some(c) => word.push(c),
                        None => return Err(format!("Exec={text}: a \" is not closed")),
                    }
                }
            }
            '\\' => match chars.next() {
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err(format!("Exec={text}: it ends in a \\")),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_file_says_its_name_and_command() {
        let service = parse_service(
            "# comment\n[D-BUS Service]\nName=org.example.A\nExec=/usr/bin/a --title 'two words' \"a \\\"b\\\"\"\n\
             [Other]\nName=ignored\n",
        )
        .unwrap();
        assert_eq!(&*service.name, "org.example.A");
        assert_eq!(
            service.command,
            ["/usr/bin/a", "--title", "two words", "a \"b\""]
        );
        assert!(
            parse_service("[D-BUS Service]\nName=org.example.A\n")
                .unwrap_err()
                .contains("Exec")
        );
        assert!(
            parse_service("[D-BUS Service]\nrubbish\n")
                .unwrap_err()
                .contains("line 2")
        );
        assert!(split_command("a 'b").is_err());
    }

    #[test]
    fn directories_that_come_first_win_and_desktop_files_name_applications() {
        let dir = std::env::temp_dir().join(format!("services-{}", std::process::id()));
        for (first, exec) in [("one", "/bin/one"), ("two", "/bin/two")] {
            let services = dir.join(first).join("dbus-1/services");
            std::fs::create_dir_all(&services).unwrap();
            let text = format!("[D-BUS Service]\nName=org.example.A\nExec={exec}\n");
            std::fs::write(services.join("a.service"), text).unwrap();
        }
        std::fs::create_dir_all(dir.join("two/applications")).unwrap();
        std::fs::write(dir.join("two/applications/org.kde.dolphin.desktop"), "").unwrap();
        std::fs::write(dir.join("two/applications/gvim.desktop"), "").unwrap();
        let set = ServiceDirs::new(vec![dir.join("one"), dir.join("two")]).load();
        assert_eq!(set.services.values().next().unwrap().command, ["/bin/one"]);
        assert_eq!(set.applications.len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
