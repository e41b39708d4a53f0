//! Properties that hold for every message: however it was split on its way, in whichever byte order,
//! whatever fields it has.

use dbus_wire::sasl::{Client, ClientConfig, SaslError, Server, ServerConfig};
use dbus_wire::{
    Address, Arg, ArgMatch, Args, Body, BodyError, Builder, Change, Edit, Endian, Flags, Header,
    MatchRule, Message, MessageType, PathMatch, Prologue, Reader, Scan, UnixTarget, address,
    check_body, check_signature, complete_types, is_bus_name, is_error_name, is_interface_name,
    is_member_name, is_namespace, is_object_path, is_unique_name, is_well_known_name,
    parse_addresses, scan,
};
use proptest::prelude::*;

// ---- values of any type ------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Byte(u8),
    Boolean(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    /// By its bits, so that it is equal to itself.
    Double(u64),
    UnixFd(u32),
    Str(String),
    Path(String),
    Signature(String),
    Variant(Box<Value>),
    /// Element type, elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    DictEntry(Box<Value>, Box<Value>),
}

impl Value {
    fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Boolean(_) => "b".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::UnixFd(_) => "h".into(),
            Value::Str(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Variant(_) => "v".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!(
                "({})",
                fields.iter().map(Value::signature).collect::<String>()
            ),
            Value::DictEntry(key, value) => format!("{{{}{}}}", key.signature(), value.signature()),
        }
    }

    fn write(&self, body: Body) -> Body {
        match self {
            Value::Byte(v) => body.byte(*v),
            Value::Boolean(v) => body.boolean(*v),
            Value::I16(v) => body.i16(*v),
            Value::U16(v) => body.u16(*v),
            Value::I32(v) => body.i32(*v),
            Value::U32(v) => body.u32(*v),
            Value::I64(v) => body.i64(*v),
            Value::U64(v) => body.u64(*v),
            Value::Double(v) => body.double(f64::from_bits(*v)),
            Value::UnixFd(v) => body.unix_fd(*v),
            Value::Str(v) => body.str(v),
            Value::Path(v) => body.object_path(v),
            Value::Signature(v) => body.signature(v),
            Value::Variant(v) => body.variant(|body| v.write(body)),
            Value::Array(element, values) => body.array(element, |body| write_all(values, body)),
            Value::Struct(fields) => body.struct_(|body| write_all(fields, body)),
            Value::DictEntry(key, value) => body.dict_entry(|body| value.write(key.write(body))),
        }
    }
}

fn write_all(values: &[Value], body: Body) -> Body {
    values.iter().fold(body, |body, value| value.write(body))
}

fn body_of(endian: Endian, values: &[Value]) -> Body {
    write_all(values, Body::with_endian(endian))
}

/// Reads the next value, whatever it is.
fn read(reader: &mut Reader<'_>) -> Result<Value, BodyError> {
    let signature = reader.signature_left();
    Ok(match signature.as_bytes()[0] {
        b'y' => Value::Byte(reader.byte()?),
        b'b' => Value::Boolean(reader.boolean()?),
        b'n' => Value::I16(reader.i16()?),
        b'q' => Value::U16(reader.u16()?),
        b'i' => Value::I32(reader.i32()?),
        b'u' => Value::U32(reader.u32()?),
        b'x' => Value::I64(reader.i64()?),
        b't' => Value::U64(reader.u64()?),
        b'd' => Value::Double(reader.double()?.to_bits()),
        b'h' => Value::UnixFd(reader.unix_fd()?),
        b's' => Value::Str(reader.str()?.to_owned()),
        b'o' => Value::Path(reader.object_path()?.to_owned()),
        b'g' => Value::Signature(reader.signature()?.to_owned()),
        b'v' => {
            let mut inner = reader.variant()?;
            let value = read(&mut inner)?;
            assert!(inner.is_done());
            Value::Variant(Box::new(value))
        }
        b'a' => {
            let element = complete_types(signature).next().unwrap()[1..].to_owned();
            let mut values = Vec::new();
            reader.array(|reader| {
                values.push(read(reader)?);
                Ok(())
            })?;
            Value::Array(element, values)
        }
        _ => {
            let entry = signature.starts_with('{');
            let mut fields = reader.struct_(read_all)?;
            if entry {
                let value = Box::new(fields.pop().unwrap());
                Value::DictEntry(Box::new(fields.pop().unwrap()), value)
            } else {
                Value::Struct(fields)
            }
        }
    })
}

