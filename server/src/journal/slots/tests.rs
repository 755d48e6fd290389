//! The rules of a shared budget, in every history that random processes make of them.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::cadence::budget::Pace;

const SECOND_US: i64 = 1_000_000;
const LIMITS: [u32; 17] = [
    1, 2, 5, 9, 10, 19, 20, 24, 25, 39, 40, 60, 100, 134, 200, 300, 600,
];
/// Any time of a server.
const START_US: i64 = 1_800_000_000_000_000;

/// A wish for one slot, of an account with this limit and room for everything.
fn wish(limit: u32, purpose: Purpose) -> Wish {
    let pace = Pace::new(limit);
    Wish {
        purpose,
        slots: if limit == 0 { 0 } else { 1 },
        interval_us: micros(pace.interval()),
        tolerance_us: micros(pace.tolerance()),
        creates_interval_us: 0,
        creates_tolerance_us: 0,
        owed_us: 0,
        creates_owed_us: 0,
        in_flight: 0,
        places: 1,
        places_max: 1_000,
        lasts_us: 18 * SECOND_US,
    }
}

fn many(limit: u32) -> Wish {
    Wish {
        slots: 1_000,
        ..wish(limit, Purpose::Other)
    }
}

fn lesson(pause_us: i64) -> Word {
    Word {
        paused_us: pause_us,
        unreachable_us: 0,
        slowed_to: 0,
        slowed_full: 0,
        in_flight: 0,
        lasts_us: SECOND_US,
    }
}

/// A slot that was given.
#[derive(Debug, Clone, Copy)]
struct Slot {
    given_us: i64,
    time_us: i64,
    /// It may be used so long before its time.
    early_us: i64,
}

/// Slots of greedy and crashing processes over four minutes: creates, blocks of polls, the longest overdue,
/// pauses, and takes that nobody uses.
fn slots(limit: u32, random: &mut StdRng) -> Vec<Slot> {
    let (mut purse, mut now_us, mut slots) = (Purse::default(), START_US, Vec::new());
    while now_us < START_US + 240 * SECOND_US {
        let purpose = [Purpose::First, Purpose::Poll, Purpose::Other];
        let purpose = purpose[random.random_range(0..3)];
        let wish = Wish {
            slots: random.random_range(1..20),
            ..wish(limit, purpose)
        };
        let (answer, _) = purse.take(0, &wish, now_us);
        let is_used = random.random_range(0..10) > 0;
        for slot in 0..answer.slots {
            let time_us = now_us + answer.arrival_in_us + slot * wish.interval_us;
            let early_us = match purpose {
                Purpose::First => wish.tolerance_us,
                Purpose::Poll if answer.is_for_longest => wish.tolerance_us,
                Purpose::Poll | Purpose::Other => wish.tolerance_us / 2,
            };
            if is_used {
                slots.push(Slot {
                    given_us: now_us,
                    time_us,
                    early_us,
                });
            }
        }
        if random.random_range(0..400) == 0 {
            purse.tell(&lesson(random.random_range(1..20 * SECOND_US)), now_us);
        }
        // Mostly as soon as there is a slot, sometimes later.
        now_us += match random.random_range(0..20) {
            0 => random.random_range(0..10 * SECOND_US),
            _ if answer.wait_us > 0 => random.random_range(1..=answer.wait_us),
            _ => random.random_range(0..50_000),
        };
    }
    slots
}

/// The most requests within any minute, if all slots are used against it: those before it as late as they
/// can be, those in it as early.
fn most_in_a_minute(slots: &[Slot]) -> usize {
    let reaches = |slot: &Slot, from_us: i64| {
        let earliest_us = (slot.time_us - slot.early_us).max(slot.given_us);
        let latest_us = slot.time_us + SECOND_US;
        earliest_us < from_us + 60 * SECOND_US && latest_us >= from_us
    };
    let within = |from_us: i64| slots.iter().filter(|slot| reaches(slot, from_us)).count();
    let ends = slots.iter().map(|slot| slot.time_us + SECOND_US);
    ends.map(within).max().unwrap_or(0)
}

#[test]
fn no_minute_holds_more_than_the_limit_whatever_processes_do_with_their_slots() {
    for limit in LIMITS {
        for seed in 0..3 {
            let slots = slots(limit, &mut StdRng::seed_from_u64(seed));
            let most = most_in_a_minute(&slots);
            assert!(most <= limit as usize, "{most} of {limit}, seed {seed}");
        }
        // Nothing is held back that may be used.
        let (mut purse, mut now_us, mut given) = (Purse::default(), START_US, 0);
        while now_us < START_US + 600 * SECOND_US {
            let (answer, _) = purse.take(0, &many(limit), now_us);
            given += answer.slots;
            now_us += answer.wait_us.max(1);
        }
        let paced = i64::from(limit) * 9;
        assert!(given >= paced, "{given} of {paced} at {limit}");
    }
}

