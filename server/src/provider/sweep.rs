//! Reading many purchases by one request, for the providers that have such a request.
//!
//! A provider says which lists there are and reads their pages; when to read, what is open and what
//! a row changes is the tracker's.

use std::{fmt, time::Duration};

use crate::{
    observation::{Observation, Trouble},
    purchase::{Reference, Timestamp},
    upstream::{Request, Response},
};

/// What a round through a list tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// What has changed: a round goes on where the last one ended, and silence is no news. Each
    /// open purchase is read singly as well.
    Changes,
    /// All purchases: one that a whole round does not show has to be read by itself.
    All,
}

/// A place in a list, in the provider's own terms. Kept by the journal as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The time that the list is read from: of a change, or of a creation.
    pub since: Timestamp,
    /// What else says where: the id of a row, or how many rows to skip. Empty at the start.
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

/// What is known when a round begins.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// Where the last round ended, in this process or an earlier one.
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
    /// Of which list.
    pub list: &'a str,
    /// From where on.
    pub place: &'a Cursor,
    /// How many rows at most: fewer after a page that failed, 2 to [`ROWS_MAX`].
    pub rows: usize,
}

/// The most rows of one page. Masumi's own limit; Inabit documents none.
pub const ROWS_MAX: usize = 100;

/// One purchase in a page.
#[derive(Debug)]
pub struct Row {
    /// Whose row it is: perhaps nobody's here.
    pub reference: Reference,
    /// What it says. Trouble where the purchase has to be read by itself.
    pub said: Result<Box<Observation>, Trouble>,
}

/// A page that was read.
#[derive(Debug)]
pub struct Page {
    /// Its rows, without those that name nothing or that only a single read may judge.
    pub rows: Vec<Row>,
    /// Where the list goes on: the next page, or the start of the next round.
    pub next: Cursor,
    /// Whether this was the round's last page.
    pub is_last: bool,
    /// How many pages the whole list has, where the answer says.
    pub pages: Option<usize>,
}

/// A provider's request that reads many purchases.
pub trait Sweep: Send + Sync {
    /// What a round tells.
    fn coverage(&self) -> Coverage;

    /// After how long an open purchase is read singly although rounds go well.
    fn singly_every(&self) -> Duration;

    /// The names of the lists, any of which can have this purchase. Letters, digits and `/`.
    fn lists(&self, reference: &Reference) -> Vec<String>;

    /// Where a round begins.
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
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_as_text() {
        let since = Timestamp::from_iso("2026-11-20T07:13:01.234Z").unwrap();
        for after in ["", "cmtest0000000000000000021", "a b"] {
            let place = Cursor {
                since,
                after: after.to_owned(),
            };
            assert_eq!(Cursor::parse(&place.to_string()), Some(place));
        }
        for text in ["", "1", "x y"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
