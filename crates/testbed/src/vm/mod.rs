//! A virtual machine: Debian with systemd under qemu, without KVM, with vsock and if wanted virtiofs.
//!
//! It boots in a quarter of a minute, so a test binary starts one and asks much of it. The disk is a snapshot: nothing of
//! a run is in the next one. What is put into the guest beforehand ([`VmOptions::files`]) is there before systemd starts.
//!
//! vsock is served by the program vhost-device-vsock and not by the kernel, so no host needs a module or a context id of
//! its own: what the guest sends to port N of the host arrives at the unix socket [`Vm::vsock_path`]`_N`.

mod cpio;
mod image;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::deadline::Deadline;
use crate::directory::TestDir;
use crate::failure::Failure;
use crate::processes::{Process, indented};
use crate::skip::Trouble;
use crate::tools;
use cpio::Archive;
use image::Image;

/// How long a boot may take: it takes 10 s on an idle machine, and one that is shared is slower.
const BOOT: Duration = Duration::from_secs(300);
/// How long a command in the guest may take.
const COMMAND: Duration = Duration::from_secs(120);

/// What is put into the guest before it boots.
#[derive(Clone, Debug)]
pub struct GuestFile {
    path: PathBuf,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    File(u32, Vec<u8>),
    Link(String),
}

impl GuestFile {
    /// A file with this mode, of root.
    pub fn new(path: impl Into<PathBuf>, mode: u32, contents: impl Into<Vec<u8>>) -> GuestFile {
        GuestFile {
            path: path.into(),
            what: What::File(mode, contents.into()),
        }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<PathBuf>, target: impl Into<String>) -> GuestFile {
        GuestFile {
            path: path.into(),
            what: What::Link(target.into()),
        }
    }

    /// A program of the host, without what debuggers want if `strip` is here: the guest has to copy it.
    ///
    /// # Errors
    /// It is not there.
    pub fn program(path: impl Into<PathBuf>, program: &Path) -> Result<GuestFile, Failure> {
        let stripped =
            tempfile::NamedTempFile::new().map_err(Failure::doing("making a temporary file"))?;
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(stripped.path()).arg(program);
        let smaller = strip.output().is_ok_and(|output| output.status.success());
        let from = if smaller { stripped.path() } else { program };
        let contents = fs::read(from).map_err(Failure::doing(format_args!(
            "reading {}",
            program.display()
        )))?;
        Ok(GuestFile::new(path, 0o755, contents))
    }
}

/// What a [`Vm`] is started with.
#[derive(Clone, Debug, Default)]
pub struct VmOptions {
    /// Besides what is in the image.
    pub files: Vec<GuestFile>,
    /// Credentials for the guest's systemd, name and value.
    pub credentials: Vec<(String, String)>,
    /// A directory that a virtiofsd shares: its vhost-user socket, and the tag to mount it by.
    pub virtiofs: Option<(PathBuf, String)>,
}

/// What a command in the guest has left.
#[derive(Clone, Debug)]
pub struct GuestOutput {
    /// Its exit status, as a shell has it.
    pub status: u32,
    /// stdout and stderr.
    pub said: String,
}

impl GuestOutput {
    /// What it said, if it ended well.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(
            self.status == 0,
            "in the guest, a command ended with {}; it said:\n{}",
            self.status,
            indented(&self.said)
        );
        self.said
    }
}

/// See the [module](self).
pub struct Vm {
    qemu: Process,
    // After qemu, which is its client.
    _vsock: Process,
    shell: UnixStream,
    monitor: UnixStream,
    console: PathBuf,
    vsock_path: PathBuf,
}

/// The first program of the guest.
const INIT: &str = r#"#!/busybox sh
/busybox mount -t devtmpfs dev /dev
/busybox insmod /virtio_blk.ko
while [ ! -b /dev/vda ]; do /busybox sleep 0.05; done
/busybox mount -t ext4 /dev/vda /root
/busybox cp -a /payload/. /root/
/busybox umount /dev
exec /busybox switch_root /root /usr/lib/systemd/systemd
"#;