fn read_all(reader: &mut Reader<'_>) -> Result<Vec<Value>, BodyError> {
    let mut values = Vec::new();
    while !reader.signature_left().is_empty() {
        values.push(read(reader)?);
    }
    Ok(values)
}

fn basic_type() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "y", "b", "n", "q", "i", "u", "x", "t", "d", "h", "s", "o", "g",
    ])
    .prop_map(str::to_owned)
}

fn single_type() -> impl Strategy<Value = String> {
    prop_oneof![3 => basic_type(), 1 => Just("v".to_owned())].prop_recursive(4, 12, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|element| format!("a{element}")),
            (basic_type(), inner.clone()).prop_map(|(key, value)| format!("a{{{key}{value}}}")),
            prop::collection::vec(inner, 1..4).prop_map(|fields| format!("({})", fields.concat())),
        ]
    })
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof!["/".prop_map(|s| s), "(/[a-zA-Z0-9_]{1,8}){1,4}"]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.]{0,12}", "[^\0]{0,6}"]
}

fn value_of(signature: &str, depth: usize) -> BoxedStrategy<Value> {
    match signature.as_bytes()[0] {
        b'y' => any::<u8>().prop_map(Value::Byte).boxed(),
        b'b' => any::<bool>().prop_map(Value::Boolean).boxed(),
        b'n' => any::<i16>().prop_map(Value::I16).boxed(),
        b'q' => any::<u16>().prop_map(Value::U16).boxed(),
        b'i' => any::<i32>().prop_map(Value::I32).boxed(),
        b'u' => any::<u32>().prop_map(Value::U32).boxed(),
        b'x' => any::<i64>().prop_map(Value::I64).boxed(),
        b't' => any::<u64>().prop_map(Value::U64).boxed(),
        b'd' => any::<u64>().prop_map(Value::Double).boxed(),
        b'h' => (0..3u32).prop_map(Value::UnixFd).boxed(),
        b's' => text().prop_map(Value::Str).boxed(),
        b'o' => path().prop_map(Value::Path).boxed(),
        b'g' => single_type().prop_map(Value::Signature).boxed(),
        b'v' if depth == 0 => any::<u8>()
            .prop_map(|v| Value::Variant(Box::new(Value::Byte(v))))
            .boxed(),
        b'v' => single_type()
            .prop_flat_map(move |signature| value_of(&signature, depth - 1))
            .prop_map(|value| Value::Variant(Box::new(value)))
            .boxed(),
        b'a' => {
            let element = signature[1..].to_owned();
            prop::collection::vec(value_of(&element, depth), 0..4)
                .prop_map(move |values| Value::Array(element.clone(), values))
                .boxed()
        }
        bracket => {
            let inner = &signature[1..signature.len() - 1];
            let fields: Vec<_> = complete_types(inner)
                .map(|field| value_of(field, depth))
                .collect();
            fields
                .prop_map(move |mut fields| {
                    if bracket == b'(' {
                        return Value::Struct(fields);
                    }
                    let value = Box::new(fields.pop().unwrap());
                    Value::DictEntry(Box::new(fields.pop().unwrap()), value)
                })
                .boxed()
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    single_type().prop_flat_map(|signature| value_of(&signature, 2))
}

fn values() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(value(), 0..5)
}

fn endian() -> impl Strategy<Value = Endian> {
    prop_oneof![Just(Endian::Little), Just(Endian::Big)]
}

proptest! {
    #[test]
    fn what_is_written_is_valid_and_reads_back(values in values(), endian in endian()) {
        let body = body_of(endian, &values);
        let signature: String = values.iter().map(Value::signature).collect();
        prop_assert_eq!(&body.signature, &signature);
        prop_assert_eq!(check_signature(&signature), Ok(()));
        prop_assert_eq!(check_body(endian, &signature, &body.bytes, 3), Ok(()));
        let mut reader = body.reader();
        prop_assert_eq!(read_all(&mut reader).unwrap(), values.clone());
        prop_assert!(reader.is_done());
        // Skipping goes as far as reading.
        let mut reader = body.reader();
        for _ in &values {
            reader.skip().unwrap();
        }
        prop_assert!(reader.is_done());
        // Appended behind something odd, it is the same values.
        let moved = Body::with_endian(endian).byte(1).append(&body);
        prop_assert_eq!(check_body(endian, &moved.signature, &moved.bytes, 3), Ok(()));
        let mut reader = moved.reader();
        reader.byte().unwrap();
        prop_assert_eq!(read_all(&mut reader).unwrap(), values);
    }

    #[test]
    fn a_body_that_is_cut_or_longer_is_refused(values in values(), endian in endian()) {
        let body = body_of(endian, &values);
        for len in 0..body.bytes.len() {
            prop_assert!(check_body(endian, &body.signature, &body.bytes[..len], 3).is_err());
        }
        let mut longer = body.bytes.clone();
        longer.push(0);
        prop_assert!(check_body(endian, &body.signature, &longer, 3).is_err());
    }

    #[test]
    fn the_check_and_the_reader_agree_on_damaged_bodies(
        values in values(),
        endian in endian(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = body_of(endian, &values);
        if !body.bytes.is_empty() {
            for (at, byte) in damage {
                let at = at.index(body.bytes.len());
                body.bytes[at] = byte;
            }
        }
        let mut reader = body.reader();
        let read = read_all(&mut reader).is_ok() && reader.is_done();
        // Any index but the last is fine to a reader, which does not know how many there are.
        let checked = check_body(endian, &body.signature, &body.bytes, u32::MAX).is_ok();
        prop_assert_eq!(read, checked);
    }

    #[test]
    fn arguments_are_those_that_a_reader_finds(values in values(), endian in endian(), order in prop::collection::vec(0usize..9, 1..9)) {
        let body = body_of(endian, &values);
        let message = Builder::signal("/", "a.b", "C").endian(endian).body(&body).build();
        let header_len = Prologue::parse(message.first_chunk().unwrap()).unwrap().header_len();
        let header = Header::parse(&message[..header_len]).unwrap();
        let args = Args::new(&header, &message[header_len..]);
        for number in order {
            let expected = match values.get(number) {
                Some(Value::Str(text)) => Some(Arg::Str(text)),
                Some(Value::Path(path)) => Some(Arg::ObjectPath(path)),
                _ => None,
            };
            prop_assert_eq!(args.arg(number), expected);
        }
    }

    #[test]
    fn arguments_of_damaged_bodies_are_harmless(signature in "[ybsogva(){}]{0,6}", bytes in prop::collection::vec(0u8..9, 0..40)) {
        let body = Body::from_parts(Endian::Little, signature, bytes);
        let message = Builder::signal("/", "a.b", "C").body(&body).build();
        let header_len = Prologue::parse(message.first_chunk().unwrap()).unwrap().header_len();
        let header = Header::parse(&message[..header_len]).unwrap();
        let args = Args::new(&header, &message[header_len..]);
        for number in 0..64 {
            let _ = args.arg(number);
        }
    }
}

// ---- messages ----------------------------------------------------------------------------------

/// The header fields of a message, in any order.
#[derive(Clone, Debug)]
struct Fields {
    endian: Endian,
    kind: u8,
    flags: u8,
    serial: u32,
    fields: Vec<(u8, Value)>,
    body: Vec<Value>,
}

impl Fields {
    fn build(&self) -> Vec<u8> {
        let body = body_of(self.endian, &self.body);
        let mut builder = Builder::new(MessageType::from_byte(self.kind))
            .endian(self.endian)
            .flags(Flags(self.flags))
            .serial(self.serial);
        for (code, value) in &self.fields {
            builder = builder.field(*code, value.write(Body::with_endian(self.endian)));
        }
        let signature = Value::Signature(body.signature.clone());
        builder = builder.field(8, signature.write(Body::with_endian(self.endian)));
        let mut bytes = builder.build();
        // The builder would put a signature of its own first; this body comes without one.
        let len = u32::try_from(body.bytes.len()).unwrap();
        bytes[4..8].copy_from_slice(&self.endian.u32_bytes(len));
        bytes.extend_from_slice(&body.bytes);
        bytes
    }

    fn get(&self, wanted: u8) -> Option<&Value> {
        self.fields
            .iter()
            .find(|(code, _)| *code == wanted)
            .map(|(_, value)| value)
    }

    fn text(&self, wanted: u8) -> Option<&str> {
        match self.get(wanted) {
            Some(Value::Str(text) | Value::Path(text)) => Some(text),
            _ => None,
        }
    }

    fn number(&self, wanted: u8) -> Option<u32> {
        match self.get(wanted) {
            Some(Value::U32(number)) => Some(*number),
            _ => None,
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![":[0-9]{1,3}\\.[0-9]{1,8}", "[a-z]{1,9}(\\.[a-z]{1,9}){1,3}"]
}

fn fields() -> impl Strategy<Value = Fields> {
    let optional = |code: u8, value: BoxedStrategy<Value>| {
        prop::option::of(value.prop_map(move |value| (code, value)))
    };
    let interface = || {
        "[a-z]{1,9}(\\.[a-z]{1,9}){1,3}"
            .prop_map(Value::Str)
            .boxed()
    };
    let known = (
        optional(1, path().prop_map(Value::Path).boxed()),
        optional(2, interface()),
        optional(3, "[A-Z][a-z]{1,9}".prop_map(Value::Str).boxed()),
        optional(4, interface()),
        optional(5, (1..u32::MAX).prop_map(Value::U32).boxed()),
        optional(6, name().prop_map(Value::Str).boxed()),
        optional(7, name().prop_map(Value::Str).boxed()),
        optional(9, (3..9u32).prop_map(Value::U32).boxed()),
    );
    let unknown = prop::collection::vec((10u8.., value()), 0..4);
    let all = (known, unknown)
        .prop_map(|((a, b, c, d, e, f, g, h), unknown)| {
            let known = [a, b, c, d, e, f, g, h].into_iter().flatten();
            known.chain(unknown).collect::<Vec<_>>()
        })
        .prop_shuffle();
    (endian(), 1u8.., any::<u8>(), 1u32.., all, values()).prop_map(
        |(endian, kind, flags, serial, fields, body)| Fields {
            endian,
            kind,
            flags,
            serial,
            fields,
            body,
        },
    )
}

fn header_of(bytes: &[u8]) -> Header<'_> {
    let prologue = Prologue::parse(bytes.first_chunk().unwrap()).unwrap();
    Header::parse(&bytes[..prologue.header_len()]).unwrap()
}

fn assert_header(header: &Header<'_>, fields: &Fields) {
    assert_eq!(header.endian, fields.endian);
    assert_eq!(header.kind.byte(), fields.kind);
    assert_eq!(header.flags.0, fields.flags);
    assert_eq!(header.serial, fields.serial);
    assert_eq!(header.path, fields.text(1));
    assert_eq!(header.interface, fields.text(2));
    assert_eq!(header.member, fields.text(3));
    assert_eq!(header.error_name, fields.text(4));
    assert_eq!(header.reply_serial, fields.number(5));
    assert_eq!(header.destination, fields.text(6));
    assert_eq!(header.sender, fields.text(7));
    assert_eq!(header.unix_fds, fields.number(9).unwrap_or(0));
    let signature: String = fields.body.iter().map(Value::signature).collect();
    assert_eq!(header.signature, signature);
}

fn change() -> impl Strategy<Value = Option<Option<String>>> {
    prop::option::of(prop::option::of(name()))
}

fn as_change(change: &Option<Option<String>>) -> Change<'_> {
    match change {
        None => Change::Keep,
        Some(None) => Change::Remove,
        Some(Some(name)) => Change::Set(name),
    }
}

/// The unknown fields with their bytes, in order. A reader is stricter than [`Header::parse`], which
/// leaves paths and signatures to [`Header::check`].
fn unknown_fields(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, BodyError> {
    let header = header_of(bytes);
    let fields_len = header.endian.u32(bytes[12..16].try_into().unwrap());
    // The header is itself a value: an array of code and variant, behind four words.
    let body = &bytes[..16 + fields_len as usize];
    let mut reader = Reader::new(header.endian, "yyyyuua(yv)", body);
    for _ in 0..6 {
        reader.skip()?;
    }
    let mut found = Vec::new();
    reader.array(|element| {
        element.struct_(|field| {
            let code = field.byte()?;
            let start = field.position();
            field.skip()?;
            if code > 9 {
                found.push((code, body[start..field.position()].to_vec()));
            }
            Ok(())
        })
    })?;
    assert!(reader.is_done());
    Ok(found)
}

proptest! {
    #[test]
    fn every_field_is_read_in_any_order(fields in fields()) {
        let bytes = fields.build();
        assert_header(&header_of(&bytes), &fields);
    }

    #[test]
    fn a_rewrite_changes_what_it_should_and_keeps_the_rest(
        fields in fields(),
        sender in change(),
        destination in change(),
        serial in prop::option::of(1u32..),
        reply_serial in prop::option::of(1u32..),
        flags in prop::option::of(any::<u8>()),
        known_only: bool,
        offset in 0usize..9,
    ) {
        let bytes = fields.build();
        let header = header_of(&bytes);
        let edit = Edit {
            known_fields_only: known_only,
            sender: as_change(&sender),
            destination: as_change(&destination),
            serial,
            reply_serial,
            flags: flags.map(Flags),
            body_len: None,
        };
        let mut out = vec![0xff; offset];
        header.rewrite(&edit, &mut out);
        let new_bytes = &out[offset..];
        let new = header_of(new_bytes);
        prop_assert_eq!(new_bytes.len(), new.raw().len());

        let mut expected = fields.clone();
        let mut set = |code: u8, value: Option<Value>| {
            expected.fields.retain(|(other, _)| *other != code);
            expected.fields.extend(value.map(|value| (code, value)));
        };
        if let Some(name) = destination { set(6, name.map(Value::Str)) }
        if let Some(name) = sender { set(7, name.map(Value::Str)) }
        if let Some(number) = reply_serial { set(5, Some(Value::U32(number))) }
        expected.serial = serial.unwrap_or(expected.serial);
        expected.flags = flags.unwrap_or(expected.flags);
        assert_header(&new, &expected);
        prop_assert_eq!(new.body_len, header.body_len);
        if known_only {
            expected.fields.retain(|(code, _)| *code <= 9);
            prop_assert_eq!(unknown_fields(new_bytes), Ok(Vec::new()));
        } else {
            prop_assert_eq!(unknown_fields(new_bytes), unknown_fields(&bytes));
        }
        // And the padding is what the specification wants of an array: none at its end.
        let expected_len = expected.build().len() - new.body_len as usize;
        prop_assert_eq!(new_bytes.len(), expected_len);
    }

    #[test]
    fn every_split_of_a_stream_gives_the_same_messages(messages in prop::collection::vec(fields(), 1..4)) {
        let messages: Vec<Vec<u8>> = messages.iter().map(Fields::build).collect();
        let stream = messages.concat();
        // One byte at a time, and in every split of two.
        let chunks_of_one: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(collect(&chunks_of_one), messages.clone());
        for at in 0..=stream.len() {
            let (first, second) = stream.split_at(at);
            prop_assert_eq!(collect(&[first, second]), messages.clone());
        }
    }

    #[test]
    fn scan_never_asks_for_less_than_it_has(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        match scan(&bytes) {
            Ok(Scan::NeedBytes(need)) => prop_assert!(need > bytes.len()),
            Ok(Scan::Message(prologue)) => prop_assert!(prologue.header_len() <= bytes.len()),
            Err(_) => prop_assert!(bytes.len() >= 16),
        }
    }

    #[test]
    fn damaged_headers_are_parsed_or_refused(
        fields in fields(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = fields.build();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Scan::Message(prologue)) = scan(&bytes)
            && let Ok(header) = Header::parse(&bytes[..prologue.header_len()])
        {
            let _ = header.check();
            let mut out = Vec::new();
            header.rewrite(&Edit { sender: Change::Set(":1.1"), ..Edit::default() }, &mut out);
            let new = header_of(&out);
            prop_assert_eq!(new.sender, Some(":1.1"));
            prop_assert_eq!(new.destination, header.destination);
            if let Ok(unknown) = unknown_fields(&bytes) {
                prop_assert_eq!(unknown_fields(&out), Ok(unknown));
            }
        }
    }
}

/// Messages out of chunks, as a connection does it.
fn collect(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut buffer: Vec<u8> = Vec::new();
    let mut messages = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Scan::Message(prologue) = scan(&buffer).unwrap() {
            if buffer.len() < prologue.message_len() {
                break;
            }
            messages.push(buffer.drain(..prologue.message_len()).collect());
        }
    }
    assert!(buffer.is_empty());
    messages
}

// ---- match rules -------------------------------------------------------------------------------

fn match_rule() -> impl Strategy<Value = MatchRule> {
    let kind = prop::option::of(prop::sample::select(vec![
        MessageType::MethodCall,
        MessageType::MethodReturn,
        MessageType::Error,
        MessageType::Signal,
    ]));
    let boxed = |s: String| s.into_boxed_str();
    let optional_name = move || prop::option::of(name().prop_map(boxed));
    let interface = prop::option::of("[a-z]{1,9}(\\.[a-z]{1,9}){1,3}".prop_map(boxed));
    let member = prop::option::of("[A-Za-z]{1,9}".prop_map(boxed));
    let path = prop::option::of(prop_oneof![
        path().prop_map(move |p| PathMatch::Exact(boxed(p))),
        path().prop_map(move |p| PathMatch::Namespace(boxed(p))),
    ]);
    let any_text = || "[ -~äö\\\\',=\n]{0,9}".prop_map(boxed);
    let args = prop::collection::btree_map(
        0u8..64,
        prop_oneof![
            any_text().prop_map(ArgMatch::Str),
            any_text().prop_map(ArgMatch::Path)
        ],
        0..5,
    );
    let namespace = prop::option::of("[a-z]{1,9}(\\.[a-z]{1,9}){0,3}".prop_map(boxed));
    (
        kind,
        optional_name(),
        optional_name(),
        interface,
        member,
        path,
        (args, namespace),
        any::<Option<bool>>(),
    )
        .prop_map(
            |(
                kind,
                sender,
                destination,
                interface,
                member,
                path,
                (mut args, namespace),
                eavesdrop,
            )| {
                if let Some(namespace) = namespace {
                    args.insert(0, ArgMatch::Namespace(namespace));
                }
                MatchRule {
                    kind,
                    sender,
                    destination,
                    interface,
                    member,
                    path,
                    args: args.into_iter().collect(),
                    eavesdrop,
                }
            },
        )
}

proptest! {
    #[test]
    fn a_rule_is_read_from_its_own_text(rule in match_rule()) {
        let text = rule.to_string();
        prop_assert_eq!(MatchRule::parse(&text).unwrap(), rule);
    }

    #[test]
    fn the_order_of_keys_means_nothing(rule in match_rule(), by in 0usize..9) {
        // The text of each value is the same wherever it stands: single out the pairs by building
        // rules of one key each.
        let mut pairs: Vec<String> = Vec::new();
        let mut one = |rule: MatchRule| pairs.push(rule.to_string());
        one(MatchRule { kind: rule.kind, ..MatchRule::default() });
        one(MatchRule { sender: rule.sender.clone(), ..MatchRule::default() });
        one(MatchRule { destination: rule.destination.clone(), ..MatchRule::default() });
        one(MatchRule { interface: rule.interface.clone(), ..MatchRule::default() });
        one(MatchRule { member: rule.member.clone(), ..MatchRule::default() });
        one(MatchRule { path: rule.path.clone(), ..MatchRule::default() });
        one(MatchRule { eavesdrop: rule.eavesdrop, ..MatchRule::default() });
        for arg in &rule.args {
            one(MatchRule { args: Box::new([arg.clone()]), ..MatchRule::default() });
        }
        pairs.retain(|pair| !pair.is_empty());
        let len = pairs.len().max(1);
        pairs.rotate_left(by % len);
        prop_assert_eq!(MatchRule::parse(&pairs.join(",")).unwrap(), rule);
    }

    #[test]
    fn any_text_is_a_rule_or_is_refused(text in "[a-z0-9=,'\\\\ ]{0,40}") {
        if let Ok(rule) = MatchRule::parse(&text) {
            prop_assert_eq!(MatchRule::parse(&rule.to_string()).unwrap(), rule);
        }
    }
}

// ---- names -------------------------------------------------------------------------------------

/// The rules for names, told slowly.
mod slow {
    fn elements(name: &str, may: fn(char) -> bool, first: fn(char) -> bool) -> bool {
        name.split('.')
            .all(|element| element.starts_with(first) && element.chars().all(may))
    }
    fn word(c: char) -> bool {
        c.is_ascii_alphanumeric() || c == '_'
    }
    fn word_hyphen(c: char) -> bool {
        word(c) || c == '-'
    }
    pub fn unique(name: &str) -> bool {
        name.len() <= 255
            && name
                .strip_prefix(':')
                .is_some_and(|name| name.contains('.') && elements(name, word_hyphen, |_| true))
    }
    pub fn namespace(name: &str) -> bool {
        name.len() <= 255 && elements(name, word_hyphen, |c| !c.is_ascii_digit())
    }
    pub fn well_known(name: &str) -> bool {
        namespace(name) && name.contains('.')
    }
    pub fn interface(name: &str) -> bool {
        name.len() <= 255 && name.contains('.') && elements(name, word, |c| !c.is_ascii_digit())
    }
    pub fn member(name: &str) -> bool {
        name.len() <= 255 && !name.contains('.') && elements(name, word, |c| !c.is_ascii_digit())
    }
    pub fn path(path: &str) -> bool {
        path == "/"
            || path.strip_prefix('/').is_some_and(|path| {
                path.split('/')
                    .all(|element| !element.is_empty() && element.chars().all(word))
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn names_are_judged_by_the_specification(name in "[a1A_.:/ä-]{0,7}") {
        prop_assert_eq!(is_unique_name(&name), slow::unique(&name));
        prop_assert_eq!(is_well_known_name(&name), slow::well_known(&name));
        prop_assert_eq!(is_interface_name(&name), slow::interface(&name));
        prop_assert_eq!(is_error_name(&name), slow::interface(&name));
        prop_assert_eq!(is_member_name(&name), slow::member(&name));
        prop_assert_eq!(is_object_path(&name), slow::path(&name));
        if !name.starts_with(':') {
            prop_assert_eq!(is_bus_name(&name), slow::well_known(&name));
            prop_assert_eq!(is_namespace(&name), slow::namespace(&name));
        } else if slow::unique(&name) {
            prop_assert!(is_bus_name(&name) && is_namespace(&name));
        }
    }

    #[test]
    fn signatures_are_those_that_consist_of_complete_types(signature in "[ysva(){}]{0,9}") {
        let valid = check_signature(&signature).is_ok();
        prop_assert_eq!(valid, slow_signature(&signature));
        if valid {
            let types: Vec<_> = complete_types(&signature).collect();
            prop_assert_eq!(types.concat(), signature.as_str());
            for single in types {
                prop_assert_eq!(dbus_wire::check_single(single), Ok(()));
            }
        }
    }
}

fn slow_signature(signature: &str) -> bool {
    let mut rest = signature;
    while !rest.is_empty() {
        match slow_type(rest) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

fn slow_type(signature: &str) -> Option<&str> {
    let first = signature.chars().next()?;
    match first {
        'y' | 's' | 'v' => Some(&signature[1..]),
        'a' if signature.starts_with("a{") => {
            let key = &signature[2..];
            if !key.starts_with(['y', 's']) {
                return None;
            }
            slow_type(&key[1..])?.strip_prefix('}')
        }
        'a' => slow_type(&signature[1..]),
        '(' => {
            let mut rest = slow_type(&signature[1..])?;
            loop {
                if let Some(rest) = rest.strip_prefix(')') {
                    return Some(rest);
                }
                rest = slow_type(rest)?;
            }
        }
        _ => None,
    }
}

// ---- authentication ----------------------------------------------------------------------------

fn sasl_script() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        &b"AUTH EXTERNAL 31303030\r\n"[..],
        b"AUTH EXTERNAL\r\n",
        b"DATA\r\n",
        b"BEGIN\r\n",
        b"NEGOTIATE_UNIX_FD\r\n",
        b"AUTH EXTERNAL 30\r\n",
        b"CANCEL\r\n",
        b"\r\r\n",
        b"\n\r\n",
        b"\r",
        b"\n",
        b"AUTH ANONYMOUS\r\n",
        b"l\x01\0\x01",
    ]);
    prop::collection::vec(line, 0..8).prop_map(|lines| [&b"\0"[..], &lines.concat()].concat())
}

/// What a server answers, how many bytes it took, and how it ended, when fed in these pieces.
fn serve(pieces: &[&[u8]]) -> (Vec<u8>, usize, Result<bool, SaslError>) {
    let mut server = Server::new(ServerConfig::new([7; 16], 1000));
    let mut out = Vec::new();
    let mut consumed = 0;
    for piece in pieces {
        match server.feed(piece, &mut out) {
            Ok(progress) => {
                consumed += progress.consumed;
                if progress.done.is_some() {
                    return (out, consumed, Ok(true));
                }
                assert_eq!(progress.consumed, piece.len());
            }
            Err(error) => return (out, 0, Err(error)),
        }
    }
    (out, consumed, Ok(false))
}

proptest! {
    #[test]
    fn a_server_answers_the_same_however_its_input_is_split(script in sasl_script()) {
        let whole = serve(&[&script]);
        let bytes: Vec<&[u8]> = script.chunks(1).collect();
        prop_assert_eq!(serve(&bytes), whole.clone());
        for at in 0..=script.len() {
            let (first, second) = script.split_at(at);
            prop_assert_eq!(serve(&[first, second]), whole.clone());
        }
    }

    #[test]
    fn a_client_understands_the_same_however_its_input_is_split(
        uid in prop::option::of(Just(1000u32)),
        want_fds: bool,
        allow_fds: bool,
        at in any::<prop::sample::Index>(),
    ) {
        let mut config = ServerConfig::new([7; 16], 1000);
        config.allow_fds = allow_fds;
        let mut client = Client::new(ClientConfig { uid, want_fds });
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        client.start(&mut to_server);
        Server::new(config).feed(&to_server, &mut to_client).unwrap();
        let (first, second) = to_client.split_at(at.index(to_client.len()));
        let progress = client.feed(first).unwrap();
        prop_assert_eq!(progress.done, None);
        prop_assert_eq!(progress.consumed, first.len());
        let done = client.feed(second).unwrap().done.unwrap();
        prop_assert_eq!(done.unix_fds, want_fds && allow_fds);
        prop_assert_eq!(done.guid, "07".repeat(16));
    }
}

// ---- addresses ---------------------------------------------------------------------------------

proptest! {
    #[test]
    fn an_address_is_read_from_its_own_text(path in prop::collection::vec(1u8.., 1..40), args in prop::collection::vec(".{0,5}", 0..4)) {
        use std::os::unix::ffi::OsStringExt;
        let text = std::ffi::OsString::from_vec(path.clone());
        let list = vec![
            Address::Unix(UnixTarget::Path(text.clone().into())),
            Address::Unix(UnixTarget::Abstract(path)),
            Address::Unix(UnixTarget::Dir(text.clone().into())),
            Address::Unix(UnixTarget::Tmpdir(text.clone().into())),
            Address::Unix(UnixTarget::Runtime),
            Address::UnixExec { path: text.into(), argv0: args.first().cloned(), args },
            Address::Unsupported { transport: "tcp".into() },
        ];
        let text: Vec<String> = list.iter().map(Address::to_string).collect();
        prop_assert_eq!(parse_addresses(&text.join(";")).unwrap(), list);
    }

    #[test]
    fn any_text_is_addresses_or_is_refused_at_a_place(text in "[a-z=:;,%0-9ä/]{0,30}") {
        if let Err(error) = parse_addresses(&text) {
            prop_assert!(error.at <= text.len());
        }
    }

    #[test]
    fn what_is_escaped_is_plain(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let escaped = address::escape(&bytes);
        prop_assert!(escaped.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/\\*.%".contains(&b)));
    }
}

// ---- limits ------------------------------------------------------------------------------------

#[test]
fn a_message_of_two_gigabytes_is_refused_by_its_first_bytes() {
    for endian in [Endian::Little, Endian::Big] {
        let mut bytes = vec![endian.marker(), 1, 0, 1];
        bytes.extend_from_slice(&endian.u32_bytes(0x7fff_ffff));
        bytes.extend_from_slice(&endian.u32_bytes(1));
        bytes.extend_from_slice(&endian.u32_bytes(0));
        assert!(scan(&bytes).is_err());
    }
}

#[test]
fn an_array_of_64_mib_is_the_longest() {
    let limit = 64 << 20;
    let mut body = Body::new().bytes(&vec![0; limit]);
    assert_eq!(check_body(Endian::Little, "ay", &body.bytes, 0), Ok(()));
    body = Body::new().bytes(&vec![0; limit + 1]);
    assert_eq!(
        check_body(Endian::Little, "ay", &body.bytes, 0),
        Err(BodyError::ArrayTooLong { at: 0 })
    );
    assert_eq!(
        body.reader().bytes(),
        Err(BodyError::ArrayTooLong { at: 0 })
    );
}

#[test]
fn an_object_path_may_be_as_long_as_a_message() {
    let path = format!("/{}", "x".repeat(1 << 20));
    let message = Builder::method_call(&path, "M").build();
    assert_eq!(
        Message::parse(message).unwrap().header().path,
        Some(path.as_str())
    );
}

#[test]
fn a_descriptor_has_to_come_with_the_message() {
    let body = Body::new()
        .unix_fd(0)
        .array("h", |a| a.unix_fd(1).unix_fd(2));
    for (count, fine) in [(0, false), (1, false), (2, false), (3, true)] {
        let message = Builder::method_call("/", "M")
            .unix_fds(count)
            .body(&body)
            .build();
        assert_eq!(Message::parse(message).is_ok(), fine, "{count}");
    }
}
