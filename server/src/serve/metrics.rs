//! Collects the figures of all rooms for one scrape.

use std::sync::Arc;

use super::{accounts::Configured, loops::All, process, reload::Reloads, tally::Tally};
use crate::{
    account::{Account, Health},
    grpc::{Rooms, error::Reason},
    limits::Limit,
    listener::Port,
    telemetry::{
        self,
        metrics::{self, AccountLabels, AccountPicture, LoopPicture, Picture, TlsPicture},
    },
    tls::ServerTls,
};

/// The sources of the figures.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    rooms: Rooms,
    tally: Arc<Tally>,
    loops: All,
    configured: Configured,
    /// The time of the start, in seconds since 1970.
    started_s: i64,
}

impl Collector {
    pub(super) fn new(rooms: Rooms, tally: Arc<Tally>, loops: All, configured: Configured) -> Self {
        Self {
            started_s: rooms.clock.machine().wall.as_millis() / 1_000,
            rooms,
            tally,
            loops,
            configured,
        }
    }

    /// All figures as a text of OpenMetrics.
    pub(super) fn text(
        &self,
        port: Option<&Port>,
        tls: Option<&ServerTls>,
        reloads: &Reloads,
        attempts: &[(&'static str, u64)],
    ) -> String {
        let rooms = &self.rooms;
        let figures = rooms.journal.figures();
        let feed = rooms.feed.figures();
        let picture = Picture {
            accounts: rooms
                .accounts
                .all()
                .values()
                .map(|account| self.account(account, reloads))
                .collect(),
            streams: rooms.feed.streams(),
            journal_available: *rooms.journal.available().borrow(),
            streams_open: feed.open().into(),
            streams_ended: feed.ended(),
            first_event: feed.first_event().into(),
            push_delay: feed.push_delay().into(),
            transitions: self.tally.transitions(),
            commits: rooms.journal.commit_seconds(),
            group_sizes: rooms.journal.group_sizes(),
            connections: port.map_or(0, Port::connections),
            calls: port.map(Port::calls).unwrap_or_default(),
            refused_attempts: attempts.to_vec(),
            call_times: port.map(Port::call_times).unwrap_or_default(),
            refusals: Reason::told().collect(),
            limits: Limit::ALL.map(|limit| (limit.name(), limit.times())).into(),
            log_bytes: figures.log_bytes,
            log_is_pinned: figures.log_is_pinned,
            oldest_reader: figures.oldest_reader,
            unreadable_rows: figures.unreadable_rows,
            settings_are_stale: reloads.is_stale(),
            reloads_failed: reloads.failed(),
            audit: rooms.audit.figures(),
            log: telemetry::log::figures(),
            tls: tls.map(|tls| {
                let figures = tls.figures();
                TlsPicture {
                    expires_s: figures.expires.as_millis() / 1_000,
                    is_stale: figures.is_stale,
                    reloads_failed: figures.reloads_failed,
                    handshakes_failed: figures.handshakes_failed,
                }
            }),
            traces: telemetry::traces::figures(),
            restarts: (self.loops.each().iter())
                .map(|one| (one.name(), one.course().restarts()))
                .chain([
                    ("journal", figures.restarts),
                    ("poll", rooms.tracker.defects()),
                ])
                .collect(),
            loops: (self.loops.each().iter())
                .map(|one| LoopPicture {
                    name: one.name(),
                    is_stuck: one.is_stuck(),
                    silent: one.silent(),
                })
                .collect(),
            machine_ahead_ms: rooms.clock.machine_ahead_ms(),
            process: process::picture(self.started_s),
        };
        metrics::render(&picture).unwrap_or_default()
    }

    fn account(&self, account: &Account, reloads: &Reloads) -> AccountPicture {
        let snapshot = account.snapshot();
        let backlog = self.rooms.tracker.backlog(&account.name);
        let limit = snapshot.requests_per_minute;
        let requests = snapshot.figures.requests.iter();
        AccountPicture {
            labels: labels(account),
            requests: requests
                .map(|((class, outcome), made)| (class.as_str(), outcome.as_str(), *made))
                .collect(),
            request_times: (account.request_times().into_iter())
                .map(|(class, times)| (class.as_str(), times))
                .collect(),
            unreadable: snapshot.figures.unreadable,
            nowhere: snapshot.figures.nowhere,
            open: self.rooms.tracker.open_purchases(&account.name),
            by_age: self.tally.open(&account.name, self.rooms.clock.now()),
            unclear: self.tally.unclear(&account.name),
            unmapped: self.tally.unmapped(&account.name),
            due: backlog.due,
            late: backlog.late,
            held_back: self.rooms.tracker.held_back(&account.name),
            budget_used: (limit > 0).then(|| part(snapshot.requests_last_minute, limit)),
            budget_left: (limit > 0).then(|| limit.saturating_sub(snapshot.requests_last_minute)),
            breaker_open: snapshot.breaker_open,
            in_flight: snapshot.in_flight,
            health: match snapshot.health {
                Health::Ok => "ok",
                Health::Degraded => "degraded",
                Health::Unauthorized => "unauthorized",
            },
            tls_is_stale: (self.configured.has_tls_files(&account.name))
                .then(|| reloads.is_blamed(account.name.as_str())),
            lag: account.lag(),
        }
    }
}

fn labels(account: &Account) -> AccountLabels {
    AccountLabels {
        account: account.name.to_string(),
        provider: account.provider().row().name,
    }
}

#[expect(
    clippy::float_arithmetic,
    reason = "a ratio for people, in no decision"
)]
fn part(of: u32, whole: u32) -> f64 {
    f64::from(of) / f64::from(whole)
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{health, serve::tests::empty, telemetry::metrics::Format, testing};

    #[tokio::test]
    async fn the_operations_listener_shows_metrics_in_the_format_that_is_asked_for() {
        let house = empty(testing::journal()).await;
        let figures = house.figures.clone();
        let page = Arc::new(move || figures.text(None, None, &Reloads::default(), &[]));
        let router = health::operations(&house.readiness, house.health(), page).into_axum_router();
        for (accept, format) in [
            ("application/openmetrics-text", Format::OpenMetrics),
            ("text/plain", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            let request = http::Request::get("/metrics").header("accept", accept);
            let request = request.body(axum::body::Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["content-type"], format.media_type());
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
            let text = String::from_utf8(body.unwrap().to_vec()).unwrap();
            assert!(text.contains("\ntillwatch_streams 0\n"), "{text}");
            assert!(text.contains("\ntillwatch_journal_available 1\n"), "{text}");
            let is_open = format == Format::OpenMetrics;
            assert_eq!(text.ends_with("# EOF\n"), is_open, "{text}");
            assert_eq!(text.contains("# UNIT"), is_open, "{text}");
        }
    }
}
