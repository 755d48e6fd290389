//! Places in flight, without a clock or a task.

use super::{super::flight::Flight, *};

fn flight(max_in_flight: u32, held_max: u32) -> Flight {
    Flight::new(&Policy {
        max_in_flight,
        held_max,
        ..policy(0)
    })
}

/// Takes places until there is no more room; says how many.
fn filled(flight: &mut Flight, class: Class, is_held: bool, create_waits: bool) -> u32 {
    let mut taken = 0;
    while flight.has_room(class, is_held, create_waits) {
        flight.begins(is_held);
        taken += 1;
    }
    taken
}

#[test]
fn the_last_eighth_of_the_places_is_for_creates_alone() {
    let mut flight = flight(16, 0);
    assert_eq!(flight.room_for_polls(false), 14);
    assert_eq!(filled(&mut flight, Class::Poll, false, false), 14);
    assert_eq!(flight.room_for_polls(false), 0);
    assert_eq!(filled(&mut flight, Class::Create, false, false), 2);
    assert_eq!(flight.count(), 16);
}

#[test]
fn the_last_place_of_few_is_left_to_a_create_that_waits() {
    for (all, create_waits, expected) in [(1, false, 1), (1, true, 0), (4, false, 4), (4, true, 3)]
    {
        let mut flight = flight(all, 0);
        let taken = filled(&mut flight, Class::Poll, false, create_waits);
        assert_eq!(taken, expected, "{all} {create_waits}");
    }
}

#[test]
fn long_polls_take_no_place_of_others_and_give_theirs_back() {
    let mut flight = flight(8, 3);
    assert_eq!(filled(&mut flight, Class::Poll, true, true), 3);
    assert_eq!(filled(&mut flight, Class::Refresh, false, false), 7);
    flight.ends(true);
    assert_eq!(flight.room_for_polls(true), 1);
    assert_eq!(flight.room_for_polls(false), 0);
    assert_eq!(flight.count(), 9);
}
