//! The Incus REST API over its unix socket.
