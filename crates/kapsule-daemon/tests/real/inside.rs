//! Programs that run inside for a person, to their end.

use std::fs::File;
use std::io::{Read, Seek};

use zbus::{Fd, OwnedObjectPath, Variant};

use super::rig::{Person, Rig, plain};

/// What a program inside has said, and its exit status.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// What it has written, if it ended well.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!(self.status, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a shell's line inside: as the person, or as root.
pub async fn run(rig: &Rig<'_>, person: &Person, name: &str, root: bool, line: &str) -> Said {
    let mut options = plain();
    if root {
        options.insert("user", Variant::from("root"));
    }
    let file = |what: &str| {
        let path = rig.machine.dir().write(format!("inside/{what}"), "");
        File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("it is ours")
    };
    let (mut stdout, mut stderr) = (file("stdout"), file("stderr"));
    let stdin = File::open("/dev/null").expect("there is one");
    let argv = ["sh", "-c", line];
    let arguments = (
        name,
        &argv[..],
        options,
        Fd::from(&stdin),
        Fd::from(&stdout),
        Fd::from(&stderr),
    );
    let session: OwnedObjectPath = person
        .call("RunCommand", &arguments)
        .await
        .expect("it runs");
    let status = person.wait(session).await;
    let read = |file: &mut File| {
        let mut text = String::new();
        file.rewind().expect("it is a file");
        file.read_to_string(&mut text).expect("it is text");
        text
    };
    Said {
        status,
        stdout: read(&mut stdout),
        stderr: read(&mut stderr),
    }
}
