//! The truths of a whole run: the journal against the providers' ledger, the feed and what
//! callers were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tillwatch_server::{
    journal::{Committed, Filter, Journal as _, Position},
    lifecycle::{HELD_BACK_FOR, REVISIONS_MAX},
    purchase::{
        Cause, FailureReason, Finality, Purchase, Revision, State, Status, Timestamp, Transition,
    },
};

use crate::{
    World,
    buyer::Acknowledged,
    ledger::{Ledger, Meaning, Sent},
    limits,
    watcher::Fed,
    words,
};

/// The time for which a simulated provider honours an idempotency key, less an hour.
const KEY_LIVES: Duration = Duration::from_secs(23 * 3_600);

/// Checks a run that is over.
pub async fn run(world: &World, fed: &Fed, acknowledged: &[Acknowledged]) {
    let listed = world.journal.list(&Filter::default(), None, 10_000).await;
    let listed = listed.unwrap();
    assert_eq!(listed.next, None, "more purchases than a page looks at");
    let purchases = listed.purchases;
    for purchase in &purchases {
        let transitions = world
            .journal
            .transitions(purchase.id, Revision(0), 10_000)
            .await
            .unwrap();
        let ledger = world.providers.ledger();
        for text in history(world, purchase, &transitions, &ledger) {
            world.violation(format!(
                "{text} ({} {})",
                purchase.id, purchase.idempotency_key
            ));
        }
        let wanted: Vec<u32> = (1..=purchase.status.revision.0).collect();
        let seen = fed.by_purchase.get(&purchase.id.to_string());
        if seen != Some(&wanted) {
            world.violation(format!("S3: the feed had {seen:?} of {}", purchase.id));
        }
    }
    feed(world, fed).await;
    answers(world, &purchases, acknowledged);
    let ledger = world.providers.ledger();
    let wrong = [
        creates(&ledger),
        budgets(world, &ledger),
        refusals(&purchases, &ledger),
    ];
    for text in wrong.into_iter().flatten() {
        world.violation(text);
    }
}

/// Promise S3: the feed is the log, whichever processes told it.
async fn feed(world: &World, fed: &Fed) {
    let tail = world.journal.tail(None, Position(0), 1_000_000);
    let (log, _) = tail.await.unwrap();
    let told = |one: &Arc<Committed>| {
        let purchase = &one.purchase;
        (purchase.id.to_string(), purchase.status.revision.0)
    };
    let mut log = log.iter().map(told);
    let wrong = fed
        .all
        .iter()
        .find(|seen| log.next().as_ref() != Some(seen));
    if let Some(seen) = wrong {
        world.violation(format!(
            "S3: the feed left the order of commits at {seen:?}"
        ));
    }
}

/// Promises S2, P3, P4, P5 of one purchase.
fn history(
    world: &World,
    purchase: &Purchase,
    transitions: &[Transition],
    ledger: &Ledger,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let numbers: Vec<u32> = transitions
        .iter()
        .map(|one| one.status.revision.0)
        .collect();
    if numbers != (1..=purchase.status.revision.0).collect::<Vec<_>>() {
        wrong.push(format!("S2: revisions are not dense: {numbers:?}"));
    }
    if purchase.status.revision.0 > REVISIONS_MAX {
        wrong.push("more revisions than there may be".to_owned());
    }
    if purchase.status.finality != Finality::Final {
        let state = purchase.status.state.as_str();
        wrong.push(format!("P5: never came to FINAL, left in {state}"));
    }
    let pairs = transitions.iter().zip(transitions.iter().skip(1));
    for (before, after) in pairs {
        if before.status.finality == Finality::Final {
            wrong.push("something follows FINAL".to_owned());
        }
        if after.from_state != Some(before.status.state) {
            wrong.push("a step does not begin where the last one ended".to_owned());
        }
        if let Some(text) = step(world, purchase, &before.status, after, ledger) {
            wrong.push(format!("{text} at revision {}", after.status.revision.0));
        }
    }
    wrong.extend(truth(purchase, transitions, ledger));
    wrong
}

