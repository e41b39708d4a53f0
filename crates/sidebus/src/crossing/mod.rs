//! What becomes of a file descriptor that cannot cross, and of the message that carries it.
//!
//! Descriptors do not cross vsock. What they stand for can:
//!
//! | the descriptor is | what crosses |
//! |---|---|
//! | a file below the document mount | the document's id, and the name below it ([`DocumentFile`]) |
//! | a memfd, or a regular file up to 16 MiB | its bytes; recreated as a sealed memfd |
//! | a pipe or a stream socket | a stream of its own, direction by access mode |
//! | anything else | nothing: the sender is told `org.freedesktop.DBus.Error.NotSupported` |
//!
//! The rules hold in both directions.

mod answer;
mod bridge;
mod classify;
mod documents;
mod refusal;
mod sealed_file;
mod stream;

pub use bridge::{
    Bridge, BridgeError, Ended, Offer, Quotas, Room, Side, StreamLink, Traffic, refuse_first_call,
};
pub use documents::{
    Access, DocumentFile, DocumentId, DocumentPath, DocumentStore, NoDocuments, split_document_path,
};
pub use refusal::Refusal;
#[cfg(test)]
pub(crate) use sealed_file::SealedFile;
