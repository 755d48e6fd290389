//! Five providers that live beside the service: what they are sent, what they sell, and what they
//! answer, lies included. Everything is kept for the checker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tillwatch_server::{
    clock::Clock,
    journal::{Journal as _, memory::MemoryJournal},
    purchase::{CallerName, Finality, State, Timestamp},
    upstream::{Request, Response, UpstreamError, scripted::json_response},
};

use crate::{answers, store::Life, words};

/// What a provider sold: one purchase, on its way through the provider's words.
#[derive(Debug, Clone)]
pub struct Sold {
    /// Who sold it.
    pub provider: &'static str,
    /// The provider's name for it.
    pub reference: String,
    /// The order's mark, which is its idempotency key as well.
    pub mark: String,
    /// The body of the create.
    pub order: Value,
    /// When each word began.
    pub walk: Vec<(Timestamp, &'static str)>,
}

impl Sold {
    /// Which step of the walk it is at.
    pub fn step(&self, now: Timestamp) -> usize {
        let begun = self.walk.iter().filter(|(began, _)| *began <= now).count();
        begun.saturating_sub(1)
    }
}

/// One create that reached a provider.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Which provider.
    pub provider: &'static str,
    /// The order's mark.
    pub mark: String,
    /// The provider's own idempotency key, where it takes one.
    pub key: String,
    /// When it came.
    pub at: Timestamp,
    /// True if the account was turned away before the order was looked at.
    pub turned_away: bool,
    /// True if the provider said that it will not have this order.
    pub refused: bool,
}

/// What an answer means by the status table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// This.
    Definite(State, Finality),
    /// A word without a row.
    Unmapped,
    /// Nothing about the purchase.
    Nothing,
}

/// One answer about a purchase that the provider gave and did not lose.
#[derive(Debug, Clone)]
pub struct Given {
    /// The provider's name for the purchase.
    pub reference: String,
    /// When it left.
    pub at: Timestamp,
    /// What it means.
    pub meaning: Meaning,
    /// Its stamp, which some providers show.
    pub stamp: Option<Timestamp>,
}

