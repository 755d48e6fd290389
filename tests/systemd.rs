//! The unit of `deploy/systemd`, and the words of the server to the service manager above it.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{net::UnixDatagram, process::Command};

use crate::{
    consumers::print,
    executables::executable,
    process::{Log, Server, serve, until, within},
    tidy::sources::root,
};

/// The place of the executable in the unit.
const INSTALLED: &str = "/usr/bin/tillwatch-server";
/// The highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MAX: &str = "15";

fn unit() -> String {
    fs::read_to_string(root().join("deploy/systemd/tillwatch.service")).unwrap()
}

/// The value of a key of the unit.
fn value(key: &str) -> String {
    let unit = unit();
    let line = unit.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|rest| rest.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {key}")).to_owned()
}

/// A folder with settings of a server of its own, and their path.
fn settings() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tillwatch.toml");
    let text = format!(
        "[listen]\ngrpc = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n\
         [store]\nurl = \"sqlite:{}\"\n\
         [callers.local]\nanonymous = true\naccounts = [\"*\"]\nscopes = [\"read\"]\n",
        folder.path().join("tillwatch.db").display()
    );
    fs::write(&path, text).unwrap();
    (folder, path)
}

/// A service manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    signs_of_life: usize,
}

impl Manager {
    /// The next message that is no sign of life.
    async fn next(&mut self) -> String {
        loop {
            let mut buffer = [0; 512];
            let received = within("a message", self.socket.recv(&mut buffer)).await;
            let text = String::from_utf8(buffer[..received.unwrap()].to_vec()).unwrap();
            if text != "WATCHDOG=1" {
                return text;
            }
            self.signs_of_life += 1;
        }
    }
}

async fn is_ready(server: &Server) -> bool {
    let mut probe = Command::new(executable("tillwatch-server"));
    probe.args(["health", "--address", &server.ops]);
    print(&mut probe).await.success
}

#[tokio::test]
async fn the_service_manager_hears_of_the_start_each_reload_and_the_drain() {
    let (folder, config) = settings();
    let path = folder.path().join("notify");
    let mut manager = Manager {
        socket: UnixDatagram::bind(&path).unwrap(),
        signs_of_life: 0,
    };
    let mut command = serve(&config, &[]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000");
    let log = Log::default();
    let server = Server::start_by(command, &config, &log).await;
    let mut server = server.unwrap_or_else(|status| panic!("{status}: {}", log.text()));
    assert_eq!(manager.next().await, "STATUS=reading the journal");
    assert_eq!(manager.next().await, "READY=1\nSTATUS=serving");
    assert!(is_ready(&server).await, "{}", log.text());

    server.signal("HUP").await;
    let mut moments = Vec::new();
    let mut reloading = async |manager: &mut Manager| {
        let said = manager.next().await;
        let moment = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let moment: u64 = moment.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
        moments.push(moment);
    };
    reloading(&mut manager).await;
    assert_eq!(manager.next().await, "READY=1\nSTATUS=serving");

    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}[limits]\nstreams = 0\n")).unwrap();
    server.signal("HUP").await;
    reloading(&mut manager).await;
    let failed = "READY=1\nSTATUS=serving; new settings cannot be used, see the log";
    assert_eq!(manager.next().await, failed);
    assert!(moments.is_sorted() && moments[0] > 0, "{moments:?}");

    until("a sign of life", async || {
        manager.signs_of_life > 0 || {
            let mut buffer = [0; 512];
            let length = manager.socket.recv(&mut buffer).await.unwrap();
            &buffer[..length] == b"WATCHDOG=1"
        }
    })
    .await;
    server.signal("TERM").await;
    assert_eq!(manager.next().await, "STOPPING=1\nSTATUS=draining");
    assert!(server.exit().await.success(), "{}", log.text());
}

/// A unit whose executable lies where this build put it.
fn installed(folder: &Path) -> std::path::PathBuf {
    let server = executable("tillwatch-server").display().to_string();
    let path = folder.join("tillwatch.service");
    fs::write(&path, unit().replace(INSTALLED, &server)).unwrap();
    path
}

