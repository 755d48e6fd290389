//! PostgreSQL restarts, crashes or is away while callers create and watch: no stream ends, creates are
//! refused before anything is sent, and everything goes on by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tillwatch_cluster::{Cluster, Options, Stop};
use tillwatch_proto::v1::{
    Heartbeat, WatchStatusRequest, WatchUntil, watch_status_response::Event,
};
use tillwatch_sandbox::Scenario;
use tokio::{
    sync::watch,
    task::{JoinSet, block_in_place},
};
use tonic::Code;

use crate::{
    house::{House, Settings, Stub},
    kill_loop::{Shared, buy, lost, nothing_was_bought_twice, repeated_keys_name_the_same},
    orders::request,
    process::{until, within},
    store::Store,
};

/// Callers that create at the same time.
const BUYERS: u64 = 3;
/// Streams of the watched purchase.
const WATCHERS: usize = 20;
/// The longest until polls bring news again, once the database is back.
const NEWS_WITHIN: Duration = Duration::from_secs(10);

/// A server on a database server of its own, with one purchase at Inabit that waits, and its watchers.
struct Watched {
    house: House,
    cluster: Cluster,
    id: String,
    reference: String,
    watchers: Vec<Arc<Watcher>>,
    tasks: JoinSet<()>,
}

/// The things that one stream has told.
#[derive(Default)]
pub struct Watcher {
    revision: AtomicU32,
    beats: watch::Sender<Heartbeat>,
    has_ended: AtomicBool,
}

impl Watcher {
    /// Reads a stream to its end, which should not come.
    pub async fn follow(self: Arc<Self>, mut stub: Stub, id: String) {
        let request = WatchStatusRequest {
            purchase_id: id,
            after_revision: Some(0),
            until: WatchUntil::Final.into(),
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 5,
                nanos: 0,
            }),
        };
        let mut stream = stub.watch_status(request).await.unwrap().into_inner();
        while let Ok(Some(message)) = stream.message().await {
            match message.event.unwrap() {
                Event::Transition(step) => {
                    let revision = step.status.unwrap().revision;
                    let before = self.revision.swap(revision, Ordering::SeqCst);
                    assert_eq!(revision, before + 1, "without gap or duplicate");
                }
                Event::Heartbeat(beat) => drop(self.beats.send_replace(beat)),
                Event::Snapshot(_) => panic!("a snapshot that was not asked for"),
            }
        }
        self.has_ended.store(true, Ordering::SeqCst);
    }

    /// True once it has told a revision.
    pub fn has_begun(&self) -> bool {
        self.revision.load(Ordering::SeqCst) > 0
    }

    /// The time by which the last heartbeat was ahead of the news, in seconds.
    pub fn behind(&self) -> Option<i64> {
        let beat = *self.beats.borrow();
        Some(beat.server_time?.seconds - beat.as_of_time?.seconds)
    }

    /// The next heartbeats: their times, and the times up to which the journal was known, in seconds.
    async fn beats(&self, count: usize) -> Vec<(i64, i64)> {
        let mut beats = self.beats.subscribe();
        let mut told = Vec::new();
        while told.len() < count {
            within("a heartbeat", beats.changed()).await.unwrap();
            let beat = *beats.borrow_and_update();
            let seconds = |time: Option<prost_types::Timestamp>| time.unwrap().seconds;
            told.push((seconds(beat.server_time), seconds(beat.as_of_time)));
        }
        told
    }
}

impl Watched {
    async fn start() -> Self {
        let cluster = Cluster::start(Options {
            fsync: true,
            ..Options::default()
        });
        let house = House::start(Settings {
            store: Store::on(&cluster),
            ..Settings::default()
        })
        .await;
        house.sandbox.pause();
        let order = request("watched", "inabit", Scenario::Paid);
        let id = house.create("shop", order).await.id;
        let reference = house.sandbox.references("inabit").remove(0);
        let (mut watchers, mut tasks) = (Vec::new(), JoinSet::new());
        for _ in 0..WATCHERS {
            let watcher = Arc::<Watcher>::default();
            tasks.spawn(Arc::clone(&watcher).follow(house.stub("shop").await, id.clone()));
            watchers.push(watcher);
        }
        let mut watched = Self {
            house,
            cluster,
            id,
            reference,
            watchers,
            tasks,
        };
        watched.all_hear("Allocated").await;
        watched
    }

    /// Lets the provider say another word. Returns the time until each stream has told it.
    async fn all_hear(&mut self, word: &str) -> Duration {
        let newest = |watcher: &Arc<Watcher>| watcher.revision.load(Ordering::SeqCst);
        let before = self.watchers.iter().map(newest).max().unwrap();
        let sandbox = &self.house.sandbox;
        assert!(sandbox.set_status("inabit", &self.reference, word));
        let began = Instant::now();
        until(word, async || {
            self.watchers.iter().all(|watcher| newest(watcher) > before)
        })
        .await;
        self.no_stream_has_ended();
        began.elapsed()
    }

    fn no_stream_has_ended(&mut self) {
        if let Some(ended) = self.tasks.try_join_next() {
            ended.unwrap();
            panic!("a stream ended");
        }
    }

