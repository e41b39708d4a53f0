//! Names: an allowed one connects at the first try, another is asked for by name.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use shield::dns;

use crate::skip;
use crate::support::*;

/// A resolver outside: answers for the names that it knows, over UDP and TCP.
struct Resolver {
    address: SocketAddr,
    names: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Resolver {
    fn new(names: &[(&str, &str)]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        let mut map: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for (name, to) in names {
            map.entry((*name).to_owned())
                .or_default()
                .push(to.parse().unwrap());
        }
        let names = Arc::new(Mutex::new(map));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (n, a) = (names.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&answer(&buffer[..length], &n, &a), from);
            }
        });
        let (n, a) = (names.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                use std::io::{Read, Write};
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut query).is_err() {
                    continue;
                }
                let reply = answer(&query, &n, &a);
                let _ = stream.write_all(&(reply.len() as u16).to_be_bytes());
                let _ = stream.write_all(&reply);
            }
        });
        Self {
            address,
            names,
            asked,
        }
    }

    fn option(&self) -> String {
        format!("--resolver={}", self.address)
    }
}

fn answer(
    query: &[u8],
    names: &Mutex<HashMap<String, Vec<IpAddr>>>,
    asked: &Mutex<Vec<String>>,
) -> Vec<u8> {
    let question = dns::question(query).unwrap();
    let name = question.name.clone().unwrap().to_string();
    asked.lock().unwrap().push(name.clone());
    let names = names.lock().unwrap();
    let Some(addresses) = names.get(&name) else {
        return dns::refusal(query, &question, dns::NAME_ERROR);
    };
    let records: Vec<_> = addresses
        .iter()
        .filter(|a| a.is_ipv6() == (question.kind == dns::TYPE_AAAA))
        .map(|a| (name.as_str(), Ok(*a)))
        .collect();
    dns::build::reply(query, &records)
}

/// Looks a name up from inside, at a resolver that is not there: the rules send the question to the bridge.
fn look_up(
    net: &Net,
    name: &str,
    kind: u16,
    server: &'static str,
    tcp: bool,
) -> Option<Vec<IpAddr>> {
    let query = dns::build::query(0x4711, name, kind);
    let reply = inside(net.pid(), move || {
        let to = SocketAddr::new(server.parse().unwrap(), 53);
        if tcp {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(to).ok()?;
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.write_all(&(query.len() as u16).to_be_bytes()).ok()?;
            stream.write_all(&query).ok()?;
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut reply).ok()?;
            return Some(reply);
        }
        let any: IpAddr = if to.is_ipv4() {
            [0; 4].into()
        } else {
            [0u16; 8].into()
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect(to).unwrap();
        // As a resolver in a program does: ask again when nothing comes. That nobody listens is told by an ICMP
        // error, of which the kernel sends only so many.
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(1)))
            .unwrap();
        let mut buffer = [0; 4096];
        let mut length = None;
        for _ in 0..5 {
            socket.send(&query).ok()?;
            match socket.recv(&mut buffer) {
                Ok(received) => {
                    length = Some(received);
                    break;
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        let length = length?;
        Some(buffer[..length].to_vec())
    })?;
    assert_eq!(reply[..2], [0x47, 0x11], "the id is the client's");
    (reply[3] & 0x0f == 0).then(|| dns::addresses(&reply))
}

#[tokio::test]
async fn an_allowed_name_connects_at_the_first_try_and_another_is_asked_for_by_name() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let resolver = Resolver::new(&[
        ("allowed.example", "198.18.0.1"),
        ("below.allowed.example", "198.18.0.2"),
        ("allowed.example", V6),
        ("other.example", V4),
    ]);
    let shielded = Shielded::with("build", &[], "allowed.example\n");
    shielded.net.serve_tcp(443);
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[&resolver.option()]).await;
    let name = shielded.bus_name();
    let net = &shielded.net;

    // Without a look-up, nothing is open.
    assert!(!net.tcp("198.18.0.1", 443));
    client.blocked_at("198.18.0.1", 443).await;
    for (asked, kind, server, tcp) in [
        ("allowed.example", dns::TYPE_A, "198.51.100.53", false),
        ("below.allowed.example", dns::TYPE_A, "198.51.100.53", true),
        ("allowed.example", dns::TYPE_AAAA, "2001:db8::53", false),
    ] {
        let addresses = look_up(net, asked, kind, server, tcp).expect("it is answered");
        assert_eq!(addresses.len(), 1);
        assert!(
            net.tcp(&addresses[0].to_string(), 443),
            "{asked}: not at the first try"
        );
    }
    let addresses = look_up(net, "other.example", dns::TYPE_A, "198.51.100.53", false).unwrap();
    assert!(!net.tcp(&addresses[0].to_string(), 443));
    let blocked = client.blocked_at(V4, 443).await;
    assert_eq!(blocked.4, "other.example");
    assert!(client.verdict(&name, &blocked.5, "accept").await);
    assert!(net.tcp(V4, 443));
}

