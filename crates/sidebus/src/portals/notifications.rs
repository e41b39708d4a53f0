//! The notifications of one virtual machine that the host shows, as far as we know.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// A notification: the application's id on the host, and the notification's.
type Shown = (String, String);

/// A bounded list, the oldest first.
#[derive(Debug)]
pub struct Notifications {
    shown: Mutex<VecDeque<Shown>>,
    most: usize,
}

impl Notifications {
    /// `most` may be shown at a time.
    pub fn new(most: usize) -> Notifications {
        Notifications {
            shown: Mutex::default(),
            most,
        }
    }

    /// One is shown, or changed. Gives back the one that has to go for it.
    pub fn add(&self, app_id: &str, id: &str) -> Option<Shown> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let new = (app_id.to_owned(), id.to_owned());
        shown.retain(|other| *other != new);
        shown.push_back(new);
        if shown.len() > self.most {
            shown.pop_front()
        } else {
            None
        }
    }

    /// One is withdrawn.
    pub fn remove(&self, app_id: &str, id: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|(other_app, other)| other_app != app_id || other != id);
    }

    /// The id on the host of an application's notification. Two applications of the guest that the host cannot tell
    /// apart do not have one.
    pub fn host_id(app_id: &str, id: &str) -> String {
        format!("{app_id}:{id}")
    }

    /// The guest's id of one of this application; none if it is not.
    pub fn guest_id<'h>(app_id: &str, host: &'h str) -> Option<&'h str> {
        host.strip_prefix(app_id)?.strip_prefix(':')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_for_one_too_many() {
        let notifications = Notifications::new(2);
        assert_eq!(notifications.add("a", "1"), None);
        assert_eq!(notifications.add("a", "2"), None);
        assert_eq!(
            notifications.add("a", "1"),
            None,
            "changed, and the newest now"
        );
        assert_eq!(
            notifications.add("b", "1"),
            Some(("a".to_owned(), "2".to_owned()))
        );
        notifications.remove("a", "1");
        assert_eq!(notifications.add("a", "3"), None);
    }

    #[test]
    fn an_id_comes_back_to_its_application_alone() {
        let host = Notifications::host_id("vm.a.x", "n:1");
        assert_eq!(Notifications::guest_id("vm.a.x", &host), Some("n:1"));
        assert_eq!(Notifications::guest_id("vm.a.y", &host), None);
        assert_eq!(Notifications::guest_id("vm.a", &host), None);
    }
}
