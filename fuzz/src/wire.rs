//! What `dbus-wire` reads.

use dbus_wire::sasl::{Client, ClientConfig, MAX_LINE_LEN, SaslError, Server, ServerConfig};
use dbus_wire::{
    Arg, Args, Body, BodyError, Builder, Change, Edit, Endian, Flags, FrameError, Header,
    MatchRule, Message, Prologue, Reader, Scan, UniqueName, WellKnownName, address, check_body,
    check_signature, check_single, complete_types, is_bus_name, is_interface_name, is_namespace,
    is_object_path, is_unique_name, is_well_known_name, parse_address_list, scan,
};

/// The first byte decides; the rest is for the target.
pub(crate) fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first()
        .map_or((0, data), |(&first, rest)| (first, rest))
}

/// A stream of messages in pieces: the same messages, and the same end, whatever the pieces. The first
/// byte says how long they are.
pub fn frames(data: &[u8]) {
    let (size, stream) = choice(data);
    let whole = collect(std::iter::once(stream));
    let size = usize::from(size).max(1);
    assert_eq!(collect(stream.chunks(size)), whole);
    let (first, second) = stream.split_at(size.min(stream.len()));
    assert_eq!(collect([first, second].into_iter()), whole);
}

/// The lengths of the messages in a stream, and the fault at its end.
fn collect<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<usize>, Option<FrameError>) {
    let mut buffer: Vec<u8> = Vec::new();
    let mut lengths = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match scan(&buffer) {
                Err(error) => return (lengths, Some(error)),
                Ok(Scan::NeedBytes(need)) => {
                    assert!(need > buffer.len());
                    break;
                }
                Ok(Scan::Message(prologue)) => {
                    assert!(prologue.header_len() <= buffer.len());
                    if prologue.message_len() > buffer.len() {
                        break;
                    }
                    lengths.push(prologue.message_len());
                    buffer.drain(..prologue.message_len());
                }
            }
        }
    }
    (lengths, None)
}

