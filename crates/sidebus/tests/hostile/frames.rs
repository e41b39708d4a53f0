//! Bytes that are no frames, and frames that lie.

use std::io::Write;

use dbus_wire::{Body, Builder};
use sidebus::wire::{Descriptor, Frame, MAX_PAYLOAD, MessageHead, Shape, StreamId};
use testbed::Deadline;

use crate::Attack;
use crate::raw_guest::{Fate, RawGuest};

/// Attackers whose connections have to be closed. All at once: the broker gives each a moment to hear why.
#[derive(Default)]
struct Doomed(Vec<(String, RawGuest)>);

impl Doomed {
    fn push(&mut self, what: impl Into<String>, guest: RawGuest) {
        self.0.push((what.into(), guest));
    }

    #[track_caller]
    fn are_closed(self) {
        for (what, mut guest) in self.0 {
            assert_eq!(guest.fate(), Fate::Closed, "{what}");
        }
    }
}

/// A frame's header, and payload, as one likes.
fn frame(len: u32, kind: u8, reserved: [u8; 3], payload: &[u8]) -> Vec<u8> {
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(reserved);
    bytes.extend(payload);
    bytes
}

fn opening(lowest: u16, highest: u16, purpose: &[u8]) -> Vec<u8> {
    let mut payload = b"SIDEBUS\0".to_vec();
    payload.extend(lowest.to_le_bytes());
    payload.extend(highest.to_le_bytes());
    payload.extend(purpose);
    frame(
        u32::try_from(payload.len()).expect("small"),
        1,
        [0; 3],
        &payload,
    )
}

#[test]
fn what_is_no_frame_ends_the_connection_and_nothing_else() {
    let mut attack = Attack::on_the_bus_alone("");
    let mut doomed = Doomed::default();
    let no_frames: [(&str, Vec<u8>); 9] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("the largest length", frame(u32::MAX, 1, [0; 3], b"")),
        ("a length above the limit", frame(65537, 9, [0; 3], b"x")),
        ("an unknown kind", frame(0, 200, [0; 3], b"")),
        ("kind zero", frame(0, 0, [0; 3], b"")),
        ("reserved bits", frame(0, 1, [0, 1, 0], b"")),
        ("another magic", frame(8, 1, [0; 3], b"SIDECAR\0")),
        ("nothing in an Open", frame(0, 1, [0; 3], b"")),
        (
            "a text longer than its frame",
            opening(1, 1, &[&[1][..], &[0; 16], &[255, 255], b"x"].concat()),
        ),
    ];
    for (what, bytes) in no_frames {
        let mut guest = RawGuest::connect(&attack.port);
        guest.send_bytes(&bytes);
        doomed.push(what, guest);
    }
    // A session's own connections are held to the same.
    for bytes in [frame(u32::MAX, 9, [0; 3], b""), frame(0, 250, [0; 3], b"")] {
        let mut client = attack.client();
        client.send_bytes(&bytes);
        doomed.push("in a session", client);
    }
    doomed.are_closed();
    attack.the_broker_is_well();
}

#[test]
fn other_versions_are_told_which_is_spoken() {
    let mut attack = Attack::on_the_bus_alone("");
    for (lowest, highest) in [(2, 9), (0, 0), (u16::MAX, u16::MAX), (9, 2)] {
        let mut guest = RawGuest::connect(&attack.port);
        guest.send_bytes(&opening(lowest, highest, &[7; 400]));
        match guest.fate() {
            Fate::Refused(text) => assert!(text.contains("version"), "{text}"),
            Fate::Closed => panic!("{lowest}..={highest} is told nothing"),
        }
    }
    attack.the_broker_is_well();
}

#[test]
fn a_token_that_the_broker_did_not_give_opens_nothing() {
    let mut attack = Attack::on_the_bus_alone("");
    let mut almost = attack.session;
    almost[15] ^= 1;
    for session in [[0; 16], [0xff; 16], almost] {
        let mut guest = RawGuest::connect(&attack.port);
        guest.open_client(session);
        assert!(matches!(guest.fate(), Fate::Refused(_)));
        for purpose in [3u8, 4] {
            let mut guest = RawGuest::connect(&attack.port);
            let stream = [&[purpose][..], &session, &1u32.to_le_bytes()].concat();
            guest.send_bytes(&opening(1, 1, &stream));
            assert!(matches!(guest.fate(), Fate::Refused(_)));
        }
    }
    attack.the_broker_is_well();
}

