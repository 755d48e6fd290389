//! C3, UNCLEAR: how each provider's unclear submit is settled.

use super::*;

const UNKNOWN: &str = "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN";
const WANTED: &str = "OUTCOME_UNKNOWN!REPEAT_WANTED";

/// A world whose first create's answer was lost.
async fn lost(provider: &'static str) -> World {
    let world = World::open(provider).await;
    world.wire.answer_creates([Reply::Lost]);
    let created = world.create().await.unwrap();
    assert_eq!(words(&created.purchase.status), UNKNOWN);
    world
}

fn masumi_success(hash: &str) -> Reply {
    let data = orders::masumi_row(hash);
    Reply::Json(200, json!({ "status": "success", "data": data }))
}

fn masumi_conflict(hash: &str) -> Reply {
    Reply::Json(
        409,
        json!({
            "status": "error",
            "error": { "message": "exists" },
            "id": "row",
            "object": orders::masumi_row(hash),
        }),
    )
}

fn inabit_row(change: impl Fn(&mut Value)) -> Value {
    let mut row = json!({
        "id": orders::UUID,
        "status": "Initiated",
        "purchaseIdentifier": "order-1",
        "fiatAmount": 12,
        "fiatCurrency": "USD",
        // The intents of these tests are from 2027-01-15T08:00:00Z.
        "creationDate": "2027-01-15T08:00:01.000Z",
    });
    change(&mut row);
    row
}

fn inabit_rows(rows: &[Value]) -> Reply {
    Reply::Json(201, json!({ "data": { "purchases": rows } }))
}

#[tokio::test(start_paused = true)]
async fn c3_masumi_is_looked_up_until_it_is_there_and_a_404_proves_nothing() {
    let world = lost("masumi").await;
    world.pass(seconds(120)).await;
    assert_eq!(world.history().await, ["PENDING", UNKNOWN]);
    let asked = world.wire.reads();
    assert!((7..=11).contains(&asked), "every 15 s: {asked}");
    let (_, request) = world.wire.reads.lock().unwrap()[0].clone();
    let body = String::from_utf8(request.body.unwrap().to_vec()).unwrap();
    assert!(body.contains(orders::IDENTIFIER), "{body}");
    world.wire.answer_reads([masumi_success(orders::HASH)]);
    world.pass(seconds(20)).await;
    assert_eq!(world.history().await, ["PENDING", UNKNOWN, "CREATED"]);
    assert!(world.status().await.reference.is_some());
    let asked = world.wire.reads();
    world.pass(seconds(3_600)).await;
    assert_eq!(world.wire.reads(), asked, "it is looked up no more");
    assert_eq!(world.wire.creates(), 1);
}

#[tokio::test(start_paused = true)]
async fn c3_look_ups_back_off_with_age_and_a_caller_who_asks_is_answered_at_once() {
    const DAY: u64 = 86_400;
    let world = lost("masumi").await;
    // Between these ages, so many look-ups: 15 s, a tenth of the age, an hour, a day.
    let table = [
        (150, 8..=12),
        (3_600, 25..=45),
        (36_000, 18..=32),
        (7 * DAY, 150..=180),
        (17 * DAY, 9..=12),
    ];
    let mut age = 0;
    for (until, expected) in table {
        let before = world.wire.reads();
        world.pass(seconds(until - age)).await;
        age = until;
        let asked = world.wire.reads() - before;
        assert!(expected.contains(&asked), "until {until} s: {asked}");
    }
    let (id, before) = (world.record().await.purchase.id, world.wire.reads());
    world.wire.answer_reads([masumi_success(orders::HASH)]);
    world.intake.look_up(id).await.unwrap();
    assert_eq!(world.wire.reads(), before + 1);
    assert_eq!(words(&world.status().await), "CREATED");
}

#[tokio::test(start_paused = true)]
async fn c3_a_look_up_that_was_refused_soon_has_its_turn_again() {
    let world = lost("masumi").await;
    world.pass(seconds(6 * 3_600)).await;
    // Look-ups are half an hour apart by now, and one is due while the account is paused.
    world.wire.answer_reads([Reply::Throttle(3_000)]);
    let id = world.record().await.purchase.id;
    world.intake.look_up(id).await.unwrap_err();
    let before = world.wire.reads();
    world.pass(seconds(3_000)).await;
    assert_eq!(world.wire.reads(), before);
    world.pass(seconds(60)).await;
    assert_eq!(world.wire.reads(), before + 1);
}