#[test]
fn what_a_crash_of_the_store_forgets_does_not_exceed_the_limit() {
    for limit in LIMITS {
        let (mut purse, mut now_us, mut slots) = (Purse::default(), START_US, Vec::new());
        let mut random = StdRng::seed_from_u64(limit.into());
        let (mut kept, mut kept_at_us, mut is_after_outage) = (purse, now_us, false);
        let mut crash_us = now_us + 60 * SECOND_US;
        while now_us < START_US + 180 * SECOND_US {
            let mut wish = wish(limit, Purpose::First);
            if std::mem::take(&mut is_after_outage) {
                wish = wish.after_outage();
            }
            let (answer, _) = purse.take(0, &wish, now_us);
            if answer.slots > 0 {
                let time_us = now_us + answer.arrival_in_us;
                slots.push(Slot {
                    given_us: now_us,
                    time_us,
                    early_us: wish.tolerance_us,
                });
            }
            if now_us > kept_at_us + 600_000 {
                (kept, kept_at_us) = (purse, now_us);
            }
            now_us += answer.wait_us.max(random.random_range(1..20_000));
            if now_us > crash_us {
                (purse, is_after_outage) = (kept, true);
                crash_us = now_us + 3 * SECOND_US;
            }
        }
        let most = most_in_a_minute(&slots);
        assert!(most <= limit as usize, "{most} of {limit}");
    }
}

#[test]
fn starvation_by_processes_that_take_and_crash_ends_within_four_seconds_or_one_slot() {
    for limit in LIMITS {
        let (mut purse, mut now_us) = (Purse::default(), START_US);
        let create = wish(limit, Purpose::First);
        for _ in 0..1_000 {
            let (answer, _) = purse.take(0, &many(limit), now_us);
            // A create that came now.
            let (created, _) = { purse }.take(0, &create, now_us);
            let longest_us = create.interval_us.max(4 * SECOND_US);
            assert!(created.wait_us <= longest_us, "{created:?} at {limit}");
            now_us += answer.wait_us.clamp(1, 20_000);
        }
        let (answer, _) = purse.take(0, &create, now_us);
        if answer.verdict == Verdict::Later {
            let (answer, _) = purse.take(0, &create, now_us + answer.wait_us);
            assert_eq!(answer.verdict, Verdict::Given, "at {limit}");
        }
    }
}

/// Another process's polls, creates or both, as fast as they get slots.
fn hammer(purse: &mut Purse, limit: u32, purposes: &[Purpose], from_us: i64, until_us: i64) {
    for now_us in (from_us..until_us).step_by(1_000) {
        for purpose in purposes {
            let wish = Wish {
                slots: 1_000,
                ..wish(limit, *purpose)
            };
            purse.take(0, &wish, now_us);
        }
    }
}

#[test]
fn a_create_that_is_told_to_come_back_has_its_slot_then_whatever_polls_want() {
    for limit in LIMITS {
        let (mut purse, mut now_us, mut refused) = (Purse::default(), START_US, 0);
        let (others, create) = (&[Purpose::Other][..], wish(limit, Purpose::First));
        for _ in 0..20 {
            hammer(&mut purse, limit, others, now_us, now_us + SECOND_US);
            now_us += SECOND_US;
            let (answer, _) = purse.take(0, &create, now_us);
            if answer.verdict == Verdict::Later {
                refused += 1;
                // It comes back a little late.
                let at_us = now_us + answer.wait_us + 5_000;
                hammer(&mut purse, limit, others, now_us, at_us);
                let (answer, _) = purse.take(0, &create, at_us);
                assert_eq!(answer.verdict, Verdict::Given, "at {limit}");
                now_us = at_us;
            }
        }
        // Half of the burst is for creates alone, if there is one.
        assert!(refused > 0 || limit >= 25, "at {limit}");
    }
}

#[test]
fn one_slot_in_ten_is_the_longest_overdues_beside_everybody_who_takes_all() {
    for limit in [1, 10, 25, 100, 600] {
        let (mut purse, mut now_us, mut comes_us) = (Purse::default(), START_US, START_US);
        let (poll, mut polls, mut slots) = (wish(limit, Purpose::Poll), 0, 0);
        let end_us = START_US + 200 * poll.interval_us;
        while now_us < end_us {
            for purpose in [Purpose::First, Purpose::Other, Purpose::First] {
                slots += purse.take(0, &wish(limit, purpose), now_us).0.slots;
            }
            if now_us >= comes_us {
                let (answer, _) = purse.take(0, &poll, now_us);
                polls += answer.slots;
                slots += answer.slots;
                // The lane that asks comes back when it was told to.
                comes_us = now_us + answer.wait_us;
            }
            now_us += (poll.interval_us / 7).min(50_000);
        }
        assert!(
            polls * 10 >= slots * 8 / 10,
            "{polls} of {slots} at {limit}"
        );
        assert!(
            polls * 10 <= slots * 13 / 10,
            "{polls} of {slots} at {limit}"
        );
    }
}

