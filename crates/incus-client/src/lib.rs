//! The Incus REST API over its unix socket.
//!
//! - [`Client`] is the way in: a method for each call, with its endpoint in its documentation. It opens a
//!   connection for each request, so it survives Incus restarting; clones of it are cheap.
//! - [`Operation`] is work that Incus does in the background: [wait](Operation::wait) for it, hear of its
//!   [progress](Operation::wait_with), [cancel](Operation::cancel) it.
//! - [`Events`] are what Incus tells while it is connected, [`Watch`] connects again by itself.
//! - [`Error`] says what was being done and what came of it.
//!
//! The types are those of the API, of Incus 6.0 LTS, as far as this project uses them; members that are not
//! known are left out. Times are [`Timestamp`]s. Names are put into paths safely, whatever is in them.
//!
//! ```no_run
//! # async fn example() -> Result<(), incus_client::Error> {
//! use incus_client::{Client, InstanceCreate, Source};
//!
//! let client = Client::new("/var/lib/incus/unix.socket");
//! let wanted = InstanceCreate::new("web", Source::alias("trixie"));
//! client.create_instance(&wanted).await?.wait().await?;
//! client.start_instance("web").await?.wait().await?;
//! for instance in client.instances().await? {
//!     println!("{} is {}", instance.name, instance.status);
//! }
//! # Ok(()) }
//! ```

mod backup;
mod client;
mod error;
mod event;
mod exec;
mod file;
mod image;
mod instance;
mod network;
mod nullable;
mod operation;
mod profile;
mod server;
mod snapshot;
mod state;
mod storage;
mod timestamp;

pub use backup::{Backup, BackupOptions};
pub use client::Client;
pub use error::Error;
pub use event::{Event, EventBody, Events, Lifecycle, Seen, Watch};
pub use exec::{Command, Interactive, Output};
pub use file::{Contents, InstanceFile, Ownership};
pub use image::{Image, ImageAlias, RemoteImage, UpdateSource};
pub use instance::{
    Config, Devices, Instance, InstanceCreate, InstanceUpdate, Source, Stop, Tagged,
};
pub use network::Network;
pub use operation::{Operation, OperationState, Progress, Status};
pub use profile::Profile;
pub use server::{Environment, Server};
pub use snapshot::Snapshot;
pub use state::{Address, InstanceState, Interface, Usage};
pub use storage::{Amount, PoolResources, StoragePool, Volume};
pub use timestamp::Timestamp;

/// What every call gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;
