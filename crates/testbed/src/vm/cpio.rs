//! Archives as the kernel unpacks them at boot: cpio, format "newc" (Documentation/driver-api/early-userspace/
//! buffer-format.rst).

use std::collections::BTreeSet;
use std::path::{Component, Path};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that grows in memory. Parents of what is added are added before it.
pub(super) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    pub fn new() -> Archive {
        Archive {
            bytes: Vec::new(),
            directories: BTreeSet::new(),
            entries: 0,
        }
    }

    /// A directory, for everybody to read.
    pub fn directory(&mut self, path: &Path) {
        let mut whole = String::new();
        for part in path.components() {
            if let Component::Normal(part) = part {
                if !whole.is_empty() {
                    whole.push('/');
                }
                whole.push_str(&part.to_string_lossy());
                if self.directories.insert(whole.clone()) {
                    self.entry(&whole, DIRECTORY | 0o755, &[]);
                }
            }
        }
    }

    pub fn file(&mut self, path: &Path, mode: u32, contents: &[u8]) {
        let name = self.prepare(path);
        self.entry(&name, FILE | mode, contents);
    }

    pub fn link(&mut self, path: &Path, target: &str) {
        let name = self.prepare(path);
        self.entry(&name, LINK | 0o777, target.as_bytes());
    }

    /// The archive, with its trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn prepare(&mut self, path: &Path) -> String {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        path.strip_prefix("/")
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned()
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(contents.len()).expect("no file of a test has 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a path is short");
        self.bytes.extend_from_slice(b"070701");
        let links = 1;
        for field in [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{needs, run_to_end, tools};

    #[test]
    fn cpio_unpacks_what_was_put_in() {
        needs!(tools::BUSYBOX);
        let dir = crate::TestDir::new();
        let mut archive = Archive::new();
        archive.file(Path::new("/a/b/odd"), 0o755, b"12345");
        archive.file(Path::new("/a/b/other"), 0o600, b"");
        archive.link(Path::new("/a/link"), "b/odd");
        let file = dir.write("archive", archive.finish());
        let out = dir.make_dir("out");
        let mut command = std::process::Command::new("busybox");
        command.args(["cpio", "-idF"]).arg(file).current_dir(&out);
        run_to_end(command, std::time::Duration::from_secs(10))
            .expect("it runs")
            .success();
        let link = std::fs::read(out.join("a/link")).expect("the link leads to the file");
        assert_eq!(link, b"12345");
        assert!(out.join("a/b/other").is_file());
    }
}