/// All that the providers know and remember.
#[derive(Default)]
pub struct Ledger {
    /// What was sold, by provider and reference.
    pub sold: BTreeMap<(&'static str, String), Sold>,
    /// Creates that arrived, oldest first.
    pub sent: Vec<Sent>,
    /// Answers that were given, oldest first.
    pub given: Vec<Given>,
    /// When each provider was asked anything.
    pub requests: BTreeMap<&'static str, Vec<Timestamp>>,
    /// What was wrong at the time that it happened.
    pub violations: Vec<String>,
}

/// The providers' side of the world.
pub struct Providers {
    ledger: Mutex<Ledger>,
    random: Mutex<StdRng>,
    /// Once set, no provider lies, fails or loses anything any more.
    is_calm: AtomicBool,
    clock: Clock,
    /// To see whether an intent is durable when its create arrives.
    journal: Arc<MemoryJournal>,
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    NotConnected,
    Throttled,
    Unauthorized,
    ServerError,
    Garbage,
    LostBefore,
    LostAfter,
    Silence,
    Refused,
    Unnamed,
    NotFound,
    Older,
    WrongStamp,
    Contradiction,
    Unknown,
    Foreign,
}

const CREATE_FAULTS: &[(u32, Fault)] = &[
    (60, Fault::None),
    (5, Fault::NotConnected),
    (5, Fault::Throttled),
    (2, Fault::Unauthorized),
    (4, Fault::ServerError),
    (4, Fault::Garbage),
    (4, Fault::LostBefore),
    (6, Fault::LostAfter),
    (5, Fault::Silence),
    (4, Fault::Refused),
    (2, Fault::Unnamed),
];

const STATUS_FAULTS: &[(u32, Fault)] = &[
    (71, Fault::None),
    (3, Fault::NotConnected),
    (2, Fault::Throttled),
    (1, Fault::Unauthorized),
    (3, Fault::ServerError),
    (3, Fault::Garbage),
    (2, Fault::LostAfter),
    (1, Fault::Silence),
    (2, Fault::NotFound),
    (4, Fault::Older),
    (3, Fault::WrongStamp),
    (2, Fault::Contradiction),
    (2, Fault::Unknown),
    (1, Fault::Foreign),
];

impl Providers {
    /// Providers with nothing sold yet.
    pub fn new(seed: u64, clock: Clock, journal: Arc<MemoryJournal>) -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            is_calm: AtomicBool::new(false),
            clock,
            journal,
        })
    }

    /// What they remember.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// From now on all of them tell the truth.
    pub fn calm(&self) {
        self.is_calm.store(true, Ordering::SeqCst);
    }

    fn draw(&self, table: &[(u32, Fault)]) -> Fault {
        if self.is_calm.load(Ordering::SeqCst) {
            return Fault::None;
        }
        let sum: u32 = table.iter().map(|(weight, _)| weight).sum();
        let mut left = self.random.lock().unwrap().random_range(0..sum);
        for (weight, fault) in table {
            if left < *weight {
                return *fault;
            }
            left -= weight;
        }
        Fault::None
    }

    fn number(&self, below: u64) -> u64 {
        self.random.lock().unwrap().random_range(0..below)
    }

    async fn travel(&self) {
        let calm = self.is_calm.load(Ordering::SeqCst);
        let slow = !calm && self.number(20) == 0;
        let millis = self.number(if slow { 9_000 } else { 300 });
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// Answers one request of a living process.
    ///
    /// # Errors
    /// No connection was made, or the answer was lost.
    pub async fn answer(
        self: Arc<Self>,
        provider: &'static str,
        request: Request,
        life: Life,
    ) -> Result<Response, UpstreamError> {
        life.go_on().await;
        let body: Value = (request.body.as_deref())
            .and_then(|body| serde_json::from_slice(body).ok())
            .unwrap_or(Value::Null);
        let is_create = answers::is_create(provider, &request);
        let fault = self.draw(if is_create {
            CREATE_FAULTS
        } else {
            STATUS_FAULTS
        });
        let now = self.clock.now();
        self.ledger()
            .requests
            .entry(provider)
            .or_default()
            .push(now);
        if fault == Fault::NotConnected {
            return Err(UpstreamError::NotConnected("refused"));
        }
        self.travel().await;
        // What is under way when its sender dies arrives all the same.
        let answer = if is_create {
            self.create(provider, &request, &body, fault).await
        } else {
            self.status(provider, &request, &body, fault).await
        };
        life.go_on().await;
        answer
    }

    async fn create(
        &self,
        provider: &'static str,
        request: &Request,
        body: &Value,
        fault: Fault,
    ) -> Result<Response, UpstreamError> {
        let now = self.clock.now();
        let mark = answers::mark(provider, body);
        let header = request.headers.get("idempotency-key");
        let key = header.map_or("", |key| key.to_str().unwrap_or(""));
        self.check_intent(&mark).await;
        let held = self.held(provider, &mark);
        // A key that is known gives the answer that it gave.
        let repeats = provider == "devdraft" && held.is_some();
        let turned_away = matches!(fault, Fault::Throttled | Fault::Unauthorized);
        let refused = fault == Fault::Refused && !repeats;
        self.ledger().sent.push(Sent {
            provider,
            mark: mark.clone(),
            key: key.to_owned(),
            at: now,
            turned_away,
            refused,
        });
        match fault {
            Fault::Throttled => return Ok(answers::throttled()),
            Fault::Unauthorized => return Ok(answers::unauthorized(provider)),
            Fault::LostBefore => return Err(UpstreamError::Lost("cut")),
            Fault::Refused if refused => return Ok(answers::refused(provider)),
            Fault::ServerError if self.number(2) == 0 => {
                return Ok(json_response(500, &json!({"message": "oops"})));
            }
            _ => {}
        }
        let answer = match held {
            Some(sold) if provider == "masumi" => {
                self.say(&sold, sold.step(now));
                answers::exists(&sold, now)
            }
            Some(sold) if repeats => self.accepted(&sold, now),
            _ => {
                let sold = self.sell(provider, mark, body.clone(), now);
                match fault {
                    Fault::Unnamed => answers::unnamed(provider),
                    _ => self.accepted(&sold, now),
                }
            }
        };
        match fault {
            Fault::LostAfter => Err(UpstreamError::Lost("cut")),
            Fault::Silence => std::future::pending().await,
            Fault::ServerError => Ok(json_response(502, &json!({"message": "oops"}))),
            Fault::Garbage => Ok(answers::garbage(self.number(3))),
            _ => Ok(answer),
        }
    }

    fn accepted(&self, sold: &Sold, now: Timestamp) -> Response {
        let (meaning, answer) = answers::accepted(sold, now);
        self.give(&sold.reference, meaning, Some(sold.walk[0].0));
        answer
    }

    fn held(&self, provider: &str, mark: &str) -> Option<Sold> {
        let ledger = self.ledger();
        let mut sold = ledger.sold.values();
        sold.find(|sold| sold.provider == provider && sold.mark == mark)
            .cloned()
    }

    /// Promise C1: the intent is durable before the provider hears of it.
    async fn check_intent(&self, mark: &str) {
        let known = (self.journal)
            .record_by_key(&CallerName::new("shop"), mark)
            .await;
        let record = known.ok().flatten();
        // A look-up can have settled it while the send was on its way.
        let is_begun = record
            .as_ref()
            .is_some_and(|one| one.attempt.is_some() || one.purchase.status.reference.is_some());
        if !is_begun {
            let now = self.clock.now();
            let status = record.map(|record| record.purchase.status);
            let violation = format!("{now} C1: {mark} was sent without an attempt: {status:?}");
            self.ledger().violations.push(violation);
        }
    }

    fn sell(&self, provider: &'static str, mark: String, order: Value, now: Timestamp) -> Sold {
        let walks = words::walks(provider);
        let place = self.number(walks.len() as u64) as usize;
        let mut began = now;
        let walk = walks[place]
            .iter()
            .map(|word| {
                let step = (began, *word);
                let quick = self.number(3) == 0;
                let wait = self.number(if quick { 4 } else { 500 }) * 1_000 + self.number(1_000);
                began = began.plus(Duration::from_millis(wait + 1));
                step
            })
            .collect();
        let count = self.ledger().sold.len() as u128;
        let sold = Sold {
            provider,
            reference: answers::reference(provider, &mark, count),
            mark,
            order,
            walk,
        };
        let place = (provider, sold.reference.clone());
        self.ledger().sold.insert(place, sold.clone());
        sold
    }

    fn give(&self, reference: &str, meaning: Meaning, stamp: Option<Timestamp>) {
        let given = Given {
            reference: reference.to_owned(),
            at: self.clock.now(),
            meaning,
            stamp,
        };
        self.ledger().given.push(given);
    }

    /// Notes that a step of a walk is told.
    fn say(&self, sold: &Sold, step: usize) {
        self.say_stamped(sold, step, sold.walk[step].0);
    }

    /// Notes that a step of a walk is told with this stamp.
    fn say_stamped(&self, sold: &Sold, step: usize, stamp: Timestamp) {
        let (_, word) = sold.walk[step];
        let meaning = words::meaning(sold.provider, word);
        let meaning = meaning.map_or(Meaning::Unmapped, |(state, finality)| {
            Meaning::Definite(state, finality)
        });
        self.give(&sold.reference, meaning, Some(stamp));
    }

    async fn status(
        &self,
        provider: &'static str,
        request: &Request,
        body: &Value,
        fault: Fault,
    ) -> Result<Response, UpstreamError> {
        match fault {
            Fault::Throttled => return Ok(answers::throttled()),
            Fault::Unauthorized => return Ok(answers::unauthorized(provider)),
            Fault::ServerError => return Ok(json_response(503, &json!({}))),
            Fault::Garbage => return Ok(answers::garbage(self.number(3))),
            Fault::LostAfter => return Err(UpstreamError::Lost("cut")),
            Fault::Silence => std::future::pending().await,
            _ => {}
        }
        if answers::is_search(provider, request) {
            return Ok(self.search(body));
        }
        let reference = answers::asked_for(provider, request, body);
        let sold = self
            .ledger()
            .sold
            .get(&(provider, reference.clone()))
            .cloned();
        let Some(sold) = sold.filter(|_| fault != Fault::NotFound) else {
            return Ok(answers::not_found(provider));
        };
        let now = self.clock.now();
        let step = sold.step(now);
        let (began, word) = sold.walk[step];
        let answer = match fault {
            Fault::Older => {
                let step = self.number(step as u64 + 1) as usize;
                self.say(&sold, step);
                let (began, word) = sold.walk[step];
                answers::status(&sold, word, began, now)
            }
            Fault::WrongStamp => {
                // By a clock that is ahead or behind, by seconds or by a time zone.
                let off =
                    Duration::from_secs(self.number(if self.number(2) == 0 { 10 } else { 7_200 }));
                let stamp = match self.number(2) {
                    0 => began.plus(off),
                    _ => began.minus(off),
                };
                self.say_stamped(&sold, step, stamp);
                answers::status(&sold, word, stamp, now)
            }
            Fault::Contradiction => {
                // A word on chain would be evidence that funds moved, and forbid an end by deadline.
                let is_off_chain = word.starts_with("null/");
                let rows: Vec<_> = (words::rows(provider).iter())
                    .filter(|(other, ..)| !is_off_chain || other.starts_with("null/"))
                    .copied()
                    .collect();
                let (word, state, finality) = rows[self.number(rows.len() as u64) as usize];
                // An end that nothing follows would leave nothing to see; once in a while is enough.
                let word_is_end = finality == Finality::Final && self.number(8) != 0;
                let (word, meaning) = if word_is_end {
                    (sold.walk[step].1, None)
                } else {
                    (word, Some(Meaning::Definite(state, finality)))
                };
                match meaning {
                    Some(meaning) => self.give(&sold.reference, meaning, Some(began)),
                    None => self.say(&sold, step),
                }
                answers::status(&sold, word, began, now)
            }
            Fault::Unknown => {
                self.give(&sold.reference, Meaning::Unmapped, Some(began));
                // As above.
                let unknown = match word.starts_with("null/") {
                    true => "null/reticulating",
                    false => "reticulating",
                };
                answers::status(&sold, unknown, began, now)
            }
            Fault::Foreign => {
                let mut other = sold.clone();
                other.reference = answers::reference(provider, "other", u128::from(u32::MAX));
                self.give(&sold.reference, Meaning::Nothing, None);
                // Phygitals' short answer names no session, so it says nothing of another.
                if provider == "phygitals" {
                    return Ok(answers::garbage(0));
                }
                answers::status(&other, word, began, now)
            }
            _ => {
                self.say(&sold, step);
                answers::status(&sold, word, began, now)
            }
        };
        if provider == "phygitals" && answer.status == 200 && self.number(2) == 0 {
            // A long poll is held; what it says is what was true when it began.
            tokio::time::sleep(Duration::from_millis(self.number(6_000))).await;
        }
        Ok(answer)
    }

    /// Inabit's rows with an identifier.
    fn search(&self, body: &Value) -> Response {
        let now = self.clock.now();
        let mark = body["searchText"].as_str().unwrap_or_default().to_owned();
        let rows: Vec<Sold> = (self.ledger().sold.values())
            .filter(|sold| sold.provider == "inabit" && sold.mark == mark)
            .cloned()
            .collect();
        for sold in &rows {
            self.say(sold, sold.step(now));
        }
        answers::rows(&rows, now)
    }
}
