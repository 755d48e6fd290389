//! A database as the source or the target of a move.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use tokio_postgres::types::ToSql;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BEAT_PATIENCE,
    connect::{Asked, Connector, Session, Trouble},
    line::Line,
    named,
    opening::{Opening, Writing},
    rivals::{self, Sharing},
    row::{integer, label},
    schema::Schema,
    settings::Settings,
};
use crate::{
    clock::Clock,
    journal::{
        JournalError, Position,
        committer::Published,
        moving::{FIRST, MOVED, MOVING, Marks, Movable, PAGE, Page, Rest},
    },
};

const PURCHASES: &str = "SELECT row_to_json(r)::text FROM (
         SELECT replace(id::text, '-', '') AS id, account, provider, caller, key, labels, create_time, revision,
             state, finality, attention, encode(reference, 'hex') AS reference, change_time, final_time,
             fingerprint_key, encode(fingerprints, 'hex') AS fingerprints, recovery, submit_until,
             replace(attempt_by::text, '-', '') AS attempt_by, first_send_time, sends, resolution_note, remnant
         FROM purchase p WHERE p.id > $1::text::uuid ORDER BY p.id LIMIT $2) r";
const STEPS: &str = "SELECT row_to_json(r)::text FROM (
         SELECT position, replace(purchase::text, '-', '') AS purchase, revision, caller, from_state, cause, status
         FROM transition_log t WHERE t.purchase > $1::text::uuid AND t.purchase <= $2::text::uuid
         ORDER BY t.purchase, t.revision) r";
const ACTIONS: &str = "SELECT row_to_json(r)::text FROM (
         SELECT replace(purchase::text, '-', '') AS purchase, revision, action
         FROM buyer_action a WHERE a.purchase > $1::text::uuid AND a.purchase <= $2::text::uuid
         ORDER BY a.purchase, a.revision) r";
const KEYS: &str = "SELECT row_to_json(r)::text FROM (
         SELECT caller, key, replace(purchase::text, '-', '') AS purchase, fingerprint_key,
             encode(fingerprints, 'hex') AS fingerprints, bind_time
         FROM bound_key k WHERE k.purchase > $1::text::uuid AND k.purchase <= $2::text::uuid
         ORDER BY k.caller, k.key) r";
const TEXTS: &str = "SELECT json_build_array(key, value)::text FROM kept_text ORDER BY key";
/// In milliseconds; a part of one counts as a whole.
const BUDGETS: &str = "SELECT json_build_array(account,
         json_build_array(div(arrival_us + 999, 1000), div(creates_us + 999, 1000)))::text FROM budget";
/// The sequence may be ahead of all rows.
const HEAD: &str = "SELECT greatest((SELECT coalesce(max(position), 0) FROM transition_log),
         (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM feed_position))";
const FACTS: &str = "SELECT json_build_array(key, value)::text FROM meta";

const INSERT_PURCHASES: &str = "INSERT INTO purchase (id, account, provider, caller, key, labels, create_time,
         revision, state, finality, attention, reference, change_time, final_time, fingerprint_key, fingerprints,
         recovery, submit_until, attempt_by, first_send_time, sends, resolution_note, remnant)
     SELECT id, account, provider, caller, key, labels, create_time, revision, state, finality, attention,
         decode(reference, 'hex'), change_time, final_time, fingerprint_key, decode(fingerprints, 'hex'),
         recovery, submit_until, attempt_by, first_send_time, sends, resolution_note, remnant
     FROM json_to_recordset($1::text::json) r (id uuid, account text, provider text, caller text, key text,
         labels text, create_time bigint, revision integer, state text, finality text, attention text,
         reference text, change_time bigint, final_time bigint, fingerprint_key text, fingerprints text,
         recovery text, submit_until bigint, attempt_by uuid, first_send_time bigint, sends integer,
         resolution_note text, remnant text)";
