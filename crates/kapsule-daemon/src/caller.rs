//! Who calls.

use std::path::PathBuf;

use zbus::Connection;
use zbus::message::{Flags, Header};
use zbus::names::OwnedUniqueName;

use crate::account::{Account, Group};
use crate::error::{Error, Result};

/// The program and the person behind a call, as the bus vouches for them: nothing here is the caller's own word.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The connection on the bus. It is polkit's subject.
    pub sender: OwnedUniqueName,
    /// The user's number.
    pub uid: u32,
    /// The number of the primary group, from the account.
    pub gid: u32,
    /// The process, as it was when it connected. It can be another one by now: never decide by it.
    pub pid: u32,
    /// The login name.
    pub name: String,
    /// The home directory.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
    /// The groups of the account, the primary one first.
    pub groups: Vec<Group>,
    /// Whether polkit may ask the person for a password: the message's flag.
    pub interactive: bool,
}

impl Caller {
    /// Who has sent the message with this header.
    ///
    /// # Errors
    /// [`Error::Failed`] if the caller has gone, or the uid has no account.
    pub async fn of(connection: &Connection, header: &Header<'_>) -> Result<Self> {
        let sender = header
            .sender()
            .ok_or_else(|| Error::Failed("the call has no sender".to_owned()))?
            .to_owned();
        let bus = zbus::fdo::DBusProxy::new(connection)
            .await
            .map_err(Error::failed("asking the bus who calls"))?;
        let credentials = bus
            .get_connection_credentials(sender.clone().into())
            .await
            .map_err(Error::failed("asking the bus who calls"))?;
        let uid = credentials
            .unix_user_id()
            .ok_or_else(|| Error::Failed("the bus does not know the caller's uid".to_owned()))?;
        let account = Account::of(uid).await?;
        let interactive = header
            .primary()
            .flags()
            .contains(Flags::ALLOW_INTERACTIVE_AUTH);
        Ok(Self {
            sender: sender.into(),
            uid,
            gid: account.gid,
            pid: credentials.process_id().unwrap_or(0),
            name: account.name,
            home: account.home,
            shell: account.shell,
            groups: account.groups,
            interactive,
        })
    }

    /// Whether it is root, who may do everything.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
}
