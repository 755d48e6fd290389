//! A server process: started, listened to, signalled, and ended by its own id.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
};

use crate::executables::executable;

/// The longest that a test waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits for a future, and names what did not come.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Waits until a condition holds, and names the one that did not.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
}

/// What processes have written to standard error, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<String>>);

impl Log {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn push(&self, line: &str) {
        let mut text = self.0.lock().unwrap();
        text.push_str(line);
        text.push('\n');
    }
}

/// A running server. Killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    lines: watch::Receiver<Vec<String>>,
    /// Where it serves gRPC.
    pub grpc: String,
    /// Where it serves operations; empty where that is turned off.
    pub ops: String,
}

impl Server {
    /// Starts a server and waits until it serves.
    ///
    /// # Errors
    /// How it exited instead.
    pub async fn start(config: &Path, log: &Log) -> Result<Self, ExitStatus> {
        Self::start_with(config, log, &[]).await
    }

    /// As [`Server::start`], with more arguments.
    ///
    /// # Errors
    /// How it exited instead.
    pub async fn start_with(
        config: &Path,
        log: &Log,
        arguments: &[&str],
    ) -> Result<Self, ExitStatus> {
        let mut server = Self::spawn_with(config, log, arguments);
        let text = std::fs::read_to_string(config).unwrap();
        let mut lines = server.lines.clone();
        // Both listeners are bound before the first is told of.
        let last = if text.contains("ops = \"\"") {
            "gRPC"
        } else {
            "operations"
        };
        let serves = within("a server serves or exits", async {
            lines
                .wait_for(|lines| address(lines, last).is_some())
                .await
                .is_ok()
        });
        if !serves.await {
            return Err(server.exit().await);
        }
        let lines = server.lines.borrow().clone();
        server.grpc = address(&lines, "gRPC").unwrap_or_default();
        server.ops = address(&lines, "operations").unwrap_or_default();
        Ok(server)
    }

    /// Starts a server and waits for nothing.
    pub fn spawn(config: &Path, log: &Log) -> Self {
        Self::spawn_with(config, log, &[])
    }

    fn spawn_with(config: &Path, log: &Log, arguments: &[&str]) -> Self {
        let mut child = Command::new(executable("tillwatch-server"))
            .arg("serve")
            .arg("--config")
            .arg(config)
            .args(arguments)
            .env_clear()
            .envs(crate::clock::environment(config))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (tell, lines) = watch::channel(Vec::new());
        let log = log.clone();
        // Ends with the process, whose end of the pipe is the only one.
        tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = stderr.next_line().await {
                log.push(&line);
                tell.send_modify(|lines: &mut Vec<String>| lines.push(line));
            }
        });
        Self {
            child,
            lines,
            grpc: String::new(),
            ops: String::new(),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("a process that was not waited for")
    }

    /// Sends SIGKILL and waits for the end.
    pub async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        within("a killed process ends", self.child.wait())
            .await
            .unwrap();
    }

    /// Sends a signal by its name, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.id());
        let sent = Command::new("sh").arg("-c").arg(kill).status().await;
        assert!(sent.unwrap().success());
    }

    /// Waits for the end, and for the last line.
    pub async fn exit(&mut self) -> ExitStatus {
        let status = within("a process ends", self.child.wait()).await.unwrap();
        let mut lines = self.lines.clone();
        // An error says that the reader is gone, which is what is waited for.
        let _ = within("its last line", lines.wait_for(|_| false)).await;
        status
    }
}

/// The address in a line such as `… gRPC address="127.0.0.1:41234"`.
fn address(lines: &[String], of: &str) -> Option<String> {
    let line = lines
        .iter()
        .find(|line| line.contains(&format!(" {of} address=")))?;
    let (_, address) = line.split_once("address=")?;
    Some(address.trim().trim_matches('"').to_owned())
}