/// Units that a guest of tests does without: it has no hardware to be found, nobody logs in, nothing of it is kept.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "ldconfig.service",
    "modprobe@configfs.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-hibernate-clear.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-timesyncd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
];

/// Runs what [`Vm::run`] sends: a line with the length, the script; back comes a line with status and length, the output.
const SHELL: &str = r#"for port in /dev/vport*p1; do exec 3<>"$port"; done
echo ready >&3
while read -r length <&3; do
    head -c "$length" <&3 >/run/testbed-command
    bash /run/testbed-command </dev/null >/run/testbed-output 2>&1 3<&-
    echo "$? $(stat -c %s /run/testbed-output)" >&3
    cat /run/testbed-output >&3
done
"#;

const SHELL_UNIT: &str = "[Unit]
Description=Runs what the test asks for
After=sysinit.target
[Service]
ExecStart=/bin/sh /etc/testbed-shell
[Install]
WantedBy=multi-user.target
";

impl Vm {
    /// Boots a machine, and returns when commands can be run in it.
    ///
    /// # Errors
    /// [`Trouble::Unable`] when a tool is missing; [`Trouble::Failed`] when the machine does not boot, with its console.
    pub fn start(dir: &TestDir, options: &VmOptions) -> Result<Vm, Trouble> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Trouble::Unable(
                "the virtual machine of the tests is x86-64, and the programs to be run in it are not".to_owned(),
            ));
        }
        for tool in [&tools::QEMU, &tools::VHOST_DEVICE_VSOCK] {
            if tool.find().is_none() {
                return Err(Trouble::Unable(tool.missing()));
            }
        }
        let image = Image::provide()?;
        let vm = dir.make_dir("guest");
        let logs = dir.join("logs");
        let initrd = initrd(&image, options)?;
        let initrd = dir.write("guest/initrd", initrd);

        let vsock_path = vm.join("vsock");
        let vhost = vm.join("vhost-vsock");
        let program = tools::VHOST_DEVICE_VSOCK
            .find()
            .expect("it was there a moment ago");
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(dir.environment())
            .arg("--vm")
            .arg(format!(
                "guest-cid=3,uds-path={},socket={}",
                vsock_path.display(),
                vhost.display()
            ));
        let mut vsock = Process::start(command, "vhost-device-vsock", &logs)?;
        // It serves one connection, which is to be qemu's.
        wait_for(&mut vsock, &vhost, || vhost.exists().then_some(()))?;

        let console = vm.join("console");
        let (shell_path, monitor_path) = (vm.join("shell"), vm.join("monitor"));
        let mut command = Command::new("qemu-system-x86_64");
        command
            .env_clear()
            .envs(dir.environment())
            .args(["-machine", "q35,memory-backend=memory"])
            // More of cpus than one is slower here. Without cx16: qemu 7.2 has it wrong, and Linux does without.
            .args(["-accel", "tcg,thread=multi", "-cpu", "qemu64,-cx16,+rdrand"])
            .args(["-smp", "1", "-m", "512M"])
            .args([
                "-object",
                "memory-backend-memfd,id=memory,size=512M,share=on",
            ])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-device", "virtio-rng-pci"])
            .args(["-serial", &format!("file:{}", console.display())])
            .arg("-kernel")
            .arg(image.kernel())
            .arg("-initrd")
            .arg(initrd)
            .args([
                "-append",
                // The kernel's checks of its timers fail where an emulated one is late: on a busy machine.
                "console=ttyS0 quiet mitigations=off no_timer_check tsc=reliable systemd.show_status=false panic=-1",
            ])
            .arg("-drive")
            .arg(format!(
                "file={},if=virtio,format=raw,snapshot=on",
                image.disk().display()
            ))
            .args(["-device", "virtio-serial-pci"])
            .arg("-chardev")
            .arg(format!(
                "socket,id=shell,path={},server=on,wait=off",
                shell_path.display()
            ))
            .args(["-device", "virtserialport,chardev=shell"])
            .arg("-chardev")
            .arg(format!("socket,id=vsock,path={}", vhost.display()))
            .args(["-device", "vhost-user-vsock-pci,chardev=vsock"])
            .arg("-qmp")
            .arg(format!(
                "unix:{},server=on,wait=off",
                monitor_path.display()
            ));
        if let Some((socket, tag)) = &options.virtiofs {
            command
                .arg("-chardev")
                .arg(format!("socket,id=fs,path={}", socket.display()))
                .args([
                    "-device",
                    &format!("vhost-user-fs-pci,chardev=fs,tag={tag}"),
                ]);
        }
        for (name, value) in &options.credentials {
            command.args([
                "-smbios",
                &format!("type=11,value=io.systemd.credential:{name}={value}"),
            ]);
        }
        let mut qemu = Process::start(command, "qemu", &logs)?;
        let shell = wait_for_socket(&mut qemu, &shell_path)?;
        let monitor = wait_for_socket(&mut qemu, &monitor_path)?;
        let mut vm = Vm {
            qemu,
            _vsock: vsock,
            shell,
            monitor,
            console,
            vsock_path,
        };
        let ready = vm.line(Deadline::after(BOOT))?;
        if ready != "ready" {
            return Err(vm.failure(&format!("the guest said {ready:?}")).into());
        }
        vm.ask_monitor("qmp_capabilities")?;
        Ok(vm)
    }

    /// Runs a script in the guest, as root, with bash.
    ///
    /// # Panics
    /// When the guest does not answer in time, with its console.
    #[track_caller]
    pub fn run(&mut self, script: &str) -> GuestOutput {
        match self.try_run(script) {
            Ok(output) => output,
            Err(failure) => panic!("running in the guest: {script}\n{failure}"),
        }
    }

    fn try_run(&mut self, script: &str) -> Result<GuestOutput, Failure> {
        let deadline = Deadline::after(COMMAND);
        let sent = format!("{}\n{script}", script.len());
        self.shell
            .write_all(sent.as_bytes())
            .map_err(Failure::doing("writing to the guest's shell"))?;
        let answer = self.line(deadline)?;
        let parsed = answer
            .split_once(' ')
            .and_then(|(status, length)| Some((status.parse().ok()?, length.parse().ok()?)));
        let Some((status, length)) = parsed else {
            return Err(self.failure(&format!("the guest's shell said {answer:?}")));
        };
        let said = self.read(length, deadline)?;
        Ok(GuestOutput {
            status,
            said: String::from_utf8_lossy(&said).into_owned(),
        })
    }

    /// Where vsock is on the host: what the guest sends to port N arrives at this path with `_N` behind it.
    pub fn vsock_path(&self) -> &Path {
        &self.vsock_path
    }

    /// Stops the guest's processor.
    ///
    /// # Errors
    /// qemu does not answer.
    pub fn pause(&mut self) -> Result<(), Failure> {
        self.ask_monitor("stop")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// qemu does not answer.
    pub fn resume(&mut self) -> Result<(), Failure> {
        self.ask_monitor("cont")
    }

    /// Ends the machine as a power cut does.
    pub fn kill(&mut self) {
        self.qemu.signal(Signal::KILL);
        self.qemu.wait(Deadline::usual());
    }

    /// A failure that shows the guest's console, and how qemu fared.
    pub fn failure(&mut self, what: &str) -> Failure {
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        self.qemu.failure(&format!(
            "{what}\nThe guest's console:\n{}",
            indented(&tail)
        ))
    }

    fn line(&mut self, deadline: Deadline) -> Result<String, Failure> {
        let mut line = Vec::new();
        loop {
            match self.read(1, deadline)?.first() {
                Some(b'\n') => return Ok(String::from_utf8_lossy(&line).into_owned()),
                Some(byte) => line.push(*byte),
                None => {}
            }
        }
    }

    fn read(&mut self, length: usize, deadline: Deadline) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            if !self.qemu.wait_ready(&self.shell, deadline) {
                return Err(self.failure("the guest has not answered"));
            }
            match self.shell.read(&mut bytes[filled..]) {
                Ok(0) => return Err(self.failure("the guest's shell has gone")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(&format!("the guest's shell: {error}"))),
            }
        }
        Ok(bytes)
    }

    /// Sends a command without arguments to qemu's monitor (QMP), and waits for its answer; passes over events.
    fn ask_monitor(&mut self, command: &str) -> Result<(), Failure> {
        let doing = || Failure::doing(format!("asking qemu to {command}"));
        self.monitor
            .write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())
            .map_err(doing())?;
        let deadline = Deadline::usual();
        let mut answer = Vec::new();
        loop {
            if !self.qemu.wait_ready(&self.monitor, deadline) {
                return Err(self
                    .qemu
                    .failure(&format!("qemu does not answer to {command}")));
            }
            let mut byte = [0];
            if self.monitor.read(&mut byte).map_err(doing())? == 0 {
                return Err(self.qemu.failure("qemu's monitor has gone"));
            }
            if byte[0] != b'\n' {
                answer.push(byte[0]);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut answer)).into_owned();
            if line.contains("\"return\"") {
                return Ok(());
            }
            if line.contains("\"error\"") {
                return Err(Failure::new(format!("qemu refuses to {command}: {line}")));
            }
        }
    }
}

