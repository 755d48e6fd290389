//! The writer: groups of changes, each part of a group in one call of the store's function.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio_postgres::{Row, types::ToSql};
use tokio_util::sync::CancellationToken;

use super::{
    arrays::{Arrays, COMMIT},
    batch::{self, Item, Part},
    connect::{Connector, Session, Trouble},
    opening::{Opening, Writing},
    outcome::{Called, Uncalled},
    read::{self, Referring},
    row::{self, Read, integer},
};
use crate::{
    journal::{
        Committed, FLOOR_KEY, Fence, JournalError, Position, Retirement, Write, Written,
        committer::{Change, CommitAnswer, Group, Published, Store},
        damage::Damage,
        rules,
    },
    purchase::{Purchase, PurchaseId},
};

/// The most looks at the previous status of one purchase, each of which ends with a call: the status of
/// the expected revision never changes, so that one look is enough but for a reference that moves.
const LOOKS_MAX: u32 = 3;

/// The only writing connection.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connector: Arc<Connector>,
    pub(super) writing: Writing,
    /// `None` while it is not known to be of use.
    pub(super) opening: Option<Opening>,
    /// The number of the last opening that is known to have begun.
    pub(super) opened: i64,
    pub(super) head: Position,
    pub(super) damage: Damage,
    pub(super) published: Arc<Published>,
    /// Cancelled when the journal closes: an outcome that cannot be learned is waited for no longer.
    pub(super) closing: CancellationToken,
    /// Ends the beat.
    pub(super) beat: CancellationToken,
}

/// A group under way.
struct Draft {
    answers: Vec<Option<Result<CommitAnswer, JournalError>>>,
    committed: Vec<Arc<Committed>>,
    wrote: bool,
}

impl Draft {
    fn answer(&mut self, place: usize, answer: Result<Written, JournalError>) {
        if let Some(kept) = self.answers.get_mut(place) {
            *kept = Some(answer.map(CommitAnswer::Written));
        }
    }
}

/// The server's word on the items of a batch.
pub(super) struct Outcomes {
    /// A letter for each item.
    letters: Vec<char>,
    /// The position of each transition.
    places: Vec<Option<Position>>,
    /// The purchases that there were, each with a status that means nothing.
    purchases: HashMap<PurchaseId, Read<Purchase>>,
}

impl Writer {
    pub(super) fn new(
        opening: Opening,
        (connector, writing): (Arc<Connector>, Writing),
        (published, damage): (Arc<Published>, Damage),
        (closing, beat): (CancellationToken, CancellationToken),
    ) -> Self {
        Self {
            connector,
            writing,
            opened: opening.number,
            opening: Some(opening),
            head: published.head(),
            damage,
            published,
            closing,
            beat,
        }
    }

    async fn part(
        &mut self,
        part: Part,
        draft: &mut Draft,
        parts: &mut VecDeque<Part>,
    ) -> Result<(), JournalError> {
        let items = match part {
            Part::Retirement(place, retirement) => {
                let answer = self.retire(&retirement, draft).await?;
                if let Some(kept) = draft.answers.get_mut(place) {
                    *kept = Some(answer.map(CommitAnswer::Retired));
                }
                return Ok(());
            }
            Part::Items(items) => items,
        };
        match self.commit_items(&items).await {
            Ok(outcomes) => self.told(items, outcomes, draft, parts).await,
            Err(Uncalled::Failed(error)) => return Err(error),
            Err(Uncalled::Apart(error)) => match items.as_slice() {
                [item] => draft.answer(item.place, Err(error)),
                _ => {
                    for item in items.into_iter().rev() {
                        parts.push_front(Part::Items(vec![item]));
                    }
                }
            },
        }
        Ok(())
    }

