//! The portals that are carried, described argument by argument.
//!
//! A portal's front end is this table and one proxy that follows it (`portals::guest`). What a description does not
//! name does not cross: an interface or a method is refused with an error that says so, an option or a result is
//! left out, as xdg-desktop-portal itself does with options that it does not know. What is never carried stands in
//! [`REFUSED`] with the reason.

mod interfaces;

pub use self::interfaces::CARRIED;

/// What the names of all portals begin with.
pub const INTERFACE_PREFIX: &str = "org.freedesktop.portal.";
/// The bus name of the desktop's portals.
pub const DESKTOP_NAME: &str = "org.freedesktop.portal.Desktop";
/// Their object.
pub const DESKTOP_PATH: &str = "/org/freedesktop/portal/desktop";
/// The bus name of the document portal.
pub const DOCUMENTS_NAME: &str = "org.freedesktop.portal.Documents";
/// Its object.
pub const DOCUMENTS_PATH: &str = "/org/freedesktop/portal/documents";

/// Interfaces that are never carried, and why.
pub const REFUSED: [(&str, &str); 9] = [
    (
        "org.freedesktop.portal.ScreenCast",
        "its PipeWire socket carries file descriptors of its own, which cannot cross",
    ),
    (
        "org.freedesktop.portal.RemoteDesktop",
        "its sockets carry file descriptors of their own, which cannot cross",
    ),
    (
        "org.freedesktop.portal.InputCapture",
        "its socket carries file descriptors of its own, which cannot cross",
    ),
    (
        "org.freedesktop.portal.Camera",
        "its PipeWire socket carries file descriptors of its own, which cannot cross",
    ),
    (
        "org.freedesktop.portal.Clipboard",
        "it belongs to sessions of RemoteDesktop and InputCapture, which are not carried",
    ),
    (
        "org.freedesktop.portal.Usb",
        "a device's file descriptor cannot cross; give the device to the virtual machine",
    ),
    (
        "org.freedesktop.portal.Realtime",
        "the guest's threads are not the host's",
    ),
    (
        "org.freedesktop.portal.Device",
        "it speaks of processes, and the guest's are not the host's",
    ),
    (
        "org.freedesktop.portal.DynamicLauncher",
        "it would install programs of the guest on the host",
    ),
];

/// Why this interface is never carried, if it is one of those.
pub fn why_refused(interface: &str) -> Option<&'static str> {
    REFUSED
        .iter()
        .find(|(name, _)| *name == interface)
        .map(|(_, why)| *why)
}

/// All interfaces that are carried.
pub fn carried() -> impl Iterator<Item = &'static Interface> {
    CARRIED.iter().copied()
}

/// The description of an interface.
pub fn interface(name: &str) -> Option<&'static Interface> {
    carried().find(|interface| interface.name == name)
}

/// Which of the two services has an interface.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Service {
    /// [`DESKTOP_NAME`].
    Desktop,
    /// [`DOCUMENTS_NAME`].
    Documents,
}

impl Service {
    /// Its bus name.
    pub fn name(self) -> &'static str {
        match self {
            Service::Desktop => DESKTOP_NAME,
            Service::Documents => DOCUMENTS_NAME,
        }
    }

    /// Its object's path.
    pub fn path(self) -> &'static str {
        match self {
            Service::Desktop => DESKTOP_PATH,
            Service::Documents => DOCUMENTS_PATH,
        }
    }
}

/// One portal.
#[derive(Debug)]
pub struct Interface {
    /// Its whole name.
    pub name: &'static str,
    /// Who has it.
    pub service: Service,
    /// The highest version that is carried.
    pub version: u32,
    /// Its methods.
    pub methods: &'static [Method],
    /// Its signals.
    pub signals: &'static [Signal],
    /// Its properties besides `version`.
    pub properties: &'static [Property],
}

impl Interface {
    /// The last part of its name.
    pub fn short(&self) -> &'static str {
        self.name
            .strip_prefix(INTERFACE_PREFIX)
            .unwrap_or(self.name)
    }

    /// The description of a method.
    pub fn method(&self, name: &str) -> Option<&'static Method> {
        self.methods.iter().find(|method| method.name == name)
    }

    /// The description of a signal.
    pub fn signal(&self, name: &str) -> Option<&'static Signal> {
        self.signals.iter().find(|signal| signal.name == name)
    }

    /// The description of a property.
    pub fn property(&self, name: &str) -> Option<&'static Property> {
        self.properties
            .iter()
            .find(|property| property.name == name)
    }
}

