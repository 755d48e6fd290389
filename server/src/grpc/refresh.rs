//! A caller's wish to hear from a provider now.

use tillwatch_proto::v1 as message;

use super::{Asker, Rooms, Service, convert, error::Failure, validate};
use crate::{account::Unheard, purchase::Purchase};

/// The most times that this process asks by itself, since the account has come to it meanwhile.
const HERE_MAX: usize = 3;

impl Rooms {
    /// Asks a purchase's provider now, and returns once what was said is committed.
    ///
    /// # Errors
    /// See [`Unheard`]; [`Unheard::NotOwned`] if another replica owns the account.
    pub async fn refresh_here(&self, purchase: &Purchase) -> Result<(), Unheard> {
        match &purchase.status.reference {
            Some(_) => self.tracker.refresh(purchase).await,
            None => self.intake.look_up(purchase.id).await,
        }
    }

    /// The same, by whichever replica owns the account.
    async fn refresh(&self, purchase: &Purchase) -> Result<(), Unheard> {
        for _ in 0..HERE_MAX {
            match self.refresh_here(purchase).await {
                Err(Unheard::NotOwned) => {}
                ended => return ended,
            }
            if let Some(ended) = self.tracker.pass_on(purchase).await {
                return ended;
            }
        }
        Err(Unheard::NotOwned)
    }
}

impl Service {
    pub(super) async fn refresh(
        &self,
        asker: &Asker,
        request: message::RefreshStatusRequest,
    ) -> Result<message::RefreshStatusResponse, Failure> {
        let id = validate::purchase_id(&request.purchase_id)?;
        let record = self.record(&asker.caller, id).await?;
        let refreshed = self.rooms.refresh(&record.purchase).await;
        refreshed.map_err(|error| {
            self.spread(Failure::of_refresh(&error, id, self.rooms.clock.moment()))
        })?;
        let record = self.record(&asker.caller, id).await?;
        Ok(message::RefreshStatusResponse {
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
