//! The board of a store on a server, over a connection of its own.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    Settings,
    connect::{Asked, Connector, Trouble},
    line::Line,
    row::{self, Read, integer, small, uuid_of},
};
use crate::{
    clock::Clock,
    journal::{
        BOARD_ROWS_MAX, Board, JournalError, Outcome, Refresh, Refreshed, ReplicaId,
        SNAPSHOT_BYTES_MAX, Sheet, Told, Wanted, Wish,
        board::{KEPT_FOR, SHOWN_FOR},
    },
    purchase::{AccountName, Moment, PurchaseId},
};

/// The longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The refresh of a wish that has one from now on: it gets the wish's number.
const NEW: i64 = -1;

/// The board of one database, as one process uses it.
#[derive(Debug)]
pub struct PostgresBoard {
    line: Line,
    replica: ReplicaId,
    clock: Clock,
}

impl PostgresBoard {
    /// The board of a database that the journal has opened, for the process with this name and clock. It
    /// connects when it is used first.
    ///
    /// # Errors
    /// [`JournalError::Unusable`] if the authorities that vouch for the server cannot be read.
    pub fn new(
        settings: &Settings,
        replica: &ReplicaId,
        clock: &Clock,
    ) -> Result<Self, JournalError> {
        let connector = Arc::new(Connector::new(settings)?);
        Ok(Self {
            line: Line::new(&connector, ANSWER_MAX),
            replica: replica.clone(),
            clock: clock.clone(),
        })
    }

    async fn rows(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, JournalError> {
        let rows = self.line.rows(&Asked::Own(sql, values)).await;
        rows.map_err(Trouble::error)
    }

    /// The one value of an answer.
    async fn value<T>(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
        read: impl FnOnce(&Row) -> Read<T>,
    ) -> Result<T, JournalError> {
        let rows = self.rows(sql, values).await?;
        let row = rows.first();
        let row = row.ok_or_else(|| JournalError::unavailable("there is no answer"))?;
        Ok(read(row)?)
    }
}

/// So many milliseconds from one moment to another; negative if that one is before.
fn ahead(now: Moment, moment: Option<Moment>) -> Option<i64> {
    let millis = |moment: Moment| moment.as_millis();
    moment.map(|moment| millis(moment).saturating_sub(millis(now)))
}

fn later(now: Moment, ahead: Option<i64>) -> Option<Moment> {
    ahead.map(|ahead| Moment::from_millis(now.as_millis().saturating_add(ahead)))
}

fn number(row: &Row, column: usize) -> Read<u64> {
    let number: i64 = row::get(row, column)?;
    Ok(number.unsigned_abs())
}

fn count(row: &Row, column: usize) -> Read<u32> {
    let count: i32 = row::get(row, column)?;
    Ok(count.unsigned_abs())
}

/// Marks are rows without a purchase.
fn sheet(rows: &[Row]) -> Read<Sheet> {
    let mut sheet = Sheet::default();
    for row in rows {
        let replica = ReplicaId::new(row::get(row, 0)?);
        let (number, refresh) = (number(row, 1)?, number(row, 5)?);
        match row::get::<Option<Uuid>>(row, 2)? {
            None => {
                sheet.marks.insert(replica, number);
            }
            Some(purchase) => sheet.wanted.push(Wanted {
                purchase: PurchaseId::from_uuid(purchase),
                account: AccountName::new(row::get(row, 3)?),
                replica,
                watchers: count(row, 4)?,
                refresh: (refresh > 0).then_some(refresh),
                is_over: row::get(row, 6)?,
                number,
            }),
        }
    }
    Ok(sheet)
}

fn told(row: &Row, now: Moment) -> Read<Told> {
    let time = |column| Ok(later(now, row::get(row, column)?));
    let refreshed = number(row, 5)?;
    Ok(Told {
        purchase: row::id(row, 0)?,
        answered: time(1)?,
        next_poll: time(2)?,
        held_back_since: time(3)?,
        failures: count(row, 4)?,
        refreshed: match refreshed {
            0 => None,
            number => Some(Refreshed {
                number,
                outcome: Outcome::of_word(row::get(row, 6)?),
                retry_at: time(7)?,
            }),
        },
    })
}

#[async_trait]
impl Board for PostgresBoard {
    fn is_shared(&self) -> bool {
        true
    }

    async fn mark(&self) -> Result<u64, JournalError> {
        const MARK: &str = "SELECT mark_1($1)";
        self.value(MARK, &[&self.replica.as_str()], |row| number(row, 0))
            .await
    }

    async fn wish(&self, mark: u64, wishes: &[Wish]) -> Result<Option<Vec<u64>>, JournalError> {
        const WISH: &str = "SELECT wish_1($1, $2, $3, $4, $5, $6, $7)";
        let purchases: Vec<Uuid> = wishes.iter().map(|wish| uuid_of(wish.purchase)).collect();
        let accounts: Vec<&str> = wishes.iter().map(|wish| wish.account.as_str()).collect();
        let watchers: Vec<i32> = wishes.iter().map(|wish| small(wish.watchers)).collect();
        let refresh = |wish: &Wish| match wish.refresh {
            Refresh::None => 0,
            Refresh::New => NEW,
            Refresh::Waits(number) => integer(number),
        };
        let refreshes: Vec<i64> = wishes.iter().map(refresh).collect();
        let overs: Vec<bool> = wishes.iter().map(|wish| wish.is_over).collect();
        let values: [&(dyn ToSql + Sync); 7] = [
            &self.replica.as_str(),
            &integer(mark),
            &purchases,
            &accounts,
            &watchers,
            &refreshes,
            &overs,
        ];
        let numbers: Option<Vec<i64>> = self.value(WISH, &values, |row| row::get(row, 0)).await?;
        let numbers = numbers.map(|numbers| numbers.into_iter().map(i64::unsigned_abs).collect());
        Ok(numbers)
    }

