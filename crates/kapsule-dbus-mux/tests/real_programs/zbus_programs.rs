//! Programs in Rust with zbus: services and clients inside, and services on the host.

use std::fs::File;
use std::io::{Read, Seek, Write};

use futures_lite::StreamExt;
use testbed::{Topology, World, in_topologies, needs, tools, within};
use zbus::{Connection, OwnedFd, proxy};

use crate::place::{INSIDE, Services, connect, serve};

/// What a client knows of [`crate::place::Place`].
#[proxy(interface = "org.example.Place1", default_path = "/org/example/Place")]
trait Place {
    #[zbus(name = "Where")]
    async fn whereabouts(&self) -> zbus::Result<String>;
    async fn who_am_i(&self) -> zbus::Result<String>;
    async fn announce(&self, text: &str) -> zbus::Result<()>;
    async fn open(&self, text: &str) -> zbus::Result<OwnedFd>;
    async fn read(&self, file: &OwnedFd) -> zbus::Result<String>;
    #[zbus(property)]
    fn mood(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn set_mood(&self, mood: &str) -> zbus::Result<()>;
    #[zbus(signal)]
    fn announced(&self, text: String) -> zbus::Result<()>;
}

/// Runs what a client does, within the usual limit.
#[track_caller]
fn client<T>(steps: impl Future<Output = zbus::Result<T>>) -> T {
    within("a client's steps", steps).unwrap_or_else(|error| panic!("a client's step: {error}"))
}

async fn place<'a>(connection: &Connection, name: &'a str) -> zbus::Result<PlaceProxy<'a>> {
    PlaceProxy::builder(connection)
        .destination(name)
        .build()
        .await
}

fn a_client_inside_calls_services_on_both_sides_under_one_name(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let services = Services::start(&world);
    let connection = connect(&world.inside());
    let own_name = connection
        .unique_name()
        .expect("a bus gives one")
        .to_string();
    for (name, whereabouts) in services.names() {
        client(async {
            let place = place(&connection, name).await?;
            assert_eq!(place.whereabouts().await?, whereabouts);
            assert_eq!(
                place.who_am_i().await?,
                own_name,
                "as {name} sees the client"
            );
            Ok(())
        });
    }
}

fn signals_and_changed_properties_of_both_sides_reach_a_client_inside(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let services = Services::start(&world);
    let connection = connect(&world.inside());
    for (name, whereabouts) in services.names() {
        client(async {
            let place = place(&connection, name).await?;
            let mut announced = place.receive_announced().await?;
            place.announce(whereabouts).await?;
            let signal = announced.next().await.expect("a signal");
            assert_eq!(signal.args()?.text, whereabouts);

            let mut moods = place.receive_mood_changed().await;
            // A new subscription begins with what is.
            assert_eq!(moods.next().await.expect("a value").get().await?, "calm");
            place.set_mood("merry").await?;
            assert_eq!(moods.next().await.expect("a change").get().await?, "merry");
            Ok(())
        });
    }
}

fn file_descriptors_pass_in_both_directions_to_both_sides(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let services = Services::start(&world);
    let connection = connect(&world.inside());
    for (name, whereabouts) in services.names() {
        client(async {
            let place = place(&connection, name).await?;
            let opened = place.open(whereabouts).await?;
            let mut text = String::new();
            File::from(std::os::fd::OwnedFd::from(opened)).read_to_string(&mut text)?;
            assert_eq!(text, whereabouts);

            let mut file = tempfile::tempfile()?;
            file.write_all(b"from the client")?;
            file.rewind()?;
            let file = OwnedFd::from(std::os::fd::OwnedFd::from(file));
            assert_eq!(place.read(&file).await?, "from the client");
            Ok(())
        });
    }
}

fn a_service_that_leaves_fails_its_callers_and_is_seen_to_leave(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let connection = connect(&world.inside());
    let service = serve(&world.inside(), INSIDE, "inside");
    client(async {
        let place = place(&connection, INSIDE).await?;
        let mut owners = place.inner().receive_owner_changed().await?;
        assert_eq!(place.whereabouts().await?, "inside");
        service.close().await?;
        while owners.next().await.expect("a change of owner").is_some() {}
        let error = place.whereabouts().await.expect_err("nobody is there");
        let error = error.to_string();
        assert!(
            error.starts_with("org.freedesktop.DBus.Error.ServiceUnknown"),
            "{error}"
        );
        Ok(())
    });
}

/// The main job: a name that the host owns is taken over inside, at once, and given back.
fn a_name_of_the_host_is_taken_over_inside_and_given_back(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    const NAME: &str = "org.example.Shared";
    let world = World::start(topology);
    let host_service = serve(&world.outside(), NAME, "outside");
    let connection = connect(&world.inside());
    let host_owner = host_service
        .unique_name()
        .expect("a bus gives one")
        .to_string();
    client(async {
        let place = place(&connection, NAME).await?;
        let bus = zbus::fdo::DBusProxy::new(&connection).await?;
        let mut changes = bus
            .receive_name_owner_changed_with_args(&[(0, NAME)])
            .await?;
        assert_eq!(place.whereabouts().await?, "outside");

        let inside_service = serve(&world.inside(), NAME, "inside");
        let inside_owner = inside_service
            .unique_name()
            .expect("a bus gives one")
            .to_string();
        assert_eq!(place.whereabouts().await?, "inside");
        let change = changes.next().await.expect("a change of owner");
        let change = change.args()?;
        let owner = |name: &zbus::Optional<zbus::names::UniqueName<'_>>| {
            name.as_ref().map(ToString::to_string)
        };
        assert_eq!(owner(change.old_owner()), Some(host_owner.clone()));
        assert_eq!(owner(change.new_owner()), Some(inside_owner.clone()));

        inside_service.release_name(NAME).await?;
        assert_eq!(place.whereabouts().await?, "outside");
        let change = changes.next().await.expect("a change of owner");
        let change = change.args()?;
        assert_eq!(owner(change.old_owner()), Some(inside_owner));
        assert_eq!(owner(change.new_owner()), Some(host_owner));
        Ok(())
    });
}

fn the_bus_knows_who_a_client_is(topology: Topology) {
    needs!(tools::DBUS_DAEMON);
    let world = World::start(topology);
    let connection = connect(&world.inside());
    let other = connect(&world.inside());
    let other_name = other.unique_name().expect("a bus gives one").clone();
    client(async {
        let bus = zbus::fdo::DBusProxy::new(&connection).await?;
        let credentials = bus.get_connection_credentials((&other_name).into()).await?;
        assert_eq!(credentials.process_id(), Some(std::process::id()));
        assert_eq!(
            credentials.unix_user_id(),
            Some(rustix::process::geteuid().as_raw())
        );
        Ok(())
    });
}

in_topologies!(all: a_client_inside_calls_services_on_both_sides_under_one_name,
    signals_and_changed_properties_of_both_sides_reach_a_client_inside,
    file_descriptors_pass_in_both_directions_to_both_sides,
    a_service_that_leaves_fails_its_callers_and_is_seen_to_leave,
    the_bus_knows_who_a_client_is);
in_topologies!(two_buses: a_name_of_the_host_is_taken_over_inside_and_given_back);
