//! The container's resolver: it forwards questions for names, and learns from the answers.
//!
//! Its sockets are open on port 53 inside the container's namespace, where the rules send every question.
//! The forwarding sockets are outside. An allowed name's addresses are opened in the kernel before the
//! answer is passed on, so the connection that follows passes at the first try. A denied name is answered
//! with "does not exist".
//!
//! Bounds: `IN_FLIGHT` questions at a time for a container, `TCP_CLIENTS` TCP clients, a time limit on
//! each; what is beyond is not answered, as UDP permits, and asked again by its client.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::dns::{self, Question};
use crate::names::Decision;
use crate::namespace::NameSockets;
use crate::session::in_process::Shared;

const IN_FLIGHT: usize = 256;
const TCP_CLIENTS: usize = 32;
const TRY: Duration = Duration::from_secs(2);
const TCP_IDLE: Duration = Duration::from_secs(10);

/// The resolvers that this machine uses.
pub fn system_resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|l| l.strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .map(|address: std::net::IpAddr| SocketAddr::new(address, 53))
        .take(3)
        .collect()
}

/// A server of one socket; it runs until it is dropped.
pub(crate) type Server = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What serves these sockets.
pub(crate) fn servers(
    shared: &Arc<Shared>,
    sockets: NameSockets,
    resolvers: &[SocketAddr],
) -> Vec<Server> {
    let forward = Arc::new(Forward {
        shared: shared.clone(),
        resolvers: resolvers.to_vec(),
        in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        clients: Arc::new(Semaphore::new(TCP_CLIENTS)),
    });
    let mut servers: Vec<Server> = Vec::new();
    for socket in sockets.udp.into_iter().filter_map(|fd| to_udp(fd).ok()) {
        servers.push(Box::pin(serve_udp(forward.clone(), socket)));
    }
    for listener in sockets.tcp.into_iter().filter_map(|fd| to_tcp(fd).ok()) {
        servers.push(Box::pin(serve_tcp(forward.clone(), listener)));
    }
    servers
}

fn to_udp(fd: OwnedFd) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::from(fd);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn to_tcp(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

#[derive(Debug)]
struct Forward {
    shared: Arc<Shared>,
    resolvers: Vec<SocketAddr>,
    in_flight: Arc<Semaphore>,
    clients: Arc<Semaphore>,
}

async fn serve_udp(forward: Arc<Forward>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut children = tokio::task::JoinSet::new();
    // A question is small; EDNS does not let it be larger than an answer, and nobody sends 4 KiB.
    let mut buffer = vec![0; 4096];
    loop {
        while children.try_join_next().is_some() {}
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error about an answer that its client did not wait for.
            tokio::task::yield_now().await;
            continue;
        };
        let Ok(permit) = forward.in_flight.clone().try_acquire_owned() else {
            continue;
        };
        let (forward, socket, query) = (forward.clone(), socket.clone(), buffer[..length].to_vec());
        children.spawn(async move {
            if let Some(reply) = forward.answer(&query, false).await {
                let _ = socket.send_to(&reply, from).await;
            }
            drop(permit);
        });
    }
}

async fn serve_tcp(forward: Arc<Forward>, listener: TcpListener) {
    let mut children = tokio::task::JoinSet::new();
    loop {
        while children.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = forward.clients.clone().try_acquire_owned() else {
            continue;
        };
        let forward = forward.clone();
        children.spawn(async move {
            // Ends with the client, at its idle limit, or at a message that is none.
            let _ = forward.client(stream).await;
            drop(permit);
        });
    }
}

impl Forward {
    async fn client(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let Ok(query) = timeout(TCP_IDLE, read_message(&mut stream)).await else {
                return Ok(());
            };
            let query = query?;
            let Some(reply) = self.answer(&query, true).await else {
                return Ok(());
            };
            timeout(TCP_IDLE, write_message(&mut stream, &reply))
                .await
                .map_err(|_| io::ErrorKind::TimedOut)??;
        }
    }

    /// The answer to a question; `None` for what is no question.
    async fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let question = dns::question(query)?;
        let decision = question.name.as_ref().map(|n| self.shared.decision(n));
        if decision == Some(Decision::Denied) {
            return Some(dns::refusal(query, &question, dns::NAME_ERROR));
        }
        // The container must not choose what an answer has to match: it could have a friend outside send
        // one that leads an allowed name elsewhere.
        let mut own = query.to_vec();
        rustix::rand::getrandom(&mut own[..2], rustix::rand::GetRandomFlags::empty()).ok()?;
        for resolver in &self.resolvers {
            let asked = timeout(TRY, ask(*resolver, &own, &question, tcp)).await;
            if let Ok(Ok(mut reply)) = asked {
                reply[..2].copy_from_slice(&query[..2]);
                let learned = matches!(question.kind, dns::TYPE_A | dns::TYPE_AAAA);
                if let (true, Some(name)) = (learned, &question.name) {
                    let addresses = dns::addresses(&reply);
                    if !addresses.is_empty() {
                        self.shared.resolved(name, &addresses);
                    }
                }
                return Some(reply);
            }
        }
        Some(dns::refusal(query, &question, dns::SERVER_FAILURE))
    }
}

/// Asks one resolver.
async fn ask(
    resolver: SocketAddr,
    query: &[u8],
    question: &Question,
    tcp: bool,
) -> io::Result<Vec<u8>> {
    if tcp {
        let mut stream = TcpStream::connect(resolver).await?;
        write_message(&mut stream, query).await?;
        let reply = read_message(&mut stream).await?;
        return if reply.get(..2) == query.get(..2) && dns::answers(query, question, &reply) {
            Ok(reply)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        };
    }
    // A socket of its own for each question: its port is hard to guess, as the id is.
    let any: SocketAddr = if resolver.is_ipv6() {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; dns::MESSAGE_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let reply = &buffer[..length];
        if reply.get(..2) == query.get(..2) && dns::answers(query, question, reply) {
            return Ok(reply.to_vec());
        }
    }
}

/// Reads a message with its length in front (RFC 1035 §4.2.2).
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}
