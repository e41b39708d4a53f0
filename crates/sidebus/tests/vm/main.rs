//! A real virtual machine: Debian with systemd under qemu, the agent in it as its package installs it, and on the host the
//! broker with real portals.
//!
//! A boot costs more than all that is asked afterwards, so there is one, and one test, which says what it is about to show.

#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../portals/backend.rs"]
mod backend;
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../rig/broker.rs"]
mod broker;
#[path = "../portals/desktop.rs"]
mod desktop;

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use backend::Value;
use broker::{Broker, BrokerOptions, PORT};
use dbus_wire::Body;
use desktop::Desktop;
use rustix::process::Signal;
use testbed::{
    Arrival, Deadline, GuestFile, RawClient, Received, Vm, VmOptions, needs, or_skip, tools,
};

/// The person in the guest.
const UID: u32 = 1000;

/// The package of the guest, and what the test runs there.
fn guest_files() -> Vec<GuestFile> {
    let units = Path::new("/usr/lib/systemd/system");
    let unit = |name: &str, text: &str| {
        GuestFile::new(
            units.join(name),
            0o644,
            text.replace("@bindir@", "/usr/bin"),
        )
    };
    let agent = Path::new(env!("CARGO_BIN_EXE_sidebus-agent"));
    let script = |name: &str, text: &str| GuestFile::new(format!("/opt/{name}"), 0o644, text);
    vec![
        GuestFile::program("/usr/bin/sidebus-agent", agent).expect("it has been built"),
        unit(
            "sidebus-agent@.service",
            include_str!("../../data/guest/sidebus-agent@.service"),
        ),
        unit(
            "sidebus-agent@.socket",
            include_str!("../../data/guest/sidebus-agent@.socket"),
        ),
        unit(
            "run-sidebus-documents.mount",
            include_str!("../../data/guest/run-sidebus-documents.mount"),
        ),
        GuestFile::new(
            "/usr/lib/systemd/system-preset/80-sidebus.preset",
            0o644,
            include_str!("../../data/guest/80-sidebus.preset"),
        ),
        GuestFile::new(
            "/usr/lib/sysusers.d/person.conf",
            0o644,
            format!("u person {UID} - /tmp /bin/bash\n"),
        ),
        script("choose.py", include_str!("guest/choose.py")),
        script("pipes.py", include_str!("guest/pipes.py")),
        script("crowd.py", include_str!("guest/crowd.py")),
        script("hold.py", include_str!("guest/hold.py")),
    ]
}

/// Runs a command in the guest as the person, on the agent's bus.
#[track_caller]
fn as_person(vm: &mut Vm, command: &str) -> String {
    let line = format!(
        "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/sidebus/{UID}/bus \
         setpriv --reuid={UID} --regid={UID} --clear-groups -- {command}"
    );
    vm.run(&line).success()
}

/// A service of the host on the machine's bus: takes and gives 8 MiB by pipes. One of each.
fn serve_pipes(address: &str) -> std::thread::JoinHandle<()> {
    const LENGTH: usize = 8 << 20;
    let mut service = RawClient::open(address);
    assert_eq!(service.request_name("org.example.Service", 0), 1);
    std::thread::spawn(move || {
        let call = next_call(&mut service, "Take");
        let mut pipe = std::fs::File::from(call.fds[0].try_clone().expect("a descriptor"));
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("the guest's bytes");
        // The guest sent one random 64 KiB block again and again.
        let same = bytes
            .chunks(1 << 16)
            .all(|block| *block == bytes[..1 << 16]);
        let length = if same { bytes.len() } else { 0 };
        let length = u32::try_from(length).expect("8 MiB");
        service.answer(&call, &Body::new().u32(length));

        let call = next_call(&mut service, "Give");
        let mut pipe = std::fs::File::from(call.fds[0].try_clone().expect("a descriptor"));
        service.answer(&call, &Body::new());
        drop(call);
        pipe.write_all(&vec![7; LENGTH]).expect("the guest reads");
    })
}

/// A call, for which a program in the guest has to start first.
fn next_call(service: &mut RawClient, member: &str) -> Received {
    let deadline = Deadline::after(Duration::from_secs(110));
    loop {
        match service.next_until(deadline) {
            Arrival::Message(call) if call.header().member == Some(member) => return call,
            Arrival::Message(_) => {}
            other => panic!("{member} was awaited: {other:?}"),
        }
    }
}

