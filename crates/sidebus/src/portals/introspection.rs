//! What Introspect answers.

use std::fmt::Write as _;

use super::table::{Interface, Reach};

const HEAD: &str = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n\
     \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n";

const STANDARD: &str = r#" <interface name="org.freedesktop.DBus.Peer">
  <method name="Ping"/>
  <method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method>
 </interface>
 <interface name="org.freedesktop.DBus.Introspectable">
  <method name="Introspect"><arg name="xml_data" type="s" direction="out"/></method>
 </interface>
"#;

const PROPERTIES: &str = r#" <interface name="org.freedesktop.DBus.Properties">
  <method name="Get">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="property_name" type="s" direction="in"/>
   <arg name="value" type="v" direction="out"/>
  </method>
  <method name="GetAll">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="props" type="a{sv}" direction="out"/>
  </method>
  <method name="Set">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="property_name" type="s" direction="in"/>
   <arg name="value" type="v" direction="in"/>
  </method>
  <signal name="PropertiesChanged">
   <arg name="interface_name" type="s"/>
   <arg name="changed_properties" type="a{sv}"/>
   <arg name="invalidated_properties" type="as"/>
  </signal>
 </interface>
"#;

/// Of a request's object.
const REQUEST: &str = r#" <interface name="org.freedesktop.portal.Request">
  <method name="Close"/>
  <signal name="Response">
   <arg name="response" type="u"/>
   <arg name="results" type="a{sv}"/>
  </signal>
 </interface>
"#;

/// Of a session's object.
const SESSION: &str = r#" <interface name="org.freedesktop.portal.Session">
  <method name="Close"/>
  <signal name="Closed"><arg name="details" type="a{sv}"/></signal>
  <property name="version" type="u" access="read"/>
 </interface>
"#;

/// An object that has nothing but these below it.
pub fn of_parent(children: &[&str]) -> String {
    let mut xml = format!("{HEAD}{STANDARD}");
    nodes(&mut xml, children);
    xml
}

/// The object of a portal service: interfaces with the version that they have here.
pub fn of_portals<'i>(
    interfaces: impl IntoIterator<Item = (&'i Interface, u32)>,
    children: &[&str],
) -> String {
    let mut xml = format!("{HEAD}{STANDARD}{PROPERTIES}");
    for (interface, version) in interfaces {
        describe(&mut xml, interface, version);
    }
    nodes(&mut xml, children);
    xml
}

/// A request's object.
pub fn of_request() -> String {
    format!("{HEAD}{STANDARD}{REQUEST}</node>\n")
}

/// A session's object.
pub fn of_session() -> String {
    format!("{HEAD}{STANDARD}{PROPERTIES}{SESSION}</node>\n")
}

fn nodes(xml: &mut String, children: &[&str]) {
    for child in children {
        // A String takes all that is written.
        let _ = writeln!(xml, " <node name=\"{child}\"/>");
    }
    xml.push_str("</node>\n");
}

fn describe(xml: &mut String, interface: &Interface, version: u32) {
    // A String takes all that is written. None of the names needs escapes: the table's tests see to it.
    let _ = writeln!(xml, " <interface name=\"{}\">", interface.name);
    for method in interface
        .methods
        .iter()
        .filter(|method| method.since <= version)
    {
        let _ = writeln!(xml, "  <method name=\"{}\">", method.name);
        let ins = method.ins.iter().map(|arg| (arg.name, arg.signature, "in"));
        let outs = method
            .outs
            .iter()
            .map(|arg| (arg.name, arg.signature, "out"));
        for (name, signature, direction) in ins.chain(outs) {
            let _ = writeln!(
                xml,
                "   <arg name=\"{name}\" type=\"{signature}\" direction=\"{direction}\"/>"
            );
        }
        xml.push_str("  </method>\n");
    }
    for signal in interface.signals {
        let told = match signal.reach {
            Reach::Everyone => "",
            Reach::Session | Reach::Notification | Reach::Client => "<!-- to one client -->",
        };
        let _ = writeln!(xml, "  <signal name=\"{}\">{told}", signal.name);
        for arg in signal.args {
            let _ = writeln!(
                xml,
                "   <arg name=\"{}\" type=\"{}\"/>",
                arg.name, arg.signature
            );
        }
        xml.push_str("  </signal>\n");
    }
    let version_property = ("version", "u");
    let properties = interface
        .properties
        .iter()
        .filter(|property| property.since <= version)
        .map(|property| (property.name, property.signature));
    for (name, signature) in properties.chain([version_property]) {
        let _ = writeln!(
            xml,
            "  <property name=\"{name}\" type=\"{signature}\" access=\"read\"/>"
        );
    }
    xml.push_str(" </interface>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portals::table;

    #[test]
    fn what_is_newer_than_the_host_is_not_shown() {
        let chooser = table::interface("org.freedesktop.portal.OpenURI").unwrap();
        let old = of_portals([(chooser, 2)], &[]);
        assert!(old.contains("OpenFile") && !old.contains("OpenDirectory"));
        let new = of_portals([(chooser, 5)], &["request"]);
        assert!(new.contains("SchemeSupported") && new.contains("<node name=\"request\"/>"));
        assert!(new.contains("<property name=\"version\""));
    }
}
