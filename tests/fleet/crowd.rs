//! Other clients of a database server, who take the connections that it has left.

use std::{path::Path, time::Duration};

use tillwatch_cluster::{Cluster, ROLE};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    task::JoinSet,
};

use crate::process::until;

/// The database that they connect to.
const DATABASE: &str = "postgres";
/// The pause of a client who was refused.
const AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Connections that do nothing. They are closed when this is dropped.
pub struct Crowd {
    cluster: Cluster,
    clients: JoinSet<()>,
}

impl Crowd {
    /// Takes each connection that a server has left, and each that it gets back.
    pub async fn at(cluster: &Cluster) -> Self {
        let socket = cluster.socket();
        let mut held = Vec::new();
        while let Some(client) = connected(&socket).await {
            held.push(client);
        }
        assert!(!held.is_empty(), "nothing was left");
        let mut clients = JoinSet::new();
        clients.spawn(async move {
            loop {
                held.extend(connected(&socket).await);
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        });
        Self {
            cluster: cluster.clone(),
            clients,
        }
    }

    /// Closes all of them.
    pub async fn leave(mut self) {
        self.clients.shutdown().await;
        until("a connection is left", async || {
            self.cluster.try_run(DATABASE, "SELECT").is_ok()
        })
        .await;
    }
}

/// A connection on which the server waits for a statement; `None` if it has none left.
async fn connected(socket: &Path) -> Option<UnixStream> {
    let mut client = UnixStream::connect(socket).await.ok()?;
    let words = format!("user\0{ROLE}\0database\0{DATABASE}\0\0");
    let length = u32::try_from(8 + words.len()).unwrap();
    let mut hello = length.to_be_bytes().to_vec();
    // Version 3.0 of the protocol.
    hello.extend(0x0003_0000_u32.to_be_bytes());
    hello.extend(words.bytes());
    client.write_all(&hello).await.ok()?;
    // R: let in; E: refused.
    let answer = client.read_u8().await.ok()?;
    (answer == b'R').then_some(client)
}
