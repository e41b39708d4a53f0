//! What a guest may use, and what it is told when it wants more.

use std::io::{Read, pipe};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use dbus_wire::{Body, Builder};
use testbed::RawClient;
use testbed::raw_client::{call, driver_call};

use crate::rig::{Rig, SERVICE, Transport};

const LIMITS_EXCEEDED: &str = "org.freedesktop.DBus.Error.LimitsExceeded";

#[test]
fn two_hundred_programs_are_on_the_bus_at_once() {
    let rig = Rig::start();
    let mut service = rig.service();
    let mut guests: Vec<RawClient> = (0..200).map(|_| rig.guest()).collect();
    let serials: Vec<u32> = guests
        .iter_mut()
        .map(|guest| guest.send(call(SERVICE, "/a", "org.example.A", "Ask")))
        .collect();
    for _ in &guests {
        let asked = service.expect_call("Ask");
        service.answer(&asked, &Body::new().str(asked.sender()));
    }
    for (guest, serial) in guests.iter_mut().zip(serials) {
        let reply = guest.expect_reply(serial).returned();
        assert_eq!(reply.text(), guest.unique_name());
    }
    assert_eq!(rig.status().clients.len(), 200);
    drop(guests);
    rig.wait_for_status("all to go", |status| status.clients.is_empty());
}

#[test]
fn one_program_more_than_there_may_be_is_told_so() {
    let rig = Rig::start_with(Transport::Hybrid, "[limits]\nclients = 3\n");
    let guests: Vec<RawClient> = (0..3).map(|_| rig.guest()).collect();
    let mut late = RawClient::connect(&rig.guest_address());
    late.authenticate();
    let serial = late.send(driver_call("Hello", &Body::new()));
    let reply = late.expect_reply(serial);
    assert!(reply.text().contains("3 programs"), "{reply}");
    assert_eq!(reply.failed(), LIMITS_EXCEEDED);
    late.expect_closed();
    drop(guests);
    rig.wait_for_status("all to go", |status| status.clients.is_empty());
    rig.guest();
}

#[test]
fn a_message_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let rig = Rig::start_with(Transport::Hybrid, "[limits]\nmessage_bytes = 100000\n");
    for service_in_guest in [false, true] {
        let (mut service, mut caller) = rig.pair(service_in_guest);
        let body = Body::new().bytes(&vec![0; 200_000]);
        let reply = caller.call(call(SERVICE, "/a", "org.example.A", "Take").body(&body));
        assert!(reply.text().contains("100000"), "{reply}");
        assert_eq!(reply.failed(), LIMITS_EXCEEDED);
        let serial = caller.send(call(SERVICE, "/a", "org.example.A", "Ask"));
        let asked = service.expect_call("Ask");
        service.answer(&asked, &Body::new());
        caller.expect_reply(serial).returned();
        service.release_name(SERVICE);
    }
}

#[test]
fn too_many_descriptors_with_a_message_are_refused() {
    let rig = Rig::start_with(Transport::Hybrid, "[limits]\nfds_per_message = 2\n");
    let (mut service, mut caller) = rig.pair(false);
    let (reader, _writer) = pipe().unwrap();
    let body = Body::new().unix_fd(0);
    let take = || call(SERVICE, "/a", "org.example.A", "Take").body(&body);
    let reply = caller.call_with_fds(take().unix_fds(3), &[reader.as_fd(); 3]);
    assert_eq!(reply.failed(), LIMITS_EXCEEDED);
    caller.send_with_fds(take().unix_fds(2), &[reader.as_fd(); 2]);
    assert_eq!(service.expect_call("Take").fds.len(), 2);
}

#[test]
fn a_program_with_too_many_streams_gets_no_more_until_one_ends() {
    let config = "[limits]\nstreams_per_client = 3\n";
    let rig = Rig::start_with(Transport::Hybrid, config);
    for service_in_guest in [false, true] {
        let (mut service, mut caller) = rig.pair(service_in_guest);
        let body = Body::new().unix_fd(0);
        let take = || {
            call(SERVICE, "/a", "org.example.A", "Take")
                .body(&body)
                .unix_fds(1)
        };
        let mut pipes = Vec::new();
        for _ in 0..3 {
            let (reader, writer) = pipe().unwrap();
            caller.send_with_fds(take(), &[reader.as_fd()]);
            pipes.push((writer, service.expect_call("Take")));
        }
        let (reader, _writer) = pipe().unwrap();
        let reply = caller.call_with_fds(take(), &[reader.as_fd()]);
        assert_eq!(reply.failed(), LIMITS_EXCEEDED);
        pipes.pop();
        rig.wait_for_status("a stream to end", |status| {
            status
                .clients
                .iter()
                .map(|client| client.streams)
                .sum::<usize>()
                < 3
        });
        caller.send_with_fds(take(), &[reader.as_fd()]);
        service.expect_call("Take");
        service.release_name(SERVICE);
        drop((service, caller, pipes));
        rig.wait_for_status("all to go", |status| status.clients.is_empty());
    }
}