#[test]
fn messages_with_false_lengths_end_their_sender_before_anything_is_allocated() {
    let mut attack = Attack::on_the_bus_alone("");
    let mut doomed = Doomed::default();
    let before = attack.broker.memory();
    let body = Body::new();
    let call = Builder::method_call("/org/freedesktop/DBus", "GetId")
        .destination("org.freedesktop.DBus")
        .serial(9)
        .body(&body)
        .build();
    let head = |message_len| MessageHead {
        message_len,
        descriptors: Vec::new(),
    };
    let true_len = u32::try_from(call.len()).expect("small");

    // More than the limit is known at the head.
    for len in [u32::MAX, 0x0800_0000, 33 * 1024 * 1024] {
        let mut client = attack.client();
        client.send(&Frame::Message(head(len)));
        doomed.push(format!("{len} bytes announced"), client);
    }
    // Too short for the message; and then a second head in the middle of one.
    let mut client = attack.client();
    client.send(&Frame::Message(head(true_len - 1)));
    client.send_bytes(&Frame::Data(&call).to_bytes());
    doomed.push("more bytes than were announced", client);
    let mut client = attack.client();
    client.send(&Frame::Message(head(true_len)));
    client.send_bytes(&Frame::Data(&call[..20]).to_bytes());
    client.send_bytes(&Frame::Message(head(true_len)).to_bytes());
    doomed.push("a head within a message", client);
    // D-Bus's own lengths lie.
    for (at, value) in [
        (4, u32::MAX),
        (4, 0x0800_0000),
        (12, u32::MAX),
        (12, 0x0400_0001),
    ] {
        let mut lie = call.clone();
        lie[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        let mut client = attack.client();
        client.send(&Frame::Message(head(true_len)));
        client.send_bytes(&Frame::Data(&lie).to_bytes());
        doomed.push(format!("{value} at {at}"), client);
    }
    // Data that belongs to nothing.
    for frame in [
        Frame::Data(b"x"),
        Frame::Content(b"x"),
        Frame::End,
        Frame::Stop,
    ] {
        let mut client = attack.client();
        client.send(&frame);
        doomed.push(frame.kind(), client);
    }
    doomed.are_closed();
    attack.the_broker_is_well();
    let cost = attack.broker.memory().saturating_sub(before);
    assert!(cost < 16 << 20, "{cost} bytes for messages that never were");
}

#[test]
fn a_message_that_never_ends_costs_what_has_arrived() {
    let mut attack = Attack::on_the_bus_alone("");
    let before = attack.broker.memory();
    // 200 clients announce 32 MiB each: 6 GiB if it were believed.
    let clients: Vec<RawGuest> = (0..200)
        .map(|_| {
            let mut client = attack.client();
            client.send(&Frame::Message(MessageHead {
                message_len: 32 << 20,
                descriptors: Vec::new(),
            }));
            client.send(&Frame::Data(&[b'l'; 1000]));
            client
        })
        .collect();
    attack.the_broker_is_well();
    let cost = attack.broker.memory().saturating_sub(before);
    assert!(cost < 64 << 20, "{cost} bytes for 200 beginnings");
    drop(clients);
    attack.the_broker_is_well();
}

#[test]
fn descriptors_that_lie_end_their_sender() {
    let mut attack = Attack::on_the_bus_alone("");
    let mut doomed = Doomed::default();
    let body = Body::new().unix_fd(0);
    let call = |fds: u32| {
        Builder::method_call("/x", "Take")
            .destination("org.freedesktop.DBus")
            .interface("org.example.X")
            .serial(9)
            .unix_fds(fds)
            .body(&body)
            .build()
    };
    let bytes_of = |len, position| Descriptor::Bytes {
        len,
        position,
        name: "x".to_owned(),
    };
    // The message says one thing and its head another.
    for (fds, descriptors) in [
        (1, vec![]),
        (0, vec![bytes_of(0, 0)]),
        (63, vec![bytes_of(0, 0)]),
    ] {
        let mut client = attack.client();
        let message = call(fds);
        let contents = descriptors.len();
        client.send(&Frame::Message(MessageHead {
            message_len: u32::try_from(message.len()).expect("small"),
            descriptors,
        }));
        for _ in 0..contents {
            client.send_bytes(&Frame::Content(b"").to_bytes());
        }
        client.send_bytes(&Frame::Data(&message).to_bytes());
        doomed.push(format!("{fds} fds, {contents} descriptors"), client);
    }
    // More of a file than was announced.
    let mut client = attack.client();
    client.send(&Frame::Message(MessageHead {
        message_len: 200,
        descriptors: vec![bytes_of(3, 0)],
    }));
    client.send_bytes(&Frame::Content(b"12345").to_bytes());
    doomed.push("a file longer than it was", client);
    // The bytes of the head itself, for what the encoder would not write.
    let head = |descriptor: &[u8]| {
        let payload = [&200u32.to_le_bytes()[..], &[1], descriptor].concat();
        frame(
            u32::try_from(payload.len()).expect("small"),
            7,
            [0; 3],
            &payload,
        )
    };
    let document = |id: &[u8], path: &[u8]| {
        let id_len = u16::try_from(id.len()).expect("small").to_le_bytes();
        let path_len = u16::try_from(path.len()).expect("small").to_le_bytes();
        [&[1, 1][..], &id_len, id, &path_len, path].concat()
    };
    let lies: Vec<(String, Vec<u8>)> = [
        (&b".."[..], &b"x"[..]),
        (b".", b"x"),
        (b"", b"x"),
        (b"../../etc", b"passwd"),
        (b"a/b", b"x"),
        (b"a\0b", b"x"),
        (b"by-app", b".."),
        (b"abcd", b"../x"),
        (b"abcd", b"a/../../x"),
        (b"abcd", b"/etc/passwd"),
        (b"abcd", b"a\0b"),
        (b"abcd", b"a//b/./.."),
    ]
    .into_iter()
    .map(|(id, path)| (format!("{id:?} {path:?}"), document(id, path)))
    .chain([
        (
            "a file above 16 MiB".to_owned(),
            [&[2][..], &0x0100_0001u32.to_le_bytes(), &[0; 4], &[0, 0]].concat(),
        ),
        (
            "a name with a slash".to_owned(),
            [&[2][..], &[0; 8], &[3, 0], b"a/b"].concat(),
        ),
        (
            "a shape of stream that is none".to_owned(),
            [&[3][..], &[1, 0, 0, 0], &[9]].concat(),
        ),
        ("a kind that is none".to_owned(), vec![9, 9, 9]),
    ])
    .collect();
    for (what, descriptor) in lies {
        let mut client = attack.client();
        client.send_bytes(&head(&descriptor));
        doomed.push(what, client);
    }
    doomed.are_closed();
    attack.the_broker_is_well();
}

#[test]
fn a_stream_that_was_not_offered_is_not_waited_for_for_ever() {
    let mut attack = Attack::on_the_bus_alone("");
    let mut client = attack.client();
    let body = Body::new().unix_fd(0);
    let method = crate::raw_guest::Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.example.X",
        member: "Take",
    };
    let stream = Descriptor::Stream {
        id: StreamId(77),
        shape: Shape::Reads,
    };
    let serial = client.send_call(method, &body, vec![stream]);
    // Somebody else is served while the broker waits for the stream.
    attack.the_broker_is_well();
    // Refused in time, or the connection is ended.
    while let Some(message) = client.message_or_end() {
        if message.header().reply_serial == Some(serial) {
            assert!(message.error_name().is_some(), "{message}");
            break;
        }
    }
}

