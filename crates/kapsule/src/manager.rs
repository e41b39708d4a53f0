//! The daemon, as its clients see it: `org.kde.kapsule.Manager` in Rust.
//!
//! Each method is one of the interface (`data/dbus-1/interfaces/org.kde.kapsule.Manager.xml`, where the
//! signatures are); those that take time give back the path of an operation.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;
use zbus::proxy::{self, MethodFlags};
use zbus::{Connection, DynamicType, Fd, OwnedObjectPath, OwnedVariant, Proxy, Variant};

use crate::error::{Error, Result};

/// The daemon's name on the bus.
pub const NAME: &str = "org.kde.kapsule";
/// The manager's object.
pub const PATH: &str = "/org/kde/kapsule";
/// The manager's interface.
pub const INTERFACE: &str = "org.kde.kapsule.Manager";

/// Options, and what is told of a container: `a{sv}`.
pub type Dictionary = HashMap<String, OwnedVariant>;
/// Options to send.
pub type Options<'a> = HashMap<&'a str, Variant<'a>>;

/// A row of `ListContainers`.
#[derive(Clone, Debug, serde::Deserialize, zbus::Type)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Running, Stopped, …
    pub status: String,
    /// What it was made from.
    pub image: String,
    /// When, as RFC 3339 has it.
    pub created: String,
    /// Default, Session, DbusMux.
    pub mode: String,
}

/// A snapshot of a container.
#[derive(Clone, Debug, serde::Deserialize, zbus::Type)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// Whether it has the memory of the programs as well.
    pub stateful: bool,
}

