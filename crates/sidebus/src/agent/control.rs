//! The control connection: finds the broker, keeps it, and finds it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::{Notify, watch};

use crate::transport::{AGENT_WRITE, Endpoint, FrameReader, FrameWriter, LinkError, Socket, link};
use crate::wire::{ControlOpening, Frame, Open, Purpose, Refused, Token, Welcome};

/// How long to wait before the next try: doubled each time, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A broker that is there answers an opening within this, unless the host is stopped.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the broker is asked for a sign of life: a connection that exists on our side only, after the machine was
/// restored from a snapshot, breaks when something is sent on it.
const PING: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(1);

/// The broker, as far as it is known.
#[derive(Clone, Debug)]
pub(super) enum Broker {
    /// It is there.
    Here(Welcome),
    /// It is not, for this reason.
    Away(String),
}

impl Default for Broker {
    fn default() -> Broker {
        Broker::Away("it has not answered yet".to_owned())
    }
}

/// Opens a connection to the broker. The inner result is the broker's: welcome, or refused.
pub(super) async fn open(
    endpoint: &Endpoint,
    purpose: Purpose,
) -> Result<Result<(Welcome, FrameReader, FrameWriter), Refused>, LinkError> {
    let opening = async {
        let socket = Socket::new(endpoint.connect().await?, AGENT_WRITE)?;
        let (mut reader, mut writer) = link(socket);
        writer.send(&Frame::Open(Open::new(purpose))).await?;
        match reader.next().await? {
            Some(Frame::Welcome(welcome)) => Ok(Ok((welcome, reader, writer))),
            Some(Frame::Refused(refused)) => Ok(Err(refused)),
            Some(other) => Err(LinkError::Unexpected {
                frame: other.kind(),
                expected: "Welcome or Refused",
            }),
            // A device may accept what nobody on the host does, and close it.
            None => Err(LinkError::Cut("the opening")),
        }
    };
    match tokio::time::timeout(PATIENCE, opening).await {
        Ok(result) => result,
        Err(_) => Err(LinkError::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Keeps a control connection until the agent ends. `broker` is told how it stands; `renew` asks for a new session.
pub(super) async fn keep(
    endpoint: Endpoint,
    broker: watch::Sender<Broker>,
    renew: Arc<Notify>,
    mut ending: watch::Receiver<Option<String>>,
) {
    let mut token = Token::default();
    let mut wait = FIRST_WAIT;
    let mut told = None;
    loop {
        let attempt = tokio::select! {
            attempt = open(&endpoint, opening(token)) => attempt,
            () = ended(&mut ending) => return,
        };
        let reason = match attempt {
            Ok(Ok((welcome, mut reader, mut writer))) => {
                tracing::info!(%endpoint, "connected to the broker");
                status(&format!("Connected to the broker at {endpoint}"));
                told = None;
                token = welcome.token;
                broker.send_replace(Broker::Here(welcome));
                let since = Instant::now();
                let lost = tokio::select! {
                    lost = signs_of_life(&mut reader, &mut writer) => lost,
                    () = renew.notified() => {
                        token = Token::default();
                        "it does not know this agent any more".to_owned()
                    }
                    () = ended(&mut ending) => {
                        part(reader, writer).await;
                        return;
                    }
                };
                // A broker that throws us out at once is asked less and less often.
                if since.elapsed() > LONGEST_WAIT {
                    wait = FIRST_WAIT;
                }
                lost
            }
            Ok(Err(refused)) => {
                token = Token::default();
                format!("it refuses: {}", refused.text)
            }
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&reason) {
            tracing::warn!(%endpoint, reason, "the broker on the host is not there; trying again");
            status(&format!("Waiting for the broker at {endpoint}: {reason}"));
            told = Some(reason.clone());
        }
        broker.send_replace(Broker::Away(reason));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = ended(&mut ending) => return,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Waits until the agent ends.
async fn ended(ending: &mut watch::Receiver<Option<String>>) {
    // If nobody can say so any more, it has ended.
    let _ = ending.wait_for(Option::is_some).await;
}

fn opening(resume: Token) -> Purpose {
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Purpose::Control(ControlOpening {
        resume,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        host_name: host_name.trim().to_owned(),
    })
}

/// Answers, and asks; says why the connection is lost.
async fn signs_of_life(reader: &mut FrameReader, writer: &mut FrameWriter) -> String {
    let mut timer = tokio::time::interval(PING);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0;
    let mut awaited = false;
    loop {
        let sent = tokio::select! {
            frame = reader.next() => match frame {
                Ok(Some(Frame::Ping(number))) => writer.send(&Frame::Pong(number)).await,
                Ok(Some(Frame::Pong(answered))) => {
                    awaited &= answered != number;
                    Ok(())
                }
                Ok(Some(Frame::Goodbye(reason))) => return format!("it closed: {reason}"),
                Ok(Some(other)) => return format!("it sent {} on the control connection", other.kind()),
                Ok(None) => return "it closed the connection".to_owned(),
                Err(error) => return error.to_string(),
            },
            _ = timer.tick(), if !awaited => {
                number += 1;
                awaited = true;
                writer.send(&Frame::Ping(number)).await
            }
        };
        if let Err(error) = sent {
            return error.to_string();
        }
    }
}

async fn part(mut reader: FrameReader, mut writer: FrameWriter) {
    let parting = async {
        writer.send(&Frame::Goodbye("the agent has ended")).await?;
        while reader.next().await?.is_some() {}
        Ok::<_, LinkError>(())
    };
    let _ = tokio::time::timeout(LINGER, parting).await;
}

/// Without systemd there is nobody to tell.
fn status(text: &str) {
    let _ = sd_notify::notify(&[NotifyState::Status(text)]);
}
