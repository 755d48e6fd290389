//! The store of a server under test: a file of SQLite in its folder, or a database of PostgreSQL.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tillwatch_cluster::{Cluster, Database, Gate};

/// The name at the server of connections through a gate.
pub const GATED: &str = "gated";

/// A store that a server is started on.
#[derive(Clone, Debug, Default)]
pub enum Store {
    /// A file in the server's folder.
    #[default]
    Sqlite,
    /// A database, which is dropped with the last who has it.
    Postgres(Arc<Database>),
    /// The same, through a gate. Its connections for reads are as few as there can be, so that a test can hold
    /// all of them.
    Through(Arc<Gate>, Arc<Database>),
}

impl Store {
    /// A database on the server that the tests share.
    pub fn postgres() -> Self {
        Self::on(&Cluster::shared())
    }

    /// A database on a server.
    pub fn on(cluster: &Cluster) -> Self {
        Self::Postgres(Arc::new(cluster.database()))
    }

    /// The settings of `[store]`, for a server with this folder.
    pub fn lines(&self, folder: &Path) -> String {
        match self {
            Self::Sqlite => {
                let file = folder.join("tillwatch.db");
                format!("url = \"sqlite:{}\"\n", file.display())
            }
            Self::Postgres(database) => lines(&database.url(), folder),
            Self::Through(gate, _) => {
                let url = format!("{}?application_name={GATED}", gate.url());
                lines(&url, folder) + "connections = 2\n"
            }
        }
    }

    /// The same store through a new gate.
    pub async fn gated(&self) -> (Self, Arc<Gate>) {
        match self {
            Self::Sqlite => panic!("there is no gate before a file"),
            Self::Postgres(database) | Self::Through(_, database) => {
                let gate = Arc::new(Gate::before(database).await);
                let store = Self::Through(Arc::clone(&gate), Arc::clone(database));
                (store, gate)
            }
        }
    }

    /// The database; fails for a file.
    pub fn database(&self) -> &Database {
        match self {
            Self::Sqlite => panic!("a file is no database of PostgreSQL"),
            Self::Postgres(database) | Self::Through(_, database) => database,
        }
    }
}

fn lines(url: &str, folder: &Path) -> String {
    let keys = keys(folder);
    format!(
        "url = \"{url}\"\nfingerprint_key_file = \"{}\"\n",
        keys.display()
    )
}

/// The file of fingerprint keys in a folder, which outlives each server there.
fn keys(folder: &Path) -> PathBuf {
    let path = folder.join("fingerprint-keys");
    if !path.exists() {
        let key = hex::encode(rand::random::<[u8; 32]>());
        fs::write(&path, format!("k1:{key}\n")).unwrap();
    }
    path
}
