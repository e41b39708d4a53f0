//! Files of documents cross by their ids, in both directions, and the host decides.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use dbus_wire::Body;
use rustix::fs::{Mode, OFlags};
use testbed::raw_client::call;
use testbed::{RawClient, Received, needs, tools};

use crate::rig::{Rig, SERVICE};

const DOCUMENTS: &str = "org.freedesktop.portal.Documents";
const DOCUMENTS_PATH: &str = "/org/freedesktop/portal/documents";

/// The machine's own document portal, behind the broker's back.
struct Portal {
    client: RawClient,
}

impl Portal {
    fn of(rig: &Rig) -> Portal {
        let socket = rig.dir.join("vm/private.sock");
        Portal {
            client: RawClient::open(&format!("unix:path={}", socket.display())),
        }
    }

    /// Shares a file (or, with the flag, a directory) with the machine; gives its id.
    fn share(&mut self, path: &Path, directory: bool, permissions: &[&str]) -> String {
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let body = Body::new()
            .array("h", |fds| fds.unix_fd(0))
            .u32(if directory { 8 } else { 0 })
            .str("vm.one")
            .strs(permissions);
        let add = call(DOCUMENTS, DOCUMENTS_PATH, DOCUMENTS, "AddFull").body(&body);
        let added = self.client.call_with_fds(add.unix_fds(1), &[file.as_fd()]);
        let added = added.returned();
        added.reader().strs().unwrap()[0].to_owned()
    }

    fn revoke(&mut self, id: &str) {
        let body = Body::new().str(id);
        let delete = call(DOCUMENTS, DOCUMENTS_PATH, DOCUMENTS, "Delete").body(&body);
        self.client.call(delete).returned();
    }
}

fn pass(caller: &mut RawClient, file: &File) -> u32 {
    let body = Body::new().unix_fd(0);
    let take = call(SERVICE, "/a", "org.example.A", "Take").body(&body);
    caller.send_with_fds(take.unix_fds(1), &[file.as_fd()])
}

fn arrived(service: &mut RawClient) -> File {
    let mut taken: Received = service.expect_call("Take");
    File::from(taken.fds.remove(0))
}

fn refused(service: &mut RawClient, caller: &mut RawClient, file: &File) -> String {
    let serial = pass(caller, file);
    let error = caller.expect_reply(serial).failed();
    assert!(service.all_so_far().iter().all(|it| !it.is_call("Take")));
    error
}

fn place_of(file: &File) -> String {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(link).unwrap().display().to_string()
}

#[test]
fn a_document_crosses_by_its_id_and_is_the_hosts_own_file() {
    needs!(tools::DBUS_DAEMON, tools::DOCUMENT_PORTAL);
    let rig = Rig::with_documents();
    let mut portal = Portal::of(&rig);
    let seen = rig.guest_documents();
    let own = rig.dir.write("person/letter.txt", "Dear host");
    let id = portal.share(&own, false, &["read", "write"]);
    let (mut service, mut guest) = rig.pair(false);

    // To be read: what arrives is no copy, and not below the mount.
    let path = seen.join(&id).join("letter.txt");
    pass(&mut guest, &File::open(&path).unwrap());
    let mut file = arrived(&mut service);
    assert_eq!(place_of(&file), own.display().to_string());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "Dear host");
    assert!(file.write_all(b"x").is_err(), "it was open to be read");

    // To be written.
    let writable = File::options().read(true).write(true).open(&path).unwrap();
    pass(&mut guest, &writable);
    arrived(&mut service).write_all(b"Read").unwrap();
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "Read host");

    // A file in a directory that is shared.
    let nested = rig.dir.write("person/dir/sub/x.txt", "nested");
    let dir = portal.share(&rig.dir.join("person/dir"), true, &["read"]);
    pass(
        &mut guest,
        &File::open(seen.join(&dir).join("dir/sub/x.txt")).unwrap(),
    );
    assert_eq!(
        place_of(&arrived(&mut service)),
        nested.display().to_string()
    );
}