const INSERT_LABELS: &str = "INSERT INTO purchase_label (purchase, key, value, caller, create_time)
     SELECT purchase, key, value, caller, create_time FROM json_to_recordset($1::text::json)
         r (purchase uuid, key text, value text, caller text, create_time bigint)";
const INSERT_STEPS: &str = "INSERT INTO transition_log
         (position, purchase, revision, caller, from_state, cause, status)
     SELECT position, purchase, revision, caller, from_state, cause, status
     FROM json_to_recordset($1::text::json) r (position bigint, purchase uuid, revision integer, caller text,
         from_state text, cause text, status text)";
const INSERT_ACTIONS: &str = "INSERT INTO buyer_action (purchase, revision, action)
     SELECT purchase, revision, action
     FROM json_to_recordset($1::text::json) r (purchase uuid, revision integer, action text)";
const INSERT_KEYS: &str = "INSERT INTO bound_key
         (caller, key, purchase, fingerprint_key, fingerprints, bind_time)
     SELECT caller, key, purchase, fingerprint_key, decode(fingerprints, 'hex'), bind_time
     FROM json_to_recordset($1::text::json) r (caller text, key text, purchase uuid, fingerprint_key text,
         fingerprints text, bind_time bigint)";
const INSERT_TEXTS: &str = "INSERT INTO kept_text (key, value)
     SELECT t ->> 0, t ->> 1 FROM json_array_elements($1::text::json) t";
/// Times are by the clock of this process, as far as anybody knows: the account's move back if the server's
/// clock is behind it.
const INSERT_BUDGETS: &str = "INSERT INTO budget (account, arrival_us, creates_us, seen_us)
     SELECT b.key, (b.value ->> 0)::bigint * 1000, (b.value ->> 1)::bigint * 1000, $2::bigint * 1000
     FROM json_each($1::text::json) b";
const SET_HEAD: &str = "SELECT setval('feed_position', greatest($1::bigint, 1), $1::bigint > 0)";
const MARK: &str = "INSERT INTO meta (key, value) VALUES ($1, $2)
     ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const UNMARK: &str = "DELETE FROM meta WHERE key = $1";

/// A statement of a transaction, with its values.
type Step<'value> = (&'static str, Vec<&'value (dyn ToSql + Sync)>);

/// A row of `purchase_label`.
#[derive(Serialize)]
struct LabelRow<'row> {
    purchase: &'row str,
    key: String,
    value: String,
    caller: &'row str,
    create_time: i64,
}

/// A database that this process has, as a server would have it.
pub(crate) struct MovingDatabase {
    opening: Opening,
    writing: Writing,
    clock: Clock,
    beat: CancellationToken,
    tasks: TaskTracker,
}

/// Ends a process that is about to serve a database that a move is at, or has left.
pub(super) async fn refuse_moving(
    session: &mut Session,
    writing: &Writing,
) -> Result<(), JournalError> {
    let allowed = marks(session).await?.allow_to_serve();
    if allowed.is_err() {
        writing.exit(session).await.map_err(Trouble::error)?;
    }
    allowed
}

/// The marks of a database.
async fn marks(session: &mut Session) -> Result<Marks, JournalError> {
    let mut marks = Marks::default();
    let facts: Vec<(String, String)> = texts(session, FACTS, &[]).await?;
    for (key, value) in facts {
        marks.read(&key, value);
    }
    marks.is_empty = head(session).await? == 0;
    Ok(marks)
}