#[test]
fn a_flood_of_connections_that_say_nothing_makes_way() {
    let mut attack = Attack::on_the_bus_alone("");
    attack.the_broker_is_well();
    let before = attack.broker.descriptors();
    let silent: Vec<RawGuest> = (0..2000).map(|_| RawGuest::connect(&attack.port)).collect();
    attack.the_broker_is_well();
    // 64 may stay, with a few descriptors each. The oldest go as the newest come; on a busy machine a moment later.
    let deadline = Deadline::usual();
    loop {
        let held = attack.broker.descriptors().saturating_sub(before);
        if held < 64 * 6 {
            break;
        }
        assert!(
            !deadline.left().is_zero(),
            "{held} descriptors for connections that say nothing"
        );
        std::thread::yield_now();
    }
    drop(silent);
}

#[test]
fn half_a_frame_and_silence_do_not_keep_others_waiting() {
    let mut attack = Attack::on_the_bus_alone("");
    let halves: Vec<RawGuest> = (0..20)
        .map(|_| {
            let mut client = attack.client();
            let whole = Frame::Data(&[0; MAX_PAYLOAD]).to_bytes();
            client.stream.write_all(&whole[..7]).expect("a few bytes");
            client
        })
        .collect();
    attack.the_broker_is_well();
    drop(halves);
    attack.the_broker_is_well();
}
