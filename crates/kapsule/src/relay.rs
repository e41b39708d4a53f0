//! Bytes between this terminal and a program inside.
//!
//! A thread and not a task: stdin and stdout may be shared with the shell that started us, so they are
//! never made non-blocking, and a terminal that stands still must not hold up signals and the bus. Only the
//! container's side is non-blocking. What is typed waits in a bounded buffer; while that is full nothing
//! more is read, and what the program writes goes on coming out.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::terminal::Keyboard;

/// How much of what is typed may wait for the program inside.
const TYPED_MAX: usize = 64 * 1024;

/// How long keys are left alone that were not for us: he for whom they are has read them by then.
const ANOTHERS: Duration = Duration::from_millis(20);

/// How long after the end of the program its last words are waited for, if something else inside keeps the
/// terminal open. Otherwise its end is seen at once.
const LAST_WORDS: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A relay that runs.
pub struct Relay {
    /// Dropped to say that the program has ended.
    end: Option<OwnedFd>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Relay {
    /// Between the terminal of stdin and stdout, and the terminal `pty` of the program inside.
    ///
    /// # Errors
    /// No pipe or no thread can be had.
    pub fn between_terminals(pty: OwnedFd) -> Result<Relay> {
        let doing = "preparing the terminal";
        rustix::io::ioctl_fionbio(&pty, true).map_err(Error::doing(doing))?;
        let keyboard = own(io::stdin()).map_err(Error::doing(doing))?;
        let screen = own(io::stdout()).map_err(Error::doing(doing))?;
        Relay::start(move |end| terminals(keyboard, screen, pty.into(), &end))
    }

    /// From a pipe into one of our own streams.
    ///
    /// # Errors
    /// No pipe or no thread can be had.
    pub fn out_of(pipe: OwnedFd, to: impl AsFd) -> Result<Relay> {
        let doing = "preparing a pipe";
        rustix::io::ioctl_fionbio(&pipe, true).map_err(Error::doing(doing))?;
        let to = own(to).map_err(Error::doing(doing))?;
        Relay::start(move |end| out_of_pipe(pipe.into(), to, &end))
    }

    fn start(run: impl FnOnce(OwnedFd) -> io::Result<()> + Send + 'static) -> Result<Relay> {
        let doing = "starting a thread";
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(Error::doing(doing))?;
        let (say_done, done) = oneshot::channel();
        thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                // Nobody may be left to hear it.
                let _ = say_done.send(run(reader));
            })
            .map_err(Error::doing(doing))?;
        Ok(Relay {
            end: Some(writer),
            done,
        })
    }

    /// Waits until the other side has closed.
    pub async fn closed(&mut self) -> io::Result<()> {
        (&mut self.done)
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    }

    /// The program has ended: lets its last words out, and ends the relay.
    ///
    /// # Errors
    /// They cannot be written.
    pub async fn finish(mut self) -> io::Result<()> {
        self.end = None;
        self.closed().await
    }
}

/// Passes on what is typed for us, until its end or until the program inside reads no more. It is not waited
/// for: nobody may ever type anything.
///
/// # Errors
/// No thread can be had.
pub fn into_pipe(keyboard: Keyboard, pipe: OwnedFd) -> Result<()> {
    let doing = "preparing stdin";
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            // Either end may close; both are the end of it.
            let _ = typed(keyboard, pipe.into());
        })
        .map_err(Error::doing(doing))?;
    Ok(())
}

fn typed(mut keyboard: Keyboard, mut pipe: File) -> io::Result<()> {
    let mut chunk = vec![0; 4096];
    loop {
        // Of the pipe only that nobody reads it any more.
        let mut fds = [
            PollFd::new(&keyboard, PollFlags::IN),
            PollFd::new(&pipe, PollFlags::empty()),
        ];
        wait(&mut fds, None)?;
        let [keys, reader] = [&fds[0], &fds[1]].map(PollFd::revents);
        if !reader.is_empty() || keys.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(());
        }
        if !keyboard.is_ours() {
            thread::sleep(ANOTHERS);
            continue;
        }
        match keyboard.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => pipe.write_all(&chunk[..length])?,
            // Somebody else was quicker.
            Err(error) if is_again(&error) => thread::sleep(ANOTHERS),
            Err(error) => return Err(error),
        }
    }
}

