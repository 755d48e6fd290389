//! The processes of a server.

use std::{fs, path::Path};

use rustix::process::Pid;

/// The processes that work in a folder, or below it: PostgreSQL's do so with its data.
pub fn of(folder: &Path) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("Linux's list of processes");
    let member = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let id = entry.file_name().to_str()?.parse().ok()?;
        let works_in = fs::read_link(entry.path().join("cwd")).ok()?;
        works_in.starts_with(folder).then(|| Pid::from_raw(id))?
    };
    processes.filter_map(member).collect()
}
