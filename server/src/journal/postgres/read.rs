//! Every query that answers a read, but for lists.

use std::{collections::HashMap, sync::Arc};

use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    connect::{Asked, Session, Trouble},
    row::{self, Read, Unread, integer, purchase_columns, small, uuid_of},
};
use crate::{
    journal::{
        Committed, FLOOR_KEY, JournalError, Loss, Position, Record, Witness, damage::Damage,
        questions::Found, rules, shared::Logged,
    },
    purchase::{
        AccountName, CallerName, Purchase, PurchaseId, Revision, Status, Timestamp, Transition,
    },
};

/// A query of whole records. `$keys` has the fingerprints, and `$more` may add a column.
macro_rules! record_query {
    ($more:literal, $from:literal, $keys:literal, $rest:literal) => {
        concat!(
            "SELECT ",
            purchase_columns!(),
            ", coalesce(p.remnant, t.status), a.action, ",
            $keys,
            ".fingerprint_key, ",
            $keys,
            ".fingerprints, p.recovery, p.submit_until, p.attempt_by, p.first_send_time, p.sends,
               p.change_time, p.resolution_note",
            $more,
            " FROM ",
            $from,
            " LEFT JOIN transition_log t ON t.purchase = p.id AND t.revision = p.revision
             LEFT JOIN buyer_action a ON a.purchase = p.id AND a.revision = p.revision ",
            $rest
        )
    };
}

/// A query along the log.
macro_rules! tail_query {
    ($where:literal, $order:literal) => {
        concat!(
            "SELECT ",
            purchase_columns!(),
            ", t.status, t.position, t.from_state, t.cause
             FROM (SELECT * FROM transition_log WHERE ",
            $where,
            " ORDER BY ",
            $order,
            " LIMIT $3) t JOIN purchase p ON p.id = t.purchase ORDER BY t.position"
        )
    };
}

/// The newest position that was ever committed. `$1` is the key of retention's floor.
macro_rules! head_query {
    () => {
        "SELECT greatest(
             (SELECT coalesce(max(position), 0) FROM transition_log),
             (SELECT value::bigint FROM kept_text WHERE key = $1), 0)"
    };
}

/// True if the store has a transition that was told, or retention may have taken it. `$1` is the key of
/// retention's floor, and the rest of the values are [`Shown`].
macro_rules! stands_query {
    ($position:literal, $purchase:literal, $revision:literal) => {
        concat!(
            "SELECT ",
            $position,
            "::bigint IS NULL
             OR EXISTS (SELECT FROM transition_log WHERE position = ",
            $position,
            " AND purchase = ",
            $purchase,
            " AND revision = ",
            $revision,
            ") OR coalesce((SELECT value::bigint FROM kept_text WHERE key = $1), 0) >= ",
            $position
        )
    };
}

const RECORDS: &str = record_query!(
    "",
    "purchase p",
    "p",
    "WHERE p.id = ANY ($1) AND p.remnant IS NULL"
);
const PURCHASES: &str = concat!(
    "SELECT ",
    purchase_columns!(),
    " FROM purchase p WHERE p.id = ANY ($1)"
);
const OPEN_RECORDS: &str = record_query!(
    "",
    "(SELECT * FROM purchase WHERE id >= $1 AND finality <> 'FINAL' ORDER BY id LIMIT $2) p",
    "p",
    "ORDER BY p.id"
);
const OPEN_OF: &str = record_query!(
    "",
    "(SELECT * FROM purchase WHERE account = $3 AND id >= $1 AND finality <> 'FINAL'
      ORDER BY id LIMIT $2) p",
    "p",
    "ORDER BY p.id"
);
/// Steps from one account to the next along an index, however many purchases each has.
const OPEN_ACCOUNTS: &str = "WITH RECURSIVE met (account) AS (
         (SELECT account FROM purchase WHERE finality <> 'FINAL' ORDER BY account LIMIT 1)
         UNION ALL
         SELECT (SELECT p.account FROM purchase p WHERE p.finality <> 'FINAL' AND p.account > met.account
             ORDER BY p.account LIMIT 1)
         FROM met WHERE met.account IS NOT NULL
     )
     SELECT account FROM met WHERE account IS NOT NULL";
