//! The service: its callers, their requests and the answers. Nothing else uses the service's messages.

mod accounts;
pub mod convert;
mod create_rates;
mod deadline;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
mod identify;
mod lists;
mod purchases;
mod refresh;
mod resolve;
mod stream;
pub mod token;
mod traced;
mod validate;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tillwatch_proto::v1::{
    self as message, create_purchase_request::Order, purchase_service_server::PurchaseService,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::{
    account::{Account, Accounts},
    audit::Audit,
    clock::Clock,
    feed::Feed,
    identity::{Caller, Directory, Scope},
    intake::{CreateError, Intake, NewPurchase, Purpose},
    journal::{Journal, Record},
    limits::Limit,
    provider::{self, Violation},
    purchase::{AccountName, Purchase, PurchaseId, Revision, Timestamp},
    tracker::Tracker,
};
use convert::View;
use create_rates::CreateRates;
use deadline::Deadline;
pub use deadline::{DeadlineLayer, WithDeadline};
use error::{Failure, Reason};
pub use identify::{beyond, ending, identify, stranger};
use lists::Lists;
pub use purchases::ANSWER_BYTES_MAX;
use stream::StreamLimits;
pub use traced::{METHODS, TraceLayer, Traced};

/// The longest request, in bytes; a longer one is answered by the transport.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// The failures that the audit log calls refusals: the caller may not do this, or not so much, or not
/// with this purchase as it is.
const REFUSALS: [Reason; 7] = [
    Reason::ScopeMissing,
    Reason::LimitExceeded,
    Reason::AccountUnknown,
    Reason::ReferenceTaken,
    Reason::IdempotencyKeyReused,
    Reason::NotResolvable,
    Reason::RevisionChanged,
];

/// The rooms that the service speaks for.
#[derive(Debug, Clone)]
pub struct Rooms {
    /// The durable log.
    pub journal: Arc<dyn Journal>,
    /// Committed transitions.
    pub feed: Feed,
    /// Creates.
    pub intake: Intake,
    /// Polls.
    pub tracker: Tracker,
    /// Configured accounts.
    pub accounts: Accounts,
    /// The callers that are known.
    pub callers: Directory,
    /// Time.
    pub clock: Clock,
    /// The audit log.
    pub audit: Audit,
}

/// The bounds of streams.
#[derive(Debug, Clone, Copy)]
pub struct StreamBounds {
    /// Open streams of all callers.
    pub streams: u32,
    /// The age at which a stream is ended, jittered; `None` for never.
    pub stream_age: Option<Duration>,
}

/// The bounds of streams that hold now. Clones are the same.
#[derive(Debug, Clone)]
pub struct CurrentBounds(Arc<Mutex<StreamBounds>>);

impl CurrentBounds {
    /// These bounds, until others are set.
    pub fn new(bounds: StreamBounds) -> Self {
        Self(Arc::new(Mutex::new(bounds)))
    }

    /// The bounds of this moment.
    pub fn get(&self) -> StreamBounds {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other bounds hold for streams that are opened from now on.
    pub fn set(&self, bounds: StreamBounds) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bounds;
    }
}

/// The purchase service.
pub struct Service {
    rooms: Rooms,
    limits: StreamLimits,
    lists: Lists,
    feeds: StreamLimits,
    create_rates: CreateRates,
    bounds: CurrentBounds,
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Service").finish_non_exhaustive()
    }
}

/// The caller of a request, and how long it waits.
struct Asker {
    caller: Caller,
    /// The time by which the caller has to be answered.
    deadline: Option<Instant>,
}

impl Service {
    /// A service over these rooms.
    pub fn new(rooms: Rooms, bounds: CurrentBounds) -> Self {
        Self {
            rooms,
            limits: StreamLimits::new(),
            lists: Lists::default(),
            feeds: StreamLimits::of_feeds(),
            create_rates: CreateRates::default(),
            bounds,
        }
    }

    /// The caller, if it has one of these scopes, and the time until which it waits.
    fn asker<T>(&self, request: &Request<T>, scopes: &[Scope]) -> Result<Asker, Failure> {
        // A door has identified the caller by its headers already; a server without a door does it here.
        let caller = match request.extensions().get::<Caller>() {
            Some(caller) => caller.clone(),
            None => {
                let headers = request.metadata().as_ref();
                identify(&self.rooms.callers, headers, &[], &self.rooms.clock)?
            }
        };
        if !scopes.iter().any(|scope| caller.may(*scope)) {
            let words: Vec<&str> = scopes.iter().map(|scope| scope.word()).collect();
            let text = format!("the caller lacks the scope `{}`", words.join("` or `"));
            let failure = Failure::new(Reason::ScopeMissing, text);
            self.audited(&caller, &failure);
            return Err(failure);
        }
        let deadline = request.extensions().get::<Deadline>();
        Ok(Asker {
            caller,
            deadline: deadline.map(|deadline| deadline.0),
        })
    }

