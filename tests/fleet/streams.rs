//! Streams at each process of a fleet that an absence of the database may not end, and creates that it refuses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tillwatch_sandbox::Scenario;
use tokio::{task::JoinSet, time::timeout};
use tonic::Code;

use super::Fleet;
use crate::{
    house::{refusal, stub_of},
    orders::request,
    outage::Watcher,
    process::until,
};

/// The longest wait for the answer to a create.
const PATIENCE: Duration = Duration::from_secs(2);

/// The streams of one purchase that stays open, one at each process.
pub struct Streams {
    watchers: Vec<Arc<Watcher>>,
    tasks: JoinSet<()>,
}

impl Streams {
    pub async fn begin(fleet: &Fleet) -> Self {
        let order = request("streamed", "carbon", Scenario::Stuck);
        let id = fleet.house.create("shop", order).await.id;
        let (mut watchers, mut tasks) = (Vec::new(), JoinSet::new());
        for server in fleet.servers() {
            let watcher = Arc::<Watcher>::default();
            let stub = stub_of(&server.grpc, "shop").await;
            tasks.spawn(Arc::clone(&watcher).follow(stub, id.clone()));
            watchers.push(watcher);
        }
        let mut streams = Self { watchers, tasks };
        until("each stream has begun", async || {
            streams.go_on();
            streams.watchers.iter().all(|watcher| watcher.has_begun())
        })
        .await;
        streams
    }

    /// No stream has ended so far.
    pub fn go_on(&mut self) {
        if let Some(ended) = self.tasks.try_join_next() {
            ended.unwrap();
            panic!("a stream ended");
        }
    }

    fn all_are_behind(&self, by: impl Fn(i64) -> bool) -> bool {
        let mut watchers = self.watchers.iter();
        watchers.all(|watcher| watcher.behind().is_some_and(&by))
    }

    /// Waits until each stream has said that its news are of now.
    pub async fn are_fresh(&mut self) {
        until("each stream says that its news are fresh", async || {
            self.go_on();
            self.all_are_behind(|behind| behind <= 1)
        })
        .await;
    }
}

impl Fleet {
    /// Waits until each process refuses creates since the journal is away. Returns the time that it took.
    pub async fn refuses_creates(&self, key: &str) -> Duration {
        let began = Instant::now();
        let refusals = self.servers().enumerate().map(async |(number, server)| {
            let mut stub = stub_of(&server.grpc, "shop").await;
            let mut tries = 0;
            // Some are let in before it is known that the journal is away.
            until("a create is refused", async || {
                tries += 1;
                let key = format!("{key}-{number}-{tries}");
                let order = request(&key, "carbon", Scenario::Stuck);
                let answer = timeout(PATIENCE, stub.create_purchase(order)).await;
                let Ok(Err(refused)) = answer else {
                    return false;
                };
                let refused = refusal(Err::<(), _>(refused));
                let reason = (refused.code, &*refused.reason);
                assert_eq!(reason, (Code::Unavailable, "JOURNAL_UNAVAILABLE"));
                assert!(refused.retry_after.is_some_and(|wait| !wait.is_zero()));
                true
            })
            .await;
        });
        join_all(refusals).await;
        began.elapsed()
    }

    /// The owner and the fence of each lease.
    pub fn leases(&self) -> String {
        self.asked("SELECT account, owner, fence FROM lease ORDER BY account")
    }

    /// Waits until creates are acknowledged again.
    pub async fn takes_creates(&self, load: &super::load::Load) {
        let count = || load.known().lock().unwrap().acknowledged.len();
        let before = count();
        until("creates are acknowledged", async || count() > before + 5).await;
    }
}
