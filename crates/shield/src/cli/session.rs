//! `shield-bridge session`: the JSON-lines session on standard input and output.

use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::Session;
use crate::container;
use crate::error::{Error, Result};
use crate::session::in_process::{InProcess, Options};
use crate::session::lines::{self, Input, Lines};
use crate::session::{Event, Outcome};
use crate::state::StateDir;

pub(super) async fn session(options: Session) -> Result<ExitCode> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e| Error::system(what, e)
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("waiting for signals"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("waiting for signals"))?;
    if !options.json {
        tracing::debug!("there is only --json");
    }
    let state = StateDir::new(&options.state_dir);
    let has_target = state.target()?.is_some();
    let namespace = container::namespace(&state, &options.container)?;
    let session_options = Options {
        keep_pending: options.for_bridge,
        // Inside the container's namespace our own questions would come back to us.
        resolvers: if has_target && !namespace.is(&crate::namespace::Namespace::own()?) {
            options.resolvers.addresses()
        } else {
            Vec::new()
        },
        must_ask: true,
    };
    let (session, mut events) =
        InProcess::start(state, &options.container, namespace, &session_options).await?;
    let mut stdin = tokio::io::stdin();
    let mut stdout = tokio::io::stdout();
    if options.for_bridge {
        // What waits from before comes first, so that a bridge that is ready knows all of it.
        let mut begin = String::new();
        while let Ok(event) = events.try_recv() {
            begin.push_str(&said(&event, true).unwrap_or_default());
        }
        begin.push_str(&lines::ready());
        if write(&mut stdout, &begin).await.is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut split = Lines::default();
    let mut buffer = vec![0u8; 8192];
    loop {
        tokio::select! {
            // Leave at once; who was told nothing more asks nothing more.
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            event = events.recv() => {
                let Some(event) = event.filter(|e| *e != Event::Gone) else {
                    return Ok(ExitCode::SUCCESS);
                };
                let Some(line) = said(&event, options.for_bridge) else {
                    continue;
                };
                tokio::select! {
                    // Who does not read any more asks nothing more.
                    written = write(&mut stdout, &line) => if written.is_err() {
                        return Ok(ExitCode::SUCCESS);
                    },
                    _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
                    _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
                }
            }
            read = stdin.read(&mut buffer) => {
                let length = read.map_err(failed("reading standard input"))?;
                if length == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
                for line in split.push(&buffer[..length]) {
                    let input = line.map_or_else(
                        || Err("line too long".to_owned()),
                        |line| if line.trim_ascii().is_empty() { Ok(None) } else { lines::input(&line).map(Some) },
                    );
                    let warning = match input {
                        Ok(None) => continue,
                        Ok(Some(Input::Verdict(id, verdict))) => match session.verdict(id, verdict) {
                            Outcome::Unknown => format!("unknown id {id}"),
                            Outcome::Applied | Outcome::Failed => continue,
                        },
                        Ok(Some(Input::AllowAll(time))) if options.for_bridge => {
                            let line = lines::allow_all_applied(session.allow_all(time));
                            let _ = write(&mut stdout, &line).await;
                            continue;
                        }
                        Ok(Some(Input::AllowAll(_))) => "unknown type".into(),
                        Err(why) => why,
                    };
                    eprintln!("shield-bridge: warning: {}", crate::text::plain(&warning));
                }
            }
        }
    }
}

/// The line that says what happened. What the original does not say goes to standard error, unless our own
/// bridge listens.
fn said(event: &Event, for_bridge: bool) -> Option<String> {
    match event {
        Event::Blocked(request) => Some(lines::pending(request)),
        Event::Applied {
            request,
            action,
            ok,
        } => Some(lines::verdict_applied(request, *action, *ok)),
        Event::Lost(count) if for_bridge => Some(lines::events_lost(*count)),
        Event::Lost(count) => {
            eprintln!("shield-bridge: {count} events were lost");
            None
        }
        Event::Gone => None,
    }
}

async fn write(stdout: &mut tokio::io::Stdout, text: &str) -> std::io::Result<()> {
    stdout.write_all(text.as_bytes()).await?;
    stdout.flush().await
}
