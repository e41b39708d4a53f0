//! Programs in instances, run by Incus.

use std::collections::BTreeMap;

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Call, Client, path, read};
use crate::event::WebSocket;
use crate::operation::{Operation, OperationState};
use crate::{Error, Result};

/// What is to be run, and how.
#[derive(Clone, Debug, Serialize)]
pub struct Command {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its environment; Incus adds `PATH`, `HOME`, `USER` and `LANG` where they are not set.
    pub environment: BTreeMap<String, String>,
    /// The user, as the instance counts them. It gets no supplementary groups.
    pub user: u32,
    /// The group, as the instance counts them.
    pub group: u32,
    /// The working directory; empty for the user's home.
    pub cwd: String,
}

impl Command {
    /// A program that root runs in its home.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Command {
        Command {
            command: command.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            user: 0,
            group: 0,
            cwd: String::new(),
        }
    }
}

/// What a program has left that has run to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// Its exit status: 127 if there is no such program, 126 if it cannot be run, 128 and the signal's number if
    /// a signal ended it.
    pub status: i32,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: Vec<u8>,
}

/// A program that runs at a terminal of its own.
///
/// The terminal is Incus': every byte goes through it. To take it into one's own hands is faster.
pub struct Interactive {
    operation: Operation,
    data: WebSocket,
    control: WebSocket,
}

/// The longest output of [`Client::run`], of each stream.
const LARGEST_OUTPUT: usize = 16 << 20;

impl Client {
    /// Runs a program in an instance to its end, with nothing on stdin.
    ///
    /// `POST /1.0/instances/NAME/exec`, `GET /1.0/operations/ID/websocket`
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] if the instance does not run; [`Error::Protocol`] if it writes more
    /// than 16 MiB.
    pub async fn run(&self, instance: &str, command: &Command) -> Result<Output> {
        let doing = format!("running a program in the instance {instance}");
        let (operation, secrets) = self.exec(instance, command, None, &doing).await?;
        let (stdin, stdout, stderr, control) = tokio::try_join!(
            self.exec_socket(&operation, &secrets.stdin, &doing),
            self.exec_socket(&operation, &secrets.stdout, &doing),
            self.exec_socket(&operation, &secrets.stderr, &doing),
            self.exec_socket(&operation, &secrets.control, &doing),
        )?;
        let mut stdin = stdin;
        // An empty text is the end of the stream.
        let _ = stdin.send(Message::text("")).await;
        let (stdout, stderr, status) = tokio::join!(
            collect(stdout, &doing),
            collect(stderr, &doing),
            self.exit_status(&operation, &doing)
        );
        drop((stdin, control));
        Ok(Output {
            status: status?,
            stdout: stdout?,
            stderr: stderr?,
        })
    }

    /// Runs a program in an instance at a terminal of this size, in columns and rows.
    ///
    /// `POST /1.0/instances/NAME/exec`, `GET /1.0/operations/ID/websocket`
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] if the instance does not run.
    pub async fn run_interactive(
        &self,
        instance: &str,
        command: &Command,
        size: (u16, u16),
    ) -> Result<Interactive> {
        let doing = format!("running a program in the instance {instance}");
        let (operation, secrets) = self.exec(instance, command, Some(size), &doing).await?;
        let (data, control) = tokio::try_join!(
            self.exec_socket(&operation, &secrets.stdin, &doing),
            self.exec_socket(&operation, &secrets.control, &doing),
        )?;
        Ok(Interactive {
            operation,
            data,
            control,
        })
    }

    /// What an instance has written to its console since it was started.
    ///
    /// `GET /1.0/instances/NAME/console`
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn console_log(&self, instance: &str) -> Result<Vec<u8>> {
        let doing = format!("reading the console of the instance {instance}");
        let call = Call::get(&["instances", instance, "console"], doing.as_str());
        let response = self.send(call).await?;
        read(&doing, response.into_body()).await
    }

    /// Opens the console of an instance, as its init has it. It ends with [`Interactive::next`] giving `None`, or
    /// when it is dropped; its status means nothing.
    ///
    /// `POST /1.0/instances/NAME/console`, `GET /1.0/operations/ID/websocket`
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] if the instance does not run, or the console is in use.
    pub async fn console(&self, instance: &str, size: (u16, u16)) -> Result<Interactive> {
        let doing = format!("opening the console of the instance {instance}");
        let body = serde_json::json!({
            "type": "console", "width": size.0, "height": size.1, "force": false,
        });
        let call = Call::post(&["instances", instance, "console"], doing.as_str());
        let operation = self.begin(call.json(&body)?).await?;
        let secrets = secrets(&operation, &doing)?;
        let (data, control) = tokio::try_join!(
            self.exec_socket(&operation, &secrets.stdin, &doing),
            self.exec_socket(&operation, &secrets.control, &doing),
        )?;
        Ok(Interactive {
            operation,
            data,
            control,
        })
    }

    async fn exec(
        &self,
        instance: &str,
        command: &Command,
        terminal: Option<(u16, u16)>,
        doing: &str,
    ) -> Result<(Operation, Secrets)> {
        #[derive(Serialize)]
        struct Exec<'a> {
            #[serde(flatten)]
            command: &'a Command,
            #[serde(rename = "wait-for-websocket")]
            wait_for_websocket: bool,
            #[serde(rename = "record-output")]
            record_output: bool,
            interactive: bool,
            width: u16,
            height: u16,
        }
        let (width, height) = terminal.unwrap_or_default();
        let exec = Exec {
            command,
            wait_for_websocket: true,
            record_output: false,
            interactive: terminal.is_some(),
            width,
            height,
        };
        let call = Call::post(&["instances", instance, "exec"], doing);
        let operation = self.begin(call.json(&exec)?).await?;
        let secrets = secrets(&operation, doing)?;
        Ok((operation, secrets))
    }

    /// An operation counts as failed if there is no such program; the status says so, too.
    async fn exit_status(&self, operation: &Operation, doing: &str) -> Result<i32> {
        match operation.wait().await {
            Ok(ended) => exit_status(&ended, doing),
            Err(error) => {
                let ended = self.operation(operation.id()).await;
                ended
                    .and_then(|ended| exit_status(ended.state(), doing))
                    .map_err(|_| error)
            }
        }
    }

    async fn exec_socket(
        &self,
        operation: &Operation,
        secret: &str,
        doing: &str,
    ) -> Result<WebSocket> {
        let path = path(&["operations", operation.id(), "websocket"]);
        self.websocket(&format!("{path}?secret={secret}"), doing)
            .await
    }
}

