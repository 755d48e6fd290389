//! The arrays of a batch, as the store's function takes them.

use std::sync::LazyLock;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    batch::Item,
    row::{integer, label, small, uuid_of},
};
use crate::{
    journal::{AttemptChange, AttemptId, Binding, Expected, Fence, Record, Write, age::Age, rules},
    purchase::{
        AttentionReason, Finality, PurchaseId, Revision, State, Status, Timestamp, Transition,
    },
};

/// The parameters before the arrays: the process, its opening, the call, the last kept call, the number
/// of items, and the attentions about silence.
const PARAMETERS: usize = 6;

/// The call of the function. The first four of its values are the caller's.
pub(super) static COMMIT: LazyLock<String> = LazyLock::new(|| {
    let count = PARAMETERS + Arrays::default().columns().len();
    let places: Vec<String> = (1..=count).map(|number| format!("${number}")).collect();
    format!("SELECT * FROM commit_1({})", places.join(", "))
});

/// Defines columns that are arrays of the same length, in the order in which the function takes them.
macro_rules! columns {
    ($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? { $($column:ident: $type:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Default)]
        struct $name $(<$life>)? { $($column: Vec<$type>,)+ }

        impl $(<$life>)? $name $(<$life>)? {
            fn columns(&self) -> Vec<&(dyn ToSql + Sync)> {
                vec![$(&self.$column),+]
            }
        }
    };
}

columns! {
    /// Items that only the owner of an account may make.
    Fences<'item> {
        n: i32,
        account: &'item str,
        fence: i64,
    }
}

columns! {
    /// Purchases that begin.
    Begins<'item> {
        n: i32,
        id: Uuid,
        account: &'item str,
        provider: &'item str,
        caller: &'item str,
        key: &'item str,
        labels: &'item str,
        create_time: i64,
        revision: i32,
        state: &'item str,
        finality: &'item str,
        attention: Option<&'item str>,
        reference: Option<&'item [u8]>,
        change_time: i64,
        final_time: Option<i64>,
        fingerprint_key: &'item str,
        fingerprints: &'item [u8],
        recovery: &'item str,
        submit_until: Option<i64>,
        attempt_by: Option<Uuid>,
        first_send_time: Option<i64>,
        sends: i32,
        note: Option<&'item str>,
    }
}

columns! {
    /// Labels of purchases that begin.
    Labels<'item> {
        n: i32,
        purchase: Uuid,
        key: String,
        value: String,
        caller: &'item str,
        create_time: i64,
    }
}

columns! {
    /// Further keys.
    Bindings<'item> {
        n: i32,
        caller: &'item str,
        key: &'item str,
        purchase: Uuid,
        fingerprint_key: &'item str,
        fingerprints: &'item [u8],
        bind_time: i64,
    }
}

columns! {
    /// Purchases that change, if they are as expected. Without a revision the attempt alone changes.
    Changes<'item> {
        n: i32,
        id: Uuid,
        expected: i32,
        expected_attempt: Option<Uuid>,
        expected_sends: i32,
        revision: Option<i32>,
        state: Option<&'item str>,
        finality: Option<&'item str>,
        attention: Option<&'item str>,
        reference: Option<&'item [u8]>,
        change_time: Option<i64>,
        is_judged: bool,
        final_time: Option<i64>,
        note: Option<&'item str>,
        attempt: &'static str,
        submit_until: Option<i64>,
        attempt_by: Option<Uuid>,
        now: Option<i64>,
    }
}

columns! {
    /// Buyer actions that are wiped.
    Wipes {
        n: i32,
        id: Uuid,
        through: i32,
    }
}

columns! {
    Texts<'item> {
        n: i32,
        key: &'item str,
        value: &'item str,
    }
}

columns! {
    /// Transitions. The caller is that of a purchase that begins.
    Steps<'item> {
        n: i32,
        id: Uuid,
        revision: i32,
        caller: Option<&'item str>,
        from_state: Option<&'static str>,
        cause: &'static str,
        status: &'item str,
        action: Option<&'item str>,
    }
}

/// A batch, column by column.
#[derive(Default)]
pub(super) struct Arrays<'item> {
    items: i32,
    silences: Vec<&'static str>,
    fences: Fences<'item>,
    begins: Begins<'item>,
    labels: Labels<'item>,
    bindings: Bindings<'item>,
    changes: Changes<'item>,
    wipes: Wipes,
    texts: Texts<'item>,
    steps: Steps<'item>,
}

