//! Watchers that check what they see against the journal at the moment that they see it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tillwatch_proto::v1::{
    PurchaseState, PurchaseStatus, Transition, WatchPurchasesRequest, WatchStatusRequest,
    WatchStatusResponse, WatchUntil, watch_purchases_response, watch_status_response::Event,
};
use tillwatch_server::{journal::Journal as _, purchase};
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::World;

/// A heartbeat may come so much later than its interval: the wheel's slot, scheduling, the disk
/// and the network's slowest packet.
const HEARTBEAT_SLACK: Duration = Duration::from_secs(4);
/// The longest wait for anything on a stream before it is given up as dead.
const SILENCE_MAX: Duration = Duration::from_secs(300);

struct Watching {
    world: Arc<World>,
    purchase: String,
    until: WatchUntil,
    interval: Duration,
    /// The time that it takes over each message.
    slowness: Duration,
    /// The last revision that it has seen; absent before the first.
    cursor: Option<u32>,
    /// The state at the cursor.
    state: PurchaseState,
    heartbeats: u64,
}

/// The news of one stream so far.
struct Opened {
    began: Instant,
    last: Instant,
    /// True if the first message has to be a snapshot.
    wants_snapshot: bool,
    is_caught_up: bool,
}

/// Watches a purchase until its stream ends with OK.
pub async fn watch(world: Arc<World>, purchase: String) {
    tokio::time::sleep(Duration::from_millis(world.number(20_000))).await;
    let is_slow = world.number(5) == 0;
    let mut watching = Watching {
        until: match world.number(3) {
            0 => WatchUntil::Unspecified,
            1 => WatchUntil::Terminal,
            _ => WatchUntil::Final,
        },
        interval: Duration::from_secs([10, 60, 120, 120][world.number(4) as usize]),
        slowness: Duration::from_millis(if is_slow { world.number(20_000) } else { 0 }),
        cursor: (world.number(2) == 0).then_some(0),
        state: PurchaseState::Unspecified,
        heartbeats: 0,
        world,
        purchase,
    };
    watching.run().await;
}