#[test]
fn a_create_takes_a_slot_of_both_paces() {
    let creates = Pace::new(6);
    let create = Wish {
        creates_interval_us: micros(creates.interval()),
        creates_tolerance_us: micros(creates.tolerance()),
        ..wish(600, Purpose::First)
    };
    let mut purse = Purse::default();
    let (first, _) = purse.take(0, &create, START_US);
    assert_eq!((first.verdict, first.creates_in_us), (Verdict::Given, 0));
    let (second, _) = purse.take(0, &create, START_US);
    assert_eq!(
        (second.verdict, second.wait_us),
        (Verdict::Later, create.creates_interval_us)
    );
    // Its own pace refuses it: nobody makes way.
    assert_eq!(purse.create_wanted_us, 0);
    let (poll, _) = purse.take(0, &many(600), START_US);
    assert_eq!(
        poll.arrival_in_us, create.interval_us,
        "the refused create took none"
    );
}

#[test]
fn a_pause_and_a_lowered_limit_are_heard_by_all_and_the_longer_and_the_lower_holds() {
    let mut purse = Purse::default();
    purse.tell(&lesson(20 * SECOND_US), START_US);
    purse.tell(&lesson(5 * SECOND_US), START_US);
    let (answer, _) = purse.take(0, &wish(0, Purpose::Other), START_US + SECOND_US);
    assert_eq!(
        (answer.verdict, answer.wait_us),
        (Verdict::Later, 19 * SECOND_US)
    );
    assert_eq!(answer.heard.paused_us, 19 * SECOND_US);
    let (answer, _) = purse.take(0, &wish(0, Purpose::Other), START_US + 20 * SECOND_US);
    assert_eq!(answer.verdict, Verdict::Given);

    let lowered = |to| Word {
        slowed_to: to,
        slowed_full: 100,
        ..lesson(0)
    };
    let now_us = START_US + 60 * SECOND_US;
    purse.tell(&lowered(40), now_us);
    let (heard, _) = purse.tell(&lowered(60), now_us);
    assert_eq!(heard.slowed_to, 40);
    let after = |purse: &Purse, seconds: i64| purse.heard(now_us + seconds * SECOND_US).slowed_to;
    assert_eq!(after(&purse, 14), 40);
    assert_eq!(after(&purse, 15), 45);
    assert_eq!(after(&purse, 12 * 15), 0, "it is over at the full limit");
}

/// Two purses with one history: the clock of the second is set back again and again.
#[test]
fn a_clock_of_the_store_that_is_set_back_changes_no_answer() {
    for limit in LIMITS {
        let mut random = StdRng::seed_from_u64(limit.into());
        let (mut steady, mut stepped) = (Purse::default(), Purse::default());
        let (mut now_us, mut behind_us) = (START_US, 0);
        let mut place: Option<(Place, Place)> = None;
        for _ in 0..2_000 {
            now_us += random.random_range(0..4 * SECOND_US);
            steady.follow(now_us);
            stepped.follow(now_us - behind_us);
            if random.random_range(0..20) == 0 {
                let by_us = random.random_range(0..7_200 * SECOND_US);
                behind_us += by_us;
                assert_eq!(stepped.follow(now_us - behind_us), by_us);
                place = place.map(|(one, other)| (one, other.set_back(by_us)));
            }
            let others =
                place.map(|(one, other)| (one.counts(now_us), other.counts(now_us - behind_us)));
            let (others, of_stepped) = others.unwrap_or_default();
            assert_eq!(of_stepped, others);
            if random.random_range(0..5) == 0 {
                let word = lesson(random.random_range(0..40 * SECOND_US));
                let (one, of_one) = steady.tell(&word, now_us);
                let (other, of_other) = stepped.tell(&word, now_us - behind_us);
                assert_eq!(other, one, "at {limit}");
                place = Some((of_one, of_other));
            } else {
                let purpose = [Purpose::First, Purpose::Poll, Purpose::Other];
                let wish = wish(limit, purpose[random.random_range(0..3)]);
                let (one, _) = steady.take(others, &wish, now_us);
                let (other, _) = stepped.take(others, &wish, now_us - behind_us);
                assert_eq!(other, one, "at {limit}");
            }
        }
    }
}