/// sha256 of 8 MiB of the byte 7.
const SEVENS: &str = "15d3670274ee9cc36af50fee9e6d49164c9eec2228d48fe29e4f313aa3784a91";

#[test]
fn a_guest_with_the_package_installed_has_the_hosts_portals() {
    needs!(
        tools::DBUS_DAEMON,
        tools::PORTAL,
        tools::PERMISSION_STORE,
        tools::DOCUMENT_PORTAL,
        tools::VIRTIOFSD,
    );
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        testbed::skip!("/dev/fuse cannot be opened ({error}), so nothing can be mounted");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let desktop = runtime.block_on(Desktop::start());
    let dir = &desktop.dir;
    let vsock = dir.join("guest/vsock");
    dir.make_dir("guest");
    let options = BrokerOptions {
        host_bus: Some(desktop.bus.address().to_owned()),
        policy: "[guest]\nservices = [\"org.example.Service\"]\n".to_owned(),
        vsock_path: Some(vsock),
        arguments: vec!["--guest-user".to_owned(), format!("{UID}:{UID}")],
    };
    let mut broker = Broker::start(dir, &options);
    let mut vm = or_skip!(Vm::start(
        dir,
        &VmOptions {
            files: guest_files(),
            credentials: vec![("sidebus.port".to_owned(), PORT.to_string())],
            virtiofs: Some((
                broker.runtime_dir().join("virtiofs.sock"),
                "sidebus".to_owned()
            )),
        },
    ));
    let version = vm.run("sidebus-agent --version");
    if version.said.contains("GLIBC_") {
        testbed::skip!(
            "the guest's C library is older than this machine's: {}",
            version.said
        );
    }
    version.success();

    eprintln!(
        "· the preset enables the socket; the first connection starts the agent, with the credential"
    );
    vm.run("systemctl preset sidebus-agent@.socket && systemctl start sidebus-agent@1000.socket")
        .success();
    let state = "systemctl is-active sidebus-agent@1000.service";
    assert_eq!(vm.run(state).said.trim(), "inactive");

    eprintln!("· clients written with three libraries");
    let listed = as_person(
        &mut vm,
        "busctl --address=unix:path=/run/sidebus/1000/bus --no-pager call org.freedesktop.portal.Desktop \
         /org/freedesktop/portal/desktop org.freedesktop.portal.Settings Read ss org.freedesktop.appearance color-scheme",
    );
    assert_eq!(listed.trim(), "v v u 1");
    assert_eq!(vm.run(state).said.trim(), "active");
    let said = as_person(
        &mut vm,
        "gdbus call --session --dest org.freedesktop.portal.Desktop --object-path /org/freedesktop/portal/desktop \
         --method org.freedesktop.portal.Settings.Read org.freedesktop.appearance color-scheme",
    );
    assert_eq!(said.trim(), "(<<uint32 1>>,)");
    let said = as_person(
        &mut vm,
        "dbus-send --session --print-reply=literal --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \
         string:org.freedesktop.portal.Desktop",
    );
    assert_eq!(said.trim(), "boolean true");
    assert_eq!(broker.status()["agent"]["state"], "answers");

    eprintln!("· root is served, others are not");
    vm.run(
        "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/sidebus/1000/bus \
        dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.GetId",
    )
    .success();
    let nobody = vm.run("DBUS_SESSION_BUS_ADDRESS=unix:path=/run/sidebus/1000/bus \
        setpriv --reuid=65534 --clear-groups dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.GetId");
    assert_ne!(nobody.status, 0, "{}", nobody.said);

    eprintln!("· a file is chosen, read and written in the guest, and has changed on the host");
    let file = desktop.file("letter.txt", "from the host");
    let uri = format!("file://{}", file.display());
    desktop
        .backend
        .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
    let said = as_person(&mut vm, "python3 /opt/choose.py 'from the guest'");
    let words: Vec<&str> = said.trim().splitn(3, ' ').collect();
    assert_eq!((words[0], words[2]), ("0", "from the host"), "{said}");
    assert!(words[1].starts_with("/run/sidebus/documents/"), "{said}");
    assert_eq!(
        std::fs::read_to_string(&file).expect("the file"),
        "from the guest"
    );
    let documents = broker.status()["documents"].as_array().map(Vec::len);
    assert_eq!(documents, Some(1));

    eprintln!("· the guest sees that document, and nothing beside it");
    let there = vm.run("ls -A /run/sidebus/documents").success();
    assert_eq!(there.lines().count(), 1, "{there}");
    let above = vm.run("cat /run/sidebus/documents/../doc/by-app /run/sidebus/documents/by-app/x");
    assert_ne!(above.status, 0);

    eprintln!("· 8 MiB through a pipe, both ways");
    let service = serve_pipes(&broker.address());
    let said = as_person(&mut vm, "timeout 110 python3 /opt/pipes.py");
    assert_eq!(
        said.trim(),
        format!("given True\ntaken {} {SEVENS}", 8 << 20)
    );
    service.join().expect("the service has served both");

    eprintln!("· 200 clients at the same time");
    vm.run(
        "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/sidebus/1000/bus setpriv --reuid=1000 --regid=1000 --clear-groups \
         python3 /opt/crowd.py 200 >/run/crowd 2>&1 & echo $! >/run/crowd.pid
         for i in $(seq 1000); do grep -q together /run/crowd && break; kill -0 $! || break; sleep 0.1; done; cat /run/crowd",
    )
    .success()
    .contains("together 200")
    .then_some(())
    .expect("200 clients are there together");
    let clients = broker.status()["clients"].as_array().map(Vec::len);
    assert_eq!(clients, Some(200));
    vm.run("kill $(cat /run/crowd.pid)").success();
    wait_until("the clients have gone", || {
        broker.status()["clients"].as_array().map(Vec::len) == Some(0)
    });

    eprintln!("· a machine that is paused and goes on keeps its clients");
    vm.pause().expect("qemu pauses");
    assert_eq!(broker.status()["agent"]["state"], "answers");
    vm.resume().expect("qemu goes on");
    let id = "dbus-send --session --print-reply=literal --dest=org.freedesktop.DBus / org.freedesktop.DBus.GetId";
    as_person(&mut vm, id);

    eprintln!("· an agent that is killed is started again by its socket");
    vm.run("systemctl kill -s KILL sidebus-agent@1000.service")
        .success();
    as_person(&mut vm, id);

    eprintln!(
        "· a broker that is killed and started again is found again; its mount has gone meanwhile"
    );
    broker.process.signal(Signal::KILL);
    broker
        .process
        .wait(Deadline::usual())
        .expect("it is killed");
    drop(broker);
    let broker = Broker::start(dir, &options);
    wait_until("the agent finds the broker", || {
        broker.status()["agent"]["state"] == "answers"
    });
    as_person(&mut vm, id);

    eprintln!("· a machine whose power is cut leaves no request open on the host");
    desktop.backend.answer("FileChooser.SaveFile", |_| None);
    vm.run(
        "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/sidebus/1000/bus setpriv --reuid=1000 --regid=1000 --clear-groups \
         python3 /opt/hold.py >/run/hold 2>&1 &",
    )
    .success();
    runtime.block_on(async {
        let limit = Duration::from_secs(60);
        let asked = desktop.backend.called("FileChooser.SaveFile");
        tokio::time::timeout(limit, asked)
            .await
            .expect("the host asks");
        vm.kill();
        let closed = desktop.backend.called("Request.Close");
        tokio::time::timeout(limit, closed)
            .await
            .expect("the request is closed");
    });
    wait_until("nothing of the guest is left", || {
        let status = broker.status();
        status["clients"].as_array().map(Vec::len) == Some(0)
            && status["requests"].as_array().map(Vec::len) == Some(0)
    });
    let mount = broker.runtime_dir().join("doc").display().to_string();
    let mounted = || {
        std::fs::read_to_string("/proc/self/mountinfo")
            .expect("the table of mounts")
            .contains(&mount)
    };
    assert!(mounted());
    drop(broker);
    assert!(!mounted(), "the document mount goes with the broker");
}

#[track_caller]
fn wait_until(awaited: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::after(Duration::from_secs(60));
    while !holds() {
        assert!(!deadline.left().is_zero(), "awaited: {awaited}");
        std::thread::yield_now();
    }
}