/// A session: a program that runs inside.
#[derive(Debug)]
pub struct Session {
    proxy: Proxy<'static>,
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Manager {
    connection: Connection,
    proxy: Proxy<'static>,
}

impl Manager {
    /// Connects to `bus`: `system`, `session` or an address. Whether the daemon is there shows with the
    /// first call, which starts it where the bus can.
    ///
    /// # Errors
    /// There is no such bus, or it does not let us in.
    pub async fn connect(bus: &str) -> Result<Manager> {
        let builder = match bus {
            "system" => zbus::connection::Builder::system(),
            "session" => zbus::connection::Builder::session(),
            address => zbus::connection::Builder::address(address),
        };
        let connection = builder.build().await.map_err(|source| Error::NoBus {
            bus: bus.to_owned(),
            source,
        })?;
        let proxy = proxy_for(&connection, PATH, INTERFACE).await?;
        Ok(Manager { connection, proxy })
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    async fn call<B, R>(&self, doing: &str, method: &'static str, body: &B) -> Result<R>
    where
        B: Serialize + DynamicType,
        R: for<'d> serde::Deserialize<'d> + zbus::Type,
    {
        call(&self.proxy, doing, method, body).await
    }

    /// The daemon's version.
    pub async fn version(&self) -> Result<String> {
        property(&self.connection, PATH, INTERFACE, "Version").await
    }

    /// The containers.
    pub async fn list_containers(&self) -> Result<Vec<Row>> {
        self.call("listing the containers", "ListContainers", &())
            .await
    }

    /// All containers that Incus has, with all that is known of them.
    pub async fn list_all_containers(&self) -> Result<Vec<Dictionary>> {
        self.call("listing all containers", "ListAllContainers", &())
            .await
    }

    /// All that is known of one container.
    pub async fn container(&self, name: &str) -> Result<Dictionary> {
        let doing = format!("looking at container {name}");
        self.call(&doing, "GetContainer", &name).await
    }

    /// Begins to make a container.
    pub async fn create(
        &self,
        name: &str,
        image: &str,
        options: &Options<'_>,
    ) -> Result<OwnedObjectPath> {
        let doing = format!("creating container {name}");
        self.call(&doing, "CreateContainer", &(name, image, options))
            .await
    }

    /// Begins to delete a container.
    pub async fn delete(&self, name: &str, force: bool) -> Result<OwnedObjectPath> {
        let doing = format!("deleting container {name}");
        self.call(&doing, "DeleteContainer", &(name, force)).await
    }

    /// Begins to start a container.
    pub async fn start(&self, name: &str) -> Result<OwnedObjectPath> {
        let doing = format!("starting container {name}");
        self.call(&doing, "StartContainer", &name).await
    }

    /// Begins to stop a container.
    pub async fn stop(&self, name: &str, force: bool) -> Result<OwnedObjectPath> {
        let doing = format!("stopping container {name}");
        self.call(&doing, "StopContainer", &(name, force)).await
    }

    /// Begins to copy a container.
    pub async fn clone_container(&self, source: &str, target: &str) -> Result<OwnedObjectPath> {
        let doing = format!("copying container {source}");
        self.call(&doing, "CloneContainer", &(source, target)).await
    }

    /// Begins to rename a container.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<OwnedObjectPath> {
        let doing = format!("renaming container {name}");
        self.call(&doing, "RenameContainer", &(name, new_name))
            .await
    }

    /// Begins to take a snapshot.
    pub async fn create_snapshot(&self, name: &str, snapshot: &str) -> Result<OwnedObjectPath> {
        let doing = format!("taking a snapshot of container {name}");
        self.call(&doing, "CreateSnapshot", &(name, snapshot)).await
    }

    /// The snapshots of a container, the oldest first.
    pub async fn snapshots(&self, name: &str) -> Result<Vec<Snapshot>> {
        let doing = format!("listing the snapshots of container {name}");
        self.call(&doing, "ListSnapshots", &name).await
    }

    /// Begins to bring a container back to a snapshot.
    pub async fn restore_snapshot(&self, name: &str, snapshot: &str) -> Result<OwnedObjectPath> {
        let doing = format!("restoring container {name}");
        self.call(&doing, "RestoreSnapshot", &(name, snapshot))
            .await
    }

    /// Begins to delete a snapshot.
    pub async fn delete_snapshot(&self, name: &str, snapshot: &str) -> Result<OwnedObjectPath> {
        let doing = format!("deleting a snapshot of container {name}");
        self.call(&doing, "DeleteSnapshot", &(name, snapshot)).await
    }

    /// Begins to write a backup of a container into `file`.
    pub async fn save(&self, name: &str, file: &impl AsFd) -> Result<OwnedObjectPath> {
        let doing = format!("saving container {name}");
        self.call(&doing, "SaveContainer", &(name, Fd::from(file.as_fd())))
            .await
    }

    /// Begins to make a container from a backup in `file`.
    pub async fn load(&self, name: &str, file: &impl AsFd) -> Result<OwnedObjectPath> {
        let doing = format!("loading container {name}");
        self.call(&doing, "LoadContainer", &(name, Fd::from(file.as_fd())))
            .await
    }

    /// The operations that run, and those that have ended not long ago.
    pub async fn operations(&self) -> Result<Vec<OwnedObjectPath>> {
        self.call("listing the operations", "ListOperations", &())
            .await
    }

    /// The configuration that holds for us.
    pub async fn config(&self) -> Result<HashMap<String, String>> {
        self.call("reading the configuration", "GetConfig", &())
            .await
    }

    /// What a container can have, in JSON.
    pub async fn create_schema(&self) -> Result<String> {
        self.call("asking what a container can have", "GetCreateSchema", &())
            .await
    }

    /// The features that a container can have.
    pub async fn features(&self) -> Result<Vec<String>> {
        self.call("listing the features", "ListFeatures", &()).await
    }

    /// The images of the local store, in JSON.
    pub async fn images(&self) -> Result<String> {
        self.call("listing the images", "ListImages", &()).await
    }

    /// Begins to import an image from a directory.
    pub async fn import_image(&self, directory: &str, alias: &str) -> Result<OwnedObjectPath> {
        let doing = format!("importing the image {directory}");
        self.call(&doing, "ImportImage", &(directory, alias)).await
    }

    /// Begins to delete an image.
    pub async fn delete_image(&self, image: &str) -> Result<OwnedObjectPath> {
        let doing = format!("deleting image {image}");
        self.call(&doing, "DeleteImage", &image).await
    }

    /// Begins to fetch newer versions of an image, or of all if it is empty.
    pub async fn refresh_images(&self, image: &str) -> Result<OwnedObjectPath> {
        self.call("refreshing images", "RefreshImages", &image)
            .await
    }

    /// Whether the daemon reaches Incus.
    pub async fn is_incus_available(&self) -> Result<bool> {
        self.call("asking for Incus", "IsIncusAvailable", &()).await
    }

    /// Begins to set up Incus.
    pub async fn initialize(&self, options: &Options<'_>) -> Result<OwnedObjectPath> {
        self.call("setting up Incus", "Initialize", options).await
    }

    /// A shell, or the command `argv`, on a new terminal inside: the terminal, and the session.
    pub async fn open_shell(
        &self,
        name: &str,
        argv: &[String],
        options: &Options<'_>,
    ) -> Result<(OwnedFd, Session)> {
        let doing = format!("entering container {name}");
        let (pty, path): (zbus::OwnedFd, OwnedObjectPath) = self
            .call(&doing, "OpenShell", &(name, argv, options))
            .await?;
        Ok((pty.into(), Session::new(&self.connection, path).await?))
    }

    /// A command with its standard streams; none of them may be a terminal.
    pub async fn run_command(
        &self,
        name: &str,
        argv: &[String],
        options: &Options<'_>,
        streams: [&OwnedFd; 3],
    ) -> Result<Session> {
        let doing = format!("running a command in container {name}");
        let [stdin, stdout, stderr] = streams.map(|fd| Fd::from(fd.as_fd()));
        let path: OwnedObjectPath = self
            .call(
                &doing,
                "RunCommand",
                &(name, argv, options, stdin, stdout, stderr),
            )
            .await?;
        Session::new(&self.connection, path).await
    }
}

impl Session {
    async fn new(connection: &Connection, path: OwnedObjectPath) -> Result<Session> {
        let proxy = proxy_for(connection, path, "org.kde.kapsule.Session").await?;
        Ok(Session { proxy })
    }

