//! Properties that hold for every frame: however it was split on its way, and whatever somebody makes of its bytes.

use std::path::PathBuf;

use proptest::prelude::*;
use sidebus::crossing::{Access, DocumentFile, DocumentId, DocumentPath};
use sidebus::wire::{
    ClientOpening, ControlOpening, Descriptor, Frame, HEADER_LEN, MAX_FILE_LEN, MAX_PAYLOAD,
    MessageHead, Open, Purpose, Reason, Refused, Shape, StreamId, StreamOpening, Welcome,
    WireError, measure, parse,
};

fn text(most: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..most / 4)
        .prop_map(|chars| chars.into_iter().filter(|c| *c != '\0').collect())
}

fn path() -> impl Strategy<Value = PathBuf> {
    "(/[a-zäö. ]{1,20}){0,4}".prop_map(PathBuf::from)
}

fn purpose() -> impl Strategy<Value = Purpose> {
    let control =
        (any::<[u8; 16]>(), text(64), text(255)).prop_map(|(resume, agent, host_name)| {
            Purpose::Control(ControlOpening {
                resume,
                agent,
                host_name,
            })
        });
    let client = (
        any::<[u8; 16]>(),
        any::<u32>(),
        any::<u32>(),
        text(255),
        path(),
        any::<bool>(),
    )
        .prop_map(|(session, uid, pid, app_id, documents, unix_fds)| {
            Purpose::Client(ClientOpening {
                session,
                uid,
                pid,
                app_id,
                documents,
                unix_fds,
            })
        });
    let stream = (any::<[u8; 16]>(), any::<u32>())
        .prop_map(|(client, stream)| StreamOpening { client, stream });
    prop_oneof![
        control,
        client,
        stream.clone().prop_map(Purpose::Offer),
        stream.prop_map(Purpose::Answer),
    ]
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let access = prop_oneof![
        Just(Access::Path),
        Just(Access::Read),
        Just(Access::Write),
        Just(Access::ReadWrite)
    ];
    let document = (
        "[a-z0-9]{1,64}",
        "[a-z]{0,9}(/[a-zäö. ]{1,2}x){0,4}",
        access,
    )
        .prop_filter_map("a path of names", |(id, path, access)| {
            Some(Descriptor::Document(DocumentFile {
                id: DocumentId::parse(&id)?,
                path: DocumentPath::parse(&PathBuf::from(path.trim_start_matches('/')))?,
                access,
            }))
        });
    let bytes =
        (0..=MAX_FILE_LEN, any::<u32>(), "[^/\0]{0,60}").prop_map(|(len, position, name)| {
            Descriptor::Bytes {
                len,
                position,
                name,
            }
        });
    let shape = prop_oneof![Just(Shape::Reads), Just(Shape::Writes), Just(Shape::Socket)];
    let stream = (any::<u32>(), shape).prop_map(|(id, shape)| Descriptor::Stream {
        id: StreamId(id),
        shape,
    });
    prop_oneof![document, bytes, stream]
}

/// A frame as bytes, so that those which borrow can be made of owned values.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let reason = prop_oneof![
        Just(Reason::Version),
        Just(Reason::Limits),
        Just(Reason::UnknownToken),
        Just(Reason::AgentPresent),
        Just(Reason::Unavailable)
    ];
    let bytes = || proptest::collection::vec(any::<u8>(), 1..300);
    prop_oneof![
        purpose().prop_map(|purpose| Frame::Open(Open::new(purpose)).to_bytes()),
        (any::<u16>(), any::<[u8; 16]>(), any::<u32>(), any::<u32>()).prop_map(
            |(version, token, message_bytes, fds_per_message)| {
                Frame::Welcome(Welcome {
                    version,
                    token,
                    message_bytes,
                    fds_per_message,
                })
                .to_bytes()
            }
        ),
        (reason, text(1024))
            .prop_map(|(reason, text)| Frame::Refused(Refused { reason, text }).to_bytes()),
        any::<u64>().prop_map(|number| Frame::Ping(number).to_bytes()),
        any::<u64>().prop_map(|number| Frame::Pong(number).to_bytes()),
        text(1024).prop_map(|reason| Frame::Goodbye(&reason).to_bytes()),
        (1..u32::MAX, proptest::collection::vec(descriptor(), 0..8)).prop_map(
            |(message_len, descriptors)| {
                Frame::Message(MessageHead {
                    message_len,
                    descriptors,
                })
                .to_bytes()
            }
        ),
        bytes().prop_map(|bytes| Frame::Content(&bytes).to_bytes()),
        bytes().prop_map(|bytes| Frame::Data(&bytes).to_bytes()),
        Just(Frame::Content(&[]).to_bytes()),
        Just(Frame::End.to_bytes()),
        Just(Frame::Stop.to_bytes()),
    ]
}

