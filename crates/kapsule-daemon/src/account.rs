//! Accounts of the host: who a uid is.
//!
//! Read from `/etc/passwd` and `/etc/group`; what is not in there (homed, LDAP) is asked of `getent`, a program of
//! libc's that asks all the sources the machine is set up for. So no library of the machine's is loaded into this
//! process, which runs as root and is kept small.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A group of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub gid: u32,
    /// Its name.
    pub name: String,
}

/// An account of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The number of the primary group.
    pub gid: u32,
    /// The login name.
    pub name: String,
    /// The home directory.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
    /// All groups, the primary one first.
    pub groups: Vec<Group>,
}

impl Account {
    /// The account with this uid.
    ///
    /// # Errors
    /// [`Error::Failed`] if there is none, or the machine's account files cannot be read.
    pub async fn of(uid: u32) -> Result<Self> {
        let passwd = read("/etc/passwd").await?;
        let line = match passwd_line(&passwd, uid) {
            Some(line) => line.to_owned(),
            None => getent("passwd", &uid.to_string())
                .await?
                .ok_or_else(|| Error::Failed(format!("no account has the uid {uid}")))?,
        };
        let mut account = parse_passwd(&line)
            .filter(|account| account.uid == uid)
            .ok_or_else(|| Error::Failed(format!("the account of uid {uid} cannot be read")))?;
        let groups = read("/etc/group").await?;
        account.groups = groups_of(&groups, &account.name, account.gid);
        if !passwd_is_complete().await
            && let Some(line) = getent("initgroups", &account.name).await?
        {
            for gid in line
                .split_whitespace()
                .skip(1)
                .filter_map(|gid| gid.parse::<u32>().ok())
            {
                if account.groups.iter().all(|group| group.gid != gid)
                    && let Some(line) = getent("group", &gid.to_string()).await?
                    && let Some(group) = parse_group(&line)
                {
                    account.groups.push(group.0);
                }
            }
        }
        if account
            .groups
            .first()
            .is_none_or(|group| group.gid != account.gid)
        {
            let name = match getent("group", &account.gid.to_string()).await? {
                Some(line) => parse_group(&line).map(|group| group.0.name),
                None => None,
            };
            account.groups.insert(
                0,
                Group {
                    gid: account.gid,
                    name: name.unwrap_or_else(|| account.name.clone()),
                },
            );
        }
        Ok(account)
    }
}

async fn read(path: &str) -> Result<String> {
    let bytes = tokio::fs::read(path)
        .await
        .map_err(Error::failed(format_args!("reading {path}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether accounts and groups come from files alone, so that nobody else need be asked.
async fn passwd_is_complete() -> bool {
    // Without the file libc uses files only.
    let Ok(text) = tokio::fs::read_to_string("/etc/nsswitch.conf").await else {
        return !Path::new("/etc/nsswitch.conf").exists();
    };
    sources_are_files(&text)
}

fn sources_are_files(nsswitch: &str) -> bool {
    ["passwd:", "group:", "initgroups:"].iter().all(|database| {
        nsswitch
            .lines()
            .filter_map(|line| line.trim().strip_prefix(database))
            .flat_map(str::split_whitespace)
            // systemd's source has the dynamic users of services, and none of a person's groups.
            .all(|source| {
                matches!(source, "files" | "compat" | "systemd") || source.starts_with('[')
            })
    })
}

/// One line of a database, or `None` if it has no such key.
async fn getent(database: &str, key: &str) -> Result<Option<String>> {
    let run = tokio::process::Command::new("getent")
        .args(["--", database, key])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(10), run)
        .await
        .map_err(Error::failed(format_args!(
            "asking getent for {database} {key}"
        )))?
        .map_err(Error::failed(format_args!(
            "asking getent for {database} {key}"
        )))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().map(str::to_owned))
}

fn passwd_line(passwd: &str, uid: u32) -> Option<&str> {
    passwd
        .lines()
        .find(|line| line.split(':').nth(2).and_then(|field| field.parse().ok()) == Some(uid))
}

fn parse_passwd(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    let shell = fields.next().filter(|shell| !shell.is_empty());
    Some(Account {
        uid,
        gid,
        name: name.to_owned(),
        home: PathBuf::from(home),
        shell: PathBuf::from(shell.unwrap_or("/bin/sh")),
        groups: Vec::new(),
    })
}

/// A group and its members.
fn parse_group(line: &str) -> Option<(Group, Vec<&str>)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields.next().unwrap_or_default().split(',').collect();
    let name = name.to_owned();
    Some((Group { gid, name }, members))
}

fn groups_of(file: &str, user: &str, primary: u32) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (group, members) in file.lines().filter_map(parse_group) {
        if group.gid == primary {
            groups.insert(0, group);
        } else if members.contains(&user) {
            groups.push(group);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nana:x:1000:1000:Ana,,,:/home/ana:/usr/bin/zsh\nbo:x:1001:1001::/home/bo:\n";
    const GROUP: &str = "root:x:0:\nvideo:x:44:bo,ana\nana:x:1000:\naudio:x:29:bo\n";

    #[test]
    fn an_account_is_read_with_its_groups_the_primary_one_first() {
        let line = passwd_line(PASSWD, 1000).expect("ana is there");
        let account = parse_passwd(line).expect("a line");
        assert_eq!(account.name, "ana");
        assert_eq!(account.home, Path::new("/home/ana"));
        assert_eq!(account.shell, Path::new("/usr/bin/zsh"));
        let names: Vec<String> = groups_of(GROUP, "ana", 1000)
            .into_iter()
            .map(|g| g.name)
            .collect();
        assert_eq!(names, ["ana", "video"]);
    }

    #[test]
    fn an_empty_shell_is_the_usual_one_and_a_missing_uid_is_none() {
        let line = passwd_line(PASSWD, 1001).expect("bo is there");
        assert_eq!(
            parse_passwd(line).expect("a line").shell,
            Path::new("/bin/sh")
        );
        assert_eq!(passwd_line(PASSWD, 100), None);
    }

    #[test]
    fn only_files_need_no_second_source() {
        assert!(sources_are_files(
            "passwd: files systemd\ngroup: files [SUCCESS=merge] systemd\n"
        ));
        assert!(!sources_are_files("passwd: files sss\ngroup: files\n"));
    }
}
