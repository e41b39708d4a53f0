//! What a hostile guest tries with the portals of the host, which are real.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dbus_wire::Body;
use sidebus::crossing::{Access, DocumentFile, DocumentId, DocumentPath};
use sidebus::wire::Descriptor;
use testbed::{Received, tools};

use crate::Attack;
use crate::backend::{Value, entry};
use crate::broker::{Broker, BrokerOptions};
use crate::desktop::Desktop;
use crate::raw_guest::Method;

const FILE_CHOOSER: &str = "org.freedesktop.portal.FileChooser";
const OPEN_URI: &str = "org.freedesktop.portal.OpenURI";
const DOCUMENTS: Method<'_> = Method {
    destination: "org.freedesktop.portal.Documents",
    path: "/org/freedesktop/portal/documents",
    interface: "org.freedesktop.portal.Documents",
    member: "",
};

/// A host with a desktop, and an attacker on the machine's port.
struct Target {
    attack: Attack,
    desktop: Desktop,
    runtime: tokio::runtime::Runtime,
}

impl Target {
    fn start() -> Target {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let desktop = runtime.block_on(Desktop::start());
        let options = BrokerOptions {
            host_bus: Some(desktop.bus.address().to_owned()),
            ..BrokerOptions::default()
        };
        let attack = Attack::on(Broker::start(&desktop.dir, &options));
        Target {
            attack,
            desktop,
            runtime,
        }
    }

    /// Which process the host's portals are: another one if they had to be started again.
    fn portal(&self) -> String {
        self.runtime.block_on(async {
            let answer = self
                .desktop
                .backend
                .connection
                .call_method(
                    Some("org.freedesktop.DBus"),
                    "/org/freedesktop/DBus",
                    Some("org.freedesktop.DBus"),
                    "GetNameOwner",
                    &"org.freedesktop.portal.Desktop",
                )
                .await
                .expect("the portal runs");
            answer.body().deserialize().expect("a name")
        })
    }

    /// Nothing of this kind has been asked of the person so far.
    fn nobody_was_asked(&self, what: &str) {
        let calls = self.runtime.block_on(self.desktop.backend.calls_so_far());
        let asked: Vec<String> = calls.iter().map(crate::backend::Call::name).collect();
        assert!(
            !asked.iter().any(|name| name.starts_with(what)),
            "{asked:?}"
        );
    }
}

/// Skips a test where the host's portals cannot be had.
macro_rules! needs_portals {
    () => {
        testbed::needs!(
            tools::DBUS_DAEMON,
            tools::PORTAL,
            tools::PERMISSION_STORE,
            tools::DOCUMENT_PORTAL,
        );
        if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
            testbed::skip!("/dev/fuse cannot be opened ({error}), so nothing can be mounted");
        }
    };
}

fn open_file(token: Option<&str>) -> Body {
    Body::new().str("").str("Choose").dict_sv(|options| {
        if let Some(token) = token {
            options.entry("handle_token", |value| value.str(token));
        }
    })
}

#[test]
fn ten_thousand_requests_meet_a_limit_and_end_with_their_client() {
    needs_portals!();
    let mut target = Target::start();
    target
        .desktop
        .backend
        .answer("FileChooser.OpenFile", |_| None);
    let before = target.attack.broker.memory();
    let mut client = target.attack.client();
    let method = Method::of_portal(FILE_CHOOSER, "OpenFile");
    let (mut taken, mut refused) = (0, 0);
    // In waves, so that what is counted is the limit on requests and not the one on calls that wait.
    for wave in 0..100 {
        let serials: Vec<u32> = (0..100)
            .map(|number| {
                let token = format!("t{wave}_{number}");
                client.send_call(method, &open_file(Some(&token)), Vec::new())
            })
            .collect();
        let mut open = serials.len();
        while open > 0 {
            let message = client.message();
            if message
                .header()
                .reply_serial
                .is_none_or(|serial| !serials.contains(&serial))
            {
                continue;
            }
            open -= 1;
            match message.error_name() {
                None => taken += 1,
                Some(_) => refused += 1,
            }
        }
    }
    assert_eq!(
        (taken, refused),
        (64, 10_000 - 64),
        "requests_per_client is 64"
    );
    let open = target.attack.broker.status()["requests"]
        .as_array()
        .map(Vec::len);
    assert_eq!(open, Some(64));
    target.attack.the_broker_is_well();
    let cost = target.attack.broker.memory().saturating_sub(before);
    assert!(cost < 64 << 20, "{cost} bytes");
    drop(client);
    target.runtime.block_on(async {
        for _ in 0..64 {
            let closed = target.desktop.backend.called("Request.Close");
            tokio::time::timeout(Duration::from_secs(30), closed)
                .await
                .expect("each request is closed on the host");
        }
    });
}

