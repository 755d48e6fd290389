//! The move of a whole journal from one store to another.
//!
//! Purchases are copied page by page, each page with its place in one transaction of the target, so that a move
//! that was cut off goes on there. Then all of both sides is compared. A store that is the target of a move
//! refuses to serve until that is done, and the source refuses from then on: at no moment do both serve.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{JournalError, alone};

/// The purchases of a page.
pub(super) const PAGE: usize = 1_000;
/// The id before all others, as rows of a move have ids.
pub(super) const FIRST: &str = "00000000000000000000000000000000";
/// The key of the mark of a target. Its value is the last id that is copied, or [`FIRST`].
pub(super) const MOVING: &str = "moving";
/// The key of the mark of a source that has been moved.
pub(super) const MOVED: &str = "moved";

/// A purchase's row. Ids and bytes are hexadecimal digits, times are milliseconds since
/// 1970-01-01T00:00:00Z.
#[derive(Serialize, Deserialize)]
pub(super) struct PurchaseRow {
    pub(super) id: String,
    pub(super) account: String,
    pub(super) provider: String,
    pub(super) caller: String,
    pub(super) key: String,
    pub(super) labels: String,
    pub(super) create_time: i64,
    pub(super) revision: i64,
    pub(super) state: String,
    pub(super) finality: String,
    pub(super) attention: Option<String>,
    /// The SHA-256 of the reference's canonical text.
    pub(super) reference: Option<String>,
    pub(super) change_time: i64,
    pub(super) final_time: Option<i64>,
    pub(super) fingerprint_key: String,
    /// The packed fields.
    pub(super) fingerprints: String,
    pub(super) recovery: String,
    pub(super) submit_until: Option<i64>,
    pub(super) attempt_by: Option<String>,
    pub(super) first_send_time: Option<i64>,
    pub(super) sends: i64,
    pub(super) resolution_note: Option<String>,
    pub(super) remnant: Option<String>,
}

/// A transition's row.
#[derive(Serialize, Deserialize)]
pub(super) struct StepRow {
    pub(super) position: i64,
    pub(super) purchase: String,
    pub(super) revision: i64,
    pub(super) caller: String,
    pub(super) from_state: Option<String>,
    pub(super) cause: String,
    pub(super) status: String,
}

/// A buyer action's row.
#[derive(Serialize, Deserialize)]
pub(super) struct ActionRow {
    pub(super) purchase: String,
    pub(super) revision: i64,
    pub(super) action: String,
}

/// A further key's row.
#[derive(Serialize, Deserialize)]
pub(super) struct KeyRow {
    pub(super) caller: String,
    pub(super) key: String,
    pub(super) purchase: String,
    pub(super) fingerprint_key: String,
    pub(super) fingerprints: String,
    pub(super) bind_time: i64,
}

/// Purchases in the order of their ids, with all that belongs to them; the same from every store.
#[derive(Serialize, Default)]
pub(crate) struct Page {
    pub(super) purchases: Vec<PurchaseRow>,
    pub(super) steps: Vec<StepRow>,
    pub(super) actions: Vec<ActionRow>,
    pub(super) keys: Vec<KeyRow>,
}

impl Page {
    /// The last id; `None` of an empty page, which is the last.
    pub(super) fn last(&self) -> Option<&str> {
        self.purchases.last().map(|row| row.id.as_str())
    }

    /// A digest of all rows.
    fn digest(&self) -> Result<[u8; 32], JournalError> {
        let text = serde_json::to_vec(self).map_err(JournalError::unusable)?;
        Ok(Sha256::digest(text).into())
    }
}

/// Everything that belongs to no purchase.
#[derive(PartialEq, Eq)]
pub(crate) struct Rest {
    /// The newest position that was ever given.
    pub(super) head: i64,
    /// The arrival times of each account, of all requests and of creates, in milliseconds of the wall clock.
    pub(super) budgets: BTreeMap<String, [i64; 2]>,
    /// The other kept texts, in the order of their keys.
    texts: Vec<(String, String)>,
}

impl Rest {
    /// Reads a store's kept texts, in the order of their keys, and its rows of budgets. A store has budgets as
    /// texts, as rows or as both; the later times count.
    pub(super) fn new(
        head: i64,
        kept: Vec<(String, String)>,
        rows: Vec<(String, [i64; 2])>,
    ) -> Self {
        let (mut budgets, mut texts) = (BTreeMap::from_iter(rows), Vec::new());
        for (key, text) in kept {
            match alone::of_text(&key, &text) {
                Some((account, [requests, creates])) => {
                    let budget = budgets.entry(account).or_insert([requests, creates]);
                    *budget = [budget[0].max(requests), budget[1].max(creates)];
                }
                None => texts.push((key, text)),
            }
        }
        Self {
            head,
            budgets,
            texts,
        }
    }