#[tokio::test]
async fn a_verdict_about_a_name_covers_its_other_addresses_and_what_it_leads_to_later() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let resolver = Resolver::new(&[
        ("cdn.example", "198.18.0.1"),
        ("cdn.example", "198.18.0.2"),
        ("bad.example", "198.18.1.1"),
    ]);
    let shielded = Shielded::new("build");
    shielded.net.serve_tcp(443);
    shielded.net.serve_tcp(80);
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[&resolver.option()]).await;
    let name = shielded.bus_name();
    let net = &shielded.net;
    let dns4 = |asked| look_up(net, asked, dns::TYPE_A, "198.51.100.53", false);

    dns4("cdn.example").unwrap();
    assert!(!net.tcp("198.18.0.1", 443));
    let blocked = client.blocked_at("198.18.0.1", 443).await;
    let scoped = |request: &str, action: &str| {
        (
            request.to_owned(),
            action.to_owned(),
            "domain".to_owned(),
            0u32,
        )
    };
    let ok: bool = client
        .call(
            &name,
            PATH,
            "org.terok.Shield2",
            "VerdictScoped",
            &scoped(&blocked.5, "accept"),
        )
        .await
        .unwrap();
    assert!(ok);
    assert!(net.tcp("198.18.0.1", 443));
    assert!(
        net.tcp("198.18.0.2", 80),
        "an address that was known already"
    );
    resolver
        .names
        .lock()
        .unwrap()
        .insert("cdn.example".into(), vec!["198.18.0.3".parse().unwrap()]);
    dns4("cdn.example").unwrap();
    assert!(
        net.tcp("198.18.0.3", 443),
        "an address that it leads to later"
    );
    let live = std::fs::read_to_string(shielded.state().join("live.domains")).unwrap();
    assert_eq!(live, "cdn.example\n");

    dns4("bad.example").unwrap();
    assert!(!net.tcp("198.18.1.1", 443));
    let blocked = client.blocked_at("198.18.1.1", 443).await;
    let ok: bool = client
        .call(
            &name,
            PATH,
            "org.terok.Shield2",
            "VerdictScoped",
            &scoped(&blocked.5, "deny"),
        )
        .await
        .unwrap();
    assert!(ok);
    let before = resolver.asked.lock().unwrap().len();
    assert_eq!(dns4("bad.example"), None, "a denied name does not exist");
    assert_eq!(dns4("under.bad.example"), None);
    assert_eq!(
        resolver.asked.lock().unwrap().len(),
        before,
        "and nobody is asked"
    );
    assert!(!net.tcp("198.18.1.1", 443));
}

