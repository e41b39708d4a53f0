//! Waiting for something that happens, and never for longer than a limit.

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long anything in a test may take before it counts as a hang. Nothing that works comes near it,
/// also not on a busy machine with two cores, so it decides only how soon a hang is reported.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A point in time at which waiting ends.
#[derive(Copy, Clone, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The usual [`LIMIT`] from now.
    pub fn usual() -> Self {
        Self::after(LIMIT)
    }

    /// This long from now.
    pub fn after(limit: Duration) -> Self {
        Deadline(Instant::now() + limit)
    }

    /// What is left until then; zero when it has passed.
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Waits until one of `fds` can be read or has been closed by its other side. Gives back the index
    /// of the first that is, or `None` when the time has passed.
    pub fn wait_readable(&self, fds: &[BorrowedFd<'_>]) -> Option<usize> {
        self.wait(fds, PollFlags::IN)
    }

    /// Waits until `fd` takes more bytes; false when the time has passed.
    pub fn wait_writable(&self, fd: BorrowedFd<'_>) -> bool {
        self.wait(&[fd], PollFlags::OUT).is_some()
    }

    fn wait(&self, fds: &[BorrowedFd<'_>], flags: PollFlags) -> Option<usize> {
        let mut polled: Vec<PollFd<'_>> = fds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, flags))
            .collect();
        loop {
            let left = Timespec::try_from(self.left()).ok();
            match poll(&mut polled, left.as_ref()) {
                Ok(0) => return None,
                Ok(_) => return polled.iter().position(|fd| !fd.revents().is_empty()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("poll failed: {error}"),
            }
        }
    }
}

/// Runs `future` to its end on this thread, within the usual limit.
///
/// # Panics
/// When it takes longer: says what was `awaited`.
#[track_caller]
pub fn within<T>(awaited: &str, future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let deadline = Deadline::usual();
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        let left = deadline.left();
        assert!(
            !left.is_zero(),
            "awaited {awaited}: it did not come in time"
        );
        thread::park_timeout(left);
    }
}