const RECORDS_BY_KEYS: &str = record_query!(
    ", asked.number",
    "unnest($1::text[], $2::text[]) WITH ORDINALITY asked (caller, key, number)
     CROSS JOIN LATERAL (
         SELECT o.id, o.fingerprint_key, o.fingerprints FROM purchase o
         WHERE o.caller = asked.caller AND o.key = asked.key
         UNION ALL
         SELECT b.purchase, b.fingerprint_key, b.fingerprints FROM bound_key b
         WHERE b.caller = asked.caller AND b.key = asked.key
     ) named JOIN purchase p ON p.id = named.id",
    "named",
    ""
);
/// The owners of references: of an account, or of the account of a purchase.
const OWNERS: &str = "SELECT o.id, asked.number
     FROM unnest($1::text[], $2::uuid[], $3::bytea[]) WITH ORDINALITY
         asked (account, id, reference, number)
     LEFT JOIN purchase p ON p.id = asked.id
     JOIN purchase o ON o.account = coalesce(asked.account, p.account)
         AND o.reference = asked.reference AND o.reference IS NOT NULL AND o.remnant IS NULL";
const TRANSITIONS: &str = "SELECT asked.id, t.status, t.action, t.from_state, t.cause, asked.number
     FROM unnest($1::uuid[], $2::int[], $3::bigint[]) WITH ORDINALITY asked (id, after, most, number)
     CROSS JOIN LATERAL (
         SELECT l.revision, l.status, a.action, l.from_state, l.cause FROM transition_log l
         LEFT JOIN buyer_action a ON a.purchase = l.purchase AND a.revision = l.revision
         WHERE l.purchase = asked.id AND l.revision > asked.after
         ORDER BY l.revision LIMIT asked.most
     ) t ORDER BY asked.number, t.revision";
