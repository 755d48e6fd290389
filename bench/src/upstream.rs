//! An upstream that answers each status request as Devdraft's page shows it.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    thread,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

use crate::Failure;

/// The word of every purchase, and the secret that is asked for.
#[derive(Debug, Clone)]
struct Answers {
    word: &'static str,
    secret: Option<&'static str>,
}

/// An upstream on a thread of its own, which ends when this is dropped.
pub struct Upstream {
    /// The address at which it listens.
    pub address: SocketAddr,
    answers: Arc<RwLock<Answers>>,
    _stop: oneshot::Sender<()>,
}

impl Upstream {
    /// Starts an upstream whose purchases all await funds, and that takes any secret.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self, Failure> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let answers = Arc::new(RwLock::new(Answers {
            word: "AWAITING_FUNDS",
            secret: None,
        }));
        let given = Arc::clone(&answers);
        thread::spawn(move || {
            let serving = async {
                let Ok(listener) = TcpListener::from_std(listener) else {
                    return;
                };
                let mut open = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    open.spawn(serve(stream, Arc::clone(&given)));
                }
            };
            let _ = on_this_thread(async {
                tokio::select! {
                    () = serving => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            address,
            answers,
            _stop: stop,
        })
    }

    /// Gives all purchases this word from now on.
    pub fn tell(&self, word: &'static str) {
        self.change(|answers| answers.word = word);
    }

    /// Refuses all requests without this secret from now on.
    pub fn demand(&self, secret: &'static str) {
        self.change(|answers| answers.secret = Some(secret));
    }

    fn change(&self, change: impl FnOnce(&mut Answers)) {
        let mut answers = self.answers.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut answers);
    }
}

/// Runs a future on a runtime of this thread alone.
///
/// # Errors
/// The runtime cannot be made.
pub fn on_this_thread<T>(run: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(run))
}

async fn serve(mut stream: TcpStream, answers: Arc<RwLock<Answers>>) {
    let _ = stream.set_nodelay(true);
    let mut head = Vec::new();
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        head.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let now = answers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let whole = answer(&String::from_utf8_lossy(&head), &now);
        if stream.write_all(whole.as_bytes()).await.is_err() {
            return;
        }
        head.clear();
    }
}

fn answer(head: &str, answers: &Answers) -> String {
    let is_known = answers.secret.is_none_or(|secret| {
        let line = format!("x-client-secret: {secret}\r\n");
        head.contains(&line)
    });
    let (status, body) = if is_known {
        let id = head.split('/').rev().find(|part| part.starts_with("0000"));
        ("200 OK", status_of(id.unwrap_or_default(), answers.word))
    } else {
        let body = r#"{"statusCode":401,"message":"Invalid credentials","error":"Unauthorized"}"#;
        ("401 Unauthorized", body.to_owned())
    };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A status as Devdraft's page shows it.
fn status_of(id: &str, word: &str) -> String {
    format!(
        r#"{{"id":"{id}","status":"{word}","amount":"100.00","bridge_transfer_id":"transfer-{id}","source":{{"currency":"usdc","payment_rail":"ethereum"}},"destination":{{"currency":"eurc","payment_rail":"base","to_address":"0x0000000000000000000000000000000000000001"}},"created_at":"2026-11-20T10:00:00.000Z","updated_at":"2026-11-20T10:00:00.000Z"}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_demanded_is_the_only_one_that_is_answered() {
        let head = "GET /payment-intents/0000-1/status HTTP/1.1\r\nx-client-secret: old\r\n\r\n";
        let check = |secret, status: &str| {
            let answers = Answers {
                word: "IN_REVIEW",
                secret,
            };
            let answer = answer(head, &answers);
            assert!(answer.starts_with(status), "{secret:?}: {answer}");
        };
        check(None, "HTTP/1.1 200 OK");
        check(Some("old"), "HTTP/1.1 200 OK");
        check(Some("new"), "HTTP/1.1 401 Unauthorized");
    }
}
