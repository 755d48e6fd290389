//! The tables of the memory journal: ordered maps, so that every run reads them alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};

use crate::{
    journal::{
        AttemptChange, Binding, Committed, Expected, FLOOR_KEY, Filter, JournalError,
        LOOKED_AT_MAX, Listed, Place, Position, Record, Retirement, Write, Written,
        age::Age,
        committer::{Hears, Observers},
        rules,
        shared::Logged,
    },
    purchase::{
        AccountName, CallerName, Finality, PurchaseId, Reference, Revision, Timestamp, Transition,
    },
};

use super::{board::Sheets, budgets::Purses, lease::Leases, seat::Seat};

/// One purchase with its history; a remnant has none.
#[derive(Debug)]
struct Kept {
    record: Record,
    transitions: Vec<Transition>,
    final_time: Option<Timestamp>,
    is_remnant: bool,
}

/// All commits.
#[derive(Debug, Default)]
pub(super) struct State {
    head: u64,
    purchases: BTreeMap<PurchaseId, Kept>,
    by_key: BTreeMap<(CallerName, Arc<str>), PurchaseId>,
    /// Further keys.
    bound: BTreeMap<(CallerName, Arc<str>), Binding>,
    /// This and the next three are of purchases that are no remnants.
    by_reference: BTreeMap<(AccountName, Reference), PurchaseId>,
    by_time: BTreeSet<(Timestamp, PurchaseId)>,
    open: BTreeSet<PurchaseId>,
    log: BTreeMap<u64, (PurchaseId, Revision)>,
    texts: BTreeMap<String, String>,
    age: Arc<Age>,
    pub(super) leases: Leases,
    /// The observers that hear of each commit of each opening.
    pub(super) observers: Observers,
    /// The processes that share the store.
    pub(super) seats: Vec<Weak<Seat>>,
    pub(super) purses: Purses,
    pub(super) sheets: Sheets,
}

impl State {
    /// An empty store that is stamped by this clock.
    pub(super) fn aged_by(age: Arc<Age>) -> Self {
        Self {
            age,
            ..Self::default()
        }
    }

    pub(super) fn head(&self) -> Position {
        Position(self.head)
    }

    /// Tells of a commit, and hints it to the processes at the other seats.
    pub(super) fn tell(&mut self, committed: &[Arc<Committed>], own: Option<&Arc<Seat>>) {
        self.observers.tell_only(Hears::InOrder, committed);
        if committed.is_empty() {
            return;
        }
        self.seats.retain(|seat| seat.strong_count() > 0);
        for seat in self.seats.iter().filter_map(Weak::upgrade) {
            if !own.is_some_and(|own| Arc::ptr_eq(own, &seat)) {
                seat.hint();
            }
        }
    }

    pub(super) fn write(
        &mut self,
        write: Write,
        committed: &mut Vec<Arc<Committed>>,
    ) -> Result<Written, JournalError> {
        match write {
            Write::Begin {
                record,
                transitions,
            } => self.begin(*record, transitions, committed),
            Write::Bind(binding) => Ok(self.bind(*binding)),
            Write::Append { fence, .. } | Write::Put { fence, .. }
                if !self.leases.admit(fence.as_ref()) =>
            {
                Ok(Written::Fenced)
            }
            Write::Append {
                purchase,
                fence: _,
                transition,
                expected,
                attempt,
                note,
            } => Ok(self.append(purchase, *transition, expected, attempt, note, committed)),
            Write::ChangeAttempt {
                purchase,
                expected,
                change,
            } => Ok(self.change_attempt(purchase, expected, change)),
            Write::WipeBuyerActions { purchase, through } => {
                if let Some(kept) = self.purchases.get_mut(&purchase) {
                    kept.wipe_buyer_actions(through);
                }
                Ok(Written::Done)
            }
            Write::Put {
                key,
                fence: _,
                value,
            } => {
                self.texts.insert(key, value);
                Ok(Written::Done)
            }
        }
    }

