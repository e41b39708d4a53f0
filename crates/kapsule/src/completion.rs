//! What a shell offers when Tab is pressed: names of containers, images, features and snapshots, as they are now.
//!
//! The shell's script ([`script`]) calls this program with the variable `KAPSULE_COMPLETE` set, and prints what it answers. A
//! person waits for that in the middle of a line: so there is a limit, and nothing is said where there is no daemon.

use std::path::Path;
use std::time::Duration;

use clap::Command;
use clap::builder::StyledStr;
use clap_complete::Shell;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};

use crate::command::config::KEYS;
use crate::error::Result;
use crate::manager::{Manager, Row};
use crate::text::plain;

/// Set by the script to the shell's name. Not `COMPLETE`, which is as good as anybody's.
const ASKED: &str = "KAPSULE_COMPLETE";
/// Who waits longer types it himself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers a shell, if one asks; says whether it was so.
pub fn answer() -> bool {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(command)
        .var(ASKED)
        .try_complete(std::env::args_os(), here.as_deref())
        // A shell that we do not know has asked: there is nobody who reads an explanation.
        .unwrap_or(true)
}

/// The command line as it is completed: options are for who has typed a dash, or where there is nothing else.
fn command() -> Command {
    fn without_options(command: Command) -> Command {
        command
            .disable_help_flag(true)
            .disable_version_flag(true)
            .mut_args(|argument| {
                let is_option = !argument.is_positional();
                argument.hide(is_option)
            })
            .mut_subcommands(without_options)
    }
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok();
    let index = index.and_then(|index| index.parse().ok());
    let typed = match index {
        Some(index) => line().nth(index),
        // fish gives what is before the cursor.
        None => line().last(),
    };
    match typed {
        Some(word) if word.starts_with('-') => crate::cli::command(),
        _ => without_options(crate::cli::command()),
    }
}

/// The line that is completed, as the shell's script passes it on: the program, its command, and what is said to that.
fn line() -> impl Iterator<Item = String> {
    std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .skip_while(|word| word != "--")
        .skip(1)
}

/// The script by which a shell completes the command `name` by asking `program`; empty for a shell that cannot.
pub fn script(shell: Shell, name: &str, program: &str) -> String {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    if let Some(completer) = shells.completer(&shell.to_string()) {
        // Writing to memory does not fail.
        let _ = completer.write_registration(ASKED, name, name, program, &mut script);
    }
    let mut script = String::from_utf8_lossy(&script).trim().to_owned() + "\n";
    if shell == Shell::Zsh {
        // zsh reads the file when Tab is first pressed, as the body of a function that is to complete at once.
        script += &format!(
            "\nif [[ ${{funcstack[1]}} == _{name} ]]; then\n    _clap_dynamic_completer_{} \"$@\"\nfi\n",
            name.replace('-', "_")
        );
    }
    script
}

/// How this program is to be called: by its name, or by its path if that is how it was called now.
pub fn this_program() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let called = Path::new(&called);
    match called.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => std::path::absolute(called)
            .unwrap_or_else(|_| called.to_owned())
            .display()
            .to_string(),
        _ => "kapsule".to_owned(),
    }
}

/// The caller's containers.
pub fn containers() -> Vec<CompletionCandidate> {
    rows(|_| true)
}

/// Those that can be stopped.
pub fn running() -> Vec<CompletionCandidate> {
    rows(|row| row.status != "Stopped")
}

/// Those that can be started, or renamed.
pub fn stopped() -> Vec<CompletionCandidate> {
    rows(|row| row.status != "Running")
}

fn rows(which: fn(&Row) -> bool) -> Vec<CompletionCandidate> {
    asked(async |manager| manager.list_containers().await)
        .unwrap_or_default()
        .into_iter()
        .filter(which)
        .filter_map(|row| candidate(&row.name, &format!("{}, {}", row.image, row.status)))
        .collect()
}

/// The features that a container can have.
pub fn features() -> Vec<CompletionCandidate> {
    asked(async |manager| manager.features().await)
        .unwrap_or_default()
        .iter()
        .filter_map(|feature| candidate(feature, ""))
        .collect()
}

/// The images that are here.
pub fn images() -> Vec<CompletionCandidate> {
    let images = asked(async |manager| manager.images().await).unwrap_or_default();
    let images: serde_json::Value = serde_json::from_str(&images).unwrap_or_default();
    images
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|image| {
            let description = image["description"].as_str().unwrap_or_default();
            let aliases = image["aliases"].as_array().into_iter().flatten();
            aliases.filter_map(move |alias| candidate(alias.as_str()?, description))
        })
        .collect()
}

/// The snapshots of the container that is named before.
pub fn snapshots() -> Vec<CompletionCandidate> {
    let Some(container) = line().filter(|word| !word.starts_with('-')).nth(2) else {
        return Vec::new();
    };
    asked(async |manager| manager.snapshots(&container).await)
        .unwrap_or_default()
        .iter()
        .filter_map(|snapshot| candidate(&snapshot.name, ""))
        .collect()
}

/// The keys of the configuration.
pub fn keys() -> Vec<CompletionCandidate> {
    let keys = KEYS.iter().map(|(key, _)| *key);
    keys.filter_map(|key| candidate(key, "")).collect()
}

/// A word to offer. What would mean something to a shell is not offered: it goes into a line that is not quoted.
fn candidate(word: &str, help: &str) -> Option<CompletionCandidate> {
    let is_word = !word.is_empty()
        && !word.starts_with('-')
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./@+".contains(&b));
    let help = (!help.is_empty()).then(|| StyledStr::from(plain(help).to_string()));
    is_word.then(|| CompletionCandidate::new(word).help(help))
}

/// What the daemon answers, if it does in time.
fn asked<T>(question: impl AsyncFnOnce(Manager) -> Result<T>) -> Option<T> {
    let bus = std::env::var("KAPSULE_BUS").unwrap_or_else(|_| "system".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    // The timer is one of the runtime's, and so is made in it.
    let answer = runtime.block_on(async {
        let answer = async { question(Manager::connect(&bus).await?).await };
        tokio::time::timeout(PATIENCE, answer).await
    });
    runtime.shutdown_background();
    answer.ok()?.ok()
}
