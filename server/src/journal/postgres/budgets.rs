//! The budgets of a store on a server, over connections of their own, so that no read and no commit holds
//! a request up.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio_postgres::{Row, types::ToSql};

use super::{
    Settings,
    connect::{Asked, Connector, Session, Trouble},
    row,
};
use crate::{
    clock::Clock,
    journal::{
        Budgets, Heard, JournalError, KeptBudget, Purpose, ReplicaId, Taken, Taking, Word,
        slots::{self, Answer, Asking, Verdict, Wish},
    },
    purchase::AccountName,
};

/// The number of connections. An account's questions go over the same one.
const LINES: u64 = 2;
/// The longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The questions. The server reads its clock by itself.
const TAKE: &str =
    "SELECT verdict, wait_us, arrival_in_us, given, creates_in_us, is_for_longest, held,
        paused_us, unreachable_us, slowed_now, slowed_of
    FROM take_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, NULL)";
const TELL: &str = "SELECT paused_us, unreachable_us, slowed_now, slowed_of
    FROM tell_1($1, $2, $3, $4, $5, $6, $7, $8, NULL)";

/// The budgets of one database, as one process spends them.
pub struct PostgresBudgets {
    connector: Connector,
    replica: ReplicaId,
    clock: Clock,
    /// Each is made when it is needed first.
    lines: BTreeMap<u64, tokio::sync::Mutex<Option<Session>>>,
    /// Looked at in a few nanoseconds.
    outages: Mutex<Outages>,
}

/// The connections that were lost. A crash of the server loses them all, and the takes of its last moments,
/// which it has not kept.
#[derive(Debug, Default)]
struct Outages {
    /// The number of losses.
    all: u64,
    /// The number of losses before each account's last take.
    known: BTreeMap<AccountName, u64>,
}

impl fmt::Debug for PostgresBudgets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PostgresBudgets")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl PostgresBudgets {
    /// The budgets of a database that the journal has opened, for the process with this name and clock. It
    /// connects when it is asked first.
    ///
    /// # Errors
    /// [`JournalError::Unusable`] if the authorities that vouch for the server cannot be read.
    pub fn new(
        settings: &Settings,
        replica: &ReplicaId,
        clock: &Clock,
    ) -> Result<Self, JournalError> {
        Ok(Self {
            connector: Connector::new(settings)?,
            replica: replica.clone(),
            clock: clock.clone(),
            lines: (0..LINES).map(|line| (line, Default::default())).collect(),
            outages: Mutex::default(),
        })
    }

    fn outages(&self) -> MutexGuard<'_, Outages> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection was lost.
    fn lost(&self) {
        self.outages().all += 1;
    }

    /// True if the server may have forgotten the account's last takes.
    fn is_after_outage(&self, account: &AccountName) -> bool {
        let outages = self.outages();
        outages.all > outages.known.get(account).copied().unwrap_or(0)
    }

    /// The account's connection, in turn.
    async fn turn(&self, account: &AccountName) -> Result<Turn<'_>, JournalError> {
        let mut hasher = DefaultHasher::new();
        account.hash(&mut hasher);
        let line = self.lines.get(&(hasher.finish() % LINES));
        let line = line.ok_or_else(|| JournalError::unavailable("there is no such connection"))?;
        let mut kept = line.lock().await;
        let session = match kept.take() {
            Some(session) if session.is_closed() => {
                self.lost();
                self.connector.connect().await
            }
            Some(session) => Ok(session),
            None => self.connector.connect().await,
        };
        let session = session.map_err(Trouble::error)?;
        Ok(Turn { kept, session })
    }

    /// The one row that answers a question, and the times around it.
    async fn ask(
        &self,
        turn: Turn<'_>,
        question: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<(Row, Asking), JournalError> {
        let Turn {
            mut kept,
            mut session,
        } = turn;
        let departed = self.clock.moment();
        let asked = Asked::Own(question, values);
        let answer = tokio::time::timeout(ANSWER_MAX, session.rows(&asked)).await;
        let arrived = self.clock.moment();
        let answer = answer.unwrap_or_else(|_| Err(Trouble::lost("no answer within 5 s")));
        // After any failure the next question has a new connection: a server that could not may have become
        // one that only reads.
        let rows = match answer {
            Ok(rows) => rows,
            Err(trouble) => {
                session.cut();
                self.lost();
                return Err(trouble.error());
            }
        };
        *kept = Some(session);
        let row = rows.into_iter().next();
        let row = row.ok_or_else(|| JournalError::unavailable("there is no answer"))?;
        Ok((row, Asking { departed, arrived }))
    }
}

