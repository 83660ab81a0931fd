//! Wire bytes in, wire bytes out, and the requests that h2 parses from them.

use std::{collections::VecDeque, future::poll_fn};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::UnixStream,
};

use super::*;

const DATA: u8 = 0x0;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const END_STREAM: u8 = 0x1;

/// `/provider/vault.sock` in Huffman code.
const PATH_HUFFMAN: &[u8] = b"\x62\xbb\x0f\xdc\xd2\x16\xc6\x3b\x8e\xda\x12\xba\x0e\x4e\xbf";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A whole request that has only headers.
fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

/// The octets of a client that sends these frames.
fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b""), &frames.concat()].concat()
}

/// Returns the output when the octets arrive in reads of these sizes, repeated.
fn repaired_in(sizes: &[usize], sent: &[u8]) -> Vec<u8> {
    let mut client = ClientOctets::default();
    let mut out = sent.to_vec();
    let mut left = &mut out[..];
    for size in sizes.iter().cycle() {
        let (read, later) = left.split_at_mut((*size).min(left.len()));
        client.feed(read);
        left = later;
        if left.is_empty() {
            break;
        }
    }
    out
}

fn repaired(sent: &[u8]) -> Vec<u8> {
    repaired_in(&[usize::MAX], sent)
}

/// Header blocks as they are sent, and as h2 should see them.
fn blocks() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let long = |start: &[u8], fill: u8, length: usize| [start, &vec![fill; length]].concat();
    let short: [(_, &[u8], &[u8]); _] = [
        ("with indexing", b"\x41\x07/v.sock", b"\x41\x07xxxxxxx"),
        ("without indexing", b"\x01\x07/v.sock", b"\x01\x07xxxxxxx"),
        ("never indexed", b"\x11\x07/v.sock", b"\x11\x07xxxxxxx"),
        ("percent-encoded", b"\x41\x09%2Fv.sock", b"\x41\x09xxxxxxxxx"),
        ("valid", b"\x41\x09localhost", b"\x41\x09xxxxxxxxx"),
        ("a literal name", b"\x40\x0a:authority\x02/v", b"\x40\x0a:authority\x02xx"),
        ("a literal name, not indexed", b"\x00\x0a:authority\x02/v", b"\x00\x0a:authority\x02xx"),
        ("a literal name, never indexed", b"\x10\x0a:authority\x02/v", b"\x10\x0a:authority\x02xx"),
        (
            "a Huffman-coded name",
            b"\x40\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f\x02/v",
            b"\x40\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f\x02xx",
        ),
        ("the newest name", b"\x40\x0a:authority\x02/a\x7e\x02/b", b"\x40\x0a:authority\x02xx\x7e\x02xx"),
        ("an older name", b"\x41\x02/a\x44\x02/p\x0f\x30\x02/b", b"\x41\x02xx\x44\x02/p\x0f\x30\x02xx"),
        ("after the table's size", b"\x2f\x3f\xe1\x1f\x41\x02/v", b"\x2f\x3f\xe1\x1f\x41\x02xx"),
        ("amid other fields", b"\x83\x44\x02/p\x41\x02/v\x86", b"\x83\x44\x02/p\x41\x02xx\x86"),
        ("twice", b"\x41\x02/v\x01\x02/v", b"\x41\x02xx\x01\x02xx"),
        // These are no authority, or none that can be repaired.
        ("another static name", b"\x44\x02/v\x42\x02/v", b"\x44\x02/v\x42\x02/v"),
        ("another name of that length", b"\x40\x0a:authoritx\x02/v", b"\x40\x0a:authoritx\x02/v"),
        ("a longer name", b"\x40\x0b:authoritys\x02/v", b"\x40\x0b:authoritys\x02/v"),
        ("a shorter name", b"\x40\x09:authorit\x02/v", b"\x40\x09:authorit\x02/v"),
        ("an empty name", b"\x40\x00\x02/v", b"\x40\x00\x02/v"),
        ("another dynamic name", b"\x41\x01a\x44\x02/p\x7e\x02/v", b"\x41\x01x\x44\x02/p\x7e\x02/v"),
        ("a name that was not indexed", b"\x41\x01a\x04\x02/p\x01\x01a", b"\x41\x01x\x04\x02/p\x01\x01x"),
        ("a dynamic name that is not there", b"\x7e\x02/v\x0f\xff\xff\x7f\x02/v", b"\x7e\x02/v\x0f\xff\xff\x7f\x02/v"),
        ("an empty value", b"\x41\x00\x44\x02/v", b"\x41\x00\x44\x02/v"),
    ];
    let mut blocks = vec![
        ("Huffman-coded", [b"\x41\x8f", PATH_HUFFMAN].concat(), b"\x41\x0fxxxxxxxxxxxxxxx".to_vec()),
        ("long", long(b"\x41\x7f\xad\x01", b'/', 300), long(b"\x41\x7f\xad\x01", b'x', 300)),
        ("long, Huffman-coded", long(b"\x41\xff\xad\x01", 0x18, 300), long(b"\x41\x7f\xad\x01", b'x', 300)),
        (
            "a length with zeros",
            long(b"\x41\x7f\x80\x80\x80\x00", b'/', 127),
            long(b"\x41\x7f\x80\x80\x80\x00", b'x', 127),
        ),
    ];
    blocks.extend(short.map(|(form, sent, seen)| (form, sent.to_vec(), seen.to_vec())));
    blocks
}

