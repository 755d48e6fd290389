//! The fingerprint keys: read from their file, which is made beside the database if none is named.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::StartError;
use crate::{
    clock::Clock,
    config::{Config, Database, FingerprintKeys},
    fingerprint::{Keyring, KeyringError},
    journal::{Journal, Write},
    purchase::Secret,
};

/// The configured keys, or the keys beside the database, made if there are none.
pub(super) fn keyring(config: &Config, clock: &Clock) -> Result<Keyring, StartError> {
    let keys = &config.store.fingerprint_keys;
    let path = keys.path();
    let file = |source| StartError::File {
        path: path.to_owned(),
        source,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Secret::new(text),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && matches!(keys, FingerprintKeys::Beside(_)) =>
        {
            if matches!(&config.store.database, Database::Sqlite(file) if file.exists()) {
                tracing::warn!(
                    path = %path.display(),
                    "the database has lost its fingerprint keys: repeats of keys used so far will \
                     be refused until the file is back"
                );
            }
            let id = format!("k{}", clock.now().as_millis());
            let made = Keyring::new_file(&id, clock.bytes());
            write_private(path, made.expose()).map_err(file)?;
            made
        }
        Err(error) => return Err(file(error)),
    };
    Keyring::parse(&text).map_err(|source| StartError::Fingerprints {
        path: path.to_owned(),
        source,
    })
}

/// Compares the keys with those of the store's other processes: with two keys of one id a repeated order
/// would look like another one.
pub(super) async fn agree(
    journal: &dyn Journal,
    keyring: &Keyring,
    path: &Path,
) -> Result<(), StartError> {
    for (id, proof) in keyring.proofs() {
        let (key, value) = (format!("fingerprint_key/{id}"), hex::encode(proof));
        match journal.get(&key).await? {
            Some(known) if known == value => {}
            Some(_) => {
                return Err(StartError::Fingerprints {
                    path: path.to_owned(),
                    source: KeyringError::Other(id.to_owned()),
                });
            }
            None => {
                journal
                    .write(Write::Put {
                        key,
                        fence: None,
                        value,
                    })
                    .await?;
            }
        }
    }
    Ok(())
}

/// Writes a file that its owner alone can read, durably before it has its name.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::memory::MemoryJournal;

    #[tokio::test]
    async fn processes_on_one_store_have_the_same_key_by_each_id() {
        let journal = MemoryJournal::new("e");
        let agrees = async |ids: &[(&str, u8)]| {
            let lines = ids.iter();
            let lines = lines.map(|(id, byte)| format!("{id}:{}\n", hex::encode([*byte; 32])));
            let keyring = Keyring::parse(&Secret::new(lines.collect::<String>())).unwrap();
            agree(&journal, &keyring, Path::new("keys")).await
        };
        agrees(&[("a", 1)]).await.unwrap();
        agrees(&[("b", 2), ("a", 1)]).await.unwrap();
        let refused = agrees(&[("b", 1)]).await.unwrap_err();
        assert!(
            matches!(&refused, StartError::Fingerprints { source: KeyringError::Other(id), .. } if id == "b"),
            "{refused:?}"
        );
        agrees(&[("b", 2)]).await.unwrap();
    }
}
