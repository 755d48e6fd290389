//! Liveness: a thread of its own looks at the progress of all loops, so that it can tell of a loop that
//! has taken the runtime's threads with it.

use std::{
    io,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::loops::{All, Course};
use crate::{
    clock::Clock,
    health::Readiness,
    progress::Progress,
    purchase::{AccountName, Moment},
};

/// The time without progress after which a loop stands still.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// The time without progress after which a loop is asked for it: it may have nothing to do.
const ASKED_AFTER: Duration = Duration::from_secs(10);
/// The interval of looks at the loops.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most that one look adds to a loop's silence. If looks come later, the whole process has stood
/// still (it was stopped, or the machine slept), and no loop is to blame.
const LOOK_COUNTS: Duration = Duration::from_secs(2);

/// One watched loop.
#[derive(Debug)]
pub(super) struct Watched {
    progress: Progress,
    /// The account that it works for, if it works for one.
    account: Option<AccountName>,
    course: Course,
    /// The beats at the last look.
    beats: AtomicU64,
    /// The time without progress, at the last look, in milliseconds.
    silent_ms: AtomicU64,
    /// True if it stood still, or had ended, at the last look.
    is_stuck: AtomicBool,
}

impl Watched {
    pub(super) fn new(
        progress: Progress,
        account: Option<(AccountName, CancellationToken)>,
    ) -> Self {
        let (account, leave) = account.unzip();
        Self {
            progress,
            account,
            course: Course::with_leave(leave),
            beats: AtomicU64::new(0),
            silent_ms: AtomicU64::new(0),
            is_stuck: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.progress.name()
    }

    pub(super) fn account(&self) -> Option<&AccountName> {
        self.account.as_ref()
    }

    pub(super) fn course(&self) -> &Course {
        &self.course
    }

    /// The time without progress, at the last look.
    pub(super) fn silent(&self) -> Duration {
        Duration::from_millis(self.silent_ms.load(Ordering::Relaxed))
    }

    /// True if it stood still, or had ended, at the last look.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    /// Looks at its progress after some time has passed, and tells what it finds if that is news.
    fn look(&self, passed: Duration) {
        let beats = self.progress.beats();
        let is_silent = self.beats.swap(beats, Ordering::Relaxed) == beats;
        let silent = match is_silent && !self.course.may_end() {
            true => self.silent() + passed,
            false => Duration::ZERO,
        };
        if silent >= ASKED_AFTER {
            self.progress.ask();
        }
        let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
        self.silent_ms.store(silent_ms, Ordering::Relaxed);
        let has_ended = self.course.has_failed();
        let is_stuck = has_ended || silent >= STUCK_AFTER;
        if self.is_stuck.swap(is_stuck, Ordering::Relaxed) == is_stuck {
            return;
        }
        let (name, seconds) = (self.name(), silent.as_secs());
        let account = self.account().map(tracing::field::display);
        match (is_stuck, has_ended) {
            (true, true) => tracing::error!(name, account, "a loop has ended"),
            (true, false) => tracing::error!(name, account, seconds, "a loop stands still"),
            (false, _) => tracing::warn!(name, account, "a loop goes on again"),
        }
    }
}

/// Looks at loops, and asks those that are silent.
#[derive(Debug)]
pub(super) struct Watch {
    all: All,
    looked_at: Option<Moment>,
    draining: CancellationToken,
}

impl Watch {
    pub(super) fn new(all: All, draining: CancellationToken) -> Self {
        Self {
            all,
            looked_at: None,
            draining,
        }
    }

    /// Looks at all loops, and says whether all of them go on. In a drain loops may end, so nothing is
    /// found any more.
    pub(super) fn look(&mut self, now: Moment) -> bool {
        if self.draining.is_cancelled() {
            return true;
        }
        let passed = self.looked_at.map(|before| now.since(before));
        let passed = passed.unwrap_or_default().min(LOOK_COUNTS);
        self.looked_at = Some(now);
        let all = self.all.each();
        for watched in &all {
            watched.look(passed);
        }
        !all.iter().any(|watched| watched.is_stuck())
    }
}

/// The thread that looks. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watcher(
    #[expect(dead_code, reason = "dropping it ends the thread")] mpsc::Sender<()>,
);

impl Watcher {
    /// Tells liveness of the loops' state from now on.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(super) fn start(mut watch: Watch, readiness: Readiness, clock: Clock) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let runtime = Handle::current();
        let looks = move || {
            while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                let is_alive = watch.look(clock.moment());
                runtime.block_on(readiness.set_alive(is_alive));
            }
        };
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(looks)?;
        Ok(Self(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::loops::Loops;

    fn at(seconds: i64) -> Moment {
        Moment::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_loop_without_progress_for_30_s_stands_still_until_it_goes_on() {
        let loops = Loops::default();
        let [progress, other] = ["one", "two"].map(Progress::new);
        loops.adopt(&progress);
        loops.adopt(&other);
        let all = loops.all().each();
        let mut watch = loops.watch();
        for second in 0..30 {
            other.beat();
            assert!(watch.look(at(second)), "{second}");
        }
        other.beat();
        assert!(!watch.look(at(30)));
        assert!(all[0].is_stuck() && !all[1].is_stuck());
        let silent = [&all[0], &all[1]].map(|one| one.silent().as_secs());
        assert_eq!(silent, [30, 0]);
        progress.beat();
        assert!(watch.look(at(31)) && !all[0].is_stuck());
    }

    #[test]
    fn a_process_that_was_stopped_blames_no_loop() {
        let loops = Loops::default();
        loops.adopt(&Progress::new("one"));
        let mut watch = loops.watch();
        assert!(watch.look(at(0)) && watch.look(at(1)));
        assert!(
            watch.look(at(3_600)),
            "a look that came late counts for little"
        );
        assert_eq!(loops.all().each()[0].silent().as_secs(), 3);
    }
}
