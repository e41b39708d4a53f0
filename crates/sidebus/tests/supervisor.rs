//! The daemons of a VM: real ones, started in order, killed at every step, and gone at the end.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::MountFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use sidebus::supervisor::{DaemonState, DaemonStatus, Plan, Supervisor, SupervisorError};
use testbed::{Deadline, Process, TestDir, needs, tools};

const PERMISSION_STORE: &str = "xdg-permission-store";
const DOCUMENT_PORTAL: &str = "xdg-document-portal";
const VIRTIOFSD: &str = "virtiofsd";

/// Skips a test where no document portal can mount anything.
macro_rules! needs_daemons {
    () => {
        needs!(tools::PERMISSION_STORE, tools::DOCUMENT_PORTAL);
        if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
            testbed::skip!("/dev/fuse cannot be opened ({error}), so nothing can be mounted");
        }
    };
}

/// Runs a test's asynchronous part, as the broker does, and within a limit.
fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(60), test)
                .await
                .expect("the test ends in time")
        })
}

/// A VM's plan in a directory of the test; with virtiofsd, if it is here.
fn plan(dir: &TestDir) -> Plan {
    let mut plan = Plan::new("test", &dir.make_dir("vm")).expect("the daemons are here");
    plan.programs.virtiofsd = testbed::tools::VIRTIOFSD.find();
    plan
}

fn mounted(plan: &Plan) -> bool {
    let point = plan.documents_mount().display().to_string();
    fs::read_to_string("/proc/self/mountinfo")
        .expect("the table of mounts")
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&point))
}

fn running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    })
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("not zero");
    kill_process(pid, Signal::KILL).expect("it is ours");
}

fn of<'a>(status: &'a [DaemonStatus], name: &str) -> &'a DaemonStatus {
    status
        .iter()
        .find(|daemon| daemon.name == name)
        .expect("it is in the plan")
}

fn pid_of(supervisor: &Supervisor, name: &str) -> u32 {
    of(&supervisor.status(), name).pid.expect("it runs")
}

/// Waits until every daemon is ready and `wanted` holds.
async fn until(supervisor: &Supervisor, wanted: impl Fn(&[DaemonStatus]) -> bool) {
    let mut watch = supervisor.watch();
    watch
        .wait_for(|status| {
            status
                .iter()
                .all(|daemon| daemon.state == DaemonState::Ready)
                && wanted(status)
        })
        .await
        .expect("the supervisor runs");
}

