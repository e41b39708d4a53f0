//! A container engine inside: it runs containers of its own, and the host's firewall stays as it was.

use testbed::container_image::{TRIXIE_DOCKER, TRIXIE_PODMAN};
use testbed::machine::ALICE;
use testbed::skip::say_skipped;
use testbed::{IncusOptions, Machine, or_skip};

use super::inside::run;
use super::rig::{Person, Rig, USUAL_RULES, plain};

/// An image of one program, made inside, for there is no network. Podman puts containers into groups of their own,
/// which asks for more rights than some machines give their root.
const IMAGE: &str = "
    set -e
    mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/ && ln -sf busybox /tmp/image/bin/sh
    tar -c -C /tmp/image . | podman import --quiet - busybox >/dev/null
";

#[tokio::test(flavor = "multi_thread")]
async fn podman_inside_runs_a_container_and_leaves_the_hosts_firewall_alone() {
    let machine = or_skip!(Machine::start());
    let options = IncusOptions {
        images: vec![TRIXIE_PODMAN],
        ..IncusOptions::default()
    };
    let rig = or_skip!(Rig::start_with(&machine, USUAL_RULES, &options));
    let alice = rig.person(&ALICE).await;
    alice
        .done("CreateContainer", &("engine", "trixie-podman", plain()))
        .await
        .expect("it is made");

    // Incus has put its own rules there when the container was started.
    let rules = || {
        let mut inside = machine.command("nft");
        inside.args(["list", "ruleset"]);
        let mut real = std::process::Command::new("nft");
        real.args(["list", "ruleset"]);
        (machine.run(inside).success(), machine.run(real).success())
    };
    let before = rules();
    assert!(before.0.contains("incus"), "{}", before.0);

    run(&rig, &alice, "engine", true, IMAGE).await.well();
    let driver = run(
        &rig,
        &alice,
        "engine",
        true,
        "podman info --format '{{.Store.GraphDriverName}}'",
    )
    .await;
    assert_eq!(driver.well(), "overlay\n");
    let line = "podman run --rm --cgroups=disabled --publish 8080:80 busybox /bin/busybox sh -c \
                'echo from within; /bin/busybox ip -o -4 address show eth0'";
    let said = run(&rig, &alice, "engine", true, line).await.well();
    assert!(said.starts_with("from within\n"), "{said}");
    assert!(said.contains("inet 10.88."), "a bridge of its own: {said}");

    // While one runs, its rules are inside, and there only.
    let line = "podman run --detach --name up --cgroups=disabled --publish 8080:80 busybox /bin/busybox sleep 600 >/dev/null \
                && nft list ruleset";
    let inside = run(&rig, &alice, "engine", true, line).await.well();
    assert!(
        inside.contains("netavark") && inside.contains("8080"),
        "{inside}"
    );
    assert_eq!(rules(), before);
    run(
        &rig,
        &alice,
        "engine",
        true,
        "podman rm --force --time 0 up",
    )
    .await
    .well();
    assert_eq!(rules(), before);

    without_root(&rig, &alice).await;
}

/// The same for who is nobody in particular inside: numbers for it are there, and what podman keeps is the container's.
async fn without_root(rig: &Rig<'_>, alice: &Person) {
    let nested = run(rig, alice, "engine", false, "unshare --user true").await;
    if nested.status != 0 {
        say_skipped(format_args!(
            "podman without root: user namespaces in a container are refused here: {}",
            nested.stderr.trim()
        ));
        return;
    }
    run(rig, alice, "engine", false, IMAGE).await.well();
    // Without a network: a machine may keep /dev/net/tun for its root.
    let line = "podman run --rm --cgroups=disabled --network=none --user 33:33 busybox /bin/busybox sh -c \
                '/bin/busybox id; /bin/busybox cat /proc/self/uid_map'";
    let said = run(rig, alice, "engine", false, line).await.well();
    let said: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(
        said.join(" "),
        "uid=33 gid=33 groups=33 0 1000 1 1 524288 65536"
    );
    let kept = "podman info --format '{{.Store.GraphRoot}} {{.Store.GraphDriverName}}'; ls -A ~/.local/share/containers; \
                systemctl --user show-environment | grep ^CONTAINERS_";
    let kept = run(rig, alice, "engine", false, kept).await.well();
    assert_eq!(
        kept,
        // A cache of where layers may be had is shared, and is meant to be.
        "/var/lib/kapsule/podman/1000 overlay\ncache\n\
         CONTAINERS_STORAGE_CONF=/var/lib/kapsule/podman/storage.conf\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_inside_runs_a_container_on_a_network_of_its_own() {
    let machine = or_skip!(Machine::start());
    let options = IncusOptions {
        images: vec![TRIXIE_DOCKER],
        ..IncusOptions::default()
    };
    let rig = or_skip!(Rig::start_with(&machine, USUAL_RULES, &options));
    let alice = rig.person(&ALICE).await;
    alice
        .done("CreateContainer", &("engine", "trixie-docker", plain()))
        .await
        .expect("it is made");
    let rules = || {
        let mut real = std::process::Command::new("nft");
        real.args(["list", "ruleset"]);
        machine.run(real).success()
    };
    let before = rules();
    let started = run(&rig, &alice, "engine", true, "systemctl start docker").await;
    if started.status != 0 {
        let why = "journalctl --unit=docker --no-pager --lines=5";
        let why = run(&rig, &alice, "engine", true, why).await;
        panic!("dockerd does not start: {}{}", started.stderr, why.stdout);
    }
    let image = IMAGE.replace("podman import --quiet", "docker import");
    run(&rig, &alice, "engine", true, &image).await.well();
    // As people do it: with sudo.
    let line = "sudo docker run --rm --publish 8080:80 busybox /bin/busybox sh -c \
                'echo from within; /bin/busybox ip -o -4 address show eth0'";
    let said = run(&rig, &alice, "engine", false, line).await.well();
    assert!(said.starts_with("from within\n"), "{said}");
    assert!(said.contains("inet 172.17."), "a bridge of its own: {said}");
    let inside = run(&rig, &alice, "engine", true, "iptables --list")
        .await
        .well();
    assert!(inside.contains("DOCKER"), "{inside}");
    assert_eq!(rules(), before);
}
