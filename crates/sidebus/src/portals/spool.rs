//! Files for programs of the host that want a file, of content that came without one.
//!
//! Wallpaper, OpenURI.OpenFile and Email refuse memfds. What they open they may read much later (a mail's attachment
//! when the mail is sent), so a file stays until the portals end, or newer ones need the room.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A directory of files, bounded in bytes.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<(PathBuf, u64)>,
    bytes: u64,
    last: u64,
}

impl Spool {
    /// Files go below `dir`, which is made when it is needed and removed at the end; `most` bytes of them.
    pub fn new(dir: PathBuf, most: u64) -> Spool {
        Spool {
            dir,
            most,
            state: Mutex::default(),
        }
    }

    /// Writes a file with this name and gives it back, open for reading.
    ///
    /// # Errors
    /// It is larger than the whole spool, or cannot be written.
    pub fn keep(&self, name: &str, content: &[u8]) -> io::Result<OwnedFd> {
        let size = content.len() as u64;
        if size > self.most {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "it has {size} bytes, and no more than {} are kept",
                    self.most
                ),
            ));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.bytes + size > self.most {
            let Some((path, bytes)) = state.kept.pop_front() else {
                break;
            };
            state.bytes -= bytes;
            remove(&path);
        }
        state.last += 1;
        // A directory of its own: two files may have one name.
        let dir = self.dir.join(state.last.to_string());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        let path = dir.join(name);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(content)?;
        state.kept.push_back((path.clone(), size));
        state.bytes += size;
        Ok(File::open(&path)?.into())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (path, _) in state.kept.drain(..) {
            remove(&path);
        }
        // Not there if nothing was kept.
        let _ = fs::remove_dir(&self.dir);
    }
}

fn remove(path: &Path) {
    let removed = fs::remove_file(path).and_then(|()| match path.parent() {
        Some(dir) => fs::remove_dir(dir),
        None => Ok(()),
    });
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "a file of the spool cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_file_stays_until_newer_ones_need_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("spool");
        let spool = Spool::new(below.clone(), 10);
        let mut text = String::new();
        File::from(spool.keep("a.txt", b"12345").unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "12345");
        spool.keep("a.txt", b"67890").unwrap();
        assert!(below.join("1/a.txt").exists() && below.join("2/a.txt").exists());
        spool.keep("b", b"x").unwrap();
        assert!(!below.join("1").exists() && below.join("2/a.txt").exists());
        assert!(spool.keep("c", b"more than ten").is_err());
        drop(spool);
        assert!(!below.exists());
    }
}
