//! How much memory of ours the guest's messages and files may take, all clients together.
//!
//! A file that has crossed is memory for as long as anybody has it open: a front end that works on it, the host's portal,
//! a queue of the bus. So its room is free again when the last descriptor of it is closed, wherever that is.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::kernel::is_released;

/// How long a message with files waits for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for files that nobody has open any more: while somebody waits, and otherwise.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_millis(500);

/// Room for files. All clones are the same.
#[derive(Clone, Debug)]
pub(super) struct FileRoom {
    free: Arc<Semaphore>,
    most: u32,
    handed_over: Arc<Mutex<Vec<HandedOver>>>,
}

/// Files that somebody else has now, and the room that they take.
#[derive(Debug)]
struct HandedOver {
    watches: Vec<OwnedFd>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// Room for the files of one message.
#[derive(Debug)]
pub(super) struct Taken {
    from: FileRoom,
    room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl FileRoom {
    /// For `most` bytes.
    pub fn new(most: u32) -> FileRoom {
        FileRoom {
            free: Arc::new(Semaphore::new(most as usize)),
            most,
            handed_over: Arc::default(),
        }
    }

    /// The part of it that one client may have.
    pub fn share(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.most as usize / 2))
    }

    /// Waits a while for room for so many bytes; `share` is what the client may have. One message has room for itself,
    /// whatever the limit.
    pub async fn take(&self, share: &Arc<Semaphore>, bytes: u32) -> Option<Taken> {
        let bytes = bytes.min(self.most / 2);
        let taking = async {
            let mine = share.clone().acquire_many_owned(bytes).await.ok()?;
            let ours = self.free.clone().acquire_many_owned(bytes).await.ok()?;
            Some((mine, ours))
        };
        let looking = async {
            loop {
                self.look();
                tokio::time::sleep(SOON).await;
            }
        };
        let room = tokio::select! {
            biased;
            room = taking => room?,
            () = looking => return None,
            () = tokio::time::sleep(PATIENCE) => return None,
        };
        Some(Taken {
            from: self.clone(),
            room,
        })
    }

    fn files(&self) -> MutexGuard<'_, Vec<HandedOver>> {
        // The list is whole between any two statements.
        self.handed_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees what nobody has open any more; whether there is anything left.
    fn look(&self) -> bool {
        let mut files = self.files();
        files.retain(|it| !it.watches.iter().all(is_released));
        !files.is_empty()
    }
}

impl Taken {
    /// The files have been passed on; `watches` tell when they are closed.
    pub fn hand_over(self, watches: Vec<OwnedFd>) {
        let Taken { from, room } = self;
        let mut files = from.files();
        let first = files.is_empty();
        files.push(HandedOver {
            watches,
            _room: room,
        });
        drop(files);
        if first {
            tokio::spawn(async move {
                while from.look() {
                    tokio::time::sleep(LATER).await;
                }
            });
        }
    }
}
