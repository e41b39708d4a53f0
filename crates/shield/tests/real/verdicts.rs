//! A blocked connection becomes a signal, and the answer takes effect with the very next connection.

use std::time::Duration;

use crate::skip;
use crate::support::*;

/// Tries a connection of each kind, and checks its signal, an accept, and a deny.
async fn each_kind(shielded: &Shielded, client: &Client, arguments: &str) {
    let name = shielded.bus_name();
    for (proto, address, port) in [(6, V4, 443), (6, V6, 443), (17, V4, 5000), (17, V6, 5000)] {
        let tries = |port| {
            if proto == 6 {
                shielded.net.tcp(address, port)
            } else {
                shielded.net.udp(address, port)
            }
        };
        let before = shielded.net.arrived();
        assert!(
            !tries(port),
            "{address} {proto}: not allowed, and reached {arguments}"
        );
        assert_eq!(shielded.net.arrived(), before, "a blocked packet came out");
        let blocked = client.blocked_at(address, port).await;
        let request = blocked.5.clone();
        let (container, id) = request.rsplit_once(':').unwrap();
        assert_eq!(container, shielded.name);
        assert!(id.parse::<u64>().is_ok());
        assert_eq!(
            blocked,
            (
                shielded.name.clone(),
                address.into(),
                port,
                proto,
                String::new(),
                request.clone()
            )
        );
        assert!(client.verdict(&name, &request, "accept").await);
        assert!(tries(port), "{address} {proto}: accepted, and not reached");
        let applied = client.applied().await;
        assert_eq!(
            applied,
            (
                shielded.name.clone(),
                address.into(),
                request.clone(),
                "accept".into(),
                true
            )
        );
        // Nothing else was opened.
        assert!(!tries(port + 1));
        let other = client.blocked_at(address, port + 1).await;
        assert!(client.verdict(&name, &other.5, "deny").await);
        assert!(!tries(port + 1), "{address} {proto}: denied, and reached");
        assert!(tries(port));
    }
    assert!(client.pending(&name).await.is_empty());
}

#[tokio::test]
async fn a_blocked_connection_becomes_a_signal_accept_lets_it_through_and_deny_keeps_it_out() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    for port in [443, 444] {
        shielded.net.serve_tcp(port);
    }
    for port in [5000, 5001] {
        shielded.net.serve_udp(port);
    }
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    each_kind(&shielded, &client, "in process").await;
    let audit = shielded.audit();
    for said in [
        "\"action\":\"blocked\",\"dest\":\"203.0.113.1\",\"detail\":\"tcp/443 id 1\"",
        "\"action\":\"allowed\",\"dest\":\"203.0.113.1\",\"detail\":\"verdict id 1 tcp/443\"",
        "\"action\":\"denied\",\"dest\":\"203.0.113.1\",\"detail\":\"verdict id 2 tcp/444\"",
        "\"action\":\"blocked\",\"dest\":\"2001:db8::1\",\"detail\":\"udp/5000 id 7\"",
    ] {
        assert!(audit.contains(said), "{said} is not in {audit}");
    }
}

#[tokio::test]
async fn the_same_holds_for_a_session_in_a_process_of_its_own() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("--name with: colons");
    let bus = Bus::new();
    for port in [443, 444] {
        shielded.net.serve_tcp(port);
    }
    for port in [5000, 5001] {
        shielded.net.serve_udp(port);
    }
    let (_bridge, client) = shielded.bridge(&bus, &["--subprocess"]).await;
    each_kind(&shielded, &client, "--subprocess").await;
}

#[tokio::test]
async fn a_timed_accept_ends_for_new_connections_and_for_open_ones() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    shielded.net.serve_tcp(443);
    shielded.net.serve_udp(5000);
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();

    assert!(!shielded.net.udp(V4, 5000));
    let udp = client.blocked_at(V4, 5000).await;
    assert!(!shielded.net.tcp(V4, 443));
    let tcp = client.blocked_at(V4, 443).await;
    assert!(client.verdict_for(&name, &udp.5, "accept", 2).await);
    assert!(client.verdict_for(&name, &tcp.5, "accept", 2).await);
    assert!(shielded.net.tcp(V4, 443));
    // One socket, which the other side has answered: the kernel calls that established.
    let socket = inside(shielded.net.pid(), || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((V4, 5000)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        socket
    });
    let echo = |socket: &std::net::UdpSocket| {
        socket.send(b"echo").is_ok() && socket.recv(&mut [0; 16]).is_ok()
    };
    assert!(echo(&socket));
    until("the accept has ended", async || {
        shielded.decisions().is_empty()
    })
    .await;
    assert!(!echo(&socket), "an open connection outlived its permission");
    assert!(!shielded.net.tcp(V4, 443), "a timed accept did not end");
    // It is asked about again, and at once, under a new number.
    let again = client.blocked_at(V4, 443).await;
    assert_ne!(again.5, tcp.5);
}

