//! Files with key sets, as an issuer's publisher leaves them.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{Keys, KeysError};

/// The largest file, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// The reason why a file with keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is longer than any key set.
    #[error("{}: must have at most 1 MiB", .0.display())]
    TooLong(PathBuf),
    /// Its content is no set of keys.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: KeysError,
    },
}

impl Keys {
    /// The keys of a file. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let unread = |source| KeyFileError::Unread {
            path: path.to_owned(),
            source,
        };
        let mut content = Vec::new();
        let file = File::open(path).map_err(unread)?;
        // A device or a pipe has no size, so the bytes are bounded as they are read.
        let read = file.take(BYTES_MAX + 1).read_to_end(&mut content);
        read.map_err(unread)?;
        if content.len() as u64 > BYTES_MAX {
            return Err(KeyFileError::TooLong(path.to_owned()));
        }
        Self::parse(&content).map_err(|source| KeyFileError::Content {
            path: path.to_owned(),
            source,
        })
    }
}
