//! `backup`: the journal and its fingerprint keys, of a server that runs or is stopped.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::{StartError, keys};
use crate::{
    config::{Config, Database, FingerprintKeys},
    journal::sqlite,
    purchase::Secret,
};

/// Writes a copy of the journal and of its fingerprint keys into a directory, both for their owner
/// alone. Makes the directory if it does not exist. A server can be started on the copies as they are.
/// Returns the files. Blocks for as long as the disk needs.
///
/// # Errors
/// See [`StartError`]; no existing file is changed, and no half of a copy is left. A journal in PostgreSQL
/// is the database's own tools' to copy.
pub fn back_up(config: &Config, directory: &Path) -> Result<[PathBuf; 2], StartError> {
    let Database::Sqlite(original) = &config.store.database else {
        return Err(StartError::BackupElsewhere);
    };
    let database = directory.join(original.file_name().unwrap_or_default());
    // A server on the copy finds the keys beside it.
    let key_file = FingerprintKeys::beside(&database).path().to_owned();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| file(directory, source))?;
    for path in [&database, &key_file] {
        refuse_existing(path)?;
    }
    let whole = with_ending(&database, ".partial");
    sqlite::back_up(original, &whole)?;
    // The keys are copied after the journal, which then names no key that is not among them.
    let finished = keys(config, &key_file).and_then(|()| {
        // The copy gets its name only now, so that a file with this name is whole.
        refuse_existing(&database)?;
        fs::rename(&whole, &database).map_err(|source| file(&database, source))
    });
    if finished.is_err() {
        fs::remove_file(&whole).ok();
    }
    finished?;
    let synced = fs::File::open(directory).and_then(|folder| folder.sync_all());
    synced.map_err(|source| file(directory, source))?;
    Ok([database, key_file])
}

fn keys(config: &Config, to: &Path) -> Result<(), StartError> {
    let from = config.store.fingerprint_keys.path();
    let text = fs::read_to_string(from).map(Secret::new);
    let text = text.map_err(|source| file(from, source))?;
    keys::write_private(to, text.expose()).map_err(|source| file(to, source))
}

fn refuse_existing(path: &Path) -> Result<(), StartError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(file(path, io::ErrorKind::AlreadyExists.into())),
        Err(_) => Ok(()),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

fn file(path: &Path, source: io::Error) -> StartError {
    StartError::File {
        path: path.to_owned(),
        source,
    }
}
