//! Setting up an Incus that is as it comes.

use std::collections::HashMap;

use testbed::container_image::TRIXIE;
use testbed::machine::ALICE;
use testbed::{IncusOptions, Machine, or_skip};
use zbus::{OwnedObjectPath, Variant};

use super::rig::{Rig, plain};

const RULES: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id == "org.kde.kapsule.enter-container" || action.id == "org.kde.kapsule.initialize")
        return polkit.Result.YES;
});
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_incus_as_it_comes_is_set_up_once() {
    let machine = or_skip!(Machine::start());
    let options = IncusOptions {
        images: vec![TRIXIE],
        initialized: false,
        ..IncusOptions::default()
    };
    let rig = or_skip!(Rig::start_with(&machine, RULES, &options));
    let alice = rig.person(&ALICE).await;

    // Before: what is missing is said with its remedy, and nothing is left.
    let (status, text) = alice
        .done("CreateContainer", &("box", "trixie", plain()))
        .await
        .expect_err("there is nowhere to put it");
    assert_eq!(status, "failed");
    assert!(text.contains("kapsule init"), "{text}");
    assert!(rig.instances().is_empty());

    let (error, text) = alice
        .call::<_, OwnedObjectPath>(
            "Initialize",
            &(HashMap::from([("storage", Variant::from("floppy"))]),),
        )
        .await
        .expect_err("there is no such driver");
    assert_eq!(error, "InvalidArgument", "{text}");

    let wishes = HashMap::from([("storage", Variant::from("dir"))]);
    alice.done("Initialize", &(&wishes,)).await.expect("set up");
    let profile = rig.incus.incus(&["profile", "show", "default"]).stdout;
    assert!(profile.contains("pool: default"), "{profile}");
    assert!(profile.contains("network: incusbr0"), "{profile}");
    assert!(machine.outside("/run/kapsule-data/initialized").exists());

    // Again it changes nothing, also as at the first boot.
    alice.done("Initialize", &(&wishes,)).await.expect("it is");
    let mut command = machine.command(machine.program("kapsuled").expect("it is built"));
    command
        .args([
            "--initialize",
            "--data-dir",
            "/run/kapsule-data",
            "--incus-socket",
        ])
        .arg(rig.incus.socket_inside());
    let output = machine.run(command);
    assert!(output.status.success(), "{}", output.both());
    assert_eq!(output.stdout.trim(), "Incus is set up already");
    assert_eq!(
        rig.incus.incus(&["profile", "show", "default"]).stdout,
        profile
    );

    alice
        .done("CreateContainer", &("box", "trixie", plain()))
        .await
        .expect("now there is");
}
