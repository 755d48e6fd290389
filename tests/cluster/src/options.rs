//! The ways in which servers differ, and their settings.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::write_private;

/// The ways in which servers differ.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// True if each commit waits for the disk. Without it a commit survives a crash of PostgreSQL, and
    /// not one of the machine, which no test causes.
    pub fsync: bool,
    /// True if the server listens on loopback as well as on its Unix socket.
    pub tcp: bool,
    /// The server's certificate. If there is one, it listens on loopback, and for TLS alone.
    pub tls: Option<Tls>,
    /// The password that is asked on loopback, by SCRAM. Without one nobody is asked.
    pub password: Option<String>,
    /// More settings, by name, as in `postgresql.conf`.
    pub settings: Vec<(&'static str, String)>,
    /// A folder that the server's own lies in, in place of the system's for temporary files. The
    /// server's user has to reach it, and anybody may write there.
    pub folder: Option<PathBuf>,
}

/// Texts in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The chain of the server's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Options {
    pub(crate) fn is_tcp(&self) -> bool {
        self.tcp || self.tls.is_some() || self.password.is_some()
    }

    /// Writes the settings into a new folder of data.
    pub(crate) fn write(&self, data: &Path) {
        let on = |is_on: bool| if is_on { "on" } else { "off" };
        let mut settings = vec![
            ("fsync", on(self.fsync).to_owned()),
            ("full_page_writes", on(self.fsync).to_owned()),
            ("listen_addresses", String::new()),
            ("max_connections", "200".to_owned()),
            // Files in the folder, which goes as a whole.
            ("dynamic_shared_memory_type", "mmap".to_owned()),
        ];
        if self.is_tcp() {
            settings.push(("listen_addresses", "127.0.0.1".to_owned()));
        }
        if let Some(tls) = &self.tls {
            settings.push(("ssl", "on".to_owned()));
            write_private(&data.join("server.crt"), &tls.certificate);
            write_private(&data.join("server.key"), &tls.key);
        }
        settings.extend(self.settings.iter().cloned());
        let path = data.join("postgresql.conf");
        let mut text = fs::read_to_string(&path).unwrap();
        for (name, value) in settings {
            // Of several lines with a name the last counts.
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        write_private(&path, &text);
        let transport = if self.tls.is_some() {
            "hostssl"
        } else {
            "host"
        };
        let method = if self.password.is_some() {
            "scram-sha-256"
        } else {
            "trust"
        };
        let rules = format!(
            "local all all trust\nlocal replication all trust\n\
             {transport} all all 127.0.0.1/32 {method}\n"
        );
        write_private(&data.join("pg_hba.conf"), &rules);
    }
}
