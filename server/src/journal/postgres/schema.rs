//! The schema's migrations (embedded, numbered, checksummed), and the checks of a database before use.

use sha2::{Digest as _, Sha256};

use super::{
    connect::{Asked, Refusal, Session, Trouble},
    rivals, row,
};
use crate::{clock::Clock, journal::JournalError};

/// All migrations in order; the first is number 1. A released one is never edited, and neither is a
/// function in it: a changed one gets the next number in its name.
const MIGRATIONS: &[&str] = &[
    include_str!("0001_journal.sql"),
    include_str!("0002_commit.sql"),
    include_str!("0003_opening.sql"),
    include_str!("0004_leases.sql"),
    include_str!("0005_budgets.sql"),
    include_str!("0006_board.sql"),
    include_str!("0007_hints.sql"),
    include_str!("0008_open.sql"),
    include_str!("0009_limits.sql"),
];

/// The migrations that builds without them can live with, each by its number, with the oldest level that can. Any
/// other one is for builds that know it.
///
/// A migration that older builds cannot live with belongs into the release after the one that made it possible:
/// the processes of two releases in a row use one database at a time.
const MILD: &[(i32, i32)] = &[(8, 7), (9, 7)];

/// The migrations that a build knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema {
    migrations: &'static [&'static str],
    mild: &'static [(i32, i32)],
}

/// The tries to get the locks of a migration. Each waits for [`LOCK_TIMEOUT`], and lets others go on
/// before the next.
const TRIES: usize = 15;
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

/// The oldest version of the server that has all that is used here.
const SERVER_MIN: i32 = 140_000;

impl Schema {
    /// The schema of this build.
    pub(crate) const OWN: Self = Self {
        migrations: MIGRATIONS,
        mild: MILD,
    };

    /// The schema of a later build: one more migration, and the oldest level that can live with it.
    #[cfg(test)]
    pub(crate) fn next(sql: &'static str, oldest: i32) -> Self {
        let number = Self::OWN.level() + 1;
        Self {
            migrations: [MIGRATIONS, &[sql]].concat().leak(),
            mild: vec![(number, oldest)].leak(),
        }
    }

    /// The number of the last migration that the build knows.
    pub(crate) fn level(self) -> i32 {
        i32::try_from(self.migrations.len()).unwrap_or(i32::MAX)
    }

    /// The oldest level that can live with a migration.
    pub(crate) fn oldest(self, number: i32) -> i32 {
        let mild = self.mild.iter().find(|(mild, _)| *mild == number);
        mild.map_or(number, |(_, oldest)| *oldest)
    }

    /// Checks the server's settings, and brings the database to the build's schema.
    ///
    /// A newer schema is taken as it is, as long as it says that builds of this level may use it: two
    /// releases can run side by side.
    pub(super) async fn prepare(
        self,
        session: &mut Session,
        clock: &Clock,
    ) -> Result<(), JournalError> {
        check_settings(session).await?;
        let applied = self.applied(session).await?;
        for (number, sql) in (1..).zip(self.migrations).skip(applied) {
            self.apply(session, clock, number, sql).await?;
        }
        // Another process can have been at the same.
        self.check_applied(session).await.map(drop)
    }

    /// True if the database has a journal. Refuses another program's.
    pub(super) async fn is_there(self, session: &mut Session) -> Result<bool, JournalError> {
        Ok(self.applied(session).await? > 0)
    }
}

async fn check_settings(session: &mut Session) -> Result<(), JournalError> {
    const SETTINGS: &str = "SELECT current_setting('server_version_num')::int,
         current_setting('server_encoding'), current_setting('synchronous_commit'),
         current_setting('transaction_isolation')";
    let rows = session.rows(&Asked::Own(SETTINGS, &[])).await;
    let rows = rows.map_err(unusable)?;
    let row = rows.first().ok_or_else(unread)?;
    let version: i32 = row::get(row, 0).map_err(|_| unread())?;
    let text = |index| row::get::<&str>(row, index).map_err(|_| unread());
    let (encoding, durability, isolation) = (text(1)?, text(2)?, text(3)?);
    if version < SERVER_MIN {
        return Err(JournalError::unusable(
            "the server is older than PostgreSQL 14",
        ));
    }
    let rules = [
        ("server_encoding", encoding, &["UTF8"][..]),
        ("synchronous_commit", durability, &["on", "remote_apply"]),
        ("transaction_isolation", isolation, &["read committed"]),
    ];
    for (name, value, allowed) in rules {
        if let [expected, ..] = allowed
            && !allowed.contains(&value)
        {
            return Err(JournalError::unusable(format_args!(
                "its {name} is {value} and must be {expected}"
            )));
        }
    }
    Ok(())
}

