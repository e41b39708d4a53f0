//! The four rules for file descriptors, in both directions.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, SeekFrom, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use dbus_wire::Body;
use rustix::fs::{Mode, OFlags, SealFlags};
use testbed::raw_client::call;
use testbed::{Deadline, RawClient, Received};

use crate::rig::{Rig, SERVICE};

const NOT_SUPPORTED: &str = "org.freedesktop.DBus.Error.NotSupported";

/// Passes descriptors to the service; gives what arrived there.
fn pass(
    service: &mut RawClient,
    caller: &mut RawClient,
    fds: &[BorrowedFd<'_>],
) -> (u32, Received) {
    let body = fds
        .iter()
        .enumerate()
        .fold(Body::new(), |body, (index, _)| body.unix_fd(index as u32));
    let message = call(SERVICE, "/a", "org.example.A", "Take")
        .body(&body)
        .unix_fds(fds.len() as u32);
    let serial = caller.send_with_fds(message, fds);
    (serial, service.expect_call("Take"))
}

/// The one descriptor that arrived.
fn pass_one(service: &mut RawClient, caller: &mut RawClient, fd: impl AsFd) -> OwnedFd {
    let (serial, mut taken) = pass(service, caller, &[fd.as_fd()]);
    service.answer(&taken, &Body::new());
    caller.expect_reply(serial).returned();
    assert_eq!(taken.fds.len(), 1);
    taken.fds.remove(0)
}

/// The error that the caller gets, while the service gets nothing.
fn refused(
    service: &mut RawClient,
    caller: &mut RawClient,
    fd: BorrowedFd<'_>,
) -> (String, String) {
    let body = Body::new().unix_fd(0);
    let message = call(SERVICE, "/a", "org.example.A", "Take")
        .body(&body)
        .unix_fds(1);
    let serial = caller.send_with_fds(message, &[fd]);
    let reply = caller.expect_reply(serial);
    let text = reply.text().to_owned();
    let calls = service.all_so_far();
    assert!(calls.iter().all(|call| !call.is_call("Take")), "{calls:?}");
    (reply.failed(), text)
}

fn both_directions(test: impl Fn(&Rig, &mut RawClient, &mut RawClient)) {
    let rig = Rig::start();
    for service_in_guest in [false, true] {
        let (mut service, mut caller) = rig.pair(service_in_guest);
        test(&rig, &mut service, &mut caller);
        // The name is free again for the next.
        service.release_name(SERVICE);
    }
}

fn name_of(fd: &OwnedFd) -> String {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(link).unwrap().display().to_string()
}

// ---- files ---------------------------------------------------------------------------------------

#[test]
fn a_file_arrives_as_its_bytes_sealed_with_its_name_and_position() {
    both_directions(|rig, service, caller| {
        let contents: Vec<u8> = (0..300_000u32).map(|n| (n / 3) as u8).collect();
        let path = rig.dir.write("an icon.png", &contents);
        let mut file = File::open(path).unwrap();
        file.seek(SeekFrom::Start(1000)).unwrap();
        let arrived = pass_one(service, caller, &file);
        assert!(
            name_of(&arrived).contains("an icon.png"),
            "{}",
            name_of(&arrived)
        );
        let seals = rustix::fs::fcntl_get_seals(&arrived).unwrap();
        assert!(seals.contains(SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK));
        assert!(
            !seals.contains(SealFlags::SEAL),
            "portals refuse such icons"
        );
        let mut arrived = File::from(arrived);
        let mut rest = Vec::new();
        arrived.read_to_end(&mut rest).unwrap();
        assert!(rest == contents[1000..]);
        arrived.rewind().unwrap();
        let mut all = Vec::new();
        arrived.read_to_end(&mut all).unwrap();
        assert!(all == contents);
        assert!(arrived.write_all(b"x").is_err());
    });
}

#[test]
fn a_memfd_arrives_as_its_bytes_up_to_16_mib() {
    both_directions(|_, service, caller| {
        let memfd = rustix::fs::memfd_create("data", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut memfd = File::from(memfd);
        let contents = vec![7; 16 * 1024 * 1024];
        memfd.write_all(&contents).unwrap();
        memfd.rewind().unwrap();
        let mut arrived = File::from(pass_one(service, caller, &memfd));
        let mut all = Vec::new();
        arrived.read_to_end(&mut all).unwrap();
        assert!(all == contents);
        memfd.set_len(16 * 1024 * 1024 + 1).unwrap();
        let (error, text) = refused(service, caller, memfd.as_fd());
        assert_eq!(error, NOT_SUPPORTED);
        assert!(text.contains("16777217 bytes"), "{text}");
    });
}

#[test]
fn an_empty_file_arrives_empty() {
    both_directions(|rig, service, caller| {
        let file = File::open(rig.dir.write("empty", "")).unwrap();
        let mut arrived = File::from(pass_one(service, caller, &file));
        assert_eq!(arrived.read(&mut [0; 8]).unwrap(), 0);
    });
}

#[test]
fn a_document_of_a_guest_without_documents_is_refused_by_the_host() {
    let rig = Rig::start();
    let (mut service, mut caller) = rig.pair(false);
    let path = rig.dir.make_dir("guest-doc/ab12").join("x.txt");
    std::fs::write(&path, "of the document").unwrap();
    let file = File::open(&path).unwrap();
    let (error, text) = refused(&mut service, &mut caller, file.as_fd());
    assert_eq!(error, NOT_SUPPORTED);
    assert!(text.contains("document ab12"), "{text}");
}

// ---- pipes and sockets ---------------------------------------------------------------------------

fn end_of_file(mut reader: impl Read + AsFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 65536];
    let deadline = Deadline::usual();
    loop {
        let readable = deadline.wait_readable(&[reader.as_fd()]);
        assert!(
            readable.is_some(),
            "awaited more than {} bytes, or the end",
            all.len()
        );
        match reader.read(&mut buffer).unwrap() {
            0 => return all,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

fn wait_until_broken(writer: impl AsFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = Deadline::usual();
    let left = Timespec::try_from(deadline.left()).unwrap();
    let mut polled = [PollFd::new(&writer, PollFlags::empty())];
    assert_eq!(
        poll(&mut polled, Some(&left)),
        Ok(1),
        "awaited the end of the reader"
    );
    assert!(polled[0].revents().contains(PollFlags::ERR));
}

#[test]
fn eight_mib_go_through_the_reading_end_of_a_pipe() {
    both_directions(|_, service, caller| {
        let (reader, mut writer) = pipe().unwrap();
        let arrived = PipeReader::from(pass_one(service, caller, &reader));
        drop(reader);
        let contents: Vec<u8> = (0..8 * 1024 * 1024u32).map(|n| (n / 11) as u8).collect();
        let expected = contents.clone();
        let writing = std::thread::spawn(move || writer.write_all(&contents).unwrap());
        assert!(end_of_file(arrived) == expected);
        writing.join().unwrap();
    });
}

#[test]
fn eight_mib_go_through_the_writing_end_of_a_pipe() {
    both_directions(|_, service, caller| {
        let (reader, writer) = pipe().unwrap();
        let mut arrived = PipeWriter::from(pass_one(service, caller, &writer));
        drop(writer);
        let contents: Vec<u8> = (0..8 * 1024 * 1024u32).map(|n| (n / 11) as u8).collect();
        let expected = contents.clone();
        let writing = std::thread::spawn(move || arrived.write_all(&contents).unwrap());
        assert!(end_of_file(reader) == expected);
        writing.join().unwrap();
    });
}

#[test]
fn a_writer_learns_that_nobody_reads_any_more() {
    both_directions(|_, service, caller| {
        let (reader, writer) = pipe().unwrap();
        let arrived = pass_one(service, caller, &reader);
        drop(reader);
        drop(arrived);
        wait_until_broken(&writer);
        let (reader, writer) = pipe().unwrap();
        let arrived = pass_one(service, caller, &writer);
        drop(writer);
        drop(reader);
        wait_until_broken(&arrived);
    });
}

#[test]
fn a_socket_carries_both_directions_and_each_ends_by_itself() {
    both_directions(|_, service, caller| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut arrived = UnixStream::from(pass_one(service, caller, &theirs));
        drop(theirs);
        ours.write_all(b"from here").unwrap();
        let mut buffer = [0; 9];
        arrived.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"from here");
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(end_of_file(&arrived), b"");
        arrived.write_all(b"from there, after the end").unwrap();
        drop(arrived);
        assert_eq!(end_of_file(&ours), b"from there, after the end");
    });
}

#[test]
fn a_pipe_works_on_when_the_program_that_passed_it_has_gone() {
    let rig = Rig::start();
    let (mut service, mut caller) = rig.pair(false);
    let (reader, mut writer) = pipe().unwrap();
    let arrived = PipeReader::from(pass_one(&mut service, &mut caller, &reader));
    drop(reader);
    drop(caller);
    rig.wait_for_status("the caller to go", |status| status.clients.is_empty());
    writer.write_all(b"still there").unwrap();
    drop(writer);
    assert_eq!(end_of_file(arrived), b"still there");
}

#[test]
fn a_reply_carries_descriptors_as_well() {
    both_directions(|_, service, caller| {
        let serial = caller.send(call(SERVICE, "/a", "org.example.A", "Open"));
        let asked = service.expect_call("Open");
        let (reader, mut writer) = pipe().unwrap();
        let body = Body::new().unix_fd(0);
        let header = asked.header();
        let reply = dbus_wire::Builder::reply_to(&header)
            .body(&body)
            .unix_fds(1);
        service.send_with_fds(reply, &[reader.as_fd()]);
        drop(reader);
        let mut reply = caller.expect_reply(serial).returned();
        writer.write_all(b"a reply").unwrap();
        drop(writer);
        assert_eq!(
            end_of_file(PipeReader::from(reply.fds.remove(0))),
            b"a reply"
        );
    });
}

#[test]
fn several_descriptors_of_all_kinds_arrive_in_their_order() {
    both_directions(|rig, service, caller| {
        let file = File::open(rig.dir.write("f", "file")).unwrap();
        let (reader, mut writer) = pipe().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fds = [file.as_fd(), reader.as_fd(), file.as_fd(), theirs.as_fd()];
        let (serial, mut taken) = pass(service, caller, &fds);
        service.answer(&taken, &Body::new());
        caller.expect_reply(serial).returned();
        drop((reader, theirs));
        let fds: Vec<OwnedFd> = taken.fds.drain(..).collect();
        let [first, second, third, fourth] = <[OwnedFd; 4]>::try_from(fds).unwrap();
        writer.write_all(b"pipe").unwrap();
        drop(writer);
        (&ours).write_all(b"socket").unwrap();
        drop(ours);
        assert_eq!(end_of_file(File::from(first)), b"file");
        assert_eq!(end_of_file(PipeReader::from(second)), b"pipe");
        assert_eq!(end_of_file(File::from(third)), b"file");
        assert_eq!(end_of_file(UnixStream::from(fourth)), b"socket");
    });
}

// ---- the rest ------------------------------------------------------------------------------------

#[test]
fn what_stands_for_nothing_else_is_refused() {
    both_directions(|rig, service, caller| {
        let path = rig.dir.write("f", "x");
        let place = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        let write_only = File::options().write(true).open(&path).unwrap();
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        let pidfd = rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap();
        let device = File::open("/dev/null").unwrap();
        let directory = File::open(rig.dir.path()).unwrap();
        let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
        for fd in [
            place.as_fd(),
            write_only.as_fd(),
            event.as_fd(),
            pidfd.as_fd(),
            device.as_fd(),
            directory.as_fd(),
            datagrams.as_fd(),
        ] {
            let (error, text) = refused(service, caller, fd);
            assert_eq!(error, NOT_SUPPORTED, "{text}");
        }
    });
}

#[test]
fn a_reply_that_cannot_cross_becomes_an_error_for_who_waits_for_it() {
    both_directions(|_, service, caller| {
        let serial = caller.send(call(SERVICE, "/a", "org.example.A", "Open"));
        let asked = service.expect_call("Open");
        let device = File::open("/dev/null").unwrap();
        let body = Body::new().unix_fd(0);
        let header = asked.header();
        let reply = dbus_wire::Builder::reply_to(&header)
            .body(&body)
            .unix_fds(1);
        service.send_with_fds(reply, &[device.as_fd()]);
        let reply = caller.expect_reply(serial);
        assert_eq!(reply.sender(), service.unique_name());
        assert_eq!(reply.failed(), NOT_SUPPORTED);
    });
}

#[test]
fn a_signal_that_cannot_cross_is_left_out_and_the_next_one_arrives() {
    let rig = Rig::start();
    let (mut service, mut guest) = rig.pair(false);
    guest.add_match("type='signal',interface='org.example.A'");
    let device = File::open("/dev/null").unwrap();
    let body = Body::new().unix_fd(0);
    let signal = dbus_wire::Builder::signal("/a", "org.example.A", "Bad");
    service.send_with_fds(signal.body(&body).unix_fds(1), &[device.as_fd()]);
    service.send(dbus_wire::Builder::signal("/a", "org.example.A", "Good"));
    let first = guest.expect("a signal", |message| {
        message.header().interface == Some("org.example.A")
    });
    assert!(first.is_signal("org.example.A", "Good"), "{first}");
}

#[test]
fn a_senders_own_descriptor_stays_as_it_was() {
    let rig = Rig::start();
    let (mut service, mut caller) = rig.pair(false);
    let (reader, _writer) = pipe().unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let _arrived = pass_one(&mut service, &mut caller, &reader);
    let _arrived = pass_one(&mut service, &mut caller, &ours);
    for fd in [reader.as_fd(), ours.as_fd()] {
        let flags = rustix::fs::fcntl_getfl(fd).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK));
    }
}