#[test]
fn literal_values_of_authority_are_overwritten() {
    for (form, sent, seen) in blocks() {
        let (sent, seen) = (connection(&[headers(1, &sent)]), connection(&[headers(1, &seen)]));
        assert_eq!(repaired(&sent).escape_ascii().to_string(), seen.escape_ascii().to_string(), "{form}");
    }
}

#[test]
fn a_block_may_be_cut_into_frames_anywhere() {
    let cut = |block: &[u8], at: usize| {
        let (first, last) = block.split_at(at);
        let frames = [
            frame(HEADERS, END_STREAM, 1, first),
            frame(CONTINUATION, 0, 1, b""),
            frame(CONTINUATION, END_HEADERS, 1, last),
            headers(3, b"\x41\x02/v"),
        ];
        connection(&frames)
    };
    for (form, sent, seen) in blocks() {
        for at in 0..=sent.len() {
            let seen = cut(&seen, at)[..].strip_suffix(b"/v").unwrap().to_vec();
            assert_eq!(repaired(&cut(&sent, at)), [&seen[..], b"xx"].concat(), "{form}, at {at}");
        }
    }
}

#[test]
fn padding_and_priority_pass() {
    let with = |flags: u8, before: &[u8], value: &[u8], after: &[u8]| {
        let payload = [before, b"\x41\x02", value, after].concat();
        connection(&[frame(0x1, 0x04 | flags, 1, &payload)])
    };
    // Flags as numbers, to pin them. What surrounds the fragment would be repaired if it were read as one.
    for (flags, before, after) in [
        (0x08, &b"\x00"[..], &b""[..]),
        (0x08, b"\x04", b"\x41\x02/v"),
        (0x20, b"\x41\x03/a\x07", b""),
        (0x28, b"\x04\x41\x03/a\x07", b"\x41\x02/v"),
    ] {
        let sent = with(flags, before, b"/v", after);
        assert_eq!(repaired(&sent), with(flags, before, b"xx", after), "{flags:#x}");
    }
}

#[test]
fn other_frames_pass() {
    let hidden = headers(1, b"\x41\x02/v");
    let others = (0..=u8::MAX).filter(|kind| ![HEADERS, CONTINUATION].contains(kind));
    let mut frames: Vec<_> = others.map(|kind| frame(kind, u8::MAX, 1, &hidden)).collect();
    frames.push(frame(DATA, 0, 1, &hidden.repeat(6000)));
    let unchanged = connection(&frames);
    assert_eq!(repaired(&unchanged), unchanged);

    frames.push(headers(3, b"\x41\x02/v"));
    let tail = repaired(&connection(&frames));
    assert!(tail.ends_with(b"\x41\x02xx"), "the frame after them is still found");
}

#[test]
fn the_dynamic_table_is_known_128_insertions_back() {
    // 62 + 127 is 15 + 174, and 62 + 128 is 15 + 175, in an integer of 4 bits.
    let block = |authority: &[u8; 2], found: &[u8; 2]| {
        let insertions = b"\x44\x00".repeat(127);
        let block = [b"\x41\x02", &authority[..], &insertions, b"\x0f\xae\x01\x02", found, b"\x0f\xaf\x01\x02/v"];
        connection(&[headers(1, &block.concat())])
    };
    assert_eq!(repaired(&block(b"/v", b"/v")), block(b"xx", b"xx"));
}