proptest! {
    #[test]
    fn a_frame_that_was_written_is_read_and_written_the_same(bytes in frame()) {
        let read = parse(&bytes).unwrap();
        prop_assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn a_stream_of_frames_comes_apart_where_it_was_put_together(
        frames in proptest::collection::vec(frame(), 1..6),
        size in 1usize..64,
    ) {
        let stream = frames.concat();
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Ok(len) = measure(&buffer).unwrap() {
                parse(&buffer[..len]).unwrap();
                found.push(buffer.drain(..len).collect::<Vec<u8>>());
            }
        }
        prop_assert_eq!(found, frames);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_read_of_any_bytes_is_written_as_those_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = parse(&bytes) {
            prop_assert_eq!(frame.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_frame_with_one_bit_changed_is_read_as_another_or_refused(
        bytes in frame(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut changed = bytes.clone();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        if let Ok(Ok(len)) = measure(&changed)
            && len == changed.len()
            && let Ok(frame) = parse(&changed)
        {
            prop_assert_eq!(frame.to_bytes(), changed);
        }
    }

    #[test]
    fn a_frame_cut_short_is_never_whole(bytes in frame(), at in any::<prop::sample::Index>()) {
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(matches!(measure(cut), Ok(Err(needed)) if needed > cut.len()));
        prop_assert!(parse(cut).is_err());
    }
}

fn with_header(len: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_the_payload_comes() {
    let most = MAX_PAYLOAD as u32;
    assert_eq!(
        measure(&with_header(most + 1, 9, b"")),
        Err(WireError::Oversized(most + 1))
    );
    assert_eq!(
        measure(&with_header(u32::MAX, 9, b"")),
        Err(WireError::Oversized(u32::MAX))
    );
    assert_eq!(
        measure(&with_header(most, 9, b"")),
        Ok(Err(MAX_PAYLOAD + HEADER_LEN))
    );
}

#[test]
fn unknown_kinds_and_bits_are_refused() {
    for kind in [0, 12, 255] {
        assert_eq!(
            measure(&with_header(0, kind, b"")),
            Err(WireError::Kind(kind))
        );
    }
    let mut bytes = Frame::End.to_bytes();
    bytes[6] = 1;
    assert_eq!(measure(&bytes), Err(WireError::Reserved));
}

#[test]
fn another_version_is_told_from_nonsense() {
    let mut bytes = Frame::Open(Open::new(Purpose::Control(ControlOpening {
        resume: [0; 16],
        agent: "9".into(),
        host_name: "guest".into(),
    })))
    .to_bytes();
    bytes[HEADER_LEN + 8..HEADER_LEN + 12].copy_from_slice(&[2, 0, 7, 0]);
    assert_eq!(
        parse(&bytes),
        Err(WireError::Version {
            lowest: 2,
            highest: 7
        })
    );
    // A newer agent that still speaks this version is understood.
    bytes[HEADER_LEN + 8..HEADER_LEN + 12].copy_from_slice(&[1, 0, 7, 0]);
    assert!(parse(&bytes).is_ok());
    bytes[HEADER_LEN] = b's';
    assert_eq!(parse(&bytes), Err(WireError::Magic));
}

#[test]
fn a_path_that_leads_out_of_a_document_is_no_descriptor() {
    let frame = |id: &str, path: &str| {
        let mut payload = 10u32.to_le_bytes().to_vec();
        payload.extend([1, 1, 1]);
        for text in [id, path] {
            payload.extend((text.len() as u16).to_le_bytes());
            payload.extend(text.as_bytes());
        }
        with_header(payload.len() as u32, 7, &payload)
    };
    assert!(parse(&frame("ab12", "dir/file")).is_ok());
    for (id, path) in [
        ("ab12", "../x"),
        ("ab12", "dir/../../x"),
        ("ab12", "/etc/passwd"),
        ("ab12", "a//b"),
        ("..", "x"),
        ("by-app", "x"),
        ("a/b", "x"),
        ("", "x"),
    ] {
        let bytes = frame(id, path);
        let refused = parse(&bytes);
        assert_eq!(refused, Err(WireError::Document), "{id} {path}");
    }
    assert_eq!(parse(&frame("ab12", "a\0b")), Err(WireError::Text));
}

#[test]
fn a_head_says_how_much_its_files_take_and_whether_it_fits() {
    let document = |path: &str| {
        Descriptor::Document(DocumentFile {
            id: DocumentId::parse("ab12").unwrap(),
            path: DocumentPath::parse(&PathBuf::from(path)).unwrap(),
            access: Access::Read,
        })
    };
    let file = Descriptor::Bytes {
        len: MAX_FILE_LEN,
        position: 0,
        name: String::new(),
    };
    let head = |descriptors| MessageHead {
        message_len: 1,
        descriptors,
    };
    assert_eq!(
        head(vec![file.clone(), document("x"), file]).file_room(),
        2 * u64::from(MAX_FILE_LEN)
    );
    let long = "x/".repeat(2000) + "x";
    assert!(head(vec![document(&long); 15]).fits());
    assert!(!head(vec![document(&long); 17]).fits());
    assert!(!head(vec![document("x"); 65]).fits());
}
