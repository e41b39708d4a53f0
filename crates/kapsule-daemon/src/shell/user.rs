//! The caller's account inside: the same name, number, group, groups, shell and home; root without a password; a service
//! manager of its own where the container has systemd.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shells;
use super::accounts::Inmate;
use super::init::Init;
use super::inside::Root;
use super::program::run_as_root;
use crate::caller::Caller;
use crate::container::Container;
use crate::error::{Error, Result};

/// What is done inside.
const SCRIPT: &str = include_str!("set_up_user.sh");
/// As long as that may take: something inside may be editing accounts.
const SCRIPT_TIME: Duration = Duration::from_secs(60);
/// As long as the first shell after the container's start waits for the service manager.
const BOOT_TIME: Duration = Duration::from_secs(15);
/// Between two attempts to reach a service manager that is still starting.
const BOOT_PAUSE: Duration = Duration::from_millis(50);

impl Shells {
    /// Makes the caller's account inside, or makes it right. Running it again changes nothing.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Failed`] with what the container said.
    pub async fn set_up_user(&self, caller: &Caller, container: &Container) -> Result<()> {
        let doing = format!("setting up user '{}' in '{}'", caller.name, container.name);
        let _one = self.setting_up.lock().await;
        let init = self.init(container).await?;
        if caller.uid == 0 {
            return Ok(());
        }
        let home = caller.home.to_string_lossy().into_owned();
        let shell = caller.shell.to_string_lossy().into_owned();
        if !is_account_name(&caller.name)
            || !home.starts_with('/')
            || [&home, &shell].iter().any(|s| s.contains([':', '\n']))
        {
            return Err(Error::Failed(format!(
                "{doing}: the account's name, home or shell has a sign that account files cannot hold"
            )));
        }
        let mut argv: Vec<String> = ["/bin/sh", "-c", SCRIPT, "kapsule"]
            .map(str::to_owned)
            .into();
        argv.extend([
            caller.name.clone(),
            caller.uid.to_string(),
            caller.gid.to_string(),
            home,
            shell,
        ]);
        argv.extend(
            caller
                .groups
                .iter()
                .filter(|group| is_account_name(&group.name))
                .map(|group| format!("{}:{}", group.name, group.gid)),
        );
        let (status, text) = run_as_root(&init, container.name.as_str(), argv, SCRIPT_TIME)
            .await
            .map_err(|error| error.doing(&doing))?;
        match status {
            0 => {
                tracing::info!(container = %container.name, uid = caller.uid, "the user is set up");
                Ok(())
            }
            127 => Err(Error::Failed(format!(
                "{doing}: the image has no /bin/sh; use another image"
            ))),
            _ => Err(Error::Failed(format!(
                "{doing}: {}",
                text.lines().last().unwrap_or("it failed")
            ))),
        }
    }

    /// Whether the user with this number was set up inside.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn is_user_set_up(&self, container: &Container, uid: u32) -> Result<bool> {
        let root = self.init(container).await?.root()?;
        Ok(uid == 0 || is_set_up(&root, uid))
    }

    /// Waits until the user's service manager runs inside, and so the session bus; the first time after the container's
    /// start that takes a moment. What cannot be had is done without.
    pub(super) async fn start_user_manager(
        &self,
        init: &Arc<Init>,
        container: &Container,
        uid: u32,
    ) {
        let Ok(root) = init.root() else { return };
        // Of several shells at once one starts it.
        if has_manager(init, &root, uid) || !init.first_time(uid) {
            return;
        }
        let directory = format!("/run/user/{uid}");
        let name = container.name.as_str();
        let result = if is_systemd(&root) {
            let began = Instant::now();
            let unit = format!("user@{uid}.service");
            loop {
                let argv = ["systemctl", "--quiet", "start", &unit]
                    .map(str::to_owned)
                    .into();
                match run_as_root(init, name, argv, BOOT_TIME).await {
                    Ok((0, _)) => break Ok(()),
                    Ok((127, text)) => break Err(text),
                    Ok((_, text)) if began.elapsed() > BOOT_TIME => break Err(text),
                    Ok(_) => tokio::time::sleep(BOOT_PAUSE).await,
                    Err(error) => break Err(error.to_string()),
                }
            }
        } else {
            // Nobody else makes it; where /run is on the disk, it is there from the last time.
            let script = "set -e; umask 022; mkdir -p /run/user; [ -d \"$1\" ] || mkdir -m 0700 \"$1\"; chown \"$2:$3\" \"$1\"";
            let gid = Inmate::of(&root, uid).map_or(uid, |inmate| inmate.gid);
            let mut argv: Vec<String> = ["/bin/sh", "-c", script, "kapsule"]
                .map(str::to_owned)
                .into();
            argv.extend([directory, uid.to_string(), gid.to_string()]);
            match run_as_root(init, name, argv, SCRIPT_TIME).await {
                Ok((0, _)) => Ok(()),
                Ok((_, text)) => Err(text),
                Err(error) => Err(error.to_string()),
            }
        };
        if let Err(text) = result {
            tracing::warn!(
                container = name,
                uid,
                text,
                "no service manager of the user; sessions go without"
            );
        }
    }
}

fn is_set_up(root: &Root, uid: u32) -> bool {
    root.has(format!("/var/lib/kapsule/users/{uid}").as_ref()) && Inmate::of(root, uid).is_some()
}

/// Whether the container is run by systemd. By the program and not by what systemd makes: it may not have come to that.
fn is_systemd(root: &Root) -> bool {
    ["/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd"]
        .iter()
        .any(|path| {
            root.find(Path::new(path)).is_ok_and(|found| {
                use std::os::fd::AsRawFd;
                std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
                    .is_ok_and(|path| path.ends_with("systemd/systemd"))
            })
        })
}

/// A name that account files can hold, and that no tool takes for an option.
fn is_account_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && !name.starts_with(['-', '+', '#', '%', '.'])
        && !name.contains([':', ',', '/', '\\', '"', '\'', '!', '=', '(', ')', '*'])
        && !name.contains(char::is_whitespace)
        && !name.contains(char::is_control)
}

/// Whether the user has a service manager inside, or was to get one once: then there is none to be had.
pub(super) fn has_manager(init: &Init, root: &Root, uid: u32) -> bool {
    init.is_prepared(uid) || root.has(format!("/run/user/{uid}/bus").as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_be_another_line_is_no_account() {
        for name in ["ann", "ann.b", "DOMAIN+ann@example.org", "x$", "jürgen"] {
            assert!(is_account_name(name), "{name}");
        }
        for name in [
            "",
            "-a",
            "a:b",
            "a\nroot:x:0:0",
            "a b",
            "%sudo",
            "a/b",
            "a,b",
        ] {
            assert!(!is_account_name(name), "{name}");
        }
    }
}