const TEXT: &str = "SELECT value FROM kept_text WHERE key = $1";
const TAIL: &str = tail_query!("position > $1 AND position <= $2", "position");
// As rows, so that the index by caller is taken: a planner that expects few of a caller's rows, and many of
// others', walks along all positions instead.
const TAIL_OF_CALLER: &str = tail_query!(
    "(caller, position) > ($4, $1) AND (caller, position) <= ($4, $2)",
    "caller, position"
);
const HEAD: &str = head_query!();
// One statement sees one moment: everything up to that head is there, and a row tells it although nothing is
// new.
const LOG: &str = concat!(
    "SELECT ",
    purchase_columns!(),
    ", t.status, t.position, t.from_state, t.cause, a.action, newest.position, told.stands
     FROM (",
    head_query!(),
    ") newest (position)
     CROSS JOIN (",
    stands_query!("$4", "$5", "$6"),
    ") told (stands)
     LEFT JOIN (SELECT * FROM transition_log WHERE position > $2 ORDER BY position LIMIT $3) t ON true
     LEFT JOIN purchase p ON p.id = t.purchase
     LEFT JOIN buyer_action a ON a.purchase = t.purchase AND a.revision = t.revision
     ORDER BY t.position"
);
const STANDS: &str = stands_query!("$2", "$3", "$4");
const WITNESS: &str =
    "SELECT position, purchase, revision FROM transition_log ORDER BY position DESC LIMIT 1";
const EPOCH: &str = "SELECT value FROM meta WHERE key = 'epoch'";

/// A connection, or a choice of them, that a read goes over.
pub(super) trait Asks: Send {
    type Error: Send;

    /// The rows that answer a statement.
    fn ask(
        &mut self,
        statement: Asked<'_>,
    ) -> impl Future<Output = Result<Vec<Row>, Self::Error>> + Send;
}

impl Asks for Session {
    type Error = Trouble;

    async fn ask(&mut self, statement: Asked<'_>) -> Result<Vec<Row>, Trouble> {
        self.rows(&statement).await
    }
}

/// The answer about each purchase.
pub(super) async fn records<A: Asks>(
    connection: &mut A,
    damage: &Damage,
    ids: &[PurchaseId],
) -> Result<Found<PurchaseId, Option<Record>>, A::Error> {
    let uuids: Vec<_> = ids.iter().map(|id| uuid_of(*id)).collect();
    let rows = connection.ask(Asked::Own(RECORDS, &[&uuids])).await?;
    let mut found: Found<_, _> = ids.iter().map(|id| (*id, Ok(None))).collect();
    for row in rows {
        let record = damage.noted_of(&row, row::record);
        if let Ok(id) = row::id(&row, 0) {
            found.insert(id, record.map(Some).map_err(JournalError::from));
        }
    }
    Ok(found)
}

/// The constant facts of purchases, each with a status that means nothing.
pub(super) async fn purchases<A: Asks>(
    connection: &mut A,
    damage: &Damage,
    ids: &[PurchaseId],
) -> Result<HashMap<PurchaseId, Read<Purchase>>, A::Error> {
    let uuids: Vec<_> = ids.iter().map(|id| uuid_of(*id)).collect();
    let rows = connection.ask(Asked::Own(PURCHASES, &[&uuids])).await?;
    Ok(purchases_of(&rows, damage))
}

/// The same, of rows that begin with the columns of [`row::purchase`].
pub(super) fn purchases_of(rows: &[Row], damage: &Damage) -> HashMap<PurchaseId, Read<Purchase>> {
    let without_status = |row: &Row| row::purchase(row, Status::pending(Timestamp::default()));
    let purchases = rows.iter().filter_map(|row| {
        let id = row::id(row, 0).ok()?;
        Some((id, damage.noted_of(row, without_status)))
    });
    purchases.collect()
}

/// The record or remnant of each key of a caller, in the keys' order.
pub(super) async fn records_by_keys<A: Asks>(
    connection: &mut A,
    damage: &Damage,
    keys: &[(&str, &str)],
) -> Result<Vec<Read<Option<Record>>>, A::Error> {
    // No text of the server's has a U+0000, and so no stored key.
    let (callers, texts): (Vec<&str>, Vec<Option<&str>>) = (keys.iter())
        .map(|(caller, key)| (*caller, (!key.contains('\0')).then_some(*key)))
        .unzip();
    let asked = Asked::Own(RECORDS_BY_KEYS, &[&callers, &texts]);
    let rows = connection.ask(asked).await?;
    let mut found: Vec<_> = keys.iter().map(|_| Ok(None)).collect();
    for row in rows {
        if let Some(place) = numbered(&mut found, &row, 18) {
            *place = damage.noted_of(&row, row::record).map(Some);
        }
    }
    Ok(found)
}

/// A reference's digest with the account that it belongs to, or with a purchase of that account.
pub(super) struct Referring<'name> {
    pub(super) account: Option<&'name str>,
    pub(super) purchase: Option<PurchaseId>,
    pub(super) digest: Vec<u8>,
}

/// The purchase that tracks each reference, in the references' order.
pub(super) async fn owners<A: Asks>(
    connection: &mut A,
    references: &[Referring<'_>],
) -> Result<Vec<Option<PurchaseId>>, A::Error> {
    let accounts: Vec<_> = references.iter().map(|one| one.account).collect();
    let purchases = references.iter().map(|one| one.purchase.map(uuid_of));
    let purchases: Vec<_> = purchases.collect();
    let digests: Vec<_> = references.iter().map(|one| one.digest.as_slice()).collect();
    let asked = Asked::Own(OWNERS, &[&accounts, &purchases, &digests]);
    let rows = connection.ask(asked).await?;
    let mut found: Vec<_> = references.iter().map(|_| None).collect();
    for row in rows {
        if let Some(place) = numbered(&mut found, &row, 1) {
            *place = row::id(&row, 0).ok();
        }
    }
    Ok(found)
}

/// The place of a row that says which question it answers, counted from 1.
fn numbered<'found, T>(found: &'found mut [T], row: &Row, index: usize) -> Option<&'found mut T> {
    let number = row::get::<i64>(row, index).ok()?;
    found.get_mut(usize::try_from(number).ok()?.checked_sub(1)?)
}

/// A purchase, the revision after which to read, and the most transitions.
pub(super) type Steps = (PurchaseId, Revision, usize);

