//! The calls of the contract.

use std::{future::Future, time::Duration};

use tillwatch_proto::{
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client},
    v1::{
        Account, CreatePurchaseRequest, CreatePurchaseResponse, GetStatusRequest,
        GetStatusResponse, ListAccountsRequest, Purchase, PurchaseFilter, RefreshStatusRequest,
        RefreshStatusResponse, ResolvePurchaseRequest, get_status_request,
        purchase_service_client::PurchaseServiceClient,
    },
};
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    config::{Config, SecretToken},
    create,
    error::{Error, Refusal},
    feed::{Feed, FeedOptions},
    gateway::Gateway,
    pages::Pages,
    watch::{Watch, WatchOptions},
};

/// The largest message taken in: a page of 1,000 purchases whose buyer has no action.
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;

pub(crate) type Purchases = PurchaseServiceClient<InterceptedService<Gateway, Bearer>>;

/// A client of the purchase service. Cheap to clone; clones share a connection.
///
/// One connection carries about a thousand streams; beyond that, calls queue behind them. Use a
/// client per thousand watched purchases, or one [`Client::watch_purchases`] for all.
#[derive(Debug, Clone)]
pub struct Client {
    channel: InterceptedService<Gateway, Bearer>,
    call_timeout: Duration,
    create_deadline: Duration,
}

/// Names the caller on every call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// Prepares a client; the connection is made by the first call and again whenever it is lost.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Config`] where the settings cannot be used.
    pub fn connect(config: Config) -> Result<Self, Error> {
        let channel = config.channel()?;
        Ok(Self {
            call_timeout: config.call_timeout,
            create_deadline: config.create_deadline,
            ..Self::over(channel, config.token.as_ref())
        })
    }

    /// A client over a channel made elsewhere, with default time limits.
    #[must_use]
    pub fn over(channel: Channel, token: Option<&SecretToken>) -> Self {
        let defaults = Config::new("");
        let bearer = Bearer(token.map(|token| token.header().clone()));
        Self {
            channel: InterceptedService::new(Gateway(channel), bearer),
            call_timeout: defaults.call_timeout,
            create_deadline: defaults.create_deadline,
        }
    }

    pub(crate) fn purchases(&self) -> Purchases {
        Purchases::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) const fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// Creates a purchase, or takes over one that exists, within `create_deadline`.
    ///
    /// Transient errors are repeated with the same request and so with the same key, which buys
    /// once. Dropping the future stops the repeats, not a purchase that is already under way.
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

    /// As [`Client::create`], with a deadline of its own and word of every repeat: why, and after
    /// what wait.
    ///
    /// # Errors
    /// As [`Client::create`].
    pub async fn create_within(
        &self,
        request: CreatePurchaseRequest,
        within: Duration,
        on_retry: impl FnMut(&Error, Duration),
    ) -> Result<CreatePurchaseResponse, Error> {
        create::create(self, request, within, on_retry).await
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
        self.get_status(request, self.call_timeout).await
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
        let limit = self.call_timeout.saturating_add(wait);
        self.get_status(request, limit).await
    }

    async fn get_status(
        &self,
        request: GetStatusRequest,
        limit: Duration,
    ) -> Result<GetStatusResponse, Error> {
        let mut purchases = self.purchases();
        bounded(limit, request, |request| async move {
            purchases.get_status(request).await
        })
        .await
    }

    /// Follows one purchase. Nothing is sent before the stream is polled.
    pub fn watch(&self, purchase_id: impl Into<String>, options: WatchOptions) -> Watch {
        Watch::new(self, purchase_id.into(), options)
    }

    /// Follows all purchases that match a filter. Nothing is sent before the stream is polled.
    #[must_use]
    pub fn watch_purchases(&self, filter: PurchaseFilter, options: FeedOptions) -> Feed {
        Feed::new(self, filter, options)
    }

    /// Lists purchases, newest first, in pages of at most 1,000; 100 where `page_size` is 0.
    #[must_use]
    pub fn list(&self, filter: PurchaseFilter, page_size: i32) -> Pages {
        Pages::new(self.clone(), filter, page_size)
    }

    /// Asks the provider now, and returns the status after its answer.
    ///
    /// # Errors
    /// As the service answers; see [`Error`].
    pub async fn refresh(
        &self,
        purchase_id: impl Into<String>,
    ) -> Result<RefreshStatusResponse, Error> {
        let mut purchases = self.purchases();
        let request = RefreshStatusRequest {
            purchase_id: purchase_id.into(),
        };
        bounded(self.call_timeout, request, |request| async move {
            purchases.refresh_status(request).await
        })
        .await
    }

    /// Settles by hand what cannot be settled otherwise.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the purchase has moved past the expected revision; else as the
    /// service answers.
    pub async fn resolve(&self, request: ResolvePurchaseRequest) -> Result<Purchase, Error> {
        let mut purchases = self.purchases();
        let answer = bounded(self.call_timeout, request, |request| async move {
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
        let mut purchases = self.purchases();
        let answer = bounded(
            self.call_timeout,
            ListAccountsRequest {},
            |request| async move { purchases.list_accounts(request).await },
        );
        Ok(answer.await?.accounts)
    }

    /// Whether the named service should be sent requests; the empty name asks about the server.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that the server does not know; else as it answers.
    pub async fn health(&self, service: impl Into<String>) -> Result<ServingStatus, Error> {
        let mut health = health_client::HealthClient::new(self.channel.clone());
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = bounded(self.call_timeout, request, |request| async move {
            health.check(request).await
        });
        Ok(answer.await?.status())
    }
}

/// Makes one call within a limit that the service is told of.
pub(crate) async fn bounded<M, T, F>(
    limit: Duration,
    message: M,
    call: impl FnOnce(Request<M>) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(limit);
    // The transport's own timer starts only once there is a connection.
    match timeout(limit, call(request)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => {
            let message = format!("no answer within {} ms", limit.as_millis());
            Err(Error::Deadline(Refusal::local(
                Code::DeadlineExceeded,
                message,
            )))
        }
    }
}

/// A span in the contract's form; one too long for it becomes the longest.
pub(crate) fn to_wire(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(i32::MAX),
    }
}
