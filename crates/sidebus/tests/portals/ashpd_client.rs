//! ashpd as the client, as it is: what programs in Rust use.
