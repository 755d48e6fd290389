//! Injected time and ids: everything that is not the same in each run comes from here.
//!
//! Time has two faces. The wall's is stored and shown, and somebody can set it; the monotonic one
//! orders and measures, and nobody can. The wall's face is the machine's, until the clock is told the time of
//! a store that processes of several machines share. From then on it is the store's.

mod difference;
mod lead;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::time::{ClockId, clock_gettime};

use crate::purchase::{Moment, PurchaseId, Timestamp};
use difference::Difference;
use lead::Lead;
pub use lead::StoreTime;

/// Goes on while the machine is suspended, so that a stored moment can be compared after a restart of
/// the process.
#[cfg(target_os = "linux")]
const MONOTONIC: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const MONOTONIC: ClockId = ClockId::Monotonic;
/// The file in which Linux names the machine's present run.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";
/// The uptime of a simulated machine when its clock is made: ten days, in milliseconds.
const SIMULATED_UPTIME_MS: i64 = 864_000_000;

/// The largest step back of the wall's face after which stored times are still believed. Ours: the
/// hour that Devdraft's right to repeat keeps in hand holds twice as much.
pub const SET_BACK: Duration = Duration::from_secs(1_800);
/// A larger difference between the machine's wall clock and the store's is told at the first look.
const AGREE_WITHIN: Duration = Duration::from_secs(5);

/// Notices that the wall's face was set back: it is behind the furthest that it was ever ahead of the
/// monotonic one, by more than [`SET_BACK`]. Small steps add up.
#[derive(Debug)]
struct Steps {
    /// The most that the wall was ahead of the monotonic face, in milliseconds.
    furthest_ms: AtomicI64,
    /// The number of times that it was found to be set back.
    set_back: AtomicU64,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            furthest_ms: AtomicI64::new(i64::MIN),
            set_back: AtomicU64::new(0),
        }
    }
}

impl Steps {
    /// The wall's face is another clock's from now on.
    fn begin_anew(&self) {
        self.furthest_ms.store(i64::MIN, Ordering::SeqCst);
    }

