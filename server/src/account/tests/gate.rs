//! The gate before a request goes, which looks at everything that has changed since.

use super::*;
use crate::{account::gate::SLOT_LASTS, journal::Fence, ownership::Tenure};

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

/// A tenure that is trusted for so long.
fn trusted_for(account: &Account, time: Duration) -> Tenure {
    let until = account.clock.moment().plus(time);
    Tenure::new(Fence::alone(account.name.clone()), until)
}

/// Promise P1: a process that was stopped for longer than its lease lasts asks nobody.
#[tokio::test(start_paused = true)]
async fn p1_a_request_goes_only_while_its_tenure_is_trusted() {
    let (account, seen) = counted(policy(0), 200).await;
    let tenure = trusted_for(&account, Duration::from_secs(4));
    let mut in_time = forever(&account, Class::Poll).await.under(&tenure);
    let mut late = forever(&account, Class::Poll).await.under(&tenure);
    read(&account, &mut in_time).await.said.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = read(&account, &mut late).await;
    let unsent = matches!(asked.said, Err(Trouble::Unreachable { sent: false, .. }));
    assert!(unsent && asked.whose.is_none(), "{asked:?}");
    assert_eq!(seen.lock().unwrap().len(), 1);
    // A create is anybody's.
    let mut create = forever(&account, Class::Create).await;
    account.ask(&mut create, request()).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2);
}

/// Promise P1: a request does not outlive its tenure, also if it went by another slot than its first.
#[tokio::test(start_paused = true)]
async fn p1_a_request_under_way_is_cut_at_the_end_of_its_tenure() {
    let held = Scripted::new(|_| std::future::pending());
    let account = asking(policy(0), held).await;
    let tenure = trusted_for(&account, Duration::from_secs(86_400));
    let mut admission = forever(&account, Class::Poll).await.under(&tenure);
    tokio::time::sleep(SLOT_LASTS + Duration::from_millis(1)).await;
    let began = tokio::time::Instant::now();
    let asked = tokio::time::timeout(Duration::from_secs(60), read(&account, &mut admission));
    let (asked, ()) = tokio::join!(asked, async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(account.snapshot().in_flight, 1);
        tenure.lose();
    });
    let asked = asked.expect("it is cut");
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    let cut = matches!(asked.said, Err(Trouble::Unreachable { .. }));
    assert!(cut && asked.whose.is_none(), "{asked:?}");
    drop(admission);
    assert_eq!(account.snapshot().in_flight, 0);
}
