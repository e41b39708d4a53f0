//! Icons of exported applications.
//!
//! An icon is a file from inside that a program outside will draw: only what looks like what its name says
//! is taken, nothing large, and no SVG that brings entities.

use std::path::{Path, PathBuf};

use crate::export::is_harmless;

/// The largest icon that is taken.
pub const SIZE_MAX: usize = 1024 * 1024;

/// Prints `PATH\0LENGTH\0BYTES` for each file of the icon `$1` below the data directories that follow: those
/// of the theme hicolor, which every theme falls back to, or else those of any theme.
pub const SCRIPT: &str = r#"
name=$1; max=$2; shift 2
show() {
    for file do
        [ -f "$file" ] || continue
        length=$(wc -c <"$file") || continue
        length=$((length))
        [ "$length" -gt 0 ] && [ "$length" -le "$max" ] || continue
        printf '%s\0%s\0' "$file" "$length"
        cat "$file"
        found=1
    done
}
found=
case $name in
/*) show "$name"; exit 0 ;;
esac
for data do
    show "$data"/icons/hicolor/*/apps/"$name".png "$data"/icons/hicolor/*/apps/"$name".svg
done
[ -n "$found" ] && exit 0
for data do
    show "$data"/pixmaps/"$name".png "$data"/pixmaps/"$name".svg "$data"/pixmaps/"$name".xpm
done
[ -n "$found" ] && exit 0
for data do
    show "$data"/icons/*/apps/*/"$name".svg "$data"/icons/*/apps/*/"$name".png "$data"/icons/*/*/apps/"$name".png
    [ -n "$found" ] && exit 0
done
exit 0
"#;

/// A file of an icon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IconFile {
    /// Where it goes below the host's data directory.
    pub place: PathBuf,
    /// Whether it is part of the theme there, and found by its name.
    pub themed: bool,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// The files that [`SCRIPT`] has printed, as far as they are icons. They are called `name` on the host.
pub fn files(printed: &[u8], name: &str) -> Vec<IconFile> {
    let mut files: Vec<IconFile> = Vec::new();
    let mut rest = printed;
    while let Some((path, length, bytes, after)) = next(rest) {
        rest = after;
        debug_assert_eq!(length, bytes.len());
        let path = Path::new(path);
        let Some(ending) = path.extension().and_then(|e| e.to_str()) else {
            continue;
        };
        if !is_what_it_says(ending, bytes) {
            continue;
        }
        let file = format!("{name}.{ending}");
        let (place, themed) = match theme_size(path) {
            Some(size) => (
                Path::new("icons/hicolor")
                    .join(size)
                    .join("apps")
                    .join(file),
                true,
            ),
            None if ending == "svg" => (Path::new("icons/hicolor/scalable/apps").join(file), true),
            None => (Path::new("kapsule/icons").join(file), false),
        };
        if !files.iter().any(|file| file.place == place) {
            files.push(IconFile {
                place,
                themed,
                bytes: bytes.to_owned(),
            });
        }
    }
    files
}

fn next(printed: &[u8]) -> Option<(&str, usize, &[u8], &[u8])> {
    let mut parts = printed.splitn(3, |byte| *byte == 0);
    let path = std::str::from_utf8(parts.next()?).ok()?;
    let length: usize = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let (bytes, after) = parts.next()?.split_at_checked(length)?;
    Some((path, length, bytes, after))
}

/// `48x48` or `scalable` of a path in the theme hicolor.
fn theme_size(path: &Path) -> Option<&str> {
    let mut parts = path
        .iter()
        .map(|part| part.to_str())
        .collect::<Option<Vec<_>>>()?;
    let _file = parts.pop()?;
    if parts.pop()? != "apps" {
        return None;
    }
    let size = parts.pop()?;
    let is_size = matches!(size, "scalable" | "symbolic")
        || (size.split('x').count() == 2
            && size.len() <= 12
            && size
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b'x' || b == b'@'));
    (parts.pop()? == "hicolor" && is_size && is_harmless(size)).then_some(size)
}

fn is_what_it_says(ending: &str, bytes: &[u8]) -> bool {
    match ending {
        "png" => bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
        "xpm" => bytes.starts_with(b"/* XPM */"),
        "svg" => std::str::from_utf8(bytes).is_ok_and(|text| {
            let text = text.trim_start_matches('\u{feff}').trim_start();
            text.starts_with('<') && text.contains("<svg") && !text.contains("<!ENTITY")
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, bytes) in files {
            out.extend(format!("{path}\0{}\0", bytes.len()).bytes());
            out.extend(*bytes);
        }
        out
    }

    #[test]
    fn icons_of_the_theme_keep_their_size_and_others_have_a_place_of_their_own() {
        let png = b"\x89PNG\r\n\x1a\n with \0 bytes";
        let printed = printed(&[
            ("/usr/share/icons/hicolor/48x48/apps/kate.png", png),
            (
                "/usr/share/icons/hicolor/scalable/apps/kate.svg",
                b"<?xml?><svg/>",
            ),
            ("/usr/share/pixmaps/kate.png", png),
            ("/opt/kate.svg", b"<svg></svg>"),
        ]);
        let places: Vec<_> = files(&printed, "kapsule-work-kate")
            .into_iter()
            .map(|file| (file.place.display().to_string(), file.themed))
            .collect();
        assert_eq!(
            places,
            [
                (
                    "icons/hicolor/48x48/apps/kapsule-work-kate.png".to_owned(),
                    true
                ),
                (
                    "icons/hicolor/scalable/apps/kapsule-work-kate.svg".to_owned(),
                    true
                ),
                ("kapsule/icons/kapsule-work-kate.png".to_owned(), false),
            ]
        );
    }

    #[test]
    fn what_is_no_icon_is_not_taken() {
        let printed = printed(&[
            ("/usr/share/icons/hicolor/48x48/apps/x.png", b"#!/bin/sh"),
            (
                "/usr/share/icons/hicolor/scalable/apps/x.svg",
                b"<!DOCTYPE svg [<!ENTITY a \"b\">]><svg/>",
            ),
            ("/usr/share/pixmaps/x.desktop", b"[Desktop Entry]"),
        ]);
        assert_eq!(files(&printed, "x"), []);
        // A size that leads elsewhere is no size of the theme.
        assert_eq!(theme_size(Path::new("/u/hicolor/../apps/x.png")), None);
        assert_eq!(theme_size(Path::new("/u/hicolor/4x4x4/apps/x.png")), None);
    }

    #[test]
    fn what_is_cut_short_ends_the_list() {
        let mut bytes = printed(&[("/a.svg", b"<svg/>"), ("/b.svg", b"<svg/>")]);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(files(&bytes, "x").len(), 1);
        assert_eq!(files(b"/a\0999999999999999999999\0", "x"), []);
    }
}
