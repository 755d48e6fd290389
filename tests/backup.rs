//! `tillwatch-server backup` copies the store of a server at work, and a server starts on the copy.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use tillwatch_proto::v1::{GetStatusRequest, get_status_request::Key};
use tillwatch_sandbox::Scenario;
use tokio::{process::Command, task::JoinSet};

use crate::{
    executables::executable,
    house::{House, Settings, Stub},
    orders::request,
    process::{Server, until, within},
    store::Store,
};

/// Keys and ids of purchases that were acknowledged.
type Acknowledged = Arc<Mutex<Vec<(String, String)>>>;

async fn buy(mut stub: Stub, acknowledged: Acknowledged, buyer: usize) {
    for number in 0.. {
        let key = format!("{buyer}-{number}");
        let request = request(&key, "carbon", Scenario::Paid);
        let answer = stub.create_purchase(request).await.unwrap().into_inner();
        let id = answer.purchase.unwrap().id;
        acknowledged.lock().unwrap().push((key, id));
    }
}

async fn back_up(config: &Path, directory: &Path) -> std::process::Output {
    let backup = Command::new(executable("tillwatch-server"))
        .env_clear()
        .args(["backup", "--config"])
        .arg(config)
        .arg(directory)
        .kill_on_drop(true)
        .output();
    within("a backup", backup).await.unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Promise D1 for a copy.
#[tokio::test]
async fn a_backup_under_load_restores_everything_acknowledged_before_it() {
    let mut house = House::start(Settings::default()).await;
    let acknowledged = Acknowledged::default();
    let mut load = JoinSet::new();
    for buyer in 0..4 {
        load.spawn(buy(house.stub("shop").await, acknowledged.clone(), buyer));
    }
    let count = || acknowledged.lock().unwrap().len();
    until("purchases are made", async || count() >= 40).await;
    let before = acknowledged.lock().unwrap().clone();
    let directory = house.folder().join("of").join("today");
    let done = back_up(house.config(), &directory).await;
    assert!(done.status.success(), "{done:?}");
    let during = count();
    until("the server goes on", async || count() > during).await;
    load.shutdown().await;

    let database = directory.join("tillwatch.db");
    let keys = directory.join("tillwatch.db.fingerprint-keys");
    let told = String::from_utf8(done.stdout).unwrap();
    assert_eq!(
        told,
        format!("{}\n{}\n", database.display(), keys.display())
    );
    assert_eq!(mode(&directory), 0o700);
    assert_eq!((mode(&database), mode(&keys)), (0o600, 0o600));
    let names = fs::read_dir(&directory).unwrap().count();
    assert_eq!(names, 2, "nothing else is left there");

    let whole = fs::read(&database).unwrap();
    let again = back_up(house.config(), &directory).await;
    assert_eq!(again.status.code(), Some(1), "no file is overwritten");
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(
        said.contains("tillwatch.db") && said.contains("exists"),
        "{said}"
    );
    assert_eq!(fs::read(&database).unwrap(), whole);

    house.server.kill().await;
    let text = fs::read_to_string(house.config()).unwrap();
    let restored = text.replace(
        &house.folder().join("tillwatch.db").display().to_string(),
        &database.display().to_string(),
    );
    assert_ne!(restored, text);
    fs::write(house.config(), restored).unwrap();
    house.server = Server::start(house.config(), &house.log).await.unwrap();
    let mut stub = house.stub("shop").await;
    for (key, id) in &before {
        let request = GetStatusRequest {
            key: Some(Key::IdempotencyKey(key.clone())),
            ..GetStatusRequest::default()
        };
        let answer = within("a read", stub.get_status(request)).await.unwrap();
        assert_eq!(answer.into_inner().purchase.unwrap().id, *id);
    }
    // The copy has the fingerprint keys too: the service knows the order again.
    let (key, id) = &before[0];
    let repeat = stub.create_purchase(request(key, "carbon", Scenario::Paid));
    let repeat = within("a repeat", repeat).await.unwrap().into_inner();
    assert!(repeat.replayed);
    assert_eq!(repeat.purchase.unwrap().id, *id);
}

#[tokio::test]
async fn a_stopped_server_is_backed_up_and_a_missing_journal_is_refused() {
    let mut house = House::still().await;
    let mut stub = house.stub("shop").await;
    let create = stub.create_purchase(request("key", "carbon", Scenario::Paid));
    within("a create", create).await.unwrap();
    house.server.kill().await;
    let done = back_up(house.config(), &house.folder().join("killed")).await;
    assert!(done.status.success(), "{done:?}");
    for ending in ["db", "db-wal", "db-shm"] {
        fs::remove_file(house.folder().join("tillwatch").with_extension(ending)).ok();
    }
    let directory = house.folder().join("nothing");
    let refused = back_up(house.config(), &directory).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("no journal"), "{said}");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[tokio::test]
async fn a_backup_of_a_journal_in_postgresql_says_whose_tools_make_one() {
    let house = House::still_on(Store::postgres()).await;
    let directory = house.folder().join("backup");
    let refused = back_up(house.config(), &directory).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    for word in ["pg_dump", "store.fingerprint_key_file"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!directory.exists());
}