#[test]
fn files_are_no_uris_to_open_and_schemes_are_allowed_by_name() {
    needs_portals!();
    let mut target = Target::start();
    let mut client = target.attack.client();
    let method = Method::of_portal(OPEN_URI, "OpenURI");
    for uri in [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "File:/etc/passwd",
        "file:etc",
        " file:///etc/passwd",
        "\tfile:///etc/passwd",
        "file\n:///etc/passwd",
        "/etc/passwd",
        "",
        ":",
        "javascript:alert(1)",
        "admin:///etc/passwd",
        "smb://host/share",
        "vnd.example.command:rm",
    ] {
        let body = Body::new().str("").str(uri).dict_sv(|_| {});
        let reply = client.call(method, &body);
        assert!(reply.error_name().is_some(), "{uri:?} gave {reply}");
    }
    target.nobody_was_asked("AppChooser");
    target.attack.the_broker_is_well();
}

#[test]
fn tokens_that_kill_the_hosts_portal_do_not_reach_it() {
    needs_portals!();
    let mut target = Target::start();
    target
        .desktop
        .backend
        .answer("FileChooser.OpenFile", |_| None);
    let mut client = target.attack.client();
    let method = Method::of_portal(FILE_CHOOSER, "OpenFile");
    let first = client.call(method, &open_file(Some("good"))).returned();
    let before = target.portal();
    let long = "x".repeat(100_000);
    for token in ["", " ", "a b", "a-b", "../../x", "a/b", "ä", "a.b", &long] {
        let reply = client.call(method, &open_file(Some(token)));
        assert!(reply.error_name().is_some(), "{token:?} gave {reply}");
    }
    // The same one again while the first is open: another request, or none; never the first.
    let again = client.call(method, &open_file(Some("good")));
    if again.error_name().is_none() {
        assert_ne!(again.reader().object_path(), first.reader().object_path());
    }
    assert_eq!(target.portal(), before, "the host's portal has not died");
    target.attack.the_broker_is_well();
}

#[test]
fn paths_of_the_host_in_options_are_nothing_to_the_guest() {
    needs_portals!();
    let mut target = Target::start();
    target
        .desktop
        .backend
        .answer("FileChooser.OpenFile", |_| None);
    let mut client = target.attack.client();
    let method = Method::of_portal(FILE_CHOOSER, "OpenFile");
    let mount = "/run/sidebus/documents";
    for folder in [
        "/etc\0".to_owned(),
        "/etc".to_owned(),
        "\0".to_owned(),
        String::new(),
        format!("{mount}/../../../etc\0"),
        format!("{mount}/nothing/../../..\0"),
        format!("{mount}/./..\0"),
        format!("{mount}\0/etc\0"),
        "relative\0".to_owned(),
        format!("/{}\0", "x/".repeat(30_000)),
    ] {
        let body = Body::new().str("").str("Choose").dict_sv(|options| {
            options.entry("current_folder", |value| value.bytes(folder.as_bytes()));
            options.entry("unheard-of", |value| value.str("/etc/passwd"));
        });
        let reply = client.call(method, &body);
        if reply.error_name().is_none() {
            let asked = target
                .runtime
                .block_on(target.desktop.backend.called("FileChooser.OpenFile"));
            let options = &asked.arguments[4];
            assert!(entry(options, "unheard-of").is_none());
            if let Some(Value::Array(given)) = entry(options, "current_folder") {
                panic!("{folder:?} arrived on the host as {given:?}");
            }
        }
    }
    target.attack.the_broker_is_well();
}

#[test]
fn documents_that_are_not_the_guests_are_not_there() {
    needs_portals!();
    let mut target = Target::start();
    let mut client = target.attack.client();
    let with_id = |id: &str| Body::new().str(id);
    for id in [
        "abcd1234",
        "",
        "..",
        "../..",
        "by-app",
        "/",
        "a\u{feff}",
        &"f".repeat(5000),
    ] {
        for member in ["Info", "Delete"] {
            let reply = client.call(
                Method {
                    member,
                    ..DOCUMENTS
                },
                &with_id(id),
            );
            assert!(reply.error_name().is_some(), "{member} {id:?} gave {reply}");
        }
        let body = Body::new()
            .str(id)
            .str("org.example.Other")
            .array("s", |permissions| permissions.str("write"));
        let reply = client.call(
            Method {
                member: "GrantPermissions",
                ..DOCUMENTS
            },
            &body,
        );
        assert!(reply.error_name().is_some(), "{id:?} gave {reply}");
    }
    let lookup = Method {
        member: "Lookup",
        ..DOCUMENTS
    };
    let reply = client.call(lookup, &Body::new().bytes(b"/etc/passwd\0"));
    assert!(
        reply.error_name().is_some() || reply.text().is_empty(),
        "{reply}"
    );
    // A descriptor that names a document the guest was never given.
    for (id, path) in [("abcd1234", "x"), ("abcd1234", "")] {
        let reply = add(&mut client, id, path);
        assert!(reply.error_name().is_some(), "{reply}");
    }
    target.attack.the_broker_is_well();
}

