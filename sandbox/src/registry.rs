//! The registry of simulated providers: one row for each.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
};

use http::{Method, StatusCode};
use serde_json::Value;

use crate::{
    carbon, devdraft,
    engine::Engine,
    exchange::{Answer, Call},
    inabit,
    life::{self, Life, TimeLine},
    masumi, phygitals,
    sample::{Recipe, Sample},
    scenario::Scenario,
};

/// An answer under way: one provider holds polls open.
pub(crate) type Answering<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// A simulated provider.
pub struct Simulated {
    /// Its name, which is also its path.
    pub name: &'static str,
    /// The table of lives; empty if the create of a scenario is refused.
    pub(crate) life: fn(Scenario) -> Life,
    /// True for the path of a create.
    pub(crate) is_create: fn(&str) -> bool,
    pub(crate) answer: for<'a> fn(&'a Engine, &'a Call) -> Answering<'a>,
    pub(crate) error: fn(StatusCode, Option<u64>) -> Value,
    /// The largest body that it reads, in bytes.
    pub(crate) body_bytes_max: usize,
    pub(crate) content_type: &'static str,
    /// An order, its reference and the usual answers about both.
    pub sample: fn(&Recipe<'_>) -> Sample,
}

const JSON: &str = "application/json";
const JSON_UTF_8: &str = "application/json; charset=utf-8";

/// All simulated providers.
pub static REGISTRY: [Simulated; 5] = [
    Simulated {
        name: phygitals::NAME,
        life: phygitals::life,
        is_create: |path| path == phygitals::CREATE,
        answer: |engine, call| Box::pin(phygitals::answer(engine, call)),
        error: |status, _| phygitals::error(status),
        body_bytes_max: 1 << 20,
        content_type: JSON,
        sample: phygitals::sample,
    },
    Simulated {
        name: masumi::NAME,
        life: masumi::life,
        is_create: |path| path == masumi::CREATE,
        answer: |engine, call| Box::pin(ready(masumi::answer(engine, call))),
        error: |status, _| masumi::error(status),
        body_bytes_max: masumi::BODY_BYTES_MAX,
        content_type: JSON_UTF_8,
        sample: masumi::sample,
    },
    Simulated {
        name: inabit::NAME,
        life: inabit::life,
        is_create: |path| path == inabit::CREATE,
        answer: |engine, call| Box::pin(ready(inabit::answer(engine, call))),
        error: |status, _| inabit::error(status),
        body_bytes_max: 1 << 20,
        content_type: JSON,
        sample: inabit::sample,
    },
    Simulated {
        name: carbon::NAME,
        life: carbon::life,
        is_create: |path| path == carbon::CREATE,
        answer: |engine, call| Box::pin(ready(carbon::answer(engine, call))),
        error: |status, _| carbon::error(status),
        body_bytes_max: 1 << 20,
        content_type: JSON,
        sample: carbon::sample,
    },
    Simulated {
        name: devdraft::NAME,
        life: devdraft::life,
        is_create: |path| path.starts_with(devdraft::CREATE),
        answer: |engine, call| Box::pin(ready(devdraft::answer(engine, call))),
        error: devdraft::error,
        body_bytes_max: 1 << 20,
        content_type: JSON_UTF_8,
        sample: devdraft::sample,
    },
];

/// The provider of a name.
#[must_use]
pub fn simulated(name: &str) -> Option<&'static Simulated> {
    REGISTRY.iter().find(|provider| provider.name == name)
}

impl fmt::Debug for Simulated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

impl Simulated {
    /// Answers a call at the present time.
    pub async fn answer(&self, engine: &Engine, call: &Call) -> Answer {
        (self.answer)(engine, call).await
    }

    /// True if a request may create a purchase.
    #[must_use]
    pub fn is_create(&self, method: &Method, path: &str) -> bool {
        method == Method::POST && (self.is_create)(path)
    }

    /// The words through which a purchase of a scenario goes, and when each begins after its create.
    #[must_use]
    pub fn walk(&self, scenario: Scenario) -> TimeLine {
        life::time_line((self.life)(scenario), scenario)
    }

    /// An error that has nothing to do with the request, in the provider's own shape.
    #[must_use]
    pub fn error(&self, status: StatusCode, retry_after_s: Option<u64>) -> Answer {
        let answer = Answer::new(status, (self.error)(status, retry_after_s));
        match retry_after_s {
            Some(seconds) => answer.header("retry-after", seconds),
            None => answer,
        }
    }
}
