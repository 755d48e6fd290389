//! The pages of a list.

use tillwatch_proto::v1::{ListPurchasesRequest, ListPurchasesResponse, PurchaseFilter};

use crate::{
    client::{Client, bounded},
    error::Error,
};

/// The pages of a list, newest purchases first, fetched one at a time as they are asked for.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    request: ListPurchasesRequest,
    done: bool,
}

impl Pages {
    pub(crate) const fn new(client: Client, filter: PurchaseFilter, page_size: i32) -> Self {
        Self {
            client,
            request: ListPurchasesRequest {
                filter: Some(filter),
                page_size,
                page_token: String::new(),
            },
            done: false,
        }
    }

    /// The next page; `None` after the last. After an error, the same page is asked for again.
    ///
    /// # Errors
    /// As the service answers; see [`Error`].
    pub async fn next(&mut self) -> Result<Option<ListPurchasesResponse>, Error> {
        if self.done {
            return Ok(None);
        }
        let limit = self.client.call_timeout();
        let page = bounded(limit, self.request.clone(), |request| {
            let mut purchases = self.client.purchases();
            async move { purchases.list_purchases(request).await }
        });
        let page = page.await?;
        self.done = page.next_page_token.is_empty();
        self.request.page_token.clone_from(&page.next_page_token);
        Ok(Some(page))
    }
}