#[test]
fn under_a_lower_limit_a_minute_passes_before_the_next_request() {
    let mut purse = Purse::default();
    for _ in 0..30 {
        purse.take(0, &wish(600, Purpose::First), START_US);
    }
    let lower = Wish {
        owed_us: MINUTE_US,
        ..wish(6, Purpose::First)
    };
    let (answer, _) = purse.take(0, &lower, START_US + SECOND_US);
    assert_eq!(
        (answer.verdict, answer.wait_us),
        (Verdict::Later, MINUTE_US)
    );
}

/// A process of the property below: its places, and the ends of its requests.
#[derive(Debug, Clone, Default)]
struct Process {
    held: i64,
    fresh_until_us: i64,
    place: Option<Place>,
    ends_us: Vec<i64>,
}

#[test]
fn requests_in_flight_of_all_processes_never_exceed_their_places_though_processes_die() {
    const LASTS_US: i64 = 15 * SECOND_US;
    for (places_max, seed) in [(1, 1), (2, 2), (8, 3), (64, 4)] {
        let mut random = StdRng::seed_from_u64(seed);
        let mut processes = vec![Process::default(); 4];
        let (mut purse, mut now_us, mut most, mut busy) = (Purse::default(), START_US, 0, 0);
        // Of processes that are gone.
        let mut orphans: Vec<(Place, Vec<i64>)> = Vec::new();
        for _ in 0..20_000 {
            now_us += random.random_range(0..300_000);
            for process in &mut processes {
                process.ends_us.retain(|end| *end > now_us);
            }
            for (_, ends) in &mut orphans {
                ends.retain(|end| *end > now_us);
            }
            let one = random.random_range(0..processes.len());
            let counts = |process: &Process| process.place.map_or(0, |place| place.counts(now_us));
            let others = processes
                .iter()
                .enumerate()
                .filter(|(place, _)| *place != one);
            let others: i64 = others.map(|(_, process)| counts(process)).sum::<i64>()
                + orphans
                    .iter()
                    .map(|(place, _)| place.counts(now_us))
                    .sum::<i64>();
            let in_flight = processes[one].ends_us.len() as i64;
            let process = &mut processes[one];
            match random.random_range(0..40) {
                0 => {
                    let gone = std::mem::take(process);
                    orphans.extend(gone.place.map(|place| (place, gone.ends_us)));
                    continue;
                }
                1..10 => {
                    let word = Word {
                        in_flight,
                        lasts_us: LASTS_US + 3 * SECOND_US,
                        ..lesson(0)
                    };
                    process.place = Some(purse.tell(&word, now_us).1);
                    process.held = in_flight;
                }
                _ => {
                    let purpose = [Purpose::First, Purpose::Other][random.random_range(0..2)];
                    let wish = Wish {
                        in_flight,
                        places: in_flight + random.random_range(1..5),
                        places_max,
                        lasts_us: LASTS_US + 3 * SECOND_US,
                        ..wish(0, purpose)
                    };
                    let (answer, place) = purse.take(others, &wish, now_us);
                    busy += i64::from(answer.verdict == Verdict::Busy);
                    (process.held, process.place) = (answer.held, Some(place));
                    process.fresh_until_us = now_us + SECOND_US;
                }
            }
            // It begins requests as late, and lets them last as long, as it may.
            while now_us <= process.fresh_until_us && (process.ends_us.len() as i64) < process.held
            {
                process
                    .ends_us
                    .push(now_us + SECOND_US + random.random_range(0..=LASTS_US));
            }
            let living: usize = processes.iter().map(|process| process.ends_us.len()).sum();
            let dying: usize = orphans.iter().map(|(_, ends)| ends.len()).sum();
            let all = (living + dying) as i64;
            assert!(all <= places_max, "{all} of {places_max}");
            most = most.max(all);
        }
        assert_eq!(most, places_max, "all places are used");
        assert!(busy > 0);
    }
}

#[test]
fn the_last_place_is_a_creates_while_one_waits() {
    let mut purse = Purse::default();
    let one = |purpose| Wish {
        places_max: 1,
        ..wish(0, purpose)
    };
    let (answer, _) = purse.take(1, &one(Purpose::First), START_US);
    assert_eq!(answer.verdict, Verdict::Busy);
    let (answer, _) = purse.take(0, &one(Purpose::Other), START_US + 500_000);
    assert_eq!(answer.verdict, Verdict::Busy, "the place is kept");
    let (answer, _) = purse.take(0, &one(Purpose::First), START_US + 600_000);
    assert_eq!(answer.verdict, Verdict::Given);
    let (answer, _) = purse.take(0, &one(Purpose::Other), START_US + 700_000);
    assert_eq!(answer.verdict, Verdict::Given, "nobody waits any more");
}
