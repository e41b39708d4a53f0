//! The table: message type × where sender and receiver live, each with file descriptors, and each refused by its error
//! where no rule allows it.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use dbus_router::{Access, Export, HostPass, NamePattern, Policy, Rules};
use dbus_wire::body::Body;
use dbus_wire::frame::MessageType;
use dbus_wire::message::Builder;
use testbed::{RawClient, Received};

use crate::place::{INTERFACE, PATH, Place, filter, id, signal};

const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";

/// Where a program lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Home {
    Sandbox,
    Host,
    Hostpass,
}

const HOMES: [Home; 3] = [Home::Sandbox, Home::Host, Home::Hostpass];

impl Home {
    /// The name of its first program.
    fn name(self) -> &'static str {
        match self {
            Home::Sandbox => "org.example.Sandbox",
            Home::Host => "org.example.Host",
            Home::Hostpass => "org.example.Hostpass",
        }
    }
}

/// Every cell but that of the host with itself, which is not ours.
fn cells() -> impl Iterator<Item = (Home, Home)> {
    let all = HOMES
        .into_iter()
        .flat_map(|from| HOMES.map(|to| (from, to)));
    all.filter(|cell| *cell != (Home::Host, Home::Host))
}

fn hostpass(access: Access) -> Vec<HostPass> {
    vec![HostPass {
        id: id("hostpass"),
        process: None,
        cgroup: None,
        unit: None,
        everyone: true,
        access,
    }]
}

/// All that is needed for everybody to reach everybody.
fn open() -> Rules {
    Rules {
        names: vec![
            // Both homes: `org.example.Hostpass`, too.
            filter("org.example.Host*", Access::Talk),
        ],
        exports: vec![Export {
            id: id("export"),
            name: NamePattern::parse("org.example.Sandbox*").unwrap(),
            rename: None,
            signals: true,
            replace: false,
            calls: None,
        }],
        ..Rules::default()
    }
}

/// Two programs of each home, of which the first owns the home's name.
struct Programs {
    programs: Vec<(Home, [RawClient; 2])>,
    _place: Place,
}

impl Programs {
    /// `rules` without clients that live on the host, who come second.
    fn new(rules: Rules, access: Access) -> Programs {
        let place = Place::new(rules.clone());
        let two = |home: Home, mut all: [RawClient; 2]| {
            if access == Access::Own || home != Home::Hostpass {
                assert_eq!(all[0].request_name(home.name(), 0), 1);
            }
            (home, all)
        };
        let sandbox = two(Home::Sandbox, [place.inside(), place.inside()]);
        let host = two(Home::Host, [place.outside(), place.outside()]);
        place.handle.set_policy(Policy::from_rules(Rules {
            hostpass: hostpass(access),
            ..rules
        }));
        place.handle.status().unwrap();
        let passed = two(Home::Hostpass, [place.inside(), place.inside()]);
        Programs {
            programs: vec![sandbox, host, passed],
            _place: place,
        }
    }

    /// Has a cell's two programs do something: the sender, which is its home's second, and the receiver, the first.
    fn pair(
        &mut self,
        (from, to): (Home, Home),
        mut both: impl FnMut(&mut RawClient, &mut RawClient),
    ) {
        let place = |home| HOMES.iter().position(|it| *it == home).unwrap();
        let (from, to) = (place(from), place(to));
        let sender = self.programs[from].1.split_at_mut(1);
        if from == to {
            return both(&mut sender.1[0], &mut sender.0[0]);
        }
        let [sender, receiver] = self
            .programs
            .get_disjoint_mut([from, to])
            .expect("they are two");
        both(&mut sender.1[1], &mut receiver.1[0]);
    }

    fn unique(&self, home: Home, number: usize) -> String {
        let (_, programs) = self.programs.iter().find(|it| it.0 == home).unwrap();
        programs[number].unique_name().to_owned()
    }
}

/// A file to pass, and what is in it.
fn file(text: &str) -> File {
    let mut file = tempfile();
    file.write_all(text.as_bytes()).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

fn tempfile() -> File {
    let fd = rustix::fs::memfd_create("table", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    File::from(fd)
}

#[track_caller]
fn has_file(received: &Received, text: &str) {
    assert_eq!(received.fds.len(), 1, "{received}");
    let file = File::from(received.fds[0].try_clone().unwrap());
    let mut buffer = vec![0; text.len()];
    file.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(buffer, text.as_bytes());
}

fn call<'m>(destination: &'m str, member: &'m str, body: &'m Body) -> Builder<'m> {
    Builder::method_call(PATH, member)
        .interface(INTERFACE)
        .destination(destination)
        .body(body)
}

