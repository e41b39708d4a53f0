//! How much one client may use. Checked before anything is allocated.

use std::time::Duration;

/// Quotas. The defaults are generous for programs and small for the machine; those of dbus-daemon's
/// `session.conf` are far larger, because there everybody trusts everybody.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients at the same time.
    pub clients: usize,
    /// Clients that are connected and have not said Hello yet.
    pub unregistered_clients: usize,
    /// How long a client may take to authenticate and say Hello.
    pub hello_time: Duration,
    /// How long a bus may take to accept a link.
    pub link_time: Duration,
    /// Well-known names that one client may own or queue for.
    pub names_per_client: usize,
    /// Match rules of one client.
    pub rules_per_client: usize,
    /// Calls of one client that wait for a reply, for each bus.
    pub calls_per_client: usize,
    /// Messages of one client that wait for a service to start.
    pub pending_activations: usize,
    /// Bytes that may wait for one receiver inside. An empty queue takes one message of any legal size.
    pub receiver_bytes: usize,
    /// Bytes that one sender may have in the queues of receivers inside and still call somebody.
    pub sender_bytes: usize,
    /// File descriptors that may wait for one receiver.
    pub receiver_fds: usize,
    /// File descriptors that one sender may have in the queues of receivers inside and still send more with a call.
    pub sender_fds: usize,
    /// How long a service may take from its start to owning its name.
    pub activation_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Limits {
            clients: 16_384,
            unregistered_clients: 1_024,
            hello_time: Duration::from_secs(30),
            link_time: Duration::from_secs(15),
            names_per_client: 4_096,
            rules_per_client: 4_096,
            calls_per_client: 65_536,
            pending_activations: 512,
            receiver_bytes: 256 * MIB,
            sender_bytes: 384 * MIB,
            receiver_fds: 2_048,
            sender_fds: 2_048,
            activation_time: Duration::from_secs(120),
        }
    }
}
