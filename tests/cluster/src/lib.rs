//! A real PostgreSQL server of a test's own, in a temporary folder.
//!
//! `postgres` is a child of the test's process, so a test can stop, kill and freeze it by its own id.
//! Nothing of a server is left once the process that wanted it has ended, in whatever way; `guard.rs`
//! tells how. The functions block, and panic with a sentence if something is not as it has to be, as an
//! assertion would.
//!
//! [`Cluster::shared`] is for tests that need a database alone. A test that stops its server, or wants
//! other settings, starts one by [`Cluster::start`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is not as promised"
)]

mod database;
mod gate;
mod guard;
mod members;
mod options;
mod postmaster;
mod programs;
mod standby;
mod wait;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::{Signal, geteuid, kill_process};

pub use database::Database;
pub use gate::{Gate, Way};
use guard::Guard;
pub use options::{Options, Tls};
use postmaster::Postmaster;
pub use postmaster::Stop;
use programs::Programs;
pub use wait::until;

/// The role of every server, which may do anything.
pub const ROLE: &str = "tillwatch";
/// The user, and its group, as which a server runs if the test runs as root: PostgreSQL refuses root.
const NOBODY: u32 = 65_534;
/// Ports that no outgoing connection is given, so that a server finds its own again at its next start.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// The port in the name of the socket of a server without TCP.
const SOCKET_PORT: u16 = 5_432;

/// A PostgreSQL server with its data. Ends, and is removed, with its last handle or with the process.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Dropped first: it ends whatever runs.
    guard: Guard,
    /// The server's process while it runs.
    postmaster: Mutex<Option<Postmaster>>,
    programs: Programs,
    options: Options,
    port: u16,
    /// Databases so far.
    databases: AtomicU32,
}

impl Cluster {
    /// A new server that takes connections.
    ///
    /// # Panics
    /// There is no PostgreSQL 15 or newer, or it does not start.
    pub fn start(options: Options) -> Self {
        let programs = Programs::find().unwrap_or_else(|missing| panic!("{missing}"));
        let guard = Guard::over(temporary(&options));
        let data = guard.folder().join("data");
        let superuser = format!("--username={ROLE}");
        let mut initdb = programs.command("initdb");
        initdb
            .current_dir(guard.folder())
            .arg("-D")
            .arg(&data)
            .arg(superuser)
            .args(["-A", "trust", "-N", "--no-instructions"])
            .args(["-E", "UTF8", "--locale=C.UTF-8"]);
        output(&mut initdb).unwrap_or_else(|said| panic!("{initdb:?}: {said}"));
        options.write(&data);
        let mut inner = Inner {
            guard,
            postmaster: Mutex::new(None),
            programs,
            options,
            port: SOCKET_PORT,
            databases: AtomicU32::new(0),
        };
        inner.start_first();
        let cluster = Self(Arc::new(inner));
        if let Some(password) = &cluster.0.options.password {
            let quoted = password.replace('\'', "''");
            cluster.run(
                "postgres",
                &format!("ALTER ROLE {ROLE} PASSWORD '{quoted}'"),
            );
        }
        cluster
    }

    /// The server that the tests of this process share. It stays until the process ends, and has the
    /// usual [`Options`]; nobody stops it.
    pub fn shared() -> Self {
        static SHARED: Mutex<Option<Cluster>> = Mutex::new(None);
        // If the first test could not start it, the next tells the same reason.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || Self::start(Options::default());
        shared.get_or_insert_with(start).clone()
    }

    /// A new, empty database.
    ///
    /// # Panics
    /// The server is not running.
    pub fn database(&self) -> Database {
        let number = self.0.databases.fetch_add(1, Ordering::Relaxed);
        Database::create(self.clone(), format!("test_{number}"))
    }

    /// Runs statements in a database, in one transaction. Returns the rows, a line each, with `|`
    /// between the columns.
    ///
    /// # Panics
    /// A statement fails, or nobody answers.
    pub fn run(&self, database: &str, statements: &str) -> String {
        self.try_run(database, statements)
            .unwrap_or_else(|said| panic!("{statements}: {said}"))
    }

