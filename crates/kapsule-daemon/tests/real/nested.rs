//! A container engine inside: it runs containers of its own, and the host's firewall stays as it was.

use testbed::container_image::TRIXIE_PODMAN;
use testbed::machine::ALICE;
use testbed::{IncusOptions, Machine, or_skip};

use super::inside::run;
use super::rig::{Rig, USUAL_RULES, plain};

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
}
