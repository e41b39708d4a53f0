//! One of the two is killed, or started again, or what is between them is cut.

use std::io::{Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use dbus_wire::Body;
use rustix::process::Signal;
use testbed::raw_client::{call, driver_call};
use testbed::{Deadline, RawClient};

use crate::rig::{Rig, SERVICE, Transport};

/// Kills a process and waits for it.
fn kill(process: Option<testbed::Process>) {
    let mut process = process.expect("it runs");
    process.signal(Signal::KILL);
    assert!(process.wait(Deadline::usual()).is_some());
}

/// Calls the service until it is there again.
fn ask(service: &mut RawClient, caller: &mut RawClient) {
    let serial = caller.send(call(SERVICE, "/a", "org.example.A", "Ask"));
    let asked = service.expect_call("Ask");
    service.answer(&asked, &Body::new());
    caller.expect_reply(serial).returned();
}

#[test]
fn an_agent_that_is_killed_takes_its_programs_along_and_the_next_one_serves_new_ones() {
    let mut rig = Rig::start();
    let (mut service, mut guest) = rig.pair(false);
    let name = guest.unique_name().to_owned();
    service.add_match("type='signal',member='NameOwnerChanged'");
    kill(rig.agent.take());
    guest.expect_closed();
    service.expect("the guest's end", |message| {
        message.is_signal("org.freedesktop.DBus", "NameOwnerChanged")
            && message.strings() == [&name, &name, ""]
    });
    rig.wait_for_status("the agent's end", |status| {
        status.clients.is_empty() && status.agent.as_ref().is_some_and(|it| it.state == "away")
    });
    rig.start_agent();
    let mut guest = rig.guest();
    ask(&mut service, &mut guest);
}

#[test]
fn a_broker_that_is_killed_closes_the_programs_and_they_find_the_next_one() {
    let mut rig = Rig::start();
    let mut guest = rig.guest();
    kill(rig.broker.take());
    guest.expect_closed();
    rig.start_broker();
    let (mut service, mut guest) = rig.pair(false);
    ask(&mut service, &mut guest);
}

#[test]
fn a_broker_that_ends_says_so_and_the_agent_waits_for_the_next_one() {
    let mut rig = Rig::start();
    let mut guest = rig.guest();
    let status = rig.broker.take().and_then(|mut broker| broker.end());
    assert!(status.is_some_and(|status| status.success()));
    guest.expect_closed();
    // A program that comes meanwhile waits for it.
    let mut waiting = RawClient::connect(&rig.guest_address());
    waiting.authenticate();
    let hello = waiting.send(driver_call("Hello", &Body::new()));
    rig.start_broker();
    waiting.expect_reply(hello).returned();
}

#[test]
fn an_agent_without_a_broker_tells_programs_why_it_cannot_serve_them() {
    let mut rig = Rig::new(Transport::Plain, "");
    rig.start_agent_alone();
    let mut guest = RawClient::connect(&rig.guest_address());
    guest.authenticate();
    let serial = guest.send(driver_call("Hello", &Body::new()));
    let reply = guest.expect_reply(serial);
    assert!(
        reply
            .text()
            .contains("sidebus-broker on the host cannot be reached"),
        "{reply}"
    );
    assert_eq!(reply.failed(), "org.freedesktop.DBus.Error.NoServer");
    guest.expect_closed();
}

#[test]
fn a_guest_that_stands_still_for_a_while_goes_on_where_it_was() {
    let rig = Rig::start();
    let (mut service, mut guest) = rig.pair(false);
    let agent = rig.agent.as_ref().unwrap();
    agent.signal(Signal::STOP);
    let serial = guest.send(call(SERVICE, "/a", "org.example.A", "Ask"));
    // The broker serves others meanwhile, and ends nobody.
    assert!(!service.list_names().is_empty());
    assert_eq!(rig.status().clients.len(), 1);
    agent.signal(Signal::CONT);
    let asked = service.expect_call("Ask");
    service.answer(&asked, &Body::new());
    guest.expect_reply(serial).returned();
}

#[test]
fn a_second_agent_is_refused_while_the_first_one_answers_and_takes_over_when_it_does_not() {
    let rig = Rig::start();
    let mut first = rig.guest();
    let second = || {
        let mut command = rig.command(env!("CARGO_BIN_EXE_sidebus-agent"));
        command
            .args(["-vv", "--listen"])
            .arg(rig.dir.join("second-bus"));
        command.arg("--connect").arg(&rig.connect);
        testbed::Process::start_reading_both(command, "second", &rig.dir.join("logs")).unwrap()
    };
    let (mut process, mut said) = second();
    said.expect_line("that it is refused", |line| {
        line.contains("another agent is connected, and answers")
    });
    assert!(!first.list_names().is_empty());
    // The first one stands still: it is taken for dead when somebody else wants its place, and only then.
    rig.agent.as_ref().unwrap().signal(Signal::STOP);
    said.expect_line("that it is connected", |line| {
        line.contains("connected to the broker")
    });
    rig.wait_for_status("the programs of the first to go", |status| {
        status.clients.is_empty()
    });
    rig.agent.as_ref().unwrap().signal(Signal::CONT);
    first.expect_closed();
    process.end();
}

// ---- what is between them is cut -------------------------------------------------------------------

/// Stands between agent and broker, and can cut connections.
struct Cutter {
    agents: Arc<Mutex<Vec<UnixStream>>>,
}

impl Cutter {
    /// For `rig`, whose agent has still to be started. A connection is cut after as many bytes of the agent as `limit`
    /// says for its number (from 0).
    fn start(rig: &mut Rig, limit: impl Fn(usize) -> Option<usize> + Send + 'static) -> Cutter {
        let broker = std::mem::replace(&mut rig.connect, rig.dir.join("cutter"));
        let listener = UnixListener::bind(&rig.connect).unwrap();
        let agents: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let seen = agents.clone();
        std::thread::spawn(move || {
            for (number, agent) in listener.incoming().enumerate() {
                let agent = agent.unwrap();
                seen.lock().unwrap().push(agent.try_clone().unwrap());
                let Ok(broker) = UnixStream::connect(&broker) else {
                    continue;
                };
                let limit = limit(number);
                let copies = (agent.try_clone().unwrap(), broker.try_clone().unwrap());
                std::thread::spawn(move || pass(agent, broker, limit));
                std::thread::spawn(move || pass(copies.1, copies.0, None));
            }
        });
        Cutter { agents }
    }

    /// Cuts the connection with this number.
    fn cut(&self, number: usize) {
        let agents = self.agents.lock().unwrap();
        agents[number].shutdown(std::net::Shutdown::Both).unwrap();
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, mut left: Option<usize>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let count = left.map_or(count, |left| left.min(count));
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        if let Some(left) = &mut left {
            *left -= count;
            if *left == 0 {
                break;
            }
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

#[test]
fn a_connection_cut_in_mid_message_ends_one_program_and_no_other() {
    // The first connection is the control's, the next two are of programs; the second of them ends in a message.
    let mut rig = Rig::new(Transport::Plain, "");
    rig.start_broker();
    Cutter::start(&mut rig, |number| (number == 2).then_some(60_000));
    rig.start_agent();
    let (mut service, mut first) = rig.pair(false);
    let mut second = rig.guest();
    let body = Body::new().bytes(&vec![0; 100_000]);
    second.send(call(SERVICE, "/a", "org.example.A", "Take").body(&body));
    second.expect_closed();
    rig.wait_for_status("it to go", |status| status.clients.len() == 1);
    ask(&mut service, &mut first);
    assert!(
        service
            .all_so_far()
            .iter()
            .all(|message| !message.is_call("Take"))
    );
}

#[test]
fn a_connection_cut_anywhere_in_its_opening_leaves_nothing_behind() {
    let mut rig = Rig::new(Transport::Plain, "");
    rig.start_broker();
    // Each connection after the control's is cut one step later; a program tries again until one is not cut.
    Cutter::start(&mut rig, |number| {
        (1..12).contains(&number).then_some(number * 7)
    });
    rig.start_agent();
    let mut guest = rig.guest();
    assert!(!guest.list_names().is_empty());
    rig.wait_for_status("one program", |status| status.clients.len() == 1);
}

#[test]
fn a_control_connection_that_was_cut_comes_back_with_its_session() {
    let mut rig = Rig::new(Transport::Plain, "");
    rig.start_broker();
    let cutter = Cutter::start(&mut rig, |_| None);
    rig.start_agent();
    let (mut service, mut guest) = rig.pair(false);
    cutter.cut(0);
    let resumed = |rig: &Rig| {
        let log = rig.broker.as_ref().unwrap().log();
        log.contains("the agent goes on with its session")
    };
    let deadline = Deadline::usual();
    while !resumed(&rig) {
        assert!(
            !deadline.left().is_zero(),
            "awaited that the agent comes back"
        );
        std::thread::yield_now();
    }
    rig.wait_for_status("the agent to answer", |status| {
        status
            .agent
            .as_ref()
            .is_some_and(|agent| agent.state == "answers")
    });
    // Nobody has noticed, and new programs are served.
    ask(&mut service, &mut guest);
    ask(&mut service, &mut rig.guest());
}

#[test]
fn a_stream_that_is_cut_ends_the_pipe() {
    let mut rig = Rig::new(Transport::Plain, "");
    rig.start_broker();
    let cutter = Cutter::start(&mut rig, |_| None);
    rig.start_agent();
    let (mut service, mut guest) = rig.pair(false);
    let (reader, writer) = pipe().unwrap();
    let body = Body::new().unix_fd(0);
    let take = call(SERVICE, "/a", "org.example.A", "Take")
        .body(&body)
        .unix_fds(1);
    guest.send_with_fds(take, &[reader.as_fd()]);
    drop(reader);
    let mut taken = service.expect_call("Take");
    // The control connection, the program's, and then the stream.
    cutter.cut(2);
    let mut arrived = std::io::PipeReader::from(taken.fds.remove(0));
    let deadline = Deadline::usual();
    assert!(deadline.wait_readable(&[arrived.as_fd()]).is_some());
    assert_eq!(arrived.read(&mut [0; 8]).unwrap(), 0);
    drop(writer);
    // And nothing else.
    ask(&mut service, &mut guest);
}
