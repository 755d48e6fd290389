//! Accounts while the server runs: changed, new and gone, with streams open over each reload.

use std::{fs, os::unix::fs::symlink, path::Path, time::Instant};

use tillwatch_proto::v1::{
    Account, AccountHealth, CreatePurchaseRequest, GetStatusRequest, ListAccountsRequest,
    PurchaseStatus, WatchStatusRequest, get_status_request, watch_status_response::Event,
};
use tillwatch_sandbox::Scenario;
use tokio::task::JoinHandle;

use crate::{
    house::{House, Settings},
    orders::request,
    process::{DEADLINE, until, within},
    reload::{BAD, DONE, reload},
};

/// The secret of every house at Carbon, as its configuration has it.
const SECRET: &str = "\"house-secret-carbon\"";

/// An account as an operator sees it.
async fn account(house: &House, name: &str) -> Option<Account> {
    let mut desk = house.stub("desk").await;
    let answer = desk.list_accounts(ListAccountsRequest {}).await.unwrap();
    let mut accounts = answer.into_inner().accounts.into_iter();
    accounts.find(|account| account.name == name)
}

async fn health(house: &House, name: &str) -> AccountHealth {
    account(house, name).await.unwrap().health()
}

/// A stream from a purchase's first revision to its end, which gives all revisions that it told.
async fn watched(house: &House, purchase: &str) -> JoinHandle<Vec<u32>> {
    let mut stub = house.stub("shop").await;
    let watch = WatchStatusRequest {
        purchase_id: purchase.to_owned(),
        after_revision: Some(0),
        ..WatchStatusRequest::default()
    };
    let stream = within("a stream", stub.watch_status(watch)).await;
    let mut stream = stream.unwrap().into_inner();
    tokio::spawn(async move {
        let mut revisions = Vec::new();
        while let Some(message) = stream.message().await.expect("an open stream") {
            if let Some(Event::Transition(told)) = message.event {
                revisions.push(told.status.unwrap().revision);
            }
        }
        revisions
    })
}

/// The stream ends with its purchase, and has told each revision once and in order.
async fn has_lost_nothing(stream: JoinHandle<Vec<u32>>) {
    let told = within("the end of a stream", stream).await.unwrap();
    let all: Vec<u32> = (1..).take(told.len()).collect();
    assert_eq!(told, all);
    assert!(told.len() > 2, "{told:?}");
}

async fn status(house: &House, purchase: &str) -> PurchaseStatus {
    let get = GetStatusRequest {
        key: Some(get_status_request::Key::PurchaseId(purchase.to_owned())),
        ..GetStatusRequest::default()
    };
    let answer = house.stub("shop").await.get_status(get).await.unwrap();
    answer.into_inner().purchase.unwrap().status.unwrap()
}

fn is_terminal(status: &PurchaseStatus) -> bool {
    status.finality > 1
}

/// An account at Carbon in the sandbox, with its secret in a file.
fn by_file(house: &House, name: &str, secret: &Path) -> String {
    format!(
        "\n[accounts.{name}]\nprovider = \"carbon\"\nbase_url = \"http://{}/carbon\"\n\
         allow_insecure = true\nallow_private_networks = true\nsecret_key_file = \"{}\"\n\
         [accounts.{name}.polling]\nschedule = [{{ every = \"100ms\" }}]\nrequests_per_minute = 0\n",
        house.sandbox.address(),
        secret.display()
    )
}

fn order(account: &str, key: &str, scenario: Scenario) -> CreatePurchaseRequest {
    CreatePurchaseRequest {
        account: account.to_owned(),
        ..request(key, "carbon", scenario)
    }
}

