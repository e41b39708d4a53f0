//! Children that do not outlive us, also when we are killed and can clean up nothing.
//!
//! The one file of this crate with `unsafe`. What it guarantees: between fork and exec the child makes two system
//! calls and nothing else; it takes no lock and allocates nothing.
#![allow(unsafe_code)]

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Has the kernel send SIGTERM to the program when the *thread* that starts it ends: start it from one that lives as
/// long as the program is to.
pub(crate) fn ends_with_us(command: &mut tokio::process::Command) {
    let parent: Pid = getpid();
    let between_fork_and_exec = move || {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // We may have gone before the kernel was asked to tell.
        if getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: the closure calls prctl and getppid, both of which may be called after a fork of a program with
    // threads; it neither allocates nor locks (an error made from an errno is a number), and does not panic.
    unsafe {
        command.pre_exec(between_fork_and_exec);
    }
}
