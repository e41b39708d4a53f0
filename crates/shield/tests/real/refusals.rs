//! What a verdict must not do, and what a second bridge, or one without a container, is told.

use crate::skip;
use crate::support::*;

#[tokio::test]
async fn a_verdict_with_a_wrong_container_id_or_action_is_false_and_changes_no_rule() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    assert!(!shielded.net.tcp(V4, 443));
    let request = client.blocked_at(V4, 443).await.5;
    let rules = shielded.decisions();
    for (request, action) in [
        ("another:1", "accept"),
        ("build:2", "accept"),
        ("build:0", "accept"),
        ("build:-1", "accept"),
        ("build:+1", "accept"),
        ("build:1x", "accept"),
        ("build:", "accept"),
        ("build", "accept"),
        ("1", "accept"),
        ("", "accept"),
        ("x:build:1", "accept"),
        (&request, "Accept"),
        (&request, "allow"),
        (&request, ""),
        (&request, "accept "),
    ] {
        assert!(
            !client.verdict(&name, request, action).await,
            "{request} {action}"
        );
        assert!(
            !client.verdict_for(&name, request, action, 60).await,
            "{request} {action}"
        );
    }
    let scoped = (request.as_str(), "accept", "planet", 0u32);
    let ok: bool = client
        .call(&name, PATH, "org.terok.Shield2", "VerdictScoped", &scoped)
        .await
        .unwrap();
    assert!(!ok);
    let scoped = (request.as_str(), "accept", "domain", 0u32);
    let ok: bool = client
        .call(&name, PATH, "org.terok.Shield2", "VerdictScoped", &scoped)
        .await
        .unwrap();
    assert!(!ok, "it has no name");
    assert_eq!(shielded.decisions(), rules);
    assert_eq!(
        client.pending(&name).await.len(),
        1,
        "the question still waits"
    );
    assert!(client.verdict(&name, &request, "accept").await);
    // It is closed now.
    let rules = shielded.decisions();
    assert!(!client.verdict(&name, &request, "deny").await);
    assert_eq!(shielded.decisions(), rules);
}

#[tokio::test]
async fn both_object_paths_and_the_unique_name_are_served_and_members_are_in_camel_case() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    let old = stream(&client.connection, "type='signal',path='/org/terok/Shield'").await;
    let mut old = old;
    assert!(!shielded.net.tcp(V4, 443));
    let new_signal = client.blocked().await;
    let old_signal = next(&mut old).await;
    assert_eq!(
        new_signal,
        old_signal.body().deserialize::<Blocked>().unwrap()
    );
    assert_eq!(
        old_signal.body().signature().to_string_no_parens(),
        "ssqqss"
    );
    let owner: String = client.dbus("GetNameOwner", &name.as_str()).await;
    for to in [&name, &owner] {
        for path in ["/org/terok/Shield1", "/org/terok/Shield"] {
            let ok: bool = client
                .call(
                    to,
                    path,
                    "org.terok.Shield1",
                    "Verdict",
                    &("build:99", "accept"),
                )
                .await
                .unwrap();
            assert!(!ok);
            let xml: String = client
                .call(
                    to,
                    path,
                    "org.freedesktop.DBus.Introspectable",
                    "Introspect",
                    &(),
                )
                .await
                .unwrap();
            let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/");
            for file in ["org.terok.Shield1.xml", "org.terok.Shield2.xml"] {
                let contract = std::fs::read_to_string(format!("{data}{file}")).unwrap();
                assert_eq!(members(&contract, file), members(&xml, file), "{file}");
            }
        }
    }
    let wrong: zbus::Result<bool> = client
        .call(
            &name,
            PATH,
            "org.terok.Shield1",
            "verdict",
            &("build:1", "accept"),
        )
        .await;
    assert!(wrong.is_err(), "the original's mistake");
}

/// The members of an interface in introspection data, with their arguments, comments and all else left out.
fn members(xml: &str, file: &str) -> Vec<String> {
    let interface = file.trim_end_matches(".xml");
    let begin = xml
        .find(&format!("<interface name=\"{interface}\">"))
        .expect("the interface is there");
    let rest = &xml[begin..];
    let text = &rest[..rest.find("</interface>").expect("it ends")];
    let mut found = Vec::new();
    let mut member = String::new();
    for tag in text.split('<').skip(2) {
        let tag = tag
            .split('>')
            .next()
            .unwrap_or_default()
            .trim_end_matches('/');
        let word = tag.split_whitespace().next().unwrap_or_default();
        let value = |key: &str| {
            let rest = tag.split(&format!("{key}=\"")).nth(1).unwrap_or_default();
            rest.split('"').next().unwrap_or_default().to_owned()
        };
        match word {
            "method" | "signal" => member = format!("{word} {}", value("name")),
            "property" => found.push(format!(
                "property {} {} {}",
                value("name"),
                value("type"),
                value("access")
            )),
            "arg" => member.push_str(&format!(
                " {}:{}:{}",
                value("name"),
                value("type"),
                if value("direction") == "out" {
                    "out"
                } else {
                    ""
                }
            )),
            "/method" | "/signal" => found.push(std::mem::take(&mut member)),
            _ => {}
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_second_bridge_is_told_that_there_is_one_and_the_first_goes_on() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let (bridge, client) = shielded.bridge(&bus, &[]).await;
    for arguments in [&[][..], &["--subprocess"]] {
        let output = shield()
            .args([
                "bridge",
                "build",
                "--bus",
                &bus.plain_address(),
                "--state-dir",
            ])
            .arg(shielded.state())
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("another bridge serves"), "{said}");
        assert!(said.contains(&bridge.pid().to_string()), "{said}");
    }
    // A reader that does not look at our lock finds the log bound.
    let other = tempfile::tempdir().unwrap();
    for file in ["container.id", "interactive", "target.json"] {
        std::fs::copy(shielded.state().join(file), other.path().join(file)).unwrap();
    }
    let output = shield()
        .args(["session", "--json"])
        .arg(other.path())
        .arg("build")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("log group 100 is bound"));
    assert!(!shielded.net.tcp(V4, 443));
    client.blocked_at(V4, 443).await;
}