#[tokio::test]
async fn a_good_secret_ends_unauthorized_by_the_next_request_and_no_stream_loses_anything() {
    let house = House::still().await;
    let purchase = (house.create("shop", request("key", "carbon", Scenario::Paid))).await;
    let stream = watched(&house, &purchase.id).await;
    reload(&house, DONE, |text| text.replace(SECRET, "\"invalid\"")).await;
    until("the secret is refused", async || {
        health(&house, "carbon-main").await == AccountHealth::Unauthorized
    })
    .await;
    house.sandbox.resume();
    let refused = house
        .refused("shop", request("other", "carbon", Scenario::Paid))
        .await;
    assert_eq!(refused.reason, "ACCOUNT_UNAUTHORIZED");
    // An account that is refused is probed once a minute.
    let mended = Instant::now();
    reload(&house, DONE, |text| text.replace("\"invalid\"", SECRET)).await;
    house.settled("it goes on", &purchase.id, is_terminal).await;
    assert!(mended.elapsed() < DEADLINE);
    assert_eq!(health(&house, "carbon-main").await, AccountHealth::Ok);
    has_lost_nothing(stream).await;
}

/// As Kubernetes mounts a secret: its names are links into a folder that another takes the place of.
#[tokio::test]
async fn a_changed_file_of_a_secret_is_taken_up_by_itself_and_a_bad_one_changes_nothing() {
    let house = House::start(Settings::default()).await;
    let mount = tempfile::tempdir().unwrap();
    let swap = |number: u8, secret: &str| {
        let folder = mount.path().join(format!("..{number}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("secret"), secret).unwrap();
        symlink(&folder, mount.path().join("..new")).unwrap();
        fs::rename(mount.path().join("..new"), mount.path().join("..data")).unwrap();
    };
    swap(1, "invalid");
    let secret = mount.path().join("secret");
    symlink("..data/secret", &secret).unwrap();
    let more = by_file(&house, "carbon-file", &secret);
    reload(&house, DONE, |text| format!("{text}{more}")).await;
    let order = |key: &str| order("carbon-file", key, Scenario::Paid);
    let refused = house.refused("shop", order("key")).await;
    assert_eq!(refused.reason, "ACCOUNT_UNAUTHORIZED");
    swap(2, "good");
    let mut stub = house.stub("shop").await;
    let mut accepted = None;
    until("the good secret is used", async || {
        let created = stub.create_purchase(order("key")).await;
        accepted = created.ok();
        accepted.is_some()
    })
    .await;
    let purchase = accepted.unwrap().into_inner().purchase.unwrap();
    house
        .settled("it is polled", &purchase.id, is_terminal)
        .await;

    // An empty file, as one that is being written: the good secret holds on.
    swap(3, "");
    let stale = "\ntillwatch_settings_stale 1\n";
    until("the bad file is told", async || {
        house.metrics().await.contains(stale)
    })
    .await;
    let told = "changed files of the settings cannot be used; the older ones are kept";
    let log = house.log.text();
    let line = log.lines().find(|line| line.contains(told)).unwrap();
    assert!(line.contains("accounts.carbon-file"), "{line}");
    let purchase = house.create("shop", order("third")).await;
    house
        .settled("it is polled", &purchase.id, is_terminal)
        .await;
    swap(4, "good");
    until("the file is good again", async || {
        !house.metrics().await.contains(stale)
    })
    .await;
    assert_eq!(house.log.text().matches(told).count(), 1);
}

#[tokio::test]
async fn a_new_account_is_used_and_polled_at_once() {
    let house = House::start(Settings::default()).await;
    let secret = house.folder().join("secret");
    fs::write(&secret, "good\n").unwrap();
    let refused = house
        .refused("shop", order("carbon-new", "key", Scenario::Paid))
        .await;
    assert_eq!(refused.reason, "ACCOUNT_UNKNOWN");
    let more = by_file(&house, "carbon-new", &secret);
    reload(&house, DONE, |text| format!("{text}{more}")).await;
    let purchase = house
        .create("shop", order("carbon-new", "key", Scenario::Paid))
        .await;
    let stream = watched(&house, &purchase.id).await;
    house
        .settled("it is polled", &purchase.id, is_terminal)
        .await;
    has_lost_nothing(stream).await;
    assert!(house.metrics().await.contains("account=\"carbon-new\""));
}

#[tokio::test]
async fn an_account_that_is_gone_polls_nothing_and_goes_on_when_it_comes_back() {
    let house = House::still().await;
    let create = |key| house.create("shop", request(key, "carbon", Scenario::Paid));
    let purchase = create("key").await;
    let stream = watched(&house, &purchase.id).await;
    let before = fs::read_to_string(house.config()).unwrap();
    reload(&house, DONE, |text| {
        let (head, rest) = text.split_once("[accounts.carbon-main]").unwrap();
        let (_, tail) = rest.split_once("[accounts.devdraft-main]").unwrap();
        format!("{head}[accounts.devdraft-main]{tail}")
    })
    .await;
    let missing = house.settled("the loss is told", &purchase.id, |status| {
        let attention = status.attention.as_ref();
        attention.is_some_and(|attention| attention.reason == "ACCOUNT_MISSING")
    });
    let missing = missing.await;
    assert_eq!(missing.state(), purchase.status.unwrap().state());
    let refused = house
        .refused("shop", request("other", "carbon", Scenario::Paid))
        .await;
    assert_eq!(refused.reason, "ACCOUNT_UNKNOWN");
    // Others go on, past the time at which this one would have been polled.
    house.sandbox.resume();
    let other = house
        .create("shop", request("devdraft", "devdraft", Scenario::Paid))
        .await;
    house
        .settled("another account's", &other.id, is_terminal)
        .await;
    assert_eq!(status(&house, &purchase.id).await, missing);
    let figures = house.metrics().await;
    let open = "tillwatch_open_purchases{account=\"carbon-main\"";
    assert!(!figures.contains(open), "{figures}");
    assert!(!house.log.text().contains("loops have ended"));

    reload(&house, DONE, |_| before.clone()).await;
    house.settled("it goes on", &purchase.id, is_terminal).await;
    has_lost_nothing(stream).await;
    let again = create("again").await;
    house.settled("it is polled", &again.id, is_terminal).await;
}

#[tokio::test]
async fn another_provider_of_an_account_is_refused_and_nothing_changes() {
    let house = House::start(Settings::default()).await;
    let other = |text: &str| {
        let text = text.replace("creates_per_minute = 0", "creates_per_minute = 7");
        let (head, tail) = text.split_once("[accounts.carbon-main]").unwrap();
        let (own, tail) = tail.split_once("[accounts.").unwrap();
        let own = own.replace("provider = \"carbon\"", "provider = \"phygitals\"");
        let own = own.replace("secret_key", "api_key");
        format!("{head}[accounts.carbon-main]{own}[accounts.{tail}")
    };
    let before = fs::read_to_string(house.config()).unwrap();
    reload(&house, BAD, other).await;
    let log = house.log.text();
    let rule = "account carbon-main: provider must stay carbon";
    assert!(log.contains(rule), "{log}");
    assert!(
        house
            .metrics()
            .await
            .contains("\ntillwatch_settings_stale 1\n")
    );
    // More creates than the other settings would have allowed in this minute.
    for key in 0..9 {
        let purchase = house.create(
            "shop",
            order("carbon-main", &key.to_string(), Scenario::Paid),
        );
        let id = purchase.await.id;
        house.settled("it is polled", &id, is_terminal).await;
    }
    reload(&house, DONE, |_| format!("{before}\n")).await;
    assert!(
        house
            .metrics()
            .await
            .contains("\ntillwatch_settings_stale 0\n")
    );
}

#[tokio::test]
async fn a_shorter_schedule_holds_for_purchases_that_wait() {
    let settings = Settings::default().polled("schedule", r#"[{ every = "1h" }]"#);
    let house = House::start(settings).await;
    let create = |provider| house.create("shop", request(provider, provider, Scenario::Paid));
    let purchases = [create("carbon").await, create("devdraft").await];
    reload(&house, DONE, |text| {
        text.replace("every = \"1h\"", "every = \"200ms\"")
    })
    .await;
    for purchase in purchases {
        house
            .settled("it is polled", &purchase.id, is_terminal)
            .await;
    }
    reload(&house, DONE, |text| {
        text.replace("requests_per_minute = 0", "requests_per_minute = 1234")
    })
    .await;
    let account = account(&house, "carbon-main").await.unwrap();
    assert_eq!(account.requests_per_minute, 1_234);
}
