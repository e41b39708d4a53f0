//! `--log`: each message on standard output, as xdg-dbus-proxy prints it.

use std::fmt::Write as _;
use std::io::Write as _;

use dbus_wire::frame::MessageType;
use dbus_wire::header::Header;

use crate::{Bus, Decision, Direction, Port, Ruling, Watcher};

/// Prints messages, and below each that does not pass what became of it.
pub(super) struct ProxyLog {
    filter: bool,
}

impl ProxyLog {
    /// A log of a proxy that filters, or not.
    pub fn new(filter: bool) -> ProxyLog {
        ProxyLog { filter }
    }

    fn say(&self, text: &str) {
        // Whoever read it has gone; that ends no proxy.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
}

impl Watcher for ProxyLog {
    fn arrived(&mut self, from: Port, header: &Header<'_>) {
        match from {
            Port::Client(_) => self.say(&line('C', header)),
            Port::Link(Bus::Host, _) => self.say(&line('B', header)),
            _ => {}
        }
    }

    fn wants_decisions(&self) -> bool {
        self.filter
    }

    fn decided(&mut self, decision: &Decision<'_>) {
        let call = decision.kind == MessageType::MethodCall;
        self.say(match (decision.direction, decision.ruling) {
            (_, Ruling::Allowed) => return,
            (Direction::ToHost, Ruling::Refused) if call => "*DENIED* (ping)\n",
            (Direction::ToHost, Ruling::Hidden) if call => "*HIDDEN* (ping)\n",
            _ => "*FILTERED IN*\n",
        });
    }
}

/// `C7: -> org.example.A call a.b.C at /`, and `B9: <- :1.5 return from C7`.
fn line(side: char, header: &Header<'_>) -> String {
    let mut line = format!("{side}{}: ", header.serial);
    if side == 'C' {
        let to = header.destination.unwrap_or(match header.kind {
            MessageType::Signal => "all",
            _ => "(no dest)",
        });
        line.push_str("-> ");
        line.push_str(to);
    } else {
        line.push_str("<- ");
        line.push_str(header.sender.unwrap_or("(no sender)"));
    }
    let other = if side == 'C' { 'B' } else { 'C' };
    let interface = header.interface.unwrap_or("(no interface)");
    let member = header.member.unwrap_or("(no member)");
    let path = header.path.unwrap_or("(no path)");
    let answered = header.reply_serial.unwrap_or(0);
    let told = match header.kind {
        MessageType::MethodCall => write!(line, " call {interface}.{member} at {path}"),
        MessageType::Signal => write!(line, " signal {interface}.{member} at {path}"),
        MessageType::MethodReturn => write!(line, " return from {other}{answered}"),
        MessageType::Error => write!(
            line,
            " return error {} from {other}{answered}",
            header.error_name.unwrap_or("(no error)")
        ),
        _ => write!(line, " unknown message type"),
    };
    told.expect("a String takes everything");
    line.push('\n');
    line
}
