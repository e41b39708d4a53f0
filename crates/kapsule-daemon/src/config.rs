//! The configuration: of the machine, and of a person.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::image_server::ImageServer;

/// Where the machine's configuration is, unless `--config` says otherwise.
pub const SYSTEM_FILE: &str = "/etc/kapsule/kapsule.toml";

/// The machine's configuration. Every key may be left out.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The container that an empty name stands for.
    pub default_container: String,
    /// The image of a container for which none is named.
    pub default_image: String,
    /// Where the feature profiles are; a file in a later directory replaces one of the same name.
    pub profile_directories: Vec<PathBuf>,
    /// Servers with images, by name: `images = "https://images.linuxcontainers.org"`.
    pub servers: std::collections::BTreeMap<String, ImageServer>,
    /// The files in which a caller's uid is entered as one that root may map (`root:UID:1`); none: they are left
    /// alone, and have to have it.
    pub subid_files: Vec<PathBuf>,
    /// The storage pool for new containers; empty: that of Incus' default profile.
    pub storage_pool: String,
    /// Whether containers start with the machine if they ran when it went down.
    pub start_at_boot: bool,
    /// The program `kapsule-dbus-mux`.
    pub mux_program: PathBuf,
    /// For how many seconds an operation is remembered after its end.
    pub remember_seconds: u64,
    /// What the daemon keeps: `--data-dir`.
    #[serde(skip)]
    pub data_directory: PathBuf,
    /// Incus' socket: `--incus-socket`.
    #[serde(skip)]
    pub incus_socket: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_container: "kapsule".to_owned(),
            default_image: "images:debian/13/cloud".to_owned(),
            profile_directories: vec![
                PathBuf::from("/usr/share/kapsule/profiles"),
                PathBuf::from("/etc/kapsule/profiles"),
            ],
            servers: [(
                "images".to_owned(),
                ImageServer::at("https://images.linuxcontainers.org"),
            )]
            .into(),
            subid_files: vec![PathBuf::from("/etc/subuid"), PathBuf::from("/etc/subgid")],
            storage_pool: String::new(),
            start_at_boot: false,
            mux_program: PathBuf::from("/usr/bin/kapsule-dbus-mux"),
            remember_seconds: 300,
            data_directory: PathBuf::from("/var/lib/kapsule"),
            incus_socket: PathBuf::from("/var/lib/incus/unix.socket"),
        }
    }
}

impl Config {
    /// Reads the machine's configuration; a missing file is an empty one, unless it was named.
    ///
    /// # Errors
    /// [`Error::Failed`] with the file, and the line and column of what is wrong.
    pub fn read(named: Option<&Path>) -> Result<Self> {
        let path = named.unwrap_or(Path::new(SYSTEM_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                String::new()
            }
            Err(error) => {
                return Err(Error::Failed(format!(
                    "reading the configuration {}: {error}",
                    path.display()
                )));
            }
        };
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::Failed(at_place(path, text, &error)))
    }
}

/// A person's own wishes, in `~/.config/kapsule/config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preferences {
    /// The container that an empty name stands for.
    pub default_container: Option<String>,
    /// The image of a container for which none is named.
    pub default_image: Option<String>,
    /// Features that new containers have as well.
    pub with: Vec<String>,
    /// Features that new containers do not have.
    pub without: Vec<String>,
}

impl Preferences {
    /// From the text of the file at `path`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the file, and the line and column of what is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::InvalidArgument(at_place(path, text, &error)))
    }
}

/// `FILE:LINE: what is wrong`, without the text of the line: it may be a file that the reader of the message must
/// not see.
pub(crate) fn at_place(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let offset = error.span().map_or(0, |span| span.start);
    format!(
        "{}:{}: {}",
        path.display(),
        line_of(text, offset),
        error.message().trim()
    )
}

/// The number of the line in which the byte at `offset` is, from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        let config = Config::parse("", Path::new("x")).expect("it is whole");
        assert_eq!(config.default_container, "kapsule");
        assert_eq!(
            config.servers["images"].url,
            "https://images.linuxcontainers.org"
        );
    }

    #[test]
    fn a_server_is_a_url_and_may_have_a_certificate_of_its_own() {
        let parse = |line: &str| Config::parse(&format!("[servers]\n{line}\n"), Path::new("k"));
        let config = parse("a = \"http://a.example\"\nb = { url = \"https://b.example/x/\", certificate = \"/etc/b.crt\" }")
            .expect("both forms are right");
        assert_eq!(config.servers["a"].certificate, None);
        let b = &config.servers["b"];
        assert!(b.is_at("https://b.example/x") && !b.is_at("https://b.example"));
        assert_eq!(b.certificate.as_deref(), Some(Path::new("/etc/b.crt")));
        for (line, complaint) in [
            ("a = 1", "expected a URL, or {"),
            ("a = \"b.example\"", "is no URL of a server"),
            ("a = \"https:///x\"", "is no URL of a server"),
            ("a = { certificate = \"/x\" }", "missing field `url`"),
            (
                "a = { url = \"https://a\", cert = \"/x\" }",
                "unknown field `cert`",
            ),
            (
                "a = { url = \"https://a\", certificate = \"x\" }",
                "absolute",
            ),
        ] {
            let error = parse(line).expect_err(line);
            assert!(
                error.text().starts_with("k:2: ") && error.text().contains(complaint),
                "{line}: {}",
                error.text()
            );
        }
    }

    #[test]
    fn an_error_names_file_and_line() {
        let error = Config::parse(
            "default_image = \"a\"\ndefault_imege = \"b\"\n",
            Path::new("/etc/k.toml"),
        )
        .expect_err("an unknown key");
        assert!(
            error.text().starts_with("/etc/k.toml:2: "),
            "{}",
            error.text()
        );
        assert!(error.text().contains("default_imege"), "{}", error.text());
    }

    #[test]
    fn a_person_may_wish() {
        let wishes = Preferences::parse(
            "default_container = \"box\"\nwithout = [\"gpu\"]\n",
            Path::new("x"),
        )
        .expect("it is whole");
        assert_eq!(wishes.default_container.as_deref(), Some("box"));
        assert_eq!(wishes.without, ["gpu"]);
    }
}
