//! Five providers that live beside the service: the sandbox's, without its sockets and by the run's
//! clock. Here is everything that goes wrong with them, lies included; all of it is kept for the
//! checker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::SignedDuration;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tillwatch_sandbox::{
    Answer, Call, Engine, Lie, Options, Recipe, Sample, Simulated, TimeLine, Wall, simulated,
};
use tillwatch_server::{
    clock::Clock,
    journal::{Journal as _, ReplicaId, memory::MemoryJournal},
    purchase::{CallerName, Finality, Timestamp},
    upstream::{Request, Response, UpstreamError, scripted::json_response},
};

use crate::{
    fences::Fences,
    ledger::{Given, Ledger, Meaning, Sent, Sold},
    store::Life,
    words,
};

/// A reference that nobody sells.
const FOREIGN: &str = "5a1e0000-0000-4000-8000-0000ffffffff";

/// The providers' side of the world.
pub struct Providers {
    ledger: Mutex<Ledger>,
    random: Mutex<StdRng>,
    /// Once set, no provider lies, fails or loses anything any more.
    is_calm: AtomicBool,
    clock: Clock,
    /// To see whether an intent is durable when its create arrives.
    journal: Arc<MemoryJournal>,
    /// The providers.
    engine: Arc<Engine>,
    /// The same providers, if they had sold nothing.
    forgetful: Engine,
    /// True for each list whose last page was full.
    full: Mutex<BTreeMap<String, bool>>,
}

/// The process that sends a request.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Its life.
    pub life: Life,
    /// The judge of its polls, if other processes share its store.
    pub fences: Option<(Fences, ReplicaId)>,
}

/// The trouble of one request.
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

