//! The calls of the contract.

use std::time::Duration;

use tillwatch_proto::{
    health::{HealthCheckRequest, health_check_response::ServingStatus},
    v1::{
        Account, CreatePurchaseRequest, CreatePurchaseResponse, GetStatusRequest,
        GetStatusResponse, ListAccountsRequest, Purchase, PurchaseFilter, RefreshStatusRequest,
        RefreshStatusResponse, ResolvePurchaseRequest, get_status_request,
    },
};
use tonic::{Code, transport::Channel};

use crate::{
    calls::{Calls, bounded, to_wire},
    config::{Config, SecretToken},
    create,
    error::{Error, Refusal},
    feed::{Feed, FeedOptions},
    pages::Pages,
    watch::{Watch, WatchOptions},
};

/// A client of the purchase service. Cheap to clone; clones share a connection.
///
/// One connection carries about a thousand streams; beyond that, calls queue behind them. Use a
/// client per thousand watched purchases, or one [`Client::watch_purchases`] for all.
#[derive(Debug, Clone)]
pub struct Client {
    calls: Calls,
    create_deadline: Duration,
}

impl Client {
    /// Prepares a client. The first call connects, and so does each call after a lost connection.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Config`] if the settings cannot be used.
    pub fn connect(config: Config) -> Result<Self, Error> {
        let channel = config.channel()?;
        Ok(Self {
            calls: Calls::new(channel, config.token.as_ref(), config.call_timeout),
            create_deadline: config.create_deadline,
        })
    }

    /// A client over a channel made elsewhere, with default time limits.
    #[must_use]
    pub fn over(channel: Channel, token: Option<&SecretToken>) -> Self {
        let defaults = Config::new("");
        Self {
            calls: Calls::new(channel, token, defaults.call_timeout),
            create_deadline: defaults.create_deadline,
        }
    }

    /// Creates a purchase, or takes over a purchase that exists, within `create_deadline`.
    ///
    /// After a transient error the client repeats the same request, and so the same key, which buys
    /// once. Dropping the future stops the repeats, but no purchase that is already under way.
    ///
    /// # Errors
    /// The last error once the deadline has passed or would pass during the next wait. After a
    /// transient one the purchase may exist: repeat with the same key, never with another.
    pub async fn create(
        &self,
        request: CreatePurchaseRequest,
    ) -> Result<CreatePurchaseResponse, Error> {
        self.create_within(request, self.create_deadline, |_, _| {})
            .await
    }

    /// Does as [`Client::create`] does, within its own deadline. Before each repeat it tells
    /// `on_retry` the error and the wait.
    ///
    /// # Errors
    /// As [`Client::create`].
    pub async fn create_within(
        &self,
        request: CreatePurchaseRequest,
        within: Duration,
        on_retry: impl FnMut(&Error, Duration),
    ) -> Result<CreatePurchaseResponse, Error> {
        create::create(&self.calls, request, within, on_retry).await
    }

    /// The newest committed status.
    ///
    /// # Errors
    /// As the service answers; see [`Error`].
    pub async fn get(&self, key: get_status_request::Key) -> Result<GetStatusResponse, Error> {
        let request = GetStatusRequest {
            key: Some(key),
            ..GetStatusRequest::default()
        };
        self.get_status(request, self.calls.timeout).await
    }

    /// The newest committed status, once it is newer than `after` or `wait` has passed (60 s at
    /// most).
    ///
    /// # Errors
    /// As the service answers; see [`Error`].
    pub async fn get_after(
        &self,
        key: get_status_request::Key,
        after: u32,
        wait: Duration,
    ) -> Result<GetStatusResponse, Error> {
        let request = GetStatusRequest {
            key: Some(key),
            after_revision: Some(after),
            max_wait: Some(to_wire(wait)),
        };
        let limit = self.calls.timeout.saturating_add(wait);
        self.get_status(request, limit).await
    }

    async fn get_status(
        &self,
        request: GetStatusRequest,
        limit: Duration,
    ) -> Result<GetStatusResponse, Error> {
        let mut purchases = self.calls.purchases();
        bounded(limit, request, |request| async move {
            purchases.get_status(request).await
        })
        .await
    }

    /// Follows one purchase. Nothing is sent before the stream is polled.
    pub fn watch(&self, purchase_id: impl Into<String>, options: WatchOptions) -> Watch {
        Watch::new(&self.calls, purchase_id.into(), options)
    }

    /// Follows all purchases that match a filter. Nothing is sent before the stream is polled.
    #[must_use]
    pub fn watch_purchases(&self, filter: PurchaseFilter, options: FeedOptions) -> Feed {
        Feed::new(&self.calls, filter, options)
    }

    /// Lists purchases, newest first, in pages of at most 1,000; of 100 if `page_size` is 0.
    #[must_use]
    pub fn list(&self, filter: PurchaseFilter, page_size: i32) -> Pages {
        Pages::new(self.calls.clone(), filter, page_size)
    }

    /// Asks the provider now, and returns the status after its answer.
    ///
    /// # Errors
    /// As the service answers; see [`Error`].
    pub async fn refresh(
        &self,
        purchase_id: impl Into<String>,
    ) -> Result<RefreshStatusResponse, Error> {
        let mut purchases = self.calls.purchases();
        let request = RefreshStatusRequest {
            purchase_id: purchase_id.into(),
        };
        bounded(self.calls.timeout, request, |request| async move {
            purchases.refresh_status(request).await
        })
        .await
    }

    /// Settles a purchase by hand if nothing else can.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the purchase has moved past the expected revision; else as the
    /// service answers.
    pub async fn resolve(&self, request: ResolvePurchaseRequest) -> Result<Purchase, Error> {
        let mut purchases = self.calls.purchases();
        let answer = bounded(self.calls.timeout, request, |request| async move {
            purchases.resolve_purchase(request).await
        });
        let without = || Error::Server(Refusal::local(Code::Internal, "no purchase in the answer"));
        answer.await?.purchase.ok_or_else(without)
    }

    /// The configured accounts that the caller may use.
    ///
    /// # Errors
    /// As the service answers; see [`Error`].
    pub async fn accounts(&self) -> Result<Vec<Account>, Error> {
        let mut purchases = self.calls.purchases();
        let answer = bounded(
            self.calls.timeout,
            ListAccountsRequest {},
            |request| async move { purchases.list_accounts(request).await },
        );
        Ok(answer.await?.accounts)
    }

    /// Asks if the named service wants requests. The empty name asks about the server.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that the server does not know; else as it answers.
    pub async fn health(&self, service: impl Into<String>) -> Result<ServingStatus, Error> {
        let mut health = self.calls.health();
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = bounded(self.calls.timeout, request, |request| async move {
            health.check(request).await
        });
        Ok(answer.await?.status())
    }
}
