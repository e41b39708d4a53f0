//! Calls between two clients, from the caller's hand to the callee's and back.

use testbed::raw_client::call;
use testbed::{RawClient, Received};

use dbus_wire::Body;

/// The interface of everybody's methods here.
pub const INTERFACE: &str = "org.example.Corner";

/// Calls `destination`, and proves that `callee` gets the call and `caller` its answer. Gives back the call as
/// it arrived, and the answer as it arrived.
#[track_caller]
pub fn reaches(
    caller: &mut RawClient,
    destination: &str,
    callee: &mut RawClient,
) -> (Received, Received) {
    let serial = caller.send(call(destination, "/", INTERFACE, "WhoIsThere"));
    let asked = callee.expect_call("WhoIsThere");
    let me = Body::new().str("it is me");
    callee.answer(&asked, &me);
    let answer = caller.expect_reply(serial).returned();
    assert_eq!(answer.text(), "it is me");
    (asked, answer)
}

/// Calls `destination`, which nobody may answer but a bus, with an error. Gives back the error's name.
#[track_caller]
pub fn refused(caller: &mut RawClient, destination: &str) -> String {
    let answer = caller.call(call(destination, "/", INTERFACE, "WhoIsThere"));
    answer.failed()
}

/// The signals that came to `client`, as [`RawClient::signals_so_far`], up to what every bus behind it had to say:
/// who owns a name that nobody has is asked of all of them, one after the other.
#[track_caller]
pub fn heard(client: &mut RawClient) -> Vec<String> {
    assert_eq!(client.name_owner("org.example.Nobody"), None);
    client.signals_so_far()
}

/// The rule for every change of a name's owner.
pub const ALL_OWNERS: &str = "type='signal',sender='org.freedesktop.DBus',\
     interface='org.freedesktop.DBus',member='NameOwnerChanged'";

/// The rule for changes of the owner of `name`.
pub fn owners_of(name: &str) -> String {
    format!("{ALL_OWNERS},arg0='{name}'")
}