    /// Makes the call for a batch.
    async fn commit_items(&mut self, items: &[Item]) -> Result<Outcomes, Uncalled> {
        let arrays = Arrays::of(items, &self.published.age);
        let called = self.call(COMMIT.as_str(), &arrays.values()).await?;
        let outcomes = match called {
            Called::Rows(rows) => outcomes_of(&rows, &self.damage),
            Called::Kept(letters, places) => {
                let appended = items.iter().filter_map(|item| match &item.write {
                    Write::Append { purchase, .. } => Some(*purchase),
                    _ => None,
                });
                let appended: Vec<_> = appended.collect();
                let purchases = self.purchases(&appended).await;
                Some(Outcomes {
                    letters: letters.chars().collect(),
                    places: positions(places),
                    purchases,
                })
            }
        };
        let outcomes = outcomes.filter(|found| found.letters.len() == items.len());
        outcomes.ok_or_else(|| {
            // The answer is of this build's own function.
            Uncalled::Failed(JournalError::unavailable("an answer of another kind"))
        })
    }

    /// Takes over the outcomes of a batch.
    async fn told(
        &mut self,
        items: Vec<Item>,
        outcomes: Outcomes,
        draft: &mut Draft,
        parts: &mut VecDeque<Part>,
    ) {
        let Outcomes {
            letters,
            places,
            mut purchases,
        } = outcomes;
        let mut places = places.into_iter();
        let (mut refused, mut unjudged, mut wrote) = (Vec::new(), Vec::new(), false);
        for (item, letter) in items.into_iter().zip(letters) {
            let places: Vec<_> = places.by_ref().take(item.texts.len()).flatten().collect();
            match letter {
                'D' => {
                    wrote = true;
                    draft.answer(item.place, Ok(Written::Done));
                    let told = committed(item.write, &places, &mut purchases);
                    draft.committed.extend(told);
                    self.head = places.into_iter().fold(self.head, Position::max);
                }
                'F' => draft.answer(item.place, Ok(Written::Fenced)),
                'P' => unjudged.push(item),
                letter => refused.push((item, letter)),
            }
        }
        if wrote {
            draft.wrote = true;
            self.keep();
        }
        let refused = refused.iter().map(|(item, letter)| (item, *letter));
        self.refused(refused.collect(), draft).await;
        let judged = self.judged(unjudged, draft).await;
        if !judged.is_empty() {
            parts.push_front(Part::Items(judged));
        }
    }

    /// The answer to the last call is kept by the server.
    fn keep(&mut self) {
        if let Some(opening) = &mut self.opening {
            opening.kept = opening.calls;
        }
    }

    /// Answers items that a guard has refused, with what the guard has found.
    async fn refused(&mut self, refused: Vec<(&Item, char)>, draft: &mut Draft) {
        if refused.is_empty() {
            return;
        }
        let places: Vec<usize> = refused.iter().map(|(item, _)| item.place).collect();
        let found = match &mut self.opening {
            None => Err(JournalError::unavailable("its connection is lost")),
            Some(opening) => {
                let found = refusals(&mut opening.session, &self.damage, &refused).await;
                found.map_err(Trouble::error)
            }
        };
        match found {
            Ok(found) => {
                for (place, answer) in places.into_iter().zip(found) {
                    draft.answer(place, answer);
                }
            }
            Err(error) => {
                self.opening = None;
                for place in places {
                    draft.answer(place, Err(error.clone()));
                }
            }
        }
    }

    /// The items whose change time depends on the previous status, with that time.
    async fn judged(&mut self, items: Vec<Item>, draft: &mut Draft) -> Vec<Item> {
        if items.is_empty() {
            return Vec::new();
        }
        let ids: Vec<_> = items
            .iter()
            .filter_map(|item| concerned(&item.write))
            .collect();
        let records = match &mut self.opening {
            None => Err(JournalError::unavailable("its connection is lost")),
            Some(opening) => {
                let found = read::records(&mut opening.session, &self.damage, &ids).await;
                found.map_err(Trouble::error)
            }
        };
        let mut judged = Vec::new();
        for mut item in items {
            let record = match &records {
                Ok(records) => (concerned(&item.write))
                    .and_then(|id| records.get(&id).cloned())
                    .unwrap_or(Ok(None)),
                Err(error) => Err(error.clone()),
            };
            match record {
                Ok(Some(record)) if item.looks < LOOKS_MAX => {
                    if let Write::Append { transition, .. } = &item.write {
                        let (previous, known) = (&record.purchase.status, record.change_time);
                        let age = &self.published.age;
                        let changed = rules::change_time(previous, known, &transition.status, age);
                        item.change_time = Some(changed);
                    }
                    item.looks += 1;
                    judged.push(item);
                }
                Ok(_) => {
                    let error = JournalError::unavailable("others change it every time");
                    draft.answer(item.place, Err(error));
                }
                Err(error) => draft.answer(item.place, Err(error)),
            }
        }
        judged
    }