/// The fault of one step, by promises P3 and P4.
fn step(
    world: &World,
    purchase: &Purchase,
    before: &Status,
    after: &Transition,
    ledger: &Ledger,
) -> Option<String> {
    let status = &after.status;
    let committed = world.commits.time(purchase.id, status.revision);
    let is_unanswered = matches!(before.state, State::Pending | State::OutcomeUnknown);
    let stamps = before.provider_change_time.zip(status.provider_change_time);
    if stamps
        .is_some_and(|(known, new)| new < known && !was_held_back(known, status, committed, ledger))
    {
        return Some("P3: an older answer was applied at once".to_owned());
    }
    if status.unmapped && after.cause == Cause::Poll {
        let kept = (status.state, status.finality) == (before.state, before.finality);
        let first =
            is_unanswered && (status.state, status.finality) == (State::Created, Finality::Open);
        return (!kept && !first).then(|| "P4: an unmapped word changed the state".to_owned());
    }
    if (before.state, before.finality) == (status.state, status.finality) {
        return None;
    }
    let explained = match after.cause {
        Cause::Operator => is_unanswered,
        Cause::Deadline => {
            status.finality == Finality::Final && status.state == before.state
                || status.state == State::OutcomeUnknown && before.state == State::Pending
                || status.state == State::Expired
                || is_never_sent(world, purchase, status, ledger) && is_unanswered
        }
        Cause::Create | Cause::Poll => match status.state {
            State::OutcomeUnknown | State::Pending => is_unanswered,
            State::Failed if is_rejected(status) => (ledger.sent.iter()).any(|sent| {
                *sent.mark == *purchase.idempotency_key && sent.refused && is_unanswered
            }),
            _ => was_said(status, committed, ledger),
        },
    };
    (!explained).then(|| {
        format!(
            "P3: {} became {} without cause ({})",
            before.state.as_str(),
            status.state.as_str(),
            after.cause.as_str()
        )
    })
}

/// True if a day without a repeat has ended what no provider was ever sent, or never sold. No run
/// lasts for a day, but a wall clock that is set forth makes one.
fn is_never_sent(world: &World, purchase: &Purchase, status: &Status, ledger: &Ledger) -> bool {
    let failure = status.failure.as_ref();
    let says_so = failure.is_some_and(|failure| failure.reason == FailureReason::NotCreated);
    let is_sold = (ledger.sold.values()).any(|sold| *sold.mark == *purchase.idempotency_key);
    world.has_wrong_clock() && says_so && !is_sold
}

fn is_rejected(status: &Status) -> bool {
    let failure = status.failure.as_ref();
    failure.is_some_and(|failure| failure.reason == FailureReason::Rejected)
}

/// The provider's name for a purchase.
fn name_of(status: &Status) -> Option<String> {
    let reference = status.reference.as_ref()?;
    [
        "session_id",
        "blockchain_identifier",
        "purchase_id",
        "order_id",
        "transaction_id",
    ]
    .into_iter()
    .map(|part| reference.part(part))
    .find(|text| !text.is_empty())
    .map(str::to_owned)
}

/// True if the provider has said this before it was committed.
fn was_said(status: &Status, committed: Timestamp, ledger: &Ledger) -> bool {
    let Some(name) = name_of(status) else {
        return false;
    };
    let said = Meaning::Definite(status.state, status.finality);
    (ledger.given.iter())
        .any(|given| given.reference == name && given.meaning == said && given.at <= committed)
}

/// True if single reads had shown stamps older than the newest one for long enough. The newest need not
/// have been committed: an answer that differs in its stamp alone is no revision. Rows that repeat the
/// newest stamp in between say nothing about the single reads.
fn was_held_back(known: Timestamp, status: &Status, committed: Timestamp, ledger: &Ledger) -> bool {
    let Some(name) = name_of(status) else {
        return false;
    };
    let stamps: Vec<(Timestamp, Timestamp, bool)> = (ledger.given.iter())
        .filter(|given| given.reference == name && given.at <= committed)
        .filter_map(|given| Some((given.at, given.stamp?, given.is_row)))
        .collect();
    let mut newest = known;
    (stamps.iter().enumerate()).any(|(place, (at, stamp, is_row))| {
        let is_older = |later: Timestamp, is_row: bool| later < newest || is_row && later == newest;
        let holds_back =
            (stamps[place..].iter()).all(|(_, later, is_row)| is_older(*later, *is_row));
        newest = newest.max(*stamp);
        holds_back && !is_row && committed.since(*at) >= HELD_BACK_FOR
    })
}

/// Once all is quiet, what is known is what the provider says; or its word was an end.
fn truth(purchase: &Purchase, transitions: &[Transition], ledger: &Ledger) -> Option<String> {
    let status = &purchase.status;
    let name = name_of(status)?;
    let sold = ledger
        .sold
        .values()
        .find(|sold| *sold.provider == *purchase.provider && sold.reference == name)?;
    let (_, last) = sold.walk.last()?;
    let (state, _) = words::meaning(sold.provider, last)?;
    let ended_by_word = transitions
        .iter()
        .any(|one| one.status.finality == Finality::Final && one.cause != Cause::Deadline);
    let expired = status.state == State::Expired && sold.provider == "masumi";
    (status.state != state && !ended_by_word && !expired).then(|| {
        let known = status.state.as_str();
        format!("P3: the provider's last word is {last}, known is {known}")
    })
}

