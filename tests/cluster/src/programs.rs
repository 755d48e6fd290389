//! PostgreSQL's programs on this machine.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::geteuid;

use crate::{NOBODY, output};

/// The oldest version that tests run on.
const OLDEST: u32 = 15;
/// The folder in which `scripts/install-postgres` unpacks, from this package's.
const UNPACKED: &str = "../../.cache/postgres";

/// A folder with the programs, and the folders of libraries that the machine lacks.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    libraries: Option<String>,
}

impl Programs {
    /// The machine's own, or else those that `scripts/install-postgres` has unpacked.
    ///
    /// # Errors
    /// The sentence that says what to do, if there are neither.
    pub fn find() -> Result<Self, String> {
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(UNPACKED);
        let path = env::var_os("PATH").unwrap_or_default();
        let own = env::split_paths(&path).chain(servers(Path::new("/")));
        let own = own.map(|folder| (folder, None));
        let libraries = libraries(&unpacked);
        let unpacked = servers(&unpacked).into_iter();
        let unpacked = unpacked.map(|folder| (folder, Some(libraries.clone())));
        Self::chosen(own.chain(unpacked))
    }

    /// The programs of the first folder, by its libraries, with a server that is new enough.
    fn chosen(folders: impl Iterator<Item = (PathBuf, Option<String>)>) -> Result<Self, String> {
        let mut linked = folders.filter_map(|(folder, libraries)| {
            // The other programs lie where a link leads.
            let server = folder.join("postgres").canonicalize().ok()?;
            let folder = server.parent()?.to_owned();
            Some(Self { folder, libraries })
        });
        let is_new = |found: &Self| found.version().is_some_and(|version| version >= OLDEST);
        linked.find(is_new).ok_or_else(|| {
            format!("PostgreSQL {OLDEST} or newer is missing: run scripts/install-postgres")
        })
    }

    /// The major version: the server says `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    fn version(&self) -> Option<u32> {
        let said = output(self.command("postgres").arg("--version")).ok()?;
        let (_, number) = said.split_once("(PostgreSQL) ")?;
        let major = number.split(|letter: char| !letter.is_ascii_digit()).next();
        major?.parse().ok()
    }

    /// A program as the server's user, with nothing of this process's environment.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.folder.join(name));
        command.current_dir("/").env_clear();
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

/// The folders of the servers that Debian's packages have put below a root.
fn servers(root: &Path) -> Vec<PathBuf> {
    let versions = fs::read_dir(root.join("usr/lib/postgresql"));
    let versions = versions.into_iter().flatten();
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    folders.collect()
}

/// The folders of the libraries below a root: one for each kind of machine.
fn libraries(root: &Path) -> String {
    let kinds = fs::read_dir(root.join("usr/lib")).into_iter().flatten();
    let folders = kinds.filter_map(|kind| Some(kind.ok()?.path().display().to_string()));
    folders.collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_postgresql_is_told_what_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let empty = std::iter::once((folder.path().to_owned(), None));
        let said = Programs::chosen(empty).unwrap_err();
        assert!(said.contains("run scripts/install-postgres"), "{said}");
    }

    #[test]
    fn a_server_that_is_too_old_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut found = Vec::new();
        for version in ["14.11", "16.3"] {
            let bin = folder.path().join(version);
            fs::create_dir(&bin).unwrap();
            let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version} (Debian)'\n");
            let server = bin.join("postgres");
            crate::write_private(&server, &script);
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&server, executable).unwrap();
            found.push((bin, None));
        }
        crate::give(folder.path());
        let newer = found[1].0.canonicalize().unwrap();
        let chosen = Programs::chosen(found.into_iter()).unwrap();
        assert_eq!(chosen.folder, newer);
    }
}
