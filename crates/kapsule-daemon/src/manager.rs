//! The object that the bus sees: `org.kde.kapsule.Manager` at `/org/kde/kapsule`.
//!
//! One method here for each of `data/dbus-1/interfaces/org.kde.kapsule.Manager.xml`, in its order. What they do is in
//! [`Daemon`]; here stand who calls, and what the arguments are.

use std::collections::HashMap;
use std::sync::Arc;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedFd, OwnedObjectPath, OwnedVariant};

use crate::caller::Caller;
use crate::daemon::Daemon;
use crate::error::Result;

/// Where the manager is.
pub const PATH: &str = "/org/kde/kapsule";
/// Its interface.
pub const INTERFACE: &str = "org.kde.kapsule.Manager";
/// The name of the service.
pub const NAME: &str = "org.kde.kapsule";

/// Name, status, image, created, mode.
pub type Row = (String, String, String, String, String);
/// What a method takes besides its arguments, by name.
pub type Options = HashMap<String, OwnedVariant>;

/// The object.
pub struct Manager(Arc<Daemon>);

impl Manager {
    /// The face of this daemon.
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self(daemon)
    }
}

#[zbus::interface(name = "org.kde.kapsule.Manager")]
impl Manager {
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// The list of containers, or what it says of one, is another now.
    #[zbus(signal)]
    pub async fn containers_changed(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

    /// A container is in another state.
    #[zbus(signal)]
    pub async fn container_state_changed(
        emitter: &SignalEmitter<'_>,
        name: &str,
        state: &str,
    ) -> zbus::Result<()>;

    /// How far an operation is.
    #[zbus(signal)]
    pub async fn operation_progress(
        emitter: &SignalEmitter<'_>,
        operation: &str,
        stage: &str,
        progress: f64,
        message: &str,
    ) -> zbus::Result<()>;

    #[zbus(out_args("containers"))]
    async fn list_containers(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Row>> {
        let caller = Caller::of(connection, &header).await?;
        self.0.list_containers(&caller).await
    }

    #[zbus(out_args("containers"))]
    async fn list_all_containers(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Options>> {
        let caller = Caller::of(connection, &header).await?;
        self.0.list_all_containers(&caller).await
    }

    #[zbus(out_args("container"))]
    async fn get_container_info(
        &self,
        name: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(Row,)> {
        let caller = Caller::of(connection, &header).await?;
        Ok((self.0.container_info(&caller, name).await?,))
    }

    #[zbus(out_args("container"))]
    async fn get_container(
        &self,
        name: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Options> {
        let caller = Caller::of(connection, &header).await?;
        self.0.container(&caller, name).await
    }

    #[zbus(out_args("operation"))]
    async fn create_container(
        &self,
        name: &str,
        image: &str,
        options: Options,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.create(&caller, name, image, &options).await
    }

    #[zbus(out_args("operation"))]
    async fn delete_container(
        &self,
        name: &str,
        force: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.delete(&caller, name, force).await
    }

    #[zbus(out_args("operation"))]
    async fn start_container(
        &self,
        name: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.start(&caller, name).await
    }

    #[zbus(out_args("operation"))]
    async fn stop_container(
        &self,
        name: &str,
        force: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.stop(&caller, name, force).await
    }

    #[zbus(out_args("operation"))]
    async fn clone_container(
        &self,
        source: &str,
        target: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.copy(&caller, source, target).await
    }

    #[zbus(out_args("operation"))]
    async fn rename_container(
        &self,
        name: &str,
        new_name: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.rename(&caller, name, new_name).await
    }

    #[zbus(out_args("operation"))]
    async fn create_snapshot(
        &self,
        name: &str,
        snapshot: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.create_snapshot(&caller, name, snapshot).await
    }

    #[zbus(out_args("snapshots"))]
    async fn list_snapshots(
        &self,
        name: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<(String, u64, bool)>> {
        let caller = Caller::of(connection, &header).await?;
        self.0.list_snapshots(&caller, name).await
    }

    #[zbus(out_args("operation"))]
    async fn restore_snapshot(
        &self,
        name: &str,
        snapshot: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.restore_snapshot(&caller, name, snapshot).await
    }

    #[zbus(out_args("operation"))]
    async fn delete_snapshot(
        &self,
        name: &str,
        snapshot: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.delete_snapshot(&caller, name, snapshot).await
    }

    #[zbus(out_args("operation"))]
    async fn save_container(
        &self,
        name: &str,
        file: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.save(&caller, name, file.into()).await
    }

    #[zbus(out_args("operation"))]
    async fn load_container(
        &self,
        name: &str,
        file: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.load(&caller, name, file.into()).await
    }

    #[zbus(out_args("operations"))]
    fn list_operations(&self) -> Vec<OwnedObjectPath> {
        self.0.operations().paths()
    }

    #[zbus(out_args("schema"))]
    async fn get_create_schema(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String> {
        let caller = Caller::of(connection, &header).await?;
        self.0.create_schema(&caller).await
    }

    #[zbus(out_args("config"))]
    async fn get_config(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<HashMap<String, String>> {
        let caller = Caller::of(connection, &header).await?;
        self.0.config_of(&caller).await
    }

    #[zbus(out_args("features"))]
    async fn list_features(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<String>> {
        let caller = Caller::of(connection, &header).await?;
        self.0.list_features(&caller).await
    }

    #[zbus(out_args("images"))]
    async fn list_images(&self) -> Result<String> {
        self.0.list_images().await
    }

    #[zbus(out_args("operation"))]
    async fn import_image(
        &self,
        directory: &str,
        alias: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.import_image(&caller, directory, alias).await
    }

    #[zbus(out_args("operation"))]
    async fn delete_image(
        &self,
        image: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.delete_image(&caller, image).await
    }

    #[zbus(out_args("operation"))]
    async fn refresh_images(
        &self,
        image: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.refresh_images(&caller, image).await
    }

    #[zbus(out_args("operation"))]
    #[expect(clippy::too_many_arguments, reason = "the interface has them")]
    async fn setup_user(
        &self,
        name: &str,
        uid: u32,
        gid: u32,
        user: &str,
        home: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.setup_user(&caller, name, uid, gid, user, home).await
    }

    #[zbus(out_args("is_setup"))]
    async fn is_user_setup(
        &self,
        name: &str,
        uid: u32,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<bool> {
        let caller = Caller::of(connection, &header).await?;
        self.0.is_user_setup(&caller, name, uid).await
    }

    #[zbus(out_args("result"))]
    async fn prepare_enter(
        &self,
        name: &str,
        command: Vec<String>,
        cwd: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<((bool, String, Vec<String>),)> {
        let caller = Caller::of(connection, &header).await?;
        Ok((
            match self.0.prepare_enter(&caller, name, command, cwd).await {
                Ok(argv) => (true, String::new(), argv),
                Err(error) => (false, error.text().to_owned(), Vec::new()),
            },
        ))
    }

    #[zbus(out_args("argv"))]
    async fn get_shell_command(
        &self,
        name: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<String>> {
        let caller = Caller::of(connection, &header).await?;
        self.0.shell_command(&caller, name).await
    }

    #[zbus(out_args("pty", "session"))]
    async fn open_shell(
        &self,
        name: &str,
        argv: Vec<String>,
        options: Options,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(OwnedFd, OwnedObjectPath)> {
        let caller = Caller::of(connection, &header).await?;
        let (pty, session) = self.0.open_shell(&caller, name, argv, options).await?;
        Ok((pty.into(), session))
    }

    #[zbus(out_args("session"))]
    #[expect(clippy::too_many_arguments, reason = "the interface has them")]
    async fn run_command(
        &self,
        name: &str,
        argv: Vec<String>,
        options: Options,
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        let streams = [stdin.into(), stdout.into(), stderr.into()];
        self.0
            .run_command(&caller, name, argv, options, streams)
            .await
    }

    #[zbus(out_args("available"))]
    async fn is_incus_available(&self) -> bool {
        self.0.is_incus_available().await
    }

    #[zbus(out_args("operation"))]
    async fn initialize(
        &self,
        options: Options,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath> {
        let caller = Caller::of(connection, &header).await?;
        self.0.initialize(&caller, &options).await
    }
}