    /// The wall was ahead of the monotonic face by so much.
    fn saw(&self, ahead_ms: i64) {
        let before_ms = self.furthest_ms.fetch_max(ahead_ms, Ordering::SeqCst);
        let back_ms = before_ms.saturating_sub(ahead_ms);
        let is_far = before_ms != i64::MIN && back_ms > SET_BACK.as_millis() as i64;
        // The first to notice counts it.
        let exchanged = is_far
            && (self.furthest_ms)
                .compare_exchange(before_ms, ahead_ms, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
        if exchanged {
            self.set_back.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The time on both faces, read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time of day.
    pub wall: Timestamp,
    /// The monotonic clock.
    pub moment: Moment,
}

impl Now {
    /// The lead of the wall's face over the monotonic one, in milliseconds.
    pub fn ahead_ms(self) -> i64 {
        self.wall
            .as_millis()
            .saturating_sub(self.moment.as_millis())
    }
}

/// The source of the time.
#[derive(Debug, Clone)]
enum Ticker {
    /// The machine's clocks.
    System,
    /// Tokio's clock, which simulations pause and advance.
    Virtual(Arc<Simulated>),
}

/// A simulated machine's clocks. Clones of a clock share them.
#[derive(Debug)]
struct Simulated {
    start: Timestamp,
    since: tokio::time::Instant,
    /// The sum of the steps by which the wall's face was set, in milliseconds.
    stepped_ms: AtomicI64,
    /// When the machine was last started, in milliseconds from `since`.
    booted_ms: AtomicI64,
    /// The number of its starts.
    boots: AtomicU64,
    /// The time in which it stands still, from `since`: then it jumps to the present.
    stopped: Mutex<(Duration, Duration)>,
}

/// Time of day, random numbers and ids. Cheap to clone; clones share one stream of numbers.
#[derive(Clone)]
pub struct Clock {
    source: Ticker,
    /// The store's clock, once somebody has told its time.
    lead: Arc<Mutex<Option<Lead>>>,
    steps: Arc<Steps>,
    /// The machine's present run, if the source is the machine.
    boot: Option<Arc<str>>,
    /// The lead of the slow clock over the monotonic one, in milliseconds; [`i64::MIN`] while nobody
    /// has said.
    aged_ahead_ms: Arc<AtomicI64>,
    /// Guarded: numbers are drawn from many tasks, each draw is a few nanoseconds.
    random: Arc<Mutex<StdRng>>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Clock")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// The uptime of the machine.
fn uptime() -> Moment {
    let time = clock_gettime(MONOTONIC);
    Moment::from_millis(
        time.tv_sec
            .saturating_mul(1_000)
            .saturating_add(time.tv_nsec.div_euclid(1_000_000)),
    )
}

/// The kernel's `CLOCK_MONOTONIC` in microseconds, by which a service manager orders what it is told.
/// Nothing here waits by it.
pub fn kernel_microseconds() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec.div_euclid(1_000))
}

impl Simulated {
    fn elapsed(&self) -> Duration {
        let elapsed = self.since.elapsed();
        let (from, until) = *self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        match (from..until).contains(&elapsed) {
            true => from,
            false => elapsed,
        }
    }

    fn both(&self) -> Now {
        let elapsed = self.elapsed();
        let wall = self.start.plus(elapsed);
        let stepped_ms = self.stepped_ms.load(Ordering::SeqCst);
        let stepped = Duration::from_millis(stepped_ms.unsigned_abs());
        Now {
            wall: match stepped_ms < 0 {
                true => wall.minus(stepped),
                false => wall.plus(stepped),
            },
            moment: Moment::from_millis(-self.booted_ms.load(Ordering::SeqCst)).plus(elapsed),
        }
    }
}

impl Clock {
    /// The machine's clocks and its entropy.
    pub fn system() -> Self {
        let boot = std::fs::read_to_string(BOOT_ID_FILE).ok();
        let boot = boot
            .map(|id| id.trim().to_owned())
            .filter(|id| !id.is_empty());
        Self {
            source: Ticker::System,
            lead: Arc::default(),
            steps: Arc::default(),
            boot: boot.map(Arc::from),
            aged_ahead_ms: Arc::new(AtomicI64::new(i64::MIN)),
            random: Arc::new(Mutex::new(rand::make_rng())),
        }
    }

    /// A clock whose wall begins at `start` and follows tokio's, with numbers from `seed`.
    pub fn simulated(start: Timestamp, seed: u64) -> Self {
        Self {
            source: Ticker::Virtual(Arc::new(Simulated {
                start,
                since: tokio::time::Instant::now(),
                stepped_ms: AtomicI64::new(0),
                booted_ms: AtomicI64::new(-SIMULATED_UPTIME_MS),
                boots: AtomicU64::new(1),
                stopped: Mutex::default(),
            })),
            lead: Arc::default(),
            steps: Arc::default(),
            boot: None,
            aged_ahead_ms: Arc::new(AtomicI64::new(i64::MIN)),
            random: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        }
    }

    /// The time of day, by the store's clock if the clock follows one: for what is stored and shown, and for
    /// nothing that waits.
    pub fn now(&self) -> Timestamp {
        self.both().wall
    }

    /// The monotonic clock.
    pub fn moment(&self) -> Moment {
        match &self.source {
            Ticker::System => uptime(),
            Ticker::Virtual(simulated) => simulated.both().moment,
        }
    }

    /// Both faces.
    pub fn both(&self) -> Now {
        let now = self.read();
        self.steps.saw(now.ahead_ms());
        now
    }

    fn read(&self) -> Now {
        // Under the lock, so that the moment is no older than the lead.
        let lead = self.lead();
        let machine = self.machine();
        match &*lead {
            None => machine,
            Some(lead) => Now {
                wall: lead.time(machine.moment),
                ..machine
            },
        }
    }

    fn lead(&self) -> MutexGuard<'_, Option<Lead>> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The faces of the machine's own clocks, whatever store is followed: for what belongs to the machine or
    /// to the world outside, and is compared with no time in the store.
    pub fn machine(&self) -> Now {
        match &self.source {
            Ticker::System => {
                let since_epoch = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Now {
                    wall: Timestamp::default().plus(since_epoch),
                    moment: self.moment(),
                }
            }
            Ticker::Virtual(simulated) => simulated.both(),
        }
    }

    /// Follows the clock of a store that several processes share, as a look has just shown it: the machine's
    /// wall clock counts no more. A small difference is made up by at most 0.5 ms per second, so that the time
    /// of day does not go back; one above 5 s at once, with a warning.
    pub fn follow(&self, look: StoreTime) {
        let mut lead = self.lead();
        let Some(known) = &mut *lead else {
            *lead = Some(Lead::first(look));
            drop(lead);
            self.steps.begin_anew();
            self.tell_machine_ahead();
            return;
        };
        let step_ms = known.learn(look);
        drop(lead);
        if let Some(step_ms) = step_ms {
            let way = if step_ms < 0 { "back" } else { "forth" };
            let by = Difference(step_ms);
            tracing::warn!(
                "the store's clock was set {way} by {by}: the times of purchases follow it"
            );
        }
    }

    fn tell_machine_ahead(&self) {
        let ahead_ms = self.machine_ahead_ms().unwrap_or_default();
        if u128::from(ahead_ms.unsigned_abs()) > AGREE_WITHIN.as_millis() {
            let way = if ahead_ms < 0 { "behind" } else { "ahead of" };
            let by = Difference(ahead_ms);
            tracing::warn!(
                "this machine's clock is {way} the store's by {by}: the times of purchases are the store's"
            );
        }
    }

    /// The lead of the machine's wall clock over the store's, in milliseconds; `None` while no store's clock
    /// is followed.
    pub fn machine_ahead_ms(&self) -> Option<i64> {
        let lead = self.lead();
        let machine = self.machine();
        let store = lead.as_ref()?.time(machine.moment);
        Some(machine.wall.as_millis().saturating_sub(store.as_millis()))
    }

    /// The moment at which it was, or will be, this time of day, if the wall's face is right now.
    pub fn moment_of(&self, time: Timestamp) -> Moment {
        let Now { wall, moment } = self.both();
        if time >= wall {
            moment.plus(time.since(wall))
        } else {
            moment.minus(wall.since(time))
        }
    }

    /// The time of day at a moment, if the wall's face is right now.
    pub fn wall_of(&self, moment: Moment) -> Timestamp {
        let now = self.both();
        if moment >= now.moment {
            now.wall.plus(moment.since(now.moment))
        } else {
            now.wall.minus(now.moment.since(moment))
        }
    }

    /// The slow clock says `aged` now. It is kept in the store, and a wall clock that is set moves it
    /// by little: ages of what an earlier process has stored count by it.
    pub fn ages_by(&self, aged: Timestamp) {
        let ahead_ms = aged.as_millis().saturating_sub(self.moment().as_millis());
        self.aged_ahead_ms.store(ahead_ms, Ordering::SeqCst);
    }

    /// The moment of a stored time, by the slow clock; by the wall's face while nobody has said how
    /// slow that is. An event that was stored by a clock that was ahead counts as having just happened.
    pub fn past_moment_of(&self, time: Timestamp) -> Moment {
        let now = self.moment();
        let ahead_ms = self.aged_ahead_ms.load(Ordering::SeqCst);
        if ahead_ms == i64::MIN {
            return self.moment_of(time).min(now);
        }
        Moment::from_millis(time.as_millis().saturating_sub(ahead_ms)).min(now)
    }

    /// The name of the machine's present run, within which a stored moment keeps its meaning; `None`
    /// if the machine does not tell.
    pub fn boot(&self) -> Option<Arc<str>> {
        match &self.source {
            Ticker::System => self.boot.clone(),
            Ticker::Virtual(simulated) => {
                let boots = simulated.boots.load(Ordering::SeqCst);
                Some(Arc::from(format!("simulated-{boots}")))
            }
        }
    }

    /// The number of times that the wall's face was set back by more than [`SET_BACK`], as far as
    /// anybody has looked: what was stored before it may carry times of a clock that was ahead.
    pub fn set_back(&self) -> u64 {
        self.both();
        self.steps.set_back.load(Ordering::SeqCst)
    }

    /// An earlier process of this machine's run had the wall's face so far ahead of the monotonic one.
    pub fn was_ahead(&self, ahead_ms: i64) {
        self.steps.saw(ahead_ms);
        self.both();
    }

    /// The store knows a time of day that now is before.
    pub fn is_before(&self, known: Timestamp) {
        let Now { wall, .. } = self.both();
        if known.since(wall) > SET_BACK {
            self.steps.set_back.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The same clock as a new process finds it, which has noticed nothing yet.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self {
            lead: Arc::default(),
            steps: Arc::default(),
            aged_ahead_ms: Arc::new(AtomicI64::new(i64::MIN)),
            ..self.clone()
        }
    }

    /// Sets a simulated wall's face forward or back; the machine's own stays as it is.
    pub fn step_wall(&self, millis: i64) {
        if let Ticker::Virtual(simulated) = &self.source {
            simulated.stepped_ms.fetch_add(millis, Ordering::SeqCst);
        }
    }

    /// Lets both faces of a simulated clock stand still for so long, as a process that is stopped sees
    /// them: to it no time passes.
    pub fn stop_for(&self, duration: Duration) {
        if let Ticker::Virtual(simulated) = &self.source {
            let now = simulated.since.elapsed();
            let stopped = (now, now.saturating_add(duration));
            *(simulated.stopped.lock()).unwrap_or_else(PoisonError::into_inner) = stopped;
        }
    }

    /// Starts a simulated machine again: its monotonic clock begins anew, so no process may be left.
    pub fn reboot(&self) {
        if let Ticker::Virtual(simulated) = &self.source {
            let elapsed = simulated.since.elapsed().as_millis();
            let booted_ms = i64::try_from(elapsed).unwrap_or(i64::MAX);
            simulated.booted_ms.store(booted_ms, Ordering::SeqCst);
            simulated.boots.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A new purchase id, ordered by the time of its making to the millisecond.
    pub fn purchase_id(&self) -> PurchaseId {
        let millis = u64::try_from(self.now().as_millis()).unwrap_or(0);
        let bytes: [u8; 10] = self.draw(|random| random.random());
        PurchaseId::from_uuid(uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid())
    }

    /// A new random UUID (version 4).
    pub fn uuid(&self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.draw(|random| random.random())).into_uuid()
    }

    /// Random bytes, good for keys when the clock is the machine's.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        self.draw(|random| {
            let mut bytes = [0; N];
            random.fill(&mut bytes);
            bytes
        })
    }

    /// `base` spread evenly over ± `per_mille` thousandths.
    pub fn jittered(&self, base: Duration, per_mille: u32) -> Duration {
        let spread = base / 1000 * per_mille;
        (base - spread) + self.up_to(spread * 2)
    }

    /// A duration between zero and `most`, evenly spread.
    pub fn up_to(&self, most: Duration) -> Duration {
        let most_us = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.draw(|random| random.random_range(0..=most_us)))
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn simulated() -> Clock {
        Clock::simulated(Timestamp::from_millis(1_800_000_000_000).unwrap(), 1)
    }

    #[tokio::test(start_paused = true)]
    async fn the_wall_can_be_set_and_the_monotonic_face_cannot() {
        let clock = simulated();
        let began = clock.both();
        clock.step_wall(-90 * MINUTE_MS);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = clock.both();
        assert_eq!(now.moment, began.moment.plus(Duration::from_secs(5)));
        assert_eq!(now.ahead_ms(), began.ahead_ms() - 90 * MINUTE_MS);
        let later = now.moment.plus(Duration::from_secs(7));
        assert_eq!(clock.moment_of(clock.wall_of(later)), later);
        assert_eq!(clock.wall_of(now.moment), now.wall);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_that_is_set_back_by_more_than_half_an_hour_is_noticed_once() {
        let clock = simulated();
        for (step_min, expected) in [
            (0, 0),
            (-30, 0),
            (600, 0),
            (-20, 0),
            // Small steps add up, from the furthest that it ever was.
            (-11, 1),
            (0, 1),
            (-31, 2),
            (525_600, 2),
            (-525_600, 3),
        ] {
            clock.step_wall(step_min * MINUTE_MS);
            assert_eq!(clock.set_back(), expected, "{step_min}");
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            assert_eq!(clock.set_back(), expected, "time alone is no step");
        }
        assert_eq!(clock.restarted().set_back(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_stopped_jumps_to_the_present() {
        let clock = simulated();
        let began = clock.both();
        clock.stop_for(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(9_999)).await;
        assert_eq!(clock.both(), began);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = clock.both();
        assert_eq!(now.moment, began.moment.plus(Duration::from_secs(10)));
        assert_eq!(now.wall, began.wall.plus(Duration::from_secs(10)));
    }

    /// A look that takes no time, at a store whose clock is so far ahead of the machine's first.
    fn look(clock: &Clock, start: Now, ahead_min: i64) {
        let moment = clock.moment();
        let time_ms = start.wall.as_millis()
            + i64::try_from(moment.since(start.moment).as_millis()).unwrap()
            + ahead_min * MINUTE_MS;
        clock.follow(StoreTime {
            asked: moment,
            answered: moment,
            time: Timestamp::from_millis(time_ms).unwrap(),
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_follows_a_store_goes_by_it_whatever_is_done_to_the_machines() {
        let clock = simulated();
        let (start, other) = (clock.both(), clock.clone());
        look(&clock, start, 120);
        assert_eq!(clock.machine_ahead_ms(), Some(-120 * MINUTE_MS));
        clock.step_wall(-525_600 * MINUTE_MS);
        tokio::time::sleep(Duration::from_secs(60)).await;
        for clock in [&clock, &other] {
            assert_eq!(clock.now(), start.wall.plus(Duration::from_secs(121 * 60)));
        }
        assert_eq!(
            clock.machine().ahead_ms(),
            start.ahead_ms() - 525_600 * MINUTE_MS
        );
        let began_anew = clock.restarted();
        assert_eq!(began_anew.both(), clock.machine(), "it has not looked yet");
        assert_eq!(began_anew.machine_ahead_ms(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_behind_the_machine_was_not_set_back_and_one_that_steps_back_was() {
        let clock = simulated();
        let start = clock.both();
        look(&clock, start, -120);
        assert_eq!(clock.set_back(), 0, "another clock, and no step of one");
        look(&clock, start, -150);
        assert_eq!(clock.set_back(), 0);
        look(&clock, start, -151);
        assert_eq!(clock.set_back(), 1);
        assert_eq!(clock.now(), start.wall.minus(Duration::from_secs(151 * 60)));
    }

    #[test]
    fn the_machines_clocks_go_on() {
        let clock = Clock::system();
        let first = clock.both();
        let second = clock.both();
        assert!(second.moment >= first.moment);
        assert!(first.moment > Moment::default());
        assert!(second.ahead_ms().abs_diff(first.ahead_ms()) < 1_000);
    }
}