/// An attempt's id in a row.
fn attempt_uuid(attempt: AttemptId) -> Uuid {
    Uuid::from_u128(attempt.0)
}

impl<'item> Arrays<'item> {
    /// The arrays of items, which are numbered from 1.
    pub(super) fn of(items: &'item [Item], age: &Age) -> Self {
        let silences = AttentionReason::ALL.iter().copied();
        let mut arrays = Self {
            silences: silences
                .filter(|reason| reason.is_silence())
                .map(AttentionReason::as_str)
                .collect(),
            ..Self::default()
        };
        for item in items {
            arrays.items += 1;
            match &item.write {
                Write::Begin {
                    record,
                    transitions,
                } => arrays.begin(item, record, transitions, age),
                Write::Bind(binding) => arrays.bind(item, binding, age),
                Write::Append {
                    purchase,
                    fence,
                    transition,
                    expected,
                    attempt,
                    note,
                } => {
                    arrays.guard(fence.as_ref());
                    arrays.change(*purchase, *expected, *attempt, note.as_deref());
                    arrays.append(item, *purchase, transition, age);
                }
                Write::ChangeAttempt {
                    purchase,
                    expected,
                    change,
                } => {
                    arrays.change(*purchase, *expected, *change, None);
                    arrays.keep_status();
                }
                Write::WipeBuyerActions { purchase, through } => arrays.wipe(*purchase, *through),
                Write::Put { key, fence, value } => {
                    arrays.guard(fence.as_ref());
                    arrays.texts.n.push(arrays.items);
                    arrays.texts.key.push(key);
                    arrays.texts.value.push(value);
                }
            }
        }
        arrays
    }

