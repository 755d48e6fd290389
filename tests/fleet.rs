//! Several server processes on one database of PostgreSQL, in front of one set of simulated providers.

pub mod crowd;
pub mod load;
pub mod seat;
pub mod streams;
pub mod tally;

use std::collections::BTreeMap;

use tillwatch_sandbox::{Options, PROVIDERS};

use crate::{
    house::{House, Replica, Settings},
    process::{Log, Server, until},
    store::Store,
};

/// The accounts, and the lease of the work that belongs to none.
const LEASES: usize = PROVIDERS.len() + 1;

/// The processes: the house's own, and others, to which things happen.
pub struct Fleet {
    pub house: House,
    pub others: Vec<Replica>,
}

impl Fleet {
    /// So many processes on the settings' store, each of which owns its share of the accounts.
    pub async fn start(settings: Settings, count: usize) -> Self {
        let others = vec![settings.store.clone(); count - 1];
        Self::start_by(settings, others).await
    }

    /// A process on the settings' store, and one for each of these ways to the same store.
    pub async fn start_by(settings: Settings, others: Vec<Store>) -> Self {
        let house = House::start(settings).await;
        let mut fleet = Self {
            house,
            others: Vec::new(),
        };
        for store in others {
            let replica = fleet.house.another(store).await;
            fleet.others.push(replica);
        }
        fleet.has_even_shares().await;
        fleet
    }

    /// Settings for a fleet under load: lives of seconds, polls that news do not wait for, and limits that
    /// are met.
    pub fn under_load(store: Store) -> Settings {
        Settings {
            sandbox: Options {
                speed: 4.0,
                ..Settings::default().sandbox
            },
            store,
            ..Settings::default()
        }
        .polled("schedule", r#"[{ every = "200ms" }]"#)
        .polled("after_terminal", r#"[{ every = "1m" }]"#)
        .polled("requests_per_minute", "600")
    }

    /// Waits until each process owns its share.
    pub async fn has_even_shares(&self) {
        let names: Vec<String> = self.logs().map(name).collect();
        let (least, most) = (LEASES / names.len(), LEASES.div_ceil(names.len()));
        until("each process owns its share", async || {
            let shares = self.shares();
            let is_even = |name| (shares.get(name)).is_some_and(|own| (least..=most).contains(own));
            shares.values().sum::<usize>() == LEASES && names.iter().all(is_even)
        })
        .await;
    }

    /// The number of leases of each owner.
    fn shares(&self) -> BTreeMap<String, usize> {
        let shares = "SELECT owner, count(*) FROM lease WHERE owner IS NOT NULL GROUP BY owner";
        let told = self.asked(shares);
        let share = |line: &str| {
            let (owner, count) = line.split_once('|').unwrap();
            (owner.to_owned(), count.parse().unwrap())
        };
        told.lines().map(share).collect()
    }

    /// The processes, the house's own first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        let others = self.others.iter().map(|replica| &replica.server);
        std::iter::once(&self.house.server).chain(others)
    }

    fn logs(&self) -> impl Iterator<Item = &Log> {
        let others = self.others.iter().map(|replica| &replica.log);
        std::iter::once(&self.house.log).chain(others)
    }

    /// The name of another process in the database.
    pub fn name(&self, other: usize) -> String {
        name(&self.others[other].log)
    }

    /// The name of the house's own process in the database.
    pub fn own_name(&self) -> String {
        name(&self.house.log)
    }

    /// Lets another process be the house's own.
    pub fn change_places(&mut self, other: usize) {
        self.house.change_places(&mut self.others[other]);
    }

    /// Lets the next process be the first of the others, to which things happen: after as many turns as there
    /// are processes, each has been that.
    pub fn next(&mut self) {
        self.others.rotate_left(1);
        self.change_places(0);
    }

    /// Starts another process again, after it has ended.
    pub async fn restart(&mut self, other: usize) {
        self.house.restart_another(&mut self.others[other]).await;
    }

    /// The database's answer.
    pub fn asked(&self, sql: &str) -> String {
        self.house.settings.store.database().run(sql)
    }

    /// The number of leases that a process owns.
    pub fn owned(&self, replica: &str) -> usize {
        self.shares().get(replica).copied().unwrap_or_default()
    }

    /// The accounts that a process owns.
    pub fn accounts(&self, replica: &str) -> Vec<String> {
        let owned =
            format!("SELECT account FROM lease WHERE owner = '{replica}' AND account <> ''");
        self.asked(&owned).lines().map(str::to_owned).collect()
    }

    /// Waits until one process owns everything.
    pub async fn all_are_owned_by(&self, replica: &str) {
        until("one process owns everything", async || {
            self.owned(replica) == LEASES
        })
        .await;
    }
}

/// The name that a process has told, the last of those with this log.
fn name(log: &Log) -> String {
    let text = log.text();
    let (_, rest) = text.rsplit_once(" replica=").expect("a name is told");
    rest.split_whitespace().next().unwrap().to_owned()
}
