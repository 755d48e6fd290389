//! Several server processes on one database, behind a balancer: as a team would run them, on one machine.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tillwatch_sandbox::Sandbox;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::Instant,
};
use uuid::Uuid;

use super::{
    balancer::Balancer,
    service::{Killed, ServiceError},
    settings::{self, Settings, write_private},
};

/// The longest that a process may take until it serves, and until it has drained.
const START_MAX: Duration = Duration::from_secs(30);
const DRAIN_MAX: Duration = Duration::from_secs(15);
/// The interval of looks at a process that starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The user's wish for several processes.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Their number.
    pub(crate) count: usize,
    /// The URL of their database. It is a secret, and appears in no output.
    pub(crate) store: String,
}

#[derive(Debug)]
struct Replica {
    number: usize,
    socket: PathBuf,
    child: Child,
}

/// The processes. If this is dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Replicas {
    living: Vec<Replica>,
    count: usize,
    balancer: Balancer,
    /// Their settings and sockets.
    _folder: TempDir,
}

impl Replicas {
    /// Starts them, and a balancer in front of them at the first of these addresses that is free.
    pub(super) async fn start(
        sandbox: &Sandbox,
        wish: &Wish,
        addresses: &[String],
        speed: f64,
    ) -> Result<Self, ServiceError> {
        let executable = executable()?;
        let folder = settings::folder()?;
        let keys = folder.path().join("fingerprint-keys");
        // An id of its own, so that no other demo's key has the same.
        let [id, key, rest] = std::array::from_fn(|_| Uuid::new_v4().simple());
        write_private(&keys, &format!("demo-{id}:{key}{rest}\n")).map_err(ServiceError::Folder)?;
        let mut living = Vec::new();
        for number in 1..=wish.count {
            let socket = folder.path().join(format!("replica-{number}.sock"));
            let file = folder.path().join(format!("replica-{number}.toml"));
            let settings = Settings {
                listen: &format!("unix:{}", socket.display()),
                store: &wish.store,
                fingerprint_keys: Some(&keys),
                audit_log: Some(&folder.path().join(format!("replica-{number}.audit"))),
                speed,
            };
            settings.write(&file, sandbox)?;
            let child = spawn(&executable, &file)?;
            living.push(Replica {
                number,
                socket,
                child,
            });
        }
        let limit = Instant::now() + START_MAX;
        for replica in &mut living {
            replica.serves(limit).await?;
        }
        let sockets = living.iter().map(|replica| replica.socket.clone());
        let balancer = Balancer::start(addresses, sockets).await;
        let balancer =
            balancer.map_err(|(address, source)| ServiceError::Listen { address, source })?;
        Ok(Self {
            living,
            count: wish.count,
            balancer,
            _folder: folder,
        })
    }

    pub(super) fn address(&self) -> &str {
        self.balancer.address()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Sends SIGKILL to the replica that most callers are connected to, and waits for its end.
    pub(super) async fn kill_busiest(&mut self) -> Result<Killed, ServiceError> {
        let connections: Vec<usize> = self.balancer.connections().collect();
        let of = |number: usize| connections.get(number - 1).copied().unwrap_or(0);
        let busiest = (self.living.iter().enumerate())
            .max_by_key(|(_, replica)| of(replica.number))
            .map(|(place, _)| place);
        let Some(place) = busiest else {
            return Err(ServiceError::Silent);
        };
        let mut replica = self.living.remove(place);
        let killed = Killed {
            replica: replica.number,
            process: replica.child.id().unwrap_or(0),
            connections: of(replica.number),
        };
        replica.child.kill().await.map_err(ServiceError::Process)?;
        Ok(killed)
    }

    /// Lets them drain, and waits for their end.
    pub(super) async fn stop(mut self) -> Result<(), ServiceError> {
        for replica in &self.living {
            let id = replica.child.id().and_then(|id| i32::try_from(id).ok());
            if let Some(id) = id.and_then(Pid::from_raw) {
                kill_process(id, Signal::TERM)
                    .map_err(|error| ServiceError::Process(error.into()))?;
            }
        }
        for replica in &mut self.living {
            if let Ok(ended) = tokio::time::timeout(DRAIN_MAX, replica.child.wait()).await {
                ended.map_err(ServiceError::Process)?;
            }
        }
        Ok(())
    }
}

impl Replica {
    /// Waits until it takes connections.
    async fn serves(&mut self, limit: Instant) -> Result<(), ServiceError> {
        let replica = self.number;
        while UnixStream::connect(&self.socket).await.is_err() {
            if let Some(status) = self.child.try_wait().map_err(ServiceError::Process)? {
                return Err(ServiceError::Ended { replica, status });
            }
            if Instant::now() >= limit {
                return Err(ServiceError::Late { replica });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// The server's executable, which lies beside this one.
fn executable() -> Result<PathBuf, ServiceError> {
    let this = env::current_exe().map_err(ServiceError::Process)?;
    let beside = this.with_file_name("tillwatch-server");
    match beside.is_file() {
        true => Ok(beside),
        false => Err(ServiceError::Executable(beside)),
    }
}

/// The environment stays out: it may name a real server's settings and accounts.
fn spawn(executable: &Path, settings: &Path) -> Result<Child, ServiceError> {
    Command::new(executable)
        .arg("serve")
        .arg("--config")
        .arg(settings)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(ServiceError::Process)
}