impl Watching {
    async fn run(&mut self) {
        loop {
            match self.stream().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(status) => {
                    let expected = match status.code() {
                        Code::Unavailable
                        | Code::Cancelled
                        | Code::Unknown
                        | Code::DeadlineExceeded => true,
                        // The transport's, if a connection breaks; the service's own has
                        // details, and is a defect.
                        Code::Internal => status.details().is_empty(),
                        _ => false,
                    };
                    if !expected {
                        self.violation(&format!("S6: ended with {status:?}"));
                        return;
                    }
                }
            }
            // Now and then it has lost its cursor and begins anew.
            if self.world.number(6) == 0 {
                self.cursor = (self.world.number(2) == 0).then_some(0);
                self.state = PurchaseState::Unspecified;
            }
            let wait = self.world.number(5_000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }

    fn violation(&self, text: &str) {
        let place = format!("{} at {:?}", self.purchase, self.cursor);
        self.world.violation(format!("{text} ({place})"));
    }

    /// One stream; true if it ended with OK.
    async fn stream(&mut self) -> Result<bool, Status> {
        let request = WatchStatusRequest {
            purchase_id: self.purchase.clone(),
            after_revision: self.cursor,
            until: self.until.into(),
            heartbeat_interval: Some(prost_types::Duration {
                seconds: self.interval.as_secs() as i64,
                nanos: 0,
            }),
        };
        let mut client = self.world.client();
        let began = Instant::now();
        let opened = tokio::time::timeout(Duration::from_secs(60), client.watch_status(request));
        let mut stream: Streaming<WatchStatusResponse> = opened
            .await
            .map_err(|_| Status::cancelled("gave up"))??
            .into_inner();
        let mut opened = Opened {
            began,
            last: Instant::now(),
            wants_snapshot: self.cursor.is_none(),
            is_caught_up: false,
        };
        self.world.count_stream();
        // Some leave of their own accord.
        let leaves = match self.world.number(4) {
            0 if !self.world.is_quiet() => Duration::from_millis(self.world.number(600_000)),
            _ => Duration::from_secs(86_400 * 30),
        };
        let leaves = Instant::now() + leaves;
        loop {
            let limit = leaves.min(Instant::now() + SILENCE_MAX);
            let Ok(message) = tokio::time::timeout_at(limit, stream.message()).await else {
                if limit < leaves && !self.world.network.was_disturbed(opened.last, limit) {
                    self.violation("S4: silence");
                }
                return Ok(false);
            };
            let Some(message) = message? else {
                self.ended(&opened).await;
                return Ok(true);
            };
            self.world.count_message();
            let Some(event) = message.event else {
                self.violation("an empty message");
                continue;
            };
            self.punctual(&mut opened);
            self.saw(event, &mut opened).await;
            if !self.slowness.is_zero() {
                tokio::time::sleep(self.slowness).await;
                opened.last = Instant::now();
            }
        }
    }

    /// Promise S4: silence is never longer than the interval.
    fn punctual(&self, opened: &mut Opened) {
        let now = Instant::now();
        let silent = now - opened.last;
        let network = &self.world.network;
        if self.slowness.is_zero()
            && silent > self.interval + HEARTBEAT_SLACK
            && !network.was_disturbed(opened.last - Duration::from_secs(2), now)
        {
            self.violation(&format!("S4: silent for {silent:?}"));
        }
        opened.last = now;
    }

    async fn saw(&mut self, event: Event, opened: &mut Opened) {
        match event {
            Event::Snapshot(status) => {
                if !opened.wants_snapshot {
                    self.violation("S2: a snapshot that was not asked for");
                }
                opened.wants_snapshot = false;
                self.is_committed(&status).await;
                self.cursor = Some(status.revision);
                self.state = status.state();
            }
            Event::Transition(transition) => self.stepped(transition, opened).await,
            Event::Heartbeat(heartbeat) => {
                self.heartbeats += 1;
                if opened.wants_snapshot {
                    self.violation("S2: a heartbeat before the snapshot");
                }
                if Some(heartbeat.revision) != self.cursor {
                    let revision = heartbeat.revision;
                    self.violation(&format!("S4: a heartbeat at revision {revision}"));
                }
                opened.is_caught_up = true;
            }
        }
    }

    async fn stepped(&mut self, transition: Transition, opened: &Opened) {
        let from = transition.from_state();
        let status = transition.status.unwrap_or_default();
        if opened.wants_snapshot {
            self.violation("S2: a transition before the snapshot");
        }
        if Some(status.revision) != self.cursor.map(|cursor| cursor + 1) {
            let revision = status.revision;
            self.violation(&format!("S2: revision {revision} follows"));
        }
        if self.cursor != Some(0) && self.state != PurchaseState::Unspecified && from != self.state
        {
            self.violation("S2: a step from another state");
        }
        self.is_committed(&status).await;
        self.cursor = Some(status.revision);
        self.state = status.state();
    }

    /// Promise S1: what was seen is in the journal, just so.
    async fn is_committed(&self, status: &PurchaseStatus) {
        let Some(committed) = self.committed(status.revision).await else {
            let revision = status.revision;
            self.violation(&format!("S1: revision {revision} is not in the journal"));
            return;
        };
        let code = status.provider_status.as_ref().map_or("", |one| &one.code);
        let same = status.state().as_str_name()
            == format!("PURCHASE_STATE_{}", committed.state.as_str())
            && status.finality().as_str_name()
                == format!("FINALITY_{}", committed.finality.as_str())
            && code == committed.code;
        if !same {
            let revision = status.revision;
            self.violation(&format!("S1: revision {revision} differs from the journal"));
        }
    }

    async fn committed(&self, revision: u32) -> Option<purchase::Status> {
        let id = self.purchase.parse().ok()?;
        let before = purchase::Revision(revision.checked_sub(1)?);
        let found = self.world.journal.transitions(id, before, 1).await.ok()?;
        Some(found.into_iter().next()?.status)
    }

    /// Promise S6: the stream ended since the newest status that there was is an end.
    async fn ended(&self, opened: &Opened) {
        let Some(cursor) = self.cursor.filter(|cursor| *cursor > 0) else {
            return self.violation("S6: ended before anything was seen");
        };
        let Some(last) = self.committed(cursor).await else {
            return self.violation("S6: ended at a revision that is not in the journal");
        };
        let reached = match self.until {
            WatchUntil::Final => last.finality == purchase::Finality::Final,
            WatchUntil::Terminal | WatchUntil::Unspecified => last.is_terminal(),
        };
        if !reached {
            self.violation("S6: ended before the end");
        }
        let began = self.world.time_of(opened.began);
        let id = self.purchase.parse().unwrap();
        if let Some(later) = self.committed(cursor + 1).await
            && self.world.commits.time(id, later.revision) < began
        {
            self.violation("S6: ended although later revisions were there");
        }
        self.world.count_history();
    }
}

/// The transitions that one follower of all purchases had.
#[derive(Debug, Default)]
pub struct Fed {
    /// Each purchase's revisions, in the order in which they came.
    pub by_purchase: BTreeMap<String, Vec<u32>>,
    /// Purchases and revisions, in the order in which they came.
    pub all: Vec<(String, u32)>,
}

/// Follows all purchases from the beginning, across reconnects, until told to stop.
pub async fn follow_all(world: Arc<World>) -> Fed {
    let mut seen = Fed::default();
    let mut token = String::new();
    loop {
        let request = WatchPurchasesRequest {
            from_beginning: token.is_empty(),
            resume_token: token.clone(),
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 120,
                nanos: 0,
            }),
            ..WatchPurchasesRequest::default()
        };
        let mut client = world.client();
        let leaves = Instant::now() + Duration::from_millis(60_000 + world.number(1_200_000));
        let opened = tokio::time::timeout_at(leaves, client.watch_purchases(request)).await;
        if let Ok(Ok(stream)) = opened {
            let mut stream = stream.into_inner();
            while let Ok(Ok(Some(message))) =
                tokio::time::timeout_at(leaves, stream.message()).await
            {
                if !message.resume_token.is_empty() {
                    token = message.resume_token;
                }
                if let Some(watch_purchases_response::Event::Transition(step)) = message.event {
                    let purchase = step.purchase.unwrap_or_default();
                    let status = purchase.status.unwrap_or_default();
                    seen.all.push((purchase.id.clone(), status.revision));
                    let known = seen.by_purchase.entry(purchase.id).or_default();
                    known.push(status.revision);
                }
            }
        }
        if world.is_over() {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(world.number(3_000) + 1)).await;
    }
}
