//! The leases of a database that several processes share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_postgres::{Row, types::ToSql};
use tokio_util::sync::CancellationToken;

use super::{
    connect::{Asked, Connector, Refusal, Trouble},
    line::Line,
    opening::Writing,
    row::{self, Read, Unread, integer},
};
use crate::{
    journal::{
        Fence, JournalError, LEASE_LASTS, Lease, Limits, Look, Loss, Ownership, Replica, ReplicaId,
        committer::Published,
    },
    purchase::AccountName,
};

/// The longest wait for an answer. One that comes later is of no use: everybody has begun to wait anew.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The leases of a database, as one of its processes uses them.
#[derive(Debug)]
pub(super) struct PostgresOwnership {
    replica: ReplicaId,
    /// Looks have a connection of their own, so that no take delays one.
    looks: Line,
    changes: Line,
    published: Arc<Published>,
    /// Cancelled once this process has ended its row itself.
    ended: CancellationToken,
}

impl PostgresOwnership {
    pub(super) fn new(
        connector: &Arc<Connector>,
        writing: &Writing,
        published: &Arc<Published>,
        ended: &CancellationToken,
    ) -> Self {
        Self {
            replica: ReplicaId::new(writing.name()),
            looks: Line::new(connector, ANSWER_MAX),
            changes: Line::new(connector, ANSWER_MAX),
            published: Arc::clone(published),
            ended: ended.clone(),
        }
    }

    /// A failure, as the owner hears of it.
    fn told(&self, trouble: Trouble) -> JournalError {
        match trouble {
            Trouble::Refused(Refusal::OtherOpening, error) if !self.ended.is_cancelled() => {
                self.published.lose_store(Loss::TakenOver);
                JournalError::unusable(error)
            }
            trouble => trouble.error(),
        }
    }

    async fn change(&self, call: Asked<'_>) -> Result<Vec<Row>, JournalError> {
        let answer = self.changes.rows(&call).await;
        answer.map_err(|trouble| self.told(trouble))
    }
}

/// The time that a lease lasts after its last renewal, in milliseconds.
fn lasts() -> i64 {
    integer(LEASE_LASTS.as_millis())
}

fn counted(row: &Row, column: usize) -> Read<u64> {
    let count: i64 = row::get(row, column)?;
    Ok(count.unsigned_abs())
}

/// The limits that a process has told: for each account the numbers of [`Limits`], in their order. `None` if
/// they cannot be read.
fn limits(text: &str) -> Option<BTreeMap<AccountName, Limits>> {
    if text.is_empty() {
        return Some(BTreeMap::new());
    }
    let told: BTreeMap<String, [u32; 3]> = serde_json::from_str(text).ok()?;
    let limits = told.into_iter().map(|(account, numbers)| {
        let [requests_per_minute, creates_per_minute, max_in_flight] = numbers;
        let limits = Limits {
            requests_per_minute,
            creates_per_minute,
            max_in_flight,
        };
        (AccountName::new(&account), limits)
    });
    Some(limits.collect())
}

/// All replicas and leases of an answer, and the server's time.
fn seen(rows: &[Row]) -> Read<Look> {
    let mut look = Look::default();
    for row in rows {
        let (name, owner): (&str, Option<&str>) = (row::get(row, 1)?, row::get(row, 2)?);
        let (beat, is_ending) = (counted(row, 4)?, row::get(row, 5)?);
        look.time = Some(row::timestamp(row, 6)?);
        match row::get(row, 0)? {
            true => look.leases.push(Lease {
                account: AccountName::new(name),
                owner: owner.map(ReplicaId::new),
                fence: counted(row, 3)?,
                beat,
                has_expired: is_ending,
            }),
            false => look.replicas.push(Replica {
                id: ReplicaId::new(name),
                beat,
                is_leaving: is_ending,
                limits: limits(row::get(row, 7)?).ok_or(Unread(7))?,
            }),
        }
    }
    Ok(look)
}

#[async_trait]
impl Ownership for PostgresOwnership {
    fn is_shared(&self) -> bool {
        true
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    async fn configure(&self, limits: &BTreeMap<AccountName, Limits>) -> Result<(), JournalError> {
        const CONFIGURE: &str = "SELECT configure_1($1, $2)";
        let numbers = |limits: &Limits| limits.named().map(|(_, limit)| limit);
        let told = limits
            .iter()
            .map(|(name, one)| (name.as_str(), numbers(one)));
        let told: BTreeMap<&str, [u32; 3]> = told.collect();
        let text = serde_json::to_string(&told).map_err(JournalError::unavailable)?;
        let configuring = Asked::Own(CONFIGURE, &[&self.replica.as_str(), &text]);
        self.change(configuring).await.map(drop)
    }

    async fn look(&self, renewed: &[Fence]) -> Result<Look, JournalError> {
        const LOOK: &str = "SELECT l.*, now_1(), r.limits FROM look_1($1, $2, $3, $4) l
            LEFT JOIN replica r ON NOT l.o_is_lease AND r.id = l.o_name";
        let accounts = renewed.iter().map(|fence| fence.account.as_str());
        let accounts: Vec<&str> = accounts.collect();
        let fences: Vec<i64> = renewed.iter().map(|fence| integer(fence.number)).collect();
        let values: [&(dyn ToSql + Sync); 4] =
            [&self.replica.as_str(), &lasts(), &accounts, &fences];
        let rows = self.looks.rows(&Asked::Own(LOOK, &values)).await;
        let rows = rows.map_err(|trouble| self.told(trouble))?;
        Ok(seen(&rows)?)
    }

    async fn take(
        &self,
        account: &AccountName,
        seen: Option<&Lease>,
    ) -> Result<Option<Fence>, JournalError> {
        const TAKE: &str = "SELECT take_1($1, $2, $3, $4, $5)";
        let fence = seen.map(|lease| integer(lease.fence));
        let beat = seen.map(|lease| integer(lease.beat));
        let values: [&(dyn ToSql + Sync); 5] = [
            &self.replica.as_str(),
            &lasts(),
            &account.as_str(),
            &fence,
            &beat,
        ];
        let rows = self.change(Asked::Own(TAKE, &values)).await?;
        let taken: Option<i64> = match rows.first() {
            Some(row) => row::get(row, 0)?,
            None => None,
        };
        Ok(taken.map(|number| Fence {
            account: account.clone(),
            number: number.unsigned_abs(),
        }))
    }

    async fn release(&self, fence: &Fence) -> Result<(), JournalError> {
        const RELEASE: &str = "SELECT release_1($1, $2)";
        let values: [&(dyn ToSql + Sync); 2] = [&fence.account.as_str(), &integer(fence.number)];
        self.change(Asked::Own(RELEASE, &values)).await.map(drop)
    }

    async fn leave(&self) -> Result<(), JournalError> {
        const LEAVE: &str = "SELECT leave_1($1)";
        let leaving = Asked::Own(LEAVE, &[&self.replica.as_str()]);
        self.change(leaving).await.map(drop)
    }
}
