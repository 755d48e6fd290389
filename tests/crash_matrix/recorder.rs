//! A provider that counts: it answers the first create as a case wants, and later ones as the real
//! one would.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tillwatch_sandbox::{Recipe, Sample, Simulated, simulated};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// The answer to the first create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The order is taken.
    Accept,
    /// The provider will not.
    Refuse,
    Throttle,
    Unauthorized,
    Error,
    /// A success that nobody can read.
    Garbage,
    /// The connection is closed instead, and the order taken.
    Close,
    /// No answer, and the order taken.
    Hang,
    /// Masumi names the existing purchase of the same identifier.
    Conflict,
}

#[derive(Default)]
struct Seen {
    creates: usize,
    /// The provider keys of all creates.
    keys: BTreeSet<String>,
    /// True if the provider has the order.
    has: bool,
}

/// A recording provider. Ends with the runtime of its test.
#[derive(Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    provider: &'static Simulated,
    reply: Reply,
    seen: Arc<Mutex<Seen>>,
}

impl Recorder {
    pub async fn start(provider: &'static str, reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = Self {
            address: listener.local_addr().unwrap(),
            provider: simulated(provider).expect(provider),
            reply,
            seen: Arc::default(),
        };
        let accepting = recorder.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let recorder = accepting.clone();
                tokio::spawn(async move { recorder.serve(stream).await });
            }
        });
        recorder
    }

    /// Creates that have arrived whole.
    pub fn creates(&self) -> usize {
        self.seen.lock().unwrap().creates
    }

    /// Different provider keys among them.
    pub fn keys(&self) -> usize {
        self.seen.lock().unwrap().keys.len()
    }

    /// One request on a connection; a closed one is opened anew by whoever asks again.
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let (head, body) = read(&mut stream).await?;
        let Some(reply) = self.arrived(&head, &body) else {
            return answer(&mut stream, &self.sample().missing).await;
        };
        let whole = match reply {
            Reply::Conflict => (
                409,
                json!({
                    "status": "error",
                    "error": { "message": "exists" },
                    "id": "row",
                    "object": self.accepted(&body).1["data"],
                }),
            ),
            Reply::Accept => self.accepted(&body),
            Reply::Refuse => self.sample().refused,
            Reply::Throttle => (429, json!({})),
            Reply::Unauthorized => (401, json!({})),
            Reply::Error => (500, json!({})),
            Reply::Garbage => (200, json!([])),
            Reply::Close => return None,
            Reply::Hang => {
                // Until the other side gives up.
                let _ = stream.read_u8().await;
                return None;
            }
        };
        answer(&mut stream, &whole).await
    }

    /// Counts a create and says how it is answered; nothing for any other request.
    fn arrived(&self, head: &str, body: &Value) -> Option<Reply> {
        let line = head.lines().next()?;
        let mut words = line.split(' ');
        let method: Method = words.next()?.parse().ok()?;
        if !self.provider.is_create(&method, words.next()?) {
            return None;
        }
        let mut seen = self.seen.lock().unwrap();
        seen.creates += 1;
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("idempotency-key: "))
            .map_or_else(|| body["blockchainIdentifier"].to_string(), str::to_owned);
        seen.keys.insert(key);
        let reply = if seen.creates == 1 {
            self.reply
        } else {
            Reply::Accept
        };
        let had = seen.has;
        seen.has |= matches!(
            reply,
            Reply::Accept | Reply::Close | Reply::Hang | Reply::Garbage
        );
        drop(seen);
        let conflicts = had && self.provider.name == "masumi";
        Some(if conflicts { Reply::Conflict } else { reply })
    }

    /// Its answers; whatever is no create that counts finds nothing.
    fn sample(&self) -> Sample {
        (self.provider.sample)(&Recipe::at(Timestamp::now()))
    }

    /// The answer that names the purchase; Masumi's repeats the order's own names.
    fn accepted(&self, order: &Value) -> (u16, Value) {
        let (status, mut body) = self.sample().accepted;
        for field in ["blockchainIdentifier", "inputHash"] {
            if let Some(named) = body.pointer_mut(&format!("/data/{field}")) {
                *named = order[field].clone();
            }
        }
        (status, body)
    }
}

/// A whole request: its head in lower-case names as the client sends them, and its body.
async fn read(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                let body = serde_json::from_str(body).unwrap_or_default();
                return Some((head.to_owned(), body));
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

async fn answer(stream: &mut TcpStream, (status, body): &(u16, Value)) -> Option<()> {
    let body = body.to_string();
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