/// Connections that break off, each in its own way.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let ok = headers(1, b"\x82\x86\x84\x41\x01a");
    let open = frame(HEADERS, END_STREAM, 1, b"\x82");
    vec![
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: /v.sock\r\n\r\n".to_vec()),
        ("almost the preface", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\t", &ok[..]].concat()),
        ("CONTINUATION of nothing", connection(&[frame(CONTINUATION, END_HEADERS, 1, b"\x82")])),
        ("HEADERS amid a block", connection(&[open.clone(), headers(1, b"\x86\x84")])),
        ("DATA amid a block", connection(&[open, frame(DATA, 0, 1, b"")])),
        ("a block that ends in a name", connection(&[headers(1, b"\x82\x86\x84\x40\x09:auth")])),
        ("a block that ends in a length", connection(&[headers(1, b"\x82\x86\x84\x41\x7f")])),
        ("more padding than payload", connection(&[frame(HEADERS, END_HEADERS | PADDED, 1, b"\x02\x82")])),
        ("no pad length", connection(&[frame(HEADERS, END_HEADERS | PADDED, 256, b"")])),
        ("no priority", connection(&[frame(HEADERS, END_HEADERS | PRIORITY, 1, b"\0\0\0\0")])),
        ("a huge length", connection(&[headers(1, b"\x82\x86\x84\x44\x7f\xff\xff\xff\xff\x0f/")])),
        ("a huge index", connection(&[headers(1, b"\x82\x86\x84\xff\x80\x80\x80\x80\x00")])),
    ]
}

#[test]
fn everything_passes_once_the_client_is_malformed() {
    let later = headers(3, b"\x41\x02/v");
    for (how, sent) in malformed() {
        // With zeros between, so that none of the ways to go on reading would miss the next frame's start.
        for gap in 0..300 {
            let sent = [&sent[..], &vec![0; gap], &later].concat();
            assert_eq!(repaired(&sent), sent, "{how}, {gap}");
        }
    }
}

/// A field as a client may send it. An index into the dynamic table is picked when it is known what is there.
#[derive(Debug, Clone)]
enum Field {
    Indexed(usize),
    TableSize(usize),
    Literal { form: Form, name: Name, value: Text },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Indexing,
    NotIndexed,
    NeverIndexed,
}

#[derive(Debug, Clone)]
enum Name {
    Static(usize),
    Dynamic(Index),
    Literal(Text),
}

/// A string as on the wire. In Huffman code it is made of `////`, which takes three octets.
#[derive(Debug, Clone)]
enum Text {
    Raw(Vec<u8>),
    Slashes(usize),
    Authority,
}

impl Text {
    fn encode(&self, out: &mut Vec<u8>) {
        let (first, octets) = match self {
            Self::Raw(octets) => (0, octets.clone()),
            Self::Slashes(groups) => (HUFFMAN, b"\x61\x86\x18".repeat(*groups)),
            Self::Authority => (HUFFMAN, AUTHORITY_HUFFMAN.to_vec()),
        };
        encode_integer(out, first, 7, octets.len());
        out.extend(octets);
    }

    fn overwritten(&self) -> Self {
        match self {
            Self::Raw(octets) => Self::Raw(vec![FILL; octets.len()]),
            Self::Slashes(groups) => Self::Raw(vec![FILL; 3 * groups]),
            Self::Authority => Self::Raw(vec![FILL; AUTHORITY_HUFFMAN.len()]),
        }
    }

    fn decoded_length(&self) -> usize {
        match self {
            Self::Raw(octets) => octets.len(),
            Self::Slashes(groups) => 4 * groups,
            Self::Authority => AUTHORITY.len(),
        }
    }

    fn is_authority(&self) -> bool {
        matches!(self, Self::Authority) || matches!(self, Self::Raw(octets) if octets == AUTHORITY)
    }
}

fn encode_integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let full = (1 << prefix) - 1;
    if value < full {
        return out.push(first | u8::try_from(value).unwrap());
    }
    out.push(first | u8::try_from(full).unwrap());
    let mut value = value - full;
    while value >= 128 {
        out.push(0x80 | u8::try_from(value % 128).unwrap());
        value /= 128;
    }
    out.push(u8::try_from(value).unwrap());
}

/// A client with the dynamic table that RFC 7541 section 4 gives it: the newest entry first, of each its name's
/// length, its size, and whether its name is `:authority`.
struct Encoder {
    table: VecDeque<(usize, usize, bool)>,
    max_size: usize,
}

impl Encoder {
    fn new() -> Self {
        Self { table: VecDeque::new(), max_size: 4096 }
    }

