//! C3: an account that leads to another service, or to another client there, repeats nothing that may
//! have been sent.

use super::*;
use crate::{account::Settings, purchase::Secret};

const UNKNOWN: &str = "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN";
const WANTED: &str = "OUTCOME_UNKNOWN!REPEAT_WANTED";

/// Lets the account lead to this service, as a client with these secrets, from now on.
async fn move_to(world: &World, service: &str, secrets: [&str; 2]) {
    let row = provider::registered(world.provider).unwrap();
    let secrets = row.secrets.iter().zip(secrets);
    let secrets = secrets.map(|(name, secret)| ((*name).to_owned(), Secret::new(secret)));
    let before = world.account.settings();
    let newer = Settings::new(
        (row.build)(&secrets.collect()).unwrap(),
        before.policy.clone(),
        Arc::new(world.wire.scripted(world.provider, &world.clock)),
    );
    world.account.take_up(before.moved_to(newer.at(service)));
    world.intake.recover(&world.record().await);
    world.pass(seconds(1)).await;
}

#[tokio::test(start_paused = true)]
async fn c3_another_service_or_client_gets_no_repeat_of_an_unclear_create_with_devdrafts_key() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates([(); 4].map(|()| Reply::Lost));
    world.create().await.unwrap();
    world.pass(seconds(60)).await;
    assert_eq!(words(&world.status().await), WANTED);
    let mut world = world.killed().await;
    let sent = world.wire.creates();
    for (service, secrets) in [
        ("https://other.example.com", ["x", "x"]),
        ("", ["another client", "x"]),
    ] {
        move_to(&world, service, secrets).await;
        assert_eq!(
            words(&world.status().await),
            UNKNOWN,
            "{service} {secrets:?}"
        );
        let answer = world.create().await.unwrap();
        assert!(answer.replayed);
        world = world.killed().await;
        move_to(&world, service, secrets).await;
        world.create().await.unwrap();
        assert_eq!(world.wire.creates(), sent, "{service} {secrets:?}");
        // The same client, whose secret was rotated, at the same service.
        move_to(&world, "", ["x", "rotated"]).await;
        assert_eq!(words(&world.status().await), WANTED);
    }
    let answer = world.create().await.unwrap();
    assert_eq!(world.wire.creates(), sent + 1);
    assert!(answer.purchase.status.reference.is_some());
}

#[tokio::test(start_paused = true)]
async fn c3_another_masumi_service_is_asked_and_gets_no_repeat() {
    let world = World::open("masumi").await;
    world.wire.answer_creates([Reply::Lost]);
    world.create().await.unwrap();
    move_to(&world, "https://other.example.com", ["x", "x"]).await;
    let asked = world.wire.reads();
    world.create().await.unwrap();
    world.pass(seconds(60)).await;
    assert_eq!(world.wire.creates(), 1);
    assert!(world.wire.reads() > asked);
    // Identifiers are unique across all of a service's keys.
    move_to(&world, "", ["another key", "x"]).await;
    world.create().await.unwrap();
    assert_eq!(world.wire.creates(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_reached_nobody_is_sent_wherever_the_account_leads() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.wire.answer_creates([Reply::NotConnected]);
        world.create().await.unwrap_err();
        move_to(&world, "https://other.example.com", ["y", "y"]).await;
        world.create().await.unwrap();
        assert_eq!(world.wire.creates(), 2, "{provider}");
    }
}
