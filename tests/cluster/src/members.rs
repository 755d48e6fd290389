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

/// True if a process does not run, or is there no more.
pub fn stands_still(member: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", member.as_raw_pid()));
    // Its state comes after its name in parentheses.
    stat.ok()
        .as_deref()
        .and_then(|stat| stat.rsplit(") ").next())
        .is_none_or(|rest| rest.starts_with('T'))
}
