//! The backend of the host's portals: what a person would choose, as the test says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, Dict, Message, MessageStream, Signature, Structure, Variant};

pub const NAME: &str = "org.freedesktop.impl.portal.desktop.testbed";
const PATH: &str = "/org/freedesktop/portal/desktop";
/// The interfaces that it has.
pub const INTERFACES: [&str; 15] = [
    "FileChooser",
    "Notification",
    "Settings",
    "Secret",
    "Print",
    "Account",
    "Access",
    "AppChooser",
    "Background",
    "Email",
    "Inhibit",
    "Screenshot",
    "Wallpaper",
    "GlobalShortcuts",
    "Lockdown",
];

/// A value that borrows nothing.
pub type Value = Variant<'static>;

/// A call that the host's portal made.
#[derive(Debug)]
pub struct Call {
    pub path: String,
    pub interface: String,
    pub member: String,
    pub arguments: Vec<Value>,
}

impl Call {
    /// `FileChooser.OpenFile`.
    pub fn name(&self) -> String {
        let last = self.interface.rsplit('.').next().unwrap_or_default();
        format!("{last}.{}", self.member)
    }

    /// The text of an argument.
    pub fn text(&self, index: usize) -> &str {
        text(&self.arguments[index])
    }

    /// The value of an option in the dictionary at `index`.
    pub fn option(&self, index: usize, key: &str) -> Option<Value> {
        entry(&self.arguments[index], key)
    }
}

/// A string's or a path's text.
#[track_caller]
pub fn text<'v>(value: &'v Variant<'_>) -> &'v str {
    match value {
        Variant::Str(text) => text.as_str(),
        Variant::ObjectPath(path) => path.as_str(),
        other => panic!("expected a text, got {other:?}"),
    }
}

/// What an `a{sv}` has for a key.
pub fn entry(dictionary: &Variant<'_>, wanted: &str) -> Option<Value> {
    let Variant::Dict(dict) = dictionary else {
        panic!("expected a dictionary, got {dictionary:?}");
    };
    dict.iter().find_map(|(key, value)| {
        let Variant::Variant(value) = value else {
            panic!("expected a{{sv}}");
        };
        (text(key) == wanted).then(|| owned(value))
    })
}

/// A copy that borrows nothing.
pub fn owned(value: &Variant<'_>) -> Value {
    value.try_to_owned().expect("descriptors are left").into()
}

/// An `a{sv}`.
pub fn dictionary<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let mut dict = Dict::new(&Signature::Str, &Signature::Variant);
    for (key, value) in entries {
        dict.append(
            Value::from(key.to_owned()),
            Variant::Variant(Box::new(value)),
        )
        .expect("a string and a variant");
    }
    Variant::Dict(dict)
}

/// The body of a message, value by value.
pub fn arguments(message: &Message) -> Vec<Value> {
    let body = message.body();
    if body.is_empty() {
        return Vec::new();
    }
    let structure: Structure<'_> = body.deserialize().expect("a body as its signature says");
    structure.into_fields().iter().map(owned).collect()
}

/// A body of values.
pub fn body(values: Vec<Value>) -> Structure<'static> {
    values
        .into_iter()
        .fold(Structure::builder(), |structure, value| {
            structure.append_field(value)
        })
        .build()
        .expect("at least one value")
}

/// What is answered; none: nothing, until the request is closed.
type Answer = Box<dyn Fn(&Call) -> Option<Vec<Value>> + Send>;

/// The backend.
pub struct Backend {
    /// To send signals.
    pub connection: Connection,
    calls: tokio::sync::Mutex<mpsc::UnboundedReceiver<Call>>,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
}