/// `Documents.Add` with what stands for a descriptor.
fn add(client: &mut crate::raw_guest::RawGuest, id: &str, path: &str) -> Received {
    let document = Descriptor::Document(DocumentFile {
        id: DocumentId::parse(id).expect("it can be one"),
        path: DocumentPath::parse(Path::new(path)).expect("it can be one"),
        access: Access::Read,
    });
    let body = Body::new().unix_fd(0).boolean(false).boolean(false);
    let serial = client.send_call(
        Method {
            member: "Add",
            ..DOCUMENTS
        },
        &body,
        vec![document],
    );
    client.reply_to(serial)
}

#[test]
fn a_link_in_a_shared_directory_leads_nowhere_also_when_it_changes_in_between() {
    needs_portals!();
    let mut target = Target::start();
    let secret = target.desktop.file("secret", "the host's secret");
    let shared = target.desktop.dir.make_dir("home/shared");
    fs::write(shared.join("mine"), "the guest's").expect("a file");
    let uri = format!("file://{}", shared.display());
    target
        .desktop
        .backend
        .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);

    let mut client = target.attack.client();
    let body = Body::new().str("").str("Choose").dict_sv(|options| {
        options.entry("directory", |value| value.boolean(true));
    });
    client
        .call(Method::of_portal(FILE_CHOOSER, "OpenFile"), &body)
        .returned();
    let response = loop {
        let message = client.message();
        if message.header().member == Some("Response") {
            break message;
        }
    };
    let text = String::from_utf8_lossy(response.message.body()).into_owned();
    let (_, rest) = text
        .split_once("/run/sidebus/documents/")
        .expect("a path in the guest");
    let id: String = rest
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();

    // What virtiofs would do for the guest, in the directory of the guest's view.
    let view: PathBuf = target
        .attack
        .broker
        .runtime_dir()
        .join("doc/by-app/vm.test")
        .join(&id)
        .join("shared");
    assert_eq!(
        fs::read_to_string(view.join("mine")).expect("the document"),
        "the guest's"
    );
    for (name, leads_to) in [
        ("out", secret.clone()),
        ("above", PathBuf::from("../secret")),
        ("root", PathBuf::from("/etc/passwd")),
    ] {
        if symlink(&leads_to, view.join(name)).is_err() {
            // The document portal refuses links; a program of the host could still have put one there.
            symlink(&leads_to, shared.join(name)).expect("a link");
        }
        let reply = add(&mut client, &id, &format!("shared/{name}"));
        assert!(reply.error_name().is_some(), "{name} gave {reply}");
    }

    // The same name is the guest's file in one moment, and a link to the secret in the next.
    let done = AtomicBool::new(false);
    let (a, b, flipping) = (shared.join("a"), shared.join("b"), shared.join("flip"));
    fs::write(&a, "the guest's").expect("a file");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::hard_link(&a, &b).expect("a file");
                fs::rename(&b, &flipping).expect("it is ours");
                symlink(&secret, &b).expect("a link");
                fs::rename(&b, &flipping).expect("it is ours");
                // Renaming a hard link over the same file does nothing and leaves both.
                let _ = fs::remove_file(&b);
            }
        });
        for _ in 0..200 {
            let reply = add(&mut client, &id, "shared/flip");
            if reply.error_name().is_some() {
                continue;
            }
            let given = reply.strings()[0].to_owned();
            let info = client.call(
                Method {
                    member: "Info",
                    ..DOCUMENTS
                },
                &Body::new().str(&given),
            );
            let info = String::from_utf8_lossy(info.message.body()).into_owned();
            assert!(!info.contains("secret"), "{info}");
            let view = target
                .attack
                .broker
                .runtime_dir()
                .join("doc/by-app/vm.test")
                .join(&given);
            for file in fs::read_dir(&view).into_iter().flatten().flatten() {
                // The link may be there again by now; then it cannot be followed.
                if let Ok(text) = fs::read_to_string(file.path()) {
                    assert_ne!(text, "the host's secret", "{given}");
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    target.attack.the_broker_is_well();
}