#[test]
fn calls_replies_and_errors_cross_with_their_descriptors_in_every_cell() {
    let mut all = Programs::new(open(), Access::Own);
    let body = Body::new().unix_fd(0);
    for cell in cells() {
        let names = [cell.1.name().to_owned(), all.unique(cell.1, 0)];
        for (turn, name) in names.iter().enumerate() {
            let what = format!("{cell:?}, {name}");
            all.pair(cell, |sender, receiver| {
                let text = format!("call {what}");
                let serial =
                    sender.send_with_fds(call(name, "Work", &body), &[file(&text).as_fd()]);
                let received = receiver.expect_call("Work");
                has_file(&received, &text);
                assert_eq!(received.sender(), sender.unique_name(), "{what}");
                let (text, error) = (format!("reply {what}"), "org.example.Error.Own");
                let header = received.header();
                let reply = match turn {
                    0 => Builder::reply_to(&header),
                    // An error may carry anything, too.
                    _ => Builder::new(MessageType::Error)
                        .field(4, Body::new().str(error))
                        .reply_serial(header.serial)
                        .destination(header.sender.unwrap()),
                };
                receiver.send_with_fds(reply.body(&body), &[file(&text).as_fd()]);
                let reply = sender.expect_reply(serial);
                has_file(&reply, &text);
                assert_eq!(reply.error_name(), (turn == 1).then_some(error), "{what}");
                assert_eq!(reply.sender(), receiver.unique_name(), "{what}");
            });
        }
    }
}

#[test]
fn signals_cross_with_their_descriptors_in_every_cell() {
    let mut all = Programs::new(open(), Access::Own);
    let body = Body::new().unix_fd(0);
    let to_all = ["Broadcast", "Unicast"];
    // Who speaks in the table are the second ones; to be heard they own a name, too.
    for (home, [first, second]) in &mut all.programs {
        first.add_match("type='signal',interface='org.example.Test'");
        assert_eq!(second.request_name(&format!("{}2", home.name()), 0), 1);
    }
    for cell in cells() {
        let to = all.unique(cell.1, 0);
        for kind in to_all {
            // Who is not meant hears a broadcast, too.
            let member = &format!("{kind}{:?}{:?}", cell.0, cell.1);
            let text = format!("the file of {member}");
            all.pair(cell, |sender, receiver| {
                let one = match kind {
                    "Unicast" => signal(member).destination(&to).body(&body),
                    _ => signal(member).body(&body),
                };
                sender.send_with_fds(one, &[file(&text).as_fd()]);
                let heard = receiver.expect(&format!("{kind} {cell:?}"), |it| {
                    it.is_signal(INTERFACE, member) && it.sender() == sender.unique_name()
                });
                has_file(&heard, &text);
                // Once.
                sender.call_driver("ListNames", &Body::new());
                let again = receiver.all_so_far();
                let again = again.iter().filter(|it| {
                    it.is_signal(INTERFACE, member) && it.sender() == sender.unique_name()
                });
                assert_eq!(again.count(), 0, "{text}");
            });
        }
    }
}

#[test]
fn replies_that_nobody_asked_for_cross_nowhere() {
    let mut all = Programs::new(open(), Access::Own);
    for cell in cells() {
        let to = all.unique(cell.1, 0);
        all.pair(cell, |sender, receiver| {
            for kind in [MessageType::MethodReturn, MessageType::Error] {
                let reply = Builder::new(kind).reply_serial(4711).destination(&to);
                sender.send(match kind {
                    MessageType::Error => reply.field(4, Body::new().str("org.example.Error")),
                    _ => reply,
                });
            }
            sender.call_driver("ListNames", &Body::new());
            let got = receiver.all_so_far();
            assert!(!got.iter().any(|it| it.is_reply_to(4711)), "{cell:?}");
        });
    }
}

#[test]
fn where_no_rule_allows_it_calls_get_the_error_that_is_due_and_signals_stay() {
    let mut all = Programs::new(Rules::default(), Access::Hidden);
    for cell in cells() {
        let due = match cell {
            // Inside one home everybody reaches everybody, and our own clients reach each other.
            (Home::Sandbox, Home::Sandbox) | (Home::Hostpass, Home::Hostpass) => None,
            (Home::Sandbox, Home::Hostpass) | (Home::Hostpass, Home::Sandbox) => None,
            // Who lives on the host is in nobody's way there.
            (Home::Host, Home::Hostpass) => None,
            (Home::Host, _) => Some(DENIED),
            (_, Home::Host) => Some(UNKNOWN),
        };
        let to = all.unique(cell.1, 0);
        let body = Body::new();
        all.pair(cell, |sender, receiver| {
            sender.send(signal("Unicast").destination(&to));
            let serial = sender.send(call(&to, "Work", &body));
            if due.is_none() {
                receiver.expect_signal(INTERFACE, "Unicast");
                let received = receiver.expect_call("Work");
                receiver.answer(&received, &body);
            }
            assert_eq!(sender.expect_reply(serial).error_name(), due, "{cell:?}");
            let got = receiver.all_so_far();
            let ours = got
                .iter()
                .filter(|it| it.header().interface == Some(INTERFACE));
            assert_eq!(ours.count(), 0, "{cell:?}");
        });
    }
}
