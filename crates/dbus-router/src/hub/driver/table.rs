//! The driver's methods: arguments, and who answers.
//!
//! "Us" is the router; "inside" is the local bus or the remote container bus; "host" is asked over the
//! client's own host link, so that its answer is in order with everything else that the host says.

use super::super::{DRIVER, Hub};
use super::Call;
use crate::outbox::Outbox;

/// The interface by which a router tells how it is.
pub(crate) const ROUTER: &str = "org.kde.kapsule.Router1";

/// On which object paths an interface is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    AnyPath,
    BusPath,
}

pub(super) struct Interface {
    pub name: &'static str,
    pub place: Place,
    pub methods: &'static [Method],
    pub signals: &'static [(&'static str, &'static [&'static str])],
    pub properties: &'static [(&'static str, &'static str)],
}

pub(super) struct Method {
    pub name: &'static str,
    /// The signature of its arguments.
    pub input: &'static str,
    /// The signature of its answer.
    pub output: &'static str,
    pub answer: fn(&mut Hub, &Call<'_>, &mut dyn Outbox),
}

const fn method(
    name: &'static str,
    input: &'static str,
    output: &'static str,
    answer: fn(&mut Hub, &Call<'_>, &mut dyn Outbox),
) -> Method {
    Method {
        name,
        input,
        output,
        answer,
    }
}

/// Everything that the driver understands.
pub(super) const INTERFACES: &[Interface] = &[
    Interface {
        name: DRIVER,
        place: Place::AnyPath,
        methods: &[
            // Who is on the bus.
            method("Hello", "", "s", Hub::hello_again), // host (or us, without one); twice is an error
            method("RequestName", "su", "u", Hub::driver_request_name), // inside
            method("ReleaseName", "s", "u", Hub::driver_release_name), // inside
            method("ListQueuedOwners", "s", "as", Hub::list_queued_owners), // inside if owned there, else host
            method("ListNames", "", "as", Hub::list_names),                 // both, merged
            method(
                "ListActivatableNames",
                "",
                "as",
                Hub::list_activatable_names,
            ), // both, merged
            method("NameHasOwner", "s", "b", Hub::name_has_owner), // inside if owned there, else host
            method("GetNameOwner", "s", "s", Hub::get_name_owner), // inside if owned there, else host
            method("StartServiceByName", "su", "u", Hub::start_service_by_name), // the view's precedence
            method(
                "UpdateActivationEnvironment",
                "a{ss}",
                "",
                Hub::update_environment,
            ), // inside, never the host
            method("ReloadConfig", "", "", Hub::reload_config), // inside, never the host
            method("GetId", "", "s", Hub::get_id),              // us
            // Who a connection is: us for our clients, else the bus that has it.
            method("GetConnectionUnixUser", "s", "u", Hub::connection_unix_user),
            method(
                "GetConnectionUnixProcessID",
                "s",
                "u",
                Hub::connection_process_id,
            ),
            method(
                "GetConnectionCredentials",
                "s",
                "a{sv}",
                Hub::connection_credentials,
            ),
            method(
                "GetAdtAuditSessionData",
                "s",
                "ay",
                Hub::connection_audit_data,
            ),
            method(
                "GetConnectionSELinuxSecurityContext",
                "s",
                "ay",
                Hub::connection_selinux,
            ),
            // What a client wants to hear: both.
            method("AddMatch", "s", "", Hub::add_match),
            method("RemoveMatch", "s", "", Hub::remove_match),
        ],
        signals: &[
            ("NameOwnerChanged", &["s", "s", "s"]),
            ("NameLost", &["s"]),
            ("NameAcquired", &["s"]),
            ("ActivatableServicesChanged", &[]),
        ],
        properties: &[("Features", "as"), ("Interfaces", "as")],
    },
    Interface {
        name: "org.freedesktop.DBus.Introspectable",
        place: Place::AnyPath,
        methods: &[method("Introspect", "", "s", Hub::introspect)], // us
        signals: &[],
        properties: &[],
    },
    Interface {
        name: "org.freedesktop.DBus.Properties",
        place: Place::BusPath,
        methods: &[
            method("Get", "ss", "v", Hub::get_property),         // us
            method("GetAll", "s", "a{sv}", Hub::get_properties), // us
            method("Set", "ssv", "", Hub::set_property),         // us: nothing can be set
        ],
        signals: &[("PropertiesChanged", &["s", "a{sv}", "as"])],
        properties: &[],
    },
    Interface {
        name: "org.freedesktop.DBus.Peer",
        place: Place::AnyPath,
        methods: &[
            method("Ping", "", "", Hub::ping),                    // us
            method("GetMachineId", "", "s", Hub::get_machine_id), // us
        ],
        signals: &[],
        properties: &[],
    },
    Interface {
        name: "org.freedesktop.DBus.Monitoring",
        place: Place::BusPath,
        methods: &[method("BecomeMonitor", "asu", "", Hub::become_monitor)], // us
        signals: &[],
        properties: &[],
    },
    Interface {
        name: "org.freedesktop.DBus.Debug.Stats",
        place: Place::BusPath,
        methods: &[
            method("GetStats", "", "a{sv}", Hub::get_stats), // us
            method(
                "GetConnectionStats",
                "s",
                "a{sv}",
                Hub::get_connection_stats,
            ), // us
            method("GetAllMatchRules", "", "a{sas}", Hub::get_all_match_rules), // us
        ],
        signals: &[],
        properties: &[],
    },
    Interface {
        name: ROUTER,
        place: Place::BusPath,
        methods: &[method("GetStatus", "", "s", Hub::get_status)], // us: JSON
        signals: &[],
        properties: &[],
    },
];