/// Promise C3: what a provider has sold is never told as refused.
fn refusals(purchases: &[Purchase], ledger: &Ledger) -> Vec<String> {
    let is_sold = |purchase: &&Purchase| {
        let mark = &*purchase.idempotency_key;
        (ledger.sold.values()).any(|sold| *sold.provider == *purchase.provider && sold.mark == mark)
    };
    (purchases.iter())
        .filter(|purchase| is_rejected(&purchase.status))
        .filter(is_sold)
        .map(|purchase| {
            format!(
                "C3: {} was sold and told as refused",
                purchase.idempotency_key
            )
        })
        .collect()
}

/// Promise C2, as callers see it.
fn answers(world: &World, purchases: &[Purchase], acknowledged: &[Acknowledged]) {
    let mut first_answers: BTreeSet<&str> = BTreeSet::new();
    for one in acknowledged {
        let known = purchases
            .iter()
            .find(|purchase| *purchase.idempotency_key == *one.key);
        match known {
            Some(purchase)
                if purchase.id.to_string() == one.purchase
                    && purchase.status.revision.0 >= one.revision => {}
            _ => world.violation(format!("D1: {one:?} was acknowledged and is not there")),
        }
        if !one.replayed && !first_answers.insert(&one.key) {
            world.violation(format!("C2: {} was new twice", one.key));
        }
    }
    let keys: BTreeSet<&str> = purchases.iter().map(|one| &*one.idempotency_key).collect();
    if keys.len() != purchases.len() {
        world.violation("C2: two purchases have one key".to_owned());
    }
}

/// Promise C2, as providers see it: never two creates but what C3 allows.
fn creates(ledger: &Ledger) -> Vec<String> {
    let mut by_mark: BTreeMap<(&str, &str), Vec<&Sent>> = BTreeMap::new();
    for sent in &ledger.sent {
        let place = (sent.provider, sent.mark.as_str());
        by_mark.entry(place).or_default().push(sent);
    }
    let mut wrong = Vec::new();
    for ((provider, mark), sent) in by_mark {
        let sales = ledger
            .sold
            .values()
            .filter(|sold| sold.provider == provider && sold.mark == mark)
            .count();
        if sales > 1 {
            wrong.push(format!("C2: {provider} sold {mark} {sales} times"));
        }
        let looked_at: Vec<&&Sent> = sent.iter().filter(|sent| !sent.turned_away).collect();
        let allowed = match provider {
            "masumi" => true,
            "devdraft" => {
                let first = sent[0];
                (sent.iter()).all(|one| one.key == first.key && one.at.since(first.at) < KEY_LIVES)
            }
            "phygitals" | "inabit" | "carbon" => {
                looked_at.len() <= 1
                    && sent
                        .last()
                        .is_none_or(|last| looked_at.is_empty() || !last.turned_away)
            }
            other => panic!("{other} is not simulated"),
        };
        if !allowed {
            let count = looked_at.len();
            wrong.push(format!("C2: {mark} was sent to {provider} {count} times"));
        }
    }
    wrong
}

/// Promise P2: no account exceeds its requests per minute, or its creates, restarts or not, over all
/// processes together. Each time that the store's clock is set forth gives the burst once more to all together,
/// which is one request at these limits, and to no process alone.
fn budgets(world: &World, ledger: &Ledger) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |what: &str, limit: u32, times: &[Timestamp], is_alone: bool| {
        let limit = limit as usize;
        let is_more = |(place, from): (usize, &Timestamp)| {
            let within = |time: &&Timestamp| time.since(*from) < Duration::from_secs(60);
            let count = times[place..].iter().take_while(within).count();
            let until = times[place + count - 1];
            let bursts = if is_alone {
                0
            } else {
                world.store_steps(*from, until)
            };
            count > limit + bursts
        };
        if let Some((_, at)) = times.iter().enumerate().find(|one| is_more(*one)) {
            wrong.push(format!(
                "P2: more than {limit} {what} in the minute from {at}"
            ));
        }
    };
    for provider in words::PROVIDERS {
        let times = ledger.requests.get(provider).map_or(&[][..], Vec::as_slice);
        if let Some(limit) = limits::requests_per_minute(provider, world.is_shared) {
            check(&format!("requests to {provider}"), limit, times, false);
        }
    }
    for ((provider, replica), times) in &ledger.requests_of {
        if let Some(limit) = limits::requests_per_minute(provider, world.is_shared) {
            let what = format!("requests to {provider} of {}", replica.as_str());
            check(&what, limit, times, true);
        }
    }
    let of_phygitals = (ledger.sent.iter()).filter(|sent| sent.provider == "phygitals");
    let creates: Vec<Timestamp> = of_phygitals.map(|sent| sent.at).collect();
    check(
        "creates at phygitals",
        limits::CREATES_OF_PHYGITALS,
        &creates,
        false,
    );
    wrong
}
