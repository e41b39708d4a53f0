//! The guest's disk and kernel: Debian, made once by mmdebstrap and kept in the [`cache`], under a name
//! that changes with the recipe.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::cache;
use crate::container_image::make_by_script;
use crate::failure::Failure;
use crate::skip::Trouble;
use crate::tools;

/// Its C library runs what was built on this release and on older ones.
const RELEASE: &str = "trixie";

/// systemd, and clients of D-Bus written with three libraries: sd-bus (busctl), GDBus (gdbus, PyGObject) and libdbus
/// (dbus-send, python3-dbus).
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-bin",
    "python3-dbus",
    "python3-gi",
    "libglib2.0-bin",
    "kmod",
    "udev",
    "mount",
    "busybox-static",
];

/// The kernel's package is only unpacked: installing it would make an initrd, which takes longer than all else.
/// mke2fs of Debian 12 takes a directory and no archive; /proc and /sys are mounted in the one that mmdebstrap has.
const SCRIPT: &str = r#"
set -e
release=$1 packages=$2 mirror=$3
mmdebstrap --quiet --variant=minbase --include="$packages" --dpkgopt=force-unsafe-io \
    --customize-hook='chroot "$1" sh -ec "
        kernel=\$(apt-cache depends linux-image-cloud-amd64 | sed -n \"s/ *Depends: *//p\")
        mkdir /kernel && cd /kernel && apt-get -qq download \$kernel && dpkg-deb -x \$kernel*.deb /kernel/x
        mv /kernel/x/boot/vmlinuz-* /vmlinuz
        for modules in /kernel/x/usr/lib/modules /kernel/x/lib/modules; do
            if [ -d \$modules ]; then cp -a \$modules /usr/lib/; fi; done
        rm -rf /kernel
        depmod \$(ls /usr/lib/modules)
        find /usr/lib/modules -name virtio_blk.ko\* -exec cp {} / \;
        busybox unxz /virtio_blk.ko.xz"' \
    --customize-hook='mv "$1/vmlinuz" kernel; mv "$1/virtio_blk.ko" .; cp "$1/usr/bin/busybox" .' \
    --customize-hook='mkdir root
        tar -C "$1" --one-file-system --exclude="./proc/*" --exclude="./sys/*" --exclude="./dev/*" \
            --exclude="./usr/share/doc/*" --exclude="./usr/share/man/*" --exclude="./usr/share/locale/*" \
            --exclude="./var/cache/*" --exclude="./var/lib/apt/lists/*" -cf - . | tar -C root -xpf -
        rm -f root/etc/hostname root/etc/resolv.conf
        mke2fs -q -t ext4 -O ^has_journal -d root disk.img 500M
        rm -rf root' \
    --format=null "$release" - "$mirror"
"#;

/// The files of an image.
#[derive(Clone, Debug)]
pub(super) struct Image {
    dir: PathBuf,
}

impl Image {
    /// The image, made now if it is not there: that takes a minute and needs Debian's mirror. Who comes second, in
    /// another process or thread, waits for who came first.
    ///
    /// # Errors
    /// [`Trouble::Unable`] when a tool is missing or fails: says what it said.
    pub fn provide() -> Result<Image, Trouble> {
        let mut hasher = DefaultHasher::new();
        (RELEASE, PACKAGES, SCRIPT).hash(&mut hasher);
        let name = format!("vm-{RELEASE}-{:016x}", hasher.finish());
        let cache = cache::directory();
        fs::create_dir_all(&cache)
            .map_err(Failure::doing(format_args!("making {}", cache.display())))?;
        let dir = cache.join(&name);
        if dir.is_dir() {
            return Ok(Image { dir });
        }
        let lock = cache.join(format!("{name}.lock"));
        let lock = File::create(&lock)
            .map_err(Failure::doing(format_args!("making {}", lock.display())))?;
        lock.lock().map_err(Failure::doing("locking the cache"))?;
        if dir.is_dir() {
            return Ok(Image { dir });
        }
        for tool in [&tools::MMDEBSTRAP, &tools::MKE2FS] {
            if tool.find().is_none() {
                return Err(Trouble::Unable(tool.missing()));
            }
        }
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .tempdir_in(&cache)
            .map_err(Failure::doing("making a directory in the cache"))?;
        make(scratch.path())?;
        fs::rename(scratch.keep(), &dir)
            .map_err(Failure::doing("putting the image in its place"))?;
        Ok(Image { dir })
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    pub fn kernel(&self) -> PathBuf {
        self.dir.join("kernel")
    }

    /// The driver of the disk.
    pub fn disk_driver(&self) -> PathBuf {
        self.dir.join("virtio_blk.ko")
    }

    /// What runs before there is a disk.
    pub fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }
}

fn make(dir: &Path) -> Result<(), Trouble> {
    let what = "the virtual machine's image";
    make_by_script(dir, SCRIPT, RELEASE, PACKAGES, what)
}
