//! Standbys: servers that receive all that another one writes, and can take its place.

use std::sync::{Arc, Mutex, atomic::AtomicU32};

use crate::{
    Cluster, Guard, Inner, ROLE, SOCKET_PORT, database::Database, output, temporary, wait::until,
};

/// The name by which a server knows its standbys, for `synchronous_standby_names`.
const STANDBY: &str = "standby";

impl Cluster {
    /// A new standby of this server, once it receives what this one writes. Commits do not wait for it.
    ///
    /// # Panics
    /// The server is not running.
    pub fn standby(&self) -> Self {
        let inner = &self.0;
        let guard = Guard::over(temporary(&inner.options));
        let source = format!(
            "host={} port={} user={ROLE} application_name={STANDBY}",
            self.folder().display(),
            self.port()
        );
        let mut copies = inner.programs.command("pg_basebackup");
        copies
            .current_dir(guard.folder())
            .arg("-D")
            .arg(guard.folder().join("data"))
            .args(["-d", &source, "--write-recovery-conf"])
            .args(["--checkpoint=fast", "--no-sync"]);
        output(&mut copies).unwrap_or_else(|said| panic!("{copies:?}: {said}"));
        let mut inner = Inner {
            guard,
            postmaster: Mutex::new(None),
            programs: inner.programs.clone(),
            options: inner.options.clone(),
            port: SOCKET_PORT,
            databases: AtomicU32::new(0),
        };
        inner.start_first();
        let standby = Self(Arc::new(inner));
        until("the standby receives", || standby.receives());
        standby
    }

    fn receives(&self) -> bool {
        let receiving = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        self.run("postgres", receiving) == "1"
    }

    /// Cuts a standby off: it lacks whatever the other writes from now on.
    pub fn stop_receiving(&self) {
        self.set("primary_conninfo", "");
        until("the standby receives nothing", || !self.receives());
    }

    /// Lets a standby take writes. Its server should have ended.
    pub fn promote(&self) {
        assert_eq!(self.run("postgres", "SELECT pg_promote()"), "t");
    }

    /// Lets each commit wait for a standby, or for none.
    pub fn waits_for_standby(&self, waits: bool) {
        let names = if waits { STANDBY } else { "" };
        self.set("synchronous_standby_names", names);
        let waiting = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        until("the server knows of its standby", || {
            !waits || self.run("postgres", waiting) == "1"
        });
    }

    /// Changes a setting of the running server.
    pub fn set(&self, name: &str, value: &str) {
        self.run("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.run("postgres", "SELECT pg_reload_conf()");
    }
}

impl Database {
    /// The database on whichever of its server and this standby takes writes.
    pub fn with_standby(mut self, standby: &Cluster) -> Self {
        self.standby = Some(standby.clone());
        self
    }
}
