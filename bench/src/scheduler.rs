//! The costs of the scheduler's steps, from a thousand places to a million. Constant time shows as equal
//! figures, but for the processor's caches, which slow more memory down.

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tillwatch_server::{
    cadence::{
        hazard::{Hazards, Stayed},
        turns::Turns,
        wheel::Wheel,
    },
    purchase::Moment,
};

use crate::table::{Spread, Table};

/// Rounds of each measurement.
const ROUNDS: u64 = 5;

/// Nanoseconds per step of one round.
struct Costs {
    arm: f64,
    cancel: f64,
    fire: f64,
    push: f64,
    choose: f64,
}

fn round(places: u32, seed: u64) -> Costs {
    let mut random = StdRng::seed_from_u64(seed);
    let now = Moment::from_millis(1_800_000_000_000);
    // The times are up to an hour ahead, as most intervals are.
    let ahead: Vec<Duration> = (0..places)
        .map(|_| Duration::from_millis(random.random_range(1..3_600_000)))
        .collect();
    let mut wheel = Wheel::default();
    wheel.take(now, |_| ());
    let arm_all = |wheel: &mut Wheel| {
        for (place, ahead) in (0..).zip(&ahead) {
            wheel.arm(place, now.plus(*ahead));
        }
    };
    // The memory is taken before the measurement, which then shows the steps alone.
    arm_all(&mut wheel);
    let nanos = |began: Instant| began.elapsed().as_nanos() as f64 / f64::from(places);
    let began = Instant::now();
    (0..places).for_each(|place| wheel.cancel(place));
    let cancel = nanos(began);
    let began = Instant::now();
    arm_all(&mut wheel);
    let arm = nanos(began);
    let mut due = Vec::with_capacity(ahead.len());
    let began = Instant::now();
    for step in 1..=36_000_u64 {
        wheel.take(now.plus(Duration::from_millis(step * 100)), |place| {
            due.push(place);
        });
    }
    wheel.take(now.plus(Duration::from_secs(3_601)), |place| {
        due.push(place)
    });
    let fire = nanos(began);
    assert_eq!(due.len(), ahead.len(), "all have fired");
    let mut turns = Turns::default();
    let began = Instant::now();
    for place in due {
        turns.push(place, place % 10);
    }
    let push = nanos(began);
    Costs {
        arm,
        cancel,
        fire,
        push,
        choose: choose(&mut turns, now),
    }
}

/// Nanoseconds to choose one place, with 512 of a caller compared by the worth of asking.
fn choose(turns: &mut Turns, now: Moment) -> f64 {
    const CHOICES: u32 = 500;
    let mut hazards = Hazards::default();
    for stay in 1..200_u32 {
        let mut stayed = Stayed::new(1, now);
        let later = now.plus(Duration::from_secs(u64::from(stay) * 5));
        hazards.learn(1, stayed.span(later), Some(2));
        stayed.changed(2, later);
        hazards.learn(2, stayed.span(later.plus(Duration::from_secs(60))), Some(3));
    }
    let stayed = Stayed::new(1, now);
    let began = Instant::now();
    for _ in 0..CHOICES {
        let place = turns.take(512, |place| {
            let since = now.plus(Duration::from_millis(u64::from(place) * 7));
            hazards.value(stayed.state(), stayed.span(since), 1.0)
        });
        if let Some(place) = place {
            turns.push(place, place % 10);
        }
    }
    began.elapsed().as_nanos() as f64 / f64::from(CHOICES)
}

/// The table.
pub fn table() -> Table {
    let mut table = Table::new(
        "Nanoseconds per step, five rounds: median (least to most)",
        &[
            "places",
            "arm",
            "cancel",
            "fire",
            "fall due",
            "choose of 512",
        ],
    );
    for places in [1_000, 10_000, 100_000, 1_000_000] {
        let rounds: Vec<Costs> = (0..ROUNDS).map(|seed| round(places, seed)).collect();
        let column = |of: fn(&Costs) -> f64| Spread::of(rounds.iter().map(of)).to_string();
        let cells = [
            column(|costs| costs.arm),
            column(|costs| costs.cancel),
            column(|costs| costs.fire),
            column(|costs| costs.push),
            column(|costs| costs.choose),
        ];
        table.row(&places.to_string(), cells);
    }
    table
}
