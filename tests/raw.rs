//! A peer that speaks HTTP/2 by hand, to send what no library would: half a body, no window,
//! nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tillwatch_proto::PURCHASE_SERVICE;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    task::JoinHandle,
};

use crate::{house::House, transport::Socket};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const RESET: u8 = 3;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The frames that the server has sent so far.
#[derive(Debug, Default, Clone)]
pub struct Heard {
    /// The number of HEADERS frames, by stream.
    pub headers: BTreeMap<u32, u32>,
    /// The bytes of data, by stream.
    pub data: BTreeMap<u32, usize>,
    /// Streams that the server has ended or reset.
    pub ended: BTreeMap<u32, bool>,
    /// True if the server has said that the connection ends.
    pub goes_away: bool,
    /// True if the connection has ended.
    pub is_closed: bool,
}

type Writer = WriteHalf<Box<dyn Socket>>;

pub struct RawPeer {
    writer: Arc<tokio::sync::Mutex<Writer>>,
    heard: Arc<Mutex<Heard>>,
    reading: JoinHandle<()>,
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn text(block: &mut Vec<u8>, text: &str) {
    // Seven bits hold a length up to 126; a longer one goes on in the next byte (RFC 7541, 5.1).
    match u8::try_from(text.len()).ok().filter(|length| *length < 127) {
        Some(length) => block.push(length),
        None => block.extend([127, u8::try_from(text.len() - 127).unwrap()]),
    }
    block.extend(text.as_bytes());
}

/// The path of a method of the service.
pub fn path(method: &str) -> String {
    format!("/{PURCHASE_SERVICE}/{method}")
}

/// A message as gRPC frames it.
pub fn framed(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    framed.extend(body);
    framed
}

impl RawPeer {
    /// Connects to a house, and lets each stream have so many bytes of answer.
    pub async fn connect(house: &House, window: u32) -> Self {
        let (reader, writer) = tokio::io::split(house.socket().await);
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let heard = Arc::default();
        let reading = tokio::spawn(read(reader, Arc::clone(&writer), Arc::clone(&heard)));
        let peer = Self {
            writer,
            heard,
            reading,
        };
        let mut settings = vec![0, 4];
        settings.extend(window.to_be_bytes());
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        first.extend(frame(SETTINGS, 0, 0, &settings));
        peer.send(&first).await;
        peer
    }

    /// Sends bytes. False if the server takes no more.
    pub async fn send(&self, bytes: &[u8]) -> bool {
        let mut writer = self.writer.lock().await;
        writer.write_all(bytes).await.is_ok() && writer.flush().await.is_ok()
    }

    /// Begins a call; `token` is a caller's.
    pub async fn begin(
        &self,
        stream: u32,
        path: &str,
        token: Option<&str>,
        more: &[(&str, &str)],
    ) -> bool {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
            ("te", "trailers"),
        ];
        if !more.iter().any(|(name, _)| *name == "content-type") {
            headers.push(("content-type", "application/grpc"));
        }
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization));
        }
        headers.extend(more);
        let mut block = Vec::new();
        for (name, value) in headers {
            block.push(0);
            text(&mut block, name);
            text(&mut block, value);
        }
        self.send(&frame(HEADERS, END_HEADERS, stream, &block))
            .await
    }

    /// Sends a part of a body.
    pub async fn body(&self, stream: u32, bytes: &[u8], is_last: bool) -> bool {
        let flags = if is_last { END_STREAM } else { 0 };
        self.send(&frame(DATA, flags, stream, bytes)).await
    }

    /// Makes a whole call.
    pub async fn call(
        &self,
        stream: u32,
        path: &str,
        token: &str,
        more: &[(&str, &str)],
        message: &[u8],
    ) {
        assert!(self.begin(stream, path, Some(token), more).await);
        assert!(self.body(stream, message, true).await);
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

async fn read(
    mut reader: ReadHalf<Box<dyn Socket>>,
    writer: Arc<tokio::sync::Mutex<Writer>>,
    heard: Arc<Mutex<Heard>>,
) {
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if reader.read_exact(&mut payload).await.is_err() {
            break;
        }
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        {
            let mut heard = heard.lock().unwrap();
            match kind {
                HEADERS => *heard.headers.entry(stream).or_default() += 1,
                DATA => *heard.data.entry(stream).or_default() += payload.len(),
                RESET => {
                    heard.ended.insert(stream, true);
                }
                GOAWAY => heard.goes_away = true,
                _ => {}
            }
            if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                heard.ended.entry(stream).or_insert(false);
            }
        }
        if matches!(kind, SETTINGS | PING) && flags & ACK == 0 {
            let answered = if kind == PING { payload } else { Vec::new() };
            let answer = frame(kind, ACK, 0, &answered);
            let mut writer = writer.lock().await;
            if writer.write_all(&answer).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
    }
    heard.lock().unwrap().is_closed = true;
}
