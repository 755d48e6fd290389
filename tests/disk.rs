//! A store that is full, read-only, damaged, too new or somebody else's: the server refuses it or
//! refuses writes, says why, and loses nothing that it has acknowledged.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use tillwatch_cluster::{Cluster, Options};
use tillwatch_proto::v1::{GetStatusRequest, get_status_request::Key};
use tillwatch_sandbox::Scenario;
use tonic::Code;

use crate::{
    house::House,
    orders::request,
    process::{Log, Server, until, within},
    store::Store,
};

/// Starts a second server from a house's configuration with one text replaced. It has to fail.
async fn refused(house: &House, from: &str, to: &str) -> String {
    let text = fs::read_to_string(house.config()).unwrap();
    let config = house.folder().join("second.toml");
    let ports = [&house.server.grpc, &house.server.ops];
    let text = ports.iter().fold(text.replace(from, to), |text, port| {
        text.replace(port.as_str(), "127.0.0.1:0")
    });
    fs::write(&config, text).unwrap();
    let log = Log::default();
    let status = match Server::start(&config, &log).await {
        Ok(_) => panic!("it serves:\n{}", log.text()),
        Err(status) => status,
    };
    assert_eq!(status.code(), Some(1), "{}", log.text());
    assert!(!log.text().contains("panicked"), "{}", log.text());
    log.text()
}

/// A house that has stopped, with one purchase in its store, and that purchase's id.
async fn stopped() -> (House, String) {
    let mut house = House::still().await;
    let id = bought(&house, "kept").await.unwrap();
    house.server.signal("TERM").await;
    assert!(house.server.exit().await.success());
    (house, id)
}

