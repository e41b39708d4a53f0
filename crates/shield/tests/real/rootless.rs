//! Without root: a container whose network belongs to a user namespace of an ordinary user.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::skip;
use crate::support::*;

/// `nobody`: a user that there is everywhere, which dbus-daemon insists on.
const UID: u32 = 65_534;

/// A command that runs as an ordinary user.
fn as_user(program: &str) -> Command {
    let mut command = command("setpriv");
    command.args([
        "--reuid",
        &UID.to_string(),
        "--regid",
        &UID.to_string(),
        "--clear-groups",
        "--",
        program,
    ]);
    command
}

/// A container as rootless podman makes one: the network belongs to an outer user namespace, and the
/// container's process lives in one below it, where it has no power over the network.
fn rootless_container() -> Option<Process> {
    let mut child = as_user("unshare")
        .args(["--user", "--map-root-user", "--net", "--", "sh", "-c"])
        .arg("ip link set lo up && exec unshare --user --map-user=1000 -- sh -c 'echo ready; exec sleep 3600'")
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut line = String::new();
    let out = child.stdout.take()?;
    let _ = BufReader::new(out).read_line(&mut line);
    let process = Process(child);
    (line == "ready\n").then_some(process)
}

#[tokio::test]
async fn an_ordinary_user_serves_a_container_of_their_own_and_nobody_elses() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let Some(container) = rootless_container() else {
        skip!("an ordinary user cannot make user namespaces here");
    };
    let mut net = Net::around(container.pid());
    net.container = Some(container);
    net.serve_tcp(443);

    // A directory of the user's, a copy of the program that they may read, and a bus of theirs.
    let dir = tempfile::Builder::new()
        .prefix("shield")
        .tempdir_in("/tmp")
        .unwrap();
    let program = dir.path().join("shield-bridge");
    std::fs::copy(env!("CARGO_BIN_EXE_shield-bridge"), &program).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(UID), Some(UID)).unwrap();
    let state = dir.path().join("state");
    let up = |user: bool, pid: u32| {
        let mut command = if user {
            as_user(program.to_str().unwrap())
        } else {
            command(program.to_str().unwrap())
        };
        command
            .args(["up", "box", "--pid", &pid.to_string(), "--state-dir"])
            .arg(&state)
            .output()
            .unwrap()
    };
    // Another's container: it says what is missing.
    let other = Net::new();
    let refused = up(true, other.pid());
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("missing CAP_"), "{said}");
    assert!(said.contains("hint: run this as"), "{said}");
    assert!(!inside_run(other.pid(), "nft list tables").contains("terok_shield"));

    let done = up(true, net.pid());
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        done.stderr.is_empty(),
        "the container has no power over its network: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let bus_path = dir.path().join("bus");
    let mut child = as_user("dbus-daemon")
        .args(["--session", "--nofork", "--nosyslog", "--print-address=1"])
        .arg(format!("--address=unix:path={}", bus_path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let _ = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
    let _daemon = Process(child);
    let address = line.trim().split(',').next().unwrap().to_owned();
    let _bridge = Process(
        as_user(program.to_str().unwrap())
            .args([
                "bridge",
                "box",
                "--bus",
                &address,
                "--resolver=127.0.0.1:9",
                "--state-dir",
            ])
            .arg(&state)
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let ask = |arguments: &[&str]| {
        let output = as_user(program.to_str().unwrap())
            .args(arguments)
            .args(["--bus", &address])
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    until("it serves and asks", async || {
        assert!(!net.tcp(V4, 443));
        ask(&["pending"]).1.contains("box:1  203.0.113.1:443 tcp")
    })
    .await;
    assert!(ask(&["allow", "1"]).0);
    assert!(net.tcp(V4, 443));
    assert!(!net.tcp(V6, 443));
    let down = as_user(program.to_str().unwrap())
        .args(["down", "box", "--state-dir"])
        .arg(&state)
        .output()
        .unwrap();
    assert!(down.status.success(), "{down:?}");
}

#[test]
fn a_container_that_could_remove_the_rules_is_warned_of() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let output = shield()
        .args(["up", "box", "--pid", &net.pid().to_string(), "--state-dir"])
        .arg(dir.path().join("state"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("CAP_NET_ADMIN"), "{said}");
}
