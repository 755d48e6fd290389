//! Builds of two levels on one database at a time. The later one has a migration more, which no release has.

use tillwatch_cluster::{Cluster, Database};

use super::{
    server::{open, open_shared, refused},
    values::{append, at, begin, begin_write, id, record},
};
use crate::{
    clock::Clock,
    journal::{
        Journal, JournalError,
        postgres::{MovingDatabase, PostgresJournal, Schema, Settings},
    },
};

/// The schema of a later build, with the oldest level that can live with it.
fn next(oldest: i32) -> Schema {
    Schema::next(
        "CREATE TABLE later (id integer);
         ALTER TABLE purchase ADD COLUMN later text; ALTER TABLE replica ADD COLUMN later text",
        oldest,
    )
}

async fn open_next(
    database: &Database,
    seed: u64,
    oldest: i32,
) -> Result<PostgresJournal, JournalError> {
    let settings = Settings::parse(&database.url()).unwrap();
    let clock = Clock::simulated(at(0), seed);
    PostgresJournal::open_as(&settings, &clock, next(oldest)).await
}

/// The applied level, the oldest that may use the database, and those of its processes.
fn levels(database: &Database) -> String {
    database.run(
        "SELECT string_agg(value, ' ' ORDER BY key DESC) FROM meta WHERE key IN ('schema', 'oldest')
         UNION ALL SELECT string_agg(level::text, ' ' ORDER BY level) FROM replica WHERE NOT is_gone",
    )
}

#[tokio::test]
async fn a_build_serves_and_restarts_beside_the_next_one_whose_schema_it_can_live_with() {
    let database = Cluster::shared().database();
    let own = Schema::OWN.level();
    let older = open_shared(&database.url(), 1).await.unwrap();
    begin(&older, record(1)).await;
    let newer = open_next(&database, 2, own).await.unwrap();
    let later = own + 1;
    assert_eq!(
        levels(&database),
        format!("{later} {own}\n{own} {later}"),
        "both serve"
    );
    begin(&newer, record(2)).await;
    begin(&older, record(3)).await;
    append(&older, 2, |_| ()).await;
    append(&newer, 3, |_| ()).await;
    for journal in [&older, &newer] {
        for (number, revision) in [(1, 1), (2, 2), (3, 2)] {
            let found = journal.record(id(number)).await.unwrap().unwrap();
            assert_eq!(found.purchase.status.revision.0, revision, "{number}");
        }
    }
    older.close().await;
    let older = open_shared(&database.url(), 3).await.unwrap();
    begin(&older, record(4)).await;
    assert!(newer.record(id(4)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_schema_that_older_builds_cannot_live_with_waits_for_their_end_and_then_refuses_them() {
    let database = Cluster::shared().database();
    let own = Schema::OWN.level();
    let older = open(&database.url(), 1).await.unwrap();
    let early = open_next(&database, 2, own + 1).await;
    refused(early, "cannot live with number");
    begin(&older, record(1)).await;
    let oldest = Schema::OWN.oldest(own);
    assert_eq!(levels(&database), format!("{own} {oldest}\n{own}"));
    older.close().await;
    // A process that shows no life any more is shut out.
    let silent = open_shared(&database.url(), 3).await.unwrap();
    let newer = open_next(&database, 4, own + 1).await.unwrap();
    let later = own + 1;
    assert_eq!(levels(&database), format!("{later} {later}\n{later}"));
    silent.write(begin_write(record(2))).await.unwrap_err();
    assert!(silent.lost().initialized());
    begin(&newer, record(3)).await;
    refused(open_shared(&database.url(), 5).await, "use the newer build");
}

#[tokio::test]
async fn a_build_that_a_newer_one_overtakes_while_it_opens_is_refused() {
    let database = Cluster::shared().database();
    open(&database.url(), 1).await.unwrap().close().await;
    database.run(
        "CREATE FUNCTION overtake() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE meta SET value = '99' WHERE key = 'oldest'; RETURN null; END $$;
         CREATE TRIGGER overtake AFTER INSERT ON replica FOR EACH ROW EXECUTE FUNCTION overtake()",
    );
    refused(open(&database.url(), 2).await, "use the newer build");
    assert_eq!(database.run("SELECT count(*) FROM replica"), "0", "it left");
}

#[tokio::test]
async fn a_database_that_a_newer_build_has_changed_is_not_moved_by_an_older_one() {
    let database = Cluster::shared().database();
    let newer = open_next(&database, 1, Schema::OWN.level()).await.unwrap();
    newer.close().await;
    let settings = Settings::parse(&database.url()).unwrap();
    let clock = Clock::simulated(at(0), 2);
    let moving = MovingDatabase::open(&settings, true, &clock).await;
    let why = moving.err().unwrap().to_string();
    assert!(why.contains("use the newer build"), "{why}");
}