    /// Makes room for an entry of this size, if there can be.
    fn evict(&mut self, size: usize) {
        while self.table.iter().map(|entry| entry.1).sum::<usize>() + size > self.max_size {
            if self.table.pop_back().is_none() {
                break;
            }
        }
    }

    /// Appends a field as sent, and as h2 should see it.
    fn encode(&mut self, field: &Field, sent: &mut Vec<u8>, seen: &mut Vec<u8>) {
        let mut alike = Vec::new();
        let mut literal = None;
        match field {
            Field::Indexed(index) => encode_integer(&mut alike, 0x80, 7, *index),
            Field::TableSize(size) => {
                encode_integer(&mut alike, 0x20, 5, *size);
                self.max_size = *size;
                self.evict(0);
            }
            Field::Literal { form, name, value } => {
                let (length, authority) = self.encode_name(*form, name, &mut alike);
                if *form == Form::Indexing {
                    self.insert(length, length + value.decoded_length() + 32, authority);
                }
                literal = Some((value, authority));
            }
        }
        sent.extend(&alike);
        seen.extend(&alike);
        if let Some((value, authority)) = literal {
            value.encode(sent);
            if authority { value.overwritten().encode(seen) } else { value.encode(seen) }
        }
    }

    fn insert(&mut self, length: usize, size: usize, authority: bool) {
        self.evict(size);
        if size <= self.max_size {
            self.table.push_front((length, size, authority));
        }
    }

    /// Answers the length of the name, and whether it is `:authority`.
    fn encode_name(&self, form: Form, name: &Name, out: &mut Vec<u8>) -> (usize, bool) {
        let (first, prefix) = match form {
            Form::Indexing => (0x40, 6),
            Form::NotIndexed => (0x00, 4),
            Form::NeverIndexed => (0x10, 4),
        };
        match name {
            Name::Literal(text) => {
                out.push(first);
                text.encode(out);
                (text.decoded_length(), text.is_authority())
            }
            Name::Dynamic(pick) if !self.table.is_empty() => {
                let age = pick.index(self.table.len());
                encode_integer(out, first, prefix, NEWEST_INDEX + age);
                (self.table[age].0, self.table[age].2)
            }
            // Any length does for the names of the static table: it makes the sizes no less arbitrary.
            Name::Dynamic(_) => {
                encode_integer(out, first, prefix, AUTHORITY_INDEX);
                (10, true)
            }
            Name::Static(index) => {
                encode_integer(out, first, prefix, *index);
                (10, *index == AUTHORITY_INDEX)
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Sent {
    Block { fields: Vec<Field>, cuts: Vec<Index>, padding: Option<u8>, priority: bool },
    Other { kind: u8, flags: u8, payload: Vec<u8> },
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..20).prop_map(Text::Raw),
        1 => vec(any::<u8>(), 120..400).prop_map(Text::Raw),
        4 => (0usize..60).prop_map(Text::Slashes),
    ]
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        2 => Just(Name::Static(AUTHORITY_INDEX)),
        2 => (AUTHORITY_INDEX..NEWEST_INDEX).prop_map(Name::Static),
        3 => any::<Index>().prop_map(Name::Dynamic),
        1 => Just(Name::Literal(Text::Raw(AUTHORITY.to_vec()))),
        1 => Just(Name::Literal(Text::Authority)),
        2 => text().prop_map(Name::Literal),
    ]
}

fn field() -> impl Strategy<Value = Field> {
    let form = select(vec![Form::Indexing, Form::Indexing, Form::NotIndexed, Form::NeverIndexed]);
    prop_oneof![
        8 => (form, name(), text()).prop_map(|(form, name, value)| Field::Literal { form, name, value }),
        2 => (1usize..300).prop_map(Field::Indexed),
        1 => (0usize..=4096).prop_map(Field::TableSize),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let cuts = vec(any::<Index>(), 0..4);
    let block = (vec(field(), 0..12), cuts, any::<Option<u8>>(), any::<bool>());
    let kind = any::<u8>().prop_filter("carries no block", |kind| ![HEADERS, CONTINUATION].contains(kind));
    prop_oneof![
        2 => block.prop_map(|(fields, cuts, padding, priority)| Sent::Block { fields, cuts, padding, priority }),
        1 => (kind, any::<u8>(), vec(any::<u8>(), 0..600))
            .prop_map(|(kind, flags, payload)| Sent::Other { kind, flags, payload }),
    ]
}

/// Cuts a block into HEADERS and CONTINUATION.
fn cut(block: &[u8], cuts: &[Index], padding: Option<u8>, priority: bool) -> Vec<u8> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(block.len() + 1)).collect();
    cuts.sort_unstable();
    let starts = [&[0], &cuts[..]].concat();
    let ends = [&cuts[..], &[block.len()]].concat();
    let mut out = Vec::new();
    for (nth, (start, end)) in starts.into_iter().zip(ends).enumerate() {
        let end_headers = if nth == cuts.len() { END_HEADERS } else { 0 };
        let fragment = &block[start..end];
        if nth > 0 {
            out.extend(frame(CONTINUATION, end_headers | PADDED | PRIORITY, 1, fragment));
            continue;
        }
        let padded = if padding.is_some() { PADDED } else { 0 };
        let prioritized = if priority { PRIORITY } else { 0 };
        let fields: &[u8] = if priority { b"\x41\x03/v." } else { b"" };
        let trailer = vec![0x41; padding.unwrap_or(0).into()];
        let payload = [padding.as_slice(), fields, fragment, &trailer].concat();
        out.extend(frame(HEADERS, end_headers | padded | prioritized, 1, &payload));
    }
    out
}

