//! The store of a server under test: a file of SQLite in its folder, or a database of PostgreSQL.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tillwatch_cluster::{Cluster, Database};

/// A store that a server is started on.
#[derive(Clone, Debug, Default)]
pub enum Store {
    /// A file in the server's folder.
    #[default]
    Sqlite,
    /// A database, which is dropped with the last who has it.
    Postgres(Arc<Database>),
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
            Self::Postgres(database) => format!(
                "url = \"{}\"\nfingerprint_key_file = \"{}\"\n",
                database.url(),
                keys(folder).display()
            ),
        }
    }

    /// The database; fails for a file.
    pub fn database(&self) -> &Database {
        match self {
            Self::Sqlite => panic!("a file is no database of PostgreSQL"),
            Self::Postgres(database) => database,
        }
    }
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
