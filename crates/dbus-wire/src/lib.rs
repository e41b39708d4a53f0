//! The D-Bus wire without I/O: frames, header fields, names, match rules, SASL, addresses.
//!
//! Everything here works on bytes that somebody else has read: no sockets, no file descriptors, no
//! clock. What a router needs for each message is parsed in place and allocates nothing:
//!
//! 1. [`scan`] says whether a buffer holds a whole header, and how long the message is
//!    ([`Prologue`]). Limits are checked before anybody takes memory for a message.
//! 2. [`Header::parse`] reads the header fields in place; [`Header::check`] and [`check_body`] check
//!    what a message bus promises to receivers.
//! 3. [`Header::rewrite`] replaces some fields and keeps all others, unknown ones too.
//!
//! [`MatchRule`], the machines in [`sasl`], and [`parse_addresses`] complete what a bus or a client
//! of one needs. [`Builder`], [`Body`] and [`Reader`] make and read whole messages.
//!
//! "The specification" in these pages is the D-Bus Specification of freedesktop.org.
#![forbid(unsafe_code)]

pub mod address;
pub mod body;
pub mod error_names;
pub mod frame;
pub mod guid;
pub mod header;
pub mod match_rule;
pub mod message;
pub mod names;
pub mod sasl;
pub mod signature;

pub use address::{
    Address, AddressError, ListedAddress, UnixTarget, parse_address_list, parse_addresses,
};
pub use body::{Body, BodyError, Dict, Reader, check_body};
pub use frame::{
    Endian, FIXED_LEN, Flags, FrameError, MAX_ARRAY_LEN, MAX_FIELDS_LEN, MAX_MESSAGE_LEN,
    MessageType, Prologue, Scan, scan,
};
pub use guid::Guid;
pub use header::{Change, Edit, Header, HeaderError};
pub use match_rule::{Arg, ArgMatch, Args, MatchRule, MatchRuleError, PathMatch};
pub use message::{Builder, Message, MessageError};
pub use names::{
    NameError, UniqueName, WellKnownName, is_bus_name, is_error_name, is_interface_name,
    is_member_name, is_namespace, is_object_path, is_unique_name, is_well_known_name,
    name_in_namespace, path_in_namespace,
};
pub use signature::{SignatureError, check_signature, check_single, complete_types};
