//! Who takes part in these tests: services in every place where one can be.

use testbed::{RawClient, Topology, World};

/// Where a service is connected.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// To the multiplexer, as the client is.
    Inside,
    /// To the host's bus.
    Outside,
    /// To the container's own bus, past the multiplexer.
    Native,
}

impl Place {
    /// Those that a topology has.
    pub fn all_in(topology: Topology) -> &'static [Place] {
        match topology {
            Topology::Plain | Topology::NoHost => &[Place::Inside],
            Topology::Local => &[Place::Inside, Place::Outside],
            Topology::Remote => &[Place::Inside, Place::Outside, Place::Native],
        }
    }

    /// The bus of this place.
    pub fn address(self, world: &World) -> String {
        match self {
            Place::Inside => world.inside(),
            Place::Outside => world.outside(),
            Place::Native => {
                let container = world.container.as_ref();
                let container = container.expect("only a remote container bus has natives");
                container.address().to_owned()
            }
        }
    }

    /// A client in this place.
    #[track_caller]
    pub fn open(self, world: &World) -> RawClient {
        RawClient::open(&self.address(world))
    }
}

/// The interface, and the beginning of the names, of the services in these tests.
pub const SERVICE: &str = "org.example.Service";

/// A service in this place that owns [`SERVICE`].
#[track_caller]
pub fn service(world: &World, place: Place) -> RawClient {
    let mut service = place.open(world);
    assert_eq!(service.request_name(SERVICE, 4), 1, "{place:?}");
    service
}