    /// All texts that a store keeps.
    pub(super) fn kept(&self) -> Vec<(String, String)> {
        let budgets = self.budgets.iter();
        let budgets = budgets.map(|(account, times)| alone::text_of(account, *times));
        self.texts.iter().cloned().chain(budgets).collect()
    }
}

/// The part that a store says it has in a move.
#[derive(Default)]
pub(crate) struct Marks {
    pub(super) epoch: String,
    /// The last id that is copied to it, if it is the target of a move that is not finished.
    pub(super) moving: Option<String>,
    /// True if its journal has been moved to another store.
    pub(super) is_moved: bool,
    /// True if it has never had a transition.
    pub(super) is_empty: bool,
}

impl Marks {
    /// Takes over a row of the store's facts about itself.
    pub(super) fn read(&mut self, key: &str, value: String) {
        match key {
            "epoch" => self.epoch = value,
            MOVING => self.moving = Some(value),
            MOVED => self.is_moved = true,
            _ => {}
        }
    }

    /// Refuses to serve a store with these marks.
    pub(super) fn allow_to_serve(&self) -> Result<(), JournalError> {
        if self.moving.is_some() {
            return Err(JournalError::unusable(
                "a move to it is not finished: run the same `migrate` again",
            ));
        }
        match self.is_moved {
            true => Err(JournalError::unusable(
                "its journal has been moved to another store",
            )),
            false => Ok(()),
        }
    }
}

/// A store that is locked for a move, as its source or as its target.
#[async_trait]
pub(crate) trait Movable: Send {
    /// The marks.
    async fn marks(&mut self) -> Result<Marks, JournalError>;

    /// The next purchases after an id, at most [`PAGE`].
    async fn page(&mut self, after: &str) -> Result<Page, JournalError>;

    /// Everything else.
    async fn rest(&mut self) -> Result<Rest, JournalError>;

    /// Makes it the target of a move from the store with this epoch, with nothing in it.
    async fn begin(&mut self, epoch: &str) -> Result<(), JournalError>;

    /// Keeps a page and its place.
    async fn keep(&mut self, page: &Page) -> Result<(), JournalError>;

    /// Keeps everything else, in place of what is there.
    async fn keep_rest(&mut self, rest: &Rest) -> Result<(), JournalError>;

    /// Lets the target serve.
    async fn finish(&mut self) -> Result<(), JournalError>;

    /// Lets the source serve no more.
    async fn leave(&mut self) -> Result<(), JournalError>;

    /// Lets it go.
    async fn close(self: Box<Self>);
}

/// The size of a journal that has been moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// The purchases, remnants included.
    pub purchases: u64,
    /// Their transitions.
    pub transitions: u64,
    /// The newest position.
    pub head: i64,
}

/// The place at which a move begins.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    Anew,
    After(String),
    /// Nothing is left to do.
    Done,
}

/// The place at which a move between stores with these marks begins, or the reason why there is none.
fn start(source: &Marks, target: &Marks) -> Result<Start, &'static str> {
    if source.moving.is_some() {
        return Err("the source is the target of a move that is not finished");
    }
    let is_same = source.epoch == target.epoch;
    match &target.moving {
        Some(last) if is_same => return Ok(Start::After(last.clone())),
        Some(_) => return Err("the target is that of a move from another store"),
        None => {}
    }
    match (source.is_moved, target.is_empty) {
        (true, _) if is_same && !target.is_moved => Ok(Start::Done),
        (true, _) => Err("the source has been moved to another store"),
        (false, false) => Err("the target has a journal already"),
        (false, true) => Ok(Start::Anew),
    }
}

/// Moves all of a journal, and goes on with a move that was cut off. Takes as long as the disks need.
///
/// # Errors
/// [`JournalError::Unusable`] if the source has been moved elsewhere, the target has another journal, or both
/// differ after the copy; any other if a store fails. The source serves as before then, and the target does
/// not.
pub(crate) async fn move_all(
    source: &mut dyn Movable,
    target: &mut dyn Movable,
) -> Result<Moved, JournalError> {
    let (from, to) = (source.marks().await?, target.marks().await?);
    let after = match start(&from, &to).map_err(JournalError::unusable)? {
        Start::Done => return compared(source, target).await?.ok_or_else(gone_on),
        Start::Anew => {
            target.begin(&from.epoch).await?;
            None
        }
        Start::After(last) => Some(last),
    };
    let first = after.as_deref().unwrap_or(FIRST);
    let mut moved = copied(source, target, first).await;
    if after.is_some() && !matches!(moved, Ok(Some(_))) {
        // The source may have served between the two runs, so that its rows differ from those that were copied, or
        // have those in their way. It cannot serve during this one.
        target.begin(&from.epoch).await?;
        moved = copied(source, target, FIRST).await;
    }
    let moved = moved?.ok_or_else(|| {
        JournalError::unusable("the target is not equal to the source after the copy")
    })?;
    source.leave().await?;
    target.finish().await?;
    Ok(moved)
}