fn own(fd: impl AsFd) -> io::Result<File> {
    Ok(fd.as_fd().try_clone_to_owned()?.into())
}

fn terminals(mut keyboard: File, mut screen: File, mut pty: File, end: &OwnedFd) -> io::Result<()> {
    let mut typed: Vec<u8> = Vec::new();
    let mut chunk = vec![0; 32 * 1024];
    loop {
        let mut wanted = PollFlags::IN;
        if !typed.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut fds = vec![
            PollFd::new(&pty, wanted),
            PollFd::new(end, PollFlags::IN),
            PollFd::new(&keyboard, PollFlags::IN),
        ];
        if typed.len() >= TYPED_MAX {
            fds.pop();
        }
        wait(&mut fds, None)?;
        let [inside, ended, key] =
            [0, 1, 2].map(|i| fds.get(i).map_or(PollFlags::empty(), PollFd::revents));

        if inside.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            && show(&mut pty, &mut screen, &mut chunk)? == Shown::End
        {
            return Ok(());
        }
        if !ended.is_empty() {
            return last_words(&mut pty, &mut screen, &mut chunk, Some(&LAST_WORDS));
        }
        if !key.is_empty() {
            match keyboard.read(&mut chunk) {
                // The terminal is gone. Closing the other one tells the programs inside.
                Ok(0) => return Ok(()),
                Ok(length) => typed.extend_from_slice(&chunk[..length]),
                Err(error) if is_again(&error) => {}
                Err(_) => return Ok(()),
            }
        }
        if !typed.is_empty() {
            match pty.write(&typed) {
                Ok(length) => {
                    typed.drain(..length);
                }
                Err(error) if is_again(&error) => {}
                // It is closing; reading says so next.
                Err(_) => typed.clear(),
            }
        }
    }
}

fn out_of_pipe(mut pipe: File, mut to: File, end: &OwnedFd) -> io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let mut fds = [
            PollFd::new(&pipe, PollFlags::IN),
            PollFd::new(end, PollFlags::IN),
        ];
        wait(&mut fds, None)?;
        let ended = !fds[1].revents().is_empty();
        if show(&mut pipe, &mut to, &mut chunk)? == Shown::End {
            return Ok(());
        }
        if ended {
            // A pipe has all that was written to it.
            return last_words(&mut pipe, &mut to, &mut chunk, Some(&Timespec::default()));
        }
    }
}

fn last_words(
    from: &mut File,
    to: &mut File,
    chunk: &mut [u8],
    patience: Option<&Timespec>,
) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::new(from, PollFlags::IN)];
        if wait(&mut fds, patience)? == 0 || show(from, to, chunk)? == Shown::End {
            return Ok(());
        }
    }
}

#[derive(PartialEq, Eq)]
enum Shown {
    Something,
    Nothing,
    End,
}

/// One chunk from inside to our own stream.
fn show(from: &mut File, to: &mut File, chunk: &mut [u8]) -> io::Result<Shown> {
    match from.read(chunk) {
        Ok(0) => Ok(Shown::End),
        Ok(length) => {
            write_all(to, &chunk[..length])?;
            Ok(Shown::Something)
        }
        Err(error) if is_again(&error) => Ok(Shown::Nothing),
        // The last program has closed its side of the terminal.
        Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(Shown::End),
        Err(error) => Err(error),
    }
}

/// Also to a stream that somebody else has made non-blocking.
fn write_all(to: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(&mut [PollFd::new(to, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn wait(fds: &mut [PollFd<'_>], patience: Option<&Timespec>) -> io::Result<usize> {
    loop {
        match poll(fds, patience) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
