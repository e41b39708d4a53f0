//! How much one virtual machine, and one client in it, may use. Checked before anything is allocated.

use serde::{Deserialize, Serialize};

/// Quotas of a broker. In the configuration file they are the table `[limits]`, each key as here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "snake_case")]
pub struct Limits {
    /// Clients of the guest at the same time.
    pub clients: usize,
    /// Connections of the guest that have not said yet what they are for, or were refused; beyond it the oldest has to go.
    pub unopened_connections: usize,
    /// The longest message (bytes).
    pub message_bytes: u32,
    /// The most bytes that may wait for one client that does not read; beyond it calls to it fail and signals end it.
    pub queued_bytes: usize,
    /// Bytes of messages above 64 KiB that are on their way from the guest, for all clients together; more have to wait.
    pub large_message_bytes: u32,
    /// Bytes of files that came by their content and are open on the host, for all clients together. One client may have
    /// half of it.
    pub file_bytes: u32,
    /// File descriptors of one message.
    pub fds_per_message: u32,
    /// File descriptors that may wait for one client.
    pub queued_fds: usize,
    /// Streams (pipes and sockets) of one client.
    pub streams_per_client: usize,
    /// Streams of the whole virtual machine.
    pub streams: usize,
    /// Calls of one client that wait for their replies.
    pub calls_per_client: usize,
    /// Well-known names of one client.
    pub names_per_client: usize,
    /// Match rules of one client.
    pub rules_per_client: usize,
    /// Portal requests and sessions of one client that are open on the host.
    pub requests_per_client: usize,
    /// Portal requests and sessions of the whole virtual machine.
    pub requests: usize,
    /// Documents that are shared with the virtual machine.
    pub documents: usize,
    /// Notifications that are shown; one more takes the place of the oldest.
    pub notifications: usize,
    /// Bytes of files that came by their content and are kept for programs of the host that want a file.
    pub spool_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        const MIB: u32 = 1024 * 1024;
        Limits {
            clients: 512,
            unopened_connections: 256,
            message_bytes: 32 * MIB,
            queued_bytes: 16 * MIB as usize,
            large_message_bytes: 128 * MIB,
            file_bytes: 256 * MIB,
            fds_per_message: 16,
            queued_fds: 64,
            streams_per_client: 32,
            streams: 256,
            calls_per_client: 1024,
            names_per_client: 64,
            rules_per_client: 1024,
            requests_per_client: 64,
            requests: 256,
            documents: 4096,
            notifications: 64,
            spool_bytes: 64 * u64::from(MIB),
        }
    }
}