impl Backend {
    /// Has its name on the bus at `address`.
    pub async fn start(address: &str) -> Backend {
        let connection = Builder::address(address)
            .build()
            .await
            .expect("the host's bus");
        let mut messages = MessageStream::from(&connection);
        let (sender, calls) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let (ours, answering) = (connection.clone(), answers.clone());
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if message.message_type() != Type::MethodCall {
                    continue;
                }
                let header = message.header();
                let call = Call {
                    path: header.path().expect("calls have one").to_string(),
                    interface: header.interface().expect("GDBus says it").to_string(),
                    member: header.member().expect("calls have one").to_string(),
                    arguments: arguments(&message),
                };
                if let Some(answer) = answer(&answering, &call) {
                    let reply = Message::method_return(&header);
                    let reply = if answer.is_empty() {
                        reply.build(&())
                    } else {
                        reply.build(&body(answer))
                    };
                    ours.send(&reply.expect("an answer"))
                        .await
                        .expect("the host's bus");
                }
                if call.interface != "org.freedesktop.DBus.Properties" {
                    // A test that has ended does not listen.
                    let _ = sender.send(call);
                }
            }
        });
        connection
            .request_name(NAME)
            .await
            .expect("the backend's name");
        Backend {
            connection,
            calls: tokio::sync::Mutex::new(calls),
            answers,
        }
    }

    /// From now on `name` (`FileChooser.OpenFile`) is answered by this.
    pub fn answer(
        &self,
        name: &str,
        answer: impl Fn(&Call) -> Option<Vec<Value>> + Send + 'static,
    ) {
        self.answers
            .lock()
            .expect("not poisoned")
            .insert(name.to_owned(), Box::new(answer));
    }

    /// From now on `name` answers success with these results.
    pub fn succeed<const N: usize>(&self, name: &str, results: [(&'static str, Value); N]) {
        self.answer(name, move |_| {
            let results = results.each_ref().map(|(key, value)| (*key, owned(value)));
            Some(vec![Value::from(0u32), dictionary(results)])
        });
    }

    /// Waits for a call of this name; others are passed over.
    pub async fn called(&self, name: &str) -> Call {
        let mut calls = self.calls.lock().await;
        loop {
            let call = calls.recv().await.expect("the backend runs");
            if call.name() == name {
                return call;
            }
        }
    }

    /// The calls so far of which the name has been waited for by nobody.
    pub async fn calls_so_far(&self) -> Vec<Call> {
        let mut calls = self.calls.lock().await;
        std::iter::from_fn(|| calls.try_recv().ok()).collect()
    }

    /// Emits a signal of an interface, as backends do.
    pub async fn emit(&self, interface: &str, member: &str, values: Vec<Value>) {
        let signal = Message::signal(
            PATH,
            format!("org.freedesktop.impl.portal.{interface}"),
            member,
        )
        .build(&body(values))
        .expect("a signal");
        self.connection.send(&signal).await.expect("the host's bus");
    }
}

fn answer(answers: &Mutex<HashMap<String, Answer>>, call: &Call) -> Option<Vec<Value>> {
    if let Some(answer) = answers.lock().expect("not poisoned").get(&call.name()) {
        return answer(call);
    }
    match (call.interface.as_str(), call.member.as_str()) {
        ("org.freedesktop.DBus.Properties", "GetAll") => {
            let interface = call.text(0);
            let version = match interface.rsplit('.').next() {
                Some("Screenshot" | "Notification") => 2u32,
                Some("Inhibit") => 3,
                _ => 1,
            };
            Some(vec![match interface.ends_with("Lockdown") {
                true => dictionary([("disable-printing", Value::from(false))]),
                false => dictionary([
                    ("version", Value::from(version)),
                    ("SupportedOptions", dictionary([])),
                ]),
            }])
        }
        ("org.freedesktop.DBus.Properties", "Get") => Some(vec![boxed(Value::from(1u32))]),
        ("org.freedesktop.impl.portal.Settings", "ReadAll") => Some(vec![settings()]),
        ("org.freedesktop.impl.portal.Settings", "Read") => Some(vec![boxed(Value::from(1u32))]),
        (
            "org.freedesktop.impl.portal.Notification"
            | "org.freedesktop.impl.portal.Inhibit"
            | "org.freedesktop.impl.portal.Request"
            | "org.freedesktop.impl.portal.Session",
            member,
        ) if member != "CreateMonitor" => Some(Vec::new()),
        ("org.freedesktop.impl.portal.Inhibit", _)
        | ("org.freedesktop.impl.portal.Wallpaper", _) => Some(vec![Value::from(0u32)]),
        ("org.freedesktop.impl.portal.Background", "EnableAutostart") => {
            Some(vec![Value::from(true)])
        }
        _ => Some(vec![Value::from(0u32), dictionary([])]),
    }
}

/// The value in one more variant, as `v` is.
pub fn boxed(value: Value) -> Value {
    Variant::Variant(Box::new(value))
}

/// What the host's settings are.
fn settings() -> Value {
    let inner = Signature::dict(Signature::Str, Signature::Variant);
    let mut all = Dict::new(&Signature::Str, &inner);
    for (namespace, values) in [
        (
            "org.freedesktop.appearance",
            dictionary([("color-scheme", Value::from(1u32))]),
        ),
        (
            "org.example.private",
            dictionary([("history", Value::from("what the person did"))]),
        ),
    ] {
        all.append(Value::from(namespace), values)
            .expect("a string and a dictionary");
    }
    Variant::Dict(all)
}

/// An array of values of this type.
pub fn array(signature: &str, items: Vec<Value>) -> Value {
    let signature = Signature::try_from(signature).expect("a signature");
    let mut array = zbus::Array::new(&signature);
    for item in items {
        array.append(item).expect("a value of that type");
    }
    Variant::Array(array)
}