/// The transitions of each purchase.
pub(super) async fn transitions<A: Asks>(
    connection: &mut A,
    damage: &Damage,
    asked: &[Steps],
) -> Result<Found<Steps, Vec<Transition>>, A::Error> {
    let ids: Vec<_> = asked.iter().map(|(id, ..)| uuid_of(*id)).collect();
    let after: Vec<_> = asked.iter().map(|(_, after, _)| small(after.0)).collect();
    let most: Vec<_> = asked.iter().map(|(.., most)| integer(*most)).collect();
    let statement = Asked::Own(TRANSITIONS, &[&ids, &after, &most]);
    let rows = connection.ask(statement).await?;
    let mut found: Vec<Read<Vec<Transition>>> = asked.iter().map(|_| Ok(Vec::new())).collect();
    for row in rows {
        let read = damage.noted_of(&row, row::transition);
        if let Some(place) = numbered(&mut found, &row, 5) {
            match (read, &mut *place) {
                (Ok(transition), Ok(transitions)) => transitions.push(transition),
                (Err(unread), Ok(_)) => *place = Err(unread),
                (_, Err(_)) => {}
            }
        }
    }
    let found = found.into_iter().map(|one| one.map_err(JournalError::from));
    Ok(asked.iter().copied().zip(found).collect())
}

/// Records that are not FINAL, of one account or of all. Goes on beyond those that cannot be read.
pub(super) async fn open_records<A: Asks>(
    connection: &mut A,
    damage: &Damage,
    account: Option<&AccountName>,
    mut after: Option<PurchaseId>,
    limit: usize,
) -> Result<Vec<Record>, A::Error> {
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(from) = after.map_or(Some(0), |id| id.as_u128().checked_add(1))
    {
        let from = uuid_of(PurchaseId::from_u128(from));
        let wanted = limit - found.len();
        let most = integer(wanted);
        let rows = match account.map(AccountName::as_str) {
            None => {
                connection
                    .ask(Asked::Own(OPEN_RECORDS, &[&from, &most]))
                    .await
            }
            Some(account) => {
                let values = [&from as &(dyn ToSql + Sync), &most, &account];
                connection.ask(Asked::Own(OPEN_OF, &values)).await
            }
        }?;
        for row in &rows {
            found.extend(damage.noted_of(row, row::record));
        }
        let last = rows.last().and_then(|row| row::id(row, 0).ok());
        if rows.len() < wanted || last.is_none() {
            break;
        }
        after = last;
    }
    Ok(found)
}

/// The accounts that have records that are not FINAL, by name.
pub(super) async fn open_accounts<A: Asks>(
    connection: &mut A,
) -> Result<Vec<AccountName>, A::Error> {
    let rows = connection.ask(Asked::Own(OPEN_ACCOUNTS, &[])).await?;
    let names = rows.iter().filter_map(|row| row::get::<&str>(row, 0).ok());
    Ok(names.map(AccountName::new).collect())
}

pub(super) async fn tail<A: Asks>(
    connection: &mut A,
    damage: &Damage,
    caller: Option<&CallerName>,
    (after, head): (Position, Position),
    limit: usize,
) -> Result<(Vec<Arc<Committed>>, Position), A::Error> {
    let (from, to, most) = (integer(after.0), integer(head.0), integer(limit));
    let caller = caller.map(CallerName::as_str);
    let rows = match &caller {
        None => connection.ask(Asked::Own(TAIL, &[&from, &to, &most])).await,
        Some(caller) => {
            let values = [&from as &(dyn ToSql + Sync), &to, &most, caller];
            connection.ask(Asked::Own(TAIL_OF_CALLER, &values)).await
        }
    }?;
    let committed = rows
        .iter()
        .filter_map(|row| damage.noted_of(row, row::committed).ok());
    let last = rows.last().and_then(|row| row::position(row, 8).ok());
    let through = rules::searched_through(after, head, last, rows.len() >= limit);
    Ok((committed.map(Arc::new).collect(), through))
}