    fn begin(
        &mut self,
        mut record: Record,
        transitions: Vec<Transition>,
        committed: &mut Vec<Arc<Committed>>,
    ) -> Result<Written, JournalError> {
        let id = record.purchase.id;
        let last = rules::last_status(id, &transitions)?.clone();
        let purchase = &record.purchase;
        if let Some(taken) = self.record_by_key(&purchase.caller, &purchase.idempotency_key) {
            return Ok(Written::KeyTaken(Box::new(taken)));
        }
        if self.purchases.contains_key(&id) {
            return Err(rules::malformed(id, "it exists with another key"));
        }
        if let Some(reference) = &last.reference
            && let Some(taken) = self.purchase_by_reference(&purchase.account, reference)
        {
            return Ok(Written::ReferenceTaken(taken));
        }
        let key = (
            purchase.caller.clone(),
            Arc::clone(&purchase.idempotency_key),
        );
        self.by_key.insert(key, id);
        self.by_time.insert((purchase.create_time, id));
        if let Some(first) = transitions.first() {
            record.purchase.status = Arc::new(first.status.clone());
        }
        let change_time = self.age.stamp(record.change_time);
        let kept = Kept {
            record,
            transitions: Vec::new(),
            final_time: None,
            is_remnant: false,
        };
        self.purchases.insert(id, kept);
        for transition in transitions {
            self.step(id, transition, committed);
        }
        if let Some(kept) = self.purchases.get_mut(&id) {
            kept.record.change_time = change_time;
        }
        Ok(Written::Done)
    }

    fn bind(&mut self, mut binding: Binding) -> Written {
        if let Some(taken) = self.record_by_key(&binding.caller, &binding.key) {
            return Written::KeyTaken(Box::new(taken));
        }
        if self.record(binding.purchase).is_none() {
            return Written::Stale(None);
        }
        binding.bind_time = self.age.stamp(binding.bind_time);
        let key = (binding.caller.clone(), Arc::clone(&binding.key));
        self.bound.insert(key, binding);
        Written::Done
    }

    fn append(
        &mut self,
        id: PurchaseId,
        transition: Transition,
        expected: Expected,
        attempt: AttemptChange,
        note: Option<String>,
        committed: &mut Vec<Arc<Committed>>,
    ) -> Written {
        if let Some(stale) = self.stale(id, expected) {
            return stale;
        }
        let Some(kept) = self.purchases.get(&id) else {
            return Written::Stale(None);
        };
        if transition.status.revision != expected.revision.next() {
            return Written::Stale(Some(Box::new(kept.record.clone())));
        }
        if let Some(reference) = &transition.status.reference
            && let Some(taken) =
                self.purchase_by_reference(&kept.record.purchase.account, reference)
            && taken != id
        {
            return Written::ReferenceTaken(taken);
        }
        self.step(id, transition, committed);
        if let Some(kept) = self.purchases.get_mut(&id) {
            kept.record.change_attempt(attempt);
            if note.is_some() {
                kept.record.resolution_note = note;
            }
        }
        Written::Done
    }

    fn change_attempt(
        &mut self,
        id: PurchaseId,
        expected: Expected,
        change: AttemptChange,
    ) -> Written {
        if let Some(stale) = self.stale(id, expected) {
            return stale;
        }
        if let Some(kept) = self.purchases.get_mut(&id) {
            kept.record.change_attempt(change);
        }
        Written::Done
    }

    /// The answer if the record is not as expected, or has ended.
    fn stale(&self, id: PurchaseId, expected: Expected) -> Option<Written> {
        let Some(record) = self.record(id) else {
            return Some(Written::Stale(None));
        };
        let status = &record.purchase.status;
        (record.expected() != expected || status.finality == Finality::Final)
            .then(|| Written::Stale(Some(Box::new(record.clone()))))
    }

    /// Adds a step that is known to follow.
    fn step(
        &mut self,
        id: PurchaseId,
        transition: Transition,
        committed: &mut Vec<Arc<Committed>>,
    ) {
        let Some(kept) = self.purchases.get_mut(&id) else {
            return;
        };
        let account = kept.record.purchase.account.clone();
        let previous = Arc::clone(&kept.record.purchase.status);
        let status = &transition.status;
        if let Some(through) = rules::wiped_through(previous.state, status) {
            kept.wipe_buyer_actions(through);
        }
        kept.record.change_time =
            rules::change_time(&previous, kept.record.change_time, status, &self.age);
        let is_final = status.finality == Finality::Final;
        kept.final_time = is_final.then(|| self.age.stamp(status.observe_time));
        kept.record.purchase.status = Arc::new(status.clone());
        if let Some(reference) = &previous.reference {
            self.by_reference
                .remove(&(account.clone(), reference.clone()));
        }
        if let Some(reference) = &status.reference {
            self.by_reference.insert((account, reference.clone()), id);
        }
        if status.finality == Finality::Final {
            self.open.remove(&id);
        } else {
            self.open.insert(id);
        }
        self.head += 1;
        self.log.insert(self.head, (id, status.revision));
        committed.push(Arc::new(Committed {
            position: Position(self.head),
            purchase: kept.record.purchase.clone(),
            from_state: transition.from_state,
            cause: transition.cause,
        }));
        kept.transitions.push(transition);
    }

