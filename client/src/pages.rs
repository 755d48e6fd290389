//! The pages of a list.

use tillwatch_proto::v1::{ListPurchasesRequest, ListPurchasesResponse, PurchaseFilter};

use crate::{
    calls::{Calls, bounded},
    error::Error,
};

/// The pages of a list, newest purchases first, fetched one at a time as they are asked for.
#[derive(Debug)]
pub struct Pages {
    calls: Calls,
    request: ListPurchasesRequest,
    done: bool,
}

impl Pages {
    pub(crate) fn new(calls: Calls, filter: PurchaseFilter, page_size: i32) -> Self {
        Self {
            calls,
            request: ListPurchasesRequest {
                filter: Some(filter),
                page_size,
                page_token: String::new(),
            },
            done: false,
        }
    }

    /// The next page; `None` after the last. After an error, the next call asks for the same page.
    ///
    /// # Errors
    /// As the service answers; see [`Error`].
    pub async fn next(&mut self) -> Result<Option<ListPurchasesResponse>, Error> {
        if self.done {
            return Ok(None);
        }
        let limit = self.calls.timeout;
        let page = bounded(limit, self.request.clone(), |request| {
            let mut purchases = self.calls.purchases();
            async move { purchases.list_purchases(request).await }
        });
        let page = page.await?;
        self.done = page.next_page_token.is_empty();
        self.request.page_token.clone_from(&page.next_page_token);
        Ok(Some(page))
    }
}
