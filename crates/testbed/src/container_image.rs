//! Images of containers for Incus: made once by mmdebstrap, and kept in the cache of the person who runs the
//! tests, `${XDG_CACHE_HOME:-~/.cache}/kapsule-tests/`, under a name that changes with the recipe.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache;
use crate::failure::Failure;
use crate::processes::run_to_end;
use crate::skip::Trouble;
use crate::tools;

/// How an image is made.
#[derive(Copy, Clone, Debug)]
pub struct Recipe {
    /// Its alias in Incus.
    pub alias: &'static str,
    /// Debian's packages in it, besides the essential ones and those of [`SYSTEM`].
    packages: &'static [&'static str],
}

/// What a system with systemd and users has, in all images.
const SYSTEM: [&str; 9] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "sudo",
    "iproute2",
    "procps",
    "passwd",
];

const RELEASE: &str = "trixie";
/// Counted up when what is done below changes, other than the packages.
const REVISION: u32 = 1;

/// Debian with systemd, a session bus for users, sudo, and clients of D-Bus: `notify-send`, `gdbus`.
pub const TRIXIE: Recipe = Recipe {
    alias: "trixie",
    packages: &["ca-certificates", "libnotify-bin", "libglib2.0-bin"],
};

/// Debian with systemd and podman, and busybox to run in it.
pub const TRIXIE_PODMAN: Recipe = Recipe {
    alias: "trixie-podman",
    packages: &[
        "podman",
        "crun",
        "netavark",
        "aardvark-dns",
        "passt",
        "nftables",
        "uidmap",
        "busybox-static",
    ],
};

/// Debian with systemd and docker, and busybox to run in it.
pub const TRIXIE_DOCKER: Recipe = Recipe {
    alias: "trixie-docker",
    packages: &["docker.io", "docker-cli", "iptables", "busybox-static"],
};

/// The two files of an image, as Incus imports them.
#[derive(Clone, Debug)]
pub struct ImageFiles {
    /// `incus.tar.xz`: metadata.
    pub metadata: PathBuf,
    /// `rootfs.squashfs`.
    pub rootfs: PathBuf,
}

impl Recipe {
    /// The image, made now if it is not there: that takes half a minute and needs Debian's mirror. Who comes
    /// second, in another process or thread, waits for who came first.
    ///
    /// # Errors
    /// [`Trouble::Unable`] when mmdebstrap is missing, or fails: says what it said.
    pub fn provide(&self) -> Result<ImageFiles, Trouble> {
        let cache = cache::directory();
        fs::create_dir_all(&cache)
            .map_err(Failure::doing(format_args!("making {}", cache.display())))?;
        let name = format!("{}-{:016x}", self.alias, self.key());
        let dir = cache.join(&name);
        let files = ImageFiles {
            metadata: dir.join("incus.tar.xz"),
            rootfs: dir.join("rootfs.squashfs"),
        };
        if dir.is_dir() {
            return Ok(files);
        }
        let lock = cache.join(format!("{name}.lock"));
        let lock = File::create(&lock)
            .map_err(Failure::doing(format_args!("making {}", lock.display())))?;
        lock.lock().map_err(Failure::doing("locking the cache"))?;
        if dir.is_dir() {
            return Ok(files);
        }
        for tool in [&tools::MMDEBSTRAP, &tools::TAR2SQFS] {
            if tool.find().is_none() {
                return Err(Trouble::Unable(tool.missing()));
            }
        }
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .tempdir_in(&cache)
            .map_err(Failure::doing("making a directory in the cache"))?;
        self.make(scratch.path())?;
        fs::rename(scratch.keep(), &dir)
            .map_err(Failure::doing("putting the image in its place"))?;
        Ok(files)
    }

    fn key(&self) -> u64 {
        // Its values do not change but with the standard library; then the image is made anew.
        let mut hasher = DefaultHasher::new();
        (RELEASE, REVISION, SYSTEM, self.packages, SCRIPT).hash(&mut hasher);
        hasher.finish()
    }

    fn make(&self, dir: &Path) -> Result<(), Trouble> {
        let what = format!("the image {}", self.alias);
        let packages = [&SYSTEM, self.packages].concat();
        make_by_script(dir, SCRIPT, RELEASE, &packages, &what)
    }
}

/// Has a script of the shell make `what` in `dir`; its arguments are the release, the packages, and the mirror.
pub(crate) fn make_by_script(
    dir: &Path,
    script: &str,
    release: &str,
    packages: &[&str],
    what: &str,
) -> Result<(), Trouble> {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "image", release])
        .arg(packages.join(","))
        .arg(debian_mirror()?)
        .current_dir(dir);
    let output = run_to_end(command, Duration::from_secs(900))?;
    if output.status.success() {
        return Ok(());
    }
    let both = output.both();
    let lines: Vec<&str> = both.lines().collect();
    let tail = lines[lines.len().saturating_sub(8)..].join("\n    ");
    Err(Trouble::Unable(format!(
        "{what} cannot be made (mmdebstrap, from Debian's mirror):\n    {tail}"
    )))
}

/// mmdebstrap gives the new system this machine's name and resolver; what Incus sets up should hold instead.
/// What a fresh system would do by its timers has no place in a test.
const SCRIPT: &str = r#"
set -e
release=$1 packages=$2 mirror=$3
mmdebstrap --quiet --variant=minbase --include="$packages" \
    --customize-hook='rm -f "$1/etc/hostname" "$1/etc/resolv.conf"' \
    --customize-hook='rm -rf "$1/usr/share/doc" "$1/usr/share/man" "$1/usr/share/locale"' \
    --customize-hook='for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer; do
        ln -sf /dev/null "$1/etc/systemd/system/$unit"; done' \
    "$release" rootfs.tar "$mirror"
tar2sqfs --quiet --force --compressor zstd --comp-extra level=6 rootfs.squashfs <rootfs.tar
rm rootfs.tar
printf 'architecture: %s\ncreation_date: 1\nproperties: {description: Debian %s for tests, os: debian, release: %s}\n' \
    "$(uname -m)" "$release" "$release" >metadata.yaml
tar -cJf incus.tar.xz metadata.yaml
rm metadata.yaml
"#;

/// The mirror that apt has Debian from.
///
/// # Errors
/// apt has it from nowhere.
pub fn debian_mirror() -> Result<String, Failure> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let said = run_to_end(command, Duration::from_secs(10)).map_or(String::new(), |it| it.stdout);
    let mirror = said
        .lines()
        .find_map(|line| line.strip_prefix("Debian Debian main "))
        .map(|mirror| mirror.trim_end_matches('/').to_owned());
    mirror.ok_or_else(|| {
        Failure::new(
            "apt-get names no mirror of Debian (apt-get indextargets): are its sources set up, and was `apt-get update` \
             run?",
        )
    })
}
