//! Against a real Incus: see `testbed::incus`. One of it for all tests here, as starting it takes seconds.

use std::time::Duration;

use incus_client::{Client, Error, EventBody, InstanceCreate, Seen, Source, Stop};
use testbed::{Incus, IncusOptions, Machine, or_skip};

/// Runs a scenario, with a limit.
fn run<T>(scenario: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(120), scenario)
                .await
                .expect("within two minutes")
        })
}

#[test]
fn incus_does_what_the_client_asks() {
    let machine = or_skip!(Machine::start());
    let mut incus = or_skip!(Incus::start(&machine, &IncusOptions::default()));
    let client = Client::new(incus.socket());
    run(a_container_lives_and_goes(&client));
    run(a_client_outlives_incus(&client, &mut incus));
}

async fn a_container_lives_and_goes(client: &Client) {
    let server = client.server().await.expect("it answers");
    assert_eq!(server.auth, "trusted");
    assert!(server.version() >= (6, 0, 0), "{:?}", server.environment);
    assert_eq!(client.instances().await.expect("a list").len(), 0);

    let mut watch = client.watch(&["lifecycle", "operation"]);
    assert!(matches!(watch.next().await, Seen::Connected));

    let mut wanted = InstanceCreate::new("web", Source::alias("trixie"));
    wanted
        .config
        .insert("user.kapsule.owner".into(), "1000".into());
    let operation = client.create_instance(&wanted).await.expect("it begins");
    assert_eq!(operation.state().instances().collect::<Vec<_>>(), ["web"]);
    let mut stages = Vec::new();
    operation
        .wait_with(|state| stages.extend(state.progress().map(|progress| progress.stage)))
        .await
        .expect("it is made");
    let again = match client.create_instance(&wanted).await {
        Ok(operation) => operation.wait().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(again, Err(Error::Conflict { .. })), "{again:?}");

    let instance = client.instance("web").await.expect("it is there");
    assert_eq!(instance.config["user.kapsule.owner"], "1000");
    assert!(instance.created_at.unix_seconds().is_some());
    assert!(!instance.is_running());

    let operation = client.start_instance("web").await.expect("it begins");
    operation.wait().await.expect("it starts");
    let state = client.instance_state("web").await.expect("it has one");
    let init = state.init().expect("it runs");
    assert!(std::fs::exists(format!("/proc/{init}/root/etc")).expect("a process of this machine"));
    let all = client.instances_with_state().await.expect("a list");
    assert_eq!(
        all[0].state.as_ref().and_then(|state| state.init()),
        Some(init)
    );

    let refused = client.delete_instance("web").await;
    assert!(refused.is_err(), "one that runs is not deleted");

    let operation = client
        .stop_instance("web", Stop::Now)
        .await
        .expect("it begins");
    operation.wait().await.expect("it stops");
    let operation = client.delete_instance("web").await.expect("it begins");
    operation.wait().await.expect("it is deleted");
    let gone = client.instance("web").await.expect_err("it is gone");
    assert!(gone.is_not_found(), "{gone}");

    let mut actions = Vec::new();
    while actions.last().is_none_or(|last| last != "instance-deleted") {
        if let Seen::Event(event) = watch.next().await
            && let EventBody::Lifecycle(lifecycle) = event.body
            && lifecycle.instance() == Some("web")
        {
            actions.push(lifecycle.action);
        }
    }
    for action in ["instance-created", "instance-started", "instance-stopped"] {
        assert!(actions.iter().any(|seen| seen == action), "{actions:?}");
    }
}

async fn a_client_outlives_incus(client: &Client, incus: &mut Incus<'_>) {
    let mut watch = client.watch(&["lifecycle"]);
    assert!(matches!(watch.next().await, Seen::Connected));
    incus.kill();
    assert!(matches!(watch.next().await, Seen::Lost(_)));
    let error = client.instances().await.expect_err("nobody is there");
    assert!(error.is_unavailable(), "{error}");
    assert!(error.to_string().contains("unix.socket"), "{error}");
    incus.start_again().expect("it starts again");
    assert!(matches!(watch.next().await, Seen::Connected));
    client.instances().await.expect("it answers");
}
