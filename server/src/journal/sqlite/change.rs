//! The effect of each change on the tables, and the guards that it must pass.

use std::{collections::BTreeMap, sync::Arc};

use rusqlite::{OptionalExtension as _, Result};

use crate::{
    journal::{
        Attempt, AttemptChange, Binding, Committed, Expected, Fingerprints, Position, Record,
        Retirement, Written, encoding, rules,
    },
    purchase::{
        AttentionReason, Finality, Purchase, PurchaseId, Revision, State, Status, Timestamp,
        Transition,
    },
};

use super::{
    read::{self, id_bytes, integer, purchase_columns},
    write::{Applied, Transaction, Unmade},
};

/// The columns of a purchase that a guard or a step needs.
pub(super) struct Current {
    purchase: Purchase,
    expected: Expected,
    state: State,
    finality: Finality,
    attention: Option<String>,
    reference: Option<String>,
    change_time: Timestamp,
}

impl Transaction<'_> {
    pub(super) fn begin(&mut self, record: &Record, transitions: Vec<Transition>) -> Applied<()> {
        let purchase = &record.purchase;
        let last = rules::last_status(purchase.id, &transitions).map_err(Unmade::Malformed)?;
        let taken = read::record_by_key(
            self.connection,
            self.damage,
            purchase.caller.as_str(),
            &purchase.idempotency_key,
        )?;
        if let Some(taken) = taken {
            return Err(Unmade::Guarded(Written::KeyTaken(Box::new(taken))));
        }
        let exists = self
            .connection
            .prepare_cached("SELECT 1 FROM purchase WHERE id = ?1")?
            .exists([id_bytes(purchase.id)])?;
        if exists {
            let error = rules::malformed(purchase.id, "it exists with another key");
            return Err(Unmade::Malformed(error));
        }
        let reference = read::reference_text(last.reference.as_ref());
        self.check_reference(purchase, reference.as_deref())?;
        self.insert_purchase(record, last, reference)?;
        let mut previous: Option<State> = None;
        for transition in transitions {
            let state = transition.status.state;
            if let Some(previous) = previous
                && let Some(through) = rules::wiped_through(previous, &transition.status)
            {
                self.wipe_buyer_actions(purchase.id, through)?;
            }
            self.log(purchase, transition)?;
            previous = Some(state);
        }
        Ok(())
    }

    fn insert_purchase(
        &self,
        record: &Record,
        last: &Status,
        reference: Option<String>,
    ) -> Result<()> {
        let purchase = &record.purchase;
        self.connection
            .prepare_cached(
                "INSERT INTO purchase (id, account, provider, caller, key, labels, create_time,
                     revision, state, finality, attention, reference, change_time, final_time,
                     fingerprint_key, fingerprints, recovery, submit_until, attempt_by,
                     first_send_time, sends, resolution_note)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                     ?17, ?18, ?19, ?20, ?21, ?22)",
            )?
            .execute(rusqlite::params![
                id_bytes(purchase.id),
                purchase.account.as_str(),
                purchase.provider,
                purchase.caller.as_str(),
                purchase.idempotency_key,
                json(&*purchase.labels)?,
                purchase.create_time.as_millis(),
                last.revision.0,
                last.state.as_str(),
                last.finality.as_str(),
                last.attention_reason().map(AttentionReason::as_str),
                reference,
                self.age.stamp(record.change_time).as_millis(),
                self.final_time(last),
                record.fingerprints.key_id,
                macs(&record.fingerprints)?,
                json(&record.recovery)?,
                (record.attempt).map(|attempt| attempt.submit_until.as_millis()),
                (record.attempt).map(attempt_bytes),
                record.first_send_time.map(Timestamp::as_millis),
                record.sends,
                record.resolution_note,
            ])?;
        let mut label = self.connection.prepare_cached(
            "INSERT INTO purchase_label (caller, key, value, create_time, purchase)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let (caller, create_time) = (purchase.caller.as_str(), purchase.create_time.as_millis());
        for (key, value) in &*purchase.labels {
            label.execute((caller, key, value, create_time, id_bytes(purchase.id)))?;
        }
        Ok(())
    }

    pub(super) fn bind(&self, binding: &Binding) -> Applied<()> {
        let caller = binding.caller.as_str();
        let (connection, damage) = (self.connection, self.damage);
        if let Some(taken) = read::record_by_key(connection, damage, caller, &binding.key)? {
            return Err(Unmade::Guarded(Written::KeyTaken(Box::new(taken))));
        }
        if read::record(connection, damage, binding.purchase)?.is_none() {
            return Err(Unmade::Guarded(Written::Stale(None)));
        }
        self.connection
            .prepare_cached(
                "INSERT INTO bound_key
                     (caller, key, purchase, fingerprint_key, fingerprints, bind_time)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(rusqlite::params![
                caller,
                binding.key,
                id_bytes(binding.purchase),
                binding.fingerprints.key_id,
                macs(&binding.fingerprints)?,
                self.age.stamp(binding.bind_time).as_millis(),
            ])?;
        Ok(())
    }

    pub(super) fn append(
        &mut self,
        id: PurchaseId,
        transition: Transition,
        expected: Expected,
        attempt: AttemptChange,
        note: Option<&str>,
    ) -> Applied<()> {
        let current = self.guarded(id, expected)?;
        let status = &transition.status;
        if status.revision != expected.revision.next() {
            return Err(self.stale(id)?);
        }
        let reference = read::reference_text(status.reference.as_ref());
        if reference != current.reference {
            self.check_reference(&current.purchase, reference.as_deref())?;
        }
        let change_time = self.change_time(id, &current, status)?;
        if let Some(through) = rules::wiped_through(current.state, status) {
            self.wipe_buyer_actions(id, through)?;
        }
        self.connection
            .prepare_cached(
                "UPDATE purchase SET revision = ?2, state = ?3, finality = ?4, attention = ?5,
                     reference = ?6, change_time = ?7, final_time = ?8,
                     resolution_note = coalesce(?9, resolution_note)
                 WHERE id = ?1",
            )?
            .execute(rusqlite::params![
                id_bytes(id),
                status.revision.0,
                status.state.as_str(),
                status.finality.as_str(),
                status.attention_reason().map(AttentionReason::as_str),
                reference,
                change_time.as_millis(),
                self.final_time(status),
                note,
            ])?;
        self.log(&current.purchase, transition)?;
        Ok(self.change_attempt(id, attempt)?)
    }

    pub(super) fn change_attempt(&self, id: PurchaseId, change: AttemptChange) -> Result<()> {
        let sql = match change {
            AttemptChange::Keep => return Ok(()),
            AttemptChange::End => {
                "UPDATE purchase SET submit_until = NULL, attempt_by = NULL WHERE id = ?1"
            }
            AttemptChange::Accepted => {
                "UPDATE purchase SET submit_until = NULL, attempt_by = NULL, first_send_time = 0
                 WHERE id = ?1"
            }
            AttemptChange::Unsent => {
                "UPDATE purchase SET submit_until = NULL, attempt_by = NULL,
                     first_send_time = NULL, sends = 0
                 WHERE id = ?1"
            }
            AttemptChange::Undate => {
                "UPDATE purchase SET first_send_time = 0
                 WHERE id = ?1 AND first_send_time IS NOT NULL"
            }
            AttemptChange::Extend { submit_until } => {
                let sql = "UPDATE purchase SET submit_until = ?2
                     WHERE id = ?1 AND attempt_by IS NOT NULL";
                let values = (id_bytes(id), submit_until.as_millis());
                self.connection.prepare_cached(sql)?.execute(values)?;
                return Ok(());
            }
            AttemptChange::Begin { attempt, now } => {
                let sql = "UPDATE purchase SET submit_until = ?2, attempt_by = ?3,
                         sends = sends + 1, first_send_time = coalesce(first_send_time, ?4)
                     WHERE id = ?1";
                let (until, now) = (attempt.submit_until.as_millis(), now.as_millis());
                let values = (id_bytes(id), until, attempt_bytes(attempt), now);
                self.connection.prepare_cached(sql)?.execute(values)?;
                return Ok(());
            }
        };
        self.execute_for(sql, id_bytes(id))
    }

    /// The purchase, if a writer that knows it as `expected` may change it.
    pub(super) fn guarded(&self, id: PurchaseId, expected: Expected) -> Applied<Current> {
        let current = self
            .connection
            .prepare_cached(concat!(
                "SELECT ",
                purchase_columns!(),
                ", p.revision, p.state, p.finality, p.attention, p.reference, p.change_time,
                   p.attempt_by, p.sends
                 FROM purchase p WHERE p.id = ?1 AND p.remnant IS NULL"
            ))?
            .query_row([id_bytes(id)], |row| {
                Ok(Current {
                    // The newest status is not needed, and costly to read.
                    purchase: read::purchase(row, Status::pending(Timestamp::default()))?,
                    expected: Expected {
                        revision: Revision(row.get(7)?),
                        attempt: read::attempt_id(row, 13)?,
                        sends: row.get(14)?,
                    },
                    state: read::word(row, 8, State::from_text)?,
                    finality: read::word(row, 9, Finality::from_text)?,
                    attention: row.get(10)?,
                    reference: row.get(11)?,
                    change_time: read::timestamp(row, 12)?,
                })
            })
            .optional()?;
        match current {
            Some(current)
                if current.expected == expected && current.finality != Finality::Final =>
            {
                Ok(current)
            }
            _ => Err(self.stale(id)?),
        }
    }

    fn stale(&self, id: PurchaseId) -> Result<Unmade> {
        let record = read::record(self.connection, self.damage, id)?;
        Ok(Unmade::Guarded(Written::Stale(record.map(Box::new))))
    }

    fn check_reference(&self, purchase: &Purchase, reference: Option<&str>) -> Applied<()> {
        let Some(reference) = reference else {
            return Ok(());
        };
        let account = purchase.account.as_str();
        match read::purchase_by_reference(self.connection, account, reference)? {
            Some(taken) if taken != purchase.id => {
                Err(Unmade::Guarded(Written::ReferenceTaken(taken)))
            }
            _ => Ok(()),
        }
    }

    fn change_time(&self, id: PurchaseId, current: &Current, next: &Status) -> Result<Timestamp> {
        let before = current
            .attention
            .as_deref()
            .and_then(AttentionReason::from_text);
        let is_told = [before, next.attention_reason()]
            .into_iter()
            .flatten()
            .any(AttentionReason::is_silence);
        // Only then does the previous status matter, which is costly to read.
        if is_told && let Some(record) = read::record(self.connection, self.damage, id)? {
            let previous = &record.purchase.status;
            let known = current.change_time;
            return Ok(rules::change_time(previous, known, next, self.age));
        }
        Ok(self.age.stamp(next.observe_time))
    }

    /// Adds a step to the log.
    fn log(&mut self, purchase: &Purchase, transition: Transition) -> Result<()> {
        let Transition {
            from_state,
            mut status,
            cause,
        } = transition;
        let (text, action) = encoding::status_texts(&mut status).map_err(unwritable)?;
        self.head += 1;
        self.connection
            .prepare_cached(
                "INSERT INTO transition_log
                     (position, purchase, revision, caller, from_state, cause, status)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                integer(self.head),
                id_bytes(purchase.id),
                status.revision.0,
                purchase.caller.as_str(),
                from_state.map(State::as_str),
                cause.as_str(),
                text,
            ))?;
        if let Some(action) = action {
            self.connection
                .prepare_cached(
                    "INSERT INTO buyer_action (purchase, revision, action) VALUES (?1, ?2, ?3)",
                )?
                .execute((id_bytes(purchase.id), status.revision.0, action))?;
        }
        self.committed.push(Arc::new(Committed {
            position: Position(self.head),
            purchase: rules::with_status(purchase, status),
            from_state,
            cause,
        }));
        Ok(())
    }

    pub(super) fn wipe_buyer_actions(&self, id: PurchaseId, through: Revision) -> Result<()> {
        self.connection
            .prepare_cached("DELETE FROM buyer_action WHERE purchase = ?1 AND revision <= ?2")?
            .execute((id_bytes(id), through.0))?;
        Ok(())
    }

    pub(super) fn retire(&self, retirement: &Retirement) -> Result<usize> {
        // The oldest remnants go first, so that none is made and deleted by one call.
        let remnants = self.oldest(
            "SELECT id, 0 FROM purchase WHERE remnant IS NOT NULL AND final_time < ?1
                 AND NOT EXISTS (SELECT 1 FROM bound_key
                     WHERE bound_key.purchase = purchase.id AND bind_time >= ?1)
             ORDER BY final_time, id LIMIT ?2",
            retirement.remnants_before,
            retirement.limit,
        )?;
        for (id, _) in &remnants {
            self.execute_for("DELETE FROM bound_key WHERE purchase = ?1", *id)?;
            self.execute_for("DELETE FROM purchase WHERE id = ?1", *id)?;
        }
        let mut rows = remnants.len();
        let finals = self.oldest(
            "SELECT id, revision FROM purchase
             WHERE final_time IS NOT NULL AND remnant IS NULL AND final_time < ?1
             ORDER BY final_time, id LIMIT ?2",
            retirement.finals_before,
            retirement.limit.saturating_sub(rows),
        )?;
        for (id, revisions) in &finals {
            if rows >= retirement.limit {
                break;
            }
            rows += usize::try_from(*revisions).unwrap_or(0) + 1;
            // A token from before the newest position that is taken has missed a transition.
            self.connection
                .prepare_cached(
                    "INSERT INTO kept_text (key, value)
                     SELECT ?2, CAST(MAX(position) AS TEXT) FROM transition_log WHERE purchase = ?1 AND true
                     ON CONFLICT (key) DO UPDATE SET value =
                         CAST(MAX(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER)) AS TEXT)",
                )?
                .execute((id, super::super::FLOOR_KEY))?;
            self.execute_for(
                "UPDATE purchase SET remnant = (SELECT t.status FROM transition_log t
                     WHERE t.purchase = purchase.id AND t.revision = purchase.revision)
                 WHERE id = ?1",
                *id,
            )?;
            self.execute_for(
                "DELETE FROM purchase_label WHERE (caller, key, value, create_time, purchase) IN (
                     SELECT p.caller, label.key, label.value, p.create_time, p.id
                     FROM purchase p, json_each(p.labels) label WHERE p.id = ?1)",
                *id,
            )?;
            self.execute_for("DELETE FROM buyer_action WHERE purchase = ?1", *id)?;
            self.execute_for("DELETE FROM transition_log WHERE purchase = ?1", *id)?;
        }
        if !finals.is_empty() {
            // The newest transition may be among them, and its position must not be given again.
            self.connection
                .prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'head'")?
                .execute([self.head.to_string()])?;
        }
        Ok(rows)
    }

    /// The oldest purchases, each with its number of revisions.
    fn oldest(&self, sql: &str, before: Timestamp, limit: usize) -> Result<Vec<([u8; 16], u32)>> {
        self.connection
            .prepare_cached(sql)?
            .query_map((before.as_millis(), integer(limit)), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect()
    }

    /// The time from which retention counts, if the status is FINAL.
    fn final_time(&self, status: &Status) -> Option<i64> {
        let is_final = status.finality == Finality::Final;
        is_final.then(|| self.age.stamp(status.observe_time).as_millis())
    }

    fn execute_for(&self, sql: &str, id: [u8; 16]) -> Result<()> {
        self.connection.prepare_cached(sql)?.execute([id])?;
        Ok(())
    }
}

/// The id of an attempt in a row.
fn attempt_bytes(attempt: Attempt) -> [u8; 16] {
    attempt.by.0.to_be_bytes()
}

/// The text of fingerprints in a column.
pub(super) fn macs(fingerprints: &Fingerprints) -> Result<String> {
    let fields: BTreeMap<&str, String> = (fingerprints.fields.iter())
        .map(|(name, mac)| (name.as_str(), hex::encode(mac)))
        .collect();
    json(&fields)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}
