//! Writes the inputs with which fuzzing begins, under `corpus/`.

use std::io::Write;
use std::path::Path;

use dbus_wire::{Body, Builder, Endian, MessageType};
use sidebus::crossing::{Access, DocumentFile, DocumentId, DocumentPath};
use sidebus::wire::{
    ClientOpening, ControlOpening, Descriptor, Frame, MessageHead, Open, Purpose, Reason, Refused,
    Shape, StreamId, StreamOpening, VERSION, Welcome,
};

fn main() -> std::io::Result<()> {
    let messages = messages();
    let with = |first: u8, rest: &[u8]| [&[first], rest].concat();

    let mut frames = vec![with(7, &messages.concat())];
    frames.extend(messages.iter().map(|message| with(1, message)));
    write("frames", &frames)?;

    let edits = [0u8, 0b0000_0010, 0b0000_1001, 0b1111_1111, 0b0001_0101];
    let edited = |message: &Vec<u8>| edits.map(|edit| with(edit, message));
    write(
        "header",
        &messages.iter().flat_map(edited).collect::<Vec<_>>(),
    )?;

    let mut inputs = Vec::new();
    for body in bodies(Endian::Little).iter().chain(&bodies(Endian::Big)) {
        let order = if body.endian() == Endian::Big {
            0x80
        } else {
            0
        };
        // All signatures here are shorter than 128 bytes.
        let first = order | body.signature.len() as u8;
        inputs.push([&[first], body.signature.as_bytes(), &body.bytes].concat());
    }
    write("body", &inputs)?;

    let rules = [
        "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged',path='/org/freedesktop/DBus',arg0='org.kde.foo'",
        "type='signal',path_namespace='/a',arg0namespace='org.kde'",
        "arg0path='/aa/',arg63='x',destination=':1.2',eavesdrop='true'",
        "arg0='it'\\''s',arg1=\\',arg2=a\\b, type=method_call ",
        "path='/a',path_namespace='/b'",
        "type='error',='x'",
        "type=method_return,member=M,",
    ];
    write("match_rule", &rules.map(|rule| rule.as_bytes().to_vec()))?;

    let scripts = [
        "\0AUTH EXTERNAL 31303030\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\x01\0\x01",
        "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n",
        "\0AUTH\r\nAUTH ANONYMOUS 78\r\nBEGIN\r\n",
        "\0AUTH EXTERNAL 30\r\nAUTH EXTERNAL 30\r\nAUTH EXTERNAL 30\r\nAUTH EXTERNAL 30\r\nAUTH EXTERNAL 30\r\nAUTH EXTERNAL 30\r\n",
        "\0AUTH EXTERNAL 31303030\r\nCANCEL\r\nDATA zz\r\nERROR\r\nFOO\r\nBEGIN\r\n",
    ];
    let inputs: Vec<_> = scripts
        .iter()
        .flat_map(|script| [with(0x0e, script.as_bytes()), with(0x0d, script.as_bytes())])
        .collect();
    write("sasl_server", &inputs)?;

    let answers = [
        "OK 07070707070707070707070707070707\r\nAGREE_UNIX_FD\r\nl\x02\x01\x01",
        "DATA\r\nOK 07070707070707070707070707070707\r\nERROR \"no\"\r\n",
        "REJECTED EXTERNAL DBUS_COOKIE_SHA1\r\n",
    ];
    let inputs: Vec<_> = answers
        .iter()
        .flat_map(|answer| (0..8).map(|first| with(first, answer.as_bytes())))
        .collect();
    write("sasl_client", &inputs)?;

    let addresses = [
        "unix:path=/run/user/1000/bus,guid=00112233445566778899aabbccddeeff;unix:abstract=/tmp/x",
        "unixexec:path=ssh,argv0=x,argv1=-xT,argv2=host;tcp:host=localhost,port=1;",
        "unix:runtime=yes;unix:dir=/tmp;unix:tmpdir=/tmp%20a",
        "autolaunch:",
    ];
    write(
        "addresses",
        &addresses.map(|address| address.as_bytes().to_vec()),
    )?;

    write("sidebus_frames", &sidebus_frames())?;

    let names = [
        ":1.42",
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "GetAll",
        "a{sv}",
        "a(ii)as(y(xd))",
        "ybnqiuxtdsogvh",
        ":1",
        "a{s(ayv)}",
        "org.kde.foo-1",
    ];
    write("names", &names.map(|name| name.as_bytes().to_vec()))
}

