//! Creates a purchase, and repeats the call if that is safe: with the same request, key included.

use std::time::Duration;

use tillwatch_proto::v1::{CreatePurchaseRequest, CreatePurchaseResponse};
use tokio::time::{Instant, sleep};

use crate::{
    backoff::{Backoff, DEFECTS_MAX},
    calls::{Calls, bounded},
    error::Error,
};

/// The longest time for one attempt. It is above the service's own limit for a provider's answer,
/// so that the client gives up no attempt but one whose connection is dead.
const ATTEMPT: Duration = Duration::from_secs(25);

pub(crate) async fn create(
    calls: &Calls,
    request: CreatePurchaseRequest,
    within: Duration,
    mut on_retry: impl FnMut(&Error, Duration),
) -> Result<CreatePurchaseResponse, Error> {
    let begun = Instant::now();
    let mut backoff = Backoff::default();
    let mut defects = 0;
    loop {
        let left = within.saturating_sub(begun.elapsed());
        let attempt = bounded(left.min(ATTEMPT), request.clone(), |request| {
            let mut purchases = calls.purchases();
            async move { purchases.create_purchase(request).await }
        });
        let error = match attempt.await {
            Ok(created) => return Ok(created),
            Err(error) => error,
        };
        defects += u32::from(error.is_defect());
        let is_repeated = match error.is_defect() {
            true => defects <= DEFECTS_MAX,
            false => error.is_transient(),
        };
        if !is_repeated {
            return Err(error);
        }
        let wait = backoff.next(error.retry_after());
        if begun.elapsed().saturating_add(wait) >= within {
            return Err(error);
        }
        on_retry(&error, wait);
        sleep(wait).await;
    }
}