    pub(super) fn record(&self, id: PurchaseId) -> Option<&Record> {
        let kept = self.purchases.get(&id)?;
        (!kept.is_remnant).then_some(&kept.record)
    }

    pub(super) fn record_by_key(&self, caller: &CallerName, key: &str) -> Option<Record> {
        let key = (caller.clone(), Arc::from(key));
        if let Some(id) = self.by_key.get(&key) {
            return self.purchases.get(id).map(|kept| kept.record.clone());
        }
        let binding = self.bound.get(&key)?;
        let kept = self.purchases.get(&binding.purchase)?;
        Some(Record {
            fingerprints: binding.fingerprints.clone(),
            ..kept.record.clone()
        })
    }

    pub(super) fn purchase_by_reference(
        &self,
        account: &AccountName,
        reference: &Reference,
    ) -> Option<PurchaseId> {
        self.by_reference
            .get(&(account.clone(), reference.clone()))
            .copied()
    }

    pub(super) fn transitions(
        &self,
        id: PurchaseId,
        after: Revision,
        limit: usize,
    ) -> Vec<Transition> {
        let transitions = self.purchases.get(&id).map(|kept| &kept.transitions);
        (transitions.into_iter().flatten())
            .filter(|transition| transition.status.revision > after)
            .take(limit)
            .cloned()
            .collect()
    }

    pub(super) fn list(&self, filter: &Filter, mut after: Option<Place>, limit: usize) -> Listed {
        let mut listed = Listed::default();
        let from = after;
        let mut places =
            (self.by_time.iter().rev()).filter(|place| from.is_none_or(|from| **place < from));
        for place in places.by_ref().take(LOOKED_AT_MAX) {
            let kept = self.purchases.get(&place.1);
            let purchase = kept.map(|kept| &kept.record.purchase);
            if let Some(purchase) = purchase.filter(|purchase| filter.admits(purchase)) {
                if listed.purchases.len() >= limit {
                    listed.next = after;
                    return listed;
                }
                let status = rules::without_buyer_action(&purchase.status);
                listed.purchases.push(rules::with_status(purchase, status));
            }
            after = Some(*place);
        }
        listed.next = places.next().and(after);
        listed
    }

