//! From `create` to `rm`, as a person does it: the real daemon, real Incus, a real polkitd.
//!
//! One rig for all, because it takes seconds to start; the scenarios are functions that say what holds.

mod rig;

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testbed::machine::{ALICE, BOB, CAROL, PASSWORD};
use testbed::{Deadline, Machine, or_skip};

use rig::Rig;

const PUSH: &str = "\x1b]777;container;push;work;kapsule\x1b\\";
const POP: &str = "\x1b]777;container;pop;;\x1b\\";

#[test]
fn a_container_from_create_to_rm() {
    let machine = or_skip!(Machine::start());
    let rig = or_skip!(Rig::start(&machine));
    for (what, scenario) in [
        ("create, list, info", create_list_and_info as fn(&Rig<'_>)),
        ("enter at a terminal", enter_at_a_terminal),
        ("a terminal comes back", the_terminal_comes_back),
        ("run with pipes", run_with_pipes),
        ("a terminal with others at it", a_terminal_is_shared),
        ("signals and statuses", signals_and_statuses_pass),
        ("export an application", an_application_is_exported),
        ("export a program", a_program_is_exported),
        ("snapshot and restore", snapshot_and_restore),
        ("upgrade and back", upgrade_and_back),
        ("a copy, stop and start", a_copy_stops_and_starts),
        ("start at login", a_container_is_started_at_login),
        ("save and load", a_container_goes_through_a_file),
        ("what there is", what_there_is_is_told),
        ("a manifest", a_manifest_is_carried_out),
        (
            "the default container",
            an_empty_name_is_the_default_container,
        ),
        ("as distrobox", front_ends_of_distrobox_are_answered),
        ("others", others_are_asked_or_refused),
        ("rm", rm_takes_away_what_was_exported),
    ] {
        eprintln!("── {what}");
        scenario(&rig);
    }
}

fn create_list_and_info(rig: &Rig<'_>) {
    let out = rig.alice(&["create", "work", "--image", "trixie", "--with-docker"]);
    assert!(out.contains("next: kapsule enter work"), "{out}");

    let table = rig.alice(&["list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{table}");
    assert!(
        lines[1].starts_with("work") && lines[1].contains("Running"),
        "{table}"
    );
    let list: Value = serde_json::from_str(&rig.alice(&["list", "--json"])).expect("JSON");
    assert_eq!(list[0]["name"], "work");
    assert_eq!(list[0]["status"], "Running");
    let all: Value = serde_json::from_str(&rig.alice(&["list", "--all", "--json"])).expect("JSON");
    assert_eq!(all[0]["owner"], 1000);

    let info: Value = serde_json::from_str(&rig.alice(&["info", "work", "--json"])).expect("JSON");
    assert_eq!(info["owned"], true);
    assert_eq!(info["privileged"], false);
    let text = rig.alice(&["info", "work"]);
    assert!(text.contains("Owner       you"), "{text}");

    let again = rig.kapsule(&ALICE, &["create", "work", "--image", "trixie"]);
    assert_eq!(again.status.code(), Some(1), "{}", again.both());
    assert!(again.stderr.starts_with("error: "), "{}", again.stderr);
    let refused = rig.kapsule(&ALICE, &["create", "../x", "--image", "trixie"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.both());
}

fn enter_at_a_terminal(rig: &Rig<'_>) {
    let mut terminal = rig.at_a_terminal("\"$kapsule\" enter work");
    terminal.expect(PUSH);
    terminal.send("echo I am $(id -un) $(id -u) at $(tty) in $PWD\n");
    let said = terminal.expect("in /home/alice");
    assert!(said.contains("I am alice 1000 at /dev/pts/"), "{said}");
    terminal.send("stty size\n");
    terminal.expect("24 80");
    terminal.resize(100, 30);
    // The size is told by a signal, which is on its way.
    terminal.send("until [ \"$(stty size)\" = '30 100' ]; do :; done; echo re''sized\n");
    terminal.expect("resized");
    // Ctrl-C is a key like others, and ends the program inside.
    terminal.send("sh -c \"echo wai''ting; exec cat\"\n");
    terminal.expect("waiting");
    terminal.send("\x03");
    terminal.expect("^C");
    terminal.expect("$ ");
    terminal.send("echo status $?\n");
    terminal.expect("status 130");
    terminal.send("exit 7\n");
    let (status, rest) = terminal.wait();
    assert_eq!(status.code(), Some(7), "{rest}");
    assert!(rest.contains(POP), "{rest:?}");
}

fn the_terminal_comes_back(rig: &Rig<'_>) {
    // Asked to end, it ends what is inside, and leaves the terminal as it was.
    let mut terminal = rig
        .at_a_terminal("stty -g; \"$kapsule\" enter work; echo \"status $?\"; stty -g; echo end");
    let before = terminal.expect(PUSH);
    terminal.send("echo re''ady\n");
    terminal.expect("ready");
    let shell = terminal.process().id();
    let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))
        .expect("the shell has children");
    let kapsule = children.split_whitespace().next().expect("one");
    let kapsule = Pid::from_raw(kapsule.parse().expect("a number")).expect("not zero");
    kill_process(kapsule, Signal::TERM).expect("it runs");
    terminal.expect(POP);
    terminal.expect("status 143");
    let after = terminal.expect("end");
    let mode = |text: &str| -> String {
        let is_mode = |line: &&str| line.split(':').count() > 10;
        text.lines().find(is_mode).unwrap_or_default().to_owned()
    };
    assert!(!mode(&before).is_empty(), "{before:?}");
    assert_eq!(mode(&before), mode(&after), "{before:?} {after:?}");
}

fn run_with_pipes(rig: &Rig<'_>) {
    let upper = rig.alice_with_input("hello\n", &["run", "work", "--", "tr", "a-z", "A-Z"]);
    assert_eq!(upper.success(), "HELLO\n");
    // Arguments arrive as they are given.
    let out = rig.alice(&[
        "exec",
        "work",
        "printf",
        "[%s]",
        "a b",
        "\"; quotes'",
        "-c",
        "$HOME",
        "*",
        "",
    ]);
    assert_eq!(out, "[a b][\"; quotes'][-c][$HOME][*][]");
    let both = rig.kapsule(
        &ALICE,
        &["run", "work", "--", "sh", "-c", "echo out; echo err >&2"],
    );
    assert_eq!(
        (both.stdout.as_str(), both.stderr.as_str()),
        ("out\n", "err\n")
    );
    // No pipe is too long, and none is cut short at its end.
    let long = rig.alice(&[
        "run",
        "work",
        "--",
        "sh",
        "-c",
        "head -c 3000000 /dev/zero | tr '\\0' x",
    ]);
    assert_eq!(long.len(), 3_000_000);
    // stdin from the terminal, stdout to a pipe.
    let mut terminal = rig.at_a_terminal("\"$kapsule\" run work -- cat | sed s/^/got:/");
    terminal.send("typed\n");
    terminal.expect("got:typed");
    terminal.send("\x04");
    let (status, rest) = terminal.wait();
    assert!(status.success(), "{rest}");
    // root inside, and where one is
    assert_eq!(
        rig.alice(&["run", "--root", "work", "--", "id", "-u"]),
        "0\n"
    );
    assert_eq!(
        rig.alice(&["run", "--cwd", "/etc", "work", "--", "pwd"]),
        "/etc\n"
    );
    assert_eq!(rig.alice(&["run", "work", "--", "pwd"]), "/home/alice\n");
}

fn a_terminal_is_shared(rig: &Rig<'_>) {
    // A pager behind us has the keys. The program inside would take all that it gets.
    let inside = "echo there; read typed; echo inside:$typed";
    let pager = "read line; stty -icanon -echo </dev/tty; echo pager; \
        dd bs=1 count=12 </dev/tty 2>/dev/null; stty icanon echo </dev/tty; echo read; cat";
    let line = format!("\"$kapsule\" run work -- sh -c '{inside}' | {{ {pager}; }}");
    let mut terminal = rig.at_a_terminal(&line);
    terminal.expect("pager");
    for key in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"] {
        terminal.send(key);
        terminal.expect(key);
    }
    terminal.expect("read");
    // Afterwards they are for the program.
    terminal.send("line\n");
    terminal.expect("inside:line");
    let (status, rest) = terminal.wait();
    assert!(status.success(), "{rest}");

    // So has he who asks for a password.
    let asks = "read line; stty -echo </dev/tty; echo pass''word; read secret </dev/tty; stty echo </dev/tty; \
        echo got:$secret; cat";
    let line = format!("\"$kapsule\" run work -- sh -c '{inside}' | {{ {asks}; }}");
    let mut terminal = rig.at_a_terminal(&line);
    terminal.expect("password");
    terminal.send("hidden\n");
    terminal.expect("got:hidden");
    terminal.send("shown\n");
    terminal.expect("inside:shown");
    terminal.wait();

    // Ctrl-C is a signal here, and arrives. What is said goes to a pipe, whose reader does not mind it.
    let inside = "trap \"echo interrupted; exit 9\" INT; echo started; while :; do sleep 0.1; done";
    let line = format!("trap '' INT; \"$kapsule\" run work -- sh -c '{inside}' | cat");
    let mut terminal = rig.at_a_terminal(&line);
    terminal.expect("started");
    terminal.send("\x03");
    terminal.expect("interrupted");
    terminal.wait();

    // In the background a command runs on, whoever types what.
    let line = "set -m; \"$kapsule\" run work -- sh -c 'echo back''ground' >said & wait $!; \
        echo status $?; cat said; \"$kapsule\" run work -- echo shown & wait $!; echo status $?";
    let mut terminal = rig.at_a_terminal(line);
    terminal.expect("status 0");
    terminal.expect("background");
    terminal.expect("shown");
    terminal.expect("status 0");
    terminal.wait();
}

fn signals_and_statuses_pass(rig: &Rig<'_>) {
    for (line, status) in [
        ("exit 3", 3),
        ("kill -TERM $$", 143),
        ("exec no-such-thing", 127),
    ] {
        let out = rig.kapsule(&ALICE, &["run", "work", "--", "sh", "-c", line]);
        assert_eq!(out.status.code(), Some(status), "{line}: {}", out.both());
    }
    let line = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let (mut process, mut lines) =
        rig::start_reading(rig, &["run", "work", "--", "sh", "-c", line]);
    lines.expect_line("the program's beginning", |line| line == "ready");
    process.signal(Signal::TERM);
    lines.expect_line("the program's answer", |line| line == "got it");
    let status = process.wait(Deadline::usual()).expect("it ends");
    assert_eq!(status.code(), Some(9));

    let none = rig.kapsule(&ALICE, &["run", "nothing-there", "--", "true"]);
    assert_eq!(none.status.code(), Some(125), "{}", none.both());
    assert!(none.stderr.contains("nothing-there"), "{}", none.stderr);
}

/// Writes a file inside, as root.
fn write_inside(rig: &Rig<'_>, path: &str, mode: &str, contents: &str) {
    let line = format!("mkdir -p \"${{1%/*}}\" && cat >\"$1\" && chmod {mode} \"$1\"");
    rig.alice_with_input(
        contents,
        &["run", "--root", "work", "--", "sh", "-c", &line, "sh", path],
    )
    .success();
}

const DESKTOP_FILE: &str = r#"[Desktop Entry]
Type=Application
Name=Hello
Name[de]=Hallo
Comment=Greets
Exec=/usr/local/bin/hello --name "some body" %U
Icon=org.example.hello
X-KDE-SubstituteUID=true
Actions=loud;

[Desktop Action loud]
Name=Loud
Exec=/usr/local/bin/hello --loud
"#;

const HELLO: &str = "#!/bin/sh\nprintf 'hello'; printf ' <%s>' \"$@\" \"$(uname -n)\"; echo\n";

fn an_application_is_exported(rig: &Rig<'_>) {
    let desktop_file = "/usr/share/applications/org.example.Hello.desktop";
    write_inside(rig, desktop_file, "644", DESKTOP_FILE);
    write_inside(rig, "/usr/local/bin/hello", "755", HELLO);
    let icons = "/usr/share/icons/hicolor/scalable/apps";
    write_inside(
        rig,
        &format!("{icons}/org.example.hello.svg"),
        "644",
        "<svg/>\n",
    );

    let list: Value =
        serde_json::from_str(&rig.alice(&["export", "work", "--json"])).expect("JSON");
    assert_eq!(list["applications"][0]["id"], "org.example.Hello", "{list}");
    assert_eq!(list["applications"][0]["exported"], false, "{list}");

    // By what the menu calls it.
    rig.alice(&["export", "work", "hello"]);
    let file = rig.in_home(".local/share/applications/work-org.example.Hello.desktop");
    let text = fs::read_to_string(&file).expect("the desktop file is there");
    assert!(text.contains("Name[de]=Hallo (work)\n"), "{text}");
    assert!(!text.contains("SubstituteUID"), "{text}");
    let icon = "icons/hicolor/scalable/apps/kapsule-work-org.example.hello.svg";
    assert!(
        text.contains("\nIcon=kapsule-work-org.example.hello\n"),
        "{text}"
    );
    let icon = rig.in_home(".local/share").join(icon);
    assert_eq!(fs::read_to_string(icon).expect("the icon"), "<svg/>\n");

    // A menu starts it; GLib's rules for Exec are not ours, so what they agree on is right.
    let mut launch = rig.machine().command_as(&ALICE, "gio");
    let inside = ALICE
        .home()
        .join(".local/share/applications/work-org.example.Hello.desktop");
    launch
        .args(["launch"])
        .arg(inside)
        .arg("/etc/hosts")
        .stdin(std::process::Stdio::null());
    let (mut process, mut lines) =
        testbed::Process::start_reading_both(launch, "gio", &rig.machine().logs()).expect("gio");
    lines.expect_line("the application's greeting", |line| {
        line == "hello <--name> <some body> </etc/hosts> <work>"
    });
    process.wait(Deadline::usual()).expect("it ends");
    let list: Value =
        serde_json::from_str(&rig.alice(&["export", "work", "--json"])).expect("JSON");
    assert_eq!(list["applications"][0]["exported"], true, "{list}");
}

fn a_program_is_exported(rig: &Rig<'_>) {
    let out = rig.kapsule(&ALICE, &["export", "work", "--bin", "/usr/local/bin/hello"]);
    assert!(out.stderr.contains("not in PATH"), "{}", out.both());
    assert_eq!(out.success(), "/home/alice/.local/bin/hello\n");
    let wrapper = "/home/alice/.local/bin/hello";
    let mut outside = rig.machine().command_as(&ALICE, wrapper);
    outside.args(["a b", "c"]);
    assert_eq!(
        rig.machine().run(outside).success(),
        "hello <a b> <c> <work>\n"
    );
    // The home is the same inside; there the wrapper is the program.
    let inside = rig.alice(&["run", "work", "--", wrapper, "x y"]);
    assert_eq!(inside, "hello <x y> <work>\n");

    let none = rig.kapsule(&ALICE, &["export", "work", "--bin", "/usr/bin/no-such"]);
    assert!(none.stderr.contains("is no program"), "{}", none.both());
    // What is not ours is not written over.
    fs::write(rig.in_home(".local/bin/env"), "mine\n").expect("the home is there");
    let taken = rig.kapsule(&ALICE, &["export", "work", "--bin", "/usr/bin/env"]);
    assert!(
        taken.stderr.contains("is there already"),
        "{}",
        taken.both()
    );
    assert_eq!(
        fs::read_to_string(rig.in_home(".local/bin/env")).expect("it"),
        "mine\n"
    );
}

fn snapshot_and_restore(rig: &Rig<'_>) {
    rig.alice(&["snapshot", "work", "before"]);
    rig.alice(&["run", "--root", "work", "--", "touch", "/var/lib/mistake"]);
    let list: Value =
        serde_json::from_str(&rig.alice(&["snapshot", "work", "--list", "--json"])).expect("JSON");
    assert_eq!(list[0]["name"], "before", "{list}");
    let out = rig.alice(&["restore", "work"]);
    assert!(out.contains("before"), "{out}");
    let gone = rig.kapsule(
        &ALICE,
        &["run", "work", "--", "test", "-e", "/var/lib/mistake"],
    );
    assert_eq!(gone.status.code(), Some(1), "{}", gone.both());
    rig.alice(&["snapshot", "work", "before", "--delete"]);
    let none = rig.kapsule(&ALICE, &["restore", "work"]);
    assert!(none.stderr.contains("has no snapshot"), "{}", none.both());
}

fn upgrade_and_back(rig: &Rig<'_>) {
    // A distribution without servers: it is as new as it gets.
    let line = "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*";
    rig.alice(&["run", "--root", "work", "--", "sh", "-c", line]);
    let out = rig.alice(&["upgrade", "work"]);
    assert!(
        out.contains("work: upgraded; back: kapsule upgrade work --undo"),
        "{out}"
    );
    rig.alice(&["run", "--root", "work", "--", "touch", "/var/lib/upgraded"]);
    rig.alice(&["upgrade", "work", "--undo"]);
    let gone = rig.kapsule(
        &ALICE,
        &["run", "work", "--", "test", "-e", "/var/lib/upgraded"],
    );
    assert_eq!(gone.status.code(), Some(1), "{}", gone.both());
}

fn a_copy_stops_and_starts(rig: &Rig<'_>) {
    rig.alice(&["clone", "work", "copy"]);
    rig.alice(&["start", "copy"]);
    assert_eq!(rig.alice(&["run", "copy", "--", "uname", "-n"]), "copy\n");
    rig.alice(&["stop", "copy", "--force"]);
    let running = rig.alice(&["list", "--running", "--quiet"]);
    assert_eq!(running, "work\n");
    // What does not run is started.
    assert_eq!(rig.alice(&["run", "copy", "--", "echo", "back"]), "back\n");
    let refused = rig.kapsule(&ALICE, &["rm", "copy"]);
    assert_ne!(refused.status.code(), Some(0), "{}", refused.both());
    rig.alice(&["rm", "--force", "copy"]);
    assert_eq!(rig.alice(&["list", "--quiet"]), "work\n");
}

fn a_container_is_started_at_login(rig: &Rig<'_>) {
    let listed = |name: &str| -> Value {
        let list: Value = serde_json::from_str(&rig.alice(&["list", "--json"])).expect("JSON");
        let rows = list.as_array().expect("an array");
        let row = rows.iter().find(|row| row["name"] == name);
        row.expect("it is listed")["autostart"].clone()
    };
    let file = |name: &str| rig.in_home(&format!(".config/autostart/kapsule-{name}.desktop"));
    rig.alice(&["clone", "work", "early"]);
    assert_eq!(listed("early"), false);
    assert!(!rig.alice(&["list"]).contains("AT LOGIN"));
    rig.alice(&["autostart", "early"]);
    assert_eq!(listed("early"), true);
    assert_eq!(listed("work"), false);
    assert!(rig.alice(&["list"]).contains("AT LOGIN"));
    assert!(rig.alice(&["info", "early"]).contains("when you log in"));
    let none = rig.kapsule(&ALICE, &["autostart", "nothing-there"]);
    assert_eq!(none.status.code(), Some(1), "{}", none.both());
    assert!(!file("nothing-there").exists());

    // It has another name then, and a desktop starts it.
    rig.alice(&["rename", "early", "late"]);
    assert!(!file("early").exists());
    let mut login = rig.machine().command_as(&ALICE, "gio");
    login
        .args([
            "launch",
            "/home/alice/.config/autostart/kapsule-late.desktop",
        ])
        .stdin(std::process::Stdio::null());
    let (mut process, mut lines) =
        testbed::Process::start_reading_both(login, "gio", &rig.machine().logs()).expect("gio");
    lines.expect_line("that it is started", |line| line == "late: started");
    process.wait(Deadline::usual()).expect("it ends");
    let running = rig.alice(&["list", "--running", "--quiet"]);
    assert!(running.contains("late\n"), "{running}");

    // What the desktop's settings have switched off is off.
    let text = fs::read_to_string(file("late")).expect("it is there");
    fs::write(file("late"), format!("{text}Hidden=true\n")).expect("it is a file");
    assert_eq!(listed("late"), false);
    rig.alice(&["autostart", "late"]);
    assert_eq!(listed("late"), true);
    rig.alice(&["autostart", "late", "--off"]);
    assert!(!file("late").exists());
    rig.alice(&["autostart", "late"]);
    rig.alice(&["rm", "--force", "late"]);
    assert!(!file("late").exists());
}

fn a_container_goes_through_a_file(rig: &Rig<'_>) {
    rig.alice(&["run", "--root", "work", "--", "touch", "/etc/saved"]);
    rig.alice(&["save", "work", "work.backup"]);
    let again = rig.kapsule(&ALICE, &["save", "work", "work.backup"]);
    assert_eq!(again.status.code(), Some(2), "{}", again.both());
    rig.alice(&["load", "work.backup", "loaded"]);
    let out = rig.alice(&["run", "loaded", "--", "sh", "-c", "id -un; ls /etc/saved"]);
    assert_eq!(out, "alice\n/etc/saved\n");
    rig.alice(&["rm", "--force", "loaded"]);
}

fn what_there_is_is_told(rig: &Rig<'_>) {
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&rig.alice(arguments)).expect("JSON")
    };
    let images = json(&["images", "--json"]);
    assert_eq!(images[0]["aliases"][0], "trixie", "{images}");
    assert!(rig.alice(&["images"]).contains("trixie"));
    let features = json(&["features", "--json"]);
    let names: Vec<_> = features
        .as_array()
        .expect("a list")
        .iter()
        .map(|f| &f["name"])
        .collect();
    assert!(names.iter().any(|name| *name == "graphics"), "{features}");
    assert!(
        features[0]["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{features}"
    );
    let daemon = json(&["daemon", "status", "--json"]);
    assert_eq!(daemon["incus"], true, "{daemon}");
    // Setting up the machine is nothing that alice may.
    let init = rig.kapsule(&ALICE, &["init"]);
    assert_eq!(init.status.code(), Some(1), "{}", init.both());
}

