//! `dbus-router proxy`, and the program called by the name xdg-dbus-proxy.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};

use super::program::say;
use super::proxy_arguments::{self, HELP, Proxies, Proxy, Wanted};
use super::proxy_log::ProxyLog;
use crate::engine::kernel::{close_inherited, inherited};
use crate::{
    Access, BusAddress, Config, HostPass, Limits, Listen, Policy, Router, RuleId, Rules, Side,
};

/// Runs the proxies of a command line; `program` is how it was called.
pub(super) fn main(program: &str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let result = match proxy_arguments::parse(arguments, arguments_of) {
        Ok(Wanted::Help) => {
            print!("{}", HELP.replace("{program}", program));
            Ok(())
        }
        Ok(Wanted::Version) => {
            // Wrappers ask which of its options there are: those of this version.
            println!(
                "xdg-dbus-proxy 0.1.7 (dbus-router {})",
                env!("CARGO_PKG_VERSION")
            );
            Ok(())
        }
        Ok(Wanted::Run(proxies)) => run(&proxies),
        Err(problem) => Err(problem),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

/// All that can be read from the descriptor `fd`.
fn arguments_of(fd: i32) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(inherited(fd)?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn run(proxies: &Proxies) -> Result<(), String> {
    let fd = proxies.fd.map(taken).transpose()?;
    let mut routers = Vec::new();
    for proxy in &proxies.proxies {
        let router = start(proxy)
            .map_err(|problem| format!("Failed to start proxy for {}: {problem}", proxy.address))?;
        routers.push(router);
    }
    let handles: Vec<_> = routers.iter().map(Router::handle).collect();
    stop_on_signals(handles.clone())?;
    if let Some(fd) = fd {
        let mut fd = File::from(fd);
        // Who asked to be told may have gone; then what comes next is the end.
        if let Err(error) = fd.write_all(b"x") {
            tracing::warn!(%error, "cannot write to the descriptor of --fd");
        }
        std::thread::spawn(move || {
            wait_closed(&fd);
            for handle in handles {
                handle.stop();
            }
        });
    }
    let threads: Vec<_> = routers
        .into_iter()
        .map(|router| std::thread::spawn(move || router.run()))
        .collect();
    for thread in threads {
        match thread.join() {
            Ok(result) => result.map_err(|error| error.to_string())?,
            Err(_) => return Err("a proxy has failed".to_owned()),
        }
    }
    Ok(())
}

/// The descriptor of `--fd`, ours alone: its closing is seen at the other end when we end.
fn taken(fd: i32) -> Result<OwnedFd, String> {
    let own = inherited(fd).map_err(|error| {
        format!("Invalid fd {fd}: {error}; --fd takes the number of an open descriptor")
    })?;
    close_inherited(fd);
    Ok(own)
}

/// Until nobody has the other end any more.
fn wait_closed(fd: &File) {
    loop {
        // Hang-ups and errors are told without being asked for; a reader's bytes are nobody's concern.
        let mut polled = [PollFd::new(fd, PollFlags::empty())];
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
            Ok(_)
                if polled[0]
                    .revents()
                    .intersects(PollFlags::HUP | PollFlags::ERR) =>
            {
                return;
            }
            Ok(_) if polled[0].revents().contains(PollFlags::NVAL) => return,
            Ok(_) => {}
        }
    }
}

fn stop_on_signals(handles: Vec<crate::Handle>) -> Result<(), String> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            for handle in &handles {
                handle.stop();
            }
        }
    });
    Ok(())
}

fn start(proxy: &Proxy) -> Result<Router, String> {
    let host = BusAddress::parse(&proxy.address)
        .map_err(|error| error.to_string())?
        .addresses;
    clear(&proxy.path)?;
    let mut router = Router::start(Config {
        listen: Listen::Path(proxy.path.clone()),
        host: Some(host),
        container: None,
        data_dirs: Vec::new(),
        policy: Policy::from_rules(rules(proxy)),
        limits: Limits::default(),
        ..Config::default()
    })
    .map_err(|error| error.to_string())?;
    if proxy.log {
        router.watch(Box::new(ProxyLog::new(proxy.filter)));
    }
    Ok(router)
}

/// Wrappers reserve the socket's path with an empty file (mkstemp); xdg-dbus-proxy puts its socket there.
/// A file with something in it is left alone, and listening fails.
fn clear(path: &Path) -> Result<(), String> {
    let reserved = std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
    if !reserved {
        return Ok(());
    }
    std::fs::remove_file(path)
        .map_err(|error| format!("cannot replace the empty file {}: {error}", path.display()))
}

/// Every client lives on the host; the options say what of it there is.
fn rules(proxy: &Proxy) -> Rules {
    let unmentioned = if proxy.filter {
        Access::Hidden
    } else {
        Access::Own
    };
    Rules {
        default: Side::Host,
        unmentioned,
        // Without --filter its options are taken, and have no effect.
        names: if proxy.filter {
            proxy.rules.clone()
        } else {
            Vec::new()
        },
        hostpass: vec![HostPass {
            id: RuleId {
                table: "--filter",
                index: 0,
                line: None,
            },
            process: None,
            cgroup: None,
            unit: None,
            everyone: true,
            access: unmentioned,
        }],
        host_monitor: !proxy.filter,
        host_environment: !proxy.filter,
        outward_signals: true,
        inward_calls: true,
        spoken: Access::See,
        unique_name_changes: proxy.sloppy_names,
        guard_host: false,
        ..Rules::default()
    }
}
