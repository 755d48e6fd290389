//! A server process that tests start, read the log of, signal, and end by its own id.

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
/// The extension of the file beside a configuration that has the server's environment.
pub const ENVIRONMENT: &str = "environment";
/// The interval of looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits for a future. If it does not come, fails with this name.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_time(DEADLINE, what, future).await
}

async fn within_time<T>(longest: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(longest, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {longest:?}"),
    }
}

/// Waits until a condition holds. If it does not, fails with this name.
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(DEADLINE, what, holds).await;
}

/// Does as [`until`] does, for something that takes its time.
pub async fn until_within(longest: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within_time(longest, what, async {
        while !holds().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
}

/// The lines that processes have written to standard error, one process after the other.
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

/// The command of a server, with nothing of this process's environment.
pub fn serve(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(executable("tillwatch-server"));
    command
        .arg("serve")
        .arg("--config")
        .arg(config)
        .args(arguments)
        .env_clear()
        .envs(crate::clock::environment(config))
        .envs(environment(config));
    command
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    lines: watch::Receiver<Vec<String>>,
    /// The address at which it serves gRPC.
    pub grpc: String,
    /// The address at which it serves operations; empty if that is turned off.
    pub ops: String,
}

impl Server {
    /// Starts a server and waits until it serves.
    ///
    /// # Errors
    /// The exit of a server that did not come up.
    pub async fn start(config: &Path, log: &Log) -> Result<Self, ExitStatus> {
        Self::start_with(config, log, &[]).await
    }

    /// Does as [`Server::start`] does, with more arguments.
    ///
    /// # Errors
    /// The exit of a server that did not come up.
    pub async fn start_with(
        config: &Path,
        log: &Log,
        arguments: &[&str],
    ) -> Result<Self, ExitStatus> {
        Self::start_by(serve(config, arguments), config, log).await
    }

    /// Starts a server by a command that ends in [`serve`]'s, and waits until it serves.
    ///
    /// # Errors
    /// The exit of a server that did not come up.
    pub async fn start_by(command: Command, config: &Path, log: &Log) -> Result<Self, ExitStatus> {
        let mut server = Self::spawn_by(command, log);
        let text = std::fs::read_to_string(config).unwrap();
        let mut lines = server.lines.clone();
        // The server binds both listeners before it logs the first.
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
        Self::spawn_by(serve(config, &[]), log)
    }

    fn spawn_by(mut command: Command, log: &Log) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (tell, lines) = watch::channel(Vec::new());
        let log = log.clone();
        // The task ends with the process, which holds the only other end of the pipe.
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

    /// The resident memory of the process, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.unwrap().parse().unwrap()
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
        // An error says that the reader is gone, and so that the log is complete.
        let _ = within("its last line", lines.wait_for(|_| false)).await;
        status
    }
}

/// The variables in the file beside a configuration, if there is one.
fn environment(config: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(config.with_extension(ENVIRONMENT)).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    pairs.map(owned).collect()
}

/// The address in a line such as `… gRPC address="127.0.0.1:41234"`, or in one of JSON.
fn address(lines: &[String], of: &str) -> Option<String> {
    let forms = [
        format!(" {of} address=\""),
        format!("\"message\":\"{of}\",\"address\":\""),
    ];
    let found = |line: &String| {
        let rest = forms.iter().find_map(|form| line.split_once(form))?.1;
        rest.split('"').next().map(str::to_owned)
    };
    lines.iter().find_map(found)
}
