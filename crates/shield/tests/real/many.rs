//! Many containers: isolated, each with its own name, served by one process.

use std::process::Stdio;

use crate::skip;
use crate::support::*;

/// Makes a root directory with the state of these containers.
fn root_of(containers: &[Shielded]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for c in containers {
        link(&root, c);
    }
    root
}

fn link(root: &tempfile::TempDir, container: &Shielded) {
    let place = root.path().join(&container.name);
    std::os::unix::fs::symlink(container.state(), place).unwrap();
}

fn bridge_all(root: &tempfile::TempDir, bus: &Bus) -> Process {
    Process(
        shield()
            .args([
                "bridge",
                "--all",
                "--bus",
                &bus.plain_address(),
                "--resolver=127.0.0.1:9",
                "--state-dir",
            ])
            .arg(root.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

#[tokio::test]
async fn one_process_serves_fifty_containers_each_with_its_own_name_and_rules() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let containers: Vec<_> = (0..50).map(|n| Shielded::new(&format!("c{n}"))).collect();
    let root = root_of(&containers);
    let bus = Bus::new();
    let client = Client::new(&bus).await;
    let mut bridge = bridge_all(&root, &bus);
    for c in &containers {
        client.wait_for_name(&c.bus_name()).await;
    }
    let owner: String = client
        .dbus("GetNameOwner", &containers[0].bus_name().as_str())
        .await;
    let last: String = client
        .dbus("GetNameOwner", &containers[49].bus_name().as_str())
        .await;
    assert_eq!(owner, last, "one connection");
    let rows: Vec<(String, String, String)> = client
        .call(&owner, PATH, "org.terok.Shield2", "ListContainers", &())
        .await
        .unwrap();
    assert_eq!(rows.len(), 50);

    // Each is asked about under its own name, and only there.
    for c in &containers {
        c.net.serve_tcp(443);
        assert!(!c.net.tcp(V4, 443));
        let blocked = client.blocked().await;
        assert_eq!(blocked.0, c.name);
        assert_eq!(blocked.5, format!("{}:1", c.name));
        assert_eq!(client.pending(&c.bus_name()).await, [blocked]);
    }
    // A verdict for another container, by whichever name it is sent to, does nothing.
    let (a, b) = (&containers[7], &containers[8]);
    let rules = (a.decisions(), b.decisions());
    assert!(!client.verdict(&a.bus_name(), "c8:1", "accept").await);
    assert!(!client.verdict(&b.bus_name(), "c7:1", "accept").await);
    assert_eq!((a.decisions(), b.decisions()), rules);
    assert!(client.verdict(&a.bus_name(), "c7:1", "accept").await);
    assert!(a.net.tcp(V4, 443));
    assert!(!b.net.tcp(V4, 443));
    // Sent to the connection, the request's id says which one.
    assert!(client.verdict(&owner, "c8:1", "accept").await);
    assert!(b.net.tcp(V4, 443));
    assert!(!containers[9].net.tcp(V4, 443));

    assert_eq!(bridge.terminate().code(), Some(0));
    for c in &containers {
        let owned: bool = client.dbus("NameHasOwner", &c.bus_name().as_str()).await;
        assert!(!owned);
        assert!(!c.net.tcp(V6, 443), "the rules stay");
    }
}

#[tokio::test]
async fn containers_that_come_up_or_go_later_are_served_or_left_without_a_restart() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let mut first = Shielded::new("first");
    let root = root_of(std::slice::from_ref(&first));
    let bus = Bus::new();
    let client = Client::new(&bus).await;
    let _bridge = bridge_all(&root, &bus);
    client.wait_for_name(&first.bus_name()).await;

    let net = Net::new();
    let state = root.path().join("second");
    let output = shield()
        .args([
            "up",
            "second",
            "--pid",
            &net.pid().to_string(),
            "--state-dir",
        ])
        .arg(&state)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let id = std::fs::read_to_string(state.join("container.id")).unwrap();
    let second = shield::bus_name_for_container(id.trim());
    client.wait_for_name(&second).await;
    assert!(!net.tcp(V4, 443));
    assert_eq!(client.blocked_at(V4, 443).await.0, "second");

    first.net.end();
    client.wait_until_gone(&first.bus_name()).await;
    assert_eq!(
        client.pending(&second).await.len(),
        1,
        "the other is still served"
    );
}

/// The library, as a program with its own connection uses it.
#[tokio::test]
async fn a_bridge_owns_no_name_and_stops_cleanly_also_when_its_caller_is_cancelled() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    use shield::bridge::{Bridge, Way};
    let shielded = Shielded::new("build");
    shielded.net.serve_tcp(443);
    let bus = Bus::new();
    let client = Client::new(&bus).await;
    let connection = bus.connect().await;
    let state = || shield::state::StateDir::new(shielded.state());
    let way = || {
        Way::InProcess(shield::session::in_process::Options {
            keep_pending: true,
            ..Default::default()
        })
    };
    let bridge = Bridge::start(state(), "build", &connection, way())
        .await
        .unwrap();
    assert_eq!(bridge.container_id(), shielded.short_id());
    assert_eq!(bridge.bus_name(), shielded.bus_name());
    let owned: bool = client.dbus("NameHasOwner", &bridge.bus_name()).await;
    assert!(!owned, "the name is the caller's");
    assert!(!shielded.net.tcp(V4, 443));
    let request = client.blocked_at(V4, 443).await.5;
    assert!(!bridge.submit_verdict("other:1", "accept").await);
    assert!(!bridge.submit_verdict(&request, "yes").await);
    assert!(bridge.submit_verdict(&request, "accept").await);
    assert!(shielded.net.tcp(V4, 443));

    // A second one for the same container is refused, and nothing of it is left.
    let second = Bridge::start(state(), "build", &connection, way()).await;
    assert!(
        matches!(second, Err(shield::Error::Busy { .. })),
        "{second:?}"
    );

    // Cancelled at its first step, stop still happens.
    {
        let mut stop = std::pin::pin!(bridge.stop());
        std::future::poll_fn(|context| {
            let _ = stop.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
    }
    bridge.ended().await;
    let unique = connection.unique_name().unwrap().to_string();
    let called: zbus::Result<bool> = client
        .call(
            &unique,
            PATH,
            "org.terok.Shield1",
            "Verdict",
            &("build:1", "accept"),
        )
        .await;
    assert!(called.is_err(), "the object is gone: {called:?}");
    // All that it held is free again.
    let third = Bridge::start(state(), "build", &connection, way())
        .await
        .unwrap();
    third.stop().await;
    third.stop().await;
    // Dropped without a stop, it ends too.
    drop(
        Bridge::start(state(), "build", &connection, way())
            .await
            .unwrap(),
    );
    until("it is free again", async || {
        match Bridge::start(state(), "build", &connection, way()).await {
            Ok(bridge) => {
                bridge.stop().await;
                true
            }
            Err(_) => false,
        }
    })
    .await;
    // What cannot start leaves no object behind.
    std::fs::remove_file(shielded.state().join("container.id")).unwrap();
    assert!(
        Bridge::start(state(), "build", &connection, way())
            .await
            .is_err()
    );
    let called: zbus::Result<bool> = client
        .call(
            &unique,
            PATH,
            "org.terok.Shield1",
            "Verdict",
            &("build:1", "accept"),
        )
        .await;
    assert!(called.is_err());
}
