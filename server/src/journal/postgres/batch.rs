//! Calls: the changes of a group, so that those that concern the same thing are in different calls, in
//! their order.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::row;
use crate::{
    journal::{JournalError, Retirement, Write, committer::Change, encoding, rules},
    purchase::{CallerName, PurchaseId, Revision, Timestamp, Transition},
};

/// A part of a group that is one transaction.
#[derive(Debug)]
pub(super) enum Part {
    Items(Vec<Item>),
    /// A retirement, with its place in the group.
    Retirement(usize, Retirement),
}

/// A write, with all that is derived from it alone.
#[derive(Debug)]
pub(super) struct Item {
    /// Its place in the group.
    pub(super) place: usize,
    pub(super) write: Write,
    /// The digest of the reference that its purchase has afterwards.
    pub(super) reference: Option<Vec<u8>>,
    /// The texts of its transitions, each with that of the buyer action that is to be kept.
    pub(super) texts: Vec<(String, Option<String>)>,
    /// The texts of the labels and of the recovery facts, and the packed fingerprints, of whatever
    /// begins or is bound.
    pub(super) labels: String,
    pub(super) recovery: String,
    pub(super) fingerprints: Vec<u8>,
    /// The time of the last real change, once the previous status was looked at; and the number of these
    /// looks.
    pub(super) change_time: Option<Timestamp>,
    pub(super) looks: u32,
}

/// A thing that at most one item of a call may concern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim {
    Purchase(PurchaseId),
    Key(CallerName, Arc<str>),
    Reference(Vec<u8>),
    Text(String),
}

impl Item {
    /// An error means that the write contradicts itself, or cannot be written at all.
    pub(super) fn new(place: usize, write: Write) -> Result<Self, JournalError> {
        let mut item = Self {
            place,
            write,
            reference: None,
            texts: Vec::new(),
            labels: String::new(),
            recovery: String::new(),
            fingerprints: Vec::new(),
            change_time: None,
            looks: 0,
        };
        match &mut item.write {
            Write::Begin {
                record,
                transitions,
            } => {
                let last = rules::last_status(record.purchase.id, transitions)?;
                item.reference = last.reference.as_ref().map(row::digest);
                item.texts = first_texts(transitions)?;
                item.labels = json(&*record.purchase.labels)?;
                item.recovery = json(&record.recovery)?;
                item.fingerprints = encoding::packed(&record.fingerprints);
            }
            Write::Bind(binding) => item.fingerprints = encoding::packed(&binding.fingerprints),
            Write::Append { transition, .. } => {
                item.reference = transition.status.reference.as_ref().map(row::digest);
                item.texts = vec![texts(transition)?];
            }
            Write::ChangeAttempt { .. } | Write::WipeBuyerActions { .. } | Write::Put { .. } => {}
        }
        Ok(item)
    }

    /// The place of an item in its call. All processes have the same order, so that of two that want the
    /// same rows one waits for the other, and not both.
    fn rank(&self) -> (&str, &str, Option<PurchaseId>) {
        match &self.write {
            Write::Begin { record, .. } => {
                let purchase = &record.purchase;
                (purchase.caller.as_str(), &purchase.idempotency_key, None)
            }
            Write::Bind(binding) => (binding.caller.as_str(), &binding.key, None),
            Write::Append { purchase, .. }
            | Write::ChangeAttempt { purchase, .. }
            | Write::WipeBuyerActions { purchase, .. } => ("", "", Some(*purchase)),
            Write::Put { key, .. } => ("", key, None),
        }
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = match &self.write {
            Write::Begin { record, .. } => {
                let purchase = &record.purchase;
                let key = Arc::clone(&purchase.idempotency_key);
                vec![
                    Claim::Purchase(purchase.id),
                    Claim::Key(purchase.caller.clone(), key),
                ]
            }
            Write::Bind(binding) => vec![
                Claim::Purchase(binding.purchase),
                Claim::Key(binding.caller.clone(), Arc::clone(&binding.key)),
            ],
            Write::Append { purchase, .. }
            | Write::ChangeAttempt { purchase, .. }
            | Write::WipeBuyerActions { purchase, .. } => vec![Claim::Purchase(*purchase)],
            Write::Put { key, .. } => vec![Claim::Text(key.clone())],
        };
        claims.extend(self.reference.clone().map(Claim::Reference));
        claims
    }
}

/// The texts of a purchase's first transitions, without the buyer actions that a later one wipes.
fn first_texts(
    transitions: &mut [Transition],
) -> Result<Vec<(String, Option<String>)>, JournalError> {
    let mut wiped = Revision(0);
    for pair in transitions.windows(2) {
        if let [previous, next] = pair {
            let through = rules::wiped_through(previous.status.state, &next.status);
            wiped = wiped.max(through.unwrap_or_default());
        }
    }
    let kept = transitions.iter_mut().map(|transition| {
        let (text, action) = texts(transition)?;
        let is_kept = transition.status.revision > wiped;
        Ok((text, action.filter(|_| is_kept)))
    });
    kept.collect()
}

fn texts(transition: &mut Transition) -> Result<(String, Option<String>), JournalError> {
    encoding::status_texts(&mut transition.status).map_err(JournalError::unavailable)
}

fn json(value: &impl serde::Serialize) -> Result<String, JournalError> {
    serde_json::to_string(value).map_err(JournalError::unavailable)
}