/// A header that is parsed, rewritten, and parsed again: what was to change has changed, all else has
/// not. The first byte chooses the edit.
pub fn header(data: &[u8]) {
    let (edit, bytes) = choice(data);
    let Ok(Scan::Message(prologue)) = scan(bytes) else {
        return;
    };
    let Ok(header) = Header::parse(&bytes[..prologue.header_len()]) else {
        // What parse refuses is no message either.
        assert!(Message::parse(bytes.to_vec()).is_err());
        return;
    };
    let checked = header.check().is_ok();
    let changes = [
        Change::Keep,
        Change::Remove,
        Change::Set(":1.1"),
        Change::Set("org.kde.foo"),
    ];
    let edit = Edit {
        known_fields_only: false,
        sender: changes[usize::from(edit & 3)],
        destination: changes[usize::from(edit >> 2 & 3)],
        reply_serial: (edit & 16 != 0).then_some(77),
        serial: (edit & 32 != 0).then_some(78),
        flags: (edit & 64 != 0).then_some(Flags(0xff)),
        body_len: (edit & 128 != 0).then_some(8),
    };
    let mut out = vec![0xff];
    header.rewrite(&edit, &mut out);
    // One name more can make the longest header too long.
    let new = match Header::parse(&out[1..]) {
        Ok(new) => new,
        Err(error) => {
            assert!(bytes.len() > 1 << 20, "{error}");
            return;
        }
    };
    let expect = |change: Change<'static>, before: Option<&str>, after: Option<&str>| match change {
        Change::Keep => assert_eq!(after, before),
        Change::Remove => assert_eq!(after, None),
        Change::Set(name) => assert_eq!(after, Some(name)),
    };
    expect(edit.sender, header.sender, new.sender);
    expect(edit.destination, header.destination, new.destination);
    assert_eq!(new.reply_serial, edit.reply_serial.or(header.reply_serial));
    assert_eq!(new.serial, edit.serial.unwrap_or(header.serial));
    assert_eq!(new.flags, edit.flags.unwrap_or(header.flags));
    assert_eq!(new.body_len, edit.body_len.unwrap_or(header.body_len));
    assert_eq!(
        (
            new.endian,
            new.kind,
            new.path,
            new.interface,
            new.member,
            new.error_name
        ),
        (
            header.endian,
            header.kind,
            header.path,
            header.interface,
            header.member,
            header.error_name
        )
    );
    assert_eq!(
        (new.signature, new.unix_fds),
        (header.signature, header.unix_fds)
    );
    if edit.reply_serial.is_some()
        || edit.sender == Change::Keep && edit.destination == Change::Keep
    {
        assert!(!checked || new.check().is_ok());
    }
    assert_eq!(field_count(&out[1..]), {
        let gone = |change: Change<'_>, there: bool| match change {
            Change::Keep => 0,
            Change::Remove => -i64::from(there),
            Change::Set(_) => i64::from(!there),
        };
        field_count(header.raw()).map(|count| {
            count
                + gone(edit.sender, header.sender.is_some())
                + gone(edit.destination, header.destination.is_some())
                + i64::from(edit.reply_serial.is_some() && header.reply_serial.is_none())
        })
    });

    let mut filtered = Vec::new();
    let known = Edit {
        known_fields_only: true,
        ..edit
    };
    header.rewrite(&known, &mut filtered);
    let filtered = Header::parse(&filtered).expect("no longer than the other");
    assert_eq!(
        (
            filtered.path,
            filtered.sender,
            filtered.destination,
            filtered.signature,
            filtered.unix_fds
        ),
        (
            new.path,
            new.sender,
            new.destination,
            new.signature,
            new.unix_fds
        )
    );
    assert_eq!(
        (
            filtered.serial,
            filtered.reply_serial,
            filtered.member,
            filtered.interface,
            filtered.error_name
        ),
        (
            new.serial,
            new.reply_serial,
            new.member,
            new.interface,
            new.error_name
        )
    );

    let whole = bytes.get(..prologue.message_len());
    if let Some(Ok(message)) = whole.map(|whole| Message::parse(whole.to_vec())) {
        assert!(checked);
        let body = message.body();
        arguments(&message.header(), body);
    }
}

/// How many fields a header has, by a reader; `None` if a path or signature in it is not valid, which a
/// reader minds and [`Header::parse`] does not.
fn field_count(header: &[u8]) -> Option<i64> {
    let prologue = Prologue::parse(header.first_chunk()?).ok()?;
    let fields = &header[..16 + prologue.fields_len as usize];
    let mut reader = Reader::new(prologue.endian, "yyyyuua(yv)", fields);
    for _ in 0..6 {
        reader.skip().ok()?;
    }
    let mut count = 0;
    reader
        .array(|_| {
            count += 1;
            Ok(())
        })
        .ok()?;
    assert!(reader.is_done());
    Some(count)
}

/// A body that is checked and one that is read: both find the same. The first byte is the byte order and
/// the length of the signature, which follows, and then the body.
pub fn body(data: &[u8]) {
    let (first, rest) = choice(data);
    let endian = if first & 0x80 == 0 {
        Endian::Little
    } else {
        Endian::Big
    };
    let (signature, bytes) = rest.split_at(rest.len().min(usize::from(first & 0x7f)));
    let Ok(signature) = std::str::from_utf8(signature) else {
        return;
    };
    let checked = check_body(endian, signature, bytes, u32::MAX);
    if check_signature(signature).is_err() {
        assert!(matches!(checked, Err(BodyError::Signature(_))));
        // Nothing is promised but that nothing breaks.
        let _ = read_all(&mut Reader::new(endian, signature, bytes));
        return;
    }
    let mut reader = Reader::new(endian, signature, bytes);
    let read = read_all(&mut reader);
    assert_eq!(
        checked.is_ok(),
        read.is_ok() && reader.is_done(),
        "check {checked:?}, read {read:?}"
    );
    let mut reader = Reader::new(endian, signature, bytes);
    let mut skipped = Ok(());
    while skipped.is_ok() && !reader.signature_left().is_empty() {
        skipped = reader.skip();
    }
    assert_eq!(checked.is_ok(), skipped.is_ok() && reader.is_done());

    let parts = Body::from_parts(endian, signature, bytes.to_vec());
    let message = Builder::signal("/", "a.b", "C")
        .endian(endian)
        .body(&parts)
        .build();
    let Ok(Scan::Message(prologue)) = scan(&message) else {
        panic!("a whole message");
    };
    let header = Header::parse(&message[..prologue.header_len()]).expect("built here");
    let args = Args::new(&header, bytes);
    for number in [5, 0, 63, 64] {
        let _ = args.arg(number);
    }
    if checked.is_ok() {
        arguments(&header, bytes);
        // Behind one byte more, the values are the same.
        let moved = Body::with_endian(endian).byte(1).append(&parts);
        assert_eq!(
            check_body(endian, &moved.signature, &moved.bytes, u32::MAX),
            Ok(())
        );
    }
}