    /// Tells the audit log of a refusal, if this failure is one.
    fn audited(&self, caller: &Caller, failure: &Failure) {
        if REFUSALS.contains(&failure.reason()) {
            let (word, _) = failure.reason().row();
            self.rooms.audit.refused(Some(caller.name()), word);
        }
    }

    /// A call's result within its deadline.
    async fn within<T>(
        &self,
        asker: &Asker,
        deadline: Option<Instant>,
        result: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Response<T>, Status> {
        let result = match deadline {
            None => result.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, result).await {
                Ok(result) => result,
                Err(_) => Err(Failure::deadline()),
            },
        };
        let result = result.inspect_err(|failure| self.audited(&asker.caller, failure));
        result.map(Response::new).map_err(Status::from)
    }

    /// Spreads the waits of the callers that a drain sends away, so that they come back one by one.
    fn spread(&self, failure: Failure) -> Failure {
        match failure.reason() {
            Reason::Draining => failure.after(stream::return_spread(&self.rooms.clock)),
            _ => failure,
        }
    }

    fn view(&self, caller: &Caller) -> View {
        let shows_caller = caller.may(Scope::Operate);
        View {
            shows_caller,
            shows_actions: true,
            now: self.rooms.clock.now(),
        }
    }

    /// True if a caller sees a purchase: its own, and as an operator those of the accounts that it
    /// may use.
    fn sees(caller: &Caller, purchase: &Purchase) -> bool {
        purchase.caller == *caller.name()
            || (caller.may(Scope::Operate) && caller.may_use(&purchase.account))
    }

    /// The record of a purchase that the caller sees.
    async fn record(&self, caller: &Caller, id: PurchaseId) -> Result<Record, Failure> {
        let record = self
            .rooms
            .journal
            .record(id)
            .await?
            .ok_or_else(Failure::not_found)?;
        if !Self::sees(caller, &record.purchase) {
            return Err(Failure::not_found());
        }
        traced::about(&record.purchase);
        Ok(record)
    }

    /// The account that a request names, or the only one of the order's provider.
    fn account(
        &self,
        caller: &Caller,
        name: &str,
        provider: &str,
    ) -> Result<Arc<Account>, Failure> {
        let accounts = self.rooms.accounts.all();
        let usable = || {
            let accounts = accounts.values();
            accounts.filter(|account| caller.may_use(&account.name))
        };
        if !name.is_empty() {
            let account = usable().find(|account| account.name == AccountName::new(name));
            let account = account.ok_or_else(|| {
                Failure::new(Reason::AccountUnknown, "no such account for this caller")
            })?;
            if account.provider().row().name != provider {
                let rule = format!("must be an account of {provider}, as the order is");
                return Err(Failure::invalid_field("account", rule));
            }
            return Ok(Arc::clone(account));
        }
        let mut of_provider = usable().filter(|account| account.provider().row().name == provider);
        match (of_provider.next(), of_provider.next()) {
            (Some(account), None) => Ok(Arc::clone(account)),
            (None, _) => {
                let text = format!("no account of {provider} is configured for this caller");
                Err(Failure::new(Reason::AccountUnknown, text))
            }
            (Some(_), Some(_)) => {
                let rule = format!("must be named: {provider} has several accounts");
                Err(Failure::invalid_field("account", rule))
            }
        }
    }

    /// The account that a known key was created with, for a repeat that names none: another account of
    /// the provider may have been configured since.
    async fn account_of_key(
        &self,
        asker: &Asker,
        request: &message::CreatePurchaseRequest,
        provider: &str,
    ) -> Result<Option<Arc<Account>>, Failure> {
        if !request.account.is_empty() {
            return Ok(None);
        }
        let journal = &self.rooms.journal;
        let known = journal.record_by_key(asker.caller.name(), &request.idempotency_key);
        let Some(known) = known.await? else {
            return Ok(None);
        };
        let account = self.rooms.accounts.get(&known.purchase.account);
        let account = account.filter(|account| {
            asker.caller.may_use(&account.name) && account.provider().row().name == provider
        });
        Ok(account)
    }

