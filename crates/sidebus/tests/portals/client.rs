//! A program of the guest.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt as _;
use tokio::sync::Mutex;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream};

use crate::backend::{Value, arguments, body, dictionary, text};

pub const DESKTOP: &str = "org.freedesktop.portal.Desktop";
pub const PATH: &str = "/org/freedesktop/portal/desktop";
pub const DOCUMENTS: &str = "org.freedesktop.portal.Documents";
pub const DOCUMENTS_PATH: &str = "/org/freedesktop/portal/documents";

/// A connection to the machine's bus.
pub struct Client {
    pub connection: Connection,
    signals: Mutex<MessageStream>,
    last: AtomicU32,
}

/// An error that came back: its name and its text.
#[derive(Debug, PartialEq, Eq)]
pub struct Error(pub String, pub String);

impl Client {
    pub async fn connect(address: &str) -> Client {
        let connection = Builder::address(address)
            .build()
            .await
            .expect("the machine's bus");
        let mut signals = MessageStream::from(&connection);
        signals.set_max_queued(std::num::NonZeroUsize::new(4096).expect("not zero"));
        Client {
            connection,
            signals: Mutex::new(signals),
            last: AtomicU32::new(0),
        }
    }

    /// Its name in handles.
    pub fn sender(&self) -> String {
        let name = self.connection.unique_name().expect("a bus gives one");
        name.trim_start_matches(':').replace('.', "_")
    }

    /// Calls any method.
    pub async fn call_at(
        &self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Value>, Error> {
        let answer = if values.is_empty() {
            self.connection
                .call_method(Some(destination), path, Some(interface), member, &())
                .await
        } else {
            self.connection
                .call_method(
                    Some(destination),
                    path,
                    Some(interface),
                    member,
                    &body(values),
                )
                .await
        };
        match answer {
            Ok(answer) => Ok(arguments(&answer)),
            Err(zbus::Error::MethodError(name, said, _)) => {
                Err(Error(name.to_string(), said.unwrap_or_default()))
            }
            Err(zbus::Error::FDO(error)) => {
                use zbus::DBusError as _;
                let said = error.description().unwrap_or_default();
                Err(Error(error.name().to_string(), said.to_owned()))
            }
            Err(other) => panic!("{interface}.{member}: {other}"),
        }
    }

    /// Calls a method of a portal of the desktop (`FileChooser`).
    pub async fn call(
        &self,
        portal: &str,
        member: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Value>, Error> {
        let interface = format!("org.freedesktop.portal.{portal}");
        self.call_at(DESKTOP, PATH, &interface, member, values)
            .await
    }

    /// Calls a method of the document portal.
    pub async fn call_documents(
        &self,
        portal: &str,
        member: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Value>, Error> {
        let interface = format!("org.freedesktop.portal.{portal}");
        self.call_at(DOCUMENTS, DOCUMENTS_PATH, &interface, member, values)
            .await
    }

    /// A token that was not used before.
    pub fn token(&self) -> String {
        format!("t{}", self.last.fetch_add(1, Ordering::Relaxed))
    }

    /// Opens a request: `values`, and the options with a token of ours behind them. Gives back the handle, which is the
    /// one that the client expects.
    pub async fn open<const N: usize>(
        &self,
        portal: &str,
        member: &str,
        mut values: Vec<Value>,
        options: [(&str, Value); N],
    ) -> Result<String, Error> {
        let token = self.token();
        values.push(with(
            options,
            [("handle_token", Value::from(token.clone()))],
        ));
        let answer = self.call(portal, member, values).await?;
        let handle = text(&answer[0]).to_owned();
        assert_eq!(handle, format!("{PATH}/request/{}/{token}", self.sender()));
        Ok(handle)
    }

    /// Opens a request and waits for what comes of it.
    pub async fn request<const N: usize>(
        &self,
        portal: &str,
        member: &str,
        values: Vec<Value>,
        options: [(&str, Value); N],
    ) -> Result<(u32, Value), Error> {
        let handle = self.open(portal, member, values, options).await?;
        Ok(self.response(&handle).await)
    }

    /// Waits for a request's end.
    pub async fn response(&self, handle: &str) -> (u32, Value) {
        let message = self
            .signal_where(|path, interface, member| {
                path == handle
                    && interface == "org.freedesktop.portal.Request"
                    && member == "Response"
            })
            .await;
        let mut values = arguments(&message).into_iter();
        match (values.next(), values.next()) {
            (Some(Value::U32(code)), Some(results)) => (code, results),
            other => panic!("not a Response: {other:?}"),
        }
    }

    /// Waits for a signal; others are passed over.
    pub async fn signal(&self, interface: &str, member: &str) -> (String, Vec<Value>) {
        let interface = format!("org.freedesktop.portal.{interface}");
        let message = self
            .signal_where(|_, found, said| found == interface && said == member)
            .await;
        let path = message
            .header()
            .path()
            .expect("a signal has one")
            .to_string();
        (path, arguments(&message))
    }

    async fn signal_where(&self, wanted: impl Fn(&str, &str, &str) -> bool) -> Message {
        let mut signals = self.signals.lock().await;
        loop {
            let message = signals
                .next()
                .await
                .expect("the machine's bus runs")
                .expect("a message");
            let header = message.header();
            if message.message_type() == Type::Signal
                && let (Some(path), Some(interface), Some(member)) =
                    (header.path(), header.interface(), header.member())
                && wanted(path.as_str(), interface.as_str(), member.as_str())
            {
                let sender = header.sender().expect("a bus says it").to_string();
                drop(header);
                assert!(sender.starts_with(':'));
                return message;
            }
        }
    }

    /// Signals of this kind from everybody.
    pub async fn subscribe(&self, interface: &str) {
        self.connection
            .call_method(
                Some("org.freedesktop.DBus"),
                "/org/freedesktop/DBus",
                Some("org.freedesktop.DBus"),
                "AddMatch",
                &(format!(
                    "type='signal',sender='{DESKTOP}',interface='{interface}'"
                ),),
            )
            .await
            .expect("a rule");
    }

    /// A property of a portal.
    pub async fn property(&self, portal: &str, name: &str) -> Result<Value, Error> {
        let interface = Value::from(format!("org.freedesktop.portal.{portal}"));
        let values = vec![interface, Value::from(name.to_owned())];
        let answer = self
            .call_at(
                DESKTOP,
                PATH,
                "org.freedesktop.DBus.Properties",
                "Get",
                values,
            )
            .await?;
        match answer.into_iter().next() {
            Some(Value::Variant(value)) => Ok(*value),
            other => panic!("not a variant: {other:?}"),
        }
    }
}

/// Options, and more of them.
fn with<const N: usize, const M: usize>(
    options: [(&str, Value); N],
    more: [(&str, Value); M],
) -> Value {
    let Value::Dict(mut dict) = dictionary(options) else {
        unreachable!("it makes one");
    };
    for (key, value) in more {
        dict.append(Value::from(key.to_owned()), Value::Variant(Box::new(value)))
            .expect("a string and a variant");
    }
    Value::Dict(dict)
}
