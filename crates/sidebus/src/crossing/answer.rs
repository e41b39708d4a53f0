//! What is said about a message that does not cross.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use dbus_wire::{Builder, Flags, Header, MessageType};
use tokio::sync::Notify;

use super::Refusal;
use super::bridge::BridgeError;

/// The most that may wait to be said: who sends what cannot cross and does not read the answers is at its end.
const MOST_WAITING: usize = 64;
const DRIVER: &str = "org.freedesktop.DBus";

/// What becomes of a refused message.
pub(super) enum Answer {
    /// A call: its caller gets this error.
    Back(Vec<u8>),
    /// A reply: who waits for it gets this error in its place.
    Forward(Vec<u8>),
    /// A signal, or a call without reply.
    Nothing,
}

/// The answer to a message that is refused. `name` is the unique name of the client that the connection is for.
pub(super) fn answer(header: &Header<'_>, refusal: &Refusal, name: Option<&str>) -> Answer {
    let error = |reply_serial, serial| {
        Builder::error(refusal.name(), reply_serial, refusal.text()).serial(serial)
    };
    match (header.kind, header.reply_serial) {
        (MessageType::MethodCall, _) if !header.flags.contains(Flags::NO_REPLY_EXPECTED) => {
            let mut message = error(header.serial, own_serial()).sender(DRIVER);
            // A client whose Hello was refused has the empty name.
            if let Some(caller) = header.sender.or(name).filter(|name| !name.is_empty()) {
                message = message.destination(caller);
            }
            Answer::Back(message.build())
        }
        (MessageType::MethodReturn | MessageType::Error, Some(reply_serial)) => {
            let mut message = error(reply_serial, header.serial);
            if let Some(sender) = header.sender {
                message = message.sender(sender);
            }
            if let Some(destination) = header.destination {
                message = message.destination(destination);
            }
            Answer::Forward(message.build())
        }
        _ => Answer::Nothing,
    }
}

/// Serials of our own begin where no client comes to in its life.
fn own_serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    0x8000_0000 | NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Messages that one direction of a bridge has for the other.
#[derive(Default)]
pub(super) struct Answers {
    waiting: Mutex<VecDeque<Vec<u8>>>,
    there: Notify,
}

impl Answers {
    /// Refuses if too much is waiting.
    pub fn push(&self, message: Vec<u8>) -> Result<(), BridgeError> {
        let mut waiting = self.lock();
        if waiting.len() == MOST_WAITING {
            return Err(BridgeError::Deaf);
        }
        waiting.push_back(message);
        self.there.notify_one();
        Ok(())
    }

    /// The next one. Dropping the future loses nothing.
    pub async fn next(&self) -> Vec<u8> {
        loop {
            if let Some(message) = self.lock().pop_front() {
                return message;
            }
            self.there.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Vec<u8>>> {
        // Nothing panics while it is held.
        self.waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
