//! A system of one program: busybox as its init, its shell and its commands. No systemd, no account but root's, no
//! tool to make one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testbed::container_image::ImageFiles;
use testbed::skip::Trouble;
use testbed::{Incus, Machine, run_to_end, tools};

/// `$1` is busybox, `$2` how the image is called, which `/etc/name` says inside. The rest changes what is in it.
const SCRIPT: &str = r#"
set -e
busybox=$1 name=$2 change=$3
if [ ! -d ../tiny-base ]; then
    mkdir ../tiny-base
    cd ../tiny-base
    mkdir bin sbin etc proc sys dev run tmp root home var
    chmod 1777 tmp
    cp "$busybox" bin/busybox
    for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "bin/$applet"; done
    ln -s ../bin/busybox sbin/init
    echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
    echo 'root:x:0:' >etc/group
    echo '::respawn:/bin/sleep 100000' >etc/inittab
    cd "$OLDPWD"
fi
cp -a ../tiny-base root
echo "$name" >root/etc/name
eval "$change"
tar -c -C root . | tar2sqfs --quiet --force rootfs.squashfs
rm -r root
printf 'architecture: %s\ncreation_date: 1\nproperties: {description: %s}\n' "$(uname -m)" "$name" >metadata.yaml
tar -cJf incus.tar.xz metadata.yaml
"#;

/// Makes one; `change` is lines of the shell that change what is in `root`.
pub fn image(machine: &Machine, name: &str, change: &str) -> Result<ImageFiles, Trouble> {
    for tool in [&tools::BUSYBOX, &tools::TAR2SQFS] {
        if tool.find().is_none() {
            return Err(Trouble::Unable(tool.missing()));
        }
    }
    let dir = machine.dir().make_dir(format!("tiny-{name}"));
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "tiny"])
        .arg(tools::BUSYBOX.find().expect("it was"))
        .args([name, change])
        .current_dir(&dir);
    run_to_end(command, Duration::from_secs(20))?.success();
    Ok(ImageFiles {
        metadata: dir.join("incus.tar.xz"),
        rootfs: dir.join("rootfs.squashfs"),
    })
}

/// Gives it to Incus, under its name.
pub fn import(incus: &Incus<'_>, name: &str, files: &ImageFiles) {
    let shown = |path: &Path| path.display().to_string();
    let (metadata, rootfs) = (shown(&files.metadata), shown(&files.rootfs));
    incus
        .incus(&["image", "import", &metadata, &rootfs, "--alias", name])
        .success();
}
