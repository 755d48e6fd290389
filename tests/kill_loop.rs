//! SIGKILL ends the server at random moments, under a load of creates and watches. Afterwards
//! everything that a caller was told is there, and nothing was bought twice.
//!
//! `TILLWATCH_KILL_ROUNDS=100` asks for more rounds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tillwatch_proto::v1::{
    CreatePurchaseRequest, GetStatusRequest, ListPurchasesRequest, WatchStatusRequest,
    get_status_request::Key, watch_status_response::Event,
};
use tillwatch_sandbox::{PROVIDERS, Scenario};
use tokio::task::JoinSet;

use crate::{
    house::{House, Settings, Stub},
    orders::request,
    process::{until, within},
    store::Store,
};

/// The rounds of a run whose environment asks for no number.
const ROUNDS: u64 = 20;
/// The same on PostgreSQL, which keeps its data through any of these kills by itself.
const ROUNDS_ON_POSTGRESQL: u64 = 6;
/// Callers that create at the same time.
const BUYERS: u64 = 5;
/// Repeats at the same time, however many keys there are.
const REPEATS_AT_ONCE: usize = 200;
/// The longest that a server lives.
const LIFE_MS_MAX: u64 = 700;

/// The callers' knowledge, which no kill of the server takes away.
#[derive(Default)]
pub struct Known {
    /// Orders that were sent, by key.
    pub sent: BTreeMap<String, CreatePurchaseRequest>,
    /// Purchases that were acknowledged, by key.
    pub acknowledged: BTreeMap<String, String>,
    /// States that watchers saw, by purchase and revision.
    pub seen: BTreeMap<(String, u32), i32>,
}

