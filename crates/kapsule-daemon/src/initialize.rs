//! Setting up Incus.
use crate::caller::Caller;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::incus::Incus;
use crate::manager::Options;
use std::sync::Arc;
use zbus::OwnedObjectPath;
/// x
pub async fn without_a_bus(_config: &Config, _incus: &Incus) -> Result<()> {
    Err(Error::Failed("not yet".into()))
}
impl Daemon {
    /// x
    pub async fn initialize(
        self: &Arc<Self>,
        _c: &Caller,
        _d: &Options,
    ) -> Result<OwnedObjectPath> {
        Err(Error::Failed("not yet".into()))
    }
}