/// The parts of a group in the order in which they are to be committed, and the errors of the writes that
/// are in none, by their places.
pub(super) fn parts(changes: Vec<Change>) -> (VecDeque<Part>, Vec<(usize, JournalError)>) {
    let mut parts = VecDeque::new();
    let mut errors = Vec::new();
    let mut claimed: HashMap<Claim, usize> = HashMap::new();
    // The first part that comes after all retirements so far.
    let mut first = 0;
    for (place, change) in changes.into_iter().enumerate() {
        let write = match change {
            Change::Write(write) => write,
            Change::Retire(retirement) => {
                parts.push_back(Part::Retirement(place, retirement));
                first = parts.len();
                continue;
            }
        };
        let item = match Item::new(place, write) {
            Ok(item) => item,
            Err(error) => {
                errors.push((place, error));
                continue;
            }
        };
        let claims = item.claims();
        let others = claims.iter().filter_map(|claim| claimed.get(claim));
        let level = others.map(|other| other + 1).max().unwrap_or(0).max(first);
        claimed.extend(claims.into_iter().map(|claim| (claim, level)));
        match parts.get_mut(level) {
            Some(Part::Items(items)) => items.push(item),
            Some(Part::Retirement(..)) | None => parts.push_back(Part::Items(vec![item])),
        }
    }
    for part in &mut parts {
        if let Part::Items(items) = part {
            items.sort_by(|one, other| one.rank().cmp(&other.rank()));
        }
    }
    (parts, errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        journal::{
            Fence,
            suite::{
                bound::binding,
                values::{append_write, begin_write, following, id, record, reference, step},
            },
        },
        purchase::State,
    };

    fn append(number: u64, name: Option<&str>) -> Write {
        let previous = record(number).purchase.status;
        let mut status = following(&previous, State::Created);
        status.reference = name.map(reference);
        append_write(id(number), step(&previous, status))
    }

    fn wipe(number: u64) -> Write {
        Write::WipeBuyerActions {
            purchase: id(number),
            through: Revision(1),
        }
    }

    fn put(key: &str) -> Write {
        Write::Put {
            key: key.to_owned(),
            fence: None,
            value: String::new(),
        }
    }

    /// The places of the items of each part.
    fn placed(changes: Vec<Change>) -> Vec<Vec<usize>> {
        let (parts, errors) = parts(changes);
        assert!(errors.is_empty());
        let places = |part: &Part| match part {
            Part::Items(items) => items.iter().map(|item| item.place).collect(),
            Part::Retirement(place, _) => vec![*place],
        };
        parts.iter().map(places).collect()
    }

    #[test]
    fn what_concerns_the_same_thing_is_in_different_calls_in_its_order() {
        let table: Vec<(Vec<Write>, Vec<Vec<usize>>)> = vec![
            (vec![], vec![]),
            (
                vec![append(1, None), append(2, None), wipe(3), put("a")],
                vec![vec![0, 1, 2, 3]],
            ),
            (
                vec![append(1, None), wipe(1), append(2, None), wipe(1)],
                vec![vec![0, 2], vec![1], vec![3]],
            ),
            (
                vec![
                    append(1, Some("a")),
                    append(2, Some("a")),
                    append(3, Some("b")),
                ],
                vec![vec![0, 2], vec![1]],
            ),
            (
                vec![put("a"), put("b"), put("a")],
                vec![vec![0, 1], vec![2]],
            ),
            (
                vec![
                    begin_write(record(1)),
                    append(1, None),
                    begin_write(record(2)),
                ],
                vec![vec![0, 2], vec![1]],
            ),
            // The key of a purchase that begins, as the further key of another one.
            (
                vec![
                    begin_write(record(1)),
                    Write::Bind(Box::new(binding(2, "key-1", 0))),
                ],
                vec![vec![0], vec![1]],
            ),
            // The third waits for the second, which waits for the first.
            (
                vec![
                    append(1, Some("a")),
                    append(2, Some("a")),
                    wipe(2),
                    append(1, None),
                ],
                vec![vec![0], vec![3, 1], vec![2]],
            ),
        ];
        for (writes, expected) in table {
            let shown = format!("{writes:?}");
            let changes = writes.into_iter().map(Change::Write).collect();
            assert_eq!(placed(changes), expected, "{shown}");
        }
    }

    #[test]
    fn items_of_a_call_are_in_the_order_of_what_they_concern() {
        let writes = [
            begin_write(record(2)),
            append(8, None),
            put("b"),
            begin_write(record(1)),
            wipe(7),
            put("a"),
            append(6, None),
        ];
        let changes = writes.map(Change::Write).into();
        assert_eq!(placed(changes), [vec![6, 4, 1, 5, 2, 3, 0]]);
    }

    #[test]
    fn a_retirement_stands_between_what_came_before_and_after_it() {
        let retire = || {
            Change::Retire(Retirement {
                fence: Fence::alone(Fence::housekeeping()),
                finals_before: Timestamp::default(),
                remnants_before: Timestamp::default(),
                limit: 1,
            })
        };
        let changes = vec![
            Change::Write(append(1, None)),
            Change::Write(wipe(1)),
            retire(),
            Change::Write(append(2, None)),
            retire(),
        ];
        assert_eq!(
            placed(changes),
            [vec![0], vec![1], vec![2], vec![3], vec![4]]
        );
    }

    #[test]
    fn a_write_that_contradicts_itself_is_in_no_call() {
        let broken = Write::Begin {
            record: Box::new(record(1)),
            transitions: Vec::new(),
        };
        let changes = [put("a"), broken, put("b")].map(Change::Write).into();
        let (parts, errors) = parts(changes);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].0, 1);
        assert!(matches!(&parts[0], Part::Items(items) if items.len() == 2));
    }
}
