//! A flood and a scan: nothing leaks, each destination is told once, losses are counted exactly.

use std::collections::HashMap;
use std::time::Duration;

use crate::skip;
use crate::support::*;

/// What was told, and what was lost, until nothing more comes.
async fn collect(
    client: &Client,
    done: impl Fn(usize, u64) -> bool,
) -> (HashMap<(String, u16), usize>, u64) {
    let mut told: HashMap<(String, u16), usize> = HashMap::new();
    let mut lost = 0u64;
    while !done(told.len(), lost) {
        let message = client.signal().await;
        let body = message.body();
        match message.header().member().map(|m| m.to_string()).as_deref() {
            Some("ConnectionBlocked") => {
                let (_, dest, port, ..) = body.deserialize::<Blocked>().unwrap();
                *told.entry((dest, port)).or_default() += 1;
            }
            Some("EventsLost") => lost += u64::from(body.deserialize::<(String, u32)>().unwrap().1),
            _ => {}
        }
    }
    (told, lost)
}

/// The process's memory that is its own, in KiB.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_one_event_for_each_destination_and_window_and_leaks_nothing() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let (bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    let before = shielded.net.arrived();
    let memory_before = memory(bridge.pid());
    let pid = shielded.net.pid();
    let flood = tokio::task::spawn_blocking(move || {
        inside(pid, || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            let start = std::time::Instant::now();
            for n in 0..400_000u32 {
                let to = std::net::Ipv4Addr::new(198, 18, 0, (n % 200) as u8);
                let _ = socket.send_to(b"x", (to, 9));
            }
            start.elapsed()
        })
    });
    let (told, _) = collect(&client, |told, _| told >= 200).await;
    // Verdicts are answered while it goes on.
    let ask = client.pending(&name).await[0].clone();
    assert!(client.verdict(&name, &ask.5, "deny").await);
    let took = flood.await.unwrap();
    assert_eq!(shielded.net.arrived(), before, "a packet came out");
    let windows = took.as_secs() as usize / 5 + 1;
    assert_eq!(told.len(), 200);
    assert!(told.values().all(|n| *n <= windows), "{told:?} in {took:?}");
    assert!(
        memory(bridge.pid()) < memory_before + 8 * 1024,
        "memory grew"
    );
    // Nothing was lost: all that is told from now on is what a new window tells.
    assert!(!shielded.audit().contains("\"action\":\"lost\""));
    let pending = client.pending(&name).await;
    assert_eq!(pending.len(), 199);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_scan_each_destination_is_told_or_counted_as_lost_and_none_leaks() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    const DESTINATIONS: u64 = 60_000;
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let (bridge, client) = shielded.bridge(&bus, &[]).await;
    let name = shielded.bus_name();
    let before = shielded.net.arrived();
    let pid = shielded.net.pid();
    let scan = tokio::task::spawn_blocking(move || {
        inside(pid, || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            for n in 0..DESTINATIONS as u32 {
                let to = std::net::Ipv4Addr::from(0xc612_0000 + n);
                // What is refused is refused at once: the call fails.
                let _ = socket.send_to(b"x", (to, 9));
            }
        })
    });
    let (told, lost) = collect(&client, |told, lost| told as u64 + lost >= DESTINATIONS).await;
    scan.await.unwrap();
    assert_eq!(shielded.net.arrived(), before, "a packet came out");
    assert!(told.values().all(|n| *n == 1));
    eprintln!("scan: {} told, {lost} counted as lost", told.len());
    assert_eq!(
        told.len() as u64 + lost,
        DESTINATIONS,
        "each is told or counted"
    );
    assert!(client.pending(&name).await.len() <= 4096);
    assert!(memory(bridge.pid()) < 64 * 1024, "memory grew");
}

#[tokio::test]
async fn a_container_that_tries_again_and_again_is_told_once_in_a_window_under_one_number() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let start = std::time::Instant::now();
    assert!(!shielded.net.tcp(V4, 443));
    let first = client.blocked_at(V4, 443).await;
    let mut told = 1;
    let again = loop {
        let _ = shielded.net.tcp(V4, 443);
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Ok(again) =
            tokio::time::timeout(Duration::from_millis(1), client.blocked_at(V4, 443)).await
        {
            told += 1;
            break again;
        }
        assert!(start.elapsed() < LIMIT);
    };
    assert_eq!(first, again);
    assert_eq!(told, 2);
    assert!(
        start.elapsed() > Duration::from_secs(4),
        "told twice within a window"
    );
    assert_eq!(client.pending(&shielded.bus_name()).await.len(), 1);
}
