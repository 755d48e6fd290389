//! Leases and replicas, as the processes that share a store see them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Shared,
    fences::{account, seen, take},
};
use crate::{
    journal::{Fence, Limits, Ownership},
    purchase::AccountName,
};

async fn replica_shown(ownership: &dyn Ownership, of: &dyn Ownership) -> Option<(u64, bool)> {
    let look = ownership.look(&[]).await.unwrap();
    let mut replicas = look.replicas.iter();
    let shown = replicas.find(|replica| replica.id == *of.replica())?;
    Some((shown.beat, shown.is_leaving))
}

pub async fn leases_that_were_taken_since_are_not_taken(shared: Shared) {
    let [first, second] = &shared.ownerships;
    let passed = take(&**first, &account()).await;
    let before = seen(&**second, &account()).await;
    let newer = take(&**first, &account()).await;
    let after = seen(&**second, &account()).await.unwrap();
    assert_eq!(before.as_ref().unwrap().beat, after.beat);
    let late = second.take(&account(), before.as_ref()).await.unwrap();
    assert_eq!(late, None, "its fence is another");
    assert_eq!(after.fence, newer.number);
    assert_eq!(newer.number, passed.number + 1);
    assert_eq!(seen(&**second, &account()).await, Some(after));
}

pub async fn leases_expire_by_the_stores_clock_unless_their_owner_renews_them(shared: Shared) {
    let [first, second] = &shared.ownerships;
    let has_expired = async || seen(&**second, &account()).await.unwrap().has_expired;
    let passed = take(&**first, &account()).await;
    assert!(!has_expired().await);
    (shared.lapse)().await;
    assert!(has_expired().await);
    first.look(std::slice::from_ref(&passed)).await.unwrap();
    assert!(!has_expired().await, "it was renewed");
    (shared.lapse)().await;
    let newer = take(&**second, &account()).await;
    assert!(!has_expired().await, "a take is a renewal");
    (shared.lapse)().await;
    first.look(&[passed]).await.unwrap();
    assert!(has_expired().await, "the fence is passed");
    second.release(&newer).await.unwrap();
    second.look(&[newer]).await.unwrap();
    assert!(has_expired().await, "it is released");
}

pub async fn leases_are_renewed_by_a_look_alone_that_names_them(shared: Shared) {
    let [first, second] = &shared.ownerships;
    let fence = take(&**first, &account()).await;
    let other = take(&**first, &AccountName::new("kiosk")).await;
    let beat = async |of: &Fence| {
        let lease = seen(&**second, &of.account).await.unwrap();
        assert_eq!(lease.fence, of.number);
        lease.beat
    };
    assert_eq!((beat(&fence).await, beat(&other).await), (0, 0));
    first.look(std::slice::from_ref(&fence)).await.unwrap();
    assert_eq!((beat(&fence).await, beat(&other).await), (1, 0));
    first.look(&[fence.clone(), other.clone()]).await.unwrap();
    assert_eq!((beat(&fence).await, beat(&other).await), (2, 1));
}

pub async fn replicas_show_that_they_look_and_that_they_leave(shared: Shared) {
    let [first, second] = &shared.ownerships;
    first.look(&[]).await.unwrap();
    let (before, _) = replica_shown(&**second, &**first).await.unwrap();
    second.look(&[]).await.unwrap();
    let shown = replica_shown(&**second, &**first).await;
    assert_eq!(shown, Some((before, false)), "another's look is none");
    first.look(&[]).await.unwrap();
    let shown = replica_shown(&**second, &**first).await;
    assert_eq!(shown, Some((before + 1, false)));
    first.leave().await.unwrap();
    let shown = replica_shown(&**second, &**first).await;
    assert_eq!(shown, Some((before + 1, true)));
    first.look(&[]).await.unwrap();
    let shown = replica_shown(&**second, &**first).await;
    assert_eq!(shown, Some((before + 2, true)), "it goes on looking");
    let (_, own) = replica_shown(&**second, &**second).await.unwrap();
    assert!(!own);
}

pub async fn a_look_tells_the_stores_time(shared: Shared) {
    for ownership in shared.ownerships.iter().cycle().take(4) {
        // A server rounds to the next millisecond.
        let before = shared.clock.now();
        let told = ownership.look(&[]).await.unwrap().time.unwrap();
        let after = shared.clock.now().plus(Duration::from_millis(1));
        assert!((before..=after).contains(&told), "{before} {told} {after}");
    }
}

pub async fn replicas_show_the_limits_that_they_are_configured_with(shared: Shared) {
    let [first, second] = &shared.ownerships;
    let limits = |account: &str, requests_per_minute| {
        let limits = Limits {
            requests_per_minute,
            creates_per_minute: 3,
            max_in_flight: 64,
        };
        BTreeMap::from([(AccountName::new(account), limits)])
    };
    first.look(&[]).await.unwrap();
    let shown = async || {
        let replicas = second.look(&[]).await.unwrap().replicas.into_iter();
        let limits = replicas.map(|replica| (replica.id, replica.limits));
        limits.collect::<BTreeMap<_, _>>()
    };
    let none = BTreeMap::new();
    assert_eq!(shown().await[first.replica()], none);
    // The second ones take the place of the first.
    for told in [limits("shop", 0), limits("a \"kiosk\"", 600)] {
        first.configure(&told).await.unwrap();
        let shown = shown().await;
        assert_eq!(shown[first.replica()], told);
        assert_eq!(shown[second.replica()], none);
    }
}
