//! `merchant/purchase/search`: all purchases created since a time, page by page.
//!
//! The order of its rows, and what `createdAt` compares with and in which timezone, is not
//! documented: a purchase that no page shows is read by itself, so none of it has to be right.

use std::time::Duration;

use ::http::Method;
use serde_json::{Value, json};

use super::{Inabit, found, named_reference, read_purchase};
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

/// The one list there is.
const LIST: &str = "purchases";
/// By how many rows a page overlaps the one before it, since rows move while pages are read.
const OVERLAP: usize = 10;
/// By how much the provider's clock may lag behind this service's.
const CLOCK_LAG: Duration = Duration::from_secs(300);
/// Ours: what pages show is no change clock, so a purchase is read singly now and then as well.
const SINGLY_EVERY: Duration = Duration::from_secs(15 * 60);

impl Sweep for Inabit {
    fn coverage(&self) -> Coverage {
        Coverage::All
    }

    fn singly_every(&self) -> Duration {
        SINGLY_EVERY
    }

    fn lists(&self, _: &Reference) -> Vec<String> {
        vec![LIST.to_owned()]
    }

    fn start(&self, known: Bounds<'_>) -> Cursor {
        Cursor::start(known.oldest.minus(CLOCK_LAG))
    }

    fn request(&self, wanted: Wanted<'_>) -> Request {
        let Wanted { place, rows, .. } = wanted;
        // All statuses: no word is named, so that none can be missing.
        let request = Request::new(Method::POST, ["v1", "merchant", "purchase", "search"])
            .query("limit", &rows.to_string())
            .query("offset", &offset(place).to_string())
            .json(&json!({ "createdAt": place.since.to_string() }));
        self.organization_request(request)
    }

    fn read(&self, wanted: Wanted<'_>, answer: &Response, now: Timestamp) -> Result<Page, Trouble> {
        let Wanted { place, rows, .. } = wanted;
        // The documented HTTP status is 201; any 2xx will do.
        if !(200..300).contains(&answer.status) {
            return Err(error_answer::trouble(answer, now));
        }
        let body = wire::object(answer)?;
        let (purchases, total) = found(&body)?;
        let end = offset(place).saturating_add(purchases.len());
        let is_last = match total {
            Some(total) => end >= total,
            None => purchases.len() < rows,
        };
        // A page can be shorter than was asked for, and still has to lead on.
        let step = purchases.len().saturating_sub(OVERLAP).max(1);
        Ok(Page {
            rows: purchases.iter().filter_map(row).collect(),
            next: Cursor {
                since: place.since,
                after: offset(place).saturating_add(step).to_string(),
            },
            is_last: is_last || purchases.is_empty(),
            // A last page is shorter than the others, and says nothing of how many there are.
            pages: match (is_last, offset(place)) {
                (false, _) => total.map(|total| 1 + total.saturating_sub(1) / step),
                (true, 0) => Some(1),
                (true, _) => None,
            },
        })
    }
}

fn offset(place: &Cursor) -> usize {
    place.after.parse().unwrap_or(0)
}

fn row(data: &Value) -> Option<Row> {
    let reference = named_reference(&wire::text(data, "id")?)?;
    let said = read_purchase(&reference, data).map(Box::new);
    Some(Row { reference, said })
}
