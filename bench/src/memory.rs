//! Bytes of memory per open purchase: the memory of a tracker after it has taken them up, and the part
//! of it that the wheel and the turns hold.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tillwatch_server::{
    account::{Account, Accounts, Settings},
    cadence::{turns::Turns, wheel::Wheel},
    clock::Clock,
    journal::{AloneBudgets, Budgets, Fingerprints, Journal, Record, memory::MemoryJournal},
    ownership::Tenures,
    provider,
    purchase::{
        AccountName, CallerName, Moment, Purchase, PurchaseId, Reference, Revision, Secret, State,
        Status, Timestamp,
    },
    tracker::Tracker,
    upstream::{Upstream, UpstreamError, scripted::Scripted},
};

use crate::{allocator::held_bytes, table::Table};

/// The number of accounts that share the purchases.
const ACCOUNTS: u32 = 4;

/// An account at Devdraft with its documented policy.
pub async fn account(
    name: &str,
    upstream: Arc<dyn Upstream>,
    clock: &Clock,
    journal: &Arc<dyn Journal>,
) -> Option<Arc<Account>> {
    account_at("devdraft", name, upstream, clock, journal).await
}

async fn account_at(
    provider: &str,
    name: &str,
    upstream: Arc<dyn Upstream>,
    clock: &Clock,
    journal: &Arc<dyn Journal>,
) -> Option<Arc<Account>> {
    let registered = provider::registered(provider)?;
    let secret = |name: &&str| ((*name).to_owned(), Secret::new("x"));
    let provider = (registered.build)(&registered.secrets.iter().map(secret).collect()).ok()?;
    let policy = (registered.policy)();
    let name = AccountName::new(name);
    let budgets: Arc<dyn Budgets> = Arc::new(AloneBudgets::new(journal, clock));
    Some(
        Account::open(
            name,
            Settings::new(provider, policy, upstream),
            clock.clone(),
            &budgets,
        )
        .await,
    )
}

/// An open purchase that awaits funds.
pub fn record(number: u32, account: &AccountName, reference: &str, now: Timestamp) -> Record {
    let status = Status {
        revision: Revision(2),
        state: State::AwaitingPayment,
        code: "AWAITING_FUNDS".to_owned(),
        reference: Some(Reference::new([("transaction_id", reference)])),
        ..Status::pending(now)
    };
    Record {
        purchase: Purchase {
            id: PurchaseId::from_u128(u128::from(number) << 64 | 1),
            account: account.clone(),
            provider: Arc::from("devdraft"),
            caller: CallerName::new(&format!("caller-{}", number % 10)),
            idempotency_key: Arc::from(format!("key-{number}")),
            labels: Arc::default(),
            create_time: now,
            status: Arc::new(status),
        },
        fingerprints: Fingerprints::default(),
        recovery: BTreeMap::new(),
        attempt: None,
        first_send_time: None,
        sends: 0,
        change_time: now,
        resolution_note: None,
    }
}

/// A reference of Devdraft's size: a UUID.
pub fn reference(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn of_devdraft(number: u32, account: &AccountName, now: Timestamp) -> Record {
    record(number, account, &reference(number), now)
}

/// The same at Inabit, whose purchases are swept.
fn swept(number: u32, account: &AccountName, now: Timestamp) -> Record {
    let mut record = record(number, account, "", now);
    let mut status = Status::clone(&record.purchase.status);
    let id = reference(number);
    status.reference = Some(Reference::new([("purchase_id", id.as_str())]));
    record.purchase.status = Arc::new(status);
    record.purchase.provider = Arc::from("inabit");
    record
}

/// Bytes per open purchase in a tracker over accounts of a provider.
fn in_tracker(
    provider: &str,
    purchases: u32,
    record: impl Fn(u32, &AccountName, Timestamp) -> Record,
) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return f64::NAN;
    };
    runtime.block_on(async {
        let clock = Clock::system();
        let silent: Arc<dyn Upstream> = Arc::new(Scripted::new(|_| async {
            Err(UpstreamError::NotConnected("nobody is there"))
        }));
        let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::new("bench"));
        let mut accounts = Vec::new();
        for number in 0..ACCOUNTS {
            let silent = Arc::clone(&silent);
            let name = format!("account-{number}");
            let opened = account_at(provider, &name, silent, &clock, &journal).await;
            accounts.extend(opened);
        }
        let names: Vec<AccountName> = accounts.iter().map(|one| one.name.clone()).collect();
        let accounts = Accounts::new(accounts);
        let tenures = Tenures::alone(accounts.all().keys().cloned());
        let tracker = Tracker::new(journal, clock.clone(), &accounts, &tenures);
        let before = held_bytes();
        for (number, name) in (0..purchases).zip(names.iter().cycle()) {
            let record = record(number, name, clock.now());
            if tracker.recover(&record).await.is_err() {
                return f64::NAN;
            }
        }
        let taken_up: usize = names.iter().map(|name| tracker.open_purchases(name)).sum();
        (held_bytes() - before) as f64 / taken_up as f64
    })
}

/// Bytes per place in wheel and turns: all armed, and then all due.
fn in_timers(places: u32) -> (f64, f64) {
    let now = Moment::from_millis(1_800_000_000_000);
    let before = held_bytes();
    let per_place = |bytes: i64| (bytes - before) as f64 / f64::from(places);
    let (mut wheel, mut turns) = (Wheel::default(), Turns::default());
    for place in 0..places {
        wheel.arm(place, now.plus(Duration::from_millis(u64::from(place))));
    }
    let armed = per_place(held_bytes());
    wheel.take(now.plus(Duration::from_secs(1 << 32)), |place| {
        turns.push(place, place % 10);
    });
    (armed, per_place(held_bytes()))
}

/// The table.
pub fn table(purchases: u32) -> Table {
    let title = format!("Bytes per open purchase, {purchases} of them on {ACCOUNTS} accounts");
    let mut table = Table::new(&title, &["what", "bytes", "promised"]);
    let bytes = |bytes: f64| format!("{bytes:.0}");
    let devdraft = in_tracker("devdraft", purchases, of_devdraft);
    table.row(
        "in all, Devdraft's references",
        [bytes(devdraft), "512".to_owned()],
    );
    let inabit = in_tracker("inabit", purchases, swept);
    table.row(
        "in all, of an account that sweeps",
        [bytes(inabit), "512".to_owned()],
    );
    let long = in_tracker("devdraft", purchases / 10, |number, account, now| {
        record(number, account, &format!("{number:0>2000}"), now)
    });
    table.row(
        "in all, references of 2,000 bytes (a tenth as many)",
        [bytes(long), "512".to_owned()],
    );
    let (armed, due) = in_timers(purchases);
    table.row("of it timers, all armed", [bytes(armed), "64".to_owned()]);
    table.row("of it timers, all due", [bytes(due), "64".to_owned()]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are just beyond the sizes at which maps and lists grow, and so hold the most unused
    /// memory.
    #[test]
    fn an_open_purchase_takes_at_most_512_bytes_and_its_timer_64() {
        let in_all = in_tracker("devdraft", 4 * 28_700, of_devdraft);
        assert!((100.0..=512.0).contains(&in_all), "{in_all}");
        let swept = in_tracker("inabit", 4 * 28_700, swept);
        assert!((100.0..=512.0).contains(&swept), "{swept}");
        let (armed, due) = in_timers(140_000);
        assert!((20.0..=64.0).contains(&armed), "{armed}");
        assert!((20.0..=64.0).contains(&due), "{due}");
    }
}