#[tokio::test]
async fn a_deny_takes_a_permission_back_and_a_later_accept_the_deny() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::with("build", &[], "203.0.113.1\n2001:db8::1 tcp/443\n");
    let bus = Bus::new();
    for port in [80, 443] {
        shielded.net.serve_tcp(port);
    }
    // Before any bridge runs, the profile holds.
    assert!(shielded.net.tcp(V4, 443));
    assert!(shielded.net.tcp(V4, 80));
    assert!(shielded.net.tcp(V6, 443));
    assert!(!shielded.net.tcp(V6, 80));
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    // What was refused while no bridge ran is asked about, if it is a moment ago.
    let v6 = client.pending(&name).await;
    assert_eq!(v6.len(), 1);
    assert!(client.verdict(&name, &v6[0].5, "accept").await);
    assert!(shielded.net.tcp(V6, 80));
    // A deny in the state directory stands before the profile when the rules are loaded again.
    std::fs::write(shielded.state().join("deny.list"), "203.0.113.1\n").unwrap();
    shielded.up(&[]);
    assert!(!shielded.net.tcp(V4, 443));
    assert!(
        shielded.net.tcp(V6, 80),
        "a permanent verdict outlives a restart of the container"
    );
}

#[tokio::test]
async fn a_verdict_about_an_address_covers_every_port_and_every_question_about_it() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    for port in [80, 443, 8080] {
        shielded.net.serve_tcp(port);
    }
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    assert!(!shielded.net.tcp(V4, 80));
    assert!(!shielded.net.tcp(V4, 443));
    let first = client.blocked_at(V4, 80).await;
    client.blocked_at(V4, 443).await;
    let scoped = (first.5.as_str(), "accept", "address", 0u32);
    let ok: bool = client
        .call(&name, PATH, "org.terok.Shield2", "VerdictScoped", &scoped)
        .await
        .unwrap();
    assert!(ok);
    for port in [80, 443, 8080] {
        assert!(shielded.net.tcp(V4, port));
    }
    assert!(!shielded.net.tcp(V6, 80));
    let left = client.pending(&name).await;
    assert!(left.iter().all(|r| r.1 == V6), "{left:?}");
    let live = std::fs::read_to_string(shielded.state().join("live.allowed")).unwrap();
    assert_eq!(live, "203.0.113.1\n");
}

#[tokio::test]
async fn everything_can_be_let_through_for_a_time_but_what_was_denied() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    for port in [80, 443] {
        shielded.net.serve_tcp(port);
    }
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    assert_eq!(client.state(&name).await, "asking");
    assert!(!shielded.net.tcp(V4, 80));
    let denied = client.blocked_at(V4, 80).await;
    assert!(client.verdict(&name, &denied.5, "deny").await);
    let all = async |container: &str, seconds: u32| -> bool {
        client
            .call(
                &name,
                PATH,
                "org.terok.Shield2",
                "AllowAll",
                &(container, seconds),
            )
            .await
            .unwrap()
    };
    assert!(!all("another", 60).await);
    assert!(all("build", 60).await);
    assert_eq!(client.state(&name).await, "open");
    assert!(shielded.net.tcp(V4, 443));
    assert!(shielded.net.tcp(V6, 80));
    assert!(!shielded.net.tcp(V4, 80));
    assert!(all("build", 0).await);
    assert_eq!(client.state(&name).await, "asking");
    assert!(!shielded.net.tcp(V4, 443));
}

#[tokio::test]
async fn icmp_is_asked_about_too_and_has_no_port() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    if !runs("ping", &["-V"]) {
        skip!("ping does not run");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    let ping = |address: &str| {
        command("nsenter")
            .args([
                "--target",
                &shielded.net.pid().to_string(),
                "--net",
                "ping",
                "-c1",
                "-W2",
                address,
            ])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    for (address, proto) in [(V4, 1), (V6, 58)] {
        assert!(!ping(address));
        let blocked = client.blocked_at(address, 0).await;
        assert_eq!(blocked.3, proto);
        assert!(client.verdict(&name, &blocked.5, "accept").await);
        assert!(ping(address));
    }
}

#[tokio::test]
async fn an_allowed_address_is_no_way_to_another_one() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::with("build", &[], "203.0.113.1\n");
    shielded.net.serve_udp(5000);
    assert!(shielded.net.udp(V4, 5000));
    let before = shielded.net.arrived();
    let sent = inside(shielded.net.pid(), || {
        use std::os::fd::AsRawFd;
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        // A loose source route (RFC 791): first to the allowed address, from there to the other.
        let route = [131u8, 7, 4, 203, 0, 113, 1, 0];
        // SAFETY: the option is read from `route`, which is as long as is said and outlives the call.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_OPTIONS,
                route.as_ptr().cast(),
                route.len() as libc::socklen_t,
            )
        };
        assert_eq!(set, 0, "any program may ask for a source route");
        socket.send_to(b"x", ("198.18.0.1", 5000)).is_ok()
    });
    assert!(!sent);
    assert_eq!(shielded.net.arrived(), before);
}

#[tokio::test]
async fn unattended_it_denies_without_asking_and_writes_it_down() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::with("build", &["--unattended"], "203.0.113.1 tcp/443\n");
    let bus = Bus::new();
    for port in [80, 443] {
        shielded.net.serve_tcp(port);
    }
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    assert_eq!(client.state(&name).await, "denying");
    assert!(shielded.net.tcp(V4, 443));
    assert!(!shielded.net.tcp(V4, 80));
    until("the block is written down", async || {
        shielded
            .audit()
            .contains("\"action\":\"blocked\",\"dest\":\"203.0.113.1\",\"detail\":\"tcp/80\"")
    })
    .await;
    assert!(client.pending(&name).await.is_empty());
}
