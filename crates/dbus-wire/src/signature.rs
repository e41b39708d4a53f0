//! Type signatures (specification: Type System).
//!
//! A signature is at most 255 bytes; arrays nest at most 32 deep, and so do structs. A dict entry
//! stands only directly in an array, has a basic key and exactly one value.

use thiserror::Error;

/// The longest signature.
pub const MAX_SIGNATURE_LEN: usize = 255;

/// How deep arrays may nest, and how deep structs may nest.
pub const MAX_DEPTH: u8 = 32;

/// Why text is not a signature.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum SignatureError {
    /// It is longer than [`MAX_SIGNATURE_LEN`].
    #[error("the signature is longer than 255 bytes")]
    TooLong,
    /// A character that is no type.
    #[error("the signature has the unknown type code {0:#04x}")]
    UnknownType(u8),
    /// An array type without the type of its elements.
    #[error("an array in the signature has no element type")]
    MissingElement,
    /// Arrays, structs or dict entries nest too deep.
    #[error("the signature nests more than 32 arrays or 32 structs")]
    TooDeep,
    /// A bracket that was not opened, or not closed.
    #[error("the signature has unbalanced brackets")]
    Unbalanced,
    /// A struct without fields.
    #[error("a struct in the signature has no fields")]
    EmptyStruct,
    /// A dict entry that is not the element of an array.
    #[error("a dict entry in the signature is not in an array")]
    DictEntryOutsideArray,
    /// A dict entry whose key is a container.
    #[error("a dict entry in the signature has a key that is not a basic type")]
    DictKey,
    /// A dict entry with other than two types.
    #[error("a dict entry in the signature does not have a key and one value")]
    DictEntryFields,
    /// None or several complete types where one is needed.
    #[error("the signature is not exactly one complete type")]
    NotSingle,
}

/// Checks a signature of any number of complete types.
///
/// # Errors
///
/// If it is not valid.
#[inline]
pub fn check_signature(signature: &str) -> Result<(), SignatureError> {
    check_bytes(signature.as_bytes()).map(|_| ())
}

/// Checks a signature of exactly one complete type, as a variant has it.
///
/// # Errors
///
/// If it is not valid, or is not exactly one complete type.
pub fn check_single(signature: &str) -> Result<(), SignatureError> {
    match check_bytes(signature.as_bytes())? {
        1 => Ok(()),
        _ => Err(SignatureError::NotSingle),
    }
}

/// Whether a type code is a basic type: those that may be the key of a dict entry.
#[inline]
pub(crate) const fn is_basic(code: u8) -> bool {
    matches!(
        code,
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'h'
    )
}

/// The size of a type whose values all have the same size, which is also its alignment.
#[inline]
pub(crate) const fn fixed_size(code: u8) -> Option<usize> {
    match code {
        b'y' => Some(1),
        b'n' | b'q' => Some(2),
        b'b' | b'i' | b'u' | b'h' => Some(4),
        b'x' | b't' | b'd' => Some(8),
        _ => None,
    }
}