/// The arguments that rules see are those that a reader finds in a checked body.
fn arguments(header: &Header<'_>, body: &[u8]) {
    let args = Args::new(header, body);
    let mut reader = Reader::new(header.endian, header.signature, body);
    for number in 0..64 {
        let expected = match reader.signature_left().as_bytes().first() {
            Some(b's') => Some(Arg::Str(reader.str().expect("checked"))),
            Some(b'o') => Some(Arg::ObjectPath(reader.object_path().expect("checked"))),
            Some(_) => {
                reader.skip().expect("checked");
                None
            }
            None => None,
        };
        assert_eq!(args.arg(number), expected);
    }
}

fn read_all(reader: &mut Reader<'_>) -> Result<(), BodyError> {
    while let Some(&code) = reader.signature_left().as_bytes().first() {
        match code {
            b'y' => reader.byte().map(drop)?,
            b'b' => reader.boolean().map(drop)?,
            b'n' => reader.i16().map(drop)?,
            b'q' => reader.u16().map(drop)?,
            b'i' => reader.i32().map(drop)?,
            b'u' => reader.u32().map(drop)?,
            b'x' => reader.i64().map(drop)?,
            b't' => reader.u64().map(drop)?,
            b'd' => reader.double().map(drop)?,
            b'h' => reader.unix_fd().map(drop)?,
            b's' => reader.str().map(drop)?,
            b'o' => reader.object_path().map(drop)?,
            b'g' => reader.signature().map(drop)?,
            b'v' => {
                let mut value = reader.variant()?;
                // A variant's value was checked with it.
                read_all(&mut value).expect("checked by variant()");
                assert!(value.is_done());
            }
            b'a' => reader.array(read_all)?,
            b'(' | b'{' => reader.struct_(read_all)?,
            _ => reader.skip()?,
        }
    }
    Ok(())
}

/// A rule and its text: the text of a rule is the rule. It may be too long, because quotes make it longer.
pub fn match_rule(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(rule) = MatchRule::parse(text) else {
        return;
    };
    let canonical = rule.to_string();
    if canonical.len() <= dbus_wire::match_rule::MAX_RULE_LEN {
        let again = MatchRule::parse(&canonical).expect("its own text");
        assert_eq!(again, rule);
        assert_eq!(again.to_string(), canonical);
    }
    let body = Body::new().str("a.b").object_path("/a").u32(1).str("c");
    let message = Builder::signal("/a/b", "a.b", "C").body(&body).build();
    let message = Message::parse(message).expect("built here");
    let header = message.header();
    let args = Args::new(&header, message.body());
    assert_eq!(
        rule.matches(&header, &args),
        rule.matches(&header, &Args::new(&header, message.body()))
    );
}