    /// The values of the call after the first four.
    pub(super) fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&self.items, &self.silences];
        values.extend(self.columns());
        values
    }

    fn columns(&self) -> Vec<&(dyn ToSql + Sync)> {
        let all = [
            self.fences.columns(),
            self.begins.columns(),
            self.labels.columns(),
            self.bindings.columns(),
            self.changes.columns(),
            self.wipes.columns(),
            self.texts.columns(),
            self.steps.columns(),
        ];
        all.into_iter().flatten().collect()
    }

    fn guard(&mut self, fence: Option<&'item Fence>) {
        if let Some(fence) = fence {
            self.fences.n.push(self.items);
            self.fences.account.push(fence.account.as_str());
            self.fences.fence.push(integer(fence.number));
        }
    }

    fn begin(
        &mut self,
        item: &'item Item,
        record: &'item Record,
        transitions: &'item [Transition],
        age: &Age,
    ) {
        let (purchase, rows) = (&record.purchase, &mut self.begins);
        let (id, caller) = (uuid_of(purchase.id), purchase.caller.as_str());
        let create_time = purchase.create_time.as_millis();
        let last = (transitions.last()).map_or(&*purchase.status, |last| &last.status);
        rows.n.push(self.items);
        rows.id.push(id);
        rows.account.push(purchase.account.as_str());
        rows.provider.push(&purchase.provider);
        rows.caller.push(caller);
        rows.key.push(&purchase.idempotency_key);
        rows.labels.push(&item.labels);
        rows.create_time.push(create_time);
        rows.revision.push(small(last.revision.0));
        rows.state.push(last.state.as_str());
        rows.finality.push(last.finality.as_str());
        rows.attention.push(attention(last));
        rows.reference.push(item.reference.as_deref());
        let changed = age.stamp(record.change_time);
        rows.change_time.push(changed.as_millis());
        rows.final_time.push(final_time(last, age));
        rows.fingerprint_key.push(&record.fingerprints.key_id);
        rows.fingerprints.push(&item.fingerprints);
        rows.recovery.push(&item.recovery);
        let submit_until = record.attempt.map(|attempt| attempt.submit_until);
        rows.submit_until
            .push(submit_until.map(Timestamp::as_millis));
        let by = record.attempt.map(|attempt| attempt_uuid(attempt.by));
        rows.attempt_by.push(by);
        let first_send = record.first_send_time.map(Timestamp::as_millis);
        rows.first_send_time.push(first_send);
        rows.sends.push(small(record.sends));
        rows.note.push(record.resolution_note.as_deref());
        for (key, value) in &*purchase.labels {
            self.labels.n.push(self.items);
            self.labels.purchase.push(id);
            self.labels.key.push(label(key));
            self.labels.value.push(label(value));
            self.labels.caller.push(caller);
            self.labels.create_time.push(create_time);
        }
        for (transition, texts) in transitions.iter().zip(&item.texts) {
            self.step(purchase.id, Some(caller), transition, texts);
        }
    }

    fn bind(&mut self, item: &'item Item, binding: &'item Binding, age: &Age) {
        let rows = &mut self.bindings;
        rows.n.push(self.items);
        rows.caller.push(binding.caller.as_str());
        rows.key.push(&binding.key);
        rows.purchase.push(uuid_of(binding.purchase));
        rows.fingerprint_key.push(&binding.fingerprints.key_id);
        rows.fingerprints.push(&item.fingerprints);
        let bound = age.stamp(binding.bind_time);
        rows.bind_time.push(bound.as_millis());
    }

    /// The columns of a change but for those of its status.
    fn change(
        &mut self,
        purchase: PurchaseId,
        expected: Expected,
        attempt: AttemptChange,
        note: Option<&'item str>,
    ) {
        let rows = &mut self.changes;
        rows.n.push(self.items);
        rows.id.push(uuid_of(purchase));
        rows.expected.push(small(expected.revision.0));
        rows.expected_attempt
            .push(expected.attempt.map(attempt_uuid));
        rows.expected_sends.push(small(expected.sends));
        rows.note.push(note);
        let (word, until, begins) = match attempt {
            AttemptChange::Keep => ("keep", None, None),
            AttemptChange::End => ("end", None, None),
            AttemptChange::Accepted => ("accepted", None, None),
            AttemptChange::Unsent => ("unsent", None, None),
            AttemptChange::Undate => ("undate", None, None),
            AttemptChange::Extend { submit_until } => ("extend", Some(submit_until), None),
            AttemptChange::Begin { attempt, now } => {
                let until = attempt.submit_until;
                ("begin", Some(until), Some((attempt.by, now)))
            }
        };
        rows.attempt.push(word);
        rows.submit_until.push(until.map(Timestamp::as_millis));
        rows.attempt_by.push(begins.map(|(by, _)| attempt_uuid(by)));
        rows.now.push(begins.map(|(_, now)| now.as_millis()));
    }

    fn append(
        &mut self,
        item: &'item Item,
        purchase: PurchaseId,
        transition: &'item Transition,
        age: &Age,
    ) {
        let (rows, status) = (&mut self.changes, &transition.status);
        rows.revision.push(Some(small(status.revision.0)));
        rows.state.push(Some(status.state.as_str()));
        rows.finality.push(Some(status.finality.as_str()));
        rows.attention.push(attention(status));
        rows.reference.push(item.reference.as_deref());
        let changed = item
            .change_time
            .unwrap_or_else(|| age.stamp(status.observe_time));
        rows.change_time.push(Some(changed.as_millis()));
        rows.is_judged.push(item.change_time.is_some());
        rows.final_time.push(final_time(status, age));
        if let Some(previous) = transition.from_state
            && let Some(through) = rules::wiped_through(previous, status)
        {
            self.wipe(purchase, through);
        }
        for texts in &item.texts {
            self.step(purchase, None, transition, texts);
        }
    }

    /// The columns of the status of a change that leaves it.
    fn keep_status(&mut self) {
        let rows = &mut self.changes;
        rows.revision.push(None);
        rows.state.push(None);
        rows.finality.push(None);
        rows.attention.push(None);
        rows.reference.push(None);
        rows.change_time.push(None);
        rows.is_judged.push(true);
        rows.final_time.push(None);
    }

    fn wipe(&mut self, purchase: PurchaseId, through: Revision) {
        self.wipes.n.push(self.items);
        self.wipes.id.push(uuid_of(purchase));
        self.wipes.through.push(small(through.0));
    }

    fn step(
        &mut self,
        purchase: PurchaseId,
        caller: Option<&'item str>,
        transition: &'item Transition,
        (text, action): &'item (String, Option<String>),
    ) {
        let rows = &mut self.steps;
        rows.n.push(self.items);
        rows.id.push(uuid_of(purchase));
        rows.revision.push(small(transition.status.revision.0));
        rows.caller.push(caller);
        rows.from_state
            .push(transition.from_state.map(State::as_str));
        rows.cause.push(transition.cause.as_str());
        rows.status.push(text);
        rows.action.push(action.as_deref());
    }
}

fn attention(status: &Status) -> Option<&'static str> {
    status.attention_reason().map(AttentionReason::as_str)
}

/// The time from which retention counts, if the status is FINAL.
fn final_time(status: &Status, age: &Age) -> Option<i64> {
    let is_final = status.finality == Finality::Final;
    is_final.then(|| age.stamp(status.observe_time).as_millis())
}
