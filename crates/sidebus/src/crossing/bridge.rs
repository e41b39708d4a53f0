//! One client: its D-Bus connection on this side, and its connection to the other side.
//!
//! - Each direction is a task of its own, and the only one that writes where it leads. What one has to say in the
//!   other's direction (a refusal) it gives to the other ([`Answers`]).
//! - A direction reads no more than it can pass on, so a receiver that does not read holds up its sender, and nothing
//!   piles up here.
//! - A stream is established before the message that carries it is delivered; if it cannot be, the caller is told.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dbus_wire::{Header, MessageType, Prologue, Reader, Scan, scan};
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;

use super::answer::{Answer, Answers, answer};
use super::classify::{self, Crossing};
use super::sealed_file::SealedFile;
use super::stream::{self, Role};
use super::{DocumentFile, DocumentId, DocumentPath, Refusal};
use crate::dbus_socket::{DbusError, Incoming, MessageReader, MessageWriter};
use crate::transport::{FrameReader, FrameWriter, LinkError};
use crate::wire::{Descriptor, Frame, MAX_PAYLOAD, MessageHead, Shape, StreamId};

/// What is looked at of a message before it is passed on.
const FIRST: usize = 64 * 1024;
/// What is read of a file at once.
const FILE_PART: usize = 64 * 1024;
/// How long the other side may take nothing before we look whether this side is still there.
const STUCK: Duration = Duration::from_secs(1);
/// How long the other side may take to close after we have said that we do.
const LINGER: Duration = Duration::from_secs(5);

/// What differs between agent and broker.
pub trait Side: Send + Sync + 'static {
    /// What the other side is called in a text for a person: "the host", "the guest".
    fn other(&self) -> &'static str;

    /// Which document's file a path of this side is.
    fn document_at(&self, path: &Path) -> Option<(DocumentId, DocumentPath)>;

    /// Opens a document's file on this side.
    fn open_document<'a>(
        &'a self,
        file: &'a DocumentFile,
    ) -> BoxFuture<'a, Result<OwnedFd, Refusal>>;

    /// Begins a stream of ours: its number stands in the message that follows.
    fn offer(&self) -> BoxFuture<'_, Result<Offer, Refusal>>;

    /// Takes a stream that the other side offers.
    fn take(&self, id: StreamId) -> BoxFuture<'_, Result<StreamLink, Refusal>>;

    /// Waits for room for so many bytes of files; none if there is none.
    fn room_for_files(&self, bytes: u32) -> BoxFuture<'_, Option<Box<dyn Room>>>;

    /// Waits for room for a message of so many bytes, which is more than a little. It is free again when what is given is
    /// dropped.
    fn room_for_message(&self, bytes: u32) -> BoxFuture<'_, Box<dyn Send>>;

    /// The client has got its unique name on the VM bus: before its Hello is answered.
    fn named(&self, name: &str);

    /// Whether nothing but the first message is passed to the D-Bus connection before the client has its name.
    fn holds_until_named(&self) -> bool;
}

/// Room for the files of one message; free again when it is dropped.
pub trait Room: Send {
    /// The files have been passed on, and take their room for as long as somebody has them open: `watches` tell.
    fn hand_over(self: Box<Self>, watches: Vec<OwnedFd>);
}

/// A stream of this side.
pub struct Offer {
    /// Its number.
    pub id: StreamId,
    /// Its connection, as soon as it is there.
    pub link: BoxFuture<'static, Result<StreamLink, Refusal>>,
}

/// The connection of a stream, after its Welcome.
pub struct StreamLink {
    /// From the other side.
    pub reader: FrameReader,
    /// To the other side.
    pub writer: FrameWriter,
    /// What is to be dropped when the stream has ended.
    pub guard: Box<dyn Send>,
}

/// What one client may send at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quotas {
    /// The longest message (bytes).
    pub message_bytes: u32,
    /// Descriptors of one message.
    pub fds_per_message: u32,
}

