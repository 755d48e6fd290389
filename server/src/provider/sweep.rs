//! Reading many purchases by one request, for the providers that have such a request.
//!
//! A provider names its lists and reads their pages. The tracker knows the open purchases, decides when a
//! page is read, and learns from its rows.

use std::{fmt, time::Duration};

use crate::{
    observation::{Observation, Trouble},
    purchase::{Reference, Timestamp},
    upstream::{Request, Response},
};

/// The news that a round through a list brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// The changes: a round goes on from the end of the last one, and silence is no news. Each
    /// open purchase is read singly as well.
    Changes,
    /// All purchases: a purchase that a whole round does not show has to be read by itself.
    All,
}

/// A place in a list, in the provider's own terms. Kept by the journal as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The time that the list is read from: of a change, or of a creation.
    pub since: Timestamp,
    /// The rest of the place: the id of a row, or the number of rows to skip. Empty at the start.
    pub after: String,
}

impl Cursor {
    /// The start of a list's rows since a time.
    pub fn start(since: Timestamp) -> Self {
        Self {
            since,
            after: String::new(),
        }
    }

    /// The place that a text of [`Cursor`]'s `Display` names.
    pub fn parse(text: &str) -> Option<Self> {
        let (since, after) = text.split_once(' ')?;
        Some(Self {
            since: Timestamp::from_millis_text(since).ok()?,
            after: after.to_owned(),
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.since.as_millis(), self.after)
    }
}

/// The known facts when a round begins.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// The end of the last round, in this process or an earlier one.
    pub kept: Option<&'a Cursor>,
    /// When the oldest open purchase was created here.
    pub oldest: Timestamp,
    /// The newest change clock that any answer had.
    pub newest: Option<Timestamp>,
    /// This service's clock.
    pub now: Timestamp,
}

/// The page that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The list's name.
    pub list: &'a str,
    /// The place from which the page is read.
    pub place: &'a Cursor,
    /// The most rows: fewer after a page that failed, 2 to [`ROWS_MAX`].
    pub rows: usize,
}

/// The most rows of one page. Masumi's own limit; Inabit documents none.
pub const ROWS_MAX: usize = 100;

/// One purchase in a page.
#[derive(Debug)]
pub struct Row {
    /// The purchase's reference; perhaps no purchase of this service has it.
    pub reference: Reference,
    /// The row's observation. Trouble if the purchase has to be read by itself.
    pub said: Result<Box<Observation>, Trouble>,
}

/// A page that was read.
#[derive(Debug)]
pub struct Page {
    /// Its rows, without those that name nothing or that only a single read may judge.
    pub rows: Vec<Row>,
    /// The place of the next page, or the start of the next round.
    pub next: Cursor,
    /// True if this was the round's last page.
    pub is_last: bool,
    /// The number of pages of the whole list, if the answer says it.
    pub pages: Option<usize>,
}

/// A provider's request that reads many purchases.
pub trait Sweep: Send + Sync {
    /// The news that a round brings.
    fn coverage(&self) -> Coverage;

    /// After how long an open purchase is read singly although rounds go well.
    fn singly_every(&self) -> Duration;

    /// The names of the lists, any of which can have this purchase. Letters, digits and `/`.
    fn lists(&self, reference: &Reference) -> Vec<String>;

    /// The place at which a round begins.
    fn start(&self, known: Bounds<'_>) -> Cursor;

    /// The request of one page.
    fn request(&self, wanted: Wanted<'_>) -> Request;

    /// Reads the answer to [`Sweep::request`]. `now` is its arrival.
    ///
    /// # Errors
    /// The page as a whole says nothing.
    fn read(&self, wanted: Wanted<'_>, answer: &Response, now: Timestamp) -> Result<Page, Trouble>;
}

#[cfg(test)]
mod tests;
