//! `sidebus-broker status`.

use testbed::{needs, run_to_end, tools};

use crate::rig::{Rig, Transport};

#[test]
fn the_status_tells_of_the_agent_and_of_each_program() {
    let rig = Rig::start();
    let mut guest = rig.guest();
    guest.list_names();
    rig.wait_for_status("the messages to be counted", |status| {
        status
            .clients
            .first()
            .is_some_and(|client| client.messages_out >= 3)
    });
    let status = rig.status();
    assert_eq!(status.vm, "one");
    let agent = status.agent.clone().unwrap();
    assert_eq!(agent.state, "answers");
    assert_eq!(agent.version, env!("CARGO_PKG_VERSION"));
    let [client] = &status.clients[..] else {
        panic!("one client: {status}");
    };
    assert_eq!(client.name.as_deref(), Some(guest.unique_name()));
    assert_eq!(client.pid, Some(std::process::id()));
    assert_eq!(client.uid, rustix::process::getuid().as_raw());
    assert_eq!(client.messages_in, 2);
    let text = status.to_string();
    assert!(
        text.contains(guest.unique_name()) && text.contains("answers"),
        "{text}"
    );
}

#[test]
fn a_broker_is_found_by_its_machines_name_and_by_its_directory() {
    let rig = Rig::start();
    let ask = |arguments: &[&str]| {
        let mut command = rig.command(env!("CARGO_BIN_EXE_sidebus-broker"));
        command.arg("status").args(arguments);
        run_to_end(command, testbed::deadline::LIMIT).unwrap()
    };
    let by_name = ask(&["--vm", "one"]).success();
    assert!(by_name.starts_with("one: broker"), "{by_name}");
    let dir = rig.dir.join("vm").display().to_string();
    let by_directory = ask(&["--runtime-dir", &dir]).success();
    assert!(by_directory.starts_with("one: broker"), "{by_directory}");
    let other = ask(&["--vm", "two"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        other
            .both()
            .contains("no broker of this user runs for a machine called two")
    );
}

#[test]
fn a_broker_that_has_ended_leaves_no_socket_and_is_not_found() {
    let mut rig = Rig::new(Transport::Plain, "");
    rig.start_broker();
    let status = rig.broker.take().and_then(|mut broker| broker.end());
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    for file in [
        "vsock",
        "vm/status.sock",
        "debug/vm.sock",
        "runtime/sidebus/brokers/one",
    ] {
        assert!(
            std::fs::symlink_metadata(rig.dir.join(file)).is_err(),
            "{file}"
        );
    }
    let mut command = rig.command(env!("CARGO_BIN_EXE_sidebus-broker"));
    command.arg("status");
    let output = run_to_end(command, testbed::deadline::LIMIT).unwrap();
    assert!(
        output.both().contains("no broker of this user runs"),
        "{}",
        output.both()
    );
}

#[test]
fn systemd_passes_the_sockets_and_the_credential() {
    needs!(tools::SOCKET_ACTIVATE);
    let mut rig = Rig::new(Transport::Hybrid, "");
    rig.start_broker();
    let mut command = rig.command("systemd-socket-activate");
    command
        .arg("--listen")
        .arg(rig.dir.join("guest-bus"))
        .arg(env!("CARGO_BIN_EXE_sidebus-agent"))
        .arg("--connect")
        .arg(&rig.connect);
    let activate = testbed::Process::start(command, "activate", &rig.dir.join("logs")).unwrap();
    let deadline = testbed::Deadline::usual();
    while !rig.dir.join("guest-bus").exists() {
        assert!(!deadline.left().is_zero(), "{}", activate.log());
        std::thread::yield_now();
    }
    let mut guest = rig.guest();
    assert!(!guest.list_names().is_empty());
    rig.agent = Some(activate);
}

#[test]
fn a_wrong_command_line_is_answered_with_the_remedy() {
    let rig = Rig::new(Transport::Plain, "");
    let dir = rig.dir.join("vm").display().to_string();
    let broker = env!("CARGO_BIN_EXE_sidebus-broker");
    let agent = env!("CARGO_BIN_EXE_sidebus-agent");
    for (program, arguments, remedy) in [
        (
            broker,
            vec!["--vm", "one", "--runtime-dir", &dir, "--bus-only"],
            "--vsock-path PATH",
        ),
        (
            broker,
            vec![
                "--vm",
                "one",
                "--runtime-dir",
                &dir,
                "--vsock-port",
                "7",
                "--config",
                "/nowhere",
            ],
            "/nowhere",
        ),
        (agent, vec!["--listen", "/nowhere/bus"], "sidebus.port"),
        (
            agent,
            vec!["--listen", "/nowhere/bus", "--port", "7"],
            "is its directory there?",
        ),
        (agent, vec!["--port", "7"], "--listen PATH"),
    ] {
        let mut command = rig.command(program);
        command.args(&arguments);
        let output = run_to_end(command, testbed::deadline::LIMIT).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            output.both().contains(remedy),
            "{arguments:?}: {}",
            output.both()
        );
    }
}
