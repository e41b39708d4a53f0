//! `/etc/subuid` and `/etc/subgid`: which ids root may map into containers.
//!
//! `raw.idmap` needs an entry `root:ID:1` for each id that is the same inside and outside (newuidmap(1) looks there).
//! Entries are only ever added: whose container still needs one is not known here.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Sees to it that root may map `id` by this file.
///
/// # Errors
/// The file cannot be read or written.
pub fn permit(file: &Path, id: u32) -> Result<()> {
    let place = || {
        format!(
            "entering in {} that root may map the id {id}",
            file.display()
        )
    };
    let mut open = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(file)
        .map_err(Error::failed(place()))?;
    let mut text = String::new();
    open.read_to_string(&mut text)
        .map_err(Error::failed(place()))?;
    if permits(&text, id) {
        return Ok(());
    }
    let newline = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    // In one write, behind what others append at the same time.
    open.write_all(format!("{newline}root:{id}:1\n").as_bytes())
        .map_err(Error::failed(place()))?;
    tracing::info!(file = %file.display(), id, "root may map this id into containers now");
    Ok(())
}

fn permits(text: &str, id: u32) -> bool {
    text.lines().any(|line| {
        let mut fields = line.trim().split(':');
        let root = matches!(fields.next(), Some("root" | "0"));
        let number = |field: Option<&str>| field.and_then(|field| field.parse::<u64>().ok());
        let (Some(start), Some(count)) = (number(fields.next()), number(fields.next())) else {
            return false;
        };
        root && (start..start.saturating_add(count)).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_entered_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("subuid");
        std::fs::write(&file, "root:1000000:1000000000").expect("written");
        permit(&file, 1000).expect("entered");
        permit(&file, 1000).expect("there");
        permit(&file, 1_000_005).expect("there");
        let text = std::fs::read_to_string(&file).expect("read");
        assert_eq!(text, "root:1000000:1000000000\nroot:1000:1\n");
    }

    #[test]
    fn entries_of_others_do_not_count() {
        assert!(!permits("ana:1000:1\n", 1000));
        assert!(permits("root:1000:1\n", 1000));
        assert!(!permits("root:1000:1\n", 1001));
        assert!(!permits("root:x:1\n:::\n", 0));
    }
}
