//! The accounts inside a container: `passwd(5)` and `group(5)`, as the container has them.
//!
//! The container's to change, so nothing is believed of them but who its own user says to be inside.

use super::inside::Root;

/// Where accounts are.
const PASSWD: &str = "/etc/passwd";
/// Where groups are.
const GROUP: &str = "/etc/group";
/// The kernel takes 65536; nobody needs as many.
const GROUPS: usize = 1024;

/// An account inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inmate {
    /// The login name.
    pub name: String,
    /// The number, inside.
    pub uid: u32,
    /// The primary group's.
    pub gid: u32,
    /// The home directory.
    pub home: String,
    /// The login shell.
    pub shell: String,
    /// The numbers of the supplementary groups, the primary one included.
    pub groups: Vec<u32>,
}

impl Inmate {
    /// The account with this number, with its groups.
    pub fn of(root: &Root, uid: u32) -> Option<Self> {
        let mut inmate = Self::parse(&root.text(PASSWD), uid)?;
        inmate.groups = groups_of(&root.text(GROUP), &inmate.name, inmate.gid);
        Some(inmate)
    }

    fn parse(passwd: &str, uid: u32) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, number, gid, _, home, shell] = fields[..] else {
                return None;
            };
            (number.parse() == Ok(uid) && !name.is_empty() && !line.contains('\0')).then(|| Self {
                name: name.to_owned(),
                uid,
                gid: gid.parse().unwrap_or(uid),
                home: if home.is_empty() { "/" } else { home }.to_owned(),
                shell: if shell.is_empty() { "/bin/sh" } else { shell }.to_owned(),
                groups: Vec::new(),
            })
        })
    }

    /// Root, also where the container has no accounts at all.
    pub fn root(root: &Root) -> Self {
        Self::of(root, 0).unwrap_or_else(|| Self {
            name: "root".to_owned(),
            uid: 0,
            gid: 0,
            home: "/root".to_owned(),
            shell: "/bin/sh".to_owned(),
            groups: vec![0],
        })
    }
}

fn groups_of(group: &str, name: &str, gid: u32) -> Vec<u32> {
    let mut groups = vec![gid];
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        let (Some(Ok(number)), Some(members)) = (fields.next().map(str::parse), fields.next())
        else {
            continue;
        };
        if members.split(',').any(|member| member == name) && !groups.contains(&number) {
            groups.push(number);
        }
        if groups.len() == GROUPS {
            break;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_the_groups_that_name_it() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/zsh\nbad line\n:x:1001:1::/:\n";
        let ann = Inmate::parse(passwd, 1000).expect("she is there");
        assert_eq!((ann.name.as_str(), ann.shell.as_str()), ("ann", "/bin/zsh"));
        assert_eq!(Inmate::parse(passwd, 1001), None);
        let group = "root:x:0:\nsudo:x:27:bob,ann\nvideo:x:44:anna\nann:x:1000:\naudio:x:29:ann\n";
        assert_eq!(groups_of(group, "ann", 1000), [1000, 27, 29]);
    }

    #[test]
    fn a_line_made_to_confuse_is_no_account() {
        assert_eq!(Inmate::parse("a:x:1000:1000::/home\n", 1000), None);
        assert_eq!(
            Inmate::parse("a:x:1000:1000::/home:/bin/sh:extra\n", 1000),
            None
        );
        assert_eq!(
            Inmate::parse("a\0b:x:1000:1000::/home:/bin/sh\n", 1000),
            None
        );
    }
}
