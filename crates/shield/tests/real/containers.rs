//! Containers by the name that their managers know them by.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::skip;
use crate::support::*;

/// A podman with storage of its own. Its commands run in a mount namespace in which the second version of
/// control groups alone is mounted: the container's runtime does not take a mixture of both.
struct Podman {
    dir: tempfile::TempDir,
}

impl Podman {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        std::fs::write(
            dir.path().join("storage.conf"),
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{path}/graph\"\nrunroot = \"{path}/run\"\n"),
        )
        .unwrap();
        Self { dir }
    }

    fn configuration(&self) -> std::path::PathBuf {
        self.dir.path().join("storage.conf")
    }

    fn command(&self) -> Command {
        let mut command = command("unshare");
        command
            .args(["--mount", "--", "sh", "-c"])
            .arg("umount -l -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup && exec podman \"$@\"")
            .args(["podman", "--cgroup-manager=cgroupfs", "--runtime=crun", "--tmpdir"])
            .arg(self.dir.path().join("tmp"))
            .env("CONTAINERS_STORAGE_CONF", self.configuration())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self
            .command()
            .args(["rm", "--all", "--force", "--time", "0"])
            .output();
    }
}

#[tokio::test]
async fn a_podman_container_is_found_by_its_name() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    if !runs("podman", &["--version"])
        || !runs("crun", &["--version"])
        || !Path::new("/bin/busybox").exists()
    {
        skip!("podman, crun or a static busybox is missing");
    }
    let podman = Podman::new();
    let bin = podman.dir.path().join("rootfs/bin");
    std::fs::create_dir_all(&bin).unwrap();
    for name in ["sh", "sleep"] {
        std::fs::copy("/bin/busybox", bin.join(name)).unwrap();
    }
    for name in ["proc", "sys", "dev", "etc", "run", "tmp"] {
        std::fs::create_dir(podman.dir.path().join("rootfs").join(name)).unwrap();
    }
    let started = podman
        .command()
        .args(["run", "--detach", "--network=none", "--cgroups=disabled"])
        .args([
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--name=build-box",
            "--rootfs",
        ])
        .arg(podman.dir.path().join("rootfs"))
        .args(["/bin/sleep", "1000"])
        .output()
        .unwrap();
    if !started.status.success() {
        skip!(
            "podman cannot run a container here: {}",
            String::from_utf8_lossy(&started.stderr).trim()
        );
    }
    let id = String::from_utf8_lossy(&started.stdout).trim().to_owned();
    let state = podman.dir.path().join("state");
    let up = |name: &str| {
        shield()
            .args(["up", name, "--state-dir"])
            .arg(&state)
            .env("CONTAINERS_STORAGE_CONF", podman.configuration())
            .output()
            .unwrap()
    };
    assert_eq!(up("another").status.code(), Some(1));
    let output = up("build-box");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.stderr.is_empty(),
        "its processes have no power over its network: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let short = std::fs::read_to_string(state.join("container.id")).unwrap();
    assert_eq!(short, format!("{}\n", &id[..12]));

    let target: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(state.join("target.json")).unwrap()).unwrap();
    assert_eq!(target["kind"], "podman");
    let net = Net::around(target["pid"].as_u64().unwrap() as u32);
    net.serve_tcp(443);
    let bus = Bus::new();
    let client = Client::new(&bus).await;
    let mut bridge = Process(
        shield()
            .args([
                "bridge",
                "build-box",
                "--bus",
                &bus.plain_address(),
                "--state-dir",
            ])
            .arg(&state)
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let name = shield::bus_name_for_container(short.trim());
    client.wait_for_name(&name).await;
    assert!(!net.tcp(V4, 443));
    let blocked = client.blocked_at(V4, 443).await;
    assert_eq!(blocked.0, "build-box");
    assert!(client.verdict(&name, &blocked.5, "accept").await);
    assert!(net.tcp(V4, 443));
    run(podman
        .command()
        .args(["rm", "--force", "--time", "0", "build-box"]));
    assert_eq!(bridge.wait().code(), Some(0));
    assert_eq!(
        up("build-box").status.code(),
        Some(1),
        "a container that is gone is not found"
    );
}

