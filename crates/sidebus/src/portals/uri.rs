//! URIs: of files, and their schemes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The path that a `file:` URI names on this machine (RFC 8089). None if it is no such URI.
pub fn file_path(uri: &str) -> Option<PathBuf> {
    let rest = uri
        .get(..5)
        .filter(|scheme| scheme.eq_ignore_ascii_case("file:"))?;
    let rest = &uri[rest.len()..];
    let path = match rest.strip_prefix("//") {
        Some(after) => {
            let slash = after.find('/')?;
            let host = &after[..slash];
            if !host.is_empty() && host != "localhost" {
                return None;
            }
            &after[slash..]
        }
        None => rest,
    };
    if !path.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut left = path.bytes();
    while let Some(byte) = left.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let value = digit(left.next())? * 16 + digit(left.next())?;
                // Two digits are a byte.
                bytes.push(u8::try_from(value).ok()?);
            }
            b'?' | b'#' => return None,
            byte => bytes.push(byte),
        }
    }
    if bytes.contains(&0) {
        return None;
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// The `file:` URI of an absolute path.
pub fn of_path(path: &Path) -> String {
    let mut uri = String::from("file://");
    for &byte in path.as_os_str().as_bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte);
        if plain {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

/// The scheme of a URI (RFC 3986, 3.1), as it is written.
pub fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let legal = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    legal.then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_the_way_through_a_uri() {
        for path in ["/", "/a b/ü%/#?", "/plain.txt", "/with'quote,(x)"] {
            assert_eq!(
                file_path(&of_path(Path::new(path))).unwrap(),
                Path::new(path)
            );
        }
        let odd = PathBuf::from(OsString::from_vec(b"/not\xffutf8".to_vec()));
        assert_eq!(of_path(&odd), "file:///not%FFutf8");
        assert_eq!(file_path(&of_path(&odd)).unwrap(), odd);
    }

    #[test]
    fn only_files_of_this_machine_are_paths() {
        assert_eq!(file_path("file://localhost/a").unwrap(), Path::new("/a"));
        assert_eq!(file_path("FILE:/a").unwrap(), Path::new("/a"));
        for other in [
            "https://example.org/",
            "file://other/a",
            "file:a",
            "file:///a%0",
            "file:///a%zz",
            "file:///a%00b",
            "file:///a?b",
            "",
            "file",
            "fileü",
        ] {
            assert_eq!(file_path(other), None, "{other}");
        }
    }

    #[test]
    fn a_scheme_is_what_stands_before_the_colon() {
        assert_eq!(scheme("https://example.org"), Some("https"));
        assert_eq!(scheme("mailto:a@b"), Some("mailto"));
        for none in [
            "",
            ":",
            "/path",
            "1a:b",
            " file:///x",
            "fi le:///x",
            "fi\tle:x",
        ] {
            assert_eq!(scheme(none), None, "{none}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_survives_and_any_text_is_looked_at(
            bytes in proptest::collection::vec(1u8..=255, 0..64),
            text in "\\PC*",
        ) {
            let path = Path::new("/").join(OsString::from_vec(bytes));
            if path.is_absolute() {
                proptest::prop_assert_eq!(file_path(&of_path(&path)), Some(path));
            }
            if let Some(found) = file_path(&text) {
                proptest::prop_assert!(found.is_absolute());
            }
            let _ = scheme(&text);
        }
    }
}