/// The id of the caller's purchase under this key, which a first call creates.
async fn bought(house: &House, key: &str) -> Result<String, tonic::Status> {
    let mut stub = house.stub("shop").await;
    let request = request(key, "devdraft", Scenario::Paid);
    let answer = within("a create", stub.create_purchase(request)).await?;
    Ok(answer.into_inner().purchase.unwrap().id)
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused() {
    let house = House::still().await;
    let id = bought(&house, "kept").await.unwrap();
    let log = refused(&house, "\0", "").await;
    assert!(log.contains("process"), "{log}");
    // The first process goes on as before.
    assert_eq!(bought(&house, "kept").await.unwrap(), id);
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_refused() {
    let (house, _) = stopped().await;
    let file = house.folder().join("tillwatch.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    database.pragma_update(None, "user_version", 9_999).unwrap();
    drop(database);
    let before = fs::read(&file).unwrap();
    let log = refused(&house, "\0", "").await;
    assert!(log.contains("newer"), "{log}");
    assert_eq!(fs::read(&file).unwrap(), before, "the file was touched");
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_named() {
    let (house, _) = stopped().await;
    let file = house.folder().join("tillwatch.db");
    let whole = fs::read(&file).unwrap();
    let mut no_header = whole.clone();
    no_header[..4_096].fill(0xa5);
    let mut no_middle = whole.clone();
    let rest = no_middle.len();
    no_middle[4_096..rest].fill(0xa5);
    let cut = whole[..whole.len() / 2].to_vec();
    for (name, damaged) in [("header", no_header), ("pages", no_middle), ("cut", cut)] {
        fs::write(&file, damaged).unwrap();
        let log = refused(&house, "\0", "").await;
        assert!(log.contains("journal"), "{name}: {log}");
    }
}

/// A small file system in memory over a house's folder. Dropping it unmounts it.
struct Mounted(String);

impl Mounted {
    /// `None` if this process may not mount. Then the test says so and skips, or fails in CI.
    fn over(folder: &Path) -> Option<Self> {
        let kept = tempfile::tempdir().unwrap();
        let copy = |from: &Path, to: &Path| {
            for entry in fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        };
        copy(folder, kept.path());
        let path = folder.display().to_string();
        let mounted = Self::at(&path, "size=3m")?;
        copy(kept.path(), folder);
        Some(mounted)
    }

    /// The same, empty, with these options.
    fn at(path: &str, options: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs", path])
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            assert!(
                std::env::var("CI").is_err(),
                "CI must be able to mount a small file system"
            );
            eprintln!("SKIPPED: a small file system cannot be mounted here (not root?)");
            return None;
        }
        Some(Self(path.to_owned()))
    }

    fn remount(&self, options: &str) {
        let mounted = Command::new("mount")
            .args(["-o", &format!("remount,{options}"), &self.0])
            .status();
        assert!(mounted.unwrap().success(), "remount {options}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, since the server may still be ending.
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[tokio::test]
async fn a_read_only_disk_is_refused() {
    let (house, _) = stopped().await;
    let Some(mounted) = Mounted::over(house.folder()) else {
        return;
    };
    // The server reads its configuration from another disk.
    let elsewhere = tempfile::tempdir().unwrap();
    let config = elsewhere.path().join("tillwatch.toml");
    fs::copy(house.config(), &config).unwrap();
    mounted.remount("ro");
    let log = Log::default();
    let status = Server::start(&config, &log).await.err();
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(1),
        "{}",
        log.text()
    );
    let said = log.text().to_lowercase();
    assert!(
        said.contains("read-only") || said.contains("readonly"),
        "{said}"
    );
}

async fn readiness(house: &House) -> String {
    let ready = house.client("shop").health("").await;
    ready.map_or_else(|error| error.to_string(), |status| format!("{status:?}"))
}

async fn becomes(house: &House, wanted: &str) {
    let what = format!("readiness {wanted}");
    until(&what, async || readiness(house).await == wanted).await;
}

/// Creates until the store refuses, on a disk that is filled to its last byte by a file. Adds what was
/// bought. Returns the key that was refused.
async fn bought_until_refused(
    house: &House,
    ballast: &Path,
    kept: &mut Vec<(String, String)>,
) -> String {
    // At first the store has free pages.
    for number in 0..2_000 {
        // The disk is filled each time anew: a checkpoint can free some.
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(ballast)
            .unwrap();
        while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
        let key = format!("key-{number}");
        match bought(house, &key).await {
            Ok(id) => kept.push((key, id)),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                return key;
            }
        }
    }
    panic!("a full disk refuses");
}

/// Callers can read everything that the server has acknowledged.
async fn all_can_be_read(house: &House, kept: &[(String, String)]) {
    let mut stub = house.stub("shop").await;
    for (key, id) in kept {
        let request = GetStatusRequest {
            key: Some(Key::IdempotencyKey(key.clone())),
            ..GetStatusRequest::default()
        };
        let answer = within("a read", stub.get_status(request)).await.unwrap();
        assert_eq!(answer.into_inner().purchase.unwrap().id, *id);
    }
}

/// Kills the server, and starts another: everything that was acknowledged is there.
async fn all_is_there_after_a_kill(house: &mut House, kept: Vec<(String, String)>) {
    house.server.kill().await;
    house.restart().await;
    for (key, id) in kept {
        assert_eq!(bought(house, &key).await.unwrap(), id, "{key}");
    }
}

/// Promise D1 on a full disk.
#[tokio::test]
async fn a_full_disk_refuses_what_it_cannot_keep_and_recovers_without_a_restart() {
    let (mut house, id) = stopped().await;
    let Some(_mounted) = Mounted::over(house.folder()) else {
        return;
    };
    house.restart().await;
    becomes(&house, "Serving").await;
    let ballast = house.folder().join("ballast");
    let mut kept = vec![("kept".to_owned(), id)];
    let refused = bought_until_refused(&house, &ballast, &mut kept).await;
    becomes(&house, "NotServing").await;
    all_can_be_read(&house, &kept).await;
    fs::remove_file(&ballast).unwrap();
    becomes(&house, "Serving").await;
    let again = bought(&house, &refused).await.unwrap();
    kept.push((refused, again));
    all_is_there_after_a_kill(&mut house, kept).await;
}

/// The same on a server whose database lies on a small disk, by a tablespace.
#[tokio::test]
async fn a_full_disk_of_postgresql_refuses_what_it_cannot_keep_and_recovers_without_a_restart() {
    let cluster = Cluster::start(Options::default());
    let small = cluster.folder().join("small");
    fs::create_dir(&small).unwrap();
    let owner = fs::metadata(cluster.folder()).unwrap();
    let options = format!("size=24m,mode=700,uid={},gid={}", owner.uid(), owner.gid());
    let path = small.display().to_string();
    let Some(_mounted) = Mounted::at(&path, &options) else {
        return;
    };
    cluster.run(
        "postgres",
        &format!("CREATE TABLESPACE small LOCATION '{path}'"),
    );
    let store = Store::on(&cluster);
    let database = store.database().url();
    let name = database.rsplit('/').next().unwrap();
    cluster.run(
        "postgres",
        &format!("ALTER DATABASE {name} SET TABLESPACE small"),
    );
    let mut house = House::still_on(store).await;
    let mut kept = vec![("kept".to_owned(), bought(&house, "kept").await.unwrap())];
    let ballast = small.join("ballast");
    let refused = bought_until_refused(&house, &ballast, &mut kept).await;
    let sent = house.sandbox.created("devdraft");
    all_can_be_read(&house, &kept).await;
    fs::remove_file(&ballast).unwrap();
    until("creates work again", async || {
        bought(&house, &refused).await.is_ok()
    })
    .await;
    assert_eq!(
        house.sandbox.created("devdraft"),
        sent + 1,
        "nothing was sent before"
    );
    let again = bought(&house, &refused).await.unwrap();
    kept.push((refused, again));
    all_is_there_after_a_kill(&mut house, kept).await;
}
