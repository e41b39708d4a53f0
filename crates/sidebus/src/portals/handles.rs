//! Requests and sessions: two object paths each, the guest's and the host's.
//!
//! Invariants: a guest's path and a host's path each stand for one entry at most; a guest's path is below the client's
//! own name, so no client can name another's.

use std::collections::HashMap;

use super::table::DESKTOP_PATH;

/// The longest token that is taken (bytes).
const LONGEST_TOKEN: usize = 255;

/// Whether a token may be the last element of a handle. An empty one, or one with other characters, ends the host's
/// xdg-desktop-portal.
pub fn is_token(token: &str) -> bool {
    (1..=LONGEST_TOKEN).contains(&token.len())
        && token
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Which of the two.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// org.freedesktop.portal.Request.
    Request,
    /// org.freedesktop.portal.Session.
    Session,
}

impl Kind {
    /// The word for it in object paths.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Request => "request",
            Kind::Session => "session",
        }
    }
}

/// The handle that a client with this unique name derives from its token.
pub fn handle(kind: Kind, unique_name: &str, token: &str) -> String {
    let sender = unique_name.trim_start_matches(':').replace('.', "_");
    format!("{DESKTOP_PATH}/{}/{sender}/{token}", kind.word())
}

/// Entries by both of their paths.
#[derive(Debug)]
pub struct Handles<T> {
    by_host: HashMap<String, (String, T)>,
    by_guest: HashMap<String, String>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Handles {
            by_host: HashMap::new(),
            by_guest: HashMap::new(),
        }
    }
}

impl<T> Handles<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_host.len()
    }

    /// Whether the guest has an entry at this path.
    pub fn has_guest(&self, guest: &str) -> bool {
        self.by_guest.contains_key(guest)
    }

    /// A new entry; neither path may be in use.
    pub fn insert(&mut self, guest: String, host: String, entry: T) {
        debug_assert!(!self.by_guest.contains_key(&guest) && !self.by_host.contains_key(&host));
        self.by_guest.insert(guest.clone(), host.clone());
        self.by_host.insert(host, (guest, entry));
    }

    /// The guest's path and the entry at the host's path.
    pub fn at_host(&self, host: &str) -> Option<(&str, &T)> {
        self.by_host
            .get(host)
            .map(|(guest, entry)| (guest.as_str(), entry))
    }

    /// The host's path of the guest's.
    pub fn host_of(&self, guest: &str) -> Option<&str> {
        self.by_guest.get(guest).map(String::as_str)
    }

    /// Changes the entries whose host path is `chosen`.
    pub fn mark(&mut self, change: impl Fn(&mut T), chosen: impl Fn(&str) -> bool) {
        for (host, (_, entry)) in &mut self.by_host {
            if chosen(host) {
                change(entry);
            }
        }
    }

    /// The host has given an entry another path than was expected.
    pub fn move_host(&mut self, from: &str, to: &str) {
        if from == to || self.by_host.contains_key(to) {
            return;
        }
        if let Some((guest, entry)) = self.by_host.remove(from) {
            self.by_guest.insert(guest.clone(), to.to_owned());
            self.by_host.insert(to.to_owned(), (guest, entry));
        }
    }

    /// Takes an entry out; gives back the guest's path and the entry.
    pub fn remove_host(&mut self, host: &str) -> Option<(String, T)> {
        let (guest, entry) = self.by_host.remove(host)?;
        self.by_guest.remove(&guest);
        Some((guest, entry))
    }

    /// Takes all out: guest's path, host's path, entry.
    pub fn drain(&mut self) -> Vec<(String, String, T)> {
        self.by_guest.clear();
        self.by_host
            .drain()
            .map(|(host, (guest, entry))| (guest, host, entry))
            .collect()
    }

    /// All of them: guest's path and entry.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.by_host
            .values()
            .map(|(guest, entry)| (guest.as_str(), entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_would_end_the_hosts_portal_is_none() {
        for good in ["a", "gtk123", "_", "A_9"] {
            assert!(is_token(good), "{good}");
        }
        for bad in ["", " ", "a b", "a-b", "a/b", "..", "ä", &"a".repeat(256)] {
            assert!(!is_token(bad), "{bad}");
        }
    }

    #[test]
    fn a_handle_is_made_of_the_clients_own_name() {
        assert_eq!(
            handle(Kind::Request, ":1.93", "t"),
            "/org/freedesktop/portal/desktop/request/1_93/t"
        );
        assert_eq!(
            handle(Kind::Session, ":1.7", "s"),
            "/org/freedesktop/portal/desktop/session/1_7/s"
        );
    }

    #[test]
    fn an_entry_is_found_by_either_path_until_it_is_removed() {
        let mut handles = Handles::default();
        handles.insert("/g".to_owned(), "/h".to_owned(), 7);
        assert_eq!(handles.at_host("/h"), Some(("/g", &7)));
        assert_eq!(handles.host_of("/g"), Some("/h"));
        handles.move_host("/h", "/other");
        assert!(handles.at_host("/h").is_none());
        assert_eq!(handles.host_of("/g"), Some("/other"));
        assert_eq!(handles.remove_host("/other"), Some(("/g".to_owned(), 7)));
        assert!(!handles.has_guest("/g"));
        assert_eq!(handles.len(), 0);
    }
}
