//! Against a real Incus: see `testbed::incus`. One of it for all tests here, as starting it takes seconds.

use std::time::Duration;

use incus_client::{
    BackupOptions, Client, Command, Config, Contents, Devices, Error, EventBody, InstanceCreate,
    Ownership, RemoteImage, Seen, Source, Stop,
};
use testbed::container_image::{ImageFiles, TRIXIE};
use testbed::{Incus, IncusOptions, Machine, or_skip};

/// Runs a scenario, with a limit.
fn run<T>(scenario: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(100), scenario)
                .await
                .expect("within its limit")
        })
}

#[test]
fn incus_does_what_the_client_asks() {
    let machine = or_skip!(Machine::start());
    let image = or_skip!(TRIXIE.provide());
    // As it comes: everything is set up by the client here.
    let bare = IncusOptions {
        images: Vec::new(),
        initialized: false,
        ..IncusOptions::default()
    };
    let mut incus = or_skip!(Incus::start(&machine, &bare));
    let client = Client::new(incus.socket());
    run(incus_is_set_up(&client, &image));
    run(a_container_lives_and_goes(&client));
    run(a_container_is_copied_saved_and_put_back(&client));
    run(programs_and_files_inside(&client));
    run(what_is_not_there_is_said_so(&client));
    run(a_client_outlives_incus(&client, &mut incus));
}