proptest! {
    #[test]
    fn authorities_are_overwritten_and_nothing_else_is(
        frames in vec(sent(), 0..12),
        sizes in vec(1usize..200, 1..20),
    ) {
        let mut encoder = Encoder::new();
        let (mut sent, mut seen) = (PREFACE.to_vec(), PREFACE.to_vec());
        for frame_or_block in &frames {
            match frame_or_block {
                Sent::Block { fields, cuts, padding, priority } => {
                    let (mut block, mut block_seen) = (Vec::new(), Vec::new());
                    for field in fields {
                        encoder.encode(field, &mut block, &mut block_seen);
                    }
                    sent.extend(cut(&block, cuts, *padding, *priority));
                    seen.extend(cut(&block_seen, cuts, *padding, *priority));
                }
                Sent::Other { kind, flags, payload } => {
                    let other = frame(*kind, *flags, 1, payload);
                    sent.extend(&other);
                    seen.extend(&other);
                }
            }
        }
        prop_assert_eq!(&repaired(&sent), &seen);
        prop_assert_eq!(&repaired_in(&[1], &sent), &seen);
        prop_assert_eq!(&repaired_in(&sizes, &sent), &seen);
    }

    #[test]
    fn any_octets_are_survived(
        frames in vec((0u8..12, any::<u8>(), vec(any::<u8>(), 0..80)), 0..12),
        tail in vec(any::<u8>(), 0..400),
        sizes in vec(1usize..50, 1..20),
    ) {
        let frames: Vec<_> = frames.iter().map(|(kind, flags, payload)| frame(*kind, *flags, 1, payload)).collect();
        let sent = [PREFACE, &frames.concat(), &tail].concat();
        let out = repaired(&sent);
        prop_assert_eq!(&out, &repaired_in(&sizes, &sent));
        for (out, sent) in out.iter().zip(&sent) {
            prop_assert!(*out == *sent || *out == FILL || *out == *sent & !HUFFMAN);
        }
        prop_assert_eq!(repaired(&tail), tail, "no preface, no HTTP/2");
    }
}

/// The authorities of the requests that h2 accepts from a client that sends this and a GOAWAY, and how that
/// ended.
async fn accepted<S: AsyncRead + AsyncWrite + Unpin>(
    sent: &[u8],
    wrap: fn(DuplexStream) -> S,
) -> (Vec<String>, Result<(), h2::Error>) {
    let (mut client, server) = duplex(1 << 20);
    client.write_all(&[sent, &frame(GOAWAY, 0, 0, &[0; 8])].concat()).await.unwrap();
    let mut authorities = Vec::new();
    let mut connection = match h2::server::handshake(wrap(server)).await {
        Ok(connection) => connection,
        Err(error) => return (authorities, Err(error)),
    };
    while let Some(request) = connection.accept().await {
        match request {
            Ok((request, mut respond)) => {
                authorities.push(request.uri().authority().unwrap().to_string());
                respond.send_response(http::Response::new(()), true).unwrap();
            }
            Err(error) => return (authorities, Err(error)),
        }
    }
    (authorities, Ok(()))
}

/// `:method: GET`, `:scheme: http`, `:path: /`.
const REQUEST: &[u8] = b"\x82\x86\x84";