const READ_FAULTS: &[(u32, Fault)] = &[
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
    /// Providers with nothing sold yet. Runs inside a runtime.
    pub fn new(seed: u64, clock: Clock, journal: Arc<MemoryJournal>) -> Arc<Self> {
        let engine = || {
            let clock = clock.clone();
            let now = move || {
                let now_ms = clock.now().as_millis();
                jiff::Timestamp::from_millisecond(now_ms).unwrap()
            };
            let options = Options {
                seed,
                ..Options::default()
            };
            Engine::new(options, Wall::new(now))
        };
        let (forgetful, engine) = (engine(), Arc::new(engine()));
        tokio::spawn(Arc::clone(&engine).drive());
        Arc::new(Self {
            ledger: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            is_calm: AtomicBool::new(false),
            clock,
            journal,
            engine,
            forgetful,
            full: Mutex::default(),
        })
    }

    /// Their memory.
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

    /// Answers one request of a living process. A process that is stopped sends nothing: what its tasks
    /// begin meanwhile is dropped, since they would not have run.
    ///
    /// # Errors
    /// No connection was made, or the answer was lost.
    pub async fn answer(
        self: Arc<Self>,
        provider: &'static str,
        request: Request,
        sender: Sender,
    ) -> Result<Response, UpstreamError> {
        let life = &sender.life;
        if life.is_stopped() {
            life.go_on().await;
            return Err(UpstreamError::NotConnected("stopped"));
        }
        life.go_on().await;
        let provider = simulated(provider).unwrap();
        let call = call(request);
        let is_create = provider.is_create(&call.method, &call.path);
        if let Some((fences, replica)) = sender.fences.as_ref().filter(|_| !is_create) {
            fences.polls(replica, provider.name);
        }
        let fault = self.draw(if is_create {
            CREATE_FAULTS
        } else {
            READ_FAULTS
        });
        self.count(provider.name, &sender);
        if fault == Fault::NotConnected {
            return Err(UpstreamError::NotConnected("refused"));
        }
        if is_create {
            // When it goes: while it travels its sender may die, and the next process may give the
            // attempt up.
            self.check_intent(&mark(provider, &call)).await;
        }
        self.travel().await;
        // A request that is under way when its sender dies arrives all the same.
        let answer = if is_create {
            self.create(provider, call, fault).await
        } else {
            self.read(provider, call, fault).await
        };
        life.go_on().await;
        answer
    }

    /// Notes the time of a request.
    fn count(&self, provider: &'static str, sender: &Sender) {
        let now = self.clock.now();
        let mut ledger = self.ledger();
        ledger.requests.entry(provider).or_default().push(now);
        if let Some((_, replica)) = &sender.fences {
            let of = (provider, replica.clone());
            ledger.requests_of.entry(of).or_default().push(now);
        }
    }

    async fn create(
        &self,
        provider: &'static Simulated,
        mut call: Call,
        fault: Fault,
    ) -> Result<Response, UpstreamError> {
        let sample = (provider.sample)(&Recipe::at(jiff::Timestamp::UNIX_EPOCH));
        let mark = &mark(provider, &call);
        let key = call.headers.get("idempotency-key");
        let mut sent = Sent {
            provider: provider.name,
            mark: mark.to_owned(),
            key: key.map_or("", |key| key.to_str().unwrap()).to_owned(),
            at: self.clock.now(),
            turned_away: matches!(fault, Fault::Throttled | Fault::Unauthorized),
            refused: false,
        };
        let is_known = self.ledger().of_mark(provider.name, mark).is_some();
        let before = self.before(provider, &sample, fault, is_known);
        sent.refused = before.is_refusal;
        if let Some(result) = before.result {
            self.ledger().sent.push(sent);
            return result;
        }
        let life = self.life(provider.name);
        call.life = Some(life.clone());
        let mut answer = provider.answer(&self.engine, &call).await;
        // By its own rules, such as a time to pay that is over when the create arrives.
        sent.refused = matches!(answer.status.as_u16(), 400 | 404 | 412);
        self.ledger().sent.push(sent);
        if let Some(reference) = &answer.created {
            self.sell(provider.name, reference, mark, life);
        }
        if fault == Fault::Unnamed {
            let reference = answer.told.first().map(|told| Arc::clone(&told.reference));
            forget(&mut answer.body, reference.as_deref().unwrap_or(FOREIGN));
            return Ok(response(answer));
        }
        self.note(provider.name, &answer, false);
        match fault {
            Fault::LostAfter => Err(UpstreamError::Lost("cut")),
            Fault::Silence => std::future::pending().await,
            Fault::ServerError => Ok(json_response(502, &json!({"message": "oops"}))),
            Fault::Garbage => Ok(garbage(self.number(3))),
            _no_trouble_afterwards => Ok(response(answer)),
        }
    }

    /// The end of a create that comes before the provider looks at it.
    fn before(
        &self,
        provider: &Simulated,
        sample: &Sample,
        fault: Fault,
        is_known: bool,
    ) -> Before {
        // A key that is known gives the answer that it gave.
        let repeats = provider.name == "devdraft" && is_known;
        let mut is_refusal = false;
        let result = match fault {
            Fault::Throttled => Some(Ok(throttled(provider))),
            Fault::Unauthorized => Some(Ok(unauthorized(provider))),
            Fault::LostBefore => Some(Err(UpstreamError::Lost("cut"))),
            Fault::Refused if !repeats => {
                is_refusal = true;
                let (status, body) = &sample.refused;
                Some(Ok(json_response(*status, body)))
            }
            Fault::ServerError if self.number(2) == 0 => {
                Some(Ok(json_response(500, &json!({"message": "oops"}))))
            }
            _no_trouble_before => None,
        };
        Before { result, is_refusal }
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

    /// One of the ways that the provider's purchases can go, at its own pace.
    fn life(&self, provider: &str) -> TimeLine {
        let walks = words::walks(provider);
        let place = self.number(walks.len() as u64) as usize;
        let mut after = Duration::ZERO;
        let step = |word: &&str| {
            let step = (after, (*word).to_owned());
            let quick = self.number(3) == 0;
            let wait = self.number(if quick { 4 } else { 500 }) * 1_000 + self.number(1_000);
            after += Duration::from_millis(wait + 1);
            step
        };
        walks[place].iter().map(step).collect()
    }

    fn sell(&self, provider: &'static str, reference: &str, mark: &str, life: TimeLine) {
        let now = self.clock.now();
        let walk = life
            .into_iter()
            .map(|(after, word)| (now.plus(after), word));
        let sold = Sold {
            provider,
            reference: reference.to_owned(),
            mark: mark.to_owned(),
            walk: walk.collect(),
        };
        let place = (provider, reference.to_owned());
        self.ledger().sold.insert(place, sold);
    }

    /// Notes everything that an answer says about purchases.
    fn note(&self, provider: &str, answer: &Answer, is_page: bool) {
        for told in &answer.told {
            let meaning = words::meaning(provider, &told.word);
            let meaning = meaning.map_or(Meaning::Unmapped, |(state, finality)| {
                Meaning::Definite(state, finality)
            });
            let stamp = Timestamp::from_millis(told.changed.as_millisecond()).ok();
            self.give(&told.reference, meaning, stamp, is_page);
        }
    }

    fn give(&self, reference: &str, meaning: Meaning, stamp: Option<Timestamp>, is_row: bool) {
        let given = Given {
            reference: reference.to_owned(),
            at: self.clock.now(),
            meaning,
            stamp,
            is_row,
        };
        self.ledger().given.push(given);
    }

    async fn read(
        &self,
        provider: &'static Simulated,
        mut call: Call,
        fault: Fault,
    ) -> Result<Response, UpstreamError> {
        match fault {
            Fault::Throttled => return Ok(throttled(provider)),
            Fault::Unauthorized => return Ok(unauthorized(provider)),
            Fault::ServerError => return Ok(json_response(503, &json!({}))),
            Fault::Garbage => return Ok(garbage(self.number(3))),
            Fault::LostAfter => return Err(UpstreamError::Lost("cut")),
            Fault::Silence => std::future::pending().await,
            _answered => {}
        }
        let list = list(&call);
        let asked_for = self.asked_for(provider.name, &call);
        call.lie = self.lie(fault, asked_for.as_ref());
        // The short answer of Phygitals names no session, so it says nothing of another.
        if provider.name == "phygitals" && matches!(call.lie, Some(Lie::Other(_))) {
            return Ok(garbage(0));
        }
        let engine = match fault {
            Fault::NotFound => &self.forgetful,
            _found => &*self.engine,
        };
        let answer = provider.answer(engine, &call).await;
        if let Some(Lie::Other(_)) = call.lie {
            for told in &answer.told {
                self.give(&told.reference, Meaning::Nothing, None, false);
            }
        } else {
            self.note(provider.name, &answer, list.is_some());
        }
        if let Some((list, most)) = list {
            self.note_page(provider.name, list, most, answer.told.len() as u64);
        }
        Ok(response(answer))
    }

    fn note_page(&self, provider: &'static str, list: String, most: u64, rows: u64) {
        let goes_on = (self.full.lock().unwrap())
            .insert(list, rows >= most)
            .unwrap_or(false);
        let mut ledger = self.ledger();
        let pages = ledger.pages.entry(provider).or_default();
        pages.sweeps += u64::from(!goes_on);
        pages.pages += 1;
        pages.rows += rows;
    }

    /// The purchase that a read names.
    fn asked_for(&self, provider: &str, call: &Call) -> Option<Sold> {
        let body = String::from_utf8_lossy(&call.body);
        let names = |text: &str| {
            call.path.contains(text)
                || body.contains(text)
                || call.query.iter().any(|(_, value)| value == text)
        };
        let ledger = self.ledger();
        let mut sold = (ledger.sold.values()).filter(|sold| sold.provider == provider);
        sold.find(|sold| names(&sold.reference)).cloned()
    }

    /// The lie of an answer about a purchase, or of a whole page.
    fn lie(&self, fault: Fault, asked_for: Option<&Sold>) -> Option<Lie> {
        let now = self.clock.now();
        match (fault, asked_for) {
            (Fault::Older, _) => {
                let words = asked_for.map_or(3, |sold| sold.step(now) as u64 + 1);
                Some(Lie::Earlier(self.number(words) as usize + 1))
            }
            (Fault::WrongStamp, _) => {
                // By a clock that is ahead or behind, by seconds or by a time zone.
                let most = if self.number(2) == 0 { 10 } else { 7_200 };
                let off = self.number(most) as i64;
                let off = if self.number(2) == 0 { off } else { -off };
                Some(Lie::Stamp(SignedDuration::from_secs(off)))
            }
            (Fault::Contradiction, Some(sold)) => {
                // A word on chain, or of a transaction, would be evidence that funds moved, and forbid
                // an end by deadline.
                let is_off_chain = sold.word(now).starts_with("null/");
                let is_harmless =
                    |word: &str| word.starts_with("null/") && word != "null/FundsLockingInitiated";
                let rows: Vec<_> = (words::rows(sold.provider).iter())
                    .filter(|(other, ..)| !is_off_chain || is_harmless(other))
                    .collect();
                let (word, _, finality) = rows[self.number(rows.len() as u64) as usize];
                // An end that nothing follows would leave nothing to see; once in a while is enough.
                let is_told = *finality != Finality::Final || self.number(8) == 0;
                is_told.then(|| Lie::Word((*word).to_owned()))
            }
            (Fault::Unknown, Some(sold)) => {
                // A word off chain for a purchase off chain, as above.
                let unknown = match sold.word(now).starts_with("null/") {
                    true => "null/reticulating",
                    false => "reticulating",
                };
                Some(Lie::Word(unknown.to_owned()))
            }
            (Fault::Foreign, Some(_)) => Some(Lie::Other(FOREIGN.to_owned())),
            _truth => None,
        }
    }
}

/// The end of a create that comes before the provider looks at it, if there is one.
struct Before {
    result: Option<Result<Response, UpstreamError>>,
    is_refusal: bool,
}

/// The mark of the order that a create sends.
fn mark(provider: &Simulated, call: &Call) -> String {
    let sample = (provider.sample)(&Recipe::at(jiff::Timestamp::UNIX_EPOCH));
    let order: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let mark = order[sample.mark_field].as_str();
    mark.unwrap_or_default().to_owned()
}

/// A request as the sandbox takes it.
fn call(request: Request) -> Call {
    let mut call = Call::new(request.method, format!("/{}", request.path.join("/")));
    call.query = request.query;
    call.headers = request.headers;
    call.body = request.body.unwrap_or_default();
    call
}

/// The list that a request reads a page of, and the most rows on a page.
fn list(call: &Call) -> Option<(String, u64)> {
    let parameter = |name: &str| {
        let mut query = call.query.iter();
        query.find(|(own, _)| own == name).map(|(_, value)| value)
    };
    let is_search = call.path.ends_with("/search") && {
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        body["searchText"].as_str().is_none_or(str::is_empty)
    };
    if !is_search && !call.path.contains("/diff") {
        return None;
    }
    let kind = parameter("filterPaymentSourceType").map_or("", String::as_str);
    let most = parameter("limit").and_then(|limit| limit.parse().ok());
    Some((format!("{} {kind}", call.path), most.unwrap_or(u64::MAX)))
}

fn response(answer: Answer) -> Response {
    let mut headers: HeaderMap = answer.headers.into_iter().collect::<HeaderMap>();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    Response {
        status: answer.status.as_u16(),
        headers,
        body: Bytes::from(answer.body.to_string()),
    }
}

fn throttled(provider: &Simulated) -> Response {
    response(provider.error(StatusCode::TOO_MANY_REQUESTS, Some(3)))
}

fn unauthorized(provider: &Simulated) -> Response {
    response(provider.error(StatusCode::UNAUTHORIZED, None))
}

/// An answer that is none of the provider's.
fn garbage(kind: u64) -> Response {
    let text = match kind {
        0 => "<html>welcome</html>",
        1 => "{\"data\": {\"sta",
        _ => "[]",
    };
    Response {
        status: 200,
        headers: HeaderMap::new(),
        body: Bytes::from_static(text.as_bytes()),
    }
}

/// Takes every mention of a purchase out of an answer.
fn forget(body: &mut Value, reference: &str) {
    match body {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.as_str().is_some_and(|text| text.contains(reference)));
            fields
                .values_mut()
                .for_each(|value| forget(value, reference));
        }
        Value::Array(rows) => rows.iter_mut().for_each(|row| forget(row, reference)),
        _ => {}
    }
}
