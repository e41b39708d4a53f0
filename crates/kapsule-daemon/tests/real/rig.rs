//! The machine, what runs in it, and people who call the daemon.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use testbed::machine::User;
use testbed::skip::Trouble;
use testbed::{Incus, IncusOptions, Machine, Process, SystemBus, SystemBusOptions};
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Proxy, Variant};

/// How long an operation may take here before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everybody may do everything.
pub const NO_RULES_AT_ALL: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.kde.kapsule.") == 0) return polkit.Result.YES;
});
"#;

/// Everybody may use his own; what is others' is denied.
pub const USUAL_RULES: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id == "org.kde.kapsule.enter-container") return polkit.Result.YES;
    if (action.id.indexOf("org.kde.kapsule.") == 0) return polkit.Result.NO;
});
"#;

/// What a test has.
pub struct Rig<'m> {
    pub machine: &'m Machine,
    pub bus: SystemBus<'m>,
    pub incus: Incus<'m>,
    pub kapsuled: Process,
    servers: String,
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

impl<'m> Rig<'m> {
    /// All of it, on this machine.
    pub fn start(machine: &'m Machine, rules: &str) -> Result<Rig<'m>, Trouble> {
        Self::start_with(machine, rules, &IncusOptions::default())
    }

    pub fn start_with(
        machine: &'m Machine,
        rules: &str,
        incus: &IncusOptions,
    ) -> Result<Rig<'m>, Trouble> {
        let servers = "nowhere = \"https://images.invalid\"";
        Self::start_with_servers(machine, rules, incus, servers)
    }

    /// With these image servers: lines of TOML.
    pub fn start_with_servers(
        machine: &'m Machine,
        rules: &str,
        incus: &IncusOptions,
        servers: &str,
    ) -> Result<Rig<'m>, Trouble> {
        // People who are not root have to come to the bus through it.
        std::fs::set_permissions(machine.dir().path(), std::fs::Permissions::from_mode(0o711))
            .expect("it is ours");
        let bus = SystemBus::start(
            machine,
            &SystemBusOptions {
                rules: rules.to_owned(),
                actions: vec![repository("data/polkit-1/org.kde.kapsule.policy")],
                bus_policies: vec![repository("data/dbus-1/system.d/org.kde.kapsule.conf")],
            },
        )?;
        let incus = Incus::start(machine, incus)?;
        let kapsuled = start_daemon(machine, &incus, servers);
        Ok(Rig {
            machine,
            bus,
            incus,
            kapsuled,
            servers: servers.to_owned(),
        })
    }

    /// Kills the daemon (SIGKILL), and starts another.
    pub fn kill_and_start_daemon(&mut self) {
        self.kapsuled.signal(rustix::process::Signal::KILL);
        self.kapsuled.end();
        self.kapsuled = start_daemon(self.machine, &self.incus, &self.servers);
    }

    /// A person with a connection to the bus.
    pub async fn person(&self, user: &User) -> Person {
        let socket = self.bus.socket();
        let uid = user.uid;
        // Who connects is who the thread is.
        let stream = std::thread::spawn(move || {
            rustix::thread::set_thread_res_uid(None, rustix::process::Uid::from_raw(uid), None)
                .expect("root may be anybody");
            UnixStream::connect(socket).expect("the bus listens")
        })
        .join()
        .expect("it does not panic");
        let connection = zbus::connection::Builder::unix_stream(stream)
            .user_id(uid)
            .build()
            .await
            .expect("the bus lets everybody in");
        Person::on(connection).await
    }

    /// What Incus says of a container: the value of a configuration key.
    pub fn config(&self, container: &str, key: &str) -> String {
        let output = self.incus.incus(&["config", "get", container, key]);
        assert!(output.status.success(), "{}", output.both());
        output.stdout.trim().to_owned()
    }

    /// The names of Incus' instances.
    pub fn instances(&self) -> Vec<String> {
        let output = self.incus.incus(&["list", "--format=csv", "--columns=n"]);
        assert!(output.status.success(), "{}", output.both());
        output.stdout.lines().map(str::to_owned).collect()
    }
}

fn start_daemon(machine: &Machine, incus: &Incus<'_>, servers: &str) -> Process {
    let mux = machine
        .program("kapsule-dbus-mux")
        .or_else(|_| testbed::mux_program());
    let mux = mux.unwrap_or_else(|failure| panic!("{failure}"));
    let config = format!(
        "profile_directories = [{:?}]\nmux_program = {mux:?}\ndefault_image = \"trixie\"\nremember_seconds = 600\n[servers]\n{servers}\n",
        repository("data/profiles")
    );
    let file = machine.dir().write("etc/kapsule/kapsule.toml", config);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    let program = machine.program("kapsuled").expect("it is built");
    let mut command = machine.command(program);
    command
        .args([
            "--verbose",
            "--data-dir",
            "/run/kapsule-data",
            "--incus-socket",
        ])
        .arg(incus.socket_inside());
    Process::start(command, "kapsuled", &machine.logs()).expect("it starts")
}