fn gone_on() -> JournalError {
    JournalError::unusable("it is done already, and the target has served since")
}

/// Copies all purchases after an id, and everything else. Returns the size of both stores, if they are equal then.
async fn copied(
    source: &mut dyn Movable,
    target: &mut dyn Movable,
    after: &str,
) -> Result<Option<Moved>, JournalError> {
    let mut after = after.to_owned();
    loop {
        let page = source.page(&after).await?;
        let Some(last) = page.last() else { break };
        target.keep(&page).await?;
        after = last.to_owned();
    }
    target.keep_rest(&source.rest().await?).await?;
    compared(source, target).await
}

/// The size of both, if they are equal.
async fn compared(
    source: &mut dyn Movable,
    target: &mut dyn Movable,
) -> Result<Option<Moved>, JournalError> {
    let (ours, theirs) = (source.rest().await?, target.rest().await?);
    if ours != theirs {
        return Ok(None);
    }
    let mut moved = Moved {
        head: ours.head,
        ..Moved::default()
    };
    let mut after = FIRST.to_owned();
    loop {
        let (ours, theirs) = (source.page(&after).await?, target.page(&after).await?);
        if ours.digest()? != theirs.digest()? {
            return Ok(None);
        }
        let Some(last) = ours.last() else {
            return Ok(Some(moved));
        };
        moved.purchases += ours.purchases.len() as u64;
        moved.transitions += ours.steps.len() as u64;
        after = last.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_moves_as_a_text_and_as_a_row_and_its_later_time_counts() {
        let text = |key: &str, text: &str| (key.to_owned(), text.to_owned());
        let kept = vec![
            text("budget/both", "7 1 boot 2 3"),
            text("budget/odd", "soon"),
            text("budget/text", "4 5"),
            text("floor", "6"),
        ];
        let rows = vec![("both".to_owned(), [2, 9]), ("row".to_owned(), [1, 1])];
        let rest = Rest::new(3, kept, rows);
        let budget = |account: &str, times| (account.to_owned(), times);
        let expected = BTreeMap::from([
            budget("both", [7, 9]),
            budget("row", [1, 1]),
            budget("text", [4, 5]),
        ]);
        assert_eq!(rest.budgets, expected);
        let mut kept = rest.kept();
        kept.sort();
        let expected = [
            text("budget/both", "7 9"),
            text("budget/odd", "soon"),
            text("budget/row", "1 1"),
            text("budget/text", "4 5"),
            text("floor", "6"),
        ];
        assert_eq!(kept, expected);
        // The same comes out of the store that keeps them.
        assert!(Rest::new(3, kept, vec![]) == rest);
    }

    #[test]
    fn a_move_begins_into_an_empty_store_and_goes_on_in_its_own_target_alone() {
        let store = |epoch: &str| Marks {
            epoch: epoch.to_owned(),
            ..Marks::default()
        };
        let empty = || Marks {
            is_empty: true,
            ..store("new")
        };
        let moving = |epoch: &str| Marks {
            moving: Some("7".to_owned()),
            ..store(epoch)
        };
        let moved = |epoch: &str| Marks {
            is_moved: true,
            ..store(epoch)
        };
        let after = Ok(Start::After("7".to_owned()));
        let table = [
            (store("a"), empty(), Ok(Start::Anew)),
            (store("a"), moving("a"), after),
            // The last step of a move was cut off.
            (moved("a"), moving("a"), Ok(Start::After("7".to_owned()))),
            (moved("a"), store("a"), Ok(Start::Done)),
            (store("a"), moving("b"), Err("another store")),
            (store("a"), store("b"), Err("a journal already")),
            (store("a"), store("a"), Err("a journal already")),
            (store("a"), moved("a"), Err("a journal already")),
            (moved("a"), empty(), Err("has been moved")),
            (moved("a"), store("b"), Err("has been moved")),
            (moved("a"), moved("a"), Err("has been moved")),
            (moving("a"), empty(), Err("not finished")),
        ];
        for (number, (source, target, expected)) in table.into_iter().enumerate() {
            match (start(&source, &target), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{number}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{number}: {why}"),
                (found, expected) => panic!("{number}: {found:?} and not {expected:?}"),
            }
        }
    }
}
