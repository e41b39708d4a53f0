//! The address of a bus as a person gives it: on a command line, or in the environment.

use dbus_wire::address::{Address, AddressError, UnixTarget, parse_addresses};

/// What a good address looks like.
const REMEDY: &str = "expected something like unix:path=/run/user/1000/bus";

/// An address that leads somewhere from here: one or more, to be tried in order (specification, "Server Addresses").
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BusAddress {
    /// The addresses, in order.
    pub addresses: Vec<Address>,
}

/// Why a text is no address of a bus that can be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusAddressError {
    /// It is not an address.
    #[error("{0}; {REMEDY}")]
    Malformed(#[from] AddressError),
    /// None of its transports is one of ours.
    #[error("the transport {0} is not supported, only unix and unixexec; {REMEDY}")]
    Unsupported(String),
    /// There is no address in it.
    #[error("the address is empty; {REMEDY}")]
    Empty,
    /// The environment's variable holds none.
    #[error("DBUS_SESSION_BUS_ADDRESS: {0}")]
    Environment(Box<BusAddressError>),
    /// The environment does not say where the session bus is.
    #[error("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")]
    Nowhere,
}

impl BusAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// It is none, or leads nowhere from here.
    pub fn parse(text: &str) -> Result<BusAddress, BusAddressError> {
        let addresses = parse_addresses(text)?;
        if addresses.is_empty() {
            return Err(BusAddressError::Empty);
        }
        let unsupported = addresses.iter().filter_map(|address| match address {
            Address::Unsupported { transport } => Some(transport.as_str()),
            _ => None,
        });
        let transports: Vec<&str> = unsupported.collect();
        if transports.len() == addresses.len() {
            return Err(BusAddressError::Unsupported(transports.join(", ")));
        }
        Ok(BusAddress { addresses })
    }

    /// The session bus of the environment: `DBUS_SESSION_BUS_ADDRESS`, then `bus` in `XDG_RUNTIME_DIR`.
    ///
    /// # Errors
    /// The variable holds no address, or neither is set.
    pub fn of_session() -> Result<BusAddress, BusAddressError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(value) = variable("DBUS_SESSION_BUS_ADDRESS") {
            return BusAddress::parse(&value.to_string_lossy())
                .map_err(|error| BusAddressError::Environment(Box::new(error)));
        }
        match variable("XDG_RUNTIME_DIR") {
            Some(_) => Ok(BusAddress {
                addresses: vec![Address::Unix(UnixTarget::Runtime)],
            }),
            None => Err(BusAddressError::Nowhere),
        }
    }
}

/// A host bus that may be left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostBus {
    /// There is none.
    None,
    /// It is there.
    At(BusAddress),
}

impl HostBus {
    /// Reads `none`, or an address.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<HostBus, BusAddressError> {
        match text {
            "none" => Ok(HostBus::None),
            text => BusAddress::parse(text).map(HostBus::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_address_is_an_error_with_a_remedy() {
        for (text, named) in [
            ("tcp:host=localhost,port=1", "tcp"),
            ("rubbish", "rubbish"),
            ("", ""),
        ] {
            let error = BusAddress::parse(text).unwrap_err().to_string();
            assert!(
                error.contains(named) && error.contains("unix:path="),
                "{error}"
            );
        }
    }

    #[test]
    fn an_unknown_transport_in_a_list_leaves_the_others() {
        let bus = BusAddress::parse("tcp:host=a,port=1;unix:path=/b").unwrap();
        assert_eq!(bus.addresses.len(), 2);
        assert_eq!(HostBus::parse("none"), Ok(HostBus::None));
    }
}