/// How many messages have passed.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the other side.
    pub received: AtomicU64,
    /// To the other side.
    pub sent: AtomicU64,
}

/// How a bridge ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The D-Bus connection of this side was closed.
    Here,
    /// The other side closed, or said why it does.
    There(Option<String>),
}

/// Why a bridge broke.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// The D-Bus connection of this side.
    #[error(transparent)]
    Dbus(#[from] DbusError),
    /// The connection to the other side.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Something of the system.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
    /// Too much waits to be read.
    #[error("it does not read what it is sent")]
    Deaf,
}

/// A client's two connections.
pub struct Bridge<S> {
    side: Arc<S>,
    quotas: Quotas,
    traffic: Arc<Traffic>,
    to_dbus: Answers,
    to_link: Answers,
    name: watch::Sender<Option<String>>,
}

/// What goes before the bytes of a message: its head, and the files that cross by their bytes.
type Leaving = (MessageHead, Vec<(OwnedFd, u32)>);

impl<S: Side> Bridge<S> {
    /// Nothing passes before [`Bridge::run`].
    pub fn new(side: Arc<S>, quotas: Quotas, traffic: Arc<Traffic>) -> Bridge<S> {
        Bridge {
            side,
            quotas,
            traffic,
            to_dbus: Answers::default(),
            to_link: Answers::default(),
            name: watch::Sender::new(None),
        }
    }

    /// Passes messages until one side closes; both connections are closed then. `closing`: this side ends for another
    /// reason, which it gives.
    ///
    /// # Errors
    /// One of them broke, or does not keep to the rules.
    pub async fn run(
        &self,
        (mut dbus_reader, mut dbus_writer): (MessageReader, MessageWriter),
        (mut link_reader, mut link_writer): (FrameReader, FrameWriter),
        closing: impl Future<Output = String>,
    ) -> Result<Ended, BridgeError> {
        enum First {
            Outbound(Result<(), BridgeError>),
            Inbound(Result<Ended, BridgeError>),
            Closing(String),
        }
        let first = {
            let outbound = self.outbound(&mut dbus_reader, &mut link_writer);
            let inbound = self.inbound(&mut link_reader, &mut dbus_writer);
            tokio::select! {
                result = outbound => First::Outbound(result),
                result = inbound => First::Inbound(result),
                reason = closing => First::Closing(reason),
            }
        };
        let (reason, result) = match first {
            First::Inbound(Ok(ended)) => {
                // The last words of the other side.
                let _ = tokio::time::timeout(LINGER, dbus_writer.flush()).await;
                return Ok(ended);
            }
            First::Outbound(Ok(())) => (String::new(), Ok(Ended::Here)),
            First::Closing(reason) => (reason, Ok(Ended::Here)),
            First::Outbound(Err(error)) | First::Inbound(Err(error)) => {
                (error.to_string(), Err(error))
            }
        };
        if !matches!(result, Err(BridgeError::Link(LinkError::Io(_)))) {
            // Who closes first could lose what is under way to the other: the other side does.
            let parting = async {
                link_writer.send(&Frame::Goodbye(&reason)).await?;
                while link_reader.next().await?.is_some() {}
                Ok::<_, LinkError>(())
            };
            let _ = tokio::time::timeout(LINGER, parting).await;
        }
        result
    }

    /// From D-Bus to the other side.
    async fn outbound(
        &self,
        reader: &mut MessageReader,
        writer: &mut FrameWriter,
    ) -> Result<(), BridgeError> {
        loop {
            if !reader.has_next() {
                write_out(writer, reader).await?;
            }
            tokio::select! {
                incoming = reader.next() => match incoming? {
                    Some(incoming) => self.pass_out(incoming, reader, writer).await?,
                    None => return write_out(writer, reader).await,
                },
                message = self.to_link.next() => push_message(&message, writer),
            }
            if writer.is_much() {
                write_out(writer, reader).await?;
            }
        }
    }