/// Replaces a program by a script: on each of its first starts it runs the next of `mishaps`, then the program.
fn with_mishaps(dir: &TestDir, name: &str, program: &Path, mishaps: &[&str]) -> PathBuf {
    let counter = dir.join(format!("{name}.count"));
    let mut script = format!(
        "#!/bin/sh\nn=$(cat {0} 2>/dev/null || echo 0)\necho $((n + 1)) > {0}\ncase $n in\n",
        counter.display()
    );
    for (number, mishap) in mishaps.iter().enumerate() {
        script.push_str(&format!("{number}) {mishap} ;;\n"));
    }
    script.push_str(&format!("esac\nexec {} \"$@\"\n", program.display()));
    let path = dir.write(format!("programs/{name}"), script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

/// Takes a name on the bus of the environment and is killed with it in its hands: a daemon that dies after the first half of
/// becoming ready.
fn killed_with_the_name(python: &Path, name: &str) -> String {
    format!(
        "exec {} -c 'import asyncio, os, signal\n\
         from dbus_fast.aio import MessageBus\n\
         async def main():\n\
         \x20   bus = await MessageBus().connect()\n\
         \x20   await bus.request_name(\"{name}\")\n\
         \x20   os.kill(os.getpid(), signal.SIGKILL)\n\
         asyncio.run(main())'",
        python.display()
    )
}

#[test]
fn the_daemons_come_up_in_order_and_leave_nothing_behind() {
    needs_daemons!();
    let dir = TestDir::new();
    let plan = plan(&dir);
    run(async {
        let supervisor = Supervisor::start(plan.clone()).await.expect("it starts");
        assert!(mounted(&plan));
        assert!(supervisor.shared_directory().is_dir());
        let status = supervisor.status();
        assert_eq!(status[0].name, PERMISSION_STORE);
        assert_eq!(status[1].name, DOCUMENT_PORTAL);
        assert!(
            status
                .iter()
                .all(|daemon| daemon.state == DaemonState::Ready)
        );
        assert!(status.iter().all(|daemon| daemon.starts == 1));

        let bus = zbus::connection::Builder::address(supervisor.private_bus_address())
            .build()
            .await
            .expect("the private bus can be reached");
        let answer = bus
            .call_method(
                Some("org.freedesktop.portal.Documents"),
                "/org/freedesktop/portal/documents",
                Some("org.freedesktop.portal.Documents"),
                "GetMountPoint",
                &(),
            )
            .await
            .expect("the document portal answers");
        let point: Vec<u8> = answer.body().deserialize().expect("ay");
        let expected = plan.documents_mount().display().to_string();
        assert_eq!(
            String::from_utf8_lossy(&point).trim_end_matches('\0'),
            expected
        );

        supervisor.stop().await;
        assert!(!mounted(&plan));
        for daemon in status {
            assert!(!running(daemon.pid.expect("it ran")), "{}", daemon.name);
        }
        assert!(!plan.private_bus_socket().exists());
        assert!(!plan.virtiofs_socket().exists());
    });
}

#[test]
fn dropping_the_supervisor_stops_the_daemons_too() {
    needs_daemons!();
    let dir = TestDir::new();
    let plan = plan(&dir);
    let pids: Vec<u32> = run(async {
        let supervisor = Supervisor::start(plan.clone()).await.expect("it starts");
        let pids = supervisor
            .status()
            .into_iter()
            .filter_map(|daemon| daemon.pid);
        pids.collect()
    });
    assert!(!mounted(&plan));
    assert!(pids.into_iter().all(|pid| !running(pid)));
}

#[test]
fn a_daemon_that_is_killed_comes_back_with_what_builds_on_it() {
    needs_daemons!();
    let dir = TestDir::new();
    let plan = plan(&dir);
    run(async {
        let supervisor = Supervisor::start(plan.clone()).await.expect("it starts");
        let portal = pid_of(&supervisor, DOCUMENT_PORTAL);
        let store = pid_of(&supervisor, PERMISSION_STORE);

        kill(store);
        until(&supervisor, |status| {
            of(status, PERMISSION_STORE).pid != Some(store)
        })
        .await;
        assert_eq!(
            pid_of(&supervisor, DOCUMENT_PORTAL),
            portal,
            "it need not have gone"
        );

        let store = pid_of(&supervisor, PERMISSION_STORE);
        kill(portal);
        until(&supervisor, |status| {
            of(status, DOCUMENT_PORTAL).starts == 2
        })
        .await;
        assert!(
            supervisor.shared_directory().is_dir(),
            "it is mounted and served"
        );
        assert_eq!(
            pid_of(&supervisor, PERMISSION_STORE),
            store,
            "it need not have gone"
        );
        let last_end = of(&supervisor.status(), DOCUMENT_PORTAL).last_end.clone();
        assert!(last_end.expect("it ended").contains("signal: 9"));
        if plan.programs.virtiofsd.is_some() {
            assert_eq!(
                of(&supervisor.status(), VIRTIOFSD).starts,
                2,
                "it held the old mount"
            );
            let virtiofsd = pid_of(&supervisor, VIRTIOFSD);
            kill(virtiofsd);
            until(&supervisor, |status| {
                of(status, VIRTIOFSD).pid != Some(virtiofsd)
            })
            .await;
        }
        // All at once.
        let before = supervisor.status();
        for daemon in &before {
            kill(daemon.pid.expect("it runs"));
        }
        until(&supervisor, |status| {
            status
                .iter()
                .zip(&before)
                .all(|(now, then)| now.pid != then.pid)
        })
        .await;
        assert!(supervisor.shared_directory().is_dir());
        supervisor.stop().await;
        assert!(!mounted(&plan));
    });
}

#[test]
fn a_daemon_that_dies_at_any_step_of_its_start_is_tried_again() {
    needs_daemons!();
    needs!(tools::PYTHON_DBUS_FAST);
    let python = tools::PYTHON_DBUS_FAST.find().expect("it is here");
    let dir = TestDir::new();
    let mut plan = plan(&dir);
    let at_once = "echo as told >&2; kill -KILL $$";
    let programs = &mut plan.programs;
    programs.permission_store = with_mishaps(
        &dir,
        "store",
        &programs.permission_store,
        &[at_once, "exit 3"],
    );
    let named = killed_with_the_name(&python, "org.freedesktop.portal.Documents");
    programs.document_portal = with_mishaps(
        &dir,
        "portal",
        &programs.document_portal,
        &[at_once, &named],
    );
    if let Some(virtiofsd) = &programs.virtiofsd {
        programs.virtiofsd = Some(with_mishaps(&dir, "virtiofsd", virtiofsd, &[at_once]));
    }
    run(async {
        let supervisor = Supervisor::start(plan.clone())
            .await
            .expect("it starts all the same");
        until(&supervisor, |status| {
            status.len() < 3 || of(status, VIRTIOFSD).starts == 2
        })
        .await;
        let status = supervisor.status();
        assert_eq!(of(&status, PERMISSION_STORE).starts, 3);
        assert_eq!(of(&status, DOCUMENT_PORTAL).starts, 3);
        assert!(supervisor.shared_directory().is_dir());
    });
}

#[test]
fn a_daemon_that_never_starts_is_told_with_its_last_words_and_leaves_nothing() {
    needs_daemons!();
    let dir = TestDir::new();
    let good = plan(&dir);
    let mut bad = good.clone();
    let says = "echo the disk is made of cheese >&2; exit 7";
    bad.programs.document_portal = with_mishaps(&dir, "portal", Path::new("true"), &[says; 9]);
    run(async {
        let error = Supervisor::start(bad).await.expect_err("it cannot start");
        let text = error.to_string();
        assert!(
            text.contains("xdg-document-portal does not start (3 attempts)"),
            "{text}"
        );
        assert!(text.contains("exit status: 7"), "{text}");
        assert!(text.contains("made of cheese"), "{text}");
        // Nothing is in the way of the next one, the lock least of all.
        let supervisor = Supervisor::start(good.clone()).await.expect("it starts");
        supervisor.stop().await;
        assert!(!mounted(&good));
    });
}

#[test]
fn a_daemon_that_hangs_is_not_waited_for_for_ever() {
    needs_daemons!();
    let dir = TestDir::new();
    let mut plan = plan(&dir);
    plan.patience = Duration::from_millis(300);
    let hangs = "exec sleep 600";
    plan.programs.permission_store =
        with_mishaps(&dir, "store", &plan.programs.permission_store, &[hangs; 9]);
    run(async {
        let error = Supervisor::start(plan).await.expect_err("it cannot start");
        let text = error.to_string();
        assert!(text.contains("it was not ready within 300ms"), "{text}");
    });
}

#[test]
fn a_directory_has_one_supervisor() {
    needs_daemons!();
    let dir = TestDir::new();
    let plan = plan(&dir);
    run(async {
        let supervisor = Supervisor::start(plan.clone()).await.expect("it starts");
        let mut second = plan.clone();
        second.patience = Duration::from_millis(100);
        match Supervisor::start(second).await {
            Err(SupervisorError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        assert!(
            supervisor.shared_directory().is_dir(),
            "the first one is untouched"
        );
    });
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    needs_daemons!();
    let dir = TestDir::new();
    let plan = plan(&dir);
    fs::set_permissions(&plan.runtime_dir, fs::Permissions::from_mode(0o777)).expect("ours");
    run(async {
        let error = Supervisor::start(plan).await.expect_err("it is refused");
        assert!(matches!(error, SupervisorError::NotOurs(_)), "{error}");
    });
}

#[test]
fn a_start_that_is_given_up_leaves_nothing() {
    needs_daemons!();
    let dir = TestDir::new();
    let mut plan = plan(&dir);
    let good = plan.clone();
    plan.programs.document_portal = with_mishaps(
        &dir,
        "portal",
        &plan.programs.document_portal,
        &["exec sleep 600"],
    );
    run(async {
        let start = Supervisor::start(plan.clone());
        // The lock's directory says how far it is: the counter is written by the program that hangs.
        let hangs = async {
            while !dir.join("portal.count").exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = start => panic!("it cannot have started"),
            () = hangs => {}
        }
        let supervisor = Supervisor::start(good).await.expect("the next one starts");
        assert!(supervisor.shared_directory().is_dir());
    });
}

/// Plays the broker that is killed, in a process of its own.
#[test]
fn when_the_broker_is_killed_its_daemons_and_its_mount_go() {
    const DIRECTORY_OF_VICTIM: &str = "SIDEBUS_TEST_VICTIM";
    if let Some(directory) = std::env::var_os(DIRECTORY_OF_VICTIM) {
        let mut plan = Plan::new("test", Path::new(&directory)).expect("the daemons are here");
        plan.programs.virtiofsd = tools::VIRTIOFSD.find();
        run(async {
            let supervisor = Supervisor::start(plan).await.expect("it starts");
            for daemon in supervisor.status() {
                println!("\ndaemon {}", daemon.pid.expect("it runs"));
            }
            println!("all told");
            std::future::pending::<()>().await;
        });
    }
    needs_daemons!();
    let dir = TestDir::new();
    let plan = plan(&dir);
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["--exact", "--nocapture"])
        .arg("when_the_broker_is_killed_its_daemons_and_its_mount_go")
        .envs(dir.environment())
        .env(DIRECTORY_OF_VICTIM, &plan.runtime_dir);
    let (mut victim, mut lines) =
        Process::start_reading(command, "victim", &dir.join("logs")).expect("it starts");
    let mut daemons: Vec<OwnedFd> = Vec::new();
    loop {
        let line = lines.expect_line("what was started", |line| {
            line.starts_with("daemon ") || line == "all told"
        });
        match line.strip_prefix("daemon ") {
            Some(pid) => daemons.extend(
                Pid::from_raw(pid.parse().expect("a number"))
                    .map(|pid| pidfd_open(pid, PidfdFlags::empty()).expect("it runs")),
            ),
            None => break,
        }
    }
    assert!(daemons.len() >= 2);
    victim.signal(Signal::KILL);
    victim.wait(Deadline::usual()).expect("it is killed");
    for daemon in &daemons {
        let gone = Deadline::usual().wait_readable(&[daemon.as_fd()]);
        assert!(gone.is_some(), "a daemon outlives its broker");
    }
    run(async {
        let supervisor = Supervisor::start(plan.clone())
            .await
            .expect("the next one starts");
        assert!(supervisor.shared_directory().is_dir());
        supervisor.stop().await;
    });
    assert!(!mounted(&plan));
}

#[test]
fn a_mount_whose_daemon_has_gone_is_taken_away() {
    needs_daemons!();
    if !rustix::process::geteuid().is_root() {
        testbed::skip!("only root can leave such a mount behind on purpose");
    }
    let dir = TestDir::new();
    let plan = plan(&dir);
    let point = plan.documents_mount();
    fs::create_dir(&point).expect("the test's own directory");
    for _ in 0..2 {
        let fuse = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("it can be opened");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            fuse.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).expect("no NUL");
        rustix::mount::mount(
            "portal",
            &point,
            "fuse.portal",
            MountFlags::NODEV,
            Some(options.as_c_str()),
        )
        .expect("root can mount");
        // Whoever served it is gone with this descriptor.
        drop(fuse);
    }
    assert!(fs::read_dir(&point).is_err(), "nobody serves it");
    run(async {
        let supervisor = Supervisor::start(plan.clone()).await.expect("it starts");
        assert!(supervisor.shared_directory().is_dir());
        supervisor.stop().await;
    });
    assert!(!mounted(&plan));
}

#[test]
fn virtiofsd_serves_one_monitor_after_the_other() {
    needs_daemons!();
    needs!(tools::VIRTIOFSD);
    let dir = TestDir::new();
    let plan = plan(&dir);
    run(async {
        let supervisor = Supervisor::start(plan.clone()).await.expect("it starts");
        for round in 2..4 {
            // A connection that is not yet served waits; it ends with virtiofsd.
            let monitor = UnixStream::connect(plan.virtiofs_socket()).expect("it listens");
            drop(monitor);
            until(&supervisor, |status| of(status, VIRTIOFSD).starts == round).await;
        }
        assert_eq!(of(&supervisor.status(), DOCUMENT_PORTAL).starts, 1);
    });
}

/// As `nobody`: fusermount3 asks for a name. The machine's /dev/fuse may be for root only; then the test runs beside one that is for all, in a mount namespace of its own.
#[test]
fn a_user_without_privileges_has_the_same_daemons() {
    needs_daemons!();
    if !rustix::process::geteuid().is_root() {
        testbed::skip!("the other tests have run without privileges already");
    }
    let dir = TestDir::new();
    let program = dir.join("tests");
    fs::copy(std::env::current_exe().expect("a path"), &program).expect("a copy");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let device = dir.join("fuse");
    let script = format!(
        "mknod -m 666 {device} c 10 229 && mount --bind {device} /dev/fuse &&\n\
         exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all {program} --nocapture \
         --test-threads=1 come_up_in_order comes_back is_killed",
        device = device.display(),
        program = program.display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script])
        .env("HOME", "/");
    let output = testbed::run_to_end(command, Duration::from_secs(60)).expect("it ends");
    assert!(output.status.success(), "{}", output.both());
    assert!(output.stdout.contains("3 passed"), "{}", output.both());
    if !output.stderr.contains("SKIPPED") {
        return;
    }
    testbed::skip!("without privileges: {}", output.stderr);
}