/// Transitions after a position, with their buyer actions, and the newest position of the same moment; or the
/// loss of commits that the log shows.
pub(super) async fn log<A: Asks>(
    connection: &mut A,
    damage: &Damage,
    (after, witness): (Position, Option<Witness>),
    limit: usize,
) -> Result<Result<Logged, Loss>, A::Error> {
    let (from, most) = (integer(after.0), integer(limit));
    let Shown(position, purchase, revision) = Shown::from(witness);
    let values: [&(dyn ToSql + Sync); 6] =
        [&FLOOR_KEY, &from, &most, &position, &purchase, &revision];
    let rows = connection.ask(Asked::Own(LOG, &values)).await?;
    if let Err(loss) = stood(rows.first(), 13, witness) {
        return Ok(Err(loss));
    }
    let head = rows.first().and_then(|row| row::position(row, 12).ok());
    let places = rows.iter().map_while(|row| row::position(row, 8).ok());
    let (found, last) = (places.clone().count(), places.last());
    let committed = (rows.iter().take(found))
        .filter_map(|row| damage.noted_of(row, row::logged).ok())
        .map(Arc::new);
    let is_whole = found < limit;
    Ok(Ok(Logged {
        committed: committed.collect(),
        through: rules::searched_through(after, head.unwrap_or(after), last, !is_whole),
        is_whole,
    }))
}

/// The values by which the server looks for a witness.
struct Shown(Option<i64>, Option<Uuid>, Option<i32>);

impl From<Option<Witness>> for Shown {
    fn from(witness: Option<Witness>) -> Self {
        let position = witness.map(|one| integer(one.position.0));
        let purchase = witness.map(|one| uuid_of(one.purchase));
        let revision = witness.map(|one| small(one.revision.0));
        Self(position, purchase, revision)
    }
}

/// The server's word on a witness.
fn stood(row: Option<&Row>, index: usize, witness: Option<Witness>) -> Result<(), Loss> {
    let stands = row.is_none_or(|row| row::get(row, index).unwrap_or(true));
    match witness {
        Some(witness) if !stands => Err(Loss::Commits(witness)),
        _ => Ok(()),
    }
}

/// Learns if the store still has a transition that was told. If not, it has lost commits.
pub(super) async fn stands<A: Asks>(
    connection: &mut A,
    witness: Option<Witness>,
) -> Result<Result<(), Loss>, A::Error> {
    let Shown(position, purchase, revision) = Shown::from(witness);
    let values: [&(dyn ToSql + Sync); 4] = [&FLOOR_KEY, &position, &purchase, &revision];
    let rows = connection.ask(Asked::Own(STANDS, &values)).await?;
    Ok(stood(rows.first(), 0, witness))
}

/// The newest transition, if there is one.
pub(super) async fn witness<A: Asks>(
    connection: &mut A,
) -> Result<Read<Option<Witness>>, A::Error> {
    let rows = connection.ask(Asked::Own(WITNESS, &[])).await?;
    let witness = rows.first().map(|row| {
        let revision = u32::try_from(row::get::<i32>(row, 2)?);
        Ok(Witness {
            position: row::position(row, 0)?,
            purchase: row::id(row, 1)?,
            revision: Revision(revision.map_err(|_| Unread(2))?),
        })
    });
    Ok(witness.transpose())
}

pub(super) async fn text<A: Asks>(
    connection: &mut A,
    key: &str,
) -> Result<Option<String>, A::Error> {
    let rows = connection.ask(Asked::Own(TEXT, &[&key])).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// The newest position ever committed, even if its transition has been retired.
pub(super) async fn head<A: Asks>(connection: &mut A) -> Result<Read<Position>, A::Error> {
    let rows = connection.ask(Asked::Own(HEAD, &[&FLOOR_KEY])).await?;
    Ok(rows
        .first()
        .ok_or(Unread(0))
        .and_then(|row| row::position(row, 0)))
}

pub(super) async fn epoch<A: Asks>(connection: &mut A) -> Result<Read<String>, A::Error> {
    let rows = connection.ask(Asked::Own(EPOCH, &[])).await?;
    Ok(rows
        .first()
        .ok_or(Unread(0))
        .and_then(|row| row::get(row, 0)))
}
