//! A gate between a process and its database, which can lose, hold and stop what goes through.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::Notify,
    task::JoinSet,
};

use crate::{Database, ROLE};

/// The way of the bytes from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Everything goes through.
    Open,
    /// The server's answers to the connection that commits are lost.
    LosesAnswers,
    /// The server's notifications are lost, as behind a pooler.
    LosesHints,
    /// The bytes that the committing connection sends are kept here.
    HoldsCalls,
    /// Nothing goes through, and nobody is told.
    Still,
    /// New connections are closed at once.
    Shut,
    /// All connections are closed, new ones at once.
    Closed,
}

struct State {
    way: Mutex<Way>,
    /// The times that the connections that commit were cut.
    cuts: AtomicUsize,
    changed: Notify,
    held_bytes: AtomicUsize,
    /// The server's ends of connections that were cut, with the calls that never arrived.
    held: Mutex<Vec<(UnixStream, Vec<u8>)>>,
}

/// A gate on loopback. Ends with its value.
pub struct Gate {
    state: Arc<State>,
    url: String,
    _tasks: JoinSet<()>,
}

impl Gate {
    /// An open gate to a database on a Unix socket.
    pub async fn before(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let direct = database.url();
        let name = direct.rsplit('/').next().unwrap();
        let cluster = database.cluster();
        let socket = cluster.socket();
        let state = Arc::new(State {
            way: Mutex::new(Way::Open),
            cuts: AtomicUsize::new(0),
            changed: Notify::new(),
            held_bytes: AtomicUsize::new(0),
            held: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if !matches!(shared.way(), Way::Shut | Way::Closed) {
                    let server = UnixStream::connect(&socket).await.unwrap();
                    connections.spawn(pass(Arc::clone(&shared), client, server));
                }
            }
        });
        Self {
            state,
            url: format!("postgres://{ROLE}@127.0.0.1:{port}/{name}"),
            _tasks: tasks,
        }
    }

    /// The way to the database through the gate.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lets the bytes go another way.
    pub fn turn(&self, way: Way) {
        *self.state.way.lock().unwrap() = way;
        self.state.changed.notify_waiters();
    }

    /// Cuts the connection that commits off from its client. The server does not hear of it while a call
    /// of it is held.
    pub fn cut(&self) {
        self.state.cuts.fetch_add(1, Ordering::SeqCst);
        self.state.changed.notify_waiters();
    }

    /// True while something is held.
    pub fn holds(&self) -> bool {
        self.state.held_bytes.load(Ordering::SeqCst) > 0
    }

    /// Sends the held calls to the server after all. Returns its first answer.
    pub async fn deliver(&self) -> String {
        let held = std::mem::take(&mut *self.state.held.lock().unwrap());
        let mut answer = vec![0; 16 * 1024];
        let mut length = 0;
        for (mut server, call) in held {
            server.write_all(&call).await.unwrap();
            length = server.read(&mut answer).await.unwrap();
        }
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Gate")
    }
}

impl State {
    fn way(&self) -> Way {
        *self.way.lock().unwrap()
    }
}

/// The server's messages on one connection, as far as they have arrived: a kind, a length, and the rest.
#[derive(Default)]
struct Messages(Vec<u8>);

impl Messages {
    /// The whole messages so far, with or without notifications.
    fn passed(&mut self, bytes: &[u8], without_hints: bool) -> Vec<u8> {
        const NOTIFICATION: u8 = b'A';
        self.0.extend(bytes);
        let mut passed = Vec::new();
        while let Some((head, _)) = self.0.split_first_chunk::<5>() {
            let [kind, length @ ..] = *head;
            let length = 1 + u32::from_be_bytes(length) as usize;
            if self.0.len() < length {
                break;
            }
            let message = self.0.drain(..length);
            if !(without_hints && kind == NOTIFICATION) {
                passed.extend(message);
            }
        }
        passed
    }
}

async fn pass(state: Arc<State>, mut client: TcpStream, mut server: UnixStream) {
    let born = state.cuts.load(Ordering::SeqCst);
    let mut commits = false;
    let mut held = Vec::new();
    let (mut sent, mut told) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut messages = Messages::default();
    loop {
        let mut changed = std::pin::pin!(state.changed.notified());
        changed.as_mut().enable();
        let is_cut = commits && state.cuts.load(Ordering::SeqCst) > born;
        if is_cut || state.way() == Way::Closed {
            break;
        }
        if state.way() == Way::Still {
            changed.await;
            continue;
        }
        tokio::select! {
            biased;
            () = changed => {}
            length = client.read(&mut sent) => {
                let Ok(length @ 1..) = length else { break };
                let bytes = &sent[..length];
                commits |= [&b"enter_1("[..], b"open_1(", b"commit_1("].iter().any(|name| {
                    bytes.windows(name.len()).any(|window| window == *name)
                });
                if commits && state.way() == Way::HoldsCalls {
                    held.extend(bytes);
                    state.held_bytes.fetch_add(length, Ordering::SeqCst);
                } else if server.write_all(bytes).await.is_err() {
                    break;
                }
            }
            length = server.read(&mut told) => {
                let Ok(length @ 1..) = length else { break };
                let way = state.way();
                let passed = messages.passed(&told[..length], way == Way::LosesHints);
                let is_lost = commits && way == Way::LosesAnswers;
                if !is_lost && client.write_all(&passed).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(client);
    if !held.is_empty() {
        state.held.lock().unwrap().push((server, held));
    }
}
