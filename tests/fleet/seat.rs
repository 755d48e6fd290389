//! A caller who stays at one process, whatever happens to it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tillwatch_proto::v1::{
    GetStatusRequest, Heartbeat, WatchStatusRequest, get_status_request::Key,
    watch_status_response::Event,
};
use tillwatch_sandbox::Scenario;
use tokio::{sync::watch, task::JoinSet};
use tonic::Status;

use super::Fleet;
use crate::{
    house::{Stub, refusal, stub_of},
    orders::request,
    process::{until, within},
};

/// The key of its purchase.
const KEY: &str = "seated";
/// The time within which a call has reached its process.
const BEGINS_WITHIN: Duration = Duration::from_millis(200);

/// The caller, with a purchase that never changes, and its stream.
pub struct Seat {
    stub: Stub,
    id: String,
    beats: watch::Receiver<Heartbeat>,
    /// Ends with the stream.
    stream: JoinSet<()>,
}

impl Seat {
    /// At one of the other processes.
    pub async fn at(fleet: &Fleet, other: usize) -> Self {
        let mut stub = stub_of(&fleet.others[other].server.grpc, "shop").await;
        let order = request(KEY, "carbon", Scenario::Stuck);
        let id = fleet.house.create("shop", order).await.id;
        let watched = WatchStatusRequest {
            purchase_id: id.clone(),
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 5,
                nanos: 0,
            }),
            ..WatchStatusRequest::default()
        };
        let mut events = stub.watch_status(watched).await.unwrap().into_inner();
        let (tell, beats) = watch::channel(Heartbeat::default());
        let mut stream = JoinSet::new();
        stream.spawn(async move {
            while let Ok(Some(message)) = events.message().await {
                if let Some(Event::Heartbeat(beat)) = message.event {
                    tell.send_replace(beat);
                }
            }
        });
        Self {
            stub,
            id,
            beats,
            stream,
        }
    }

    /// The next heartbeats: their times, and the times up to which the journal was known, in seconds.
    pub async fn beats(&mut self, count: usize) -> Vec<(i64, i64)> {
        let mut told = Vec::new();
        self.beats.mark_unchanged();
        while told.len() < count {
            within("a heartbeat", self.beats.changed()).await.unwrap();
            let beat = *self.beats.borrow_and_update();
            let seconds = |time: Option<prost_types::Timestamp>| time.unwrap().seconds;
            told.push((seconds(beat.server_time), seconds(beat.as_of_time)));
        }
        told
    }

    /// True if the stream goes on.
    pub fn is_watching(&mut self) -> bool {
        self.stream.try_join_next().is_none()
    }

    /// Asks for the purchase by its id and by its key, while a read by key hangs. Who is refused is told that the
    /// journal is away, and somebody is. Returns the longer time of these answers.
    pub async fn reads_are_refused(&self) -> Duration {
        let by_key = Key::IdempotencyKey(KEY.to_owned());
        let mut hangs = JoinSet::new();
        hangs.spawn(read(self.stub.clone(), by_key.clone()));
        tokio::time::sleep(BEGINS_WITHIN).await;
        let began = Instant::now();
        let by_id = Key::PurchaseId(self.id.clone());
        let both = [by_id, by_key].map(|key| read(self.stub.clone(), key));
        let answers = within("answers", join_all(both)).await;
        let refused: Vec<_> = answers.into_iter().filter(Result::is_err).collect();
        assert!(!refused.is_empty(), "nobody had to wait");
        for answer in refused {
            assert_eq!(refusal(answer).reason, "JOURNAL_UNAVAILABLE");
        }
        began.elapsed()
    }

    /// Buys until it is refused since the journal is away. Returns the time of that answer.
    pub async fn is_refused(&mut self, key: &str) -> Duration {
        let mut took = Duration::ZERO;
        until("a create is refused", async || {
            let began = Instant::now();
            let order = request(key, "carbon", Scenario::Stuck);
            let answer = self.stub.create_purchase(order).await;
            took = began.elapsed();
            answer.is_err() && refusal(answer).reason == "JOURNAL_UNAVAILABLE"
        })
        .await;
        took
    }

    /// Buys until it is acknowledged.
    pub async fn buys(&mut self, key: &str) {
        until("a create is acknowledged", async || {
            let order = request(key, "carbon", Scenario::Stuck);
            self.stub.create_purchase(order).await.is_ok()
        })
        .await;
    }
}

async fn read(mut stub: Stub, key: Key) -> Result<(), Status> {
    let asked = GetStatusRequest {
        key: Some(key),
        ..GetStatusRequest::default()
    };
    stub.get_status(asked).await.map(drop)
}