/// Somebody who calls.
pub struct Person {
    pub connection: Connection,
    manager: Proxy<'static>,
    /// All signals of operations, from the beginning.
    signals: std::sync::Mutex<MessageStream>,
}

/// What a call gives, or the error's name (its last part) and text.
pub type Answer<T> = Result<T, (String, String)>;

impl Person {
    async fn on(connection: Connection) -> Self {
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface("org.kde.kapsule.Operation")
            .build()
            .expect("a rule");
        let signals =
            MessageStream::for_match_rule(rule, &connection, std::num::NonZero::new(10_000))
                .await
                .expect("subscribed");
        // The daemon may still be on its way to its name.
        let bus = zbus::fdo::DBusProxy::new(&connection).await.expect("a bus");
        let mut owners = bus
            .receive_name_owner_changed_with_args(&[(0, "org.kde.kapsule")])
            .await
            .expect("subscribed");
        let name = "org.kde.kapsule".try_into().expect("a name");
        if !bus.name_has_owner(name).await.expect("it answers") {
            tokio::time::timeout(PATIENCE, owners.next())
                .await
                .expect("the daemon comes");
        }
        let manager = Proxy::new(
            &connection,
            "org.kde.kapsule",
            "/org/kde/kapsule",
            "org.kde.kapsule.Manager",
        )
        .await
        .expect("a proxy");
        Person {
            connection,
            manager,
            signals: std::sync::Mutex::new(signals),
        }
    }

    /// Calls a method of the manager.
    pub async fn call<B, R>(&self, method: &str, arguments: &B) -> Answer<R>
    where
        B: serde::Serialize + zbus::Type + Sync,
        R: serde::de::DeserializeOwned + zbus::Type,
    {
        let call = self.manager.call::<_, _, R>(method, arguments);
        match tokio::time::timeout(PATIENCE, call)
            .await
            .expect("it answers")
        {
            Ok(answer) => Ok(answer),
            Err(zbus::Error::MethodError(name, text, _)) => {
                let last = name.rsplit('.').next().unwrap_or_default().to_owned();
                Err((last, text.unwrap_or_default()))
            }
            Err(error) => panic!("calling {method}: {error}"),
        }
    }

    /// Waits for the end of a session; its status.
    pub async fn wait(&self, session: OwnedObjectPath) -> i32 {
        let session = Proxy::new(
            &self.connection,
            "org.kde.kapsule",
            session,
            "org.kde.kapsule.Session",
        )
        .await
        .expect("a proxy");
        session.call("Wait", &()).await.expect("it ends")
    }

    /// Calls a method that starts an operation, and waits for its end.
    pub async fn done<B>(&self, method: &str, arguments: &B) -> Answer<()>
    where
        B: serde::Serialize + zbus::Type + Sync,
    {
        let path: OwnedObjectPath = self.call(method, arguments).await?;
        self.end(&path).await
    }

    /// An operation's object.
    pub async fn operation(&self, path: &OwnedObjectPath) -> Proxy<'static> {
        Proxy::new(
            &self.connection,
            "org.kde.kapsule",
            path.clone(),
            "org.kde.kapsule.Operation",
        )
        .await
        .expect("a proxy")
    }

    /// Waits for an operation's end: its error is under the name of its status.
    pub async fn end(&self, path: &OwnedObjectPath) -> Answer<()> {
        let operation = self.operation(path).await;
        let mut completed = operation
            .receive_signal("Completed")
            .await
            .expect("subscribed");
        let running = async || {
            let status: String = operation
                .get_property("Status")
                .await
                .expect("it is remembered");
            status == "running"
        };
        if running().await {
            tokio::time::timeout(PATIENCE, completed.next())
                .await
                .expect("it ends in time");
        }
        let fresh = |name: &'static str| {
            let operation = &operation;
            async move {
                let properties = zbus::fdo::PropertiesProxy::builder(operation.connection())
                    .destination("org.kde.kapsule")
                    .path(operation.path().to_owned())
                    .build()
                    .await
                    .expect("a proxy");
                let interface = "org.kde.kapsule.Operation".try_into().expect("a name");
                let value = properties
                    .get(interface, name)
                    .await
                    .expect("it is remembered");
                String::try_from(value).expect("a text")
            }
        };
        let status = fresh("Status").await;
        if status == "completed" {
            Ok(())
        } else {
            Err((status, fresh("ErrorMessage").await))
        }
    }

    /// The signals of operations that have come so far, as member and body in words.
    pub fn heard(&self) -> Vec<(String, String)> {
        let mut signals = self.signals.lock().expect("not poisoned");
        let mut heard = Vec::new();
        while let Some(Some(Ok(message))) = futures_util::FutureExt::now_or_never(signals.next()) {
            let member = message.header().member().map(ToString::to_string);
            let body: zbus::OwnedStructure = message.body().deserialize().expect("whole");
            heard.push((member.unwrap_or_default(), format!("{body:?}")));
        }
        heard
    }
}

/// No options.
pub fn plain() -> HashMap<&'static str, Variant<'static>> {
    HashMap::new()
}
