//! The real server as a process of its own: its folder, its settings, its signals and its costs.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::Failure;

/// The longest wait for a process to serve.
const START: Duration = Duration::from_secs(30);
/// The interval of looks at its log.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A process under measurement. Dropping it kills it.
pub struct Server {
    child: Child,
    /// The address of its port.
    pub address: SocketAddr,
}

impl Server {
    /// Starts the service from the executable beside this one, with `tillwatch.toml` of this folder.
    ///
    /// # Errors
    /// The executable was not built, or the service does not come up.
    pub async fn start(folder: &Path) -> Result<Self, Failure> {
        let executable = std::env::current_exe()?.with_file_name("tillwatch-server");
        let mut command = Command::new(executable);
        let config = folder.join("tillwatch.toml");
        command.arg("serve").arg("--config").arg(config);
        Self::spawn(command, &folder.join("log"), "gRPC address=").await
    }

    /// Starts a process that writes a line with `marker` and its address.
    ///
    /// # Errors
    /// It ends, or no such line comes within 30 s.
    pub async fn spawn(mut command: Command, log: &Path, marker: &str) -> Result<Self, Failure> {
        let child = command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log)?)
            .spawn()?;
        let mut server = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let began = Instant::now();
        while began.elapsed() < START && server.child.try_wait()?.is_none() {
            let text = fs::read_to_string(log)?;
            if let Some(address) = address(&text, marker) {
                server.address = address;
                return Ok(server);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(format!("it does not serve:\n{}", fs::read_to_string(log)?).into())
    }

    /// Nanoseconds that all of its threads that live have run on a processor.
    pub fn ran_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let tasks = tasks.into_iter().flatten().flatten();
        let ran = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        ran.sum()
    }

    /// Its memory that is in use, in KiB.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_kib(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let figure = line.and_then(|line| line.split_whitespace().next());
        Ok(figure.ok_or("it is gone")?.parse()?)
    }

    /// Lets it read its settings again.
    ///
    /// # Errors
    /// It is gone.
    pub fn reload(&self) -> Result<(), Failure> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &id]).status()?;
        sent.success().then_some(()).ok_or("it is gone".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the first whole line with this marker.
fn address(log: &str, marker: &str) -> Option<SocketAddr> {
    let lines = log
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let (_, rest) = lines.filter_map(|line| line.split_once(marker)).next()?;
    rest.trim().trim_matches('"').parse().ok()
}

/// A server's folder with its settings. A file of it is replaced by renaming, as a whole.
pub struct Folder(TempDir);

impl Folder {
    /// An empty folder.
    ///
    /// # Errors
    /// There is no space for it.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The folder's own path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts a file in place.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, name: &str, text: &str) -> Result<(), Failure> {
        let new = self.file("new");
        fs::write(&new, text)?;
        fs::rename(new, self.file(name))?;
        Ok(())
    }
}