async fn incus_is_set_up(client: &Client, image: &ImageFiles) {
    assert!(client.storage_pools().await.expect("a list").is_empty());
    let none = Config::new();
    let size = Config::from([("size".to_owned(), "4GiB".to_owned())]);
    let btrfs = client.create_storage_pool("pool", "btrfs", &size).await;
    if btrfs.is_err() {
        let made = client.create_storage_pool("pool", "dir", &none);
        made.await.expect("a directory will do");
    }
    let pool = client.storage_pool("pool").await.expect("it is there");
    assert_eq!(pool.status, "Created");
    let taken = client.create_storage_pool("pool", "dir", &none);
    let taken = taken.await.expect_err("the name is taken");
    assert!(matches!(taken, Error::Conflict { .. }), "{taken:?}");
    let space = client
        .storage_pool_resources("pool")
        .await
        .expect("numbers");
    assert!(space.space.total > space.space.used);

    let addresses = Config::from([
        ("ipv4.address".to_owned(), "10.78.0.1/24".to_owned()),
        ("ipv6.address".to_owned(), "none".to_owned()),
    ]);
    let made = client.create_network("testbr0", "bridge", &addresses);
    made.await.expect("it is made");
    let network = client.network("testbr0").await.expect("it is there");
    assert!(network.managed && network.kind == "bridge", "{network:?}");
    assert!(
        client.networks().await.expect("a list").len() >= 2,
        "and the loopback device"
    );

    let mut default = client.profile("default").await.expect("there always is");
    let device = |keys: &[(&str, &str)]| {
        keys.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let root = device(&[("type", "disk"), ("path", "/"), ("pool", "pool")]);
    let eth0 = device(&[("type", "nic"), ("network", "testbr0")]);
    default.devices.insert("root".to_owned(), root);
    default.devices.insert("eth0".to_owned(), eth0);
    client
        .update_profile(&default)
        .await
        .expect("it is changed");
    let mut other = default.clone();
    other.name = "other".to_owned();
    client.create_profile(&other).await.expect("it is made");
    assert_eq!(client.profiles().await.expect("a list").len(), 2);
    client.delete_profile("other").await.expect("it is deleted");

    let broken = std::env::temp_dir().join(format!("kapsule-test-no-image-{}", std::process::id()));
    std::fs::write(&broken, "no image").expect("a file");
    let import = client.import_image(&broken, None).await;
    std::fs::remove_file(&broken).expect("it was there");
    let failed = match import {
        Ok(operation) => operation.wait().await.map(|_| ()),
        Err(error) => Err(error),
    };
    let failed = failed.expect_err("that is no image");
    assert!(failed.message().is_some(), "{failed:?}");
    assert!(client.images().await.expect("a list").is_empty());

    let operation = client
        .import_image(&image.metadata, Some(&image.rootfs))
        .await
        .expect("it begins");
    let done = operation.wait().await.expect("it is imported");
    let fingerprint = done.metadata["fingerprint"].as_str().expect("it has one");
    let named = client.create_image_alias("trixie", fingerprint);
    named.await.expect("it is named");
    let alias = client.image_alias("trixie").await.expect("it is there");
    assert_eq!(alias.target, fingerprint);
    for name in ["trixie", &fingerprint[..12]] {
        let image = client.image_by_name(name).await.expect("it is there");
        assert_eq!(image.fingerprint, fingerprint);
        assert_eq!(image.properties["release"], "trixie");
    }
    let absent = client
        .image_by_name("absent")
        .await
        .expect_err("no such image");
    assert!(
        absent.is_not_found() && absent.to_string().contains("absent"),
        "{absent}"
    );
}

async fn a_container_is_copied_saved_and_put_back(client: &Client) {
    let done = |operation: incus_client::Result<incus_client::Operation>| async {
        operation
            .expect("it begins")
            .wait()
            .await
            .expect("it ends well")
    };
    let mut wanted = InstanceCreate::new("first", Source::alias("trixie"));
    wanted.start = true;
    done(client.create_instance(&wanted).await).await;
    let root = Ownership {
        uid: 0,
        gid: 0,
        mode: 0o600,
    };
    let write = |text: &'static str| client.write_file("first", "/root/note", text, root);
    write("before").await.expect("it is written");
    done(client.create_snapshot("first", "clean").await).await;
    let taken = match client.create_snapshot("first", "clean").await {
        Ok(operation) => operation.wait().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(taken, Err(Error::Conflict { .. })), "{taken:?}");
    write("after").await.expect("it is written");
    let snapshots = client.snapshots("first").await.expect("a list");
    assert_eq!(snapshots.len(), 1);
    assert_eq!(snapshots[0].name, "clean");
    assert!(snapshots[0].created_at.unix_seconds().is_some() && !snapshots[0].stateful);

    done(client.restore_snapshot("first", "clean").await).await;
    let note = client
        .read_file("first", "/root/note")
        .await
        .expect("it is there");
    assert_eq!(note.contents, Contents::File(b"before".to_vec()));
    assert_eq!(note.ownership, root);

    done(
        client
            .create_instance(&InstanceCreate::new("second", Source::copy("first/clean")))
            .await,
    )
    .await;
    done(client.rename_instance("second", "third").await).await;
    assert!(client.instance("second").await.is_err());

    let options = BackupOptions {
        instance_only: true,
        compression: Some("none"),
    };
    done(client.create_backup("third", "saved", options).await).await;
    let mut saved = Vec::new();
    let length = client
        .export_backup("third", "saved", &mut saved)
        .await
        .expect("it is written");
    assert_eq!(length, saved.len() as u64);
    assert_eq!(client.backups("third").await.expect("a list").len(), 1);
    done(client.delete_backup("third", "saved").await).await;
    done(
        client
            .import_backup("fourth", std::io::Cursor::new(saved))
            .await,
    )
    .await;
    // Of one that runs: for one that does not, Incus keeps a helper for some seconds, and deleting waits for it.
    // And its network's address is that of the one it was made of.
    done(client.delete_instance("third").await).await;
    done(client.start_instance("fourth").await).await;
    let loaded = client
        .read_file("fourth", "/root/note")
        .await
        .expect("it is there");
    assert_eq!(loaded.contents, note.contents);

    done(client.delete_snapshot("first", "clean").await).await;
    for name in ["first", "fourth"] {
        done(client.stop_instance(name, Stop::Now).await).await;
    }
    for name in ["first", "fourth"] {
        done(client.delete_instance(name).await).await;
    }
}

async fn programs_and_files_inside(client: &Client) {
    let mut wanted = InstanceCreate::new("work", Source::alias("trixie"));
    wanted.start = true;
    let operation = client.create_instance(&wanted).await.expect("it begins");
    operation.wait().await.expect("it runs");

    let mut command = Command::new([
        "sh",
        "-c",
        "echo out; echo err >&2; echo $GREETING; pwd; exit 7",
    ]);
    command
        .environment
        .insert("GREETING".into(), "'quotes' \"and\" spaces".into());
    command.cwd = "/var".into();
    let output = client.run("work", &command).await.expect("it runs");
    assert_eq!(output.status, 7);
    assert_eq!(output.stdout, b"out\n'quotes' \"and\" spaces\n/var\n");
    assert_eq!(output.stderr, b"err\n");
    let absent = client.run("work", &Command::new(["no-such-program"])).await;
    assert_eq!(absent.expect("it is tried").status, 127);

    let script = "stty size; until stty size | grep '40 100'; do :; done; read line; echo \"<$line>\"; exit 3";
    let shell = Command::new(["sh", "-c", script]);
    let mut shell = client
        .run_interactive("work", &shell, (90, 30))
        .await
        .expect("it runs");
    let mut shown = String::new();
    while !shown.contains("30 90") {
        let bytes = shell
            .next()
            .await
            .expect("it runs on")
            .expect("there is more");
        shown.push_str(&String::from_utf8_lossy(&bytes));
    }
    shell.resize(100, 40).await.expect("it is resized");
    shell.send(b"typed\n").await.expect("it is typed");
    while let Some(bytes) = shell.next().await.expect("it runs on") {
        shown.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert_eq!(shell.wait().await.expect("it ends"), 3);
    assert!(
        shown.contains("40 100") && shown.contains("<typed>"),
        "{shown}"
    );

    let owner = Ownership {
        uid: 1000,
        gid: 100,
        mode: 0o750,
    };
    client
        .make_directory("work", "/srv/dir", owner)
        .await
        .expect("it is made");
    client
        .write_file("work", "/srv/dir/a?b c", "x", owner)
        .await
        .expect("it is written");
    client
        .make_symlink("work", "/srv/dir/link", "a?b c")
        .await
        .expect("it is made");
    let dir = client
        .read_file("work", "/srv/dir")
        .await
        .expect("it is there");
    assert_eq!(dir.ownership, owner);
    let Contents::Directory(mut names) = dir.contents else {
        panic!("it is a directory: {dir:?}");
    };
    names.sort();
    assert_eq!(names, ["a?b c", "link"]);
    let link = client
        .read_file("work", "/srv/dir/link")
        .await
        .expect("it is there");
    assert_eq!(
        link.contents,
        Contents::Symlink("/srv/dir/a?b c".to_owned())
    );
    client
        .delete_file("work", "/srv/dir/link")
        .await
        .expect("it is deleted");
    let gone = client
        .read_file("work", "/srv/dir/link")
        .await
        .expect_err("it is gone");
    assert!(gone.is_not_found(), "{gone:?}");

    let tagged = client.tagged_instance("work").await.expect("it is there");
    let mine = Config::from([("user.kapsule.note".to_owned(), "mine".to_owned())]);
    client
        .patch_instance("work", &mine, &Devices::new())
        .await
        .expect("it is changed");
    let mut update = tagged.value.to_update();
    update
        .config
        .insert("user.kapsule.note".into(), "theirs".into());
    let stale = client
        .update_instance("work", &update, tagged.etag.as_deref())
        .await;
    assert!(matches!(stale, Err(Error::Changed { .. })), "{stale:?}");
    let now = client.instance("work").await.expect("it is there");
    assert_eq!(now.config["user.kapsule.note"], "mine");

    client
        .freeze_instance("work")
        .await
        .expect("it begins")
        .wait()
        .await
        .expect("it is frozen");
    assert_eq!(
        client.instance("work").await.expect("it is there").status,
        "Frozen"
    );
    client
        .unfreeze_instance("work")
        .await
        .expect("it begins")
        .wait()
        .await
        .expect("it goes on");
    client.console_log("work").await.expect("it has one");
    client
        .stop_instance("work", Stop::Now)
        .await
        .expect("it begins")
        .wait()
        .await
        .expect("it stops");
    client
        .delete_instance("work")
        .await
        .expect("it begins")
        .wait()
        .await
        .expect("it is deleted");
}

async fn what_is_not_there_is_said_so(client: &Client) {
    for name in [
        "absent",
        "../images",
        "a/b",
        "a?b",
        "--all",
        "two\nlines",
        ".",
    ] {
        let error = client.instance(name).await.expect_err("there is none");
        assert!(
            matches!(
                error,
                Error::NotFound { .. } | Error::Refused { status: 400, .. }
            ),
            "{name:?}: {error:?}"
        );
    }
    // Nothing is made from the image any more; what was unpacked of it is still in the storage, if that keeps it.
    let volumes = client.storage_volumes("pool").await.expect("a list");
    for unpacked in volumes.iter().filter(|volume| volume.kind == "image") {
        let name = &unpacked.name;
        let same = client.storage_volume("pool", "image", name).await;
        let same = same.expect("it is there");
        assert_eq!(same.created_at, unpacked.created_at);
        assert!(same.created_at.unix_nanoseconds().is_some(), "{same:?}");
        let deleted = client.delete_storage_volume("pool", "image", name);
        deleted.await.expect("it is deleted");
        let gone = client.delete_storage_volume("pool", "image", name);
        let gone = gone.await.expect_err("it is gone");
        assert!(gone.is_not_found(), "{gone:?}");
    }
    let wanted = InstanceCreate::new("x", Source::alias("absent"));
    let failed = match client.create_instance(&wanted).await {
        Ok(operation) => operation.wait().await.map(|_| ()),
        Err(error) => Err(error),
    };
    let failed = failed.expect_err("no such image");
    assert!(failed.message().is_some(), "{failed:?}");
    assert!(client.instance("x").await.is_err(), "nothing is left of it");
    let error = client
        .operation("00000000-0000-0000-0000-000000000000")
        .await;
    assert!(error.expect_err("there is none").is_not_found());

    // No network: it says so, and is soon done.
    let image = RemoteImage {
        server: "https://images.invalid".to_owned(),
        protocol: "simplestreams".to_owned(),
        certificate: String::new(),
        alias: "debian/13".to_owned(),
        auto_update: false,
    };
    let failed = match client.fetch_image(&image, &["d13"]).await {
        Ok(operation) => operation.wait().await.map(|_| ()),
        Err(error) => Err(error),
    };
    let failed = failed.expect_err("there is no network");
    assert!(failed.to_string().contains("images.invalid"), "{failed}");
    assert!(client.operations().await.is_ok());
}

async fn a_container_lives_and_goes(client: &Client) {
    let server = client.server().await.expect("it answers");
    assert_eq!(server.auth, "trusted");
    assert!(server.version() >= (6, 0, 0), "{:?}", server.environment);
    assert_eq!(client.instances().await.expect("a list").len(), 0);

    let mut watch = client.watch(&["lifecycle", "operation"]);
    assert!(matches!(watch.next().await, Seen::Connected));

    let mut wanted = InstanceCreate::new("web", Source::alias("trixie"));
    wanted
        .config
        .insert("user.kapsule.owner".into(), "1000".into());
    let operation = client.create_instance(&wanted).await.expect("it begins");
    assert_eq!(operation.state().instances().collect::<Vec<_>>(), ["web"]);
    let mut stages = Vec::new();
    operation
        .wait_with(|state| stages.extend(state.progress().map(|progress| progress.stage)))
        .await
        .expect("it is made");
    let again = match client.create_instance(&wanted).await {
        Ok(operation) => operation.wait().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(again, Err(Error::Conflict { .. })), "{again:?}");

    let instance = client.instance("web").await.expect("it is there");
    assert_eq!(instance.config["user.kapsule.owner"], "1000");
    assert!(instance.created_at.unix_seconds().is_some());
    assert!(!instance.is_running());

    let operation = client.start_instance("web").await.expect("it begins");
    operation.wait().await.expect("it starts");
    let state = client.instance_state("web").await.expect("it has one");
    let init = state.init().expect("it runs");
    assert!(std::fs::exists(format!("/proc/{init}/root/etc")).expect("a process of this machine"));
    let all = client.instances_with_state().await.expect("a list");
    assert_eq!(
        all[0].state.as_ref().and_then(|state| state.init()),
        Some(init)
    );

    let refused = client.delete_instance("web").await;
    assert!(refused.is_err(), "one that runs is not deleted");

    let operation = client
        .stop_instance("web", Stop::Now)
        .await
        .expect("it begins");
    operation.wait().await.expect("it stops");
    let operation = client.delete_instance("web").await.expect("it begins");
    operation.wait().await.expect("it is deleted");
    let gone = client.instance("web").await.expect_err("it is gone");
    assert!(gone.is_not_found(), "{gone}");

    let mut actions = Vec::new();
    while actions.last().is_none_or(|last| last != "instance-deleted") {
        if let Seen::Event(event) = watch.next().await
            && let EventBody::Lifecycle(lifecycle) = event.body
            && lifecycle.instance() == Some("web")
        {
            actions.push(lifecycle.action);
        }
    }
    for action in ["instance-created", "instance-started", "instance-stopped"] {
        assert!(actions.iter().any(|seen| seen == action), "{actions:?}");
    }
}

async fn a_client_outlives_incus(client: &Client, incus: &mut Incus<'_>) {
    let mut watch = client.watch(&["lifecycle"]);
    assert!(matches!(watch.next().await, Seen::Connected));
    incus.kill();
    assert!(matches!(watch.next().await, Seen::Lost(_)));
    let error = client.instances().await.expect_err("nobody is there");
    assert!(error.is_unavailable(), "{error}");
    assert!(error.to_string().contains("unix.socket"), "{error}");
    incus.start_again().expect("it starts again");
    assert!(matches!(watch.next().await, Seen::Connected));
    client.instances().await.expect("it answers");
}
