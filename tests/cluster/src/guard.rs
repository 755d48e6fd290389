//! The guard of a server's folder.
//!
//! A process that is killed runs no destructor, and statics are never dropped. So a shell waits on a
//! pipe for the end of this process, which alone has the other end: then it ends the server, and
//! removes the folder. It is in a process group of its own, which an interrupt from a terminal spares.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The shell's script.
const SCRIPT: &str = include_str!("guard.sh");

/// A folder that is removed when this is dropped, or when this process ends in another way.
#[derive(Debug)]
pub struct Guard {
    shell: Child,
    folder: PathBuf,
}

impl Guard {
    pub fn over(folder: PathBuf) -> Self {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", SCRIPT, "guard"])
            .arg(&folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let shell = shell.spawn().expect("a shell");
        Self { shell, folder }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
