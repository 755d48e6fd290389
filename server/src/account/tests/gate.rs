//! The gate before a request goes, which looks at everything that has changed since.

use super::*;

/// An account whose provider answers with `status`, and the times of the requests that reached it.
async fn counted(policy: Policy, status: u16) -> (Arc<Account>, Arc<Mutex<Vec<Duration>>>) {
    let start = tokio::time::Instant::now();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let upstream = Scripted::new(move |_| {
        noted.lock().unwrap().push(start.elapsed());
        let answer = json_response(status, &serde_json::json!({}));
        async move { Ok(answer) }
    });
    (asking(policy, upstream).await, seen)
}

async fn read(account: &Account, admission: &mut Admission) -> Exchange<()> {
    account.read(admission, request(), |_, _| Ok(())).await
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_let_through_before_a_pause_began_does_not_go() {
    let (account, seen) = counted(policy(0), 429).await;
    let mut before = forever(&account, Class::Poll).await;
    let mut create = forever(&account, Class::Create).await;
    let retry_after = Some(Duration::from_secs(45));
    learned(&account, Class::Poll, &Trouble::Throttled { retry_after }).await;
    let asked = read(&account, &mut before).await;
    assert_eq!(asked.said, Err(Trouble::Throttled { retry_after }));
    assert_eq!(asked.whose, None, "nobody was asked");
    let place = |_: &Response, _| Submitted::unclear("read");
    let sent = account.submit(&mut create, request(), place).await;
    let throttled = Submitted::NotSent(Trouble::Throttled { retry_after });
    assert_eq!((sent.submitted, sent.status), (throttled, None));
    assert_eq!(seen.lock().unwrap().len(), 1);
    drop((before, create));
    let snapshot = account.snapshot();
    assert_eq!(snapshot.in_flight, 0);
    assert_eq!(
        snapshot.figures.requests[&(Class::Create, Outcome::GivenUp)],
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_that_was_let_through_before_the_credentials_were_refused_does_not_go() {
    let (account, seen) = counted(policy(0), 401).await;
    let mut before = forever(&account, Class::Poll).await;
    let mut create = forever(&account, Class::Create).await;
    learned(&account, Class::Poll, &Trouble::Unauthorized).await;
    let asked = read(&account, &mut before).await;
    assert_eq!(asked.said, Err(Trouble::Unauthorized));
    assert_eq!(seen.lock().unwrap().len(), 1);
    // It may be the first that finds them mended.
    account.ask(&mut create, request()).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_one_probe_of_a_breaker_goes() {
    let (account, seen) = counted(policy(0), 500).await;
    while !account.snapshot().breaker_open {
        let mut admission = forever(&account, Class::Poll).await;
        read(&account, &mut admission).await.said.unwrap();
    }
    let asked = seen.lock().unwrap().len();
    let mut probe = forever(&account, Class::Poll).await;
    assert!(probe.is_probe());
    read(&account, &mut probe).await.said.unwrap();
    assert_eq!(seen.lock().unwrap().len(), asked + 1);
}

/// Promise P2: what counts is when a request goes, not when it was let through.
#[tokio::test(start_paused = true)]
async fn requests_that_go_long_after_they_were_let_through_do_not_exceed_the_limit() {
    for limit in [20, 60, 100, 600] {
        let (account, seen) = counted(policy(limit), 200).await;
        let mut late = Vec::new();
        let soon = account.clock.moment().plus(Duration::from_millis(4_900));
        // A slow disk takes that long to keep their intents.
        while let Ok(admission) = account.admit(Class::Create, soon).await {
            late.push(admission);
        }
        tokio::time::sleep(soon.since(account.clock.moment())).await;
        for mut admission in late {
            let _ = account.ask(&mut admission, request()).await;
        }
        for _ in 0..limit * 2 {
            let mut admission = forever(&account, Class::Create).await;
            account.ask(&mut admission, request()).await.unwrap();
        }
        let seen = seen.lock().unwrap();
        let minute = Duration::from_secs(60);
        let within = |first: &Duration| {
            let times = seen
                .iter()
                .filter(|time| (*first..*first + minute).contains(*time));
            times.count()
        };
        let most = seen.iter().map(within).max().unwrap();
        assert!(most <= limit as usize, "{most} of {limit} in a minute");
    }
}