/// Each kind of frame by itself, and the connections as they are.
fn sidebus_frames() -> Vec<Vec<u8>> {
    let token = [7; 16];
    let control = Purpose::Control(ControlOpening {
        resume: token,
        agent: "0.1.0".to_owned(),
        host_name: "guest".to_owned(),
    });
    let client = Purpose::Client(ClientOpening {
        session: token,
        uid: 1000,
        pid: 4711,
        app_id: "org.kde.okular".to_owned(),
        documents: "/run/user/1000/doc".into(),
        unix_fds: true,
    });
    let stream = StreamOpening {
        client: token,
        stream: 1,
    };
    let document = DocumentFile {
        id: DocumentId::parse("ab12").expect("an id"),
        path: DocumentPath::parse("dir/file.txt".as_ref()).expect("a path"),
        access: Access::ReadWrite,
    };
    let descriptors = vec![
        Descriptor::Document(document),
        Descriptor::Bytes {
            len: 3,
            position: 1,
            name: "icon.png".to_owned(),
        },
        Descriptor::Stream {
            id: StreamId(1),
            shape: Shape::Socket,
        },
    ];
    let message = &messages()[0];
    let head = Frame::Message(MessageHead {
        message_len: message.len() as u32,
        descriptors,
    });
    let welcome = Frame::Welcome(Welcome {
        version: VERSION,
        token,
        message_bytes: 1 << 25,
        fds_per_message: 16,
    });
    let refused = Frame::Refused(Refused {
        reason: Reason::Limits,
        text: "too many".to_owned(),
    });
    let connections = [
        vec![
            Frame::Open(Open::new(control)),
            welcome,
            Frame::Ping(1),
            Frame::Pong(1),
            Frame::Goodbye("the end"),
        ],
        vec![
            Frame::Open(Open::new(client)),
            head,
            Frame::Content(b"abc"),
            Frame::Content(b""),
            Frame::Data(message),
        ],
        vec![
            Frame::Open(Open::new(Purpose::Offer(stream.clone()))),
            Frame::Data(b"x"),
            Frame::Stop,
            Frame::End,
        ],
        vec![Frame::Open(Open::new(Purpose::Answer(stream))), refused],
    ];
    let mut inputs = Vec::new();
    for frames in connections {
        let frames: Vec<Vec<u8>> = frames.iter().map(Frame::to_bytes).collect();
        inputs.push([vec![5], frames.concat()].concat());
        inputs.extend(frames.into_iter().map(|frame| [vec![1], frame].concat()));
    }
    inputs
}

fn messages() -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for endian in [Endian::Little, Endian::Big] {
        let unknown = Body::with_endian(endian).dict_sv(|d| {
            d.entry("k", |v| v.strs(["x"]));
        });
        for body in &bodies(endian)[..3] {
            messages.push(
                Builder::method_call("/org/freedesktop/DBus", "Hello")
                    .endian(endian)
                    .interface("org.freedesktop.DBus")
                    .destination("org.freedesktop.DBus")
                    .sender(":1.7")
                    .unix_fds(1)
                    .body(body)
                    .build(),
            );
            messages.push(
                Builder::method_return(9)
                    .endian(endian)
                    .destination(":1.7")
                    .body(body)
                    .build(),
            );
        }
        messages.push(
            Builder::signal("/", "a.b", "C")
                .endian(endian)
                .field(77, unknown.clone())
                .sender(":1.2")
                .build(),
        );
        messages.push(Builder::error("a.b", 3, "text").endian(endian).build());
        messages.push(
            Builder::new(MessageType::Unknown(9))
                .endian(endian)
                .field(10, unknown)
                .build(),
        );
    }
    messages
}

fn bodies(endian: Endian) -> Vec<Body> {
    let new = || Body::with_endian(endian);
    let mut deep = new().byte(1);
    for _ in 0..64 {
        deep = new().variant(|v| v.append(&deep));
    }
    vec![
        new().str("org.kde.foo").u32(4),
        new().object_path("/a").strs(["x", "yy"]).dict_sv(|d| {
            d.entry("a", |v| v.boolean(true))
                .entry("b", |v| v.strs(["q"]))
                .entry("c", |v| v.struct_(|s| s.u64(1).byte(2)));
        }),
        new().unix_fd(0).bytes(b"bytes").double(0.5),
        new()
            .byte(1)
            .i16(-1)
            .u16(1)
            .i32(-1)
            .u32(1)
            .i64(-1)
            .u64(1)
            .signature("a{sv}"),
        new().array("(sa{uv})", |a| {
            a.struct_(|s| {
                s.str("x").array("{uv}", |a| {
                    a.dict_entry(|e| e.u32(1).variant(|v| v.byte(2)))
                })
            })
        }),
        new().array("v", |a| {
            a.variant(|v| v.variant(|v| v.str("x")))
                .variant(|v| v.array("ab", |a| a.array("b", |a| a.boolean(true))))
        }),
        deep,
        new(),
    ]
}

fn write(target: &str, inputs: &[Vec<u8>]) -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    std::fs::create_dir_all(&directory)?;
    for (number, input) in inputs.iter().enumerate() {
        std::fs::File::create(directory.join(format!("seed-{number:02}")))?.write_all(input)?;
    }
    Ok(())
}
