//! The ground under every call: the channel, the caller's name on it, and the time a call may take.

use std::{future::Future, time::Duration};

use tillwatch_proto::{
    health::health_client::HealthClient, v1::purchase_service_client::PurchaseServiceClient,
};
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    config::SecretToken,
    error::{Error, Refusal},
    gateway::Gateway,
};

/// The largest message taken in: a page of 1,000 purchases whose buyer has no action.
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;

type Line = InterceptedService<Gateway, Bearer>;

/// The stub of the purchase service.
pub(crate) type Purchases = PurchaseServiceClient<Line>;

/// Makes calls for one caller. Cheap to clone; clones share a connection.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    line: Line,
    /// The longest that a call may take, unless it has a limit of its own.
    pub(crate) timeout: Duration,
}

/// Adds the caller's token to every call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Calls {
    /// Calls over a channel.
    pub(crate) fn new(channel: Channel, token: Option<&SecretToken>, timeout: Duration) -> Self {
        let bearer = Bearer(token.map(|token| token.header().clone()));
        let line = InterceptedService::new(Gateway(channel), bearer);
        Self { line, timeout }
    }

    /// The purchase service.
    pub(crate) fn purchases(&self) -> Purchases {
        Purchases::new(self.line.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// The health service.
    pub(crate) fn health(&self) -> HealthClient<Line> {
        HealthClient::new(self.line.clone())
    }
}

/// Makes one call within a limit, and tells the service this limit.
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
            let refusal = Refusal::local(Code::DeadlineExceeded, message);
            Err(Error::Deadline(refusal))
        }
    }
}

/// A span in the contract's form. If it is too long for that, it becomes the longest one.
pub(crate) fn to_wire(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(i32::MAX),
    }
}