/// The alignment of a type, by its first code.
#[inline]
pub(crate) const fn alignment(code: u8) -> usize {
    match code {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// Checks a signature, and returns how many complete types it has.
pub(crate) fn check_bytes(signature: &[u8]) -> Result<usize, SignatureError> {
    Layout::new(signature).map(|layout| layout.count)
}

/// A checked signature that knows where each bracket closes, so that the type of an empty array's
/// elements is skipped at once.
pub(crate) struct Layout<'s> {
    signature: &'s [u8],
    close: [u8; MAX_SIGNATURE_LEN],
    count: usize,
}

impl<'s> Layout<'s> {
    #[inline]
    pub(crate) fn new(signature: &'s [u8]) -> Result<Self, SignatureError> {
        // Most signatures have no brackets, and then there is little to know.
        let mut count = 0;
        let mut arrays = 0u8;
        for &code in signature {
            if code == b'a' {
                arrays = arrays.saturating_add(1);
            } else if is_basic(code) || code == b'v' {
                if arrays > MAX_DEPTH {
                    return Err(SignatureError::TooDeep);
                }
                arrays = 0;
                count += 1;
            } else {
                return Layout::with_brackets(signature);
            }
        }
        if signature.len() > MAX_SIGNATURE_LEN {
            return Err(SignatureError::TooLong);
        }
        if arrays > 0 {
            return Err(SignatureError::MissingElement);
        }
        Ok(Layout {
            signature,
            close: [0; MAX_SIGNATURE_LEN],
            count,
        })
    }

    fn with_brackets(signature: &'s [u8]) -> Result<Self, SignatureError> {
        #[derive(Copy, Clone, Default)]
        struct Open {
            at: u8,
            /// Arrays open around and before this bracket.
            arrays_before: u8,
            fields: u8,
        }
        if signature.len() > MAX_SIGNATURE_LEN {
            return Err(SignatureError::TooLong);
        }
        let mut close = [0; MAX_SIGNATURE_LEN];
        let mut open = [Open::default(); 2 * MAX_DEPTH as usize];
        let (mut depth, mut structs, mut arrays) = (0usize, 0u8, 0u8);
        let mut after_array = false;
        let mut count = 0;
        for (at, &code) in signature.iter().enumerate() {
            let at = at as u8; // below MAX_SIGNATURE_LEN
            match code {
                b'a' => {
                    arrays += 1;
                    if arrays > MAX_DEPTH {
                        return Err(SignatureError::TooDeep);
                    }
                    after_array = true;
                    continue;
                }
                b'(' | b'{' => {
                    if code == b'{' {
                        if !after_array {
                            return Err(SignatureError::DictEntryOutsideArray);
                        }
                    } else {
                        structs += 1;
                        if structs > MAX_DEPTH {
                            return Err(SignatureError::TooDeep);
                        }
                    }
                    if depth > 0 {
                        let outer = &open[depth - 1];
                        if signature[outer.at as usize] == b'{' && outer.fields == 0 {
                            return Err(SignatureError::DictKey);
                        }
                    }
                    // Each dict entry is in an array of its own, so both kinds of brackets
                    // together are at most 64.
                    open[depth] = Open {
                        at,
                        arrays_before: arrays,
                        fields: 0,
                    };
                    depth += 1;
                    after_array = false;
                    continue;
                }
                b')' | b'}' => {
                    if after_array {
                        return Err(SignatureError::MissingElement);
                    }
                    let Some(inner) = depth.checked_sub(1).map(|d| open[d]) else {
                        return Err(SignatureError::Unbalanced);
                    };
                    match (signature[inner.at as usize], code) {
                        (b'(', b')') if inner.fields == 0 => {
                            return Err(SignatureError::EmptyStruct);
                        }
                        (b'(', b')') => structs -= 1,
                        (b'{', b'}') if inner.fields != 2 => {
                            return Err(SignatureError::DictEntryFields);
                        }
                        (b'{', b'}') => {}
                        _ => return Err(SignatureError::Unbalanced),
                    }
                    depth -= 1;
                    close[inner.at as usize] = at;
                    // A complete type now, in whatever was around the bracket.
                    arrays = inner.arrays_before;
                }
                _ if is_basic(code) || code == b'v' => {}
                _ => return Err(SignatureError::UnknownType(code)),
            }
            // A complete type ends here; with it, the arrays that it is the element of.
            after_array = false;
            if depth == 0 {
                arrays = 0;
                count += 1;
            } else {
                let outer = &mut open[depth - 1];
                let is_dict = signature[outer.at as usize] == b'{';
                if is_dict
                    && outer.fields == 0
                    && !(is_basic(code) && arrays == outer.arrays_before)
                {
                    return Err(SignatureError::DictKey);
                }
                arrays = outer.arrays_before;
                outer.fields = outer.fields.saturating_add(1);
            }
        }
        if after_array {
            return Err(SignatureError::MissingElement);
        }
        if depth > 0 {
            return Err(SignatureError::Unbalanced);
        }
        Ok(Layout {
            signature,
            close,
            count,
        })
    }

    /// The type code at a position; 0 at the end.
    #[inline]
    pub(crate) fn code(&self, at: usize) -> u8 {
        self.signature.get(at).copied().unwrap_or(0)
    }

    /// The position after the complete type that begins at `at`.
    #[inline]
    pub(crate) fn after(&self, mut at: usize) -> usize {
        while self.code(at) == b'a' {
            at += 1;
        }
        match self.code(at) {
            b'(' | b'{' => self.close[at] as usize + 1,
            _ => at + 1,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.signature.len()
    }

    /// How many complete types there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// The length of the first complete type of a signature that need not be valid; `None` if there is
/// none. Only brackets are looked at, and that all is ASCII, so that the type can be cut out of text.
pub(crate) fn first_len(signature: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    for (at, &code) in signature.iter().enumerate() {
        match code {
            b'a' => continue,
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth = depth.checked_sub(1)?,
            0x80.. => return None,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// The complete types of a signature one by one: `a{sv}`, `u` for `a{sv}u`. It ends early at what is
/// not a complete type; check the signature first.
pub fn complete_types(signature: &str) -> impl Iterator<Item = &str> {
    let mut rest = signature;
    std::iter::from_fn(move || {
        let len = first_len(rest.as_bytes())?;
        let (first, after) = rest.split_at_checked(len)?;
        rest = after;
        Some(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_signatures_are_accepted() {
        for good in [
            "",
            "y",
            "sss",
            "a{sv}",
            "aa{sa{sv}}",
            "(yv)",
            "a(ii)",
            "((s)(s))",
            "av",
            "a{s(ii)}",
            "ybnqiuxtdsogvh",
            "a{oa{sa{sv}}}",
            "a{s(a{yv}i)}as",
        ] {
            assert_eq!(check_signature(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn invalid_signatures_say_why() {
        use SignatureError::*;
        for (bad, why) in [
            ("z", UnknownType(b'z')),
            ("r", UnknownType(b'r')),
            ("e", UnknownType(b'e')),
            ("a", MissingElement),
            ("aa", MissingElement),
            ("(a)", MissingElement),
            ("a{sa}", MissingElement),
            ("(", Unbalanced),
            ("(s", Unbalanced),
            (")", Unbalanced),
            ("s)", Unbalanced),
            ("a{sv", Unbalanced),
            ("(s}", Unbalanced),
            ("a{sv)", Unbalanced),
            ("()", EmptyStruct),
            ("{sv}", DictEntryOutsideArray),
            ("({sv})", DictEntryOutsideArray),
            ("a{vs}", DictKey),
            ("a{ass}", DictKey),
            ("a{(s)s}", DictKey),
            ("a{a{ss}s}", DictKey),
            ("a{s}", DictEntryFields),
            ("a{}", DictEntryFields),
            ("a{sss}", DictEntryFields),
        ] {
            assert_eq!(check_signature(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn depth_is_limited_to_32_arrays_and_32_structs() {
        let arrays = |n: usize| format!("{}y", "a".repeat(n));
        let structs = |n: usize| format!("{}y{}", "(".repeat(n), ")".repeat(n));
        assert_eq!(check_signature(&arrays(32)), Ok(()));
        assert_eq!(check_signature(&arrays(33)), Err(SignatureError::TooDeep));
        assert_eq!(check_signature(&structs(32)), Ok(()));
        assert_eq!(check_signature(&structs(33)), Err(SignatureError::TooDeep));
        let both = format!("{}{}", "a".repeat(32), structs(32));
        assert_eq!(check_signature(&both), Ok(()));
        let dicts = |n: usize| format!("{}y{}", "a{s".repeat(n), "}".repeat(n));
        assert_eq!(check_signature(&dicts(32)), Ok(()));
        assert_eq!(check_signature(&dicts(33)), Err(SignatureError::TooDeep));
        // Arrays beside each other do not nest.
        assert_eq!(check_signature(&"ay".repeat(100)), Ok(()));
        assert_eq!(check_signature(&format!("({})", "ay".repeat(100))), Ok(()));
        // Arrays in structs in arrays do.
        let mixed = |n: usize| format!("{}y{}", "a(".repeat(n), ")".repeat(n));
        assert_eq!(check_signature(&mixed(32)), Ok(()));
        assert_eq!(
            check_signature(&format!("a{}", mixed(32))),
            Err(SignatureError::TooDeep)
        );
        let widest = format!("{}y{}", "a{s(".repeat(32), ")}".repeat(32));
        assert_eq!(check_signature(&widest), Ok(()));
    }

    #[test]
    fn the_length_is_limited() {
        assert_eq!(check_signature(&"s".repeat(255)), Ok(()));
        assert_eq!(
            check_signature(&"s".repeat(256)),
            Err(SignatureError::TooLong)
        );
    }

    #[test]
    fn a_variant_has_exactly_one_type() {
        assert_eq!(check_single("a{sv}"), Ok(()));
        assert_eq!(check_single(""), Err(SignatureError::NotSingle));
        assert_eq!(check_single("ss"), Err(SignatureError::NotSingle));
        assert_eq!(check_single("ayay"), Err(SignatureError::NotSingle));
    }

    #[test]
    fn complete_types_come_one_by_one() {
        let types: Vec<_> = complete_types("a{sv}u(ii)aas").collect();
        assert_eq!(types, ["a{sv}", "u", "(ii)", "aas"]);
        assert_eq!(complete_types("").count(), 0);
        assert_eq!(complete_types("s(s").collect::<Vec<_>>(), ["s"]);
    }

    #[test]
    fn a_layout_skips_whole_types() {
        let layout = Layout::new(b"a{s(ii)}u").unwrap();
        assert_eq!(layout.after(0), 8);
        assert_eq!(layout.after(3), 7);
        assert_eq!(layout.after(8), 9);
        assert_eq!(layout.count(), 2);
    }
}