    async fn pass_out(
        &self,
        Incoming { prologue, fds }: Incoming,
        reader: &mut MessageReader,
        writer: &mut FrameWriter,
    ) -> Result<(), BridgeError> {
        let mut remaining = prologue.message_len();
        self.learn_name(&prologue, reader).await?;
        let message_len = u32::try_from(remaining)
            .ok()
            .filter(|len| *len <= self.quotas.message_bytes);
        let leaving = match message_len {
            None => Err(Refusal::limits_exceeded(format!(
                "a message of {remaining} bytes cannot be passed to {}: {} are the limit",
                self.side.other(),
                self.quotas.message_bytes
            ))),
            Some(message_len) => self.leave(message_len, fds).await,
        };
        let (head, files) = match leaving {
            Ok(leaving) => leaving,
            Err(refusal) => {
                let said = {
                    let header = reader.header(&prologue)?;
                    self.report(&header, &refusal);
                    answer(&header, &refusal, self.name.borrow().as_deref())
                };
                reader.discard(remaining).await?;
                return match said {
                    Answer::Back(message) => self.to_dbus.push(message),
                    Answer::Nothing => Ok(()),
                    Answer::Forward(message) => {
                        push_message(&message, writer);
                        Ok(())
                    }
                };
            }
        };
        writer.push(&Frame::Message(head));
        for (file, len) in files {
            send_file(file, len, writer, reader).await?;
        }
        while remaining > 0 {
            let chunk = reader.chunk(remaining, MAX_PAYLOAD).await?;
            remaining -= chunk.len();
            writer.push(&Frame::Data(chunk));
            if writer.is_much() {
                write_out(writer, reader).await?;
            }
        }
        self.traffic.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What crosses in place of the descriptors of a message.
    async fn leave(&self, message_len: u32, fds: Vec<OwnedFd>) -> Result<Leaving, Refusal> {
        if fds.len() > self.quotas.fds_per_message as usize {
            return Err(Refusal::limits_exceeded(format!(
                "a message with {} file descriptors cannot be passed to {}: {} are the limit",
                fds.len(),
                self.side.other(),
                self.quotas.fds_per_message
            )));
        }
        let document_at = |path: &Path| self.side.document_at(path);
        // All are looked at before a stream is begun for one.
        let crossings = fds
            .into_iter()
            .map(|fd| classify::classify(fd, &document_at, self.side.other()))
            .collect::<Result<Vec<_>, _>>()?;
        let (mut descriptors, mut files, mut streams) = (Vec::new(), Vec::new(), Vec::new());
        for crossing in crossings {
            descriptors.push(match crossing {
                Crossing::Document(file) => Descriptor::Document(file),
                Crossing::Bytes {
                    file,
                    len,
                    position,
                    name,
                } => {
                    files.push((file, len));
                    Descriptor::Bytes {
                        len,
                        position,
                        name,
                    }
                }
                Crossing::Stream { end, shape } => {
                    let Offer { id, link } = self.side.offer().await?;
                    streams.push((end, shape, link));
                    Descriptor::Stream { id, shape }
                }
            });
        }
        let head = MessageHead {
            message_len,
            descriptors,
        };
        if !head.fits() {
            return Err(Refusal::limits_exceeded(
                "the names of the documents whose files a message carries are too long together",
            ));
        }
        for (end, shape, link) in streams {
            carry(end, shape, Role::of_sender(shape), link);
        }
        Ok((head, files))
    }

    /// The first method return that comes from the bus is the answer to Hello: the bus lets nothing pass before it.
    async fn learn_name(
        &self,
        prologue: &Prologue,
        reader: &mut MessageReader,
    ) -> Result<(), BridgeError> {
        if self.name.borrow().is_some() || !self.side.holds_until_named() {
            return Ok(());
        }
        match prologue.message_type() {
            MessageType::MethodReturn if prologue.message_len() <= FIRST => {
                reader.fill_to(prologue.message_len()).await?;
                let header = reader.header(prologue)?;
                let body = &reader.left()[prologue.header_len()..prologue.message_len()];
                self.take_name(&header, body);
            }
            // Refused; or somebody's idea of a signal before it.
            MessageType::Error => {
                self.name.send_replace(Some(String::new()));
            }
            _ => {}
        }
        Ok(())
    }

    fn take_name(&self, header: &Header<'_>, body: &[u8]) {
        if header.signature != "s" {
            return;
        }
        if let Ok(name) = Reader::new(header.endian, "s", body).str() {
            self.side.named(name);
            self.name.send_replace(Some(name.to_owned()));
        }
    }

    /// From the other side to D-Bus.
    async fn inbound(
        &self,
        reader: &mut FrameReader,
        writer: &mut MessageWriter,
    ) -> Result<Ended, BridgeError> {
        let mut first = true;
        loop {
            if !reader.has_next() {
                writer.flush().await?;
            }
            let head = tokio::select! {
                frame = reader.next() => match frame? {
                    Some(Frame::Message(head)) => head,
                    Some(Frame::Goodbye(reason)) => {
                        let reason = (!reason.is_empty()).then(|| reason.to_owned());
                        return Ok(Ended::There(reason));
                    }
                    None => return Ok(Ended::There(None)),
                    Some(other) => return Err(unexpected(&other, "a message").into()),
                },
                message = self.to_dbus.next() => {
                    writer.push(&message).await?;
                    continue;
                }
            };
            self.pass_in(head, reader, writer).await?;
            if first && self.side.holds_until_named() {
                writer.flush().await?;
                let mut name = self.name.subscribe();
                // The sender is ours: it is there as long as we are.
                let _ = name.wait_for(Option::is_some).await;
            }
            first = false;
        }
    }

    async fn pass_in(
        &self,
        head: MessageHead,
        reader: &mut FrameReader,
        writer: &mut MessageWriter,
    ) -> Result<(), BridgeError> {
        let len = head.message_len as usize;
        if head.message_len > self.quotas.message_bytes {
            return Err(LinkError::Limit(format!("a message of {len} bytes")).into());
        }
        let count = head.descriptors.len();
        if count > self.quotas.fds_per_message as usize {
            return Err(LinkError::Limit(format!("a message with {count} descriptors")).into());
        }
        let file_bytes = u32::try_from(head.file_room()).unwrap_or(u32::MAX);
        let has_files = file_bytes > 0;
        let room = match has_files {
            true => self.side.room_for_files(file_bytes).await,
            false => None,
        };
        let without_room = has_files && room.is_none();
        let (files, watches) = receive_files(&head, reader, !without_room).await?;
        let _room = match len > FIRST {
            true => Some(self.side.room_for_message(head.message_len).await),
            false => None,
        };
        let mut begin = Vec::new();
        let prologue = loop {
            begin.extend_from_slice(data(reader, len - begin.len()).await?);
            match scan(&begin).map_err(DbusError::from)? {
                Scan::Message(prologue) if begin.len() == len || begin.len() >= FIRST => {
                    break prologue;
                }
                Scan::NeedBytes(needed) if begin.len() == len || needed > FIRST => {
                    return Err(DbusError::HeaderTooLong(needed).into());
                }
                Scan::Message(_) | Scan::NeedBytes(_) => {}
            }
        };
        let header = Header::parse(&begin[..prologue.header_len()]).map_err(DbusError::from)?;
        if prologue.message_len() != len {
            return Err(DbusError::Cut.into());
        }
        if header.unix_fds as usize != count {
            return Err(DbusError::Fds.into());
        }
        let mut remaining = len - begin.len();
        self.traffic.received.fetch_add(1, Ordering::Relaxed);
        let arrived = match without_room {
            false => self.arrive(head.descriptors, files).await,
            true => Err(Refusal::limits_exceeded(
                "the files that programs of this virtual machine have passed, and that are still open on the host, take \
                 too much memory together (limits.file_bytes in the broker's configuration)",
            )),
        };
        match arrived {
            Ok(fds) => {
                if !self.side.holds_until_named()
                    && header.kind == MessageType::MethodReturn
                    && self.name.borrow().is_none()
                    && remaining == 0
                {
                    self.take_name(&header, &begin[prologue.header_len()..]);
                }
                if fds.is_empty() {
                    writer.push(&begin).await?;
                } else {
                    writer.send_with_fds(&begin, &fds).await?;
                }
                drop(fds);
                if let Some(room) = room {
                    room.hand_over(watches);
                }
                while remaining > 0 {
                    let part = data(reader, remaining).await?;
                    remaining -= part.len();
                    writer.push(part).await?;
                }
                Ok(())
            }
            Err(refusal) => {
                self.report(&header, &refusal);
                let said = answer(&header, &refusal, self.name.borrow().as_deref());
                while remaining > 0 {
                    remaining -= data(reader, remaining).await?.len();
                }
                match said {
                    Answer::Back(message) => self.to_link.push(message),
                    Answer::Nothing => Ok(()),
                    Answer::Forward(message) => Ok(writer.push(&message).await?),
                }
            }
        }
    }

    /// Recreates the descriptors of a message; `files` are those that came by their bytes, in their order.
    async fn arrive(
        &self,
        descriptors: Vec<Descriptor>,
        files: Vec<OwnedFd>,
    ) -> Result<Vec<OwnedFd>, Refusal> {
        let mut files = files.into_iter();
        let mut fds = Vec::with_capacity(descriptors.len());
        for descriptor in descriptors {
            let fd = match descriptor {
                Descriptor::Document(file) => self.side.open_document(&file).await?,
                Descriptor::Bytes { .. } => files
                    .next()
                    .ok_or_else(|| Refusal::failed("a file did not arrive"))?,
                Descriptor::Stream { id, shape } => {
                    let link = self.side.take(id).await?;
                    let (theirs, ours) = stream::recreate(shape)
                        .map_err(|error| Refusal::failed(format!("making a pipe: {error}")))?;
                    let link = Box::pin(std::future::ready(Ok(link)));
                    carry(ours, shape, Role::of_receiver(shape), link);
                    theirs
                }
            };
            fds.push(fd);
        }
        Ok(fds)
    }

    fn report(&self, header: &Header<'_>, refusal: &Refusal) {
        tracing::info!(
            kind = ?header.kind,
            interface = header.interface,
            member = header.member,
            destination = header.destination,
            error = refusal.name(),
            "a message does not cross: {refusal}"
        );
    }
}

/// Answers the first call of a client that cannot be served, so that it knows why; then it is to be closed.
///
/// # Errors
/// It sends no message, or does not read.
pub async fn refuse_first_call(
    reader: &mut MessageReader,
    writer: &mut MessageWriter,
    refusal: &Refusal,
) -> Result<(), DbusError> {
    let telling = async {
        while let Some(incoming) = reader.next().await? {
            let said = answer(&reader.header(&incoming.prologue)?, refusal, None);
            reader.discard(incoming.prologue.message_len()).await?;
            if let Answer::Back(message) = said {
                writer.push(&message).await?;
                return writer.flush().await;
            }
        }
        Ok(())
    };
    tokio::time::timeout(LINGER, telling)
        .await
        .unwrap_or(Ok(()))
}

fn unexpected(frame: &Frame<'_>, expected: &'static str) -> LinkError {
    LinkError::Unexpected {
        frame: frame.kind(),
        expected,
    }
}

/// Carries a stream, in a task that outlives the client: what a pipe has in it arrives also when its sender has gone.
fn carry(
    end: OwnedFd,
    shape: Shape,
    role: Role,
    link: BoxFuture<'static, Result<StreamLink, Refusal>>,
) {
    tokio::spawn(async move {
        let result = match link.await {
            Ok(link) => {
                let result = stream::carry(end, shape, role, link.reader, link.writer).await;
                drop(link.guard);
                result.map_err(|error| error.to_string())
            }
            Err(refusal) => Err(refusal.to_string()),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a stream broke");
        }
    });
}

/// A message without descriptors.
fn push_message(message: &[u8], writer: &mut FrameWriter) {
    writer.push(&Frame::Message(MessageHead {
        message_len: u32::try_from(message.len()).unwrap_or(u32::MAX),
        descriptors: Vec::new(),
    }));
    for part in message.chunks(MAX_PAYLOAD) {
        writer.push(&Frame::Data(part));
    }
}

/// Writes what waits. While the other side does not take it, nobody reads from `dbus`, and so nobody would notice that
/// it was closed: a bus does that with a client that lets its messages pile up.
async fn write_out(writer: &mut FrameWriter, dbus: &MessageReader) -> Result<(), BridgeError> {
    loop {
        tokio::select! {
            biased;
            result = writer.flush() => return Ok(result?),
            () = tokio::time::sleep(STUCK) => if dbus.is_closed() {
                return Err(BridgeError::Deaf);
            },
        }
    }
}

/// The bytes of a file. It is read where reading may take its time, and may become shorter meanwhile.
async fn send_file(
    file: OwnedFd,
    len: u32,
    writer: &mut FrameWriter,
    dbus: &MessageReader,
) -> Result<(), BridgeError> {
    let file = Arc::new(file);
    let mut offset = 0;
    while offset < len {
        let most = FILE_PART.min((len - offset) as usize);
        let reading = file.clone();
        let part =
            tokio::task::spawn_blocking(move || classify::read_part(&reading, offset, most)).await;
        let part = match part {
            Ok(Ok(part)) => part,
            Ok(Err(error)) => return Err(BridgeError::System("reading a file", error)),
            Err(_) => {
                return Err(BridgeError::System(
                    "reading a file",
                    std::io::Error::other("it panicked"),
                ));
            }
        };
        if part.is_empty() {
            break;
        }
        offset += part.len() as u32;
        writer.push(&Frame::Content(&part));
        if writer.is_much() {
            write_out(writer, dbus).await?;
        }
    }
    writer.push(&Frame::Content(&[]));
    Ok(())
}

/// The files of a message, and what tells whether they are still open; none if they are not to be kept.
async fn receive_files(
    head: &MessageHead,
    reader: &mut FrameReader,
    keep: bool,
) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>), BridgeError> {
    let system = |step| move |error| BridgeError::System(step, error);
    let (mut files, mut watches) = (Vec::new(), Vec::new());
    for descriptor in &head.descriptors {
        let Descriptor::Bytes {
            len,
            position,
            name,
        } = descriptor
        else {
            continue;
        };
        let mut file = match keep {
            true => Some(SealedFile::new(name).map_err(system("making a memfd"))?),
            false => None,
        };
        let mut left = *len as usize;
        loop {
            match reader.next().await? {
                Some(Frame::Content([])) => break,
                Some(Frame::Content(bytes)) if bytes.len() <= left => {
                    left -= bytes.len();
                    if let Some(file) = &mut file {
                        file.append(bytes).map_err(system("filling a memfd"))?;
                    }
                }
                Some(Frame::Content(_)) => {
                    return Err(LinkError::Limit("a file longer than announced".into()).into());
                }
                Some(other) => return Err(unexpected(&other, "Content").into()),
                None => return Err(LinkError::Cut("a file").into()),
            }
        }
        if let Some(file) = file {
            let (file, watch) = file.seal(*position).map_err(system("sealing a memfd"))?;
            files.push(file);
            watches.push(watch);
        }
    }
    Ok((files, watches))
}

/// The next bytes of a message of which `remaining` are missing.
async fn data(reader: &mut FrameReader, remaining: usize) -> Result<&[u8], LinkError> {
    match reader.next().await? {
        Some(Frame::Data(bytes)) if bytes.len() <= remaining => Ok(bytes),
        Some(Frame::Data(_)) => Err(LinkError::Limit("a message longer than announced".into())),
        Some(other) => Err(unexpected(&other, "Data")),
        None => Err(LinkError::Cut("a message")),
    }
}