/// An API's server on a unix socket: answers each path with a status and a body.
fn api(socket: &Path, answers: Vec<(String, u16, String)>) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            let _ = reader.read_line(&mut request);
            let mut header = String::new();
            while reader.read_line(&mut header).is_ok_and(|n| n > 2) {
                header.clear();
            }
            let path = request.split(' ').nth(1).unwrap_or_default();
            let (status, body) = answers
                .iter()
                .find(|(p, ..)| p == path)
                .map_or((404, "{}"), |(_, status, body)| (*status, body.as_str()));
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
}

#[test]
fn docker_and_incus_are_asked_by_their_apis() {
    use shield::container::{docker, incus};
    let dir = tempfile::tempdir().unwrap();
    let id = "0123456789abcdef".repeat(4);
    let socket = dir.path().join("docker.sock");
    api(
        &socket,
        vec![
            (
                "/containers/web%20one/json".into(),
                200,
                format!("{{\"Id\":\"{id}\",\"State\":{{\"Pid\":4242,\"Running\":true}}}}"),
            ),
            (
                "/containers/stopped/json".into(),
                200,
                format!("{{\"Id\":\"{id}\",\"State\":{{\"Pid\":0}}}}"),
            ),
            ("/containers/broken/json".into(), 500, "{}".into()),
        ],
    );
    let found = docker::find_at(&socket, "web one").unwrap().unwrap();
    assert_eq!(
        (found.kind, found.pid, found.short_id.as_deref()),
        ("docker", Some(4242), Some("0123456789ab"))
    );
    assert_eq!(found.netns, Path::new("/proc/4242/ns/net"));
    assert_eq!(docker::find_at(&socket, "stopped").unwrap(), None);
    assert_eq!(docker::find_at(&socket, "unknown").unwrap(), None);
    assert!(
        docker::find_at(&socket, "broken")
            .unwrap_err()
            .contains("status 500")
    );

    let socket = dir.path().join("incus.sock");
    api(&socket, vec![
        ("/1.0/instances/dev/state?project=default".into(), 200, "{\"metadata\":{\"pid\":777,\"status\":\"Running\"}}".into()),
        ("/1.0/instances/dev?project=default".into(), 200, "{\"metadata\":{\"config\":{\"volatile.uuid\":\"0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9\"}}}".into()),
        ("/1.0/instances/off/state?project=other".into(), 200, "{\"metadata\":{\"pid\":-1}}".into()),
    ]);
    let found = incus::find_at(&socket, "dev").unwrap().unwrap();
    assert_eq!(
        (found.kind, found.pid, found.short_id.as_deref()),
        ("incus", Some(777), Some("0a1b2c3d4e5f"))
    );
    assert_eq!(incus::find_at(&socket, "other/off").unwrap(), None);
    assert_eq!(incus::find_at(&socket, "unknown").unwrap(), None);
}

#[tokio::test]
async fn a_namespace_by_its_path_is_served_and_its_end_is_seen() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    // A file that the namespace is mounted on, as in /run/netns; in a mount namespace it would not be seen.
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new();
    let path = dir.path().join("spare");
    std::fs::write(&path, "").unwrap();
    let mounted = command("mount")
        .args(["--bind", &format!("/proc/{}/ns/net", net.pid())])
        .arg(&path)
        .status()
        .unwrap();
    if !mounted.success() {
        skip!("a namespace cannot be mounted on a file here");
    }
    let state = dir.path().join("state");
    run(shield()
        .args(["up", "--netns"])
        .arg(&path)
        .arg("--state-dir")
        .arg(&state));
    let bus = Bus::new();
    let client = Client::new(&bus).await;
    let mut bridge = Process(
        shield()
            .args([
                "bridge",
                "spare",
                "--bus",
                &bus.plain_address(),
                "--state-dir",
            ])
            .arg(&state)
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let id = std::fs::read_to_string(state.join("container.id")).unwrap();
    client
        .wait_for_name(&shield::bus_name_for_container(id.trim()))
        .await;
    assert!(!net.tcp(V4, 443));
    assert_eq!(client.blocked_at(V4, 443).await.5, "spare:1");
    run(command("umount").arg(&path));
    assert_eq!(bridge.wait().code(), Some(0));
}
