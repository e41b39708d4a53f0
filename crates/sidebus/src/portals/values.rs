//! D-Bus values of types that are known only when they come.

use zbus::message::Builder;
use zbus::{Array, Dict, Message, Signature, Structure, Variant};

use super::refusal::Refusal;

/// A value that borrows nothing.
pub type Value = Variant<'static>;

/// The arguments of a message.
///
/// # Errors
/// The body is not what its signature says.
pub fn arguments(message: &Message) -> Result<Vec<Value>, Refusal> {
    let body = message.body();
    if matches!(body.signature(), Signature::Unit) {
        return Ok(Vec::new());
    }
    let malformed =
        |error: zbus::Error| Refusal::invalid(format!("the arguments cannot be read: {error}"));
    let structure: Structure<'_> = body.deserialize().map_err(malformed)?;
    structure
        .into_fields()
        .into_iter()
        .map(|field| field.try_into_owned().map(Value::from).map_err(malformed))
        .collect()
}

/// The message with these arguments.
///
/// # Errors
/// They do not make a message (too large).
pub fn build(builder: Builder<'_>, arguments: Vec<Value>) -> zbus::Result<Message> {
    if arguments.is_empty() {
        return builder.build(&());
    }
    let structure = arguments
        .into_iter()
        .fold(Structure::builder(), |structure, field| {
            structure.append_field(field)
        })
        .build()?;
    builder.build(&structure)
}

/// The signature of a value.
pub fn signature(value: &Value) -> String {
    value.value_signature().to_string()
}

/// A string's text.
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Variant::Str(text) => Some(text.as_str()),
        _ => None,
    }
}

/// A string or object path.
pub fn path_text(value: &Value) -> Option<&str> {
    match value {
        Variant::ObjectPath(path) => Some(path.as_str()),
        other => text(other),
    }
}

/// What an `ay` holds, without the NUL at its end.
pub fn bytes(value: &Value) -> Option<Vec<u8>> {
    let Variant::Array(array) = value else {
        return None;
    };
    let mut bytes = array
        .inner()
        .iter()
        .map(|item| match item {
            Variant::U8(byte) => Some(*byte),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Some(bytes)
}

/// An `ay` with a NUL at its end.
pub fn byte_string(bytes: &[u8]) -> Value {
    let mut bytes = bytes.to_vec();
    bytes.push(0);
    Value::from(bytes)
}

/// What an `as` holds.
pub fn texts(value: &Value) -> Option<Vec<String>> {
    let Variant::Array(array) = value else {
        return None;
    };
    array
        .inner()
        .iter()
        .map(|item| text_of(item).map(str::to_owned))
        .collect()
}

fn text_of<'v>(value: &'v Variant<'_>) -> Option<&'v str> {
    match value {
        Variant::Str(text) => Some(text.as_str()),
        _ => None,
    }
}

/// The entries of an `a{sv}`, in order.
///
/// # Errors
/// It is none.
pub fn entries(value: Value) -> Result<Vec<(String, Value)>, Refusal> {
    let Variant::Dict(dict) = value else {
        return Err(Refusal::invalid("expected a dictionary, a{sv}"));
    };
    let mut entries = Vec::new();
    for (key, value) in dict.iter() {
        let (Variant::Str(key), Variant::Variant(value)) = (key, value) else {
            return Err(Refusal::invalid("expected a dictionary, a{sv}"));
        };
        let value = owned(value)?;
        entries.push((key.as_str().to_owned(), value));
    }
    Ok(entries)
}

/// An `a{sv}`.
///
/// # Panics
/// Never: the types are those that the dictionary was made for.
pub fn dictionary(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    let mut dict = Dict::new(&Signature::Str, &Signature::Variant);
    for (key, value) in entries {
        dict.append(Value::from(key), Variant::Variant(Box::new(value)))
            .expect("a string and a variant");
    }
    Variant::Dict(dict)
}

/// The items of an array.
///
/// # Errors
/// It is none.
pub fn items(value: &Value) -> Result<Vec<Value>, Refusal> {
    let Variant::Array(array) = value else {
        return Err(Refusal::invalid("expected an array"));
    };
    array.inner().iter().map(owned).collect()
}

/// An array of items that have this signature.
///
/// # Errors
/// They do not.
pub fn array(item_signature: &str, items: Vec<Value>) -> Result<Value, Refusal> {
    let signature = Signature::try_from(item_signature)
        .map_err(|error| Refusal::failed(format!("{item_signature}: {error}")))?;
    let mut array = Array::new(&signature);
    for item in items {
        array
            .append(item)
            .map_err(|error| Refusal::failed(format!("an array of {item_signature}: {error}")))?;
    }
    Ok(Variant::Array(array))
}

/// A copy that borrows nothing.
///
/// # Errors
/// No file descriptors are left.
pub fn owned(value: &Variant<'_>) -> Result<Value, Refusal> {
    value
        .try_to_owned()
        .map(Value::from)
        .map_err(|error| Refusal::failed(format!("copying a value: {error}")))
}

/// What is inside, however many variants are around it.
pub fn unwrapped(value: &Value) -> &Value {
    match value {
        Variant::Variant(inner) => unwrapped(inner),
        other => other,
    }
}

/// Whether there is a file descriptor in it.
pub fn has_descriptor(value: &Variant<'_>) -> bool {
    match value {
        Variant::Fd(_) => true,
        Variant::Variant(inner) => has_descriptor(inner),
        Variant::Array(array) => array.inner().iter().any(has_descriptor),
        Variant::Structure(structure) => structure.fields().iter().any(has_descriptor),
        Variant::Dict(dict) => dict
            .iter()
            .any(|(key, value)| has_descriptor(key) || has_descriptor(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_the_way_through_a_message() {
        let options = dictionary([
            ("a".to_owned(), Value::from("text")),
            ("b".to_owned(), array("s", Vec::new()).unwrap()),
        ]);
        let sent = vec![Value::from("window"), options, byte_string(b"/x")];
        let builder = || Message::method_call("/a", "M");
        let copies = sent.iter().map(|value| owned(value).unwrap()).collect();
        let message = build(builder(), copies).unwrap();
        assert_eq!(message.body().signature().to_string_no_parens(), "sa{sv}ay");
        assert_eq!(arguments(&message).unwrap(), sent);
        let empty = build(builder(), Vec::new()).unwrap();
        assert!(arguments(&empty).unwrap().is_empty());
        for single in ["x", "y"] {
            let message = build(builder(), vec![Value::from(single)]).unwrap();
            assert_eq!(arguments(&message).unwrap(), [Value::from(single)]);
        }
    }

    #[test]
    fn a_dictionary_is_taken_apart_and_put_together() {
        let taken = vec![
            ("k".to_owned(), Value::from(7u32)),
            (
                "n".to_owned(),
                dictionary([("x".to_owned(), Value::from(true))]),
            ),
        ];
        let dict = dictionary(
            taken
                .iter()
                .map(|(key, value)| (key.clone(), owned(value).unwrap())),
        );
        assert_eq!(signature(&dict), "a{sv}");
        assert_eq!(entries(dict).unwrap(), taken);
        assert!(entries(Value::from("no")).is_err());
    }

    #[test]
    fn a_path_is_bytes_with_a_nul() {
        assert_eq!(bytes(&byte_string(b"/a b")).unwrap(), b"/a b");
        assert_eq!(bytes(&Value::from(b"/a".to_vec())).unwrap(), b"/a");
        assert!(bytes(&Value::from("text")).is_none());
    }
}
