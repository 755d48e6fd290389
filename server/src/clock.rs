//! Injected time and ids: everything that is not the same in each run comes from here.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::purchase::{PurchaseId, Timestamp};

/// Where the time of day comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The machine's clock.
    System,
    /// A fixed start and tokio's clock, which simulations pause and advance.
    Virtual {
        start: Timestamp,
        since: tokio::time::Instant,
    },
}

/// Time of day, random numbers and ids. Cheap to clone; clones share one stream of numbers.
#[derive(Clone)]
pub struct Clock {
    source: Source,
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

impl Clock {
    /// The machine's clock and its entropy.
    pub fn system() -> Self {
        Self {
            source: Source::System,
            random: Arc::new(Mutex::new(rand::make_rng())),
        }
    }

    /// A clock that begins at `start` and follows tokio's, with numbers from `seed`.
    pub fn simulated(start: Timestamp, seed: u64) -> Self {
        Self {
            source: Source::Virtual {
                start,
                since: tokio::time::Instant::now(),
            },
            random: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        match self.source {
            Source::System => {
                let since_epoch = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp::default().plus(since_epoch)
            }
            Source::Virtual { start, since } => start.plus(since.elapsed()),
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
