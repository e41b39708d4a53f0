//! Authentication, before the first message.

use dbus_wire::sasl::{Authenticated, Client, ClientConfig, Server, ServerConfig};

use super::{DbusError, MessageReader, MessageWriter};

/// Answers a client that connects to us.
///
/// # Errors
/// It could not authenticate itself, or closed.
pub async fn authenticate_client(
    reader: &mut MessageReader,
    writer: &mut MessageWriter,
    config: ServerConfig,
) -> Result<Authenticated, DbusError> {
    let mut server = Server::new(config);
    loop {
        let mut answer = Vec::new();
        let progress = server.feed(reader.left(), &mut answer);
        // What is there to say before a failure is still said.
        writer.push(&answer).await?;
        writer.flush().await?;
        let progress = progress?;
        reader.take(progress.consumed);
        if let Some(done) = progress.done {
            return Ok(done);
        }
        if !reader.fill(1).await? {
            return Err(DbusError::Cut);
        }
    }
}

/// Authenticates us to a bus, as the user that we are.
///
/// # Errors
/// It refuses us, or closed.
pub async fn authenticate_to_bus(
    reader: &mut MessageReader,
    writer: &mut MessageWriter,
    want_fds: bool,
) -> Result<(), DbusError> {
    let mut client = Client::new(ClientConfig {
        uid: Some(rustix::process::geteuid().as_raw()),
        want_fds,
    });
    let mut first = Vec::new();
    client.start(&mut first);
    writer.push(&first).await?;
    writer.flush().await?;
    loop {
        if !reader.fill(1).await? {
            return Err(DbusError::Cut);
        }
        let progress = client.feed(reader.left())?;
        reader.take(progress.consumed);
        if progress.done.is_some() {
            return Ok(());
        }
    }
}