#[test]
fn a_guest_that_does_not_read_holds_up_nobody_else() {
    let config = "[limits]\nqueued_bytes = 1000000\n";
    let rig = Rig::start_with(Transport::Hybrid, config);
    let mut service = rig.service();
    let mut deaf = rig.guest();
    deaf.add_match("type='signal',interface='org.example.A'");
    let name = deaf.unique_name().to_owned();
    let mut hears = rig.guest();
    hears.add_match("type='signal',interface='org.example.B'");
    // More than fits in all queues on the way to it.
    let body = Body::new().bytes(&vec![0; 100_000]);
    let gone = Body::new().str(&name);
    let deadline = testbed::Deadline::usual();
    while service
        .call_driver("NameHasOwner", &gone)
        .reader()
        .boolean()
        .unwrap()
    {
        assert!(
            !deadline.left().is_zero(),
            "awaited the end of who does not read"
        );
        service.send(Builder::signal("/a", "org.example.A", "Flood").body(&body));
    }
    service.send(Builder::signal("/a", "org.example.B", "News"));
    hears.expect_signal("org.example.B", "News");
    rig.wait_for_status("it to go", |status| status.clients.len() == 1);
}

#[test]
fn calls_to_a_guest_that_does_not_read_are_refused_when_its_queue_is_full() {
    let config = "[limits]\nqueued_bytes = 1000000\n";
    let rig = Rig::start_with(Transport::Hybrid, config);
    let deaf = rig.guest();
    let name = deaf.unique_name().to_owned();
    let mut host = rig.host();
    let body = Body::new().bytes(&vec![0; 100_000]);
    let deadline = testbed::Deadline::usual();
    let refused = loop {
        assert!(!deadline.left().is_zero(), "awaited a refusal");
        host.send(call(&name, "/a", "org.example.A", "Flood").body(&body));
        host.call_driver("GetId", &Body::new());
        let replies = host.all_so_far();
        if let Some(reply) = replies
            .into_iter()
            .find(|reply| reply.error_name().is_some())
        {
            break reply.failed();
        }
    };
    assert_eq!(refused, LIMITS_EXCEEDED);
    assert!(!host.list_names().is_empty());
}

#[test]
fn a_program_with_too_many_calls_that_wait_is_told_so() {
    let rig = Rig::start_with(Transport::Hybrid, "[limits]\ncalls_per_client = 5\n");
    let (_silent, mut guest) = rig.pair(false);
    let serials: Vec<u32> = (0..6)
        .map(|_| guest.send(call(SERVICE, "/a", "org.example.A", "Wait")))
        .collect();
    let refused = guest.expect_reply(serials[5]);
    assert_eq!(refused.failed(), LIMITS_EXCEEDED);
    // Questions to the bus itself are still answered.
    assert!(!guest.list_names().is_empty());
}

#[test]
fn files_take_room_for_as_long_as_somebody_has_them_open() {
    let rig = Rig::start_with(Transport::Hybrid, "[limits]\nfile_bytes = 4000000\n");
    let (mut service, mut guest) = rig.pair(false);
    let file = std::fs::File::open(rig.dir.write("file", vec![1; 1_000_000])).unwrap();
    let body = Body::new().unix_fd(0);
    let take = || call(SERVICE, "/a", "org.example.A", "Take").body(&body);
    let pass = |guest: &mut RawClient| guest.send_with_fds(take().unix_fds(1), &[file.as_fd()]);
    // One program may have half of it.
    let mut kept = Vec::new();
    for _ in 0..2 {
        pass(&mut guest);
        kept.push(service.expect_call("Take"));
    }
    let serial = pass(&mut guest);
    assert_eq!(guest.expect_reply(serial).failed(), LIMITS_EXCEEDED);
    // What waits for room gets it as soon as somebody has closed a file, whatever has become of who sent it.
    pass(&mut guest);
    kept.pop();
    service.expect_call("Take");
    let mut other = rig.guest();
    pass(&mut other);
    service.expect_call("Take");
}

#[test]
fn connections_that_say_nothing_give_way_to_those_that_do() {
    let rig = Rig::start_with(Transport::Hybrid, "[limits]\nunopened_connections = 4\n");
    let silent: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(&rig.connect).unwrap())
        .collect();
    for mut stream in &silent[..16] {
        let deadline = testbed::Deadline::usual();
        assert!(deadline.wait_readable(&[stream.as_fd()]).is_some());
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "it was closed");
    }
    let mut guest = rig.guest();
    assert!(!guest.list_names().is_empty());
    assert_eq!(rig.status().agent.unwrap().state, "answers");
}