/// What a server answers to a stranger: the same however the bytes come, and never much. The first byte
/// is the configuration and the length of the pieces.
pub fn sasl_server(data: &[u8]) {
    let (first, input) = choice(data);
    let mut config = ServerConfig::new([7; 16], 1000);
    config.allow_anonymous = first & 1 != 0;
    config.allow_fds = first & 2 != 0;
    config.accept_uid = (first & 4 != 0).then_some(0);
    let serve = |size: usize| {
        let mut server = Server::new(config);
        let mut out = Vec::new();
        let mut consumed = 0;
        for piece in input.chunks(size.max(1)) {
            match server.feed(piece, &mut out) {
                Err(error) => return (out, Err(error)),
                Ok(progress) => {
                    consumed += progress.consumed;
                    if progress.done.is_some() {
                        return (out, Ok((consumed, progress.done)));
                    }
                    assert_eq!(progress.consumed, piece.len());
                }
            }
        }
        (out, Ok((consumed, None)))
    };
    let (out, result) = serve(usize::MAX);
    assert!(out.len() < MAX_LINE_LEN);
    if let Ok((consumed, Some(done))) = &result {
        assert!(input[..*consumed].ends_with(b"\r\n"));
        assert!(!done.anonymous || config.allow_anonymous);
        assert!(!done.unix_fds || config.allow_fds);
        assert!(out.windows(3).any(|three| three == b"OK "));
    }
    assert_eq!(serve(usize::from(first >> 3)), (out, result));
}

/// What a client makes of a server's answers.
pub fn sasl_client(data: &[u8]) {
    let (first, input) = choice(data);
    let config = ClientConfig {
        uid: (first & 1 != 0).then_some(1000),
        want_fds: first & 2 != 0,
    };
    let read = |size: usize| {
        let mut client = Client::new(config);
        let mut consumed = 0;
        for piece in input.chunks(size.max(1)) {
            let progress = client.feed(piece)?;
            consumed += progress.consumed;
            if progress.done.is_some() {
                return Ok((consumed, progress.done));
            }
            assert_eq!(progress.consumed, piece.len());
        }
        Ok::<_, SaslError>((consumed, None))
    };
    let whole = read(usize::MAX);
    if let Ok((_, Some(done))) = &whole {
        assert!(!done.unix_fds || config.want_fds);
    }
    if let Err(error) = &whole {
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(read(usize::from(first >> 2)), whole);
}

/// A list of addresses and its text.
pub fn addresses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse_address_list(text) {
        Ok(list) => {
            assert!(!list.is_empty());
            let canonical: Vec<String> = list.iter().map(ToString::to_string).collect();
            let again = parse_address_list(&canonical.join(";")).expect("its own text");
            assert_eq!(again, list);
        }
        Err(error) => assert!(error.at <= text.len() && text.is_char_boundary(error.at)),
    }
    let escaped = address::escape(data);
    if !data.is_empty() {
        let list = dbus_wire::parse_addresses(&format!("unix:abstract={escaped}"));
        let expected = dbus_wire::UnixTarget::Abstract(data.to_vec());
        assert_eq!(list, Ok(vec![dbus_wire::Address::Unix(expected)]));
    }
}

/// Names and signatures: the rules that imply each other.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    assert!(!is_interface_name(text) || is_well_known_name(text));
    assert!(!is_well_known_name(text) || (is_bus_name(text) && is_namespace(text)));
    assert!(!is_unique_name(text) || (is_bus_name(text) && !is_well_known_name(text)));
    assert!(!is_object_path(text) || text == "/" || !text.ends_with('/'));
    if let Some(unique) = UniqueName::parse(text) {
        assert!(is_unique_name(text));
        assert_eq!(unique.to_string(), text);
    }
    assert_eq!(WellKnownName::parse(text).is_ok(), is_well_known_name(text));
    let types: Vec<&str> = complete_types(text).collect();
    match check_signature(text) {
        Ok(()) => {
            assert_eq!(types.concat(), text);
            assert!(types.iter().all(|single| check_single(single).is_ok()));
            assert_eq!(check_single(text).is_ok(), types.len() == 1);
        }
        Err(_) => assert!(check_single(text).is_err()),
    }
}
