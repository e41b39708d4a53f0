//! Putting the rules up, and taking them down.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::audit::AuditLog;
use crate::container::{self, Found};
use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::nftables::Table;
use crate::profile::{self, Entry};
use crate::session::in_process::no_permission;
use crate::state::{List, StateDir, Target};

/// What the rules are to be like.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// What is allowed from the beginning; `None` keeps what an earlier `up` was given.
    pub profile: Option<Vec<Entry>>,
    /// Addresses of gateways, which are let through.
    pub gateways: Vec<IpAddr>,
    /// Deny without asking.
    pub unattended: bool,
    /// Ask about private networks, too.
    pub ask_private: bool,
    /// Leave name resolution alone.
    pub without_names: bool,
}

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// The container's short id.
    pub short_id: String,
    /// A process of the container could change the rules.
    pub open_to_container: bool,
}

/// Reads a profile from a file.
///
/// # Errors
/// If it cannot be read, or a line of it says nothing we know.
pub fn read_profile(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::system(format!("reading the profile {}", path.display()), e))?;
    profile::read(&text).map_err(|(line, what)| Error::Line {
        path: path.display().to_string(),
        line,
        what,
    })
}

/// Loads the rules for a container: everything is denied but what the profile and earlier verdicts allow.
///
/// # Errors
/// If the state directory cannot be written, a capability is missing, or `nft` refuses. The rules are then
/// as they were.
pub fn up(state: &StateDir, name: &str, found: &Found, wishes: &Wishes) -> Result<Done> {
    let namespace = Namespace::open(&found.netns)?;
    if namespace.is(&Namespace::own()?) {
        return Err(Error::Usage(format!(
            "{name} has no network namespace of its own: it uses this machine's, and the rules would be this machine's"
        )));
    }
    state.create()?;
    let short_id = match (&found.short_id, state.container_id()) {
        (Some(id), _) => id.clone(),
        (None, Ok(known)) => known,
        (None, Err(_)) => random_id()?,
    };
    state.replace("container.id", &format!("{short_id}\n"))?;
    if let Some(profile) = &wishes.profile {
        let of = |wanted: fn(&Entry) -> bool| -> Vec<Entry> {
            profile.iter().filter(|e| wanted(e)).cloned().collect()
        };
        state.set_list(
            List::ProfileAllowed,
            &of(|e| matches!(e, Entry::Network(_))),
        )?;
        state.set_list(
            List::ProfilePorts,
            &of(|e| matches!(e, Entry::Destination(_))),
        )?;
        state.set_list(List::ProfileDomains, &of(|e| matches!(e, Entry::Name(_))))?;
    }
    let mut rules = state.rules()?;
    rules.gateways.clone_from(&wishes.gateways);
    rules.ask_private = wishes.ask_private;
    rules.without_names = wishes.without_names;
    let text = rules.text();
    state.replace("ruleset.nft", &text)?;
    load(&namespace, &text)?;
    if wishes.unattended {
        state.remove("interactive")?;
    } else {
        state.replace("interactive", "nflog\n")?;
    }
    let audit = state.file("audit.jsonl");
    AuditLog::open(&audit, name)
        .and_then(|mut log| {
            log.write(
                "up",
                "",
                &format!("{} {}", found.kind, found.netns.display()),
            )
        })
        .map_err(|e| Error::system(format!("writing {}", audit.display()), e))?;
    // Last: a bridge for all containers sees a container when it has this file.
    state.set_target(&Target {
        container: name.to_owned(),
        kind: found.kind.to_owned(),
        netns: found.netns.clone(),
        pid: found.pid,
        started: found.pid.and_then(container::started),
        gateways: wishes.gateways.clone(),
        ask_private: wishes.ask_private,
        without_names: wishes.without_names,
    })?;
    Ok(Done {
        short_id,
        open_to_container: found.pid.is_some_and(|pid| namespace.is_open_to(pid)),
    })
}

/// Removes the rules: the container's traffic passes unhindered afterwards. What was decided is kept.
///
/// # Errors
/// If a capability is missing. A container that is gone is no error.
pub fn down(state: &StateDir, name: &str) -> Result<()> {
    let target = state.target()?.ok_or_else(|| Error::NotUp {
        container: name.to_owned(),
    })?;
    match container::of_target(&target) {
        Ok(namespace) => {
            let [socket] = namespace.netfilter_sockets::<1>()?;
            if let Some(mut table) =
                Table::open(socket).map_err(|e| no_permission(e, "reading the rules"))?
            {
                table
                    .delete()
                    .map_err(|e| no_permission(e, "removing the rules"))?;
            }
        }
        Err(Error::Gone(_)) => {}
        Err(other) => return Err(other),
    }
    let audit = state.file("audit.jsonl");
    AuditLog::open(&audit, name)
        .and_then(|mut log| log.write("down", "", ""))
        .map_err(|e| Error::system(format!("writing {}", audit.display()), e))?;
    state.remove("interactive")?;
    // What waits is void; the numbers are not used again.
    let (mut journal, _, next) = state.journal()?;
    journal.rewrite(std::iter::empty(), next)?;
    state.remove("target.json")
}

/// Loads rules inside a namespace.
fn load(namespace: &Namespace, text: &str) -> Result<()> {
    let mut command = Command::new("nft");
    // An ordinary user's PATH often lacks the directories where it lies.
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .args(["-f", "-"])
        .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    namespace.enter_before_exec(&mut command);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Nft(
            "the program nft was not found\n  hint: install nftables (apt install nftables, dnf install nftables, pacman -S nftables)".into(),
        ),
        std::io::ErrorKind::PermissionDenied => namespace.entering(e),
        _ => Error::Nft(format!("starting nft: {e}")),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ends early, what it says is more telling than a broken pipe.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|e| Error::Nft(format!("waiting for nft: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = said.lines().take(4).collect();
    Err(Error::Nft(said.join("\n  ")))
}

fn random_id() -> Result<String> {
    let mut bytes = [0u8; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::system("making an id".into(), e.into()))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