fn initrd(image: &Image, options: &VmOptions) -> Result<Vec<u8>, Failure> {
    let read = |path: PathBuf| {
        fs::read(&path).map_err(Failure::doing(format_args!("reading {}", path.display())))
    };
    let mut archive = Archive::new();
    for directory in ["dev", "root", "payload"] {
        archive.directory(Path::new(directory));
    }
    archive.file(Path::new("init"), 0o755, INIT.as_bytes());
    archive.file(Path::new("busybox"), 0o755, &read(image.busybox())?);
    archive.file(
        Path::new("virtio_blk.ko"),
        0o644,
        &read(image.disk_driver())?,
    );
    let units = Path::new("/etc/systemd/system");
    let mut files = vec![
        GuestFile::new("/etc/testbed-shell", 0o644, SHELL),
        GuestFile::new(units.join("testbed-shell.service"), 0o644, SHELL_UNIT),
        GuestFile::link(
            units.join("multi-user.target.wants/testbed-shell.service"),
            "../testbed-shell.service",
        ),
        // With one, this is not a first boot.
        GuestFile::new(
            "/etc/machine-id",
            0o444,
            "5a2b8cc0d2a34e15a8d3b7e3a1b9c7d1\n",
        ),
        GuestFile::new("/etc/hostname", 0o644, "guest\n"),
        // In the place of udev.
        GuestFile::new(
            "/etc/modules-load.d/testbed.conf",
            0o644,
            "vmw_vsock_virtio_transport\n",
        ),
    ];
    files.extend(
        MASKED
            .iter()
            .map(|unit| GuestFile::link(units.join(unit), "/dev/null")),
    );
    files.extend(options.files.iter().cloned());
    for file in files {
        let path = Path::new("payload").join(file.path.strip_prefix("/").unwrap_or(&file.path));
        match file.what {
            What::File(mode, contents) => archive.file(&path, mode, &contents),
            What::Link(target) => archive.link(&path, &target),
        }
    }
    Ok(archive.finish())
}

/// Waits until a process listens, and connects.
fn wait_for_socket(process: &mut Process, path: &Path) -> Result<UnixStream, Failure> {
    wait_for(process, path, || UnixStream::connect(path).ok())
}

/// Waits until a process has made what can be `had` at `path`.
fn wait_for<T>(
    process: &mut Process,
    path: &Path,
    had: impl Fn() -> Option<T>,
) -> Result<T, Failure> {
    let deadline = Deadline::usual();
    loop {
        if let Some(there) = had() {
            return Ok(there);
        }
        // Its end is waited for, which is not to come: a pause that ends early when there is nothing to wait for.
        let ended = process.wait(Deadline::after(Duration::from_millis(10)));
        if ended.is_some() || deadline.left().is_zero() {
            return Err(process.failure(&format!("nobody listens at {}", path.display())));
        }
    }
}
