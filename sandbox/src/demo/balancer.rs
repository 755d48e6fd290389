//! A balancer of connections, as small as one can be: each goes to the next replica that takes it.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy,
    net::{TcpListener, TcpStream, UnixStream},
    task::{JoinHandle, JoinSet},
};

/// The connections at a time; further ones are closed at once.
const CONNECTIONS_MAX: usize = 1_000;

/// A replica, as the balancer sees it.
#[derive(Debug)]
struct Backend {
    socket: PathBuf,
    connections: AtomicUsize,
}

/// A balancer that runs until it is dropped. Its connections end with it.
#[derive(Debug)]
pub(super) struct Balancer {
    address: String,
    backends: Arc<[Backend]>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Listens at the first of these addresses that is free, for the replicas behind these sockets.
    ///
    /// # Errors
    /// None is free: the last one, and why.
    pub(super) async fn start(
        addresses: &[String],
        sockets: impl Iterator<Item = PathBuf>,
    ) -> Result<Self, (String, io::Error)> {
        let backends: Arc<[Backend]> = sockets
            .map(|socket| Backend {
                socket,
                connections: AtomicUsize::new(0),
            })
            .collect();
        let mut failed = (String::new(), io::ErrorKind::AddrNotAvailable.into());
        for wished in addresses {
            let bound = TcpListener::bind(wished).await;
            let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
            match bound {
                Ok((address, listener)) => {
                    let task = tokio::spawn(accept(listener, Arc::clone(&backends)));
                    return Ok(Self {
                        address: address.to_string(),
                        backends,
                        task,
                    });
                }
                Err(error) => failed = (wished.clone(), error),
            }
        }
        Err(failed)
    }

    /// The address at which it listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The connections to each replica.
    pub(super) fn connections(&self) -> impl Iterator<Item = usize> {
        let backends = self.backends.iter();
        backends.map(|backend| backend.connections.load(Ordering::SeqCst))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, backends: Arc<[Backend]>) {
    let mut connections = JoinSet::new();
    let mut turn = 0_usize;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A caller that is gone again is no trouble of the others.
                let Ok((caller, _)) = accepted else { continue };
                if connections.len() < CONNECTIONS_MAX {
                    connections.spawn(pass(caller, Arc::clone(&backends), turn));
                    turn = turn.wrapping_add(1);
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Passes a connection on, until one of its ends closes it.
async fn pass(mut caller: TcpStream, backends: Arc<[Backend]>, turn: usize) {
    let count = backends.len();
    let in_turn = backends
        .iter()
        .cycle()
        .skip(turn % count.max(1))
        .take(count);
    for backend in in_turn {
        let Ok(mut replica) = UnixStream::connect(&backend.socket).await else {
            continue;
        };
        backend.connections.fetch_add(1, Ordering::SeqCst);
        let (mut from_caller, mut to_caller) = caller.split();
        let (mut from_replica, mut to_replica) = replica.split();
        // Either end closes both: calls of HTTP/2 have no use for a half.
        tokio::select! {
            _ = copy(&mut from_caller, &mut to_replica) => {}
            _ = copy(&mut from_replica, &mut to_caller) => {}
        }
        backend.connections.fetch_sub(1, Ordering::SeqCst);
        return;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use super::*;

    /// Answers each connection with this letter.
    fn replica(socket: PathBuf, letter: u8) -> JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut caller, _)) = listener.accept().await {
                caller.write_all(&[letter]).await.unwrap();
                held.push(caller);
            }
        })
    }

    #[tokio::test]
    async fn connections_go_round_and_pass_over_replicas_that_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = ["a", "b", "c"].map(|name| folder.path().join(name));
        let first = replica(sockets[0].clone(), b'a');
        let _third = replica(sockets[2].clone(), b'c');
        let balancer = Balancer::start(&["127.0.0.1:0".to_owned()], sockets.into_iter()).await;
        let balancer = balancer.unwrap();
        let (mut letters, mut callers) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let mut caller = TcpStream::connect(balancer.address()).await.unwrap();
            letters.push(caller.read_u8().await.unwrap());
            callers.push(caller);
        }
        assert_eq!(letters, b"acca");
        assert_eq!(balancer.connections().collect::<Vec<_>>(), [2, 0, 2]);
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(callers[0].read_u8().await.is_err(), "the end is passed on");
        assert!(callers[3].read_u8().await.is_err());
        let mut caller = TcpStream::connect(balancer.address()).await.unwrap();
        assert_eq!(caller.read_u8().await.unwrap(), b'c');
        assert_eq!(balancer.connections().collect::<Vec<_>>(), [0, 0, 3]);
    }
}
