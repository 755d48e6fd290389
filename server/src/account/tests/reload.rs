//! Other settings while an account is at work.

use super::*;

/// A way to a provider that gives always the same answer, and the number of requests that took it.
fn way(status: u16) -> (Arc<dyn Upstream>, Arc<AtomicU32>) {
    let requests = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&requests);
    let upstream = Scripted::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok(json_response(status, &serde_json::json!({}))) }
    });
    (Arc::new(upstream), requests)
}

/// Lets the account go another way, with other credentials.
fn move_to(account: &Account, upstream: Arc<dyn Upstream>) {
    let before = account.settings();
    let (provider, policy) = (testing::provider("devdraft"), before.policy.clone());
    let newer = Settings::new(provider, policy, upstream);
    account.take_up(before.moved_to(newer));
}

/// Asks, and learns that the credentials are refused.
async fn refused(account: &Arc<Account>, mut admission: Admission) {
    account.ask(&mut admission, request()).await.unwrap();
    account.blame(&mut admission, &Trouble::Unauthorized);
}

#[tokio::test(start_paused = true)]
async fn p2_another_limit_holds_for_what_was_granted_before_it() {
    let limits = [
        (600, 60),
        (100, 99),
        (60, 1),
        (10, 9),
        (0, 30),
        (30, 600),
        (99, 99),
    ];
    let spans = [1, 20, 59, 90].map(Duration::from_secs);
    for (class, (before, after), span) in [Class::Poll, Class::Create]
        .into_iter()
        .flat_map(|class| limits.map(|limits| (class, limits)))
        .flat_map(|(class, limits)| spans.map(|span| (class, limits, span)))
    {
        let limited = |limit| match class {
            Class::Create => Policy {
                creates_per_minute: limit,
                ..policy(0)
            },
            _ => policy(limit),
        };
        let account = open(limited(before), 200).await;
        let began = account.clock.moment();
        let mut sent = Vec::new();
        while account.clock.moment().since(began) < span {
            drop(forever(&account, class).await);
            sent.push(account.clock.moment());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let granted = sent.len();
        account.take_up(account.settings().with_policy(limited(after)));
        while account.clock.moment().since(began) < span + Duration::from_secs(130) {
            drop(forever(&account, class).await);
            sent.push(account.clock.moment());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for last in granted..sent.len() {
            let minute_ago = sent[last].minus(Duration::from_secs(60));
            let within = sent[..=last].iter().filter(|time| **time > minute_ago);
            let within = within.count();
            let what = format!("{class:?}: {before} to {after} after {span:?}");
            assert!(within <= after as usize, "{what}: {within}");
        }
        let more = sent.len() - granted;
        assert!(
            more > 0,
            "{class:?}: {before} to {after} after {span:?} stands still"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_stays_forgets_no_throttle() {
    let account = open(policy(600), 429).await;
    learned(
        &account,
        Class::Poll,
        &Trouble::Throttled { retry_after: None },
    )
    .await;
    let lowered = account.snapshot().requests_per_minute;
    assert!(lowered < 600, "{lowered}");
    let settings = account.settings();
    let other = Policy {
        timeout: Duration::from_secs(1),
        ..settings.policy.clone()
    };
    account.take_up(settings.with_policy(other));
    assert_eq!(account.snapshot().requests_per_minute, lowered);
    account.take_up(account.settings().with_policy(policy(700)));
    assert_eq!(account.snapshot().requests_per_minute, 700);
}

#[tokio::test(start_paused = true)]
async fn other_credentials_make_the_next_request_the_probe() {
    let account = open(policy(0), 401).await;
    account.follows(9);
    for _ in 0..3 {
        let admission = account.try_admit(Class::Poll).await.unwrap();
        refused(&account, admission).await;
    }
    let told = account.try_admit(Class::Poll).await.unwrap_err();
    assert!(matches!(told, Refusal::Unauthorized { .. }), "{told:?}");
    move_to(&account, way(200).0);
    let mut probe = account.try_admit(Class::Poll).await.unwrap();
    assert!(probe.is_probe());
    let told = account.try_admit(Class::Poll).await.unwrap_err();
    assert!(
        matches!(told, Refusal::Unauthorized { .. }),
        "one: {told:?}"
    );
    account.ask(&mut probe, request()).await.unwrap();
    assert_eq!(account.snapshot().health, Health::Ok);
    assert!(account.try_admit(Class::Poll).await.is_ok());
}

/// No secret goes to an origin that it was not configured with.
#[tokio::test(start_paused = true)]
async fn a_request_that_was_let_through_goes_the_older_way_and_says_nothing_of_the_newer() {
    let (older, of_older) = way(401);
    let account = asking(policy(0), Scripted::new(|_| async { unreachable!() })).await;
    move_to(&account, older);
    let mut let_through = Vec::new();
    for _ in 0..5 {
        let_through.push(account.try_admit(Class::Poll).await.unwrap());
    }
    let (newer, of_newer) = way(200);
    move_to(&account, newer);
    for admission in let_through {
        refused(&account, admission).await;
    }
    let both = || [&of_older, &of_newer].map(|requests| requests.load(Ordering::Relaxed));
    assert_eq!(both(), [5, 0]);
    assert_eq!(
        account.snapshot().health,
        Health::Ok,
        "the newer are not refused"
    );
    let mut admission = account.try_admit(Class::Poll).await.unwrap();
    assert!(!admission.is_probe());
    account.ask(&mut admission, request()).await.unwrap();
    assert_eq!(both(), [5, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_goes_by_older_settings_leaves_the_probe_to_another() {
    let account = open(policy(0), 500).await;
    for _ in 0..9 {
        let Ok(mut admission) = account.try_admit(Class::Create).await else {
            break;
        };
        account.ask(&mut admission, request()).await.unwrap();
    }
    assert!(account.snapshot().breaker_open);
    let older = account.settings();
    move_to(&account, way(200).0);
    let probe = account.try_admit(Class::Create).await.unwrap();
    assert!(probe.is_probe());
    let told = account.try_admit(Class::Create).await.unwrap_err();
    assert!(matches!(told, Refusal::Unreachable { .. }), "{told:?}");
    let mut probe = probe.by(&older);
    account.ask(&mut probe, request()).await.unwrap();
    drop(probe);
    assert!(
        account.snapshot().breaker_open,
        "it says nothing of the newer"
    );
    let mut probe = account.try_admit(Class::Create).await.unwrap();
    account.ask(&mut probe, request()).await.unwrap();
    assert!(!account.snapshot().breaker_open);
}

#[tokio::test(start_paused = true)]
async fn fewer_places_hold_as_soon_as_requests_under_way_have_ended() {
    let places = |max_in_flight| Policy {
        max_in_flight,
        ..policy(0)
    };
    let account = open(places(8), 200).await;
    let mut under_way = Vec::new();
    for _ in 0..7 {
        under_way.push(account.try_admit(Class::Poll).await.unwrap());
    }
    account.take_up(account.settings().with_policy(places(2)));
    while under_way.len() > 1 {
        assert!(account.try_admit(Class::Poll).await.is_err());
        under_way.pop();
    }
    assert!(account.try_admit(Class::Poll).await.is_ok());
}
