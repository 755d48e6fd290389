//! `purchase/diff`: the changes, by list. One list per network and payment source type.
//!
//! Its stamps are the start of the writing transaction, up to 30 s before its commit, in the
//! database's timezone (recorded), so places follow the stamps seen, never this service's clock.

use std::time::Duration;

use ::http::{HeaderName, Method};
use serde_json::Value;

use super::{IDENTIFIER, Masumi, NETWORK, answer};
use crate::{
    observation::Trouble,
    provider::{
        error_answer,
        sweep::{Bounds, Coverage, Cursor, Page, Row, Sweep, Wanted},
        wire,
    },
    purchase::{Reference, Timestamp},
    upstream::{Request, Response},
};

/// The payment source types of the provider's schema. A request that names none does not show the
/// second (recorded).
const SOURCE_TYPES: [&str; 2] = ["Web3CardanoV1", "Web3CardanoV2"];
/// Read again from this long before the newest stamp seen, for rows stamped before their commit.
const OVERLAP: Duration = Duration::from_secs(60);
/// Ours: stamps can be wrong, so each open purchase is read singly this often as well.
const SINGLY_EVERY: Duration = Duration::from_secs(15 * 60);
/// The stamp that the list is ordered by.
const STAMP: &str = "nextActionOrOnChainStateOrResultLastChangedAt";

impl Sweep for Masumi {
    fn coverage(&self) -> Coverage {
        Coverage::Changes
    }

    fn singly_every(&self) -> Duration {
        SINGLY_EVERY
    }

    fn lists(&self, reference: &Reference) -> Vec<String> {
        let network = reference.part(NETWORK);
        SOURCE_TYPES
            .iter()
            .map(|source_type| format!("{network}/{source_type}"))
            .collect()
    }

    fn start(&self, known: Bounds<'_>) -> Cursor {
        // The first round of all begins with the newest change that answers have shown, by the
        // provider's clock; what changed before it, and unseen, is found by single reads.
        let kept = known.kept.map(|kept| kept.since);
        let since = kept.or(known.newest).unwrap_or(known.now);
        Cursor::start(since.minus(OVERLAP))
    }

    fn request(&self, wanted: Wanted<'_>) -> Request {
        let Wanted { list, place, rows } = wanted;
        let (network, source_type) = list.split_once('/').unwrap_or((list, ""));
        let request = Request::new(Method::GET, ["api", "v1", "purchase", "diff"])
            .header(HeaderName::from_static("token"), self.token.clone())
            .query("network", network)
            .query("filterPaymentSourceType", source_type)
            .query("limit", &rows.to_string())
            .query("lastUpdate", &place.since.to_string());
        if place.after.is_empty() {
            return request;
        }
        request.query("cursorId", &place.after)
    }

    fn read(&self, wanted: Wanted<'_>, answer: &Response, now: Timestamp) -> Result<Page, Trouble> {
        let Wanted { list, place, rows } = wanted;
        if !(200..300).contains(&answer.status) {
            return Err(error_answer::trouble(answer, now));
        }
        let data = answer::data_of(answer)?;
        let purchases = wire::list(&data, "Purchases")
            .ok_or_else(|| Trouble::unreadable("the answer has no data.Purchases"))?;
        let network = list.split_once('/').map_or(list, |(network, _)| network);
        let next = match purchases.last() {
            Some(last) => cursor_of(last)?,
            None => place.clone(),
        };
        if next.since < place.since {
            return Err(Trouble::unreadable("the rows are older than was asked for"));
        }
        let is_last = purchases.len() < rows;
        if !is_last && next == *place {
            return Err(Trouble::unreadable("the cursor does not move"));
        }
        Ok(Page {
            rows: purchases
                .iter()
                .filter_map(|data| row(data, network, now))
                .collect(),
            next,
            is_last,
            pages: None,
        })
    }
}

/// The place of a row in the list's order.
fn cursor_of(data: &Value) -> Result<Cursor, Trouble> {
    let since = wire::time(data, STAMP);
    let id = wire::identifier(data, "id")?;
    match (since, id) {
        (Some(since), Some(after)) => Ok(Cursor { since, after }),
        _ => Err(Trouble::unreadable("a row has no id or no stamp")),
    }
}

fn row(data: &Value, network: &str, now: Timestamp) -> Option<Row> {
    let identifier = wire::identifier(data, "blockchainIdentifier").ok()??;
    let source = data.get("PaymentSource").unwrap_or(&Value::Null);
    let named = wire::text(source, "network");
    let network = named.as_deref().unwrap_or(network);
    let reference = Reference::new([(IDENTIFIER, identifier.as_str()), (NETWORK, network)]);
    let said = answer::listed(data, &reference, now).transpose()?;
    Some(Row {
        reference,
        said: said.map(Box::new),
    })
}