/// One method.
#[derive(Debug)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// The version of the interface that has it.
    pub since: u32,
    /// Its arguments.
    pub ins: &'static [Arg<In>],
    /// What it returns.
    pub outs: &'static [Arg<Out>],
    /// For a method that answers by a Request: what comes with the Response.
    pub response: Option<Response>,
    /// Who does it.
    pub hand: Hand,
}

impl Method {
    /// The signature of its arguments.
    pub fn signature(&self) -> String {
        self.ins.iter().map(|arg| arg.signature).collect()
    }
}

/// What a request ends with.
#[derive(Debug)]
pub struct Response {
    /// The results.
    pub results: &'static [Key<Out>],
    /// Whether the request stays until it is closed, although it has succeeded (an inhibition).
    pub lasting: bool,
}

/// Who does a method.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Hand {
    /// The proxy, by the description alone.
    Proxy,
    /// A setting is read if its namespace is on the list.
    ReadSetting,
    /// Settings are read, and those that are not on the list taken out.
    ReadSettings,
    /// A notification's id is the virtual machine's.
    AddNotification,
    /// The same.
    RemoveNotification,
    /// Whether the list of schemes has one, before the host is asked.
    SchemeSupported,
    /// Interactive, unless the host knows who asks.
    Screenshot,
    /// The broker plays: the guest's processes are not the host's.
    GameMode,
    /// The document portal towards the guest.
    Documents,
    /// A transfer of files between programs begins, on the host.
    StartTransfer,
    /// Files are given to it: to one that may write them, only such as the guest may write.
    AddFiles,
}

/// An argument, an option or a result by position.
#[derive(Debug)]
pub struct Arg<Role: 'static> {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub signature: &'static str,
    /// What it is.
    pub role: Role,
}

/// An option or a result by name.
#[derive(Debug)]
pub struct Key<Role: 'static> {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub signature: &'static str,
    /// The version of the interface that has it.
    pub since: u32,
    /// What it is.
    pub role: Role,
}

/// What an argument or option is, on its way to the host.
#[derive(Copy, Clone, Debug)]
pub enum In {
    /// Plain data: goes as it is. File descriptors in it are refused.
    Data,
    /// A window of the guest's: nothing on the host has this id, so it becomes "".
    Window,
    /// `a{sv}` with these keys; others are left out.
    Options(&'static [Key<In>]),
    /// `aa{sv}`, each with these keys.
    Entries(&'static [Key<In>]),
    /// `a(sa{sv})`, each with these keys.
    Named(&'static [Key<In>]),
    /// `a{sv}` with any keys but these, and plain data.
    AllBut(&'static [&'static str]),
    /// The last element of the request's handle.
    HandleToken,
    /// The last element of the session's handle.
    SessionToken,
    /// A session of this client.
    Session,
    /// A URI that the host opens, if its scheme is on the list.
    Uri,
    /// A path below the guest's document mount becomes the host's; others are left out.
    Place,
    /// A file's name without directories.
    BaseName,
    /// The same as bytes, several.
    BaseNames,
    /// Passes if the host issued it; else left out.
    ActivationToken,
    /// A descriptor.
    Fd(Needs),
    /// Several.
    Fds(Needs),
    /// A notification's icon: by its name or by its bytes; others are left out.
    Icon,
    /// A notification's sound: `default`, `silent`, or by a descriptor; others are left out.
    Sound,
    /// The name of a notification's action.
    Action,
    /// Refused if true, for this reason; false is left out.
    Never(&'static str),
    /// Left out.
    Dropped,
}

/// What the host needs of a descriptor.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Needs {
    /// A file with a path. What came by its bytes is written to one.
    File,
    /// A file that the guest has as a document, and may write.
    WritableDocument,
    /// A file that the guest has as a document.
    Document,
    /// Something to read from.
    Readable,
    /// A pipe or socket to write to.
    Pipe,
}

/// What a result is, on its way to the guest.
#[derive(Copy, Clone, Debug)]
pub enum Out {
    /// Plain data: goes as it is, without file descriptors.
    Data,
    /// The handle of the request.
    Handle,
    /// The handle of a session, as `o` or as `s`.
    Session,
    /// URIs of files that were chosen to be opened: documents.
    Opened,
    /// Paths of files that another program gave: documents that can be read.
    Received,
    /// URIs of files that were chosen to be written, and may not be there yet: documents.
    Saved,
    /// The URI of a picture: a document that can be read.
    Picture,
    /// `a{sv}`; an activation token in it is remembered as issued by the host.
    Tokens,
    /// `a{sv}` with any keys but these.
    AllBut(&'static [&'static str]),
    /// Left out.
    Dropped,
}

/// Who gets a signal.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Every client that has asked for it.
    Everyone,
    /// Who has the session that is its first argument.
    Session,
    /// Who has sent the notification that its first argument is the id of.
    Notification,
    /// The client whose host connection it came to.
    Client,
}