    /// The transitions after a position and up to the head, in order.
    fn following(
        &self,
        after: Position,
        head: Position,
    ) -> impl Iterator<Item = Arc<Committed>> + '_ {
        let places = self.log.range(after.0.saturating_add(1)..);
        let places = places.take_while(move |(position, _)| **position <= head.0);
        places.filter_map(|(position, (id, revision))| {
            let kept = self.purchases.get(id)?;
            let mut transitions = kept.transitions.iter();
            let transition = transitions.find(|one| one.status.revision == *revision)?;
            Some(Arc::new(Committed {
                position: Position(*position),
                purchase: rules::with_status(&kept.record.purchase, transition.status.clone()),
                from_state: transition.from_state,
                cause: transition.cause,
            }))
        })
    }

    pub(super) fn tail(
        &self,
        caller: Option<&CallerName>,
        (after, head): (Position, Position),
        limit: usize,
    ) -> (Vec<Arc<Committed>>, Position) {
        let following = self.following(after, head).filter(|one| {
            let of = &one.purchase.caller;
            caller.is_none_or(|caller| caller == of)
        });
        let found: Vec<_> = following.map(without_buyer_action).take(limit).collect();
        let last = found.last().map(|committed| committed.position);
        let is_full = found.len() >= limit;
        let through = rules::searched_through(after, head, last, is_full);
        (found, through)
    }

    /// Transitions after a position, as a process that shares the store reads them.
    pub(super) fn log(&self, after: Position, limit: usize) -> Logged {
        let head = self.head();
        let committed: Vec<_> = self.following(after, head).take(limit).collect();
        let is_whole = committed.len() < limit;
        let last = committed.last().map(|one| one.position);
        Logged {
            through: rules::searched_through(after, head, last, !is_whole),
            is_whole,
            committed,
        }
    }

    pub(super) fn open_records(&self, after: Option<PurchaseId>, limit: usize) -> Vec<Record> {
        (self.open.iter())
            .filter(|id| after.is_none_or(|after| **id > after))
            .take(limit)
            .filter_map(|id| self.record(*id).cloned())
            .collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<String> {
        self.texts.get(key).cloned()
    }

    pub(super) fn retire(&mut self, retirement: &Retirement) -> Option<usize> {
        if !self.leases.admit(Some(&retirement.fence)) {
            return None;
        }
        // The oldest remnants go first, so that none is made and deleted by one call.
        let mut remnants: Vec<_> = (self.purchases.values())
            .filter(|kept| kept.is_remnant)
            .filter_map(|kept| Some((kept.final_time?, kept.record.purchase.id)))
            .filter(|(final_time, _)| *final_time < retirement.remnants_before)
            .filter(|(_, id)| {
                let is_kept = |bound: &&Binding| bound.bind_time >= retirement.remnants_before;
                let mut bound = self.bound.values().filter(|bound| bound.purchase == *id);
                !bound.any(|bound| is_kept(&bound))
            })
            .collect();
        remnants.sort_unstable();
        remnants.truncate(retirement.limit);
        for (_, id) in &remnants {
            if let Some(kept) = self.purchases.remove(id) {
                let purchase = kept.record.purchase;
                self.by_key
                    .remove(&(purchase.caller, purchase.idempotency_key));
                self.bound.retain(|_, bound| bound.purchase != *id);
            }
        }
        let mut finals: Vec<_> = (self.purchases.values())
            .filter(|kept| !kept.is_remnant)
            .filter_map(|kept| Some((kept.final_time?, kept.record.purchase.id)))
            .filter(|(final_time, _)| *final_time < retirement.finals_before)
            .collect();
        finals.sort_unstable();
        let mut rows = remnants.len();
        for (_, id) in finals {
            if rows >= retirement.limit {
                break;
            }
            let kept = self.purchases.get(&id);
            rows += kept.map_or(0, |kept| kept.transitions.len()) + 1;
            self.make_remnant(id);
        }
        Some(rows)
    }

    fn make_remnant(&mut self, id: PurchaseId) {
        let Some(kept) = self.purchases.get_mut(&id) else {
            return;
        };
        kept.is_remnant = true;
        kept.transitions.clear();
        let purchase = &mut kept.record.purchase;
        purchase.status = Arc::new(rules::without_buyer_action(&purchase.status));
        let reference = purchase.status.reference.clone();
        let account = purchase.account.clone();
        self.by_time.remove(&(purchase.create_time, id));
        if let Some(reference) = reference {
            self.by_reference.remove(&(account, reference));
        }
        let taken = self
            .log
            .iter()
            .filter(|(_, (of, _))| *of == id)
            .map(|(place, _)| *place)
            .max();
        if let Some(taken) = taken {
            let floor = self
                .texts
                .get(FLOOR_KEY)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            self.texts
                .insert(FLOOR_KEY.to_owned(), taken.max(floor).to_string());
        }
        self.log.retain(|_, (of, _)| *of != id);
    }
}

impl Kept {
    fn wipe_buyer_actions(&mut self, through: Revision) {
        for transition in &mut self.transitions {
            if transition.status.revision <= through {
                transition.status.buyer_action = None;
            }
        }
        let status = &mut self.record.purchase.status;
        if status.revision <= through && status.buyer_action.is_some() {
            Arc::make_mut(status).buyer_action = None;
        }
    }
}

fn without_buyer_action(mut committed: Arc<Committed>) -> Arc<Committed> {
    if committed.purchase.status.buyer_action.is_some() {
        let purchase = &mut Arc::make_mut(&mut committed).purchase;
        purchase.status = Arc::new(rules::without_buyer_action(&purchase.status));
    }
    committed
}
