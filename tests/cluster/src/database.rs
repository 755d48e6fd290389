//! A database for one test.

use std::fmt::Write as _;

use crate::{Cluster, ROLE};

/// A database of a [`Cluster`], which it keeps alive. Dropped with its last connections cut.
#[derive(Debug)]
pub struct Database {
    cluster: Cluster,
    name: String,
}

impl Database {
    pub(crate) fn create(cluster: Cluster, name: String) -> Self {
        cluster.run("postgres", &format!("CREATE DATABASE {name}"));
        Self { cluster, name }
    }

    /// Its server.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its address: on loopback if its server listens there, else through the Unix socket. It has the
    /// password, if the server asks for one, and no parameters.
    pub fn url(&self) -> String {
        let options = &self.cluster.0.options;
        let password = options.password.as_deref();
        let password = password.map_or_else(String::new, |word| format!(":{}", encoded(word)));
        let host = if options.is_tcp() {
            "127.0.0.1".to_owned()
        } else {
            encoded(&self.cluster.folder().display().to_string())
        };
        let (port, name) = (self.cluster.port(), &self.name);
        format!("postgres://{ROLE}{password}@{host}:{port}/{name}")
    }

    /// Runs statements in it, as [`Cluster::run`] does.
    ///
    /// # Panics
    /// A statement fails, or nobody answers.
    pub fn run(&self, statements: &str) -> String {
        self.cluster.run(&self.name, statements)
    }

    /// Does as [`Database::run`] does.
    ///
    /// # Errors
    /// The message of a failure.
    pub fn try_run(&self, statements: &str) -> Result<String, String> {
        self.cluster.try_run(&self.name, statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
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
