//! A program that embeds a router and is a client of it itself.

use dbus_router::Rules;
use testbed::RawClient;

use crate::place::{Place, works};

#[test]
fn the_embedding_program_answers_a_name_without_a_socket_of_its_own() {
    let place = Place::new(Rules::default());
    let mut own = RawClient::over(place.handle.connect().unwrap());
    own.authenticate();
    own.hello();
    assert_eq!(own.request_name("org.example.Own", 0), 1);
    let mut client = place.inside();
    works(&mut client, "org.example.Own", &mut own);
}
