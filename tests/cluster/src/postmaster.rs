//! PostgreSQL's first process.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{members, until};

/// The ways of PostgreSQL to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It takes no new connections, and ends with the last of the present ones.
    Smart,
    /// It cuts connections, rolls back, and writes everything to disk.
    Fast,
    /// It cuts connections and ends at once. The next start recovers as after a crash.
    Immediate,
}

impl Stop {
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::TERM,
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Postmaster {
    child: Child,
    folder: PathBuf,
}

impl Postmaster {
    /// Starts a server, and waits until it takes connections.
    pub fn start(mut command: Command, folder: &Path) -> Result<Self, String> {
        let log = File::options()
            .append(true)
            .create(true)
            .open(folder.join("log"));
        let log = log.map_err(|error| error.to_string())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let mut postmaster = Self {
            child,
            folder: folder.to_owned(),
        };
        let mut ended = None;
        until("PostgreSQL takes connections or ends", || {
            ended = postmaster.child.try_wait().expect("a child");
            ended.is_some() || postmaster.is_ready()
        });
        match ended {
            None => Ok(postmaster),
            Some(status) => Err(format!("PostgreSQL ended with {status}")),
        }
    }

    /// True if its lock file says so. An earlier server may have left one.
    fn is_ready(&self) -> bool {
        let lock = fs::read_to_string(self.folder.join("data/postmaster.pid"));
        let lock = lock.unwrap_or_default();
        let mut lines = lock.lines();
        let is_own = lines.next() == Some(&self.child.id().to_string());
        is_own && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    /// Stops it, and waits until it has ended.
    pub fn stop(mut self, stop: Stop) {
        self.end(stop.signal());
    }

    /// Kills it, and waits until its other processes have noticed and ended: a new server would refuse
    /// to start beside them.
    pub fn kill(mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        // Nobody has waited for the child, so the id is its own, even if it has ended.
        kill_process(Pid::from_child(&self.child), signal).expect("a child");
        until("PostgreSQL ends", || {
            let has_ended = self.child.try_wait().expect("a child").is_some();
            has_ended && members::of(&self.folder).is_empty()
        });
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        // Usually it has ended, and only its exit is still to be heard.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