/// The newest position that was ever given; 0 if none was.
async fn head(session: &mut Session) -> Result<i64, JournalError> {
    let rows = session.rows(&Asked::Own(HEAD, &[])).await;
    let rows = rows.map_err(Trouble::error)?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

/// Rows, each of which is one JSON text.
async fn texts<T: DeserializeOwned>(
    session: &mut Session,
    sql: &'static str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Vec<T>, JournalError> {
    let rows = session.rows(&Asked::Own(sql, values)).await;
    let unread = |error| JournalError::unusable(format_args!("a row cannot be read: {error}"));
    (rows.map_err(Trouble::error)?.iter())
        .map(|row| serde_json::from_str(row.get(0)).map_err(unread))
        .collect()
}

impl MovingDatabase {
    /// Takes a database for a move, and brings its schema to this build's.
    ///
    /// # Errors
    /// As those of a journal's opening, and if there is no source.
    pub(crate) async fn open(
        settings: &Settings,
        is_source: bool,
        clock: &Clock,
    ) -> Result<Self, JournalError> {
        let opened = Self::opened(settings, is_source, clock).await;
        opened.map_err(|error| named(settings, error))
    }

    async fn opened(
        settings: &Settings,
        is_source: bool,
        clock: &Clock,
    ) -> Result<Self, JournalError> {
        let connector = Arc::new(Connector::new(settings)?);
        let mut session = connector.connect().await.map_err(Trouble::error)?;
        if is_source && !Schema::OWN.is_there(&mut session).await? {
            return Err(JournalError::unusable("there is no journal"));
        }
        Schema::OWN.prepare(&mut session, clock).await?;
        // A move of what this build does not know would lose it.
        Schema::OWN.check_whole(&mut session).await?;
        // Pages go along the indexes, whatever the planner knows of the tables.
        let plans = session
            .execute("SET enable_seqscan = off; SET jit = off")
            .await;
        plans.map_err(Trouble::error)?;
        let writing = Writing::new(clock.uuid());
        let opening = rivals::enter(session, &writing, (Sharing::Alone, Schema::OWN)).await?;
        let (beat, tasks) = (CancellationToken::new(), TaskTracker::new());
        // Each change looks for itself if the database is still this process's.
        let published = Arc::new(Published::new(Position(0)));
        let line = Line::new(&connector, BEAT_PATIENCE);
        tasks.spawn(rivals::beat(line, writing.clone(), published, beat.clone()));
        Ok(Self {
            opening,
            writing,
            clock: clock.clone(),
            beat,
            tasks,
        })
    }

    /// One transaction, if no other process has taken the database.
    async fn transaction(&mut self, steps: &[Step<'_>]) -> Result<(), JournalError> {
        let done = self.steps(steps).await;
        if done.is_err() {
            // Over a connection that is gone there is nothing to undo.
            let _ = self.opening.session.execute("ROLLBACK").await;
        }
        done
    }

    async fn steps(&mut self, steps: &[Step<'_>]) -> Result<(), JournalError> {
        const LOCK: &str = "SELECT pg_advisory_xact_lock(8, hashtext($1))";
        const HELD: &str = "SELECT FROM replica WHERE id = $1 AND opening = $2 AND NOT is_gone";
        let (session, id) = (&mut self.opening.session, self.writing.name());
        session.execute("BEGIN").await.map_err(Trouble::error)?;
        let locked = session.rows(&Asked::Own(LOCK, &[&id])).await;
        locked.map_err(Trouble::error)?;
        let held = session
            .rows(&Asked::Own(HELD, &[&id, &self.opening.number]))
            .await;
        if held.map_err(Trouble::error)?.is_empty() {
            return Err(JournalError::unusable("another process has taken it"));
        }
        for (sql, values) in steps {
            let done = session.rows(&Asked::Own(sql, values)).await;
            done.map_err(Trouble::error)?;
        }
        session.execute("COMMIT").await.map_err(Trouble::error)
    }
}

#[async_trait]
impl Movable for MovingDatabase {
    async fn marks(&mut self) -> Result<Marks, JournalError> {
        marks(&mut self.opening.session).await
    }

    async fn page(&mut self, after: &str) -> Result<Page, JournalError> {
        let session = &mut self.opening.session;
        let most = integer(PAGE);
        let mut page = Page {
            purchases: texts(session, PURCHASES, &[&after, &most]).await?,
            ..Page::default()
        };
        if let Some(last) = page.last().map(str::to_owned) {
            let range: [&(dyn ToSql + Sync); 2] = [&after, &last];
            page.steps = texts(session, STEPS, &range).await?;
            page.actions = texts(session, ACTIONS, &range).await?;
            page.keys = texts(session, KEYS, &range).await?;
        }
        Ok(page)
    }

    async fn rest(&mut self) -> Result<Rest, JournalError> {
        let session = &mut self.opening.session;
        let head = head(session).await?;
        let kept = texts(session, TEXTS, &[]).await?;
        Ok(Rest::new(head, kept, texts(session, BUDGETS, &[]).await?))
    }

    async fn begin(&mut self, epoch: &str) -> Result<(), JournalError> {
        const CLEAR: [&str; 6] = [
            "DELETE FROM buyer_action",
            "DELETE FROM bound_key",
            "DELETE FROM transition_log",
            "DELETE FROM purchase_label",
            "DELETE FROM purchase",
            "DELETE FROM kept_text",
        ];
        let mut steps: Vec<Step<'_>> = CLEAR.map(|sql| (sql, vec![])).into();
        steps.push((MARK, vec![&"epoch", &epoch]));
        steps.push((MARK, vec![&MOVING, &FIRST]));
        self.transaction(&steps).await
    }

    async fn keep(&mut self, page: &Page) -> Result<(), JournalError> {
        let purchases = json(&page.purchases)?;
        let labels = json(&labels(page)?)?;
        let steps = json(&page.steps)?;
        let actions = json(&page.actions)?;
        let keys = json(&page.keys)?;
        let last = page.last().unwrap_or(FIRST);
        self.transaction(&[
            (INSERT_PURCHASES, vec![&purchases]),
            (INSERT_LABELS, vec![&labels]),
            (INSERT_STEPS, vec![&steps]),
            (INSERT_ACTIONS, vec![&actions]),
            (INSERT_KEYS, vec![&keys]),
            (MARK, vec![&MOVING, &last]),
        ])
        .await
    }

    async fn keep_rest(&mut self, rest: &Rest) -> Result<(), JournalError> {
        let (texts, budgets) = (json(&rest.kept())?, json(&rest.budgets)?);
        let now = self.clock.now().as_millis();
        self.transaction(&[
            ("DELETE FROM kept_text", vec![]),
            (INSERT_TEXTS, vec![&texts]),
            ("DELETE FROM budget", vec![]),
            (INSERT_BUDGETS, vec![&budgets, &now]),
            (SET_HEAD, vec![&rest.head]),
        ])
        .await
    }

    async fn finish(&mut self) -> Result<(), JournalError> {
        self.transaction(&[(UNMARK, vec![&MOVING])]).await
    }

    async fn leave(&mut self) -> Result<(), JournalError> {
        self.transaction(&[(MARK, vec![&MOVED, &""])]).await
    }

    async fn close(mut self: Box<Self>) {
        self.beat.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // If it cannot be told, the next process waits until this one counts as cut off.
        let _ = self.writing.exit(&mut self.opening.session).await;
    }
}

/// The labels of the purchases that lists show.
fn labels(page: &Page) -> Result<Vec<LabelRow<'_>>, JournalError> {
    let mut rows = Vec::new();
    for purchase in page.purchases.iter().filter(|row| row.remnant.is_none()) {
        let labels: BTreeMap<String, String> =
            serde_json::from_str(&purchase.labels).map_err(JournalError::unusable)?;
        rows.extend(labels.iter().map(|(key, value)| LabelRow {
            purchase: &purchase.id,
            key: label(key),
            value: label(value),
            caller: &purchase.caller,
            create_time: purchase.create_time,
        }));
    }
    Ok(rows)
}

fn json(rows: &impl Serialize) -> Result<String, JournalError> {
    serde_json::to_string(rows).map_err(JournalError::unusable)
}