#[tokio::test]
async fn h2_accepts_a_path_only_when_repaired() {
    for (form, field) in [
        ("raw", b"\x41\x0d/x/vault.sock".to_vec()),
        ("percent-encoded", b"\x41\x11%2Fx%2Fvault.sock".to_vec()),
        ("Huffman-coded", [b"\x41\x8f", PATH_HUFFMAN].concat()),
        ("literal name", b"\x40\x0a:authority\x0d/x/vault.sock".to_vec()),
        ("Huffman-coded name", [b"\x40\x88", AUTHORITY_HUFFMAN, b"\x8f", PATH_HUFFMAN].concat()),
    ] {
        let block = [REQUEST, &field].concat();
        let (first, last) = block.split_at(block.len() - 4);
        let sent = connection(&[
            headers(1, &block),
            // The same from the dynamic table; then its name with another value; then as the first, but in two
            // frames.
            headers(3, &[REQUEST, b"\xbe"].concat()),
            headers(5, &[REQUEST, b"\x0f\x2f\x02/v"].concat()),
            frame(HEADERS, END_STREAM, 7, first),
            frame(CONTINUATION, END_HEADERS, 7, last),
        ]);

        let (refused, end) = accepted(&sent, |io| io).await;
        assert_eq!(refused, Vec::<String>::new(), "{form}");
        assert!(end.is_ok(), "{form}: {end:?}");

        let (authorities, end) = accepted(&sent, AuthorityRepair::new).await;
        let length = authorities[0].len();
        assert!([13, 15, 17].contains(&length), "{form}");
        let [same, short] = ["x".repeat(length), "xx".into()];
        assert_eq!(authorities, [same.clone(), same.clone(), short, same], "{form}");
        assert!(end.is_ok(), "{form}: {end:?}");
    }
}

#[tokio::test]
async fn h2_has_every_entry_that_the_client_has() {
    // Each `:authority` is an entry of 10 + 20 + 32 octets for the client, so it has the last 66 of them.
    let mut entries = 0;
    let mut frames = Vec::new();
    for stream in (1..).step_by(6).take(200) {
        entries = (entries + 1).min(4096 / 62);
        frames.push(headers(stream, &[REQUEST, b"\x41\x8f", PATH_HUFFMAN].concat()));
        let mut oldest = REQUEST.to_vec();
        encode_integer(&mut oldest, 0x80, 7, NEWEST_INDEX + entries - 1);
        frames.push(headers(stream + 2, &oldest));
        let mut name_of_oldest = REQUEST.to_vec();
        encode_integer(&mut name_of_oldest, 0x00, 4, NEWEST_INDEX + entries - 1);
        name_of_oldest.extend(b"\x0f/provider/v.soc");
        frames.push(headers(stream + 4, &name_of_oldest));
    }
    let (authorities, end) = accepted(&connection(&frames), AuthorityRepair::new).await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(authorities, vec!["x".repeat(15); 600]);
}

#[tokio::test]
async fn h2_refuses_what_is_given_up() {
    for (how, sent) in malformed() {
        // What ends inside a field shows with the next block, for us; h2 sees it at once.
        let (_, end) = accepted(&sent, |io| io).await;
        assert!(end.is_err(), "{how}");
    }
}

#[tokio::test]
async fn a_unix_stream_keeps_its_writes() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let vectored = server.is_write_vectored();
    let mut server = AuthorityRepair::new(server);
    assert_eq!(server.is_write_vectored(), vectored);

    let answer = connection(&[headers(1, b"\x41\x02/v")]);
    let (first, last) = answer.split_at(40);
    let written = server.write_vectored(&[io::IoSlice::new(first), io::IoSlice::new(last)]).await.unwrap();
    assert_eq!(written, answer.len(), "both slices at once");
    server.write_all(&answer).await.unwrap();
    server.shutdown().await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, answer.repeat(2), "what the server sends is not repaired");
}

#[tokio::test]
async fn only_what_a_read_adds_is_read() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut server = AuthorityRepair::new(server);
    client.write_all(&connection(&[headers(1, b"\x41\x02/v")])).await.unwrap();
    let mut buffer = [0; 200];
    let mut buf = ReadBuf::new(&mut buffer);
    buf.put_slice(b"earlier");
    poll_fn(|cx| Pin::new(&mut server).poll_read(cx, &mut buf)).await.unwrap();
    assert_eq!(buf.filled(), [b"earlier", &connection(&[headers(1, b"\x41\x02xx")])[..]].concat());
}
