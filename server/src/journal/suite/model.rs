//! Random histories: the memory journal and each other one must answer every write and read alike, and
//! both must keep the rules that the promises rest on.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::{
    Subject,
    bound::binding,
    memory, postgres, sqlite,
    values::{
        append_write, at, attention, begin_write, caller, following, id, record, redirect,
        reference, retire, step, tracker_of,
    },
};
use crate::{
    journal::{
        AttemptChange, Committed, Expected, Filter, Journal, Position, Record, Write, Written,
    },
    purchase::{AttentionReason, Finality, Purchase, Revision, State, Transition},
};

const PURCHASES: u64 = 5;

/// One step of a history, with few values so that they meet.
#[derive(Debug, Clone)]
enum Act {
    Begin {
        number: u64,
        key: u64,
        reference: Option<u8>,
    },
    Bind {
        number: u64,
        key: u64,
        millis: u64,
    },
    Append {
        number: u64,
        state: usize,
        finality: usize,
        reference: Option<u8>,
        stale: bool,
        action: bool,
        behind: u32,
        attempt: u8,
    },
    ChangeAttempt {
        number: u64,
        behind: u32,
        change: u8,
    },
    Wipe {
        number: u64,
        through: u32,
    },
    Put {
        key: u8,
        value: u8,
    },
    Retire {
        finals_before: u64,
        remnants_before: u64,
        limit: usize,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let number = || 0..PURCHASES;
    let name = || proptest::option::of(0_u8..3);
    let begin = (number(), number(), name()).prop_map(|(number, key, reference)| Act::Begin {
        number,
        key,
        reference,
    });
    let bind = (number(), number(), number()).prop_map(|(number, key, millis)| Act::Bind {
        number,
        key,
        millis,
    });
    let facts = (0..3_usize, 0..8_usize, name(), any::<bool>(), any::<bool>());
    let guards = (prop_oneof![4 => Just(0_u32), 1 => 1..3_u32], 0..7_u8);
    let append = (number(), facts, guards).prop_map(
        |(number, (state, finality, reference, stale, action), (behind, attempt))| Act::Append {
            number,
            state,
            finality,
            reference,
            stale,
            action,
            behind,
            attempt,
        },
    );
    let attempt =
        (number(), 0..2_u32, 0..7_u8).prop_map(|(number, behind, change)| Act::ChangeAttempt {
            number,
            behind,
            change,
        });
    let wipe = (number(), 0..6_u32).prop_map(|(number, through)| Act::Wipe { number, through });
    let put = (0..2_u8, any::<u8>()).prop_map(|(key, value)| Act::Put { key, value });
    let retire = (0..9_000_u64, 0..PURCHASES, 1..3_usize).prop_map(
        |(finals_before, remnants_before, limit)| Act::Retire {
            finals_before,
            remnants_before,
            limit,
        },
    );
    vec(
        prop_oneof![3 => begin, 1 => bind, 10 => append, 1 => attempt, 1 => wipe, 1 => put, 1 => retire],
        1..60,
    )
}

/// The write of an act, made from the state of the model journal.
async fn write_of(model: &dyn Journal, act: &Act) -> Option<Write> {
    let stored = async |number: u64| model.record(id(number)).await.unwrap();
    match *act {
        Act::Begin {
            number,
            key,
            reference: name,
        } => {
            let mut one = record(number);
            one.purchase.idempotency_key = format!("key-{key}").into();
            if number % 2 == 0 {
                one.purchase.caller = caller("ben");
            }
            let mut status = one.purchase.status.as_ref().clone();
            status.reference = name.map(|name| reference(&name.to_string()));
            one.purchase.status = status.into();
            Some(begin_write(one))
        }
        Act::Bind {
            number,
            key,
            millis,
        } => {
            let binding = binding(number, &format!("key-{key}"), millis);
            Some(Write::Bind(Box::new(binding)))
        }
        Act::Append {
            number,
            behind,
            attempt,
            ..
        } => {
            let newest = stored(number).await.unwrap_or_else(|| record(number));
            let transition = transition_of(&newest, act, behind)?;
            let mut write = append_write(id(number), transition);
            if let Write::Append {
                expected,
                attempt: change,
                note,
                ..
            } = &mut write
            {
                *expected = Expected {
                    revision: expected.revision,
                    ..newest.expected()
                };
                *change = change_of(attempt);
                *note = (attempt == 1).then(|| "noted".to_owned());
            }
            Some(write)
        }
        Act::ChangeAttempt {
            number,
            behind,
            change,
        } => {
            let newest = stored(number).await?.expected();
            Some(Write::ChangeAttempt {
                purchase: id(number),
                expected: Expected {
                    revision: Revision(newest.revision.0.saturating_sub(behind)),
                    ..newest
                },
                change: change_of(change),
            })
        }
        Act::Wipe { number, through } => Some(Write::WipeBuyerActions {
            purchase: id(number),
            through: Revision(through),
        }),
        Act::Put { key, value } => Some(Write::Put {
            key: key.to_string(),
            fence: None,
            value: value.to_string(),
        }),
        Act::Retire { .. } => None,
    }
}

fn change_of(number: u8) -> AttemptChange {
    match number {
        0 => AttemptChange::Keep,
        1 => AttemptChange::End,
        2 => AttemptChange::Unsent,
        3 => AttemptChange::Undate,
        4 => AttemptChange::Accepted,
        5 => AttemptChange::Extend {
            submit_until: at(99),
        },
        _ => AttemptChange::Begin {
            attempt: super::values::attempt(u128::from(number), 77),
            now: at(u64::from(number)),
        },
    }
}

fn transition_of(newest: &Record, act: &Act, behind: u32) -> Option<Transition> {
    let Act::Append {
        state,
        finality,
        reference: name,
        stale,
        action,
        ..
    } = *act
    else {
        return None;
    };
    let previous = &newest.purchase.status;
    let state = [State::Created, State::AwaitingPayment, State::Paid][state];
    let mut status = following(previous, state);
    // Most steps change little, so that a STALE attention alone is met as well.
    status.code.clone_from(&previous.code);
    status.finality = match finality {
        0 => Finality::Final,
        1 => Finality::Terminal,
        _ => Finality::Open,
    };
    status.reference = name.map(|name| reference(&name.to_string()));
    status.attention = stale.then(|| attention(AttentionReason::Stale)).flatten();
    status.buyer_action = action.then(|| redirect("https://a.example")).flatten();
    status.revision = Revision(status.revision.0.saturating_sub(behind).max(1));
    Some(step(previous, status))
}

/// Everything that can be read, as one value.
#[derive(Debug, PartialEq)]
struct Seen {
    head: Position,
    records: Vec<Option<Record>>,
    keys: Vec<Option<Record>>,
    transitions: Vec<Vec<Transition>>,
    listed: Vec<Vec<Purchase>>,
    tail: Vec<String>,
    open: Vec<Record>,
    references: Vec<Option<crate::purchase::PurchaseId>>,
    texts: Vec<Option<String>>,
}

async fn see(journal: &dyn Journal) -> Seen {
    let mut seen = Seen {
        head: journal.head(),
        records: Vec::new(),
        keys: Vec::new(),
        transitions: Vec::new(),
        listed: Vec::new(),
        tail: Vec::new(),
        open: journal.open_records(None, 100).await.unwrap(),
        references: Vec::new(),
        texts: Vec::new(),
    };
    for number in 0..PURCHASES {
        seen.records.push(journal.record(id(number)).await.unwrap());
        let transitions = journal.transitions(id(number), Revision(0), 100).await;
        seen.transitions.push(transitions.unwrap());
        for name in ["anna", "ben"] {
            let key = format!("key-{number}");
            let record = journal.record_by_key(&caller(name), &key).await;
            seen.keys.push(record.unwrap());
        }
    }
    for name in [None, Some(caller("anna")), Some(caller("ben"))] {
        let (tail, through) = journal.tail(name.as_ref(), Position(0), 400).await.unwrap();
        seen.tail.extend(tail.iter().map(|one| format!("{one:?}")));
        seen.tail.push(format!("{through:?}"));
    }
    for filter in filters() {
        for limit in [2, 100] {
            // Pages are joined: each journal may end a page elsewhere among purchases that it does not
            // show.
            let mut after = None;
            loop {
                let page = journal.list(&filter, after, limit).await.unwrap();
                seen.listed.push(page.purchases);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
    }
    for name in 0..3 {
        seen.references
            .push(tracker_of(journal, &name.to_string()).await);
        seen.texts
            .push(journal.get(&name.to_string()).await.unwrap());
    }
    seen
}

/// A filter for each index that lists go along.
fn filters() -> Vec<Filter> {
    let caller = Some(caller("anna"));
    let labels = BTreeMap::from([("n".to_owned(), "1".to_owned())]);
    let all = [
        Filter::default(),
        Filter {
            needs_attention: true,
            ..Filter::default()
        },
        Filter {
            finalities: vec![Finality::Open],
            ..Filter::default()
        },
        Filter {
            states: vec![State::Created, State::Paid],
            ..Filter::default()
        },
        Filter {
            labels,
            ..Filter::default()
        },
    ];
    let of_caller = all.clone().map(|filter| Filter {
        caller: caller.clone(),
        ..filter
    });
    all.into_iter().chain(of_caller).collect()
}

/// Checks the promises that hold for any journal after any writes.
fn check_promises(seen: &Seen, heard: &[std::sync::Arc<Committed>]) {
    let positions: Vec<u64> = heard.iter().map(|one| one.position.0).collect();
    assert_eq!(positions, (1..=seen.head.0).collect::<Vec<_>>());
    let mut newest: BTreeMap<_, u32> = BTreeMap::new();
    for one in heard {
        let revision = newest
            .entry((one.purchase.id, one.purchase.create_time))
            .or_default();
        // A purchase whose remnant was deleted can begin again from 1.
        let next = one.purchase.status.revision.0;
        assert!(next == *revision + 1 || next == 1);
        *revision = next;
    }
    for (record, transitions) in seen.records.iter().zip(&seen.transitions) {
        let Some(record) = record else {
            assert!(transitions.is_empty());
            continue;
        };
        let last = transitions.last().map(|transition| &transition.status);
        assert_eq!(last, Some(&*record.purchase.status));
        let revisions = transitions.iter().map(|one| one.status.revision.0);
        assert!(revisions.eq(1..=record.purchase.status.revision.0));
        for pair in transitions.windows(2) {
            let left = &pair[0].status;
            assert_ne!(left.finality, Finality::Final);
            let leaves = left.state != record.purchase.status.state;
            assert!(!leaves || left.buyer_action.is_none());
        }
        let owner = (record.purchase.status.reference.as_ref()).map(|name| {
            (0..3_usize)
                .find(|one| *name == reference(&one.to_string()))
                .unwrap()
        });
        if let Some(name) = owner {
            assert_eq!(seen.references[name], Some(record.purchase.id));
        }
    }
}

async fn play(acts: &[Act], real: Subject) {
    let model = memory();
    let heard = [(); 2].map(|()| std::sync::Arc::<std::sync::Mutex<Vec<_>>>::default());
    for (journal, heard) in [&model.journal, &real.journal].into_iter().zip(&heard) {
        let heard = std::sync::Arc::clone(heard);
        journal.observe(std::sync::Arc::new(move |committed| {
            heard.lock().unwrap().extend(committed.iter().cloned());
        }));
    }
    for act in acts {
        if let Act::Retire {
            finals_before,
            remnants_before,
            limit,
        } = *act
        {
            let (finals, remnants) = (at(finals_before), at(remnants_before));
            let left = retire(&*model.journal, finals, remnants, limit)
                .await
                .unwrap();
            let right = retire(&*real.journal, finals, remnants, limit)
                .await
                .unwrap();
            assert_eq!(left, right, "{act:?}");
            continue;
        }
        let Some(write) = write_of(&*model.journal, act).await else {
            continue;
        };
        let left: Result<Written, String> =
            (model.journal.write(write.clone()).await).map_err(|error| error.to_string());
        let right = (real.journal.write(write).await).map_err(|error| error.to_string());
        assert_eq!(left, right, "{act:?}");
    }
    let (left, right) = (see(&*model.journal).await, see(&*real.journal).await);
    assert_eq!(left, right);
    for (seen, heard) in [left, right].iter().zip(heard) {
        check_promises(seen, &heard.lock().unwrap());
    }
}

fn run(history: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(history);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_journals_tell_the_same_history(acts in acts()) {
        run(async { play(&acts, sqlite().await).await });
    }
}

proptest! {
    // Each has a database of its own, which takes longer than the history.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_server_tells_the_same_history_as_the_memory(acts in acts()) {
        run(async { play(&acts, postgres().await).await });
    }
}
