//! A virtual machine without the machine: its daemons, its bus and its portals, put together as the broker does it.

use std::path::PathBuf;
use std::sync::Arc;

use sidebus::broker::clients::Clients;
use sidebus::broker::limits::Limits;
use sidebus::broker::vm_bus::{VmBus, VmBusConfig};
use sidebus::policy_file::Policy;
use sidebus::portals::{Documents, DocumentsConfig, Portals, PortalsConfig};
use sidebus::supervisor::{Plan, Supervisor};
use zbus::connection::Builder;

use crate::client::Client;
use crate::desktop::Desktop;

/// The machine's name.
pub const NAME: &str = "one";

/// What belongs to a machine.
pub struct Machine {
    pub portals: Option<Portals>,
    pub documents: Arc<Documents>,
    pub address: String,
    pub desktop: Desktop,
    supervisor: Supervisor,
    _bus: VmBus,
}

impl Machine {
    /// With what there is without a policy file.
    pub async fn start() -> Machine {
        Self::with_policy("").await
    }

    /// With this policy file.
    pub async fn with_policy(text: &str) -> Machine {
        Self::in_desktop(Desktop::start().await, text).await
    }

    /// On a host that is there.
    pub async fn in_desktop(desktop: Desktop, policy: &str) -> Machine {
        let policy = Policy::parse("policy.toml", policy).expect("a policy");
        let mut plan =
            Plan::new(NAME, &desktop.dir.make_dir("runtime/vm")).expect("the daemons are here");
        plan.programs.virtiofsd = None;
        let supervisor = Supervisor::start(plan)
            .await
            .expect("the machine's daemons");
        let mount = supervisor.documents_mount();
        let documents = Documents::connect(DocumentsConfig {
            bus: supervisor.private_bus_address().to_owned(),
            app_id: supervisor.documents_app_id(),
            mount: mount.clone(),
            persistent: policy.persistent_documents,
            most: policy.limits.documents,
        })
        .await
        .expect("the private bus");
        let documents = Arc::new(documents);
        let socket = desktop.dir.join("vm.sock");
        let limits: &Limits = &policy.limits;
        let bus = VmBusConfig {
            socket: Some(&socket),
            services: policy.services.clone(),
            portals: true,
            limits,
        };
        let bus = VmBus::start(bus, |_| {}).expect("the machine's bus");
        let stream = bus.handle().connect().expect("a connection");
        let vm = Builder::unix_stream(stream)
            .build()
            .await
            .expect("the machine's bus");
        let portals = Portals::start(PortalsConfig {
            vm,
            host: desktop.bus.address().to_owned(),
            documents: documents.clone(),
            clients: Clients::new(Some(documents.shared_directory())),
            policy: Arc::new(policy),
            vm_name: NAME.to_owned(),
            spool: desktop.dir.join("runtime/spool"),
            applications: Some(desktop.dir.join("data/applications")),
        })
        .await
        .expect("the portals");
        Machine {
            portals: Some(portals),
            documents,
            address: format!("unix:path={}", socket.display()),
            desktop,
            supervisor,
            _bus: bus,
        }
    }

    /// A program of the guest.
    pub async fn client(&self) -> Client {
        Client::connect(&self.address).await
    }

    /// Where the guest sees its documents.
    pub fn mount(&self) -> PathBuf {
        self.documents.shared_directory()
    }

    /// Ends in order.
    pub async fn stop(self) {
        drop(self.end().await);
    }

    /// Ends in order; the host goes on.
    pub async fn end(mut self) -> Desktop {
        if let Some(portals) = self.portals.take() {
            portals.stop().await;
        }
        self.supervisor.stop().await;
        self.desktop
    }
}
