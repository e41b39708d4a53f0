//! A real xdg-desktop-portal on the host, called from inside. What the person at the host would choose is
//! chosen by a backend of ours.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::mpsc;

use testbed::{
    Deadline, Line, Lines, ServiceFile, TestDir, Topology, World, WorldOptions, in_topologies,
    needs, tools, within,
};
use zbus::{
    Connection, MessageStream, ObjectPath, OwnedFd, OwnedObjectPath, OwnedVariant, Variant,
};
use zbus::{connection::Builder, interface};

use crate::place::{connect, next, subscribe};

const BACKEND: &str = "org.freedesktop.impl.portal.desktop.testbed";
const DESKTOP: &str = "/org/freedesktop/portal/desktop";

/// What the backends answer: 0 is success.
type Answer = (u32, HashMap<String, OwnedVariant>);

/// Chooses a file.
struct FileChooser {
    chosen: String,
}

#[interface(name = "org.freedesktop.impl.portal.FileChooser")]
impl FileChooser {
    async fn open_file(
        &self,
        _handle: ObjectPath<'_>,
        _app_id: &str,
        _parent_window: &str,
        _title: &str,
        _options: HashMap<String, OwnedVariant>,
    ) -> Answer {
        let uris = Variant::from(vec![self.chosen.clone()]);
        let uris = OwnedVariant::try_from(uris).expect("strings hold no descriptors");
        (0, HashMap::from([("uris".to_owned(), uris)]))
    }
}

/// Writes a secret into what it is given.
struct Secret;

#[interface(name = "org.freedesktop.impl.portal.Secret")]
impl Secret {
    async fn retrieve_secret(
        &self,
        _handle: ObjectPath<'_>,
        _app_id: &str,
        into: OwnedFd,
        _options: HashMap<String, OwnedVariant>,
    ) -> Answer {
        let written = File::from(std::os::fd::OwnedFd::from(into)).write_all(b"a host's secret");
        (u32::from(written.is_err()), HashMap::new())
    }
}

/// Prints: hands on the pages.
struct Print {
    printed: mpsc::Sender<String>,
}

#[interface(name = "org.freedesktop.impl.portal.Print")]
impl Print {
    async fn print(
        &self,
        _handle: ObjectPath<'_>,
        _app_id: &str,
        _parent_window: &str,
        _title: &str,
        file: OwnedFd,
        _options: HashMap<String, OwnedVariant>,
    ) -> Answer {
        let mut pages = String::new();
        let read = File::from(std::os::fd::OwnedFd::from(file)).read_to_string(&mut pages);
        let told = self.printed.send(pages);
        (u32::from(read.is_err() || told.is_err()), HashMap::new())
    }
}

/// A host with a portal, its backend, and a program inside.
struct Portal {
    printed: mpsc::Receiver<String>,
    inside: Connection,
    _backend: Connection,
    world: World,
}

impl Portal {
    #[track_caller]
    fn start(topology: Topology) -> Portal {
        let dir = TestDir::new();
        let chosen = dir.write("home/chosen.txt", "what the person chose");
        dir.write(
            "portals/testbed.portal",
            format!(
                "[portal]\nDBusName={BACKEND}\nUseIn=testbed\nInterfaces=\
                 org.freedesktop.impl.portal.FileChooser;org.freedesktop.impl.portal.Secret;\
                 org.freedesktop.impl.portal.Print\n"
            ),
        );
        let portals = dir.join("portals").display().to_string();
        let program = |tool: &tools::Tool| {
            tool.find()
                .expect("its test asked for it")
                .display()
                .to_string()
        };
        let world = World::start_in(
            dir,
            topology,
            &WorldOptions {
                host_services: vec![
                    ServiceFile::new("org.freedesktop.portal.Desktop", program(&tools::PORTAL)),
                    ServiceFile::new(
                        "org.freedesktop.impl.portal.PermissionStore",
                        program(&tools::PERMISSION_STORE),
                    ),
                ],
                environment: vec![
                    ("XDG_DESKTOP_PORTAL_DIR".to_owned(), portals),
                    ("XDG_CURRENT_DESKTOP".to_owned(), "testbed".to_owned()),
                ],
                ..WorldOptions::default()
            },
        );
        let (sender, printed) = mpsc::channel();
        let backend = Builder::address(world.outside().as_str())
            .serve_at(
                DESKTOP,
                FileChooser {
                    chosen: format!("file://{}", chosen.display()),
                },
            )
            .serve_at(DESKTOP, Secret)
            .serve_at(DESKTOP, Print { printed: sender })
            .name(BACKEND)
            .build();
        let backend = within("the portal's backend", backend).expect("a backend on the host bus");
        Portal {
            printed,
            inside: connect(&world.inside()),
            _backend: backend,
            world,
        }
    }

