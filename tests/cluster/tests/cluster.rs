//! Servers that tests start: they answer, end in each way, and leave nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first thing that is not as promised"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use tillwatch_cluster::{Cluster, Options, ROLE, Stop, Tls, until};

/// The processes that work in a folder or below it.
fn processes(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let works_in = |process: &PathBuf| {
        fs::read_link(process.join("cwd")).is_ok_and(|path| path.starts_with(folder))
    };
    all.map(|entry| entry.path()).filter(works_in).collect()
}

/// A table with one row.
fn with_a_row(options: Options) -> (Cluster, String) {
    let cluster = Cluster::start(options);
    cluster.run("postgres", "CREATE TABLE kept AS SELECT 7 AS number");
    (cluster, "SELECT number FROM kept".to_owned())
}

/// The executable, which holds a server. Returns the server's folder too.
fn holder() -> (Child, PathBuf) {
    let mut holder = Command::new(env!("CARGO_BIN_EXE_tillwatch-cluster"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    let mut said = BufReader::new(holder.stdout.take().unwrap());
    said.read_line(&mut url).unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let folder = host.split(':').next().unwrap().replace("%2F", "/");
    (holder, PathBuf::from(folder))
}

#[test]
fn nothing_is_left_of_a_server_whose_process_was_killed() {
    let (mut holder, folder) = holder();
    assert!(folder.join("data").is_dir(), "{}", folder.display());
    assert!(!processes(&folder).is_empty());
    holder.kill().unwrap();
    holder.wait().unwrap();
    until("the folder goes", || !folder.exists());
    assert_eq!(processes(&folder), Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_left_of_a_shared_server_whose_process_ended_by_itself() {
    let (mut holder, folder) = holder();
    assert!(!processes(&folder).is_empty());
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    until("the folder goes", || !folder.exists());
    assert_eq!(processes(&folder), Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_left_of_a_server_whose_test_panicked_even_while_it_was_frozen() {
    let mut folder = PathBuf::new();
    let test = AssertUnwindSafe(|| {
        let cluster = Cluster::start(Options::default());
        cluster.folder().clone_into(&mut folder);
        cluster.freeze();
        panic!("a test that fails");
    });
    assert!(catch_unwind(test).is_err());
    assert!(!folder.exists());
    assert_eq!(processes(&folder), Vec::<PathBuf>::new());
}

#[test]
fn committed_rows_are_there_after_each_way_to_end() {
    let (cluster, rows) = with_a_row(Options {
        fsync: true,
        ..Options::default()
    });
    for stop in [Stop::Smart, Stop::Fast, Stop::Immediate] {
        cluster.stop(stop);
        cluster.try_run("postgres", &rows).unwrap_err();
        cluster.start_again();
        assert_eq!(cluster.run("postgres", &rows), "7", "{stop:?}");
    }
    cluster.kill();
    cluster.try_run("postgres", &rows).unwrap_err();
    cluster.start_again();
    assert_eq!(cluster.run("postgres", &rows), "7");
    assert!(
        cluster.log().contains("automatic recovery"),
        "{}",
        cluster.log()
    );
    assert_eq!(cluster.run("postgres", "SHOW fsync"), "on");
}

/// True if a signal has stopped a process.
fn is_stopped(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    // Its state comes after its name in parentheses.
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with('T'))
}

#[test]
fn a_frozen_server_answers_once_it_is_thawed() {
    let (cluster, rows) = with_a_row(Options::default());
    cluster.freeze();
    let all = processes(cluster.folder());
    assert!(all.len() > 3, "PostgreSQL has more processes: {all:?}");
    assert!(all.iter().all(|one| is_stopped(one)), "{all:?}");
    let asking = {
        let cluster = cluster.clone();
        thread::spawn(move || cluster.run("postgres", &rows))
    };
    assert!(!asking.is_finished());
    cluster.thaw();
    assert_eq!(asking.join().unwrap(), "7");
}

#[test]
fn each_database_is_its_own_and_goes_with_its_test() {
    let cluster = Cluster::shared();
    let (one, other) = (cluster.database(), cluster.database());
    one.run("CREATE TABLE own (number int)");
    other.run("CREATE TABLE own (number int)");
    assert_ne!(one.url(), other.url());
    let name = one.url().rsplit('/').next().unwrap().to_owned();
    let count = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
    assert_eq!(cluster.run("postgres", &count), "1");
    drop(one);
    assert_eq!(cluster.run("postgres", &count), "0");
}

#[test]
fn a_server_with_a_certificate_and_a_password_takes_nothing_less() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cluster = Cluster::start(Options {
        tls: Some(Tls {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }),
        password: Some("it's a secret".to_owned()),
        ..Options::default()
    });
    let url = cluster.database().url();
    assert!(
        url.starts_with("postgres://tillwatch:it%27s%20a%20secret@127.0.0.1:"),
        "{url}"
    );
    let port = cluster.port();
    let asked = |ssl: &str, password: &str| {
        let place = format!(
            "host=127.0.0.1 port={port} user={ROLE} dbname=postgres sslmode={ssl} password='{password}'"
        );
        cluster.try_run(
            &place,
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        )
    };
    assert_eq!(asked("require", "it\\'s a secret").unwrap(), "t");
    let plain = asked("disable", "it\\'s a secret").unwrap_err();
    assert!(plain.contains("no encryption"), "{plain}");
    let wrong = asked("require", "another").unwrap_err();
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    // It finds its port again.
    cluster.stop(Stop::Fast);
    cluster.start_again();
    assert_eq!(asked("require", "it\\'s a secret").unwrap(), "t");
}
