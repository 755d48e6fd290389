//! Requests that make way for others.

use super::*;

const NOT_FIRST: [Class; 5] = [
    Class::LookUp,
    Class::Poll,
    Class::AfterTerminal,
    Class::Refresh,
    Class::Sweep,
];

/// Asks for one after the other for so long, as a lane does; says how many were let through, and how
/// many of these for what is overdue for longest.
async fn made(account: &Arc<Account>, class: Class, seconds: u64) -> (u32, u32) {
    let start = tokio::time::Instant::now();
    let (mut all, mut longest) = (0, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        match account.try_admit(class).await {
            Ok(admission) => {
                all += 1;
                longest += u32::from(admission.is_for_longest_due());
                drop(admission);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(refusal) => {
                let wait = refusal.retry_at().since(account.clock.moment());
                tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
            }
        }
    }
    (all, longest)
}

/// Creates again and again, and comes back when told to; says how often it was let through.
async fn creates(account: Arc<Account>, caller: &'static str, made: Arc<AtomicU32>) {
    let caller = CallerName::new(caller);
    loop {
        let deadline = account.clock.moment().plus(Duration::from_secs(2));
        match account.admit_for(Class::Create, &caller, deadline).await {
            Ok(admission) => {
                made.fetch_add(1, Ordering::Relaxed);
                drop(admission);
            }
            Err(refusal) => {
                let wait = refusal.retry_at().since(account.clock.moment());
                tokio::time::sleep(wait + Duration::from_millis(20)).await;
            }
        }
    }
}

fn limits(requests_per_minute: u32, creates_per_minute: u32) -> Policy {
    Policy {
        creates_per_minute,
        ..policy(requests_per_minute)
    }
}

/// Every kind of refusal of a create but one, beside everybody whom it could hold back.
#[tokio::test(start_paused = true)]
async fn a_create_that_something_else_refuses_keeps_no_slot_from_others() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Refuses {
        Nothing,
        ItsOwnLimit,
        ItsOwnLimitWhileItWaits,
        TheBreaker,
    }
    for limit in [0, 100, 600] {
        for class in NOT_FIRST {
            let mut usual = None;
            for refuses in [
                Refuses::Nothing,
                Refuses::ItsOwnLimit,
                Refuses::ItsOwnLimitWhileItWaits,
                Refuses::TheBreaker,
            ] {
                let account = open(limits(limit, 1), 200).await;
                // The one create of this minute.
                drop(account.try_admit(Class::Create).await.unwrap());
                let wants = match refuses {
                    Refuses::Nothing => None,
                    Refuses::ItsOwnLimit | Refuses::TheBreaker => Some(Duration::ZERO),
                    Refuses::ItsOwnLimitWhileItWaits => Some(Duration::from_secs(50)),
                };
                let broken = Refusal::Unreachable {
                    retry_at: account.clock.moment().plus(Duration::from_secs(9)),
                };
                let creates = tokio::spawn({
                    let account = Arc::clone(&account);
                    async move {
                        while let Some(wait) = wants {
                            let deadline = account.clock.moment().plus(wait);
                            if refuses == Refuses::TheBreaker {
                                account.refused(Class::Create, None, broken);
                            } else if wait.is_zero() {
                                let refused = account.admit(Class::Create, deadline).await;
                                assert!(refused.is_err());
                            } else {
                                let waits = account.admit(Class::Create, deadline);
                                drop(tokio::time::timeout(wait, waits).await);
                            }
                            tokio::time::sleep(Duration::from_secs(3)).await;
                        }
                    }
                });
                let (made, _) = made(&account, class, 50).await;
                creates.abort();
                let usual = *usual.get_or_insert(made);
                assert!(usual > 5, "{class:?} at {limit}: {usual}");
                assert_eq!(made, usual, "{class:?} at {limit} beside {refuses:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_kept_for_a_create_costs_others_that_slot_alone() {
    for limit in [30, 100, 600] {
        for class in NOT_FIRST {
            let mut polls = Vec::new();
            for creates in [0, 1] {
                let account = open(limits(limit, 0), 200).await;
                while account.try_admit(Class::Create).await.is_ok() {}
                if creates == 1 {
                    let now = account.clock.moment();
                    let refused = account.admit(Class::Create, now).await;
                    assert!(refused.is_err());
                }
                polls.push(made(&account, class, 60).await.0);
            }
            assert!(polls[1] + 1 >= polls[0], "{class:?} at {limit}: {polls:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_waits_for_its_own_limit_takes_no_place_in_flight() {
    let few = Policy {
        max_in_flight: 4,
        ..limits(0, 1)
    };
    let account = open(few, 200).await;
    drop(account.try_admit(Class::Create).await.unwrap());
    let waits = tokio::spawn({
        let account = Arc::clone(&account);
        async move { forever(&account, Class::Create).await }
    });
    tokio::task::yield_now().await;
    let mut held = Vec::new();
    while let Ok(admission) = account.try_admit(Class::Poll).await {
        held.push(admission);
    }
    assert_eq!(held.len(), 4);
    waits.abort();
}

/// Promise P6: none starves, whatever else wants the budget.
#[tokio::test(start_paused = true)]
async fn a_tenth_goes_to_the_longest_overdue_whatever_else_wants_it() {
    for limit in [10, 100, 600] {
        for class in [
            Class::Create,
            Class::Adopt,
            Class::LookUp,
            Class::Refresh,
            Class::Sweep,
        ] {
            let account = open(policy(limit), 200).await;
            let mut others = tokio::task::JoinSet::new();
            for _ in 0..10 {
                let account = Arc::clone(&account);
                others.spawn(async move {
                    loop {
                        drop(forever(&account, class).await);
                    }
                });
            }
            tokio::time::sleep(Duration::from_secs(30)).await;
            let (polls, longest) = made(&account, Class::Poll, 600).await;
            let tenth = limit * 10 * 9 / 10 / 10;
            assert!(
                longest * 10 >= tenth * 9,
                "{class:?} at {limit}: {longest} of {polls}, a tenth is {tenth}"
            );
            if class == Class::Create {
                assert!(
                    polls <= tenth + tenth / 4 + 1,
                    "{polls} beside creates at {limit}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn among_polls_alone_each_tenth_is_for_the_longest_overdue() {
    for limit in [0, 100] {
        let account = open(policy(limit), 200).await;
        let (polls, longest) = made(&account, Class::Poll, 120).await;
        assert_eq!(longest, polls / 10, "of {polls}");
    }
}

#[tokio::test(start_paused = true)]
async fn creates_take_turns_among_callers_however_many_one_makes() {
    for (requests, per_minute, seconds) in [(100, 0, 300), (0, 10, 600), (0, 1, 1_200)] {
        let account = open(limits(requests, per_minute), 200).await;
        let (many, few): (Arc<AtomicU32>, Arc<AtomicU32>) = Default::default();
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..20 {
            callers.spawn(creates(Arc::clone(&account), "many", Arc::clone(&many)));
        }
        callers.spawn(creates(Arc::clone(&account), "few", Arc::clone(&few)));
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let [many, few] = [many, few].map(|made| made.load(Ordering::Relaxed));
        assert!(
            few * 5 >= many * 4,
            "{few} beside {many} at {requests} {per_minute}"
        );
        let all = u64::from(many + few) * 60;
        let limit = u64::from(requests.max(per_minute)) * seconds;
        assert!(
            all * 10 >= limit * 8,
            "turns leave none unused: {all} of {limit}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_turns_and_no_tenth_exceed_the_limit() {
    let account = open(policy(60), 200).await;
    let made_by_all: Arc<AtomicU32> = Arc::default();
    let mut others = tokio::task::JoinSet::new();
    for caller in ["a", "b", "c"] {
        others.spawn(creates(
            Arc::clone(&account),
            caller,
            Arc::clone(&made_by_all),
        ));
    }
    for _ in 0..10 {
        let before = made_by_all.load(Ordering::Relaxed);
        let (polls, _) = made(&account, Class::Poll, 60).await;
        let all = polls + made_by_all.load(Ordering::Relaxed) - before;
        assert!(all <= 60, "{all} in a minute");
        assert!(all >= 45, "{all} in a minute");
    }
}