    async fn retire(
        &mut self,
        retirement: &Retirement,
        draft: &mut Draft,
    ) -> Result<Result<Option<usize>, JournalError>, JournalError> {
        const RETIRE: &str = "SELECT retire_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        let Fence { account, number } = &retirement.fence;
        let (account, number) = (account.as_str(), integer(*number));
        let finals = retirement.finals_before.as_millis();
        let remnants = retirement.remnants_before.as_millis();
        let most = integer(retirement.limit);
        let values: [&(dyn ToSql + Sync); 6] =
            [&account, &number, &finals, &remnants, &most, &FLOOR_KEY];
        let called = match self.call(RETIRE, &values).await {
            Ok(called) => called,
            Err(Uncalled::Apart(error)) => return Ok(Err(error)),
            Err(Uncalled::Failed(error)) => return Err(error),
        };
        let gone: Option<i64> = match called {
            Called::Rows(rows) => rows.first().and_then(|row| row::get(row, 0).ok()),
            Called::Kept(_, places) => places.first().copied().flatten(),
        };
        let gone = gone.map(|gone| usize::try_from(gone).unwrap_or(0));
        if gone.is_some_and(|gone| gone > 0) {
            draft.wrote = true;
            self.keep();
        }
        Ok(Ok(gone))
    }
}

impl Store for Writer {
    async fn commit(&mut self, changes: Vec<Change>) -> Result<Group, JournalError> {
        let mut draft = Draft {
            answers: changes.iter().map(|_| None).collect(),
            committed: Vec::new(),
            wrote: false,
        };
        let (mut parts, errors) = batch::parts(changes);
        for (place, error) in errors {
            draft.answer(place, Err(error));
        }
        let mut failed = None;
        while let Some(part) = parts.pop_front() {
            if let Err(error) = self.part(part, &mut draft, &mut parts).await {
                failed = Some(error);
                break;
            }
        }
        if let Some(error) = failed.take_if(|_| !draft.wrote) {
            return Err(error);
        }
        let undone = || {
            Err(failed
                .clone()
                .unwrap_or_else(|| JournalError::unavailable("it was left out")))
        };
        let answers = draft.answers.into_iter();
        let answers = answers
            .map(|answer| answer.unwrap_or_else(undone))
            .collect();
        // Each part has drawn its positions after the one before it; within a part they follow the items.
        draft.committed.sort_by_key(|committed| committed.position);
        Ok(Group {
            answers,
            committed: draft.committed,
            head: self.head,
            wrote: draft.wrote,
            failed,
        })
    }

    async fn probe(&mut self) -> Result<(), JournalError> {
        match self.commit_items(&[]).await {
            Ok(_) => {
                self.keep();
                Ok(())
            }
            Err(Uncalled::Apart(error) | Uncalled::Failed(error)) => Err(error),
        }
    }

    async fn close(&mut self) {
        // A beat after the release would look as if another process had taken the store.
        self.beat.cancel();
        let Some(mut opening) = self.opening.take() else {
            return;
        };
        if let Err(trouble) = self.writing.exit(&mut opening.session).await {
            // A process that this one is in the way of waits until it has been silent.
            tracing::warn!(error = %trouble.error(), "the store was not let go");
        }
    }
}

/// The purchase that a write concerns, if there has to be one.
fn concerned(write: &Write) -> Option<PurchaseId> {
    match write {
        Write::Append { purchase, .. }
        | Write::ChangeAttempt { purchase, .. }
        | Write::WipeBuyerActions { purchase, .. } => Some(*purchase),
        Write::Bind(binding) => Some(binding.purchase),
        Write::Begin { .. } | Write::Put { .. } => None,
    }
}

fn positions(places: Vec<Option<i64>>) -> Vec<Option<Position>> {
    let position = |place: i64| u64::try_from(place).ok().map(Position);
    let positions = places.into_iter().map(|place| place.and_then(position));
    positions.collect()
}

