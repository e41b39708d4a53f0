//! The bridge is killed, and the bus is: nothing leaks, and nothing is forgotten.

use std::time::Duration;

use crate::skip;
use crate::support::*;

#[tokio::test]
async fn killed_at_any_moment_nothing_leaks_and_a_restart_takes_up_what_waited() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    for arguments in [&[][..], &["--subprocess"]] {
        let shielded = Shielded::new("build");
        let bus = Bus::new();
        let name = shielded.bus_name();
        let net = &shielded.net;
        let mut waits: Vec<Blocked> = Vec::new();
        for round in 0..6u64 {
            let (mut bridge, client) = shielded.bridge(&bus, arguments).await;
            // What waited before still does, under the same numbers.
            let listed = client.pending(&name).await;
            for old in &waits {
                assert!(listed.contains(old), "{old:?} was forgotten: {listed:?}");
            }
            let port = 1000 + round as u16;
            assert!(!net.tcp(V4, port));
            let blocked = client.blocked_at(V4, port).await;
            assert!(
                waits.iter().all(|w| w.5 != blocked.5),
                "a number was used twice"
            );
            waits.push(blocked);
            let before = net.arrived();
            let pid = net.pid();
            let traffic = std::thread::spawn(move || {
                inside(pid, || {
                    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                    for n in 0..3000u16 {
                        let _ = socket.send_to(b"x", ("198.18.0.1", 2000 + n % 50));
                    }
                })
            });
            tokio::time::sleep(Duration::from_millis(round * 3)).await;
            bridge.kill();
            traffic.join().unwrap();
            assert!(!net.tcp(V4, port));
            assert_eq!(
                net.arrived(),
                before,
                "a packet came out while the bridge died"
            );
            client.wait_until_gone(&name).await;
        }
        let (_bridge, client) = shielded.bridge(&bus, arguments).await;
        net.serve_tcp(1000);
        assert!(client.verdict(&name, &waits[0].5, "accept").await);
        assert!(
            net.tcp(V4, 1000),
            "an answer to a question from before is as good as ever"
        );
    }
}

#[tokio::test]
async fn an_accept_outlives_the_bridge_and_so_does_its_end() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let name = shielded.bus_name();
    for port in [80, 443] {
        shielded.net.serve_tcp(port);
    }
    let (mut bridge, client) = shielded.bridge(&bus, &[]).await;
    assert!(!shielded.net.tcp(V4, 443));
    let permanent = client.blocked_at(V4, 443).await.5;
    assert!(!shielded.net.tcp(V4, 80));
    let timed = client.blocked_at(V4, 80).await.5;
    assert!(client.verdict(&name, &permanent, "accept").await);
    assert!(client.verdict_for(&name, &timed, "accept", 1).await);
    bridge.kill();
    assert!(shielded.net.tcp(V4, 443));
    until("the timed accept ends without a bridge", async || {
        !shielded.net.tcp(V4, 80)
    })
    .await;
    assert!(shielded.net.tcp(V4, 443));
}

#[tokio::test]
async fn a_bus_that_is_started_again_finds_the_bridge_and_all_that_was_blocked_meanwhile() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let mut bus = Bus::new();
    let name = shielded.bus_name();
    shielded.net.serve_tcp(443);
    let (bridge, client) = shielded.bridge(&bus, &[]).await;
    assert!(!shielded.net.tcp(V4, 80));
    let before = client.blocked_at(V4, 80).await;
    bus.daemon.kill();
    assert!(!shielded.net.tcp(V4, 443), "blocked while there is no bus");
    bus.restart();
    let client = Client::new(&bus).await;
    client.wait_for_name(&name).await;
    let waits = client.pending(&name).await;
    assert!(waits.contains(&before));
    let meanwhile = waits.iter().find(|w| w.2 == 443).expect("nothing was lost");
    assert!(client.verdict(&name, &meanwhile.5, "accept").await);
    assert!(shielded.net.tcp(V4, 443));
    drop(bridge);
}

#[tokio::test]
async fn a_session_process_that_dies_is_started_again_and_takes_up_what_waited() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let name = shielded.bus_name();
    shielded.net.serve_tcp(443);
    let (bridge, client) = shielded.bridge(&bus, &["--subprocess"]).await;
    assert!(!shielded.net.tcp(V4, 443));
    let blocked = client.blocked_at(V4, 443).await;
    let child =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", bridge.pid())).unwrap();
    let child = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    assert!(!shielded.net.tcp(V4, 443));
    // The verdict waits for the next child.
    assert!(client.verdict(&name, &blocked.5, "accept").await);
    assert!(shielded.net.tcp(V4, 443));
}
