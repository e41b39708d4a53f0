//! Who may do what. Every call that does something comes by here.
//!
//! | what | whose | action |
//! |---|---|---|
//! | make a container | one's own | enter-container |
//! | enter, run, start, stop, delete, snapshot, … | one's own | enter-container |
//! | the same | another's, or not made by kapsule | manage-container |
//! | make or load a privileged one, or copy one | | privileged-container as well |
//! | import, delete, refresh images | all share them | manage-container |
//! | set up Incus | | initialize |

use crate::caller::Caller;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::names::{ContainerName, ImageName};
use crate::polkit::{Action, Polkit};

/// What is to be done with a container: the word for rules (detail `operation`), and for the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Verb {
    Enter,
    Start,
    Stop,
    Delete,
    Copy,
    Rename,
    Snapshot,
    Restore,
    DeleteSnapshot,
    Save,
    SetUpUser,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Copy => "clone",
            Self::Rename => "rename",
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::DeleteSnapshot => "delete_snapshot",
            Self::Save => "save",
            Self::SetUpUser => "setup_user",
        }
    }

    fn phrase(self, name: &str) -> String {
        match self {
            Self::Enter => format!("enter the container '{name}'"),
            Self::Start => format!("start the container '{name}'"),
            Self::Stop => format!("stop the container '{name}'"),
            Self::Delete => format!("delete the container '{name}'"),
            Self::Copy => format!("copy the container '{name}'"),
            Self::Rename => format!("rename the container '{name}'"),
            Self::Snapshot => format!("make a snapshot of the container '{name}'"),
            Self::Restore => format!("set the container '{name}' back to a snapshot"),
            Self::DeleteSnapshot => format!("delete a snapshot of the container '{name}'"),
            Self::Save => format!("save the container '{name}' to a file"),
            Self::SetUpUser => format!("make an account in the container '{name}'"),
        }
    }
}

impl Polkit {
    /// Whether the caller may do `verb` with this container.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`]
    pub async fn with_container(
        &self,
        caller: &Caller,
        container: &Container,
        verb: Verb,
    ) -> Result<()> {
        let own = container.owner == Some(caller.uid);
        let action = if own { Action::Enter } else { Action::Manage };
        let owner = container
            .owner
            .map_or_else(String::new, |uid| uid.to_string());
        let privileged = container.is_privileged().to_string();
        let name = container.name.as_str();
        let mut what = verb.phrase(name);
        match container.owner {
            Some(_) if own => {}
            Some(uid) => what.push_str(&format!(", which belongs to the uid {uid}")),
            None => what.push_str(", which was not made by kapsule"),
        }
        let details = [
            ("container", name),
            ("image", &container.image),
            ("operation", verb.word()),
            ("owner", &owner),
            ("privileged", &privileged),
        ];
        self.check(caller, action, &details, &what).await
    }

    /// Whether the caller may make a container.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`]
    pub async fn new_container(
        &self,
        caller: &Caller,
        name: &ContainerName,
        image: &str,
        privileged: bool,
    ) -> Result<()> {
        let owner = caller.uid.to_string();
        let details = [
            ("container", name.as_str()),
            ("image", image),
            ("operation", "create"),
            ("owner", &owner),
            ("privileged", if privileged { "true" } else { "false" }),
        ];
        let (action, what) = if privileged {
            (
                Action::Privileged,
                format!("make the container '{name}', whose root is the root of this machine"),
            )
        } else {
            (Action::Enter, format!("make the container '{name}'"))
        };
        self.check(caller, action, &details, &what).await
    }

    /// Whether the caller may change the images that all share.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`]
    pub async fn with_images(
        &self,
        caller: &Caller,
        image: Option<&ImageName>,
        operation: &str,
        what: &str,
    ) -> Result<()> {
        let image = image.map(ToString::to_string).unwrap_or_default();
        let details = [("image", image.as_str()), ("operation", operation)];
        self.check(caller, Action::Manage, &details, what).await
    }

    /// Whether the caller may set up Incus.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`]
    pub async fn initialize(&self, caller: &Caller) -> Result<()> {
        let what = "set up containers on this machine";
        self.check(
            caller,
            Action::Initialize,
            &[("operation", "initialize")],
            what,
        )
        .await
    }
}

/// A caller maps only himself; root may do it for others.
///
/// # Errors
/// [`Error::NotAuthorized`]
pub fn maps_himself(caller: &Caller, uid: u32) -> Result<()> {
    if uid == caller.uid || caller.is_root() {
        return Ok(());
    }
    Err(Error::NotAuthorized(format!(
        "{} (uid {}) can have an account made for himself only, not for the uid {uid}",
        caller.name, caller.uid
    )))
}