/// The service asks nothing after the time to give up, unless that was the word of a wrong clock.
#[tokio::test(start_paused = true)]
async fn c3_a_clock_that_was_far_ahead_ends_no_look_ups_for_good() {
    const DAY: i64 = 86_400_000;
    let world = lost("masumi").await;
    world.clock.step_wall(100 * DAY);
    world.pass(seconds(3_600)).await;
    let asked = world.wire.reads();
    world.clock.step_wall(-100 * DAY);
    world.pass(seconds(2 * 86_400)).await;
    assert!(world.wire.reads() > asked + 10, "{asked}");
}

#[tokio::test(start_paused = true)]
async fn c3_masumi_is_adopted_only_with_our_input_hash() {
    let world = lost("masumi").await;
    world.wire.answer_reads(vec![masumi_success("ff00"); 20]);
    world.pass(seconds(120)).await;
    assert!(world.wire.reads() > 5);
    assert_eq!(world.history().await, ["PENDING", UNKNOWN]);
}

#[tokio::test(start_paused = true)]
async fn c3_a_masumi_repeat_is_safe_at_any_time() {
    let no_id = json!({ "status": "error", "error": { "message": "concurrent change" } });
    let table = [
        (masumi_conflict(orders::HASH), "created", "CREATED"),
        (masumi_conflict("ff00"), "created", UNKNOWN),
        (Reply::Json(409, no_id), "created", UNKNOWN),
        (orders::accepted("masumi"), "created", "CREATED"),
        (orders::refused("masumi"), "created", UNKNOWN),
        (Reply::Json(401, json!({})), "unauthorized", UNKNOWN),
        (Reply::NotConnected, "unreachable", UNKNOWN),
        (Reply::Lost, "created", UNKNOWN),
    ];
    for (reply, word, then) in table {
        let world = lost("masumi").await;
        world.pass(seconds(60)).await;
        world.wire.answer_creates([reply.clone()]);
        let again = world.create().await;
        assert_eq!(kind(&again), word, "{reply:?}");
        assert_eq!(words(&world.status().await), then, "{reply:?}");
        assert_eq!(world.wire.creates(), 2, "{reply:?}");
        let record = world.record().await;
        if then != UNKNOWN {
            assert_eq!(record.attempt, None, "{reply:?}");
        }
        // A refused repeat has proved nothing: a later look-up still counts.
        world.wire.answer_reads([masumi_success(orders::HASH)]);
        world.pass(seconds(180)).await;
        assert_eq!(words(&world.status().await), "CREATED", "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_a_first_conflict_over_anothers_order_is_a_refusal_and_over_ours_an_acceptance() {
    for (hash, word) in [("ff00", "rejected"), (orders::HASH, "created")] {
        let world = World::open("masumi").await;
        world.wire.answer_creates([masumi_conflict(hash)]);
        assert_eq!(kind(&world.create().await), word, "{hash}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_devdraft_is_repeated_by_the_living_process_with_the_same_key() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates(vec![Reply::Lost; 4]);
    world.create().await.unwrap();
    let first = world.wire.create(0).0;
    world.pass(seconds(60)).await;
    assert_eq!(world.history().await, ["PENDING", UNKNOWN, WANTED]);
    let sent = world.wire.creates.lock().unwrap().clone();
    assert_eq!(sent.len(), 4, "once and three repeats");
    let key = |request: &Request| request.headers["idempotency-key"].clone();
    assert!(sent.iter().all(|(_, one)| key(one) == key(&sent[0].1)));
    let gaps: Vec<Duration> = sent
        .windows(2)
        .map(|pair| pair[1].0.since(pair[0].0))
        .collect();
    for (place, least_ms) in [250, 500, 1_000].into_iter().enumerate() {
        let least = Duration::from_millis(least_ms);
        assert!(gaps[place] >= least && gaps[place] <= least * 3, "{gaps:?}");
    }
    let attention = world.status().await.attention.unwrap();
    let last = first.plus(seconds(23 * 3_600));
    assert_eq!(attention.deadline_time, Some(last));
    // From here on a caller has to.
    world.pass(seconds(3_600)).await;
    assert_eq!(world.wire.creates(), 4);
    let created = world.create().await.unwrap();
    assert!(created.replayed);
    assert_eq!(words(&created.purchase.status), "CREATED");
    assert_eq!(world.wire.creates(), 5);
    assert_eq!(key(&world.wire.create(4).1), key(&sent[0].1));
}

#[tokio::test(start_paused = true)]
async fn c3_a_devdraft_repeat_that_is_accepted_settles_it() {
    let world = World::open("devdraft").await;
    let interrupted = [Reply::Lost, Reply::NotConnected, Reply::Throttle(2)];
    world.wire.answer_creates(interrupted);
    world.create().await.unwrap();
    world.pass(seconds(120)).await;
    assert_eq!(world.history().await, ["PENDING", UNKNOWN, "CREATED"]);
    assert_eq!(world.wire.creates(), 4);
    let record = world.record().await;
    assert_eq!(record.attempt, None);
}

#[tokio::test(start_paused = true)]
async fn c3_a_refusal_of_a_devdraft_repeat_proves_nothing_about_the_first() {
    let world = World::open("devdraft").await;
    world
        .wire
        .answer_creates([Reply::Lost, orders::refused("devdraft")]);
    world.create().await.unwrap();
    world.pass(seconds(60)).await;
    assert_eq!(world.history().await, ["PENDING", UNKNOWN, WANTED]);
    assert_eq!(world.wire.creates(), 2, "it would be refused again");
    world.wire.answer_creates([orders::refused("devdraft")]);
    assert_eq!(kind(&world.create().await), "created");
    assert_eq!(words(&world.status().await), WANTED);
}

#[tokio::test(start_paused = true)]
async fn c3_a_devdraft_repeat_of_a_caller_is_followed_by_own_repeats_and_then_wanted_again() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates(vec![Reply::Lost; 8]);
    world.create().await.unwrap();
    world.pass(seconds(60)).await;
    let again = world.create().await.unwrap();
    assert_eq!(words(&again.purchase.status), UNKNOWN);
    // While this process repeats by itself, nobody is asked to.
    assert_eq!(world.wire.creates(), 5);
    let joined = world.create().await.unwrap();
    assert_eq!(joined.purchase, again.purchase);
    assert_eq!(world.wire.creates(), 5);
    world.pass(seconds(60)).await;
    assert_eq!(world.wire.creates(), 8);
    let history = world.history().await;
    assert_eq!(history, ["PENDING", UNKNOWN, WANTED, UNKNOWN, WANTED]);
}

#[tokio::test(start_paused = true)]
async fn c3_after_a_crash_devdraft_waits_for_the_caller_and_after_23_hours_for_a_person() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates([Reply::Silence]);
    let _ = tokio::time::timeout(seconds(1), world.create()).await;
    let first = world.wire.create(0).0;
    let world = world.killed().await;
    world.pass(seconds(60)).await;
    assert_eq!(world.history().await, ["PENDING", WANTED]);
    let attention = world.status().await.attention.unwrap();
    let last = first.plus(seconds(23 * 3_600));
    assert_eq!(attention.deadline_time, Some(last));
    assert_eq!(
        world.wire.creates(),
        1,
        "a new process repeats nothing by itself"
    );
    let world = world.killed().await;
    world.pass(seconds(23 * 3_600 - 120)).await;
    assert_eq!(words(&world.status().await), WANTED);
    world.pass(seconds(121)).await;
    assert_eq!(world.history().await, ["PENDING", WANTED, UNKNOWN]);
    let late = world.create().await.unwrap();
    assert_eq!(words(&late.purchase.status), UNKNOWN);
    assert_eq!(
        world.wire.creates(),
        1,
        "the provider has forgotten the key"
    );
}

#[tokio::test(start_paused = true)]
async fn c3_a_crash_between_two_own_repeats_of_devdraft_leaves_them_to_the_caller() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates([Reply::Lost, Reply::Silence]);
    world.create().await.unwrap();
    world.pass(seconds(2)).await;
    assert_eq!(world.wire.creates(), 2, "the first own repeat is in flight");
    let world = world.killed().await;
    world.pass(seconds(60)).await;
    assert_eq!(world.history().await, ["PENDING", UNKNOWN, WANTED]);
    assert_eq!(world.wire.creates(), 2);
    assert_eq!(kind(&world.create().await), "created");
    assert_eq!(words(&world.status().await), "CREATED");
}

/// The next process sees that nobody holds the attempt any more, however long the wait for the repeat was.
#[tokio::test(start_paused = true)]
async fn c3_a_crash_in_the_wait_for_an_own_repeat_leaves_it_to_the_caller_within_ten_seconds() {
    let world = World::open("devdraft").await;
    let not_yet = Reply::Json(
        409,
        json!({ "statusCode": 409, "message": "being processed" }),
    );
    world.wire.answer_creates([Reply::Lost]);
    world.wire.answer_creates(vec![not_yet; 9]);
    world.create().await.unwrap();
    // From here on a wait lasts half a minute or more.
    while world.wire.creates() < 9 {
        world.pass(seconds(1)).await;
    }
    let sent = world.wire.creates();
    let waiting = world.record().await;
    world.pass(seconds(6)).await;
    let held = world.record().await;
    assert_eq!(
        (world.wire.creates(), held.sends),
        (sent, waiting.sends),
        "a wait"
    );
    let until = |record: &Record| record.attempt.unwrap().submit_until;
    assert!(until(&held) > until(&waiting), "it is held anew");
    let world = world.killed().await;
    assert_eq!(kind(&world.create().await), "created");
    assert_eq!(world.wire.creates(), sent, "nobody can know yet");
    world.pass(seconds(11)).await;
    assert_eq!(world.history().await, ["PENDING", UNKNOWN, WANTED]);
    assert_eq!(kind(&world.create().await), "created");
    assert_eq!(world.wire.creates(), sent + 1);
}

#[tokio::test(start_paused = true)]
async fn c3_inabit_is_adopted_only_where_exactly_one_row_is_ours() {
    let same = |_: &mut Value| {};
    let set = |field: &'static str, value: Value| move |row: &mut Value| row[field] = value.clone();
    let ours = inabit_row(same);
    let table = [
        ("no row", vec![], UNKNOWN),
        ("one row", vec![ours.clone()], "CREATED"),
        (
            "four minutes older than the intent",
            vec![inabit_row(set(
                "creationDate",
                json!("2027-01-15T07:56:00Z"),
            ))],
            "CREATED",
        ),
        (
            "six minutes older than the intent",
            vec![inabit_row(set(
                "creationDate",
                json!("2027-01-15T07:54:00Z"),
            ))],
            UNKNOWN,
        ),
        (
            "another amount",
            vec![inabit_row(set("fiatAmount", json!(2.51)))],
            UNKNOWN,
        ),
        (
            "another currency",
            vec![inabit_row(set("fiatCurrency", json!("EUR")))],
            UNKNOWN,
        ),
        (
            "another identifier",
            vec![inabit_row(set("purchaseIdentifier", json!("order-10")))],
            UNKNOWN,
        ),
        ("two rows", vec![ours.clone(), ours], UNKNOWN),
    ];
    for (case, rows, then) in table {
        let world = World::open("inabit").await;
        world.wire.answer_creates([Reply::Lost]);
        world.wire.answer_reads([inabit_rows(&rows)]);
        world.create().await.unwrap();
        world.pass(seconds(600)).await;
        assert_eq!(words(&world.status().await), then, "{case}");
        assert_eq!(world.wire.creates(), 1, "{case}");
        if then == UNKNOWN {
            // A miss proves nothing: it is searched again, and no repeat is sent.
            assert!(world.wire.reads() > 2, "{case}");
            assert!(world.create().await.unwrap().replayed, "{case}");
            assert_eq!(world.wire.creates(), 1, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c3_inabit_is_not_adopted_where_another_purchase_tracks_the_row() {
    let world = World::open("inabit").await;
    world
        .wire
        .answer_creates([orders::accepted("inabit"), Reply::Lost]);
    let order = orders::order("inabit");
    let first = world.order_of("shop", "first", order);
    let first = world.intake.create(first).await.unwrap();
    world
        .wire
        .answer_reads(vec![inabit_rows(&[inabit_row(|_| {})]); 5]);
    let second = world.create().await.unwrap();
    world.pass(seconds(3_600)).await;
    assert_ne!(first.purchase.id, second.purchase.id);
    assert_eq!(words(&world.status().await), UNKNOWN);
    assert!(world.wire.reads() > 0);
}

#[tokio::test(start_paused = true)]
async fn c3_who_cannot_be_asked_is_left_to_a_person() {
    for provider in ["phygitals", "carbon"] {
        let world = lost(provider).await;
        world.pass(seconds(30 * 86_400)).await;
        let again = world.create().await.unwrap();
        assert!(again.replayed, "{provider}");
        assert_eq!(world.history().await, ["PENDING", UNKNOWN], "{provider}");
        let sent = (world.wire.creates(), world.wire.reads());
        assert_eq!(sent, (1, 0), "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_look_ups_of_one_account_leave_room_for_the_settlements_of_others() {
    let world = World::open("masumi").await;
    // The answer is unreadable but no failure, so that the breaker stays closed.
    world
        .wire
        .answer_creates(vec![Reply::Text(200, "<html>"); 100]);
    // Look-ups that hang take as much of the budget as they may.
    world.wire.answer_reads(vec![Reply::Silence; 1_000]);
    for place in 0..100 {
        let Order::Masumi(mut order) = orders::order("masumi") else {
            unreachable!("it is Masumi's");
        };
        order.blockchain_identifier = format!("id{place}");
        let new = world.order_of("shop", &format!("k{place}"), Order::Masumi(order));
        let created = world.intake.create(new).await.unwrap();
        assert_eq!(words(&created.purchase.status), UNKNOWN);
    }
    world.pass(seconds(10)).await;
    assert_eq!(
        world.wire.reads(),
        8,
        "under way at once, of 64 settlements"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_an_unclear_create_asks_the_provider_now() {
    let world = lost("masumi").await;
    world.pass(seconds(2)).await;
    let (asked, id) = (world.wire.reads(), world.record().await.purchase.id);
    world.wire.answer_reads([
        Reply::Json(500, json!({})),
        Reply::Json(
            404,
            json!({ "status": "error", "error": { "message": "none" } }),
        ),
        masumi_success(orders::HASH),
    ]);
    let began = world.clock.now();
    let failed = world.intake.look_up(id).await;
    assert!(matches!(failed, Err(Unheard::Trouble { .. })), "{failed:?}");
    // A miss is an answer, and proves nothing.
    world.intake.look_up(id).await.unwrap();
    assert_eq!(words(&world.status().await), UNKNOWN);
    world.intake.look_up(id).await.unwrap();
    assert_eq!(words(&world.status().await), "CREATED");
    assert_eq!(world.wire.reads(), asked + 3);
    assert_eq!(world.clock.now(), began, "it does not wait for its turn");
    // The service looks up no purchase that it knows.
    world.intake.look_up(id).await.unwrap();
    assert_eq!(world.wire.reads(), asked + 3);

    for provider in ["phygitals", "carbon", "devdraft"] {
        let world = lost(provider).await;
        let id = world.record().await.purchase.id;
        world.intake.look_up(id).await.unwrap();
        assert_eq!(world.wire.reads(), 0, "{provider} cannot be asked");
    }

    let world = World::limited("masumi", |policy| policy.requests_per_minute = 2).await;
    world.wire.answer_creates([Reply::Lost]);
    let id = world.create().await.unwrap().purchase.id;
    world.exhaust().await;
    let (asked, refused) = (world.wire.reads(), world.intake.look_up(id).await);
    assert!(matches!(refused, Err(Unheard::Refused(_))), "{refused:?}");
    assert_eq!(world.wire.reads(), asked);
    world.intake.drain().await;
    let drained = world.intake.look_up(id).await;
    assert!(matches!(drained, Err(Unheard::Draining)), "{drained:?}");
}