#[tokio::test]
async fn a_name_cannot_open_the_private_network() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let resolver = Resolver::new(&[
        ("rebind.example", "10.0.0.1"),
        ("rebind.example", "198.18.0.1"),
    ]);
    let shielded = Shielded::with("build", &["--ask-private"], "rebind.example\n");
    shielded.net.serve_tcp(443);
    inside_run(
        shielded.net.peer.pid(),
        "ip route add local 10.0.0.0/8 dev lo",
    );
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[&resolver.option()]).await;
    look_up(
        &shielded.net,
        "rebind.example",
        dns::TYPE_A,
        "198.51.100.53",
        false,
    )
    .unwrap();
    assert!(shielded.net.tcp("198.18.0.1", 443));
    assert!(!shielded.net.tcp("10.0.0.1", 443));
    assert_eq!(client.blocked_at("10.0.0.1", 443).await.4, "rebind.example");
}

#[tokio::test]
async fn an_address_of_an_allowed_name_that_was_forgotten_is_opened_again_without_asking() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let resolver = Resolver::new(&[("allowed.example", "198.18.0.1")]);
    let shielded = Shielded::with("build", &[], "allowed.example\n");
    shielded.net.serve_tcp(443);
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[&resolver.option()]).await;
    look_up(
        &shielded.net,
        "allowed.example",
        dns::TYPE_A,
        "198.51.100.53",
        false,
    )
    .unwrap();
    inside_run(
        shielded.net.pid(),
        "nft flush set inet terok_shield named_v4",
    );
    assert!(!shielded.net.tcp("198.18.0.1", 443));
    until("it is open again", async || {
        shielded.net.tcp("198.18.0.1", 443)
    })
    .await;
    assert!(client.pending(&shielded.bus_name()).await.is_empty());
}

#[tokio::test]
async fn when_nobody_answers_a_question_fails_and_when_the_bridge_is_gone_nothing_gets_out() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let shielded = Shielded::new("build");
    let bus = Bus::new();
    // Nobody listens on the discard port.
    let (mut bridge, _client) = shielded.bridge(&bus, &["--resolver=127.0.0.1:9"]).await;
    let net = &shielded.net;
    assert_eq!(
        look_up(net, "any.example", dns::TYPE_A, "198.51.100.53", false),
        None
    );
    bridge.kill();
    let before = net.arrived();
    assert_eq!(
        look_up(net, "any.example", dns::TYPE_A, "198.51.100.53", false),
        None
    );
    assert_eq!(net.arrived(), before, "a question got out");
}

#[tokio::test]
async fn a_container_with_a_resolver_of_its_own_is_served_names_when_that_lets_go() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let resolver = Resolver::new(&[("allowed.example", "198.18.0.1")]);
    let shielded = Shielded::with("build", &[], "allowed.example\n");
    shielded.net.serve_tcp(443);
    let own = inside(shielded.net.pid(), || {
        UdpSocket::bind("127.0.0.1:53").unwrap()
    });
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[&resolver.option()]).await;
    assert!(!shielded.net.tcp(V4, 443));
    client.blocked_at(V4, 443).await;
    drop(own);
    until("names are served", async || {
        look_up(
            &shielded.net,
            "allowed.example",
            dns::TYPE_A,
            "198.51.100.53",
            false,
        )
        .is_some()
    })
    .await;
    assert!(shielded.net.tcp("198.18.0.1", 443));
}

#[tokio::test]
async fn a_new_profile_holds_for_names_without_a_restart() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let resolver = Resolver::new(&[("late.example", "198.18.0.1")]);
    let shielded = Shielded::new("build");
    shielded.net.serve_tcp(443);
    let bus = Bus::new();
    let (_bridge, client) = shielded.bridge(&bus, &[&resolver.option()]).await;
    let look = || {
        look_up(
            &shielded.net,
            "late.example",
            dns::TYPE_A,
            "198.51.100.53",
            false,
        )
        .unwrap()
    };
    look();
    assert!(!shielded.net.tcp("198.18.0.1", 443));
    assert_eq!(client.blocked_at("198.18.0.1", 443).await.4, "late.example");
    std::fs::write(shielded.dir.path().join("profile"), "late.example\n").unwrap();
    shielded.up(&[]);
    until("the new profile holds", async || {
        look();
        shielded.net.tcp("198.18.0.1", 443)
    })
    .await;
}
