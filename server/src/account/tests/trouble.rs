//! Errors, refusals and headers, as an account takes them.

use super::*;

type Reply = Result<Response, UpstreamError>;

/// An account whose provider says whatever it is told to.
async fn saying(policy: Policy) -> (Arc<Account>, Arc<Mutex<Reply>>) {
    let reply: Arc<Mutex<Reply>> = Arc::new(Mutex::new(says(200, &[])));
    let said = Arc::clone(&reply);
    let upstream = Scripted::new(move |_| {
        let reply = said.lock().unwrap().clone();
        async move { reply }
    });
    (asking(policy, upstream).await, reply)
}

fn says(status: u16, headers: &[(&'static str, &str)]) -> Reply {
    let mut response = json_response(status, &serde_json::json!({}));
    for (name, value) in headers {
        response.headers.insert(*name, value.parse().unwrap());
    }
    Ok(response)
}

async fn asked(account: &Arc<Account>, class: Class, purchase: u128) {
    let admission = forever(account, class).await;
    let mut admission = admission.about(PurchaseId::from_u128(purchase));
    drop(account.ask(&mut admission, request()).await);
}

/// Asks about this purchase, and learns what a refusal of the credentials means.
async fn refused(account: &Arc<Account>, class: Class) {
    let mut admission = account.try_admit(class).await.unwrap();
    account.ask(&mut admission, request()).await.unwrap();
    account.blame(&mut admission, &Trouble::Unauthorized);
}

#[tokio::test(start_paused = true)]
async fn a_purchase_that_cannot_be_read_does_not_stop_its_account() {
    for reply in [
        says(500, &[]),
        Err(UpstreamError::Unusable("body too large")),
        Err(UpstreamError::Lost("timed out")),
    ] {
        let (account, said) = saying(policy(0)).await;
        account.follows(10);
        *said.lock().unwrap() = reply.clone();
        for _ in 0..50 {
            asked(&account, Class::Poll, 7).await;
            asked(&account, Class::Refresh, 7).await;
            asked(&account, Class::LookUp, 8).await;
        }
        assert!(!account.snapshot().breaker_open, "{reply:?}");
        assert!(account.try_admit(Class::Create).await.is_ok(), "{reply:?}");
        asked(&account, Class::Poll, 9).await;
        assert!(account.snapshot().breaker_open, "three of them: {reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_the_breaker_opens_whatever_is_asked_about() {
    let (account, said) = saying(policy(0)).await;
    *said.lock().unwrap() = Err(UpstreamError::NotConnected("connection failed"));
    for _ in 0..5 {
        assert!(!account.snapshot().breaker_open);
        asked(&account, Class::Poll, 7).await;
    }
    let refusal = account.try_admit(Class::Create).await.unwrap_err();
    assert!(
        matches!(refusal, Refusal::Unreachable { .. }),
        "{refusal:?}"
    );
    *said.lock().unwrap() = says(200, &[]);
    asked(&account, Class::Poll, 7).await;
    assert_eq!(account.snapshot().health, Health::Ok, "it recovers");
}

#[tokio::test(start_paused = true)]
async fn a_create_that_is_refused_its_credentials_holds_no_read_up() {
    let (account, said) = saying(policy(0)).await;
    *said.lock().unwrap() = says(401, &[]);
    refused(&account, Class::Create).await;
    assert_eq!(account.snapshot().health, Health::Unauthorized);
    *said.lock().unwrap() = says(200, &[]);
    asked(&account, Class::Poll, 1).await;
    let snapshot = account.snapshot();
    assert_eq!(snapshot.health, Health::Unauthorized, "it is still told");
    tokio::time::sleep(Duration::from_secs(60)).await;
    asked(&account, Class::Poll, 1).await;
    assert_eq!(account.snapshot().health, Health::Ok);
}

#[tokio::test(start_paused = true)]
async fn neither_a_failure_nor_a_throttle_says_that_credentials_are_good() {
    for status in [500, 503, 429] {
        let (account, said) = saying(policy(0)).await;
        *said.lock().unwrap() = says(401, &[]);
        refused(&account, Class::Poll).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        *said.lock().unwrap() = says(status, &[]);
        asked(&account, Class::Poll, 1).await;
        assert_eq!(account.snapshot().health, Health::Unauthorized, "{status}");
        let refusal = account.try_admit(Class::Poll).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Unauthorized { .. }), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_unavailable_for_a_while_is_left_alone_for_it() {
    let (account, said) = saying(policy(0)).await;
    *said.lock().unwrap() = says(503, &[("retry-after", "120")]);
    asked(&account, Class::Poll, 1).await;
    let retry_at = account.clock.moment().plus(Duration::from_secs(120));
    let refusal = account.try_admit(Class::Create).await.unwrap_err();
    assert_eq!(refusal, Refusal::Throttled { retry_at });
}

#[tokio::test(start_paused = true)]
async fn a_throttle_that_names_no_wait_is_waited_for_all_the_same() {
    let (account, _) = saying(policy(0)).await;
    for retry_after in [None, Some(Duration::ZERO)] {
        learned(&account, Class::Poll, &Trouble::Throttled { retry_after }).await;
        assert!(account.try_admit(Class::Poll).await.is_err());
        tokio::time::sleep(Duration::from_secs(90)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_rate_headers_leave_is_spread_over_their_window_and_creates_go_first() {
    let (account, said) = saying(policy(0)).await;
    let reset = (account.clock.now().as_millis() / 1_000 + 60).to_string();
    let left = |requests: &str| {
        says(
            200,
            &[
                ("x-ratelimit-remaining", requests),
                ("x-ratelimit-reset", &reset),
            ],
        )
    };
    let start = tokio::time::Instant::now();
    *said.lock().unwrap() = left("6");
    asked(&account, Class::Poll, 1).await;
    // Also while no answer has come since.
    forever(&account, Class::Poll).await;
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(account.try_admit(Class::Poll).await.is_err());
    for remaining in ["4", "3", "2", "1"] {
        *said.lock().unwrap() = left(remaining);
        asked(&account, Class::Poll, 1).await;
    }
    let spread = start.elapsed().as_secs();
    assert!((40..60).contains(&spread), "over the window: {spread} s");
    *said.lock().unwrap() = left("0");
    asked(&account, Class::Create, 1).await;
    assert_eq!(start.elapsed().as_secs(), spread, "a create goes at once");
    let refusal = account.try_admit(Class::Create).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Throttled { .. }), "{refusal:?}");
    *said.lock().unwrap() = says(200, &[("x-ratelimit-remaining", "0")]);
    asked(&account, Class::Poll, 1).await;
    let waited = start.elapsed().as_secs();
    assert!((60..62).contains(&waited), "until the reset: {waited} s");
    assert!(
        account.try_admit(Class::Poll).await.is_ok(),
        "without a reset there is no window"
    );
}

#[tokio::test(start_paused = true)]
async fn rate_headers_that_leave_enough_change_nothing() {
    let (account, said) = saying(policy(600)).await;
    *said.lock().unwrap() = says(
        200,
        &[
            ("x-ratelimit-remaining", "900"),
            ("x-ratelimit-reset", "1800000060"),
        ],
    );
    let start = tokio::time::Instant::now();
    for _ in 0..300 {
        asked(&account, Class::Poll, 1).await;
    }
    let elapsed = start.elapsed().as_secs();
    assert!(
        (29..=34).contains(&elapsed),
        "300 at 540 a minute: {elapsed} s"
    );
}

#[tokio::test(start_paused = true)]
async fn at_any_limit_a_create_that_comes_back_when_it_was_told_to_goes_before_polls() {
    for limit in [2, 6, 10, 30] {
        let (account, _) = saying(policy(limit)).await;
        let polls = tokio::spawn({
            let account = Arc::clone(&account);
            async move {
                loop {
                    forever(&account, Class::Poll).await;
                }
            }
        });
        tokio::time::sleep(Duration::from_secs(300)).await;
        for _ in 0..5 {
            let soon = || account.clock.moment().plus(Duration::from_secs(2));
            if let Err(refusal) = account.admit(Class::Create, soon()).await {
                let wait = refusal.retry_at().since(account.clock.moment());
                assert!(wait < Duration::from_secs(70), "{limit}: {wait:?}");
                // A little later, as it takes over a network.
                tokio::time::sleep(wait + Duration::from_millis(300)).await;
                let again = account.admit(Class::Create, soon()).await;
                assert!(again.is_ok(), "{limit}: {again:?}");
            }
        }
        polls.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn an_adoption_is_no_create_to_the_limit_of_creates() {
    let one_create = Policy {
        creates_per_minute: 1,
        ..policy(0)
    };
    let (account, _) = saying(one_create).await;
    assert!(account.try_admit(Class::Create).await.is_ok());
    assert!(account.try_admit(Class::Create).await.is_err());
    for _ in 0..5 {
        assert!(account.try_admit(Class::Adopt).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn long_polls_leave_room_for_what_callers_wait_for() {
    let few = Policy {
        long_poll: true,
        held_max: 20,
        ..policy(0)
    };
    let (account, _) = saying(few).await;
    let mut held = Vec::new();
    while let Ok(admission) = account.try_admit(Class::Poll).await {
        held.push(admission);
    }
    assert_eq!(held.len(), 20);
    for class in [Class::Refresh, Class::Adopt, Class::Create] {
        assert!(account.try_admit(class).await.is_ok(), "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_class_takes_more_than_its_share_though_nobody_else_asks() {
    for (class, part) in [
        (Class::AfterTerminal, 5),
        (Class::Refresh, 4),
        (Class::Sweep, 2),
        (Class::Poll, 1),
    ] {
        let (account, _) = saying(policy(100)).await;
        let start = tokio::time::Instant::now();
        let mut made = 0;
        while start.elapsed() < Duration::from_secs(600) {
            forever(&account, class).await;
            made += 1;
        }
        let most = 10 * 100 / part;
        assert!(made <= most, "{class:?}: {made} of {most}");
        assert!(made * 10 > most * 8, "{class:?}: {made} of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn shares_are_of_the_limit_that_holds() {
    let (account, _) = saying(policy(100)).await;
    for _ in 0..90 {
        forever(&account, Class::Poll).await;
    }
    learned(
        &account,
        Class::Poll,
        &Trouble::Throttled { retry_after: None },
    )
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = tokio::time::Instant::now();
    for _ in 0..4 {
        forever(&account, Class::Refresh).await;
    }
    // A quarter of 45 a minute, less a tenth, is one in six seconds.
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_secs(15), "{elapsed:?}");
}
