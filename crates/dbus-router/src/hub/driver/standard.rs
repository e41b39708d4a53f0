//! Peer, Introspectable and Properties of the driver.

use std::fmt::Write;

use dbus_wire::body::Body;
use dbus_wire::error_names;

use super::super::{DRIVER, DRIVER_PATH, Hub};
use super::Call;
use super::table::{INTERFACES, Interface, Place};
use crate::outbox::Outbox;

/// Interfaces beyond the usual that the bus object has; the property Interfaces.
const EXTRA_INTERFACES: &[&str] = &[
    "org.freedesktop.DBus.Monitoring",
    "org.freedesktop.DBus.Debug.Stats",
];
/// The property Features: ActivatableServicesChanged is sent; and a message from another client has no header
/// fields but those that a bus has checked or set.
const FEATURES: &[&str] = &["ActivatableServicesChanged", "HeaderFiltering"];

impl Hub {
    pub(super) fn ping(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        self.reply(call.id, call.header(), &Body::new(), out);
    }

    pub(super) fn get_machine_id(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        match self.config.machine_id.clone() {
            Some(id) => self.reply(call.id, call.header(), &Body::new().str(&id), out),
            None => {
                let text = "This machine has no id: there is neither /etc/machine-id nor \
                            /var/lib/dbus/machine-id";
                self.refuse(
                    call.id,
                    call.header(),
                    error_names::FILE_NOT_FOUND,
                    text,
                    out,
                );
            }
        }
    }

    pub(super) fn introspect(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let xml = introspection(call.header().path.unwrap_or("/"));
        self.reply(call.id, call.header(), &Body::new().str(&xml), out);
    }

    pub(super) fn get_property(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let mut args = call.args();
        let (Ok(interface), Ok(property)) = (args.str(), args.str()) else {
            return;
        };
        if !self.has_properties(interface, call, out) {
            return;
        }
        match property_value(property) {
            Some(value) => {
                let body = Body::new().variant(|variant| variant.strs(value.iter().copied()));
                self.reply(call.id, call.header(), &body, out);
            }
            None => self.no_property(property, call, out),
        }
    }

    pub(super) fn get_properties(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let interface = call.str();
        if !self.has_properties(interface, call, out) {
            return;
        }
        let body = Body::new().dict_sv(|entries| {
            if interface == DRIVER {
                for name in ["Features", "Interfaces"] {
                    let value = property_value(name).unwrap_or_default();
                    entries.entry(name, |variant| variant.strs(value.iter().copied()));
                }
            }
        });
        self.reply(call.id, call.header(), &body, out);
    }

    pub(super) fn set_property(&mut self, call: &Call<'_>, out: &mut dyn Outbox) {
        let mut args = call.args();
        let (Ok(interface), Ok(property)) = (args.str(), args.str()) else {
            return;
        };
        if !self.has_properties(interface, call, out) {
            return;
        }
        if property_value(property).is_none() {
            return self.no_property(property, call, out);
        }
        let text = format!("The property {property} cannot be set");
        self.refuse(
            call.id,
            call.header(),
            error_names::PROPERTY_READ_ONLY,
            &text,
            out,
        );
    }

    fn no_property(&mut self, property: &str, call: &Call<'_>, out: &mut dyn Outbox) {
        let text = format!("The bus has no property {property}");
        self.refuse(
            call.id,
            call.header(),
            error_names::UNKNOWN_PROPERTY,
            &text,
            out,
        );
    }

    /// Whether the driver has properties of an interface (or the interface at all); otherwise refuses.
    fn has_properties(&mut self, interface: &str, call: &Call<'_>, out: &mut dyn Outbox) -> bool {
        if interface == DRIVER {
            return true;
        }
        let text = format!("The bus has no properties of the interface {interface}");
        self.refuse(
            call.id,
            call.header(),
            error_names::UNKNOWN_INTERFACE,
            &text,
            out,
        );
        false
    }
}

fn property_value(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "Features" => Some(FEATURES),
        "Interfaces" => Some(EXTRA_INTERFACES),
        _ => None,
    }
}

/// What is at an object path, as XML.
fn introspection(path: &str) -> String {
    let mut xml = String::from(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n\
         \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n",
    );
    for interface in INTERFACES {
        if interface.place == Place::AnyPath || path == DRIVER_PATH {
            write_interface(&mut xml, interface);
        }
    }
    let below = path.trim_end_matches('/');
    if let Some(rest) = DRIVER_PATH
        .strip_prefix(below)
        .and_then(|rest| rest.strip_prefix('/'))
    {
        let child = rest.split('/').next().unwrap_or_default();
        writeln!(xml, "  <node name=\"{child}\"/>").expect("a String takes everything");
    }
    xml.push_str("</node>\n");
    xml
}

fn write_interface(xml: &mut String, interface: &Interface) {
    let mut write = |line: std::fmt::Arguments<'_>| {
        xml.write_fmt(line).expect("a String takes everything");
    };
    write(format_args!("  <interface name=\"{}\">\n", interface.name));
    for method in interface.methods {
        write(format_args!("    <method name=\"{}\">\n", method.name));
        for (direction, signature) in [("in", method.input), ("out", method.output)] {
            for argument in dbus_wire::signature::complete_types(signature) {
                write(format_args!(
                    "      <arg direction=\"{direction}\" type=\"{argument}\"/>\n"
                ));
            }
        }
        write(format_args!("    </method>\n"));
    }
    for (name, arguments) in interface.signals {
        write(format_args!("    <signal name=\"{name}\">\n"));
        for argument in *arguments {
            write(format_args!("      <arg type=\"{argument}\"/>\n"));
        }
        write(format_args!("    </signal>\n"));
    }
    for (name, signature) in interface.properties {
        write(format_args!(
            "    <property name=\"{name}\" type=\"{signature}\" access=\"read\">\n      \
             <annotation name=\"org.freedesktop.DBus.Property.EmitsChangedSignal\" value=\"const\"/>\n    \
             </property>\n"
        ));
    }
    write(format_args!("  </interface>\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parent_of_the_bus_object_leads_to_it() {
        assert!(introspection("/").contains("<node name=\"org\"/>"));
        assert!(introspection("/org").contains("<node name=\"freedesktop\"/>"));
        assert!(introspection("/org/freedesktop").contains("<node name=\"DBus\"/>"));
        let bus = introspection(DRIVER_PATH);
        assert!(bus.contains("org.freedesktop.DBus.Monitoring") && !bus.contains("<node name"));
    }
}
