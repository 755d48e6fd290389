//! A journal moves between a file and a database of PostgreSQL, there and back: nothing is lost, watchers go on
//! with their tokens, and at no moment may both stores serve.

use std::{fs, path::Path};

use rusqlite::{Connection, OpenFlags};
use tillwatch::{FeedEvent, FeedOptions, FeedStart};
use tillwatch_cluster::Database;
use tillwatch_proto::v1::{Purchase, PurchaseFilter, get_status_request::Key};
use tillwatch_sandbox::{PROVIDERS, Scenario};
use tokio::process::Command;

use crate::{
    executables::executable,
    house::House,
    orders::request,
    process::{Log, Server, until, within},
    store::Store,
};

/// Purchases of the journal whose moves are killed: several pages.
const MANY: u32 = 2_500;

/// The command with these arguments.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(executable("tillwatch-server"));
    command
        .env_clear()
        .arg("migrate")
        .args(arguments)
        .kill_on_drop(true);
    command
}

fn migrate(from: &str, to: &str) -> Command {
    command(&["--from", from, "--to", to])
}

/// Moves a journal. Returns what was said, or the complaint of a move that failed.
async fn moved(from: &str, to: &str) -> Result<String, String> {
    ended(migrate(from, to)).await
}

async fn ended(mut command: Command) -> Result<String, String> {
    let ended = within("a move", command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    match ended.status.code() {
        Some(0) => Ok(text(ended.stdout)),
        code => {
            assert_eq!(code, Some(1), "{}", text(ended.stderr.clone()));
            Err(text(ended.stderr))
        }
    }
}

fn url(file: &Path) -> String {
    format!("sqlite:{}", file.display())
}

async fn stopped(house: &mut House) {
    house.server.signal("TERM").await;
    assert!(house.server.exit().await.success());
}

/// The log of a server that a store refuses.
async fn refused(house: &House) -> String {
    let log = Log::default();
    let started = Server::start(house.config(), &log).await;
    assert_eq!(started.unwrap_err().code(), Some(1), "{}", log.text());
    log.text()
}

/// Creates a purchase. Its provider stands still, and has told everything about it.
async fn made(house: &House, key: &str, provider: &str) -> Purchase {
    let order = request(key, provider, Scenario::Stuck);
    let purchase = house.create("shop", order).await;
    let shop = house.client("shop");
    // A process that shares its store takes its accounts soon after its start.
    let refreshed = async || shop.refresh(&purchase.id).await.is_ok();
    until("its provider is asked", refreshed).await;
    purchase
}

/// Every purchase as a list shows it, newest first, and as it is found by its key.
async fn shown(house: &House) -> Vec<Purchase> {
    let shop = house.client("shop");
    let mut pages = shop.list(PurchaseFilter::default(), 100);
    let mut all = Vec::new();
    while let Some(page) = within("a page", pages.next()).await.unwrap() {
        all.extend(page.purchases);
    }
    for index in 0..all.len() {
        let key = Key::IdempotencyKey(all[index].idempotency_key.clone());
        let found = within("a status", shop.get(key)).await.unwrap();
        all.push(found.purchase.unwrap());
    }
    all
}

/// The purchases and revisions of a feed until the next heartbeat, and the last token.
async fn news(house: &House, start: FeedStart) -> (Vec<(String, u32)>, String) {
    let options = FeedOptions {
        start,
        ..FeedOptions::default()
    };
    let shop = house.client("shop");
    let mut feed = shop.watch_purchases(PurchaseFilter::default(), options);
    let (mut all, mut last) = (Vec::new(), String::new());
    loop {
        let event = within("the next of the feed", feed.next()).await;
        match event.unwrap().unwrap() {
            FeedEvent::Transition {
                transition,
                resume_token,
            } => {
                let purchase = transition.purchase.unwrap();
                all.push((purchase.id, purchase.status.unwrap().revision));
                last = resume_token;
            }
            FeedEvent::Heartbeat { .. } => return (all, last),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_journal_moves_to_postgresql_and_back_and_a_watchers_token_goes_on() {
    let mut house = House::still().await;
    let file = house.folder().join("tillwatch.db");
    let keys = house.folder().join("tillwatch.db.fingerprint-keys");
    for provider in PROVIDERS {
        made(&house, provider, provider).await;
    }
    let (before, token) = news(&house, FeedStart::Beginning).await;
    let seen = shown(&house).await;
    assert_eq!(seen.len(), 2 * PROVIDERS.len());
    let store = Store::postgres();
    let database = store.database().url();
    let busy = moved(&url(&file), &database).await.unwrap_err();
    assert!(busy.contains("another process has it"), "{busy}");
    stopped(&mut house).await;
    let [from, to] = ["from", "to"].map(|name| house.folder().join(name));
    fs::write(&from, url(&file)).unwrap();
    fs::write(&to, format!("{database}\n")).unwrap();
    let files = [from, to].map(|path| path.display().to_string());
    let said = ended(command(&["--from-file", &files[0], "--to-file", &files[1]])).await;
    let said = said.unwrap();
    assert!(said.starts_with("5 purchases"), "{said}");
    let left = refused(&house).await;
    assert!(left.contains("has been moved"), "{left}");
    // A repeat of a key is known by the same fingerprints.
    fs::copy(keys, house.folder().join("fingerprint-keys")).unwrap();
    house.settings.store = store.clone();
    house.restart().await;
    assert_eq!(news(&house, FeedStart::Beginning).await.0, before);
    assert_eq!(shown(&house).await, seen);
    let again = request("carbon", "carbon", Scenario::Stuck);
    let known = house.client("shop").create(again).await.unwrap();
    assert!(known.replayed);
    let late = made(&house, "late", "carbon").await;
    let (after, token) = news(&house, FeedStart::After(token)).await;
    let seen = shown(&house).await;
    assert!(
        !after.is_empty() && after.iter().all(|(id, _)| *id == late.id),
        "{after:?}"
    );
    let busy = moved(&database, &url(&house.folder().join("new.db")))
        .await
        .unwrap_err();
    assert!(busy.contains("another process has it"), "{busy}");
    stopped(&mut house).await;
    let taken = moved(&database, &url(&file)).await.unwrap_err();
    assert!(taken.contains("a journal already"), "{taken}");
    fs::remove_file(&file).unwrap();
    moved(&database, &url(&file)).await.unwrap();
    let left = refused(&house).await;
    assert!(left.contains("has been moved"), "{left}");
    house.settings.store = Store::Sqlite;
    house.restart().await;
    let all: Vec<_> = before.into_iter().chain(after).collect();
    assert_eq!(news(&house, FeedStart::Beginning).await.0, all);
    assert_eq!(shown(&house).await, seen);
    let later = made(&house, "later", "carbon").await;
    let (after, _) = news(&house, FeedStart::After(token)).await;
    assert!(
        !after.is_empty() && after.iter().all(|(id, _)| *id == later.id),
        "{after:?}"
    );
}

/// Every table of a journal, each as a digest of its rows.
fn digests(database: &Database) -> String {
    let tables = [
        "purchase",
        "purchase_label",
        "transition_log",
        "buyer_action",
        "bound_key",
    ];
    let each = tables.map(|table| {
        format!("SELECT '{table}', count(*), md5(string_agg(r::text, '' ORDER BY r::text)) FROM {table} r")
    });
    let epoch = "SELECT value, 0, '' FROM meta WHERE key = 'epoch'";
    database.run(&format!(
        "{} UNION ALL {epoch} ORDER BY 1",
        each.join(" UNION ALL ")
    ))
}

/// Makes many purchases out of the one of each provider, with remnants, buyer actions and further keys.
fn multiply(database: &Database) {
    database.run(&format!(
        "CREATE TEMPORARY TABLE made AS SELECT p.id AS old, gen_random_uuid() AS id, n
             FROM purchase p, generate_series(1, {MANY} / 5) n;
         INSERT INTO purchase (id, account, provider, caller, key, labels, create_time, revision, state, finality,
                 attention, reference, change_time, final_time, fingerprint_key, fingerprints, recovery,
                 submit_until, attempt_by, first_send_time, sends, resolution_note, remnant)
             SELECT m.id, account, provider, caller, key || n, '{{\"a\\\\\":\"é\"}}', create_time, revision, state,
                 finality, attention, null, change_time, change_time + n, fingerprint_key, fingerprints, recovery,
                 n, gen_random_uuid(), first_send_time, sends, 'noted',
                 CASE WHEN n % 3 = 0 THEN (SELECT status FROM transition_log t
                     WHERE t.purchase = p.id AND t.revision = p.revision) END
             FROM purchase p JOIN made m ON m.old = p.id;
         INSERT INTO purchase_label SELECT m.id, 'a\\\\', 'é', p.caller, p.create_time
             FROM purchase p JOIN made m ON m.id = p.id WHERE p.remnant IS NULL;
         INSERT INTO transition_log SELECT nextval('feed_position'), m.id, revision, caller, from_state, cause, status
             FROM transition_log t JOIN made m ON m.old = t.purchase AND m.n % 3 <> 0;
         INSERT INTO buyer_action SELECT id, 1, '{{}}' FROM made WHERE n % 3 = 1;
         INSERT INTO bound_key SELECT p.caller, 'further ' || p.key, p.id, p.fingerprint_key, p.fingerprints, 7
             FROM purchase p JOIN made m ON m.id = p.id WHERE n % 2 = 0;
         INSERT INTO kept_text VALUES ('kept', 'text'), ('budget/text', '4000 5000 boot 6 7');
         INSERT INTO budget (account, arrival_us, creates_us) VALUES ('row', 7000001, 8000000)"
    ));
}

/// The place of a move, as its target has it.
const PLACE: &str = "SELECT value FROM meta WHERE key = 'moving'";

fn place_in_file(path: &Path) -> Option<String> {
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    file.query_row(PLACE, [], |row| row.get(0)).ok()
}

fn place_in_database(database: &Database) -> Option<String> {
    let place = database.try_run(PLACE).ok();
    place.filter(|place| !place.is_empty())
}

/// Moves a journal, and kills the process each time that it has come further. Returns the number of kills.
async fn moved_with_kills(from: &str, to: &str, place: impl Fn() -> Option<String>) -> usize {
    let mut places: Vec<String> = Vec::new();
    loop {
        let mut child = migrate(from, to).spawn().unwrap();
        let mut status = None;
        until("a move comes further", async || {
            status = child.try_wait().unwrap();
            status.is_some() || place().is_some_and(|place| places.last() != Some(&place))
        })
        .await;
        if let Some(status) = status {
            assert!(status.success(), "{status}");
            return places.len();
        }
        child.kill().await.unwrap();
        let place = place().unwrap();
        // It never begins anew.
        assert!(places.last() < Some(&place), "{place} after {places:?}");
        places.push(place);
    }
}

#[tokio::test]
async fn a_move_that_is_killed_at_any_page_goes_on_and_both_sides_are_equal() {
    let store = Store::postgres();
    let mut house = House::still_on(store.clone()).await;
    for provider in PROVIDERS {
        house
            .create("shop", request(provider, provider, Scenario::Stuck))
            .await;
    }
    stopped(&mut house).await;
    multiply(store.database());
    let wanted = digests(store.database());
    let file = house.folder().join("moved.db");
    let back = Store::postgres();
    let (first, file_url, last) = (store.database().url(), url(&file), back.database().url());
    let there = moved_with_kills(&first, &file_url, || place_in_file(&file)).await;
    let again = moved_with_kills(&file_url, &last, || place_in_database(back.database())).await;
    assert!(there > 1 && again > 1, "{there} and {again} kills");
    assert_eq!(digests(back.database()), wanted);
    let count = back.database().run("SELECT count(*) FROM purchase");
    assert_eq!(count, (MANY + 5).to_string());
    let kept = "SELECT value FROM kept_text WHERE key = 'kept'
        UNION ALL SELECT account || arrival_us || '/' || creates_us FROM
            (SELECT * FROM budget WHERE account IN ('row', 'text') ORDER BY account) b";
    assert_eq!(
        back.database().run(kept),
        "text\nrow7001000/8000000\ntext4000000/5000000"
    );
    let head = "SELECT last_value = (SELECT max(position) FROM transition_log) FROM feed_position";
    assert_eq!(back.database().run(head), "t");
}

#[tokio::test]
async fn a_row_that_changes_on_its_way_is_found_and_the_source_serves_on() {
    let (source, target) = (Store::postgres(), Store::postgres());
    let (from, to) = (source.database().url(), target.database().url());
    let mut house = House::still_on(source.clone()).await;
    made(&house, "key", "carbon").await;
    let seen = shown(&house).await;
    stopped(&mut house).await;
    house.settings.store = target.clone();
    house.restart().await;
    let busy = moved(&from, &to).await.unwrap_err();
    assert!(busy.contains("another process has it"), "{busy}");
    stopped(&mut house).await;
    target.database().run(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.sends := NEW.sends + 1; RETURN NEW; END $$;
         CREATE TRIGGER change BEFORE INSERT ON purchase FOR EACH ROW EXECUTE FUNCTION change()",
    );
    let changed = moved(&from, &to).await.unwrap_err();
    assert!(changed.contains("not equal"), "{changed}");
    let unfinished = refused(&house).await;
    assert!(unfinished.contains("is not finished"), "{unfinished}");
    house.settings.store = source;
    house.restart().await;
    assert_eq!(shown(&house).await, seen);
    stopped(&mut house).await;
    // The rows that the first move has left there are in the way of the next one.
    target.database().run(&format!(
        "DROP TRIGGER change ON purchase;
         UPDATE meta SET value = '{}' WHERE key = 'moving'",
        "0".repeat(32)
    ));
    let said = moved(&from, &to).await.unwrap();
    assert!(said.starts_with("1 purchases"), "{said}");
    house.settings.store = target;
    house.restart().await;
    assert_eq!(shown(&house).await, seen);
}

#[tokio::test]
async fn a_move_tells_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = url(&folder.path().join("new.db"));
    let away = moved("postgres://till:hunter2@127.0.0.1:9/till", &file).await;
    let away = away.unwrap_err();
    assert!(
        away.contains("postgres database till at 127.0.0.1"),
        "{away}"
    );
    let wrong = migrate(
        &file,
        "postgres://till:hunter2@127.0.0.1:9/till?sslmode=prefer",
    );
    let wrong = { wrong }.output().await.unwrap();
    assert_eq!(wrong.status.code(), Some(64));
    let wrong = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.contains("--to"), "{wrong}");
    assert!(!format!("{away}{wrong}").contains("hunter2"));
}
