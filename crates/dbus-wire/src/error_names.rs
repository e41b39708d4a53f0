//! The names of the errors that buses and bindings send (the reference implementation's
//! `dbus-protocol.h`; some are in the specification: Message Bus Messages).

/// Something went wrong, and no other name says what.
pub const FAILED: &str = "org.freedesktop.DBus.Error.Failed";
/// There was not enough memory.
pub const NO_MEMORY: &str = "org.freedesktop.DBus.Error.NoMemory";
/// Nobody owns the destination, and nothing is known that could be started to own it.
pub const SERVICE_UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";
/// Nobody owns the name that was asked about.
pub const NAME_HAS_NO_OWNER: &str = "org.freedesktop.DBus.Error.NameHasNoOwner";
/// The callee did not reply, often because it left.
pub const NO_REPLY: &str = "org.freedesktop.DBus.Error.NoReply";
/// Reading or writing failed.
pub const IO_ERROR: &str = "org.freedesktop.DBus.Error.IOError";
/// The server's address cannot be read.
pub const BAD_ADDRESS: &str = "org.freedesktop.DBus.Error.BadAddress";
/// The operation is not supported.
pub const NOT_SUPPORTED: &str = "org.freedesktop.DBus.Error.NotSupported";
/// A limit on what one may use was reached.
pub const LIMITS_EXCEEDED: &str = "org.freedesktop.DBus.Error.LimitsExceeded";
/// The policy does not allow it.
pub const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
/// Authentication failed.
pub const AUTH_FAILED: &str = "org.freedesktop.DBus.Error.AuthFailed";
/// There is no server to connect to.
pub const NO_SERVER: &str = "org.freedesktop.DBus.Error.NoServer";
/// It took too long (older name; see [`TIMED_OUT`]).
pub const TIMEOUT: &str = "org.freedesktop.DBus.Error.Timeout";
/// There is no network.
pub const NO_NETWORK: &str = "org.freedesktop.DBus.Error.NoNetwork";
/// Somebody else uses the address.
pub const ADDRESS_IN_USE: &str = "org.freedesktop.DBus.Error.AddressInUse";
/// The connection is closed.
pub const DISCONNECTED: &str = "org.freedesktop.DBus.Error.Disconnected";
/// The arguments are not what the method takes.
pub const INVALID_ARGS: &str = "org.freedesktop.DBus.Error.InvalidArgs";
/// A file is missing.
pub const FILE_NOT_FOUND: &str = "org.freedesktop.DBus.Error.FileNotFound";
/// A file is there already.
pub const FILE_EXISTS: &str = "org.freedesktop.DBus.Error.FileExists";
/// The object has no such method.
pub const UNKNOWN_METHOD: &str = "org.freedesktop.DBus.Error.UnknownMethod";
/// There is no such object.
pub const UNKNOWN_OBJECT: &str = "org.freedesktop.DBus.Error.UnknownObject";
/// The object has no such interface.
pub const UNKNOWN_INTERFACE: &str = "org.freedesktop.DBus.Error.UnknownInterface";
/// The object has no such property.
pub const UNKNOWN_PROPERTY: &str = "org.freedesktop.DBus.Error.UnknownProperty";
/// The property cannot be set.
pub const PROPERTY_READ_ONLY: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";
/// It took too long.
pub const TIMED_OUT: &str = "org.freedesktop.DBus.Error.TimedOut";
/// The rule to remove was never added.
pub const MATCH_RULE_NOT_FOUND: &str = "org.freedesktop.DBus.Error.MatchRuleNotFound";
/// The rule cannot be read.
pub const MATCH_RULE_INVALID: &str = "org.freedesktop.DBus.Error.MatchRuleInvalid";
/// A program could not be executed.
pub const SPAWN_EXEC_FAILED: &str = "org.freedesktop.DBus.Error.Spawn.ExecFailed";
/// A process could not be forked.
pub const SPAWN_FORK_FAILED: &str = "org.freedesktop.DBus.Error.Spawn.ForkFailed";
/// A started program ended with a status that is not 0.
pub const SPAWN_CHILD_EXITED: &str = "org.freedesktop.DBus.Error.Spawn.ChildExited";
/// A signal ended a started program.
pub const SPAWN_CHILD_SIGNALED: &str = "org.freedesktop.DBus.Error.Spawn.ChildSignaled";
/// A program could not be started.
pub const SPAWN_FAILED: &str = "org.freedesktop.DBus.Error.Spawn.Failed";
/// The environment for a program could not be set up.
pub const SPAWN_SETUP_FAILED: &str = "org.freedesktop.DBus.Error.Spawn.FailedToSetup";
/// The bus's configuration for starting programs is wrong.
pub const SPAWN_CONFIG_INVALID: &str = "org.freedesktop.DBus.Error.Spawn.ConfigInvalid";
/// The service's name is not valid.
pub const SPAWN_SERVICE_INVALID: &str = "org.freedesktop.DBus.Error.Spawn.ServiceNotValid";
/// There is no service file of this name.
pub const SPAWN_SERVICE_NOT_FOUND: &str = "org.freedesktop.DBus.Error.Spawn.ServiceNotFound";
/// The permissions for starting programs are wrong.
pub const SPAWN_PERMISSIONS_INVALID: &str = "org.freedesktop.DBus.Error.Spawn.PermissionsInvalid";
/// The service file is not valid.
pub const SPAWN_FILE_INVALID: &str = "org.freedesktop.DBus.Error.Spawn.FileInvalid";
/// There was not enough memory to start a program.
pub const SPAWN_NO_MEMORY: &str = "org.freedesktop.DBus.Error.Spawn.NoMemory";
/// The connection's process is not known.
pub const UNIX_PROCESS_ID_UNKNOWN: &str = "org.freedesktop.DBus.Error.UnixProcessIdUnknown";
/// The signature is not valid.
pub const INVALID_SIGNATURE: &str = "org.freedesktop.DBus.Error.InvalidSignature";
/// A file's content is not what it should be.
pub const INVALID_FILE_CONTENT: &str = "org.freedesktop.DBus.Error.InvalidFileContent";
/// The connection's SELinux context is not known.
pub const SELINUX_SECURITY_CONTEXT_UNKNOWN: &str =
    "org.freedesktop.DBus.Error.SELinuxSecurityContextUnknown";
/// The connection's Solaris audit data is not known.
pub const ADT_AUDIT_DATA_UNKNOWN: &str = "org.freedesktop.DBus.Error.AdtAuditDataUnknown";
/// Something is exported at this path already.
pub const OBJECT_PATH_IN_USE: &str = "org.freedesktop.DBus.Error.ObjectPathInUse";
/// The message contradicts itself.
pub const INCONSISTENT_MESSAGE: &str = "org.freedesktop.DBus.Error.InconsistentMessage";
/// A person has to authorise it, and the caller did not allow to ask.
pub const INTERACTIVE_AUTHORIZATION_REQUIRED: &str =
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
/// The connection is not in a container.
pub const NOT_CONTAINER: &str = "org.freedesktop.DBus.Error.NotContainer";

#[cfg(test)]
mod tests {
    #[test]
    fn the_names_are_valid_error_names() {
        for name in [
            super::FAILED,
            super::SPAWN_EXEC_FAILED,
            super::NOT_CONTAINER,
        ] {
            assert!(crate::is_error_name(name), "{name}");
        }
    }
}