impl Schema {
    /// The number of the build's migrations that the database has.
    async fn applied(self, session: &mut Session) -> Result<usize, JournalError> {
        // `meta` is looked for by its name, since there is nothing else to ask before the first migration.
        const TABLES: &str = "SELECT to_regclass('migration') IS NOT NULL AND to_regclass('meta') IS NOT NULL,
             EXISTS (SELECT FROM pg_class c
                 WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm'))";
        let rows = session.rows(&Asked::Own(TABLES, &[])).await;
        let rows = rows.map_err(unusable)?;
        let row = rows.first().ok_or_else(unread)?;
        match (row.get(0), row.get(1)) {
            (false, false) => Ok(0),
            (false, true) => Err(foreign()),
            (true, _) => {
                self.check_levels(session).await?;
                self.check_applied(session).await
            }
        }
    }

    /// Refuses a database that is for newer builds.
    pub(super) async fn check_levels(self, session: &mut Session) -> Result<(), JournalError> {
        let oldest = level_of(session, "oldest").await?;
        if oldest > self.level() {
            return Err(self.outdated(oldest));
        }
        Ok(())
    }

    /// Refuses a database that has more than this build knows.
    pub(super) async fn check_whole(self, session: &mut Session) -> Result<(), JournalError> {
        let applied = level_of(session, "schema").await?;
        if applied > self.level() {
            return Err(self.outdated(applied));
        }
        Ok(())
    }

    fn outdated(self, needed: i32) -> JournalError {
        JournalError::unusable(format_args!(
            "its schema is for builds that know number {needed} and this build knows up to {}: use \
             the newer build",
            self.level()
        ))
    }

    async fn check_applied(self, session: &mut Session) -> Result<usize, JournalError> {
        const APPLIED: &str = "SELECT number, checksum FROM migration ORDER BY number";
        let rows = session.rows(&Asked::Own(APPLIED, &[])).await;
        let rows = rows.map_err(unusable)?;
        let mut applied = 0;
        for (row, sql) in rows.iter().zip(self.migrations) {
            let number: i32 = row::get(row, 0).map_err(|_| unread())?;
            let checksum: &str = row::get(row, 1).map_err(|_| unread())?;
            if usize::try_from(number) != Ok(applied + 1) || checksum != digest(sql) {
                return Err(JournalError::unusable(format_args!(
                    "migration {} of its schema is not the one of this build",
                    applied + 1
                )));
            }
            applied += 1;
        }
        Ok(applied)
    }

    /// One migration in one transaction: after a crash it is done or it is not. Another process that is at
    /// the same gets its turn, and does nothing then.
    async fn apply(
        self,
        session: &mut Session,
        clock: &Clock,
        number: i32,
        sql: &str,
    ) -> Result<(), JournalError> {
        let mut left = TRIES;
        loop {
            left -= 1;
            match self.try_to_apply(session, clock, number, sql).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    roll_back(session).await?;
                    return Err(JournalError::unusable(format_args!(
                        "a process uses it whose build cannot live with number {number} of the schema: \
                         end it, or run the release between the two first"
                    )));
                }
                Err(Trouble::Refused(Refusal::Server, _)) if left > 0 => {
                    roll_back(session).await?;
                }
                Err(trouble) => return Err(unusable(trouble)),
            }
        }
    }

    /// False, with nothing done, if a process is in the way.
    async fn try_to_apply(
        self,
        session: &mut Session,
        clock: &Clock,
        number: i32,
        sql: &str,
    ) -> Result<bool, Trouble> {
        // Looked for before the transaction: it takes up to 5 s.
        let oldest = self.oldest(number);
        let gone = match number {
            1 => Vec::new(),
            _ => match rivals::outdated(session, oldest).await? {
                Some(gone) => gone,
                None => return Ok(false),
            },
        };
        session.execute("BEGIN").await?;
        session.execute(LOCK_TIMEOUT).await?;
        session
            .execute("SELECT pg_advisory_xact_lock(3, 1)")
            .await?;
        if number == 1 {
            session
                .execute(
                    "CREATE TABLE IF NOT EXISTS migration (
                         number integer PRIMARY KEY,
                         checksum text COLLATE \"C\" NOT NULL,
                         apply_time bigint NOT NULL
                     )",
                )
                .await?;
        }
        const CLAIM: &str =
            "INSERT INTO migration (number, checksum, apply_time) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING RETURNING number";
        let now = clock.now().as_millis();
        let claimed = session
            .rows(&Asked::Own(CLAIM, &[&number, &digest(sql), &now]))
            .await?;
        if !claimed.is_empty() {
            if number > 1 && !rivals::shut_out(session, oldest, &gone).await? {
                return Ok(false);
            }
            session.execute(sql).await?;
            if number == 1 {
                const META: &str = "INSERT INTO meta (key, value)
                     VALUES ('application', 'tillwatch'), ('epoch', $1), ('schema', '0'), ('oldest', '0')";
                let epoch = clock.uuid().simple().to_string();
                session.rows(&Asked::Own(META, &[&epoch])).await?;
            }
            const LEVELS: &str = "UPDATE meta
                 SET value = CASE key WHEN 'schema' THEN $1 ELSE greatest(value::integer, $2)::text END
                 WHERE key IN ('schema', 'oldest')";
            session
                .rows(&Asked::Own(LEVELS, &[&number.to_string(), &oldest]))
                .await?;
        }
        session.execute("COMMIT").await?;
        Ok(true)
    }
}

/// A level that the database tells about itself.
async fn level_of(session: &mut Session, key: &str) -> Result<i32, JournalError> {
    const LEVEL: &str = "SELECT value FROM meta WHERE key = $1 AND EXISTS
         (SELECT FROM meta WHERE key = 'application' AND value = 'tillwatch')";
    let rows = session.rows(&Asked::Own(LEVEL, &[&key])).await;
    let rows = rows.map_err(unusable)?;
    let level: &str = (rows.first().ok_or_else(foreign)?)
        .try_get(0)
        .map_err(|_| unread())?;
    level.parse().map_err(|_| unread())
}

async fn roll_back(session: &mut Session) -> Result<(), JournalError> {
    session.execute("ROLLBACK").await.map_err(unusable)
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn unusable(trouble: Trouble) -> JournalError {
    JournalError::unusable(trouble.error())
}

fn unread() -> JournalError {
    JournalError::unusable("it does not say what it is")
}

fn foreign() -> JournalError {
    JournalError::unusable("the database has tables of another program: give this one its own")
}