pub type Shared = Arc<Mutex<Known>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_or_seen_survives_any_kill() {
    survives_kills(Store::Sqlite, ROUNDS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_or_seen_survives_any_kill_on_postgresql() {
    survives_kills(Store::postgres(), ROUNDS_ON_POSTGRESQL).await;
}

async fn survives_kills(store: Store, rounds: u64) {
    let asked = std::env::var("TILLWATCH_KILL_ROUNDS");
    let rounds = asked.map_or(rounds, |asked| asked.parse().unwrap());
    let mut house = House::start(Settings {
        store,
        ..Settings::default()
    })
    .await;
    let known = Shared::default();
    for round in 0..rounds {
        let mut load = JoinSet::new();
        for buyer in 0..BUYERS {
            let stub = house.stub("shop").await;
            load.spawn(buy(stub, known.clone(), format!("{round}-{buyer}")));
        }
        // However slow the machine, every second life is long enough for somebody to be told something.
        if round % 2 == 1 {
            let before = known.lock().unwrap().acknowledged.len();
            let told = async || known.lock().unwrap().acknowledged.len() > before;
            until("a purchase is acknowledged", told).await;
        }
        let life = Duration::from_millis(rand::random_range(20..LIFE_MS_MAX));
        tokio::time::sleep(life).await;
        house.server.kill().await;
        load.shutdown().await;
        house.restart().await;
        let stub = house.stub("shop").await;
        let lost = lost(stub, &known, &format!("{round}-")).await;
        assert_eq!(lost, Vec::<String>::new(), "round {round}");
    }
    let stub = house.stub("shop").await;
    repeated_keys_name_the_same(&stub, &known).await;
    let lost = lost(stub, &known, "").await;
    assert_eq!(lost, Vec::<String>::new(), "at the end");
    let bought = nothing_was_bought_twice(&house).await;
    let known = known.lock().unwrap();
    eprintln!(
        "{rounds} kills: {} purchases acknowledged, {bought} recorded, {} revisions seen",
        known.acknowledged.len(),
        known.seen.len()
    );
    assert!(known.acknowledged.len() as u64 >= rounds / 2);
}

/// Creates one purchase after the other, at each provider in turn, and watches each.
pub async fn buy(mut stub: Stub, known: Shared, name: String) {
    let mut watches = JoinSet::new();
    for number in 0_usize.. {
        let key = format!("{name}-{number}");
        let request = request(&key, PROVIDERS[number % PROVIDERS.len()], Scenario::Paid);
        let sent = (key.clone(), request.clone());
        known.lock().unwrap().sent.extend([sent]);
        let Ok(answer) = stub.create_purchase(request).await else {
            continue;
        };
        let purchase = answer.into_inner().purchase.unwrap();
        let id = purchase.id.clone();
        let status = purchase.status.unwrap();
        let mut all = known.lock().unwrap();
        all.acknowledged.insert(key, purchase.id.clone());
        all.seen
            .insert((purchase.id, status.revision), status.state);
        drop(all);
        watches.spawn(watch(stub.clone(), known.clone(), id));
    }
}

async fn watch(mut stub: Stub, known: Shared, id: String) {
    let request = WatchStatusRequest {
        purchase_id: id.clone(),
        after_revision: Some(0),
        ..WatchStatusRequest::default()
    };
    let Ok(stream) = stub.watch_status(request).await else {
        return;
    };
    let mut stream = stream.into_inner();
    while let Ok(Some(message)) = stream.message().await {
        if let Some(Event::Transition(step)) = message.event {
            let status = step.status.unwrap();
            let place = (id.clone(), status.revision);
            known.lock().unwrap().seen.insert(place, status.state);
        }
    }
}

/// The callers' knowledge that the store lacks, for keys that begin so.
pub async fn lost(mut stub: Stub, known: &Shared, keys: &str) -> Vec<String> {
    let mut lost = Vec::new();
    let (acknowledged, seen) = {
        let known = known.lock().unwrap();
        (known.acknowledged.clone(), known.seen.clone())
    };
    for (key, id) in acknowledged.iter().filter(|(key, _)| key.starts_with(keys)) {
        let request = GetStatusRequest {
            key: Some(Key::IdempotencyKey(key.clone())),
            ..GetStatusRequest::default()
        };
        match stub.get_status(request).await {
            Ok(answer) if answer.get_ref().purchase.as_ref().unwrap().id == *id => {}
            other => {
                lost.push(format!("{key} {id}: {other:?}"));
                continue;
            }
        }
        let states = states(&mut stub, id).await;
        for ((_, revision), state) in seen.range((id.clone(), 0)..=(id.clone(), u32::MAX)) {
            if states.get(*revision as usize - 1) != Some(state) {
                lost.push(format!("{id}: revision {revision} in state {state}"));
            }
        }
    }
    lost
}

/// A purchase's states so far, by revision. Fails if the revisions are not dense.
async fn states(stub: &mut Stub, id: &str) -> Vec<i32> {
    let request = WatchStatusRequest {
        purchase_id: id.to_owned(),
        after_revision: Some(0),
        ..WatchStatusRequest::default()
    };
    let mut stream = stub.watch_status(request).await.unwrap().into_inner();
    let mut states = Vec::new();
    while let Some(message) = within("a message", stream.message()).await.unwrap() {
        match message.event.unwrap() {
            Event::Transition(step) => {
                let status = step.status.unwrap();
                states.push(status.state);
                assert_eq!(status.revision as usize, states.len(), "{id}");
            }
            // The stream has caught up.
            Event::Heartbeat(_) => break,
            Event::Snapshot(_) => panic!("a snapshot that was not asked for"),
        }
    }
    states
}

/// Promise C2 over all keys that callers have ever sent. Repeats run side by side, since some wait
/// for the end of an attempt that a killed server had begun.
pub async fn repeated_keys_name_the_same(stub: &Stub, known: &Shared) {
    let (sent, acknowledged) = {
        let known = known.lock().unwrap();
        (known.sent.clone(), known.acknowledged.clone())
    };
    stream::iter(sent)
        .for_each_concurrent(REPEATS_AT_ONCE, |(key, request)| {
            let (mut stub, id) = (stub.clone(), acknowledged.get(&key).cloned());
            async move {
                let answer = within("a repeat", stub.create_purchase(request)).await;
                if let Some(id) = id {
                    let answer = answer.unwrap().into_inner();
                    assert!(answer.replayed, "{key}");
                    assert_eq!(answer.purchase.unwrap().id, id, "{key}");
                }
            }
        })
        .await;
}

/// Every purchase at a provider belongs to one of ours: the service sent none twice, and none
/// without an intent.
pub async fn nothing_was_bought_twice(house: &House) -> u64 {
    let mut stub = house.stub("desk").await;
    let mut recorded: BTreeMap<String, u64> = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = ListPurchasesRequest {
            page_size: 1_000,
            page_token,
            ..ListPurchasesRequest::default()
        };
        let page = stub.list_purchases(request).await.unwrap().into_inner();
        for purchase in page.purchases {
            *recorded.entry(purchase.provider).or_default() += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    for provider in PROVIDERS {
        let bought = house.sandbox.created(provider);
        let recorded = recorded.get(provider).copied().unwrap_or_default();
        assert!(
            bought <= recorded,
            "{provider}: {bought} bought, {recorded} recorded"
        );
    }
    recorded.values().sum()
}
