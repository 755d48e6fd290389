//! Somebody sets the wall clock under the real server.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use tillwatch_sandbox::Scenario;

use crate::{
    house::{House, Settings, account},
    orders::request,
    process::until,
    store::Store,
    tidy::sources::root,
};

/// The library that sets one process's wall clock. It lies in a house's folder, as [`OFFSET`] does.
const LIBRARY: &str = "clock.so";
/// The file that tells the library by how many milliseconds.
const OFFSET: &str = "clock.offset";

/// The environment of a server whose configuration lies beside these files.
pub fn environment(config: &Path) -> Vec<(&'static str, PathBuf)> {
    let (library, offset) = (
        config.with_file_name(LIBRARY),
        config.with_file_name(OFFSET),
    );
    match library.exists() {
        true => vec![("LD_PRELOAD", library), ("WORLD_CLOCK", offset)],
        false => Vec::new(),
    }
}

/// Lets the house's next server have a wall clock that can be set.
fn make_settable(house: &House) {
    fs::write(house.folder().join(OFFSET), [0; 8]).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(house.folder().join(LIBRARY))
        .arg(root().join("bench/world/clock.c"))
        .arg("-ldl")
        .status();
    assert!(made.unwrap().success(), "the C compiler");
}

/// Sets the server's wall clock this far from the machine's.
fn set(house: &House, seconds: i64) {
    let offset = OpenOptions::new()
        .write(true)
        .open(house.folder().join(OFFSET));
    let millis = (seconds * 1_000).to_ne_bytes();
    offset.unwrap().write_all_at(&millis, 0).unwrap();
}

/// The number of polls that this process has made for the account of a provider.
async fn polls(house: &House, provider: &str) -> u64 {
    let account = account(provider);
    let of = format!("account=\"{account}\",provider=\"{provider}\",class=\"poll\"");
    let text = house.metrics().await;
    let lines = text.lines().filter(|line| line.contains(&of));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Creates one more purchase, and waits until polls have gone on.
async fn goes_on(house: &House, key: &str) {
    let before = polls(house, "devdraft").await;
    let order = request(key, "devdraft", Scenario::Paid);
    // The killed process had taken up to 5 s of the budget ahead, which is lost.
    let mut shop = house.stub("shop").await;
    until("a create is answered", async || {
        shop.create_purchase(order.clone()).await.is_ok()
    })
    .await;
    until("polls go on", async || {
        polls(house, "devdraft").await >= before + 10
    })
    .await;
}

#[tokio::test]
async fn p2_a_wall_clock_that_is_set_by_hours_or_years_stops_neither_polls_nor_creates() {
    // The accounts have limits, since the store keeps budgets over restarts.
    let settings = Settings::default().polled("requests_per_minute", "6000");
    let mut house = House::start(settings).await;
    house.sandbox.pause();
    house.server.kill().await;
    make_settable(&house);
    house.restart().await;
    goes_on(&house, "before").await;
    for (place, seconds) in [-7_200, 7_200, -94_608_000, 94_608_000, 0]
        .into_iter()
        .enumerate()
    {
        set(&house, seconds);
        goes_on(&house, &format!("set-{place}")).await;
        house.server.kill().await;
        house.restart().await;
        goes_on(&house, &format!("restarted-{place}")).await;
    }
    let text = house.log.text();
    assert!(
        text.contains("the machine's clock was set back"),
        "the server saw it: {text}"
    );
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Creates one more purchase. Its times are between the true ones around it.
async fn is_dated_right(house: &House, key: &str) {
    let before = millis(SystemTime::now());
    let bought = house.create("shop", request(key, "masumi", Scenario::Paid));
    let bought = bought.await;
    let after = millis(SystemTime::now());
    for time in [bought.create_time, bought.status.unwrap().observe_time] {
        let time = millis(SystemTime::try_from(time.unwrap()).unwrap());
        // The server's looks take their time.
        let is_right = (before - 500..=after + 500).contains(&time);
        assert!(is_right, "{key}: {time} is not from {before} to {after}");
    }
}

#[tokio::test]
async fn a_process_whose_machine_is_hours_ahead_goes_by_the_databases_clock() {
    let mut house = House::still_on(Store::postgres()).await;
    house.server.kill().await;
    make_settable(&house);
    set(&house, 9_030);
    house.restart().await;
    is_dated_right(&house, "ahead").await;
    let text = house.log.text();
    let told = "this machine's clock is ahead of the store's by 2 h 30 min ";
    assert!(text.contains(told), "{text}");
    set(&house, -94_608_000);
    is_dated_right(&house, "years behind").await;
    let metrics = house.metrics().await;
    let name = "tillwatch_machine_clock_ahead_seconds -9460";
    assert!(metrics.contains(name), "{metrics}");
}