/// A connection in use. If nobody waits for the answer any more, it is not used again.
struct Turn<'kept> {
    kept: tokio::sync::MutexGuard<'kept, Option<Session>>,
    session: Session,
}

#[async_trait]
impl Budgets for PostgresBudgets {
    fn is_shared(&self) -> bool {
        true
    }

    async fn left(&self, _account: &AccountName) -> Option<KeptBudget> {
        None
    }

    async fn take(&self, account: &AccountName, taking: &Taking) -> Result<Taken, JournalError> {
        let turn = self.turn(account).await?;
        let outages = self.outages().all;
        let wish = match self.is_after_outage(account) {
            true => Wish::of(taking).after_outage(),
            false => Wish::of(taking),
        };
        let values: [&(dyn ToSql + Sync); 14] = [
            &account.as_str(),
            &self.replica.as_str(),
            &letter(wish.purpose),
            &wish.slots,
            &wish.interval_us,
            &wish.tolerance_us,
            &wish.creates_interval_us,
            &wish.creates_tolerance_us,
            &wish.owed_us,
            &wish.creates_owed_us,
            &wish.in_flight,
            &wish.places,
            &wish.places_max,
            &wish.lasts_us,
        ];
        let (row, asking) = self.ask(turn, TAKE, &values).await?;
        self.outages().known.insert(account.clone(), outages);
        Ok(asking.taken(taking, &answer(&row)?))
    }

    async fn tell(&self, account: &AccountName, word: &Word) -> Result<Heard, JournalError> {
        let turn = self.turn(account).await?;
        let word = slots::Word::of(word);
        let values: [&(dyn ToSql + Sync); 8] = [
            &account.as_str(),
            &self.replica.as_str(),
            &word.paused_us,
            &word.unreachable_us,
            &word.slowed_to,
            &word.slowed_full,
            &word.in_flight,
            &word.lasts_us,
        ];
        let (row, asking) = self.ask(turn, TELL, &values).await?;
        Ok(asking.heard(heard(&row, 0)?))
    }
}

/// The purpose as the server's function has it.
pub(in crate::journal) fn letter(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::First => "F",
        Purpose::Poll => "P",
        Purpose::Other => "O",
    }
}

/// Reads a row of [`TAKE`].
pub(in crate::journal) fn answer(row: &Row) -> Result<Answer, JournalError> {
    let verdict = match row::get(row, 0)? {
        "G" => Verdict::Given,
        "B" => Verdict::Busy,
        _ => Verdict::Later,
    };
    Ok(Answer {
        verdict,
        wait_us: row::get(row, 1)?,
        arrival_in_us: row::get(row, 2)?,
        slots: row::get(row, 3)?,
        creates_in_us: row::get(row, 4)?,
        is_for_longest: row::get(row, 5)?,
        held: row::get(row, 6)?,
        heard: heard(row, 7)?,
    })
}

/// Reads the lessons of all processes from the column `first` on.
pub(in crate::journal) fn heard(row: &Row, first: usize) -> Result<slots::Heard, JournalError> {
    Ok(slots::Heard {
        paused_us: row::get(row, first)?,
        unreachable_us: row::get(row, first + 1)?,
        slowed_to: row::get(row, first + 2)?,
        slowed_full: row::get(row, first + 3)?,
    })
}
