//! Accepts clients that send the path of the socket as `:authority`.
//!
//! Drivers up to v1.5.6 dial the socket by its path, and grpc-go then sends `:authority: /provider/vault.sock`, or,
//! from some version on, the same percent-encoded. This is not a valid authority (RFC 3986 section 3.2), so h2 resets the
//! stream with `PROTOCOL_ERROR`, and has no switch for it (secrets-store-csi-driver#1862, h2#487).
//! [`AuthorityRepair`] sits between the socket and h2 and overwrites the value with one of the same length on the
//! wire, so that nothing around it changes.
//!
//! A value arrives in pieces, and its first octet does not show whether it is valid. So every literal value of
//! `:authority` is overwritten, a valid one too, and no handler may rely on the authority of a request. An empty
//! value has no valid authority of its length; it passes.
//!
//! Octets are changed where they lie in the caller's read buffer. Nothing is copied, held back or collected: a header
//! block may have any size, and a client's state is a few counters, never its data.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A server's side of a connection, on which every `:authority` read is a valid one. Writes pass unchanged.
#[derive(Debug)]
pub(crate) struct AuthorityRepair<S> {
    io: S,
    client: ClientOctets,
}

impl<S> AuthorityRepair<S> {
    /// Wraps a connection of which nothing has been read yet.
    pub(crate) fn new(io: S) -> Self {
        Self { io, client: ClientOctets::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityRepair<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.client.feed(&mut buf.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityRepair<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The client's connection preface (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The octets of a frame header: length (3), type, flags, stream (4) (RFC 9113 section 4.1).
const FRAME_HEADER: usize = 9;

/// Frame types (RFC 9113 sections 6.2 and 6.10).
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;

/// Flags of HEADERS; the first also of CONTINUATION (RFC 9113 sections 6.2 and 6.10).
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The client violated HTTP/2 or HPACK in a way that ends the connection. h2 detects it, too, and closes.
#[derive(Debug)]
struct Malformed;

/// Everything the client sends, from its preface on: frames, and the header blocks within.
///
/// Once a client is malformed, or if it does not use HTTP/2 at all, its octets pass: h2 rejects it. h2 also enforces
/// the limits (sizes of frames and header lists) and the order of streams, which do not affect the position of a value.
#[derive(Debug, Default)]
struct ClientOctets {
    /// Everything passes unread. Once true, it is never false again.
    opaque: bool,
    /// Octets of the preface seen so far.
    preface: usize,
    /// The frame header in progress, and the octets of it seen so far.
    header: [u8; FRAME_HEADER],
    header_seen: usize,
    frame: Frame,
    /// The last header block goes on: the next frame must be its CONTINUATION.
    block_open: bool,
    blocks: HeaderBlocks,
}

/// The rest of a frame's payload, in wire order (RFC 9113 section 6.2).
#[derive(Debug, Default)]
struct Frame {
    /// The next octet is the length of the padding.
    pad_length: bool,
    /// Stream dependency and weight, five octets in all.
    priority: usize,
    fragment: usize,
    /// The padding; in a frame that carries no header block, the payload.
    rest: usize,
}

impl ClientOctets {
    /// Takes the next octets from the client and overwrites what is part of an `:authority` among them.
    ///
    /// The result does not depend on how the stream is split into calls.
    fn feed(&mut self, mut octets: &mut [u8]) {
        while !octets.is_empty() && !self.opaque {
            match self.read(octets) {
                Ok(read) => octets = &mut octets[read..],
                Err(Malformed) => self.opaque = true,
            }
        }
    }

    /// Reads from the front of at least one octet. Returns how many it read: at least one.
    fn read(&mut self, octets: &mut [u8]) -> Result<usize, Malformed> {
        let frame = &mut self.frame;
        if self.preface < PREFACE.len() {
            let matches = octets[0] == PREFACE[self.preface];
            self.preface += 1;
            if matches { Ok(1) } else { Err(Malformed) }
        } else if frame.pad_length {
            frame.pad_length = false;
            frame.rest = usize::from(octets[0]);
            frame.fragment = frame.fragment.checked_sub(frame.rest).ok_or(Malformed)?;
            Ok(1)
        } else if frame.priority > 0 {
            Ok(take(&mut frame.priority, octets.len()))
        } else if frame.fragment > 0 {
            let read = take(&mut frame.fragment, octets.len());
            for octet in &mut octets[..read] {
                self.blocks.read(octet)?;
            }
            Ok(read)
        } else if frame.rest > 0 {
            Ok(take(&mut frame.rest, octets.len()))
        } else {
            self.read_frame_header(octets[0])
        }
    }

    fn read_frame_header(&mut self, octet: u8) -> Result<usize, Malformed> {
        self.header[self.header_seen] = octet;
        self.header_seen += 1;
        if self.header_seen == FRAME_HEADER {
            self.header_seen = 0;
            self.frame = self.begin_frame()?;
        }
        Ok(1)
    }

    /// Interprets a complete frame header.
    fn begin_frame(&mut self) -> Result<Frame, Malformed> {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        // Nothing else comes between the frames of a block, and CONTINUATION nowhere else (RFC 9113 section 6.10).
        if self.block_open != (kind == CONTINUATION) {
            return Err(Malformed);
        }
        if kind != HEADERS && kind != CONTINUATION {
            return Ok(Frame { rest: length, ..Frame::default() });
        }
        if kind == HEADERS && !self.blocks.at_field() {
            return Err(Malformed);
        }
        self.block_open = flags & END_HEADERS == 0;
        let pad_length = kind == HEADERS && flags & PADDED != 0;
        let priority = if kind == HEADERS && flags & PRIORITY != 0 { 5 } else { 0 };
        let fragment = length.checked_sub(usize::from(pad_length) + priority).ok_or(Malformed)?;
        Ok(Frame { pad_length, priority, fragment, rest: 0 })
    }
}

/// Subtracts up to `available` from `left`. Returns how many.
fn take(left: &mut usize, available: usize) -> usize {
    let taken = available.min(*left);
    *left -= taken;
    taken
}

/// `:authority`, raw and in Huffman code, of which a string has exactly one (RFC 7541 section 5.2 and appendix B).
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// Its index in the static table, and that of the newest entry of the dynamic table (RFC 7541 section 2.3.3, appendix
/// A).
const AUTHORITY_INDEX: usize = 1;
const NEWEST_INDEX: usize = 62;

/// The octet that values are overwritten with: any number of them is a valid authority (RFC 3986 section 3.2.2).
const FILL: u8 = b'x';

/// In the first octet of a string: it is in Huffman code (RFC 7541 section 5.2).
const HUFFMAN: u8 = 0x80;

/// The shift of the last octet that an integer may have, here as in h2 (RFC 7541 section 5.1 asks for a limit).
const LAST_SHIFT: u32 = 21;

/// The client's HPACK, one octet at a time, through all header blocks of the connection (RFC 7541).
///
/// # The dynamic table
///
/// A value in Huffman code is overwritten by a raw one of the same length on the wire, so what h2 puts into its
/// dynamic table differs from what the client put into its own, in content and in size. The two still agree on every
/// index:
///
/// - The size of an entry counts decoded octets (RFC 7541 section 4.1). A raw value keeps its size. One of `n` octets
///   of Huffman code had `m` decoded, and now has `n`. Clients use Huffman code only where it is shorter (grpc-go, by
///   golang.org/x/net) or never for such a value (gRPC C-core), so `n <= m`: no entry is larger for h2 than for the
///   client.
/// - Then the client's table is always a prefix of h2's, newest entry first. Both start empty. An insertion, and a
///   change of the maximum size, which both sides learn alike, keep the longest prefix that fits (RFC 7541 sections
///   4.3 and 4.4), and none takes more octets for h2 than for the client. An entry that fits nowhere in the client's
///   table leaves it empty.
/// - Indices count from the newest entry (RFC 7541 section 2.3.3), so each that the client can use means the same to
///   h2.
///
/// From a client that sends Huffman code where it is longer, h2 could evict an old entry too early. An index may then
/// find nothing, which ends the connection, but never another entry.
///
/// A literal may also take its name from the dynamic table, where `:authority` is found once it came with indexing. To
/// know such a name takes no sizes: index 62 + k is the k-th insertion before the last. Those that did not fit count,
/// since they emptied the table, so that nothing from before them is ever referred to. The last 128 are enough: the
/// table has 4096 octets unless our SETTINGS allow more, and an entry takes 32 at least (RFC 9113 section 6.5.2, RFC
/// 7541 section 4.1).
#[derive(Debug, Default)]
struct HeaderBlocks {
    next: Next,
    /// The literal in progress is an `:authority`, as far as it has been read.
    authority: bool,
    /// The literal in progress enters the dynamic table.
    inserted: bool,
    /// Bit k: the k-th insertion before the last has the name `:authority`.
    dynamic: u128,
}

/// Meaning of the next octet of a header block.
#[derive(Debug, Default, Clone, Copy)]
enum Next {
    /// The first octet of a field, or of a change of the table's size (RFC 7541 section 6).
    #[default]
    Field,
    /// The first octet of a literal's name.
    NameLength,
    /// The first octet of a literal's value.
    ValueLength,
    /// A further octet of an integer, to be added shifted left.
    Integer { of: Integer, value: usize, shift: u32 },
    /// An octet of a name. The name it is compared with has the same length, unless the two are known to differ.
    Name { left: usize, expected: &'static [u8] },
    /// An octet of a value.
    Value { left: usize },
}

/// Meaning of an integer.
#[derive(Debug, Clone, Copy)]
enum Integer {
    /// Nothing here: the index of a whole field, the size of the table.
    Passing,
    NameIndex,
    NameLength(&'static [u8]),
    ValueLength,
}

impl HeaderBlocks {
    /// Returns true if no field is in progress, as at the end of a block.
    fn at_field(&self) -> bool {
        matches!(self.next, Next::Field)
    }

    /// Reads an octet of a header block, and overwrites it if it is part of the value of an `:authority`.
    fn read(&mut self, octet: &mut u8) -> Result<(), Malformed> {
        self.next = match self.next {
            Next::Field => self.begin_field(*octet),
            Next::NameLength => {
                let expected = if *octet & HUFFMAN == 0 { AUTHORITY } else { AUTHORITY_HUFFMAN };
                self.begin_integer(Integer::NameLength(expected), 7, *octet)
            }
            Next::ValueLength => {
                if self.authority {
                    *octet &= !HUFFMAN;
                }
                self.begin_integer(Integer::ValueLength, 7, *octet)
            }
            Next::Integer { of, value, shift } => self.resume_integer(of, value, shift, *octet)?,
            Next::Name { left, expected } => {
                self.authority = self.authority && *octet == expected[expected.len() - left];
                name(left - 1, expected)
            }
            Next::Value { left } => {
                if self.authority {
                    *octet = FILL;
                }
                self.value(left - 1)
            }
        };
        Ok(())
    }

    fn begin_field(&mut self, octet: u8) -> Next {
        let (of, prefix) = match octet {
            0x80.. => (Integer::Passing, 7),       // an indexed field, section 6.1
            0x40..0x80 => (Integer::NameIndex, 6), // a literal with indexing, section 6.2.1
            0x20..0x40 => (Integer::Passing, 5),   // the table's size, section 6.3
            0x00..0x20 => (Integer::NameIndex, 4), // a literal without or never indexed, sections 6.2.2 and 6.2.3
        };
        self.inserted = matches!(octet, 0x40..0x80);
        self.begin_integer(of, prefix, octet)
    }

    /// Reads the first octet of an integer, which has it in its low `prefix` bits (RFC 7541 section 5.1).
    fn begin_integer(&mut self, of: Integer, prefix: u32, octet: u8) -> Next {
        let full = (1 << prefix) - 1;
        let value = usize::from(octet) & full;
        if value < full { self.end_integer(of, value) } else { Next::Integer { of, value, shift: 0 } }
    }

    fn resume_integer(&mut self, of: Integer, value: usize, shift: u32, octet: u8) -> Result<Next, Malformed> {
        let value = value + (usize::from(octet & 0x7f) << shift);
        if octet & 0x80 == 0 {
            Ok(self.end_integer(of, value))
        } else if shift < LAST_SHIFT {
            Ok(Next::Integer { of, value, shift: shift + 7 })
        } else {
            Err(Malformed)
        }
    }

    fn end_integer(&mut self, of: Integer, value: usize) -> Next {
        match of {
            Integer::Passing => Next::Field,
            Integer::NameIndex if value == 0 => Next::NameLength,
            Integer::NameIndex => {
                self.authority = self.is_authority(value);
                Next::ValueLength
            }
            Integer::NameLength(expected) => {
                self.authority = value == expected.len();
                name(value, expected)
            }
            Integer::ValueLength => self.value(value),
        }
    }

    /// Returns the next state when `left` octets of a value remain. The end of a value ends its field.
    fn value(&mut self, left: usize) -> Next {
        if left > 0 {
            return Next::Value { left };
        }
        if self.inserted {
            self.dynamic = self.dynamic << 1 | u128::from(self.authority);
        }
        Next::Field
    }

    /// Returns true if the field at this index, which is not 0, has the name `:authority`.
    fn is_authority(&self, index: usize) -> bool {
        let age = index.checked_sub(NEWEST_INDEX).filter(|&age| age < 128);
        index == AUTHORITY_INDEX || age.is_some_and(|age| self.dynamic >> age & 1 == 1)
    }
}

/// Returns the next state when `left` octets of a name remain.
fn name(left: usize, expected: &'static [u8]) -> Next {
    match left {
        0 => Next::ValueLength,
        _ => Next::Name { left, expected },
    }
}

#[cfg(test)]
mod tests;
