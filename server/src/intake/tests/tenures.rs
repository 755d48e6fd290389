//! Whoever owns an account settles its submits, and nobody else.

use super::*;

fn name(world: &World) -> crate::purchase::AccountName {
    world.account.name.clone()
}

#[tokio::test(start_paused = true)]
async fn p1_an_unclear_create_is_looked_up_by_the_owner_of_its_account_alone() {
    let world = World::open("masumi").await;
    world.wire.answer_creates([Reply::Lost]);
    world.create().await.unwrap();
    world.pass(seconds(60)).await;
    assert!(world.wire.reads() > 1);
    world.tenures.of(&name(&world)).unwrap().lose();
    let before = world.wire.reads();
    world.pass(seconds(86_400)).await;
    assert_eq!(world.wire.reads(), before);
    let id = world.record().await.purchase.id;
    let asked = world.intake.look_up(id).await;
    assert!(matches!(asked, Err(Unheard::NotOwned)), "{asked:?}");
    assert_eq!(world.wire.reads(), before);
}

#[tokio::test(start_paused = true)]
async fn c4_a_send_whose_time_has_passed_is_settled_by_the_owner_of_its_account_alone() {
    for owns in [true, false] {
        let world = World::open("carbon").await;
        world.wire.answer_creates([Reply::Silence]);
        assert!(!world.created_within(50).await);
        let world = world.killed().await;
        if !owns {
            world.tenures.of(&name(&world)).unwrap().lose();
        }
        world.pass(seconds(3_600)).await;
        let history = world.history().await;
        match owns {
            true => assert_eq!(history.len(), 2, "{history:?}"),
            false => assert_eq!(history, ["PENDING"]),
        }
        // Whoever takes the account settles it then.
        let world = world.killed().await;
        world.pass(seconds(3_600)).await;
        assert_eq!(world.history().await.len(), 2);
    }
}

/// The answer of a create is committed by the process that sent it.
#[tokio::test(start_paused = true)]
async fn c1_a_process_that_owns_no_account_creates_at_it() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.tenures.of(&name(&world)).unwrap().lose();
        let created = world.create().await.unwrap();
        assert!(created.purchase.status.reference.is_some(), "{provider}");
        assert_eq!(world.wire.creates(), 1, "{provider}");
    }
}