fn outcomes_of(rows: &[Row], damage: &Damage) -> Option<Outcomes> {
    let (last, rows) = rows.split_last()?;
    let letters: &str = row::get(last, 7).ok()?;
    Some(Outcomes {
        letters: letters.chars().collect(),
        places: positions(row::get(last, 8).ok()?),
        purchases: read::purchases_of(rows, damage),
    })
}

/// The transitions of a write that is done.
fn committed(
    write: Write,
    places: &[Position],
    purchases: &mut HashMap<PurchaseId, Read<Purchase>>,
) -> Vec<Arc<Committed>> {
    let (purchase, transitions) = match write {
        Write::Begin {
            record,
            transitions,
        } => (record.purchase, transitions),
        Write::Append {
            purchase,
            transition,
            ..
        } => match purchases.remove(&purchase) {
            Some(Ok(purchase)) => (purchase, vec![*transition]),
            // Its constant facts cannot be read: whoever asks for it is told so as well.
            Some(Err(_)) | None => {
                tracing::error!(%purchase, "a transition is committed and cannot be told");
                return Vec::new();
            }
        },
        Write::Bind(_)
        | Write::ChangeAttempt { .. }
        | Write::WipeBuyerActions { .. }
        | Write::Put { .. } => return Vec::new(),
    };
    let told = transitions
        .into_iter()
        .zip(places)
        .map(|(transition, place)| {
            Arc::new(Committed {
                position: *place,
                purchase: rules::with_status(&purchase, transition.status),
                from_state: transition.from_state,
                cause: transition.cause,
            })
        });
    told.collect()
}

/// The findings of the guards.
async fn refusals(
    session: &mut Session,
    damage: &Damage,
    refused: &[(&Item, char)],
) -> Result<Vec<Result<Written, JournalError>>, Trouble> {
    let (mut ids, mut keys, mut references) = (Vec::new(), Vec::new(), Vec::new());
    for (item, letter) in refused {
        match (letter, &item.write) {
            ('K', Write::Begin { record, .. }) => {
                let purchase = &record.purchase;
                keys.push((purchase.caller.as_str(), &*purchase.idempotency_key));
            }
            ('K', Write::Bind(binding)) => keys.push((binding.caller.as_str(), &*binding.key)),
            ('R', Write::Begin { record, .. }) => references.push(Referring {
                account: Some(record.purchase.account.as_str()),
                purchase: None,
                digest: item.reference.clone().unwrap_or_default(),
            }),
            ('R', write) => references.push(Referring {
                account: None,
                purchase: concerned(write),
                digest: item.reference.clone().unwrap_or_default(),
            }),
            ('S', write) => ids.extend(concerned(write)),
            _ => {}
        }
    }
    let mut records = HashMap::new();
    if !ids.is_empty() {
        records = read::records(session, damage, &ids).await?;
    }
    let mut named = Vec::new();
    if !keys.is_empty() {
        named = read::records_by_keys(session, damage, &keys).await?;
    }
    let mut owners = Vec::new();
    if !references.is_empty() {
        owners = read::owners(session, &references).await?;
    }
    let (mut named, mut owners) = (named.into_iter(), owners.into_iter());
    let gone = || JournalError::unavailable("what was in its way has gone: write it again");
    let answers = refused.iter().map(|(item, letter)| match letter {
        'K' => match named.next() {
            Some(Ok(Some(record))) => Ok(Written::KeyTaken(Box::new(record))),
            Some(Err(unread)) => Err(unread.into()),
            Some(Ok(None)) | None => Err(gone()),
        },
        'R' => (owners.next().flatten())
            .map_or_else(|| Err(gone()), |id| Ok(Written::ReferenceTaken(id))),
        'S' => {
            let record = concerned(&item.write).and_then(|id| records.get(&id).cloned());
            Ok(Written::Stale(record.unwrap_or(Ok(None))?.map(Box::new)))
        }
        _ => match &item.write {
            Write::Begin { record, .. } => Err(rules::malformed(
                record.purchase.id,
                "it exists with another key",
            )),
            _ => Err(gone()),
        },
    });
    Ok(answers.collect())
}
