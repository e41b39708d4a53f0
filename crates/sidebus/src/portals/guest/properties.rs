//! What programs look at before they call: versions, other properties, introspection.

use zbus::Message;

use super::{Answer, Guest, boxed, unknown_method};
use crate::portals::introspection;
use crate::portals::refusal::Refusal;
use crate::portals::table::{self, DESKTOP_PATH, DOCUMENTS_PATH, Service};
use crate::portals::values::{self, Value};

impl Guest {
    pub(super) async fn properties(
        &mut self,
        call: &Message,
        path: &str,
        member: &str,
    ) -> Result<Answer, Refusal> {
        let arguments = values::arguments(call)?;
        let text_at = |index: usize| arguments.get(index).and_then(values::text);
        let interface =
            text_at(0).ok_or_else(|| Refusal::invalid(format!("{member} takes an interface")))?;
        if self.sessions.has_guest(path) && interface == "org.freedesktop.portal.Session" {
            return match (member, text_at(1)) {
                ("Get", Some("version")) => Ok(Answer::Values(vec![boxed(Value::from(1u32))])),
                ("GetAll", _) => {
                    let all = [("version".to_owned(), Value::from(1u32))];
                    Ok(Answer::Values(vec![values::dictionary(all)]))
                }
                _ => Err(unknown_property(interface, text_at(1).unwrap_or_default())),
            };
        }
        let described = table::interface(interface)
            .filter(|interface| interface.service.path() == path)
            .ok_or_else(|| match table::why_refused(interface) {
                Some(why) => Refusal::unknown_interface(format!(
                    "{interface} is not carried into a virtual machine: {why}"
                )),
                None => Refusal::unknown_interface(format!("{path} has no interface {interface}")),
            })?;
        self.check_policy(described)?;
        let version = self.version(described).await?;
        match member {
            "Get" => {
                let name = text_at(1).unwrap_or_default();
                let value = match described.property(name) {
                    _ if name == "version" => Value::from(version),
                    Some(property) if property.since <= version => {
                        self.shared.host.property(described, name).await?
                    }
                    _ => return Err(unknown_property(interface, name)),
                };
                Ok(Answer::Values(vec![boxed(value)]))
            }
            "GetAll" => {
                let mut all = vec![("version".to_owned(), Value::from(version))];
                for property in described.properties {
                    if property.since <= version
                        && let Ok(value) = self.shared.host.property(described, property.name).await
                    {
                        all.push((property.name.to_owned(), value));
                    }
                }
                Ok(Answer::Values(vec![values::dictionary(all)]))
            }
            "Set" => Err(Refusal::named(
                "org.freedesktop.DBus.Error.PropertyReadOnly",
                format!("properties of {interface} can be read only"),
            )),
            _ => Err(unknown_method("org.freedesktop.DBus.Properties", member)),
        }
    }

    /// The description of an object of the portals.
    pub(super) async fn introspect(&self, path: &str) -> Result<String, Refusal> {
        if self.requests.has_guest(path) {
            return Ok(introspection::of_request());
        }
        if self.sessions.has_guest(path) {
            return Ok(introspection::of_session());
        }
        let service = match path {
            DESKTOP_PATH => Service::Desktop,
            DOCUMENTS_PATH => Service::Documents,
            "/" => return Ok(introspection::of_parent(&["org"])),
            "/org" => return Ok(introspection::of_parent(&["freedesktop"])),
            "/org/freedesktop" => return Ok(introspection::of_parent(&["portal"])),
            "/org/freedesktop/portal" => {
                return Ok(introspection::of_parent(&["desktop", "documents"]));
            }
            _ => {
                return Err(Refusal::unknown_object(format!(
                    "there is no object {path}"
                )));
            }
        };
        let mut there = Vec::new();
        for interface in table::carried() {
            if interface.service == service
                && self.check_policy(interface).is_ok()
                && let Ok(version) = self.version(interface).await
            {
                there.push((interface, version));
            }
        }
        Ok(introspection::of_portals(there, &[]))
    }
}

fn unknown_property(interface: &str, name: &str) -> Refusal {
    Refusal::unknown_property(format!("{interface} has no property {name:?}"))
}
