//! A database for one test.

use std::fmt::Write as _;

use crate::{Cluster, ROLE};

/// A database of a [`Cluster`], which it keeps alive. Dropped with its last connections cut.
#[derive(Debug)]
pub struct Database {
    cluster: Cluster,
    name: String,
    /// The server that may take the place of its own.
    pub(crate) standby: Option<Cluster>,
}

impl Database {
    pub(crate) fn create(cluster: Cluster, name: String) -> Self {
        cluster.run("postgres", &format!("CREATE DATABASE {name}"));
        Self {
            cluster,
            name,
            standby: None,
        }
    }

    /// Its server.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its address: on loopback if its server listens there, else through the Unix socket. It has the
    /// password, if the server asks for one, and no parameters but the one that finds the server of two that
    /// takes writes.
    pub fn url(&self) -> String {
        let options = &self.cluster.0.options;
        let password = options.password.as_deref();
        let password = password.map_or_else(String::new, |word| format!(":{}", encoded(word)));
        let place = |cluster: &Cluster| {
            let host = if options.is_tcp() {
                "127.0.0.1".to_owned()
            } else {
                encoded(&cluster.folder().display().to_string())
            };
            format!("{host}:{}", cluster.port())
        };
        let (own, name) = (place(&self.cluster), &self.name);
        match &self.standby {
            None => format!("postgres://{ROLE}{password}@{own}/{name}"),
            Some(standby) => format!(
                "postgres://{ROLE}{password}@{own},{}/{name}?target_session_attrs=read-write",
                place(standby)
            ),
        }
    }

    /// Runs statements in it, as [`Cluster::run`] does.
    ///
    /// # Panics
    /// A statement fails, or nobody answers.
    pub fn run(&self, statements: &str) -> String {
        self.try_run(statements)
            .unwrap_or_else(|said| panic!("{statements}: {said}"))
    }

    /// Does as [`Database::run`] does.
    ///
    /// # Errors
    /// The message of a failure.
    pub fn try_run(&self, statements: &str) -> Result<String, String> {
        let Some(standby) = &self.standby else {
            return self.cluster.try_run(&self.name, statements);
        };
        let hosts = [&self.cluster, standby].map(|one| one.folder().display().to_string());
        let ports = [&self.cluster, standby].map(|one| one.port().to_string());
        let writable = format!(
            "host={} port={} dbname={} target_session_attrs=read-write",
            hosts.join(","),
            ports.join(","),
            self.name
        );
        self.cluster.try_run(&writable, statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Both servers are its test's own; and a server that waits for a standby would wait here as well.
        if self.standby.is_some() {
            return;
        }
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // A server that was stopped goes with all its databases.
        let _ = self.cluster.try_run("postgres", &drop);
    }
}

/// A text as a part of a URL.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