    /// A request to create, checked as far as it can be without asking anybody. The rules that its
    /// order breaks come with it: a repeat of a known key is not refused for them.
    async fn new_purchase(
        &self,
        asker: &Asker,
        mut request: message::CreatePurchaseRequest,
    ) -> Result<(NewPurchase, Vec<Violation>), Failure> {
        let mut violations = Vec::new();
        violations.extend(validate::key(&request.idempotency_key).err());
        let labels = validate::labels("labels", &request.labels).unwrap_or_else(|violation| {
            violations.push(violation);
            Default::default()
        });
        let named = request.order.as_ref().and_then(provider::of_order);
        if named.is_none() {
            violations.push(match request.order {
                Some(_) => Violation::new("existing", "must be a reference of one provider"),
                None => Violation::new("order", "must be exactly one kind of order"),
            });
        }
        let (Some(order), Some(name)) = (request.order.take(), named) else {
            return Err(Failure::invalid(violations));
        };
        if !violations.is_empty() {
            return Err(Failure::invalid(violations));
        }
        let account = match self.account(&asker.caller, &request.account, name) {
            Err(_) if let Some(known) = self.account_of_key(asker, &request, name).await? => known,
            account => account?,
        };
        let now = self.rooms.clock.now();
        let settings = account.settings();
        let asked = settings.provider.as_ref();
        let (purpose, broken) = match &order {
            Order::Existing(reference) => {
                let broken = provider::reference(asked, "existing", reference).err();
                (
                    Purpose::Adopt(reference.clone()),
                    broken.unwrap_or_default(),
                )
            }
            order => {
                let placed = provider::order(asked, order);
                let placed = placed.map_err(|violation| Failure::invalid(vec![violation]))?;
                let broken = provider::violations(asked, placed.as_ref(), now);
                (Purpose::Place(placed), broken)
            }
        };
        violations.extend(broken);
        let left = asker
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let new = NewPurchase {
            caller: asker.caller.name().clone(),
            key: request.idempotency_key,
            account,
            settings,
            labels,
            order: Arc::new(order),
            purpose,
            deadline: left.map(|left| self.rooms.clock.moment().plus(left)),
            open_purchases: asker.caller.limits().open_purchases,
        };
        Ok((new, violations))
    }

    async fn create(
        &self,
        asker: &Asker,
        request: message::CreatePurchaseRequest,
    ) -> Result<message::CreatePurchaseResponse, Failure> {
        self.create_rates.take(&asker.caller)?;
        let (new, mut violations) = self.new_purchase(asker, request).await?;
        violations.extend(validate::new_key(&new.key).err());
        if !violations.is_empty() {
            // The rules of a provider or of this service change with time; the purchase of a known key
            // does not.
            let known = self
                .rooms
                .journal
                .record_by_key(&new.caller, &new.key)
                .await?;
            if known.is_none() {
                return Err(Failure::invalid(violations));
            }
        }
        let created = self.rooms.intake.create(new).await;
        if let Err(CreateError::TooManyOpen { .. }) = created {
            Limit::OpenPurchasesPerCaller.met();
        }
        let now = self.rooms.clock.moment();
        let created = created.map_err(|error| self.spread(Failure::of_create(error, now)))?;
        traced::about(&created.purchase);
        Ok(message::CreatePurchaseResponse {
            purchase: Some(convert::purchase(
                &created.purchase,
                self.view(&asker.caller),
            )),
            replayed: created.replayed,
        })
    }

    async fn status(
        &self,
        asker: &Asker,
        request: message::GetStatusRequest,
    ) -> Result<message::GetStatusResponse, Failure> {
        use message::get_status_request::Key;
        let max_wait = validate::max_wait(request.max_wait.as_ref())
            .map_err(|violation| Failure::invalid(vec![violation]))?;
        let id = match request.key {
            None => return Err(Failure::invalid_field("key", "must have one of its fields")),
            Some(Key::PurchaseId(id)) => validate::purchase_id(&id)?,
            Some(Key::IdempotencyKey(key)) => {
                validate::key(&key).map_err(|violation| Failure::invalid(vec![violation]))?;
                let known = self
                    .rooms
                    .journal
                    .record_by_key(asker.caller.name(), &key)
                    .await?;
                known.ok_or_else(Failure::not_found)?.purchase.id
            }
        };
        let mut record = self.record(&asker.caller, id).await?;
        if let Some(after) = request.after_revision
            && record.purchase.status.revision <= Revision(after)
            && !max_wait.is_zero()
        {
            let until = Instant::now() + max_wait;
            // A call that waits costs as much as a stream.
            let _permit = self.stream_of(&asker.caller)?;
            let feed = &self.rooms.feed;
            if !feed.wait_past(id, Revision(after), until).await?
                && let Some(end) = feed.ending()
            {
                let spread = stream::return_spread(&self.rooms.clock);
                return Err(Failure::of_end(end, spread));
            }
            record = self.record(&asker.caller, id).await?;
        }
        Ok(message::GetStatusResponse {
            purchase: Some(convert::purchase(
                &record.purchase,
                self.view(&asker.caller),
            )),
            freshness: Some(convert::freshness(
                self.rooms.tracker.freshness(&record.purchase),
            )),
        })
    }
}

