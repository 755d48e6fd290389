//! New settings while the server runs: all or nothing, and no other caller feels it.

use std::fs;

use sha2::{Digest as _, Sha256};
use tillwatch::Error;
use tillwatch_proto::v1::{WatchPurchasesRequest, watch_purchases_response::Event};
use tillwatch_sandbox::Scenario;
use tonic::Code;

use crate::{
    house::{House, token},
    orders::request,
    process::{DEADLINE, until, within},
};

/// Changes the configuration's text, lets the server read it, and waits for this line of its log.
pub async fn reload(house: &House, line: &str, change: impl Fn(&str) -> String) {
    let told = || house.log.text().matches(line).count();
    let before = told();
    let text = fs::read_to_string(house.config()).unwrap();
    let changed = change(&text);
    assert_ne!(changed, text, "a change");
    fs::write(house.config(), changed).unwrap();
    house.server.signal("HUP").await;
    until(line, async || told() > before).await;
}

/// The line about settings that were taken up.
pub const DONE: &str = "the settings were read again";
/// The line about settings that were not.
pub const BAD: &str = "new settings cannot be used, and nothing was changed";

fn sha256(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

#[tokio::test]
async fn a_key_that_needs_a_restart_is_named_at_each_reload_until_then() {
    let house = House::still().await;
    let key = "limits: the first open_purchases_per_caller";
    let named = || house.log.text().matches(key).count();
    reload(&house, DONE, |text| {
        format!("{text}\n[limits]\nopen_purchases_per_caller = 1\n")
    })
    .await;
    assert_eq!(named(), 1);
    reload(&house, DONE, |text| format!("{text}# the same settings\n")).await;
    assert_eq!(named(), 2);
}

/// The code of a call with this token.
async fn code(house: &House, bearer: &str) -> Code {
    let mut stub = house.stranger(Some(&format!("Bearer {bearer}"))).await;
    let listed = within(
        "a list",
        stub.list_purchases(tillwatch_proto::v1::ListPurchasesRequest::default()),
    );
    match listed.await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test]
async fn a_token_is_rotated_and_a_caller_removed_and_no_other_stream_ends() {
    let house = House::still().await;
    let mut streams = Vec::new();
    for caller in ["shop", "rival", "reader"] {
        let mut stub = house.stub(caller).await;
        let feed = within(
            "a feed",
            stub.watch_purchases(WatchPurchasesRequest::default()),
        )
        .await;
        streams.push(feed.unwrap().into_inner());
    }
    let [mut shop, mut rival, mut reader] = <[_; 3]>::try_from(streams).ok().unwrap();

    // Shop's token is replaced, and rival is gone.
    reload(&house, DONE, |text| {
        let text = text.replace(&sha256(&token("shop")), &sha256("new"));
        let (before, rest) = text.split_once("[callers.rival]").unwrap();
        let (_, after) = rest.split_once("[callers.reader]").unwrap();
        format!("{before}[callers.reader]{after}")
    })
    .await;
    assert_eq!(code(&house, "new").await, Code::Ok);
    assert_eq!(code(&house, &token("shop")).await, Code::Unauthenticated);
    assert_eq!(code(&house, &token("rival")).await, Code::Unauthenticated);
    let ended = loop {
        match within("the end of a removed caller's stream", rival.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended as if it were over"),
            Err(status) => break Error::from(status),
        }
    };
    assert_eq!(ended.reason(), "UNAUTHENTICATED");

    // The other streams go on, and so does the caller whose token was replaced.
    let mut stub = house.stranger(Some("Bearer new")).await;
    let created = within(
        "a create",
        stub.create_purchase(request("key", "carbon", Scenario::Stuck)),
    );
    let id = created.await.unwrap().into_inner().purchase.unwrap().id;
    let told = within("shop's news", async {
        loop {
            let message = shop.message().await.unwrap().expect("an open stream");
            if let Some(Event::Transition(told)) = message.event {
                return told.purchase.unwrap().id;
            }
        }
    });
    assert_eq!(told.await, id);
    let beats = tokio::time::timeout(DEADLINE, reader.message()).await;
    assert!(matches!(beats, Ok(Ok(Some(_)))), "{beats:?}");
}

#[tokio::test]
async fn bad_settings_change_nothing_and_keys_that_need_a_restart_are_named() {
    let house = House::still().await;
    reload(&house, BAD, |text| {
        let text = text.replace(&sha256(&token("shop")), &sha256("new"));
        format!("{text}\n[limits]\nstreams = 0\n")
    })
    .await;
    assert!(
        house.log.text().contains("limits.streams"),
        "{}",
        house.log.text()
    );
    assert_eq!(code(&house, &token("shop")).await, Code::Ok);
    assert_eq!(code(&house, "new").await, Code::Unauthenticated);
    assert!(
        house
            .metrics()
            .await
            .contains("\ntillwatch_settings_stale 1\n")
    );

    // A limit of one caller needs no restart, the time of a drain does.
    reload(&house, DONE, |text| {
        text.replace("streams = 0", "creates_per_second_per_caller = 1")
            .replace("drain = \"10s\"", "drain = \"9s\"")
    })
    .await;
    let log = house.log.text();
    let key = "listen.drain";
    let mut lines = log.lines();
    let is_named = lines.any(|line| line.contains(key) && line.contains("needs a restart"));
    assert!(is_named, "{key}: {log}");
    assert!(
        house
            .metrics()
            .await
            .contains("\ntillwatch_settings_stale 0\n")
    );
    assert_eq!(code(&house, "new").await, Code::Ok);
    let mut stub = house.stranger(Some("Bearer new")).await;
    let order = |key: &str| request(key, "carbon", Scenario::Stuck);
    within("a create", stub.create_purchase(order("one")))
        .await
        .unwrap();
    let refused = within("a create", stub.create_purchase(order("two"))).await;
    assert_eq!(Error::from(refused.unwrap_err()).reason(), "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn the_logs_level_and_the_limit_of_all_streams_hold_at_once() {
    let house = House::still().await;
    let open = async || {
        let mut stub = house.stub("reader").await;
        let feed = stub.watch_purchases(WatchPurchasesRequest::default());
        within("a feed", feed)
            .await
            .map(tonic::Response::into_inner)
    };
    let mut first = open().await.unwrap();
    // A log without this server's lines of information does not tell of the reload.
    let told = || house.log.text().matches(DONE).count();
    let before = fs::read_to_string(house.config()).unwrap();
    let text = before.replace(&sha256(&token("shop")), &sha256("new"));
    let more = "\n[telemetry]\nlog = \"warn\"\n[limits]\nstreams = 1\n";
    fs::write(house.config(), text + more).unwrap();
    house.server.signal("HUP").await;
    until("the reload", async || code(&house, "new").await == Code::Ok).await;
    until("the limit", async || {
        let refused = open().await.err();
        refused.is_some_and(|status| Error::from(status).reason() == "LIMIT_EXCEEDED")
    })
    .await;
    assert_eq!(told(), 0);
    reload(&house, DONE, |_| before.clone()).await;
    assert!(open().await.is_ok());
    let beat = within("the first stream", first.message()).await;
    assert!(beat.unwrap().is_some(), "it goes on");
    assert_eq!(told(), 1);
}
