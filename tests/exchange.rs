//! Three server processes on one database: a refresh, a watcher and a question about freshness are as good at
//! a process that does not poll the account as at its owner.

use std::time::{Duration, Instant, SystemTime};

use tillwatch_proto::v1::{
    Finality, Freshness, GetStatusRequest, PurchaseStatus, RefreshStatusRequest,
    WatchStatusRequest, get_status_request::Key,
};
use tillwatch_sandbox::{Sandbox, Scenario};

use crate::{
    fleet::Fleet,
    house::{Settings, Stub, account, stub_of},
    orders::request,
    process::{until, until_within, within},
    store::Store,
};

/// The longest until a process that is asked for the first time knows the owner's freshness: a second each way,
/// and room for a slow machine.
const KNOWN_WITHIN: Duration = Duration::from_secs(4);
/// The difference of two times that are the same for a reader, since each is told as so long from now.
const SAME: Duration = Duration::from_millis(200);
/// Purchases that compete for the requests of their account, whose limit gives each a few in the time of the
/// test.
const OPEN: usize = 16;
/// The watchers of each of two of them.
const WATCHERS: usize = 16;
/// Requests until the owner has heard of watchers elsewhere, and the requests that are looked at.
const BEFORE: usize = 30;
const LOOKED_AT: usize = 80;

/// The fleet, whose house does not own the account at Inabit, and the owner's number.
async fn fleet() -> (Fleet, usize) {
    let settings = Settings {
        store: Store::postgres(),
        ..Settings::default()
    }
    .polled("requests_per_minute", "600")
    .polled("after_terminal", r#"[{ every = "1h" }]"#);
    let mut fleet = Fleet::start(settings, 3).await;
    fleet.house.sandbox.pause();
    let owns = |name: String| fleet.accounts(&name).contains(&account("inabit"));
    if owns(fleet.own_name()) {
        fleet.change_places(0);
        return (fleet, 0);
    }
    let owner = (0..fleet.others.len()).find(|other| owns(fleet.name(*other)));
    (fleet, owner.expect("somebody owns it"))
}

async fn status(stub: &mut Stub, id: &str) -> (PurchaseStatus, Freshness) {
    let asked = GetStatusRequest {
        key: Some(Key::PurchaseId(id.to_owned())),
        ..GetStatusRequest::default()
    };
    let answer = within("a status", stub.get_status(asked)).await.unwrap();
    let answer = answer.into_inner();
    (
        answer.purchase.unwrap().status.unwrap(),
        answer.freshness.unwrap_or_default(),
    )
}

/// The time between two times, if there are both.
fn apart(
    one: Option<prost_types::Timestamp>,
    other: Option<prost_types::Timestamp>,
) -> Option<Duration> {
    let [one, other] = [one?, other?].map(|time| SystemTime::try_from(time).unwrap());
    let apart = one.duration_since(other);
    Some(apart.unwrap_or_else(|error| error.duration()))
}

/// The requests since one of them that were about a purchase.
fn asked_about(sandbox: &Sandbox, reference: &str, since: usize) -> usize {
    let requests = sandbox.requests().into_iter();
    let requests = requests.filter(|one| one.provider == "inabit");
    let about = requests
        .skip(since)
        .filter(|one| one.path.contains(reference));
    about.count()
}

/// Promise S7 over executables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_at_any_replica_asks_the_provider_and_all_know_the_owners_freshness() {
    let (fleet, owner) = fleet().await;
    let (house, sandbox) = (&fleet.house, &fleet.house.sandbox);
    let id = house
        .create("shop", request("asked", "inabit", Scenario::Paid))
        .await
        .id;
    let reference = sandbox.references("inabit").remove(0);
    assert!(sandbox.set_status("inabit", &reference, "Completed"));
    // From now on the next poll is an hour away.
    let mut there = stub_of(&fleet.others[owner].server.grpc, "shop").await;
    let mut over = PurchaseStatus::default();
    until("its end", async || {
        over = status(&mut there, &id).await.0;
        over.finality() != Finality::Open
    })
    .await;
    // Nobody has asked the third process yet.
    let mut third = stub_of(&fleet.others[1 - owner].server.grpc, "shop").await;
    let began = Instant::now();
    let is_same = |one, other| apart(one, other).is_some_and(|apart| apart < SAME);
    until_within(KNOWN_WITHIN, "the same freshness", async || {
        let told = status(&mut third, &id).await.1;
        let own = status(&mut there, &id).await.1;
        is_same(told.last_answer_time, own.last_answer_time)
            && is_same(told.next_poll_time, own.next_poll_time)
    })
    .await;
    let known = began.elapsed();

    assert!(sandbox.set_status("inabit", &reference, "Swept"));
    let calls = sandbox.calls("inabit");
    let refresh = RefreshStatusRequest {
        purchase_id: id.clone(),
    };
    let (began, time) = (Instant::now(), SystemTime::now());
    let mut here = house.stub("shop").await;
    let refreshed = within("a refresh", here.refresh_status(refresh)).await;
    let refreshed = refreshed.unwrap().into_inner();
    let took = began.elapsed();
    eprintln!("the owner's freshness was known elsewhere after {known:?}, a refresh took {took:?}");
    let status = refreshed.purchase.unwrap().status.unwrap();
    assert_eq!(status.revision, over.revision + 1);
    assert_eq!(status.provider_status.unwrap().code, "Swept");
    assert_eq!(sandbox.calls("inabit"), calls + 1, "one request");
    let answered = refreshed.freshness.unwrap().last_answer_time.unwrap();
    let answered = SystemTime::try_from(answered).unwrap();
    assert!(answered > time, "{answered:?} after {time:?}");
}

/// Promise P6 over executables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purchase_that_is_watched_at_another_replica_is_polled_as_often_as_one_at_its_owner() {
    let (fleet, owner) = fleet().await;
    let (house, sandbox) = (&fleet.house, &fleet.house.sandbox);
    let mut ids = Vec::new();
    for number in 0..OPEN {
        let order = request(&format!("open-{number}"), "inabit", Scenario::Stuck);
        ids.push(house.create("shop", order).await.id);
    }
    let references = sandbox.references("inabit");
    let addresses = [&house.server.grpc, &fleet.others[owner].server.grpc];
    let mut streams = Vec::new();
    for (address, id) in addresses.into_iter().zip(&ids) {
        let watched = WatchStatusRequest {
            purchase_id: id.clone(),
            ..WatchStatusRequest::default()
        };
        let mut stub = stub_of(address, "shop").await;
        for _ in 0..WATCHERS {
            streams.push(stub.watch_status(watched.clone()).await.unwrap());
        }
    }
    let calls = || sandbox.calls("inabit") as usize;
    let begun = calls();
    until("the owner has heard of all", async || {
        calls() >= begun + BEFORE
    })
    .await;
    let since = calls();
    until("polls", async || calls() >= since + LOOKED_AT).await;
    let each = references
        .iter()
        .map(|one| asked_about(sandbox, one, since));
    let each: Vec<usize> = each.collect();
    let [elsewhere, here, others @ ..] = &each[..] else {
        unreachable!("more than two");
    };
    let other = others.iter().sum::<usize>().div_ceil(others.len());
    eprintln!("polls of one watched elsewhere {elsewhere}, here {here}, of others {other}");
    let least = 3 * other / 2;
    assert!(*elsewhere >= least && *here >= least, "{each:?}");
    assert!(
        elsewhere.abs_diff(*here) <= elsewhere.max(here) / 3,
        "{each:?}"
    );
}