    /// A create that is refused since the journal is away, and of which the provider hears nothing.
    async fn is_refused(&self, key: &str) {
        let created = self.house.sandbox.created("carbon");
        let mut refused = None;
        // The first may find the connection before it is known to be gone.
        until("a create is refused", async || {
            let mut stub = self.house.stub("shop").await;
            let asked = stub
                .create_purchase(request(key, "carbon", Scenario::Stuck))
                .await;
            refused = asked.err();
            refused.is_some()
        })
        .await;
        let refused = crate::house::refusal(Err::<(), _>(refused.unwrap()));
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::Unavailable, "JOURNAL_UNAVAILABLE")
        );
        assert!(refused.retry_after.is_some_and(|wait| !wait.is_zero()));
        assert_eq!(
            self.house.sandbox.created("carbon"),
            created,
            "nothing is sent"
        );
    }

    async fn is_ready(&self) -> bool {
        let health = self.house.client("shop").health("").await;
        health.is_ok_and(|status| format!("{status:?}") == "Serving")
    }
}

/// Promises S6 and D1: the database server is restarted and crashes, each under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_restarts_and_crashes_under_load_and_no_stream_ends_and_nothing_is_lost() {
    let mut watched = Watched::start().await;
    watched.house.sandbox.resume();
    let known = Shared::default();
    for (round, stop) in [Stop::Fast, Stop::Immediate].into_iter().enumerate() {
        let mut load = JoinSet::new();
        for buyer in 0..BUYERS {
            let stub = watched.house.stub("shop").await;
            load.spawn(buy(stub, known.clone(), format!("{round}-{buyer}")));
        }
        let count = || known.lock().unwrap().acknowledged.len();
        let before = count();
        until("creates are made", async || count() > before + 10).await;
        block_in_place(|| {
            watched.cluster.stop(stop);
            watched.cluster.start_again();
        });
        let before = count();
        until("creates are made again", async || count() > before + 10).await;
        load.shutdown().await;
        let word = ["Unconfirmed", "Confirming"][round];
        let took = watched.all_hear(word).await;
        assert!(took < NEWS_WITHIN, "{stop:?}: {took:?}");
        let stub = watched.house.stub("shop").await;
        assert_eq!(
            lost(stub, &known, "").await,
            Vec::<String>::new(),
            "{stop:?}"
        );
    }
    let stub = watched.house.stub("shop").await;
    repeated_keys_name_the_same(&stub, &known).await;
    nothing_was_bought_twice(&watched.house).await;
}

/// Promise S6: without its database a server waits, and says up to when it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgresql_is_away_streams_age_and_creates_are_refused_and_then_all_goes_on() {
    let mut watched = Watched::start().await;
    let store = watched.house.settings.store.clone();
    let rows = || store.database().run("SELECT count(*) FROM purchase");
    let before = rows();
    block_in_place(|| watched.cluster.stop(Stop::Fast));
    watched.is_refused("refused").await;
    // The last heartbeats are 10 s apart, and no more is known than when the database went.
    let beats = watched.watchers[0].beats(3).await;
    let [_, (earlier, known), (later, still_known)] = beats[..] else {
        unreachable!("three heartbeats");
    };
    assert!(later > earlier, "{beats:?}");
    assert_eq!(known, still_known, "{beats:?}");
    assert!(later - still_known >= 4, "{beats:?}");
    watched.is_refused("refused again").await;
    assert!(
        watched.is_ready().await,
        "other processes would be without it as well"
    );
    watched.no_stream_has_ended();
    // A word comes while nobody can keep it.
    let sandbox = &watched.house.sandbox;
    assert!(sandbox.set_status("inabit", &watched.reference, "Unconfirmed"));
    let revisions = || {
        let each = watched.watchers.iter();
        each.map(|one| one.revision.load(Ordering::SeqCst))
    };
    let newest = revisions().max().unwrap();
    block_in_place(|| watched.cluster.start_again());
    let began = Instant::now();
    until("the word that came meanwhile", async || {
        revisions().all(|revision| revision > newest)
    })
    .await;
    assert!(began.elapsed() < NEWS_WITHIN, "{:?}", began.elapsed());
    let beats = watched.watchers[0].beats(1).await;
    assert!(beats[0].1 > still_known, "{beats:?}");
    assert_eq!(rows(), before, "a refused create has left nothing");
    let bought = watched
        .house
        .create("shop", request("refused", "carbon", Scenario::Stuck))
        .await;
    assert_ne!(bought.id, watched.id);
    assert_eq!(watched.house.sandbox.created("carbon"), 1);
    watched.no_stream_has_ended();
}

#[tokio::test]
async fn a_process_that_another_has_replaced_ends_and_says_so() {
    let mut house = House::still_on(Store::postgres()).await;
    let replaced = "UPDATE replica SET is_gone = true, opening = opening + 1";
    house.settings.store.database().run(replaced);
    assert_eq!(house.server.exit().await.code(), Some(1));
    let log = house.log.text();
    assert!(
        log.contains("another process has taken the journal over"),
        "{log}"
    );
}
