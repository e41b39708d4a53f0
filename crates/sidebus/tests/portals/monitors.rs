//! What the host's state is, and who asks for more of it: network, proxies, power, memory, games.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use zbus::connection::Builder;
use zbus::interface;

use crate::backend::{Value, entry};
use crate::desktop::Desktop;
use crate::machine::Machine;
use crate::{needs_portals, run};

#[test]
fn the_hosts_network_proxies_and_power_are_shown() {
    needs_portals!();
    run(async {
        let machine = Machine::start().await;
        let client = machine.client().await;
        for portal in [
            "NetworkMonitor",
            "ProxyResolver",
            "PowerProfileMonitor",
            "MemoryMonitor",
        ] {
            let version = client.property(portal, "version").await;
            assert!(
                matches!(version, Ok(Value::U32(1..))),
                "{portal}: {version:?}"
            );
        }
        let status = client
            .call("NetworkMonitor", "GetStatus", Vec::new())
            .await
            .expect("an answer");
        assert!(matches!(
            entry(&status[0], "available"),
            Some(Value::Bool(_))
        ));
        for method in ["GetAvailable", "GetMetered"] {
            let answer = client.call("NetworkMonitor", method, Vec::new()).await;
            assert!(matches!(answer.expect("an answer")[..], [Value::Bool(_)]));
        }
        let connectivity = client
            .call("NetworkMonitor", "GetConnectivity", Vec::new())
            .await;
        assert!(matches!(
            connectivity.expect("an answer")[..],
            [Value::U32(1..=4)]
        ));
        let reachable = client
            .call(
                "NetworkMonitor",
                "CanReach",
                vec![Value::from("127.0.0.1"), Value::from(9u32)],
            )
            .await;
        // Whether it is depends on the network of whoever runs this.
        match reachable {
            Ok(answer) => assert!(matches!(answer[..], [Value::Bool(_)])),
            Err(error) => assert!(!error.0.starts_with("org.freedesktop.DBus"), "{error:?}"),
        }
        let proxies = client
            .call(
                "ProxyResolver",
                "Lookup",
                vec![Value::from("https://example.org/")],
            )
            .await
            .expect("an answer");
        assert_eq!(proxies, [Value::from(vec!["direct://"])]);
        let saving = client
            .property("PowerProfileMonitor", "power-saver-enabled")
            .await;
        assert_eq!(saving, Ok(Value::from(false)));
        machine.stop().await;
    });
}

/// The daemon that speeds games up: it knows the process that is registered.
struct GameMode(Arc<AtomicI32>);

#[interface(name = "com.feralinteractive.GameMode")]
impl GameMode {
    fn query_status(&self, pid: i32) -> i32 {
        match self.0.load(Ordering::SeqCst) {
            0 => 0,
            game if game == pid => 2,
            _ => 1,
        }
    }

    fn query_status_by_pid(&self, target: i32, _requester: i32) -> i32 {
        self.query_status(target)
    }

    #[zbus(name = "QueryStatusByPIDFd")]
    fn query_status_by_pidfd(&self, _target: zbus::OwnedFd, _requester: zbus::OwnedFd) -> i32 {
        self.query_status(0)
    }

    fn register_game(&self, pid: i32) -> i32 {
        match self
            .0
            .compare_exchange(0, pid, Ordering::SeqCst, Ordering::SeqCst)
        {
            Ok(_) => 0,
            Err(_) => -1,
        }
    }

    fn register_game_by_pid(&self, target: i32, _requester: i32) -> i32 {
        self.register_game(target)
    }

    fn unregister_game(&self, pid: i32) -> i32 {
        match self
            .0
            .compare_exchange(pid, 0, Ordering::SeqCst, Ordering::SeqCst)
        {
            Ok(_) => 0,
            Err(_) => -1,
        }
    }

    fn unregister_game_by_pid(&self, target: i32, _requester: i32) -> i32 {
        self.unregister_game(target)
    }
}

#[test]
fn a_game_of_the_guest_is_the_brokers_to_the_host() {
    needs_portals!();
    run(async {
        let desktop = Desktop::start().await;
        let game = Arc::new(AtomicI32::new(0));
        let daemon = Builder::address(desktop.bus.address())
            .serve_at("/com/feralinteractive/GameMode", GameMode(game.clone()))
            .name("com.feralinteractive.GameMode")
            .build()
            .await
            .expect("a daemon on the host's bus");
        let machine = Machine::in_desktop(desktop, "").await;
        let (client, other) = (machine.client().await, machine.client().await);
        let call = |client: &crate::client::Client, method: &'static str, pid: i32| {
            let connection = client.connection.clone();
            async move {
                let answer = connection
                    .call_method(
                        Some(crate::client::DESKTOP),
                        crate::client::PATH,
                        Some("org.freedesktop.portal.GameMode"),
                        method,
                        &(pid,),
                    )
                    .await
                    .unwrap_or_else(|error| panic!("{method}: {error}"));
                answer.body().deserialize::<i32>().expect("a number")
            }
        };
        let ours = i32::try_from(std::process::id()).expect("a process");
        assert_eq!(call(&client, "QueryStatus", 4321).await, 0);
        assert_eq!(call(&client, "RegisterGame", 4321).await, 0);
        assert_eq!(
            game.load(Ordering::SeqCst),
            ours,
            "the guest's process is none of the host's"
        );
        assert_eq!(call(&other, "RegisterGame", 4321).await, 0);
        assert_eq!(call(&client, "RegisterGame", 4321).await, -1);
        assert_eq!(call(&client, "QueryStatus", 4321).await, 2);
        assert_eq!(call(&client, "QueryStatus", 1).await, 1);
        assert_eq!(call(&client, "UnregisterGame", 4321).await, 0);
        assert_eq!(game.load(Ordering::SeqCst), ours, "one plays on");
        other.connection.close().await.expect("it goes");
        // What is left of it on the host goes after it.
        while game.load(Ordering::SeqCst) != 0 {
            tokio::task::yield_now().await;
        }
        drop(daemon);
        machine.stop().await;
    });
}