#[test]
fn what_the_host_does_not_share_any_more_or_not_for_writing_does_not_cross() {
    needs!(tools::DBUS_DAEMON, tools::DOCUMENT_PORTAL);
    let rig = Rig::with_documents();
    let mut portal = Portal::of(&rig);
    let seen = rig.guest_documents();
    let own = rig.dir.write("person/letter.txt", "Dear host");
    let id = portal.share(&own, false, &["read"]);
    let (mut service, mut guest) = rig.pair(false);
    let path = seen.join(&id).join("letter.txt");

    let open = File::open(&path).unwrap();
    pass(&mut guest, &open);
    arrived(&mut service);
    portal.revoke(&id);
    let error = refused(&mut service, &mut guest, &open);
    assert!(error.starts_with("org.freedesktop.DBus.Error."), "{error}");

    // The same, where the guest has a file of its own with such a name and lies about what it is: it may only read, and
    // says that it has it open for writing.
    let mut rig = rig;
    let id = portal.share(&own, false, &["read"]);
    drop((guest, service));
    rig.agent.take();
    rig.lie_about_documents();
    rig.start_agent();
    let lie = rig.dir.write(format!("guest-doc/{id}/letter.txt"), "mine");
    let (mut service, mut guest) = rig.pair(false);
    let writable = File::options().write(true).open(&lie).unwrap();
    let error = refused(&mut service, &mut guest, &writable);
    assert!(error.ends_with("AccessDenied"), "{error}");
    // Nor does a name lead out of the document.
    let other = rig.dir.write("person/secret.txt", "secret");
    let lie = rig.dir.write(format!("guest-doc/{id}/secret.txt"), "mine");
    let error = refused(&mut service, &mut guest, &File::open(&lie).unwrap());
    assert!(
        error.ends_with("FileNotFound") || error.ends_with("AccessDenied"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(other).unwrap(), "secret");
}

#[test]
fn a_document_that_the_host_passes_is_opened_in_the_guest() {
    needs!(tools::DBUS_DAEMON, tools::DOCUMENT_PORTAL);
    let rig = Rig::with_documents();
    let mut portal = Portal::of(&rig);
    let own = rig.dir.write("person/letter.txt", "Dear guest");
    let id = portal.share(&own, false, &["read", "write"]);
    let (mut service, mut host) = rig.pair(true);
    let file = File::open(rig.documents().join(&id).join("letter.txt")).unwrap();
    pass(&mut host, &file);
    let mut file = arrived(&mut service);
    let there = rig.guest_documents().join(&id).join("letter.txt");
    assert_eq!(place_of(&file), there.display().to_string());
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "Dear guest");
}

#[test]
fn a_document_that_the_guest_does_not_see_is_an_error_for_who_passes_it() {
    needs!(tools::DBUS_DAEMON, tools::DOCUMENT_PORTAL);
    let mut rig = Rig::with_documents();
    let mut portal = Portal::of(&rig);
    let own = rig.dir.write("person/letter.txt", "Dear guest");
    let id = portal.share(&own, false, &["read"]);
    // Nothing is mounted in the guest.
    rig.agent.take();
    rig.lie_about_documents();
    rig.start_agent();
    let (mut service, mut host) = rig.pair(true);
    let file = File::open(rig.documents().join(&id).join("letter.txt")).unwrap();
    let error = refused(&mut service, &mut host, &file);
    assert_eq!(error, "org.freedesktop.DBus.Error.FileNotFound");
    // A reply that carries it becomes the error.
    let (mut service, mut guest) = rig.pair_named("org.example.Other");
    let serial = guest.send(call("org.example.Other", "/a", "org.example.A", "Open"));
    let asked = service.expect_call("Open");
    let body = Body::new().unix_fd(0);
    let header = asked.header();
    let reply = dbus_wire::Builder::reply_to(&header).body(&body);
    service.send_with_fds(reply.unix_fds(1), &[file.as_fd()]);
    let reply = guest.expect_reply(serial);
    assert_eq!(reply.sender(), service.unique_name());
    assert_eq!(reply.failed(), "org.freedesktop.DBus.Error.FileNotFound");
}

#[test]
fn the_status_shows_the_documents_and_the_daemons() {
    needs!(tools::DBUS_DAEMON, tools::DOCUMENT_PORTAL);
    let rig = Rig::with_documents();
    let own = rig.dir.write("person/letter.txt", "Dear guest");
    let id = Portal::of(&rig).share(&own, false, &["read"]);
    let status = rig.status();
    let [document] = &status.portals.documents[..] else {
        panic!("one document: {status}");
    };
    assert_eq!((&document.id, document.writable), (&id, false));
    assert_eq!(Path::new(&document.path), own);
    let names: Vec<&str> = status.daemons.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["xdg-permission-store", "xdg-document-portal"]);
    assert!(
        status
            .daemons
            .iter()
            .all(|it| it.pid.is_some() && it.restarts == 0)
    );
}