    /// Does as [`Cluster::run`] does.
    ///
    /// # Errors
    /// The message of a failure.
    pub fn try_run(&self, database: &str, statements: &str) -> Result<String, String> {
        let mut psql = self.0.programs.command("psql");
        psql.current_dir("/")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", ROLE, "-d", database])
            .args(["-p", &self.port().to_string(), "-c", statements])
            .arg("-h")
            .arg(self.folder());
        output(&mut psql).map(|said| said.trim_end().to_owned())
    }

    /// Stops the server, and waits until it has ended. Does nothing if it is not running.
    pub fn stop(&self, stop: Stop) {
        if let Some(postmaster) = self.postmaster().take() {
            postmaster.stop(stop);
        }
    }

    /// Sends SIGKILL to the server, and waits until all its processes have ended.
    pub fn kill(&self) {
        if let Some(postmaster) = self.postmaster().take() {
            postmaster.kill();
        }
    }

    /// Starts a server that has ended, over the same data and at the same port.
    ///
    /// # Panics
    /// It is running, or does not start.
    pub fn start_again(&self) {
        let mut postmaster = self.postmaster();
        assert!(postmaster.is_none(), "the server is running");
        *postmaster = Some(self.0.begin().unwrap_or_else(|said| panic!("{said}")));
    }

    /// Lets no process of the server run, so that connections stay open and nobody answers, until
    /// [`Cluster::thaw`].
    pub fn freeze(&self) {
        wait::until("each process stands still", || {
            self.signal_all(Signal::STOP);
            // The postmaster may have been about to have one more.
            let mut members = members::of(self.folder()).into_iter();
            members.all(members::stands_still)
        });
    }

    /// Ends [`Cluster::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        for member in members::of(self.folder()) {
            // One that has ended since is no loss.
            let _ = kill_process(member, signal);
        }
    }

    /// The folder of its socket, its log and its data.
    pub fn folder(&self) -> &Path {
        self.0.guard.folder()
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder().join(format!(".s.PGSQL.{}", self.port()))
    }

    /// The port of its socket, and on loopback if it listens there.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.0.log()
    }

    fn postmaster(&self) -> MutexGuard<'_, Option<Postmaster>> {
        let held = self.0.postmaster.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Starts the server for the first time, over TCP at a port that nobody else has.
    fn start_first(&mut self) {
        // Processes side by side begin at different ports.
        let own = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start));
        let own = PORTS.start + own.unwrap();
        let ports = (own..PORTS.end).chain(PORTS.start..own);
        for port in ports {
            if self.options.is_tcp() {
                self.port = port;
            }
            match self.begin() {
                Ok(postmaster) => {
                    *self.postmaster.get_mut().unwrap() = Some(postmaster);
                    return;
                }
                Err(said) if said.contains("Address already in use") => {
                    fs::remove_file(self.guard.folder().join("log")).unwrap();
                }
                Err(said) => panic!("{said}"),
            }
        }
        panic!("every port of {PORTS:?} is in use");
    }

    fn begin(&self) -> Result<Postmaster, String> {
        let folder = self.guard.folder();
        let mut command = self.programs.command("postgres");
        command
            .current_dir(folder)
            .arg("-D")
            .arg(folder.join("data"))
            .arg("-k")
            .arg(folder)
            .args(["-p", &self.port.to_string()]);
        Postmaster::start(command, folder).map_err(|said| format!("{said}\n{}", self.log()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.guard.folder().join("log")).unwrap_or_default()
    }
}

/// A new folder, in which the server's user may do anything.
fn temporary(options: &Options) -> PathBuf {
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    // The guard removes it.
    let folder = folder.expect("a temporary folder").keep();
    give(&folder);
    folder.canonicalize().unwrap()
}

/// Writes a file that the server's user alone may read.
fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    give(path);
}

/// Gives a file or a folder of this process to the server's user.
fn give(path: &Path) {
    if geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Runs a program. Returns its output, or its complaint.
fn output(command: &mut Command) -> Result<String, String> {
    let ended = command.stdin(Stdio::null()).output();
    let ended = ended.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ended.status.success() {
        Ok(text(&ended.stdout))
    } else {
        Err(text(&ended.stderr))
    }
}
