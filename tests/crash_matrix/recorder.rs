//! A provider that counts: it answers the first create as a case wants, and later ones as the real
//! one would.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// How the first create is answered.
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
    provider: &'static str,
    reply: Reply,
    seen: Arc<Mutex<Seen>>,
}

impl Recorder {
    pub async fn start(provider: &'static str, reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = Self {
            address: listener.local_addr().unwrap(),
            provider,
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
            return answer(&mut stream, &self.unknown(&head)).await;
        };
        let whole = match reply {
            Reply::Conflict => (
                409,
                json!({
                    "status": "error",
                    "error": { "message": "exists" },
                    "id": "row",
                    "object": row(&body),
                }),
            ),
            Reply::Accept => (200, self.accepted(&body)),
            Reply::Refuse => (400, self.error(400)),
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
        let path = line.split(' ').nth(1)?;
        let creates = match self.provider {
            "phygitals" => path == "/api/vm/buy/crypto",
            "masumi" => path == "/api/v1/purchase",
            "inabit" => path == "/v1/purchase",
            "carbon" => path == "/v1/card/charge3d",
            "devdraft" => path == "/api/v0/payment-intents/stablecoin",
            other => panic!("{other} has no create here"),
        };
        if !creates {
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
        let conflicts = had && self.provider == "masumi";
        Some(if conflicts { Reply::Conflict } else { reply })
    }

    /// The answer to what is no create that counts: nothing is known of anything.
    fn unknown(&self, head: &str) -> (u16, Value) {
        if self.provider == "inabit" && head.starts_with("POST") {
            return (201, json!({ "data": { "purchases": [] } }));
        }
        (404, self.error(404))
    }

    fn error(&self, status: u16) -> Value {
        match self.provider {
            "phygitals" => json!({ "error": "will not" }),
            "masumi" => json!({ "status": "error", "error": { "message": "will not" } }),
            "inabit" => json!({ "error": { "message": "will not" } }),
            "carbon" => json!({ "code": status, "message": "will not" }),
            "devdraft" => json!({ "statusCode": status, "message": "will not" }),
            other => panic!("{other} has no error here"),
        }
    }

    fn accepted(&self, body: &Value) -> Value {
        let uuid = "0f9c2f5e-9d8e-4f6b-9a53-3a5b0f9e6d11";
        match self.provider {
            "phygitals" => json!({ "result": { "session_id": "s-1", "nfts": [] } }),
            "masumi" => json!({ "status": "success", "data": row(body) }),
            "inabit" => json!({ "data": { "id": uuid } }),
            "carbon" => json!({ "charge3denrolled": "Y", "orderId": uuid }),
            "devdraft" => json!({ "id": "txn_1", "state": "pending" }),
            other => panic!("{other} has no answer here"),
        }
    }
}

/// Masumi's purchase of an order.
fn row(body: &Value) -> Value {
    json!({
        "id": "row",
        "blockchainIdentifier": body["blockchainIdentifier"],
        "inputHash": body["inputHash"],
        "onChainState": null,
        "NextAction": { "requestedAction": "FundsLockingRequested" },
    })
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