#[tokio::test]
async fn the_unit_is_whole_and_leaves_the_server_no_right_that_it_does_not_need() {
    let folder = tempfile::tempdir().unwrap();
    let unit = installed(folder.path());
    let analyze = async |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        print(command.args(arguments).arg(&unit)).await
    };
    let verified = analyze(&["verify", "--man=no", "--generators=no"]).await;
    assert!(verified.success, "{}", verified.err);
    assert_eq!(verified.err, "", "a warning is a fault too");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let offline = ["security", "--offline=true", "--no-pager", &threshold];
    let exposed = analyze(&offline).await;
    assert!(exposed.success, "{}", exposed.out);
}

#[test]
fn the_unit_waits_longer_than_a_drain_and_never_repeats_bad_settings() {
    let (_folder, config) = settings();
    let config = tillwatch_server::config::Config::load(Some(&config), std::iter::empty());
    let drain = config.unwrap().listen.drain;
    let stop: u64 = value("TimeoutStopSec").parse().unwrap();
    // Two seconds for what follows the drain: the journal's close and the exit.
    assert!(Duration::from_secs(stop) > drain + Duration::from_secs(2));
    assert_eq!(value("RestartPreventExitStatus"), "64");
    assert_eq!(value("Restart"), "on-failure");
}

/// SQLite makes this call for root alone, and the unit's user is another.
const ROOTS: &str = "fchown";

/// The system calls of a set, as `systemd-analyze` lists them, with those of the sets in it.
async fn system_calls(set: &str) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    let mut sets = vec![set.to_owned()];
    while let Some(set) = sets.pop() {
        let mut command = Command::new("systemd-analyze");
        let listed = print(command.args(["syscall-filter", &set])).await;
        assert!(listed.success, "{set}: {}", listed.err);
        for line in listed.out.lines().skip(1).map(str::trim) {
            match line {
                "" => {}
                line if line.starts_with('#') => {}
                line if line.starts_with('@') => sets.push(line.to_owned()),
                line => {
                    calls.insert(line.to_owned());
                }
            }
        }
    }
    calls
}

/// The system calls of the unit's filter.
async fn allowed() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for line in unit().lines() {
        let Some(sets) = line.strip_prefix("SystemCallFilter=") else {
            continue;
        };
        let is_denied = sets.starts_with('~');
        for set in sets.trim_start_matches('~').split(' ') {
            let calls = system_calls(set).await;
            match is_denied {
                true => allowed.retain(|call| !calls.contains(call)),
                false => allowed.extend(calls),
            }
        }
    }
    allowed
}

#[tokio::test]
async fn the_units_filter_has_each_system_call_of_a_server_that_serves_reloads_and_drains() {
    let (folder, config) = settings();
    let calls = folder.path().join("calls");
    let server = serve(&config, &[]);
    let mut command = Command::new("strace");
    // The tracer stands aside, so that the process is the server itself.
    command
        .args(["-D", "-f", "-qq", "-e", "signal=none", "-o"])
        .arg(&calls)
        .arg(server.as_std().get_program())
        .args(server.as_std().get_args())
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    let log = Log::default();
    let server = Server::start_by(command, &config, &log).await;
    let mut server = server.unwrap_or_else(|status| panic!("{status}: {}", log.text()));
    assert!(is_ready(&server).await, "{}", log.text());
    server.signal("HUP").await;
    until("a reload", async || log.text().contains("were read again")).await;
    server.signal("TERM").await;
    assert!(server.exit().await.success(), "{}", log.text());
    let mut traced = String::new();
    until("the trace is whole", async || {
        traced = fs::read_to_string(&calls).unwrap();
        // Another thread's line may come in between: then the call is written as unfinished.
        traced.contains("exit_group(0")
    })
    .await;
    let made: BTreeSet<String> = traced
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.split_once('('))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase()))
        .filter(|name| name != ROOTS)
        .collect();
    assert!(
        made.contains("accept4") && made.contains("fsync"),
        "{made:?}"
    );
    let allowed = allowed().await;
    let refused: Vec<&String> = made.difference(&allowed).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
