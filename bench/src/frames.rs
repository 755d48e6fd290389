//! HTTP/2 written by hand, for peers that send what no library would.

/// The first bytes of a connection: the preface, and settings that change nothing.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The longest payload of a frame that a peer has to take.
pub const PAYLOAD_MAX: usize = 16_384;
/// The first window of a connection, and of each stream, in bytes.
pub const WINDOW: usize = 65_535;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default();
    let [_, length @ ..] = length.to_be_bytes();
    let head = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head.as_slice(), payload].concat()
}

/// The headers of a call of this path, without a token.
pub fn headers(stream: u32, path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut block = Vec::new();
    for (name, value) in headers {
        // A field that is not indexed, in plain text (RFC 7541, 6.2.2); each is shorter than 127 bytes.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or_default());
            block.extend(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A part of a body.
pub fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, bytes)
}

/// The end of a stream that nobody wants any more.
pub fn reset(stream: u32) -> Vec<u8> {
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    frame(RESET, 0, stream, &CANCEL)
}

/// A question that has to be answered.
pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[0; 8])
}

/// The windows that a peer has given, read from its bytes as they come.
#[derive(Debug, Default)]
pub struct Heard(Vec<u8>);

impl Heard {
    /// Takes bytes, and returns the windows in them: stream (0: the connection) and bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<(u32, usize)> {
        self.0.extend(bytes);
        let mut windows = Vec::new();
        while let Some((head, rest)) = self.0.split_first_chunk::<9>() {
            let [first, second, third, kind, _, stream @ ..] = *head;
            let length = u32::from_be_bytes([0, first, second, third]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(payload) = rest.get(..length) else {
                break;
            };
            if let (WINDOW_UPDATE, Ok(given)) = (kind, payload.try_into()) {
                let given = usize::try_from(u32::from_be_bytes(given)).unwrap_or_default();
                windows.push((u32::from_be_bytes(stream), given));
            }
            self.0.drain(..9 + length);
        }
        windows
    }
}