    async fn wanted(
        &self,
        after: &[(AccountName, u64)],
        limit: usize,
    ) -> Result<Sheet, JournalError> {
        // One statement, so that marks and wishes are of one moment.
        const WANTED: &str = "SELECT m.replica, m.number, null::uuid, null, 0, 0::bigint, false
                 FROM board_mark m WHERE m.replica <> $1
             UNION ALL (SELECT w.replica, w.number, w.purchase, w.account, w.watchers, w.refresh, w.is_over
                 FROM unnest($2::text[], $3::bigint[]) a (account, number)
                 CROSS JOIN LATERAL (SELECT * FROM wanted w
                     WHERE w.account = a.account AND w.number > a.number AND w.replica <> $1
                         AND EXISTS (SELECT FROM board_mark m
                             WHERE m.replica = w.replica AND m.number < w.number)
                     ORDER BY w.account, w.number LIMIT $4) w
                 ORDER BY w.number LIMIT $4)";
        let accounts: Vec<&str> = after.iter().map(|(account, _)| account.as_str()).collect();
        let numbers: Vec<i64> = after.iter().map(|(_, number)| integer(*number)).collect();
        let limit = integer(limit.min(BOARD_ROWS_MAX));
        let values: [&(dyn ToSql + Sync); 4] =
            [&self.replica.as_str(), &accounts, &numbers, &limit];
        Ok(sheet(&self.rows(WANTED, &values).await?)?)
    }

    async fn tell(&self, told: &[Told]) -> Result<(), JournalError> {
        const TELL: &str = "SELECT tell_board_1($1, $2, $3, $4, $5, $6, $7, $8)";
        let now = self.clock.moment();
        let times = |time: fn(&Told) -> Option<Moment>| -> Vec<Option<i64>> {
            told.iter().map(|told| ahead(now, time(told))).collect()
        };
        let purchases: Vec<Uuid> = told.iter().map(|told| uuid_of(told.purchase)).collect();
        let failures: Vec<i32> = told.iter().map(|told| small(told.failures)).collect();
        let ends = told.iter().map(|told| match told.refreshed {
            Some(refreshed) => (integer(refreshed.number), refreshed.outcome.word()),
            None => (0, ""),
        });
        let (refreshed, outcomes): (Vec<i64>, Vec<&str>) = ends.unzip();
        let values: [&(dyn ToSql + Sync); 8] = [
            &purchases,
            &times(|told| told.answered),
            &times(|told| told.next_poll),
            &times(|told| told.held_back_since),
            &failures,
            &refreshed,
            &outcomes,
            &times(|told| told.refreshed.and_then(|refreshed| refreshed.retry_at)),
        ];
        self.rows(TELL, &values).await.map(drop)
    }

    async fn told(&self, purchases: &[PurchaseId]) -> Result<Vec<Told>, JournalError> {
        const TOLD: &str =
            "SELECT t.purchase, t.answered - now, t.next_poll - now, t.held_back_since - now,
                 t.failures, t.refreshed, t.outcome, t.retry - now
             FROM told t, now_1() now WHERE t.purchase = ANY ($1)";
        let purchases: Vec<Uuid> = purchases.iter().map(|one| uuid_of(*one)).collect();
        let rows = self.rows(TOLD, &[&purchases]).await?;
        let now = self.clock.moment();
        let told: Read<Vec<Told>> = rows.iter().map(|row| told(row, now)).collect();
        Ok(told?)
    }

    async fn show(&self, snapshots: &[(AccountName, String)]) -> Result<(), JournalError> {
        const SHOW: &str = "SELECT show_1($1, $2)";
        let short = |(_, text): &&(AccountName, String)| text.len() <= SNAPSHOT_BYTES_MAX;
        let short = snapshots.iter().filter(short);
        let (accounts, texts): (Vec<&str>, Vec<&str>) = short
            .map(|(account, text)| (account.as_str(), text.as_str()))
            .unzip();
        self.rows(SHOW, &[&accounts, &texts]).await.map(drop)
    }

    async fn shown(
        &self,
        accounts: &[AccountName],
    ) -> Result<Vec<(AccountName, String)>, JournalError> {
        const SHOWN: &str = "SELECT a.account, a.snapshot FROM account_shown a
             WHERE a.account = ANY ($1) AND a.put_time > now_1() - $2";
        let names: Vec<&str> = accounts.iter().map(AccountName::as_str).collect();
        let age = integer(SHOWN_FOR.as_millis());
        let rows = self.rows(SHOWN, &[&names, &age]).await?;
        let shown = rows.iter().map(|row| {
            let (account, text): (&str, &str) = (row::get(row, 0)?, row::get(row, 1)?);
            Ok((AccountName::new(account), text.to_owned()))
        });
        let shown: Read<Vec<(AccountName, String)>> = shown.collect();
        Ok(shown?)
    }

    async fn tidy(&self) -> Result<usize, JournalError> {
        const TIDY: &str = "SELECT tidy_1($1, $2)";
        let (age, most) = (integer(KEPT_FOR.as_millis()), integer(BOARD_ROWS_MAX));
        let rows = self
            .value(TIDY, &[&age, &most], |row| number(row, 0))
            .await?;
        Ok(usize::try_from(rows).unwrap_or(usize::MAX))
    }
}