/// One signal.
#[derive(Debug)]
pub struct Signal {
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub args: &'static [Arg<Out>],
    /// Who gets it.
    pub reach: Reach,
}

/// One property, read only.
#[derive(Debug)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub signature: &'static str,
    /// The version of the interface that has it.
    pub since: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::Signature;

    fn check_keys(place: &str, keys: &[Key<In>]) {
        for (index, key) in keys.iter().enumerate() {
            let place = format!("{place} {}", key.name);
            Signature::try_from(key.signature).expect(&place);
            assert!(
                keys[..index].iter().all(|other| other.name != key.name),
                "{place} stands there twice"
            );
            check_in(&place, key.signature, key.role);
        }
    }

    fn check_in(place: &str, signature: &str, role: In) {
        let expected: &[&str] = match role {
            In::Data | In::Dropped => {
                assert!(
                    !signature.contains('h'),
                    "{place}: a descriptor is not plain"
                );
                return;
            }
            In::Window
            | In::HandleToken
            | In::SessionToken
            | In::Uri
            | In::BaseName
            | In::ActivationToken
            | In::Action => &["s"],
            In::Options(keys) => {
                check_keys(place, keys);
                &["a{sv}"]
            }
            In::Entries(keys) => {
                check_keys(place, keys);
                &["aa{sv}"]
            }
            In::Named(keys) => {
                check_keys(place, keys);
                &["a(sa{sv})"]
            }
            In::AllBut(_) => &["a{sv}"],
            In::Session => &["o"],
            In::Place => &["ay"],
            In::BaseNames => &["aay"],
            In::Fd(_) => &["h"],
            In::Fds(_) => &["ah"],
            In::Icon | In::Sound => &["v"],
            In::Never(_) => &["b"],
        };
        assert!(expected.contains(&signature), "{place}: {signature}");
    }

    #[test]
    fn each_description_agrees_with_its_types() {
        for interface in carried() {
            assert!(interface.name.starts_with(INTERFACE_PREFIX));
            assert!(why_refused(interface.name).is_none());
            for method in interface.methods {
                let place = format!("{}.{}", interface.name, method.name);
                assert!(method.since <= interface.version, "{place}");
                for arg in method.ins {
                    check_in(&format!("{place} {}", arg.name), arg.signature, arg.role);
                }
                let handles = method
                    .outs
                    .iter()
                    .filter(|arg| matches!(arg.role, Out::Handle))
                    .count();
                assert_eq!(
                    handles,
                    usize::from(method.response.is_some()),
                    "{place}: a method with a Response returns a handle"
                );
                if method.response.is_some() {
                    assert!(
                        method
                            .ins
                            .iter()
                            .any(|arg| matches!(arg.role, In::Options(keys)
                            if keys.iter().any(|key| matches!(key.role, In::HandleToken)))),
                        "{place}: a request takes a token"
                    );
                }
            }
            for signal in interface.signals {
                if signal.reach == Reach::Session {
                    assert!(matches!(signal.args[0].role, Out::Session));
                }
            }
        }
    }

    #[test]
    fn an_interface_is_found_by_its_name() {
        let found = interface("org.freedesktop.portal.FileChooser").unwrap();
        assert_eq!(found.short(), "FileChooser");
        assert_eq!(found.method("SaveFile").unwrap().signature(), "ssa{sv}");
        assert!(found.method("RemoveFile").is_none());
        assert!(interface("org.freedesktop.portal.ScreenCast").is_none());
        assert!(why_refused("org.freedesktop.portal.ScreenCast").is_some());
    }
}