#[tonic::async_trait]
impl PurchaseService for Service {
    type WatchStatusStream = stream::Responses<message::WatchStatusResponse>;
    type WatchPurchasesStream = stream::Responses<message::WatchPurchasesResponse>;

    async fn create_purchase(
        &self,
        request: Request<message::CreatePurchaseRequest>,
    ) -> Result<Response<message::CreatePurchaseResponse>, Status> {
        let is_adoption = matches!(request.get_ref().order, Some(Order::Existing(_)));
        let scope = if is_adoption {
            Scope::Adopt
        } else {
            Scope::Create
        };
        let asker = self.asker(&request, &[scope])?;
        // The intake keeps the deadline itself, so that an attempt under way goes on.
        let created = self.create(&asker, request.into_inner());
        self.within(&asker, None, created).await
    }

    async fn get_status(
        &self,
        request: Request<message::GetStatusRequest>,
    ) -> Result<Response<message::GetStatusResponse>, Status> {
        let asker = self.asker(&request, &[Scope::Read, Scope::Operate])?;
        let result = self.status(&asker, request.into_inner());
        self.within(&asker, asker.deadline, result).await
    }

    async fn watch_status(
        &self,
        request: Request<message::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let asker = self.asker(&request, &[Scope::Read, Scope::Operate])?;
        let opened = self.watch(&asker, request.into_inner());
        let opened = self.within(&asker, asker.deadline, opened).await?;
        Ok(opened.into_inner().response())
    }

    async fn watch_purchases(
        &self,
        request: Request<message::WatchPurchasesRequest>,
    ) -> Result<Response<Self::WatchPurchasesStream>, Status> {
        let asker = self.asker(&request, &[Scope::Read, Scope::Operate])?;
        let opened = self.watch_all(&asker, request.into_inner());
        let opened = self.within(&asker, asker.deadline, opened).await?;
        Ok(opened.into_inner().response())
    }

    async fn list_purchases(
        &self,
        request: Request<message::ListPurchasesRequest>,
    ) -> Result<Response<message::ListPurchasesResponse>, Status> {
        let asker = self.asker(&request, &[Scope::Read, Scope::Operate])?;
        let result = self.list(&asker, request.into_inner());
        self.within(&asker, asker.deadline, result).await
    }

    async fn refresh_status(
        &self,
        request: Request<message::RefreshStatusRequest>,
    ) -> Result<Response<message::RefreshStatusResponse>, Status> {
        let asker = self.asker(&request, &[Scope::Read])?;
        let result = self.refresh(&asker, request.into_inner());
        self.within(&asker, asker.deadline, result).await
    }

    async fn resolve_purchase(
        &self,
        request: Request<message::ResolvePurchaseRequest>,
    ) -> Result<Response<message::ResolvePurchaseResponse>, Status> {
        let asker = self.asker(&request, &[Scope::Operate])?;
        let result = self.resolve(&asker, request.into_inner());
        self.within(&asker, asker.deadline, result).await
    }

    async fn list_accounts(
        &self,
        request: Request<message::ListAccountsRequest>,
    ) -> Result<Response<message::ListAccountsResponse>, Status> {
        let asker = self.asker(&request, &[Scope::Read, Scope::Operate])?;
        let accounts = self.rooms.accounts.all();
        let usable = (accounts.values()).filter(|account| asker.caller.may_use(&account.name));
        let accounts = usable
            .map(|account| self.account_message(account))
            .collect();
        Ok(Response::new(message::ListAccountsResponse { accounts }))
    }
}

/// The time up to which the journal is known to a reader.
fn as_of(feed: &Feed) -> Timestamp {
    feed.as_of()
}