    /// Subscribes to the Response of a request that is yet to be made, at the path that the portal
    /// derives from the caller's unique name.
    #[track_caller]
    fn expect_response(&self, token: &str) -> (String, MessageStream) {
        let name = self
            .inside
            .unique_name()
            .expect("a bus gives one")
            .to_string();
        let sender = name.trim_start_matches(':').replace('.', "_");
        let request = format!("{DESKTOP}/request/{sender}/{token}");
        let responses = subscribe(
            &self.inside,
            &format!(
                "type='signal',sender='org.freedesktop.portal.Desktop',path='{request}',\
                 interface='org.freedesktop.portal.Request',member='Response'"
            ),
        );
        (request, responses)
    }

    /// Calls a method of the portal; gives back the request's path.
    #[track_caller]
    fn call<B>(&self, interface: &str, method: &str, arguments: &B) -> String
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let call = self.inside.call_method(
            Some("org.freedesktop.portal.Desktop"),
            DESKTOP,
            Some(interface),
            method,
            arguments,
        );
        let answer = within("the portal's answer", call)
            .unwrap_or_else(|error| panic!("{interface}.{method}: {error}"));
        let path: OwnedObjectPath = answer.body().deserialize().expect("a path");
        path.to_string()
    }
}

/// The results of a response that says success.
#[track_caller]
fn results(responses: &mut MessageStream) -> HashMap<String, OwnedVariant> {
    let response = next(responses, "the portal's Response");
    let (code, results): Answer = response.body().deserialize().expect("a code and results");
    assert_eq!(code, 0, "the request ended well");
    results
}

fn options(token: &str) -> HashMap<&str, Variant<'_>> {
    HashMap::from([("handle_token", Variant::from(token))])
}

fn a_file_chosen_on_the_host_is_told_to_the_program_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::PORTAL, tools::PERMISSION_STORE);
    let portal = Portal::start(topology);
    let (request, mut responses) = portal.expect_response("choose");
    let handle = portal.call(
        "org.freedesktop.portal.FileChooser",
        "OpenFile",
        &("", "Choose a file", options("choose")),
    );
    assert_eq!(
        handle, request,
        "the path holds the name that the caller knows as its own"
    );
    let results = results(&mut responses);
    let uris: Vec<String> = results["uris"]
        .try_clone()
        .unwrap()
        .try_into()
        .expect("strings");
    let path = uris[0].strip_prefix("file://").expect("a file's URI");
    assert_eq!(
        std::fs::read_to_string(path).expect("a file"),
        "what the person chose"
    );
    drop(portal.world);
}

fn the_host_writes_into_a_pipe_that_came_from_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::PORTAL, tools::PERMISSION_STORE);
    let portal = Portal::start(topology);
    let (_, mut responses) = portal.expect_response("secret");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut secret = Lines::new("the secret's pipe".to_owned(), reader.into());
    let writer = OwnedFd::from(std::os::fd::OwnedFd::from(writer));
    portal.call(
        "org.freedesktop.portal.Secret",
        "RetrieveSecret",
        &(&writer, options("secret")),
    );
    // The portal's and the backend's copies are what is left of it.
    drop(writer);
    results(&mut responses);
    let deadline = Deadline::usual();
    let text = secret.next_line(deadline).expect("a pipe of ours");
    assert_eq!(text, Line::Text("a host's secret".to_owned()));
    // It ends when nobody on the way holds a copy any more.
    assert_eq!(
        secret.next_line(deadline).expect("a pipe of ours"),
        Line::End
    );
}

fn the_host_reads_a_file_that_came_from_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON, tools::PORTAL, tools::PERMISSION_STORE);
    let portal = Portal::start(topology);
    let (_, mut responses) = portal.expect_response("print");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"a page")
        .and_then(|()| file.rewind())
        .expect("our own file");
    let file = OwnedFd::from(std::os::fd::OwnedFd::from(file));
    portal.call(
        "org.freedesktop.portal.Print",
        "Print",
        &("", "A page", &file, options("print")),
    );
    results(&mut responses);
    let printed = portal.printed.recv_timeout(Deadline::usual().left());
    assert_eq!(printed.as_deref(), Ok("a page"));
}

in_topologies!(with_host: a_file_chosen_on_the_host_is_told_to_the_program_inside,
    the_host_writes_into_a_pipe_that_came_from_inside,
    the_host_reads_a_file_that_came_from_inside);
