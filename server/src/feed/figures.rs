//! The figures of streams: how many are open, when they tell their first event, how late news is, and
//! why they end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::End;
use crate::{
    figures::{NEWS_BOUNDS, Seen, Spread},
    purchase::Timestamp,
};

/// The kinds of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of one purchase.
    Purchase,
    /// Of many purchases.
    Feed,
}

/// The words of the kinds, in their order.
const KINDS: [&str; 2] = ["purchase", "feed"];
/// The words of the reasons for which streams end. The first is the end that the caller asked for; the
/// last is the caller's side: it hung up, its deadline passed, or it lost a right.
const REASONS: [&str; 6] = [
    "complete",
    "draining",
    "aged",
    "journal_lost",
    "gone",
    "caller",
];
const COMPLETE: usize = 0;
const CALLER: usize = 5;

fn reason(end: End) -> usize {
    match end {
        End::Draining => 1,
        End::Aged => 2,
        End::JournalLost => 3,
        End::Gone => 4,
    }
}

/// The figures of all streams of a feed.
#[derive(Debug)]
pub struct FeedFigures {
    /// Open streams, by kind.
    open: [AtomicUsize; KINDS.len()],
    ended: [[AtomicU64; REASONS.len()]; KINDS.len()],
    first_event: [Spread; KINDS.len()],
    since_commit: Spread,
    since_provider: Spread,
}

impl Default for FeedFigures {
    fn default() -> Self {
        let spread = || Spread::new(NEWS_BOUNDS);
        Self {
            open: Default::default(),
            ended: Default::default(),
            first_event: [spread(), spread()],
            since_commit: spread(),
            since_provider: spread(),
        }
    }
}

impl FeedFigures {
    /// Open streams, by kind.
    pub fn open(&self) -> [(&'static str, usize); KINDS.len()] {
        let [purchase, feed] = &self.open;
        let open = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        [(KINDS[0], open(purchase)), (KINDS[1], open(feed))]
    }

    /// Streams that have ended, by kind and reason.
    pub fn ended(&self) -> Vec<(&'static str, &'static str, u64)> {
        let of_kind = KINDS.iter().zip(&self.ended);
        let each = of_kind.flat_map(|(kind, ended)| {
            let each = REASONS.iter().zip(ended);
            each.map(|(reason, count)| (*kind, *reason, count.load(Ordering::Relaxed)))
        });
        each.collect()
    }

    /// The times from a stream's opening to its first event, by kind.
    pub fn first_event(&self) -> [(&'static str, Seen); KINDS.len()] {
        let [purchase, feed] = &self.first_event;
        [(KINDS[0], purchase.seen()), (KINDS[1], feed.seen())]
    }

    /// The delays of news that came while a stream was open, from the provider's change and from the
    /// commit.
    pub fn push_delay(&self) -> [(&'static str, Seen); 2] {
        [
            ("provider", self.since_provider.seen()),
            ("commit", self.since_commit.seen()),
        ]
    }
}

/// The life of one stream. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Life {
    figures: Arc<FeedFigures>,
    kind: Kind,
    opened: Instant,
    has_told: bool,
    reason: usize,
}

impl Life {
    pub(super) fn begin(figures: &Arc<FeedFigures>, kind: Kind) -> Self {
        let life = Self {
            figures: Arc::clone(figures),
            kind,
            opened: Instant::now(),
            has_told: false,
            reason: CALLER,
        };
        if let Some(open) = life.figures.open.get(life.place()) {
            open.fetch_add(1, Ordering::Relaxed);
        }
        life
    }

    fn place(&self) -> usize {
        match self.kind {
            Kind::Purchase => 0,
            Kind::Feed => 1,
        }
    }

    /// The stream tells an event.
    pub(super) fn tells(&mut self) {
        if self.has_told {
            return;
        }
        self.has_told = true;
        if let Some(spread) = self.figures.first_event.get(self.place()) {
            spread.add_time(self.opened.elapsed());
        }
    }

    /// The stream tells a transition that was committed at `committed`, if that is known, and that the
    /// provider stamped with `changed`. Old news is no delay.
    pub(super) fn tells_news(
        &mut self,
        committed: Option<Instant>,
        changed: Option<Timestamp>,
        now: impl FnOnce() -> Timestamp,
    ) {
        self.tells();
        let Some(committed) = committed.filter(|committed| *committed >= self.opened) else {
            return;
        };
        self.figures.since_commit.add_time(committed.elapsed());
        if let Some(changed) = changed {
            self.figures.since_provider.add_time(now().since(changed));
        }
    }

    /// The stream has told all that was asked for.
    pub(super) fn completes(&mut self) {
        self.reason = COMPLETE;
    }

    /// This service ends the stream.
    pub(super) fn ends(&mut self, end: End) {
        self.reason = reason(end);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let place = self.place();
        if let Some(open) = self.figures.open.get(place) {
            open.fetch_sub(1, Ordering::Relaxed);
        }
        let ended = self.figures.ended.get(place);
        if let Some(count) = ended.and_then(|ended| ended.get(self.reason)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn count(figures: &FeedFigures, kind: &str, reason: &str) -> u64 {
        let ended = figures.ended();
        let found = ended.iter().find(|one| (one.0, one.1) == (kind, reason));
        found.unwrap().2
    }

    #[tokio::test(start_paused = true)]
    async fn news_of_a_streams_time_is_a_delay_and_old_news_is_none() {
        let figures = Arc::new(FeedFigures::default());
        let old = Instant::now();
        tokio::time::advance(Duration::from_secs(60)).await;
        let mut life = Life::begin(&figures, Kind::Purchase);
        assert_eq!(figures.open(), [("purchase", 1), ("feed", 0)]);
        let now = || Timestamp::from_millis(9_000).unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        life.tells_news(Some(old), Some(Timestamp::default()), now);
        life.tells_news(None, None, now);
        assert!(figures.push_delay().iter().all(|(_, seen)| seen.sum == 0));
        let committed = Instant::now();
        tokio::time::advance(Duration::from_millis(3)).await;
        life.tells_news(Some(committed), Some(Timestamp::default()), now);
        let sums = figures.push_delay().map(|(since, seen)| (since, seen.sum));
        assert_eq!(sums, [("provider", 9_000_000), ("commit", 3_000)]);
        let [(_, first), _] = figures.first_event();
        let told: u64 = first.counts.iter().sum();
        assert_eq!((told, first.sum), (1, 2_000_000), "the first alone");
    }

    #[tokio::test]
    async fn each_end_has_a_reason_and_who_leaves_is_the_caller() {
        let figures = Arc::new(FeedFigures::default());
        drop(Life::begin(&figures, Kind::Feed));
        let mut drained = Life::begin(&figures, Kind::Feed);
        drained.ends(End::Draining);
        drop(drained);
        let mut whole = Life::begin(&figures, Kind::Purchase);
        whole.completes();
        drop(whole);
        assert_eq!(count(&figures, "feed", "caller"), 1);
        assert_eq!(count(&figures, "feed", "draining"), 1);
        assert_eq!(count(&figures, "purchase", "complete"), 1);
        let all: u64 = figures.ended().iter().map(|(_, _, count)| count).sum();
        assert_eq!((all, figures.open()), (3, [("purchase", 0), ("feed", 0)]));
    }
}