    /// Sends a signal to the program's process group.
    pub async fn signal(&self, number: i32) -> Result<()> {
        call(&self.proxy, "passing on a signal", "Signal", &number).await
    }

    /// Waits until the program has ended: its exit status, or 128 and the number of the signal that ended it.
    pub async fn wait(&self) -> Result<i32> {
        let doing = "waiting for the program to end";
        call(&self.proxy, doing, "Wait", &()).await
    }
}

async fn proxy_for<P>(
    connection: &Connection,
    path: P,
    interface: &'static str,
) -> Result<Proxy<'static>>
where
    P: TryInto<zbus::ObjectPath<'static>>,
    P::Error: Into<zbus::Error>,
{
    let failed = "talking to the Kapsule daemon";
    proxy::Builder::new(connection)
        .destination(NAME)
        .path(path)
        .interface(interface)
        .cache_properties(proxy::CacheProperties::No)
        .build()
        .await
        .map_err(Error::on_bus(failed))
}

/// A call of which polkit may ask the person for a password.
async fn call<B, R>(proxy: &Proxy<'_>, doing: &str, method: &'static str, body: &B) -> Result<R>
where
    B: Serialize + DynamicType,
    R: for<'d> serde::Deserialize<'d> + zbus::Type,
{
    tracing::debug!(method, "call");
    let flags = MethodFlags::ALLOW_INTERACTIVE_AUTH;
    let reply = proxy.call_with_flags(method, flags, body).await;
    reply
        .map_err(Error::on_bus(doing))?
        .ok_or_else(|| Error::Failed(format!("{doing}: the daemon did not answer")))
}

/// A property that is a string.
pub async fn property(
    connection: &Connection,
    path: &str,
    interface: &str,
    name: &str,
) -> Result<String> {
    let doing = format!("asking the Kapsule daemon for {name}");
    let reply = connection
        .call_method(
            Some(NAME),
            path,
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &(interface, name),
        )
        .await
        .map_err(Error::on_bus(doing.clone()))?;
    let body = reply.body();
    let value: Variant<'_> = body.deserialize().map_err(Error::on_bus(doing))?;
    match value {
        Variant::Str(text) => Ok(text.to_string()),
        other => Err(Error::Failed(format!(
            "the Kapsule daemon says {other:?} where its {name} should be text"
        ))),
    }
}
