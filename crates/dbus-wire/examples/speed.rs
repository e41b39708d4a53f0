//! How long the ways of a message through this crate take: `cargo run --release --example speed`.
//!
//! The figure for each is the best of several rounds, so that other work on the machine counts little.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dbus_wire::{
    Args, Body, Builder, Change, Edit, Header, MatchRule, Message, UniqueName, check_body, scan,
};

const ROUNDS: usize = 300;
const ROUND: Duration = Duration::from_micros(500);

/// Prints nanoseconds per call, and gigabytes per second if the work goes over `bytes`.
fn measure<T>(name: &str, bytes: usize, mut work: impl FnMut() -> T) {
    let mut calls = 1u32;
    loop {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(work());
        }
        if start.elapsed() >= ROUND {
            break;
        }
        calls *= 2;
    }
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..calls {
                black_box(work());
            }
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    let nanoseconds = best.as_secs_f64() * 1e9 / f64::from(calls);
    if bytes > 0 {
        let speed = bytes as f64 / nanoseconds;
        println!("{name:<52} {nanoseconds:>12.1} ns {speed:>8.2} GB/s");
    } else {
        println!("{name:<52} {nanoseconds:>12.1} ns");
    }
}

fn main() {
    let body = Body::new().str("org.kde.foo").u32(0);
    let call = Builder::method_call("/org/freedesktop/portal/desktop", "OpenFile")
        .interface("org.freedesktop.portal.FileChooser")
        .destination("org.freedesktop.portal.Desktop")
        .serial(42)
        .body(&body)
        .build();
    let with_sender = Builder::method_call("/org/freedesktop/portal/desktop", "OpenFile")
        .interface("org.freedesktop.portal.FileChooser")
        .destination("org.freedesktop.portal.Desktop")
        .sender(":1.1234")
        .serial(42)
        .body(&body)
        .build();
    let reply = Builder::method_return(42)
        .sender(":1.7")
        .destination(":1.1234")
        .build();
    let signal_body = Body::new()
        .str("org.kde.foo")
        .dict_sv(|d| {
            d.entry("Volume", |v| v.double(0.5)).entry("Metadata", |v| {
                v.dict_sv(|d| {
                    d.entry("title", |v| v.str("A title"));
                })
            });
        })
        .strs([""; 0]);
    let signal = Builder::signal(
        "/org/mpris/MediaPlayer2",
        "org.freedesktop.DBus.Properties",
        "PropertiesChanged",
    )
    .sender(":1.55")
    .body(&signal_body)
    .build();

    let header_len = |message: &[u8]| match scan(message) {
        Ok(dbus_wire::Scan::Message(prologue)) => prologue.header_len(),
        other => panic!("{other:?}"),
    };
    println!("method call: {} bytes of header", header_len(&call));
    measure("scan, method call", 0, || scan(black_box(&call)));
    for (name, message) in [
        ("method call", &call),
        ("method call with sender", &with_sender),
        ("method return", &reply),
        ("signal", &signal),
    ] {
        let bytes = &message[..header_len(message)];
        measure(&format!("Header::parse, {name}"), 0, || {
            Header::parse(black_box(bytes))
        });
        let header = Header::parse(bytes).expect("built here");
        measure(&format!("Header::check, {name}"), 0, || {
            black_box(&header).check()
        });
        let mut out = Vec::with_capacity(1024);
        let edit = Edit {
            sender: Change::Set(":1.1234"),
            ..Edit::default()
        };
        measure(&format!("Header::rewrite sender, {name}"), 0, || {
            out.clear();
            black_box(&header).rewrite(black_box(&edit), &mut out);
            out.len()
        });
    }
    measure("UniqueName::parse", 0, || {
        UniqueName::parse(black_box(":1.1234"))
    });

    let message = Message::parse(signal.clone()).expect("built here");
    let header = message.header();
    for rule in [
        "type='signal',interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',path='/org/mpris/MediaPlayer2'",
        "type='signal',path_namespace='/org/mpris',arg0='org.kde.foo'",
        "type='signal',interface='org.freedesktop.DBus',member='NameOwnerChanged'",
        "type='signal',arg2path='/a'",
    ] {
        let rule = MatchRule::parse(rule).expect("a rule");
        let mut name = format!("matches, {rule}");
        name.truncate(52);
        measure(&name, 0, || {
            let args = Args::new(black_box(&header), message.body());
            black_box(&rule).matches(&header, &args)
        });
    }
    let text = "type='signal',sender='org.kde.foo',path_namespace='/org/mpris',arg0='org.kde.foo'";
    measure("MatchRule::parse", 0, || MatchRule::parse(black_box(text)));

    let check = |name: &str, body: &Body| {
        measure(&format!("check_body, {name}"), body.bytes.len(), || {
            check_body(body.endian(), &body.signature, black_box(&body.bytes), 0)
        });
    };
    check("su", &body);
    check("sa{sv}as, PropertiesChanged", &signal_body);
    check("ay, 1 MiB", &Body::new().bytes(&vec![7; 1 << 20]));
    check("s, 1 MiB of ASCII", &Body::new().str(&"x".repeat(1 << 20)));
    check(
        "s, 1 MiB of other letters",
        &Body::new().str(&"é".repeat(1 << 19)),
    );
    check(
        "as, 10,000 names",
        &Body::new().strs((0..10_000).map(|n| format!("org.kde.name{n}"))),
    );
    check("as, 10,000 empty", &Body::new().strs(vec![""; 10_000]));
    check(
        "ab, 100,000",
        &Body::new().array("b", |a| (0..100_000).fold(a, |a, _| a.boolean(true))),
    );
    check(
        "a{sv}, 1,000 entries",
        &Body::new().dict_sv(|d| {
            for n in 0..1000u32 {
                d.entry("some key", |v| v.u32(n));
            }
        }),
    );
    check(
        "av, 1,000 small structs (much signature, few values)",
        &Body::new().array("v", |a| {
            (0..1000).fold(a, |a, _| a.variant(|v| v.struct_(|s| s.byte(1))))
        }),
    );
    check(
        "a(oa{sa{sv}}), 100 objects",
        &Body::new().array("(oa{sa{sv}})", |a| {
            (0..100).fold(a, |a, _| {
                a.struct_(|s| {
                    s.object_path("/org/freedesktop/UDisks2/drives/x")
                        .array("{sa{sv}}", |a| {
                            a.dict_entry(|e| {
                                e.str("org.freedesktop.UDisks2.Drive").dict_sv(|d| {
                                    d.entry("Media", |v| v.str("ssd"))
                                        .entry("MediaCompatibility", |v| v.strs(["a", "b"]))
                                        .entry("Size", |v| v.u64(1));
                                })
                            })
                        })
                })
            })
        }),
    );
}