fn a_manifest_is_carried_out(rig: &Rig<'_>) {
    let manifest = r#"
[box]
image = "trixie"
without = ["graphics"]
setup = ["echo from-the-manifest >/etc/marked"]
run = ["touch ~/was-run"]
export-bin = ["/usr/bin/tac"]
"#;
    fs::write(rig.in_home("boxes.toml"), manifest).expect("the home is there");
    let dry = rig.alice(&["assemble", "boxes.toml", "--dry-run"]);
    assert!(dry.contains("box: would be made from trixie"), "{dry}");
    rig.alice(&["assemble", "boxes.toml"]);
    assert_eq!(
        rig.alice(&["run", "box", "--", "cat", "/etc/marked"]),
        "from-the-manifest\n"
    );
    assert!(rig.in_home("was-run").exists(), "the home is shared");
    assert!(
        rig.in_home(".local/bin/tac").exists(),
        "the program is exported"
    );
    let again = rig.alice(&["assemble", "boxes.toml"]);
    assert_eq!(again, "box: is there already\n");
    rig.alice(&["assemble", "boxes.toml", "--delete"]);
    assert!(
        !rig.in_home(".local/bin/tac").exists(),
        "what was exported is gone"
    );

    fs::write(rig.in_home("wrong.toml"), "[box]\nwith = [\"sound\"]\n").expect("the home is there");
    let wrong = rig.kapsule(&ALICE, &["assemble", "wrong.toml"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        wrong.stderr.contains("wrong.toml:2:9: ") && wrong.stderr.contains("|         ^^^^^^^"),
        "{}",
        wrong.stderr
    );
}

fn an_empty_name_is_the_default_container(rig: &Rig<'_>) {
    let mut terminal = rig.at_a_terminal("\"$kapsule\" enter ''");
    terminal.expect("\x1b]777;container;push;den;kapsule\x1b\\");
    terminal.send("uname -n; exit\n");
    terminal.expect("den\r\n");
    let (status, rest) = terminal.wait();
    assert!(status.success(), "{rest}");
    assert!(rig.alice(&["list", "--quiet"]).contains("den\n"));
    rig.alice(&["config", "default_container", "work"]);
    assert_eq!(rig.alice(&["config", "default_container"]), "work\n");
    assert_eq!(rig.alice(&["run", "", "--", "uname", "-n"]), "work\n");
    rig.alice(&["config", "default_container", "--unset"]);
    assert_eq!(rig.alice(&["config", "default_container"]), "den\n");
    rig.alice(&["rm", "--force", "den"]);
}

fn front_ends_of_distrobox_are_answered(rig: &Rig<'_>) {
    let link = rig.in_home("distrobox");
    std::os::unix::fs::symlink(rig.program(), &link).expect("the home is there");
    let distrobox = |arguments: &[&str]| {
        let mut command = rig.machine().command_as(&ALICE, "/home/alice/distrobox");
        command.args(arguments);
        rig.machine().run(command).success()
    };
    let list = distrobox(&["list", "--no-color"]);
    let row: Vec<&str> = list
        .lines()
        .nth(1)
        .expect("a row")
        .split('|')
        .map(str::trim)
        .collect();
    assert_eq!(row[1..3], ["work", "Up"], "{list}");
    assert_eq!(distrobox(&["enter", "work", "--", "uname", "-n"]), "work\n");
    let mut terminal = rig.at_a_terminal("~/distrobox enter work");
    terminal.expect("\x1b]777;container;push;work;distrobox\x1b\\");
    terminal.send("exit\n");
    terminal.wait();
    // As front ends export and take back.
    let file = rig.in_home(".local/share/applications/work-org.example.Hello.desktop");
    let export = [
        "enter",
        "work",
        "--",
        "distrobox-export",
        "--app",
        "org.example.Hello",
    ];
    distrobox(&[&export[..], &["--delete"]].concat());
    assert!(!file.exists());
    distrobox(&export);
    assert!(file.exists());
}

fn others_are_asked_or_refused(rig: &Rig<'_>) {
    let denied = rig.kapsule(&CAROL, &["create", "hers", "--image", "trixie"]);
    assert_eq!(denied.status.code(), Some(1), "{}", denied.both());
    assert!(denied.stderr.starts_with("error: "), "{}", denied.stderr);
    let denied = rig.kapsule(&CAROL, &["run", "work", "--", "true"]);
    assert_eq!(denied.status.code(), Some(125), "{}", denied.both());

    // bob is nobody who could be asked, without a terminal.
    let unasked = rig.kapsule(&BOB, &["create", "his", "--image", "trixie"]);
    assert_eq!(unasked.status.code(), Some(1), "{}", unasked.both());
    let create = |password: &str| {
        let mut command = rig.machine().command_as(&BOB, "sh");
        command
            .args(["-c", "cd; exec \"$kapsule\" create his --image trixie"])
            .env("kapsule", rig.program());
        let mut terminal =
            testbed::Terminal::start(&command, &rig.machine().logs()).expect("a terminal");
        // We bring the agent ourselves.
        terminal.expect("Password: ");
        terminal.send_secret(&format!("{password}\n"));
        terminal.wait()
    };
    let (status, said) = create("wrong");
    assert_eq!(status.code(), Some(1), "{said}");
    let (status, said) = create(PASSWORD);
    assert!(status.success(), "{said}");
    let list = rig.kapsule(&BOB, &["list", "--quiet"]).success();
    assert_eq!(list, "his\n");
    // alice sees hers, and may not touch his.
    assert_eq!(rig.alice(&["list", "--quiet"]), "work\n");
    let refused = rig.kapsule(&ALICE, &["rm", "--force", "his"]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.both());
}

fn rm_takes_away_what_was_exported(rig: &Rig<'_>) {
    let exported = [
        ".local/share/applications/work-org.example.Hello.desktop",
        ".local/share/icons/hicolor/scalable/apps/kapsule-work-org.example.hello.svg",
        ".local/bin/hello",
        ".local/share/kapsule/exports/work.json",
    ];
    for file in exported {
        assert!(rig.in_home(file).exists(), "{file}");
    }
    rig.alice(&["rm", "work", "--force"]);
    for file in exported {
        assert!(!rig.in_home(file).exists(), "{file}");
    }
    assert_eq!(rig.alice(&["list", "--quiet"]), "");
    let empty = rig.alice(&["list", "--json"]);
    assert_eq!(empty, "[]\n");
}