#[tokio::test]
async fn a_taken_bus_name_is_an_error_that_leaves_nothing_behind() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let client = Client::new(&bus).await;
    client
        .connection
        .request_name(shielded.bus_name())
        .await
        .unwrap();
    let mut bridge = shielded.start_bridge(&bus, &[]);
    assert_eq!(bridge.wait().code(), Some(1));
    assert!(
        client
            .connection
            .release_name(shielded.bus_name())
            .await
            .unwrap()
    );
    let (_bridge, _client) = shielded.bridge(&bus, &[]).await;
}

#[tokio::test]
async fn a_container_that_goes_takes_its_name_with_it_and_a_verdict_is_an_error() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    for arguments in [&[][..], &["--subprocess"]] {
        let mut shielded = Shielded::new("build");
        let bus = Bus::new();
        let (mut bridge, client) = shielded.bridge(&bus, arguments).await;
        let name = shielded.bus_name();
        assert!(!shielded.net.tcp(V4, 443));
        let request = client.blocked_at(V4, 443).await.5;
        shielded.net.end();
        client.wait_until_gone(&name).await;
        let verdict: zbus::Result<bool> = client
            .call(
                &name,
                PATH,
                "org.terok.Shield1",
                "Verdict",
                &(request.as_str(), "accept"),
            )
            .await;
        assert!(verdict.is_err());
        assert_eq!(bridge.wait().code(), Some(0));
        let output = shielded.says(
            &bus,
            &[
                "bridge",
                "build",
                "--state-dir",
                &shielded.state().display().to_string(),
            ],
        );
        assert_eq!(output.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("does not run"),
            "{output:?}"
        );
    }
}

#[tokio::test]
async fn a_container_without_rules_is_told_what_to_do() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let state = shielded.state().display().to_string();
    let output = shielded.says(&bus, &["down", "build", "--state-dir", &state]);
    assert!(output.status.success());
    let reached = {
        shielded.net.serve_tcp(80);
        shielded.net.tcp(V4, 80)
    };
    assert!(reached, "the rules are gone");
    for arguments in [
        &["bridge", "build", "--state-dir", &state][..],
        &["down", "build", "--state-dir", &state],
    ] {
        let output = shielded.says(&bus, arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("is not up"), "{said}");
        assert!(said.contains("hint: shield-bridge up build"), "{said}");
    }
    let output = shielded.says(&bus, &["up", "no such container"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    for word in ["podman", "docker", "incus", "--pid"] {
        assert!(said.contains(word), "{said}");
    }
    // This machine's own network is nobody's container.
    let output = shielded.says(
        &bus,
        &[
            "up",
            "--pid",
            &std::process::id().to_string(),
            "--state-dir",
            &state,
        ],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(!inside_run(std::process::id(), "nft list tables").contains("terok_shield"));
}

#[tokio::test]
async fn a_bad_profile_is_named_by_file_and_line_and_loads_nothing() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::with("build", &[], "203.0.113.1\n");
    let before = shielded.rules();
    let profile = shielded.dir.path().join("bad");
    std::fs::write(&profile, "203.0.113.2\n} flush ruleset {\n").unwrap();
    let output = shield()
        .args([
            "up",
            "build",
            "--pid",
            &shielded.net.pid().to_string(),
            "--profile",
        ])
        .arg(&profile)
        .arg("--state-dir")
        .arg(shielded.state())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&format!("{}:2:", profile.display())),
        "{said}"
    );
    assert_eq!(shielded.rules(), before);
}

#[tokio::test]
async fn taking_the_rules_down_ends_their_bridge() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    for arguments in [&[][..], &["--subprocess"]] {
        let shielded = Shielded::new("build");
        let bus = Bus::new();
        let (mut bridge, client) = shielded.bridge(&bus, arguments).await;
        assert!(!shielded.net.tcp(V4, 443));
        assert_eq!(client.blocked_at(V4, 443).await.5, "build:1");
        let state = shielded.state().display().to_string();
        assert!(
            shielded
                .says(&bus, &["down", "build", "--state-dir", &state])
                .status
                .success()
        );
        client.wait_until_gone(&shielded.bus_name()).await;
        assert_eq!(bridge.wait().code(), Some(0));
        // Up again, nothing waits, and no number is used twice.
        shielded.up(&[]);
        let (_bridge, client) = shielded.bridge(&bus, arguments).await;
        assert!(client.pending(&shielded.bus_name()).await.is_empty());
        assert!(!shielded.net.tcp(V4, 443));
        assert_eq!(client.blocked_at(V4, 443).await.5, "build:2");
    }
}