impl Interactive {
    /// What it writes next; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Interrupted`]: Incus went.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        next_bytes(&mut self.data, "reading from a program's terminal").await
    }

    /// Types.
    ///
    /// # Errors
    /// [`Error::Interrupted`]: it has ended, or Incus went.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let message = Message::binary(bytes.to_vec());
        sent(self.data.send(message).await)
    }

    /// Makes the terminal larger or smaller, in columns and rows.
    ///
    /// # Errors
    /// [`Error::Interrupted`]: it has ended, or Incus went.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let message = serde_json::json!({
            "command": "window-resize",
            "args": { "width": columns.to_string(), "height": rows.to_string() },
        });
        sent(self.control.send(Message::text(message.to_string())).await)
    }

    /// Sends the program a signal, by its number.
    ///
    /// # Errors
    /// [`Error::Interrupted`]: it has ended, or Incus went.
    pub async fn signal(&mut self, signal: i32) -> Result<()> {
        let message = serde_json::json!({ "command": "signal", "signal": signal });
        sent(self.control.send(Message::text(message.to_string())).await)
    }

    /// Waits for its end and gives back the exit status; as [`Output::status`]. Read to the end before.
    ///
    /// # Errors
    /// As [`Operation::wait`].
    pub async fn wait(mut self) -> Result<i32> {
        // Incus waits for that.
        let _ = self.data.close(None).await;
        let client = self.operation.client();
        client
            .exit_status(&self.operation, "running a program")
            .await
    }
}

/// What opens the websockets of an operation.
#[derive(Deserialize)]
struct Secrets {
    #[serde(rename = "0")]
    stdin: String,
    #[serde(rename = "1", default)]
    stdout: String,
    #[serde(rename = "2", default)]
    stderr: String,
    control: String,
}

fn secrets(operation: &Operation, doing: &str) -> Result<Secrets> {
    let fds = operation.state().metadata.get("fds");
    fds.and_then(|fds| Secrets::deserialize(fds).ok())
        .ok_or_else(|| Error::Protocol {
            doing: doing.to_owned(),
            why: "it names no websockets".to_owned(),
        })
}

fn exit_status(ended: &OperationState, doing: &str) -> Result<i32> {
    ended
        .metadata
        .get("return")
        .and_then(serde_json::Value::as_i64)
        .and_then(|status| i32::try_from(status).ok())
        .ok_or_else(|| Error::Protocol {
            doing: doing.to_owned(),
            why: "it has no exit status".to_owned(),
        })
}

async fn collect(mut socket: WebSocket, doing: &str) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = next_bytes(&mut socket, doing).await? {
        if all.len() + bytes.len() > LARGEST_OUTPUT {
            return Err(Error::Protocol {
                doing: doing.to_owned(),
                why: format!("the program writes more than {} MiB", LARGEST_OUTPUT >> 20),
            });
        }
        all.extend_from_slice(&bytes);
    }
    // Incus waits until this side closes, too.
    let _ = socket.close(None).await;
    Ok(all)
}

async fn next_bytes(socket: &mut WebSocket, doing: &str) -> Result<Option<Vec<u8>>> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes.to_vec())),
            // The end of the stream, said by an empty text or by closing.
            Some(Ok(Message::Text(_) | Message::Close(_))) | None => return Ok(None),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                return Err(Error::Interrupted {
                    doing: doing.to_owned(),
                    why: error.to_string(),
                });
            }
        }
    }
}

fn sent(outcome: std::result::Result<(), tokio_tungstenite::tungstenite::Error>) -> Result<()> {
    outcome.map_err(|error| Error::Interrupted {
        doing: "writing to a program's terminal".to_owned(),
        why: error.to_string(),
    })
}
