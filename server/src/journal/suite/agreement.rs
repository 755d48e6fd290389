//! The two sets of rules of shared budgets, side by side: the program's and the server's functions.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tillwatch_cluster::Cluster;
use tokio_postgres::{Client, NoTls, Statement, types::ToSql};

use super::server;
use crate::journal::{
    Purpose,
    postgres::{answer, heard, letter},
    slots::{Answer, Place, Purse, Verdict, Wish, Word},
};

const TAKE: &str =
    "SELECT * FROM take_1('a', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
const TELL: &str = "SELECT * FROM tell_1('a', $1, $2, $3, $4, $5, $6, $7, $8)";
const LOOK: &str = "SELECT arrival_us, creates_us, paused_until_us, unreachable_until_us,
    create_wanted_us, longest_wanted_us, since_longest, slowed_to, slowed_full, slowed_us, seen_us FROM budget";
const NAMES: [&str; 3] = ["first", "second", "third"];

/// One account's budget, kept twice.
struct Twins {
    client: Client,
    /// The prepared questions: take, tell, look.
    asked: [Statement; 3],
    purse: Purse,
    places: [Option<Place>; 3],
}

impl Twins {
    /// The program's side looks at the clock.
    fn follow(&mut self, now_us: i64) {
        let by_us = self.purse.follow(now_us);
        for place in self.places.iter_mut().flatten() {
            *place = place.set_back(by_us);
        }
    }

    /// A process's word, told to both.
    async fn tell(&mut self, one: usize, word: &Word, now_us: i64) {
        self.follow(now_us);
        let (told, place) = self.purse.tell(word, now_us);
        self.places[one] = Some(place);
        let values: [&(dyn ToSql + Sync); 8] = [
            &NAMES[one],
            &word.paused_us,
            &word.unreachable_us,
            &word.slowed_to,
            &word.slowed_full,
            &word.in_flight,
            &word.lasts_us,
            &now_us,
        ];
        let row = self
            .client
            .query_one(&self.asked[1], &values)
            .await
            .unwrap();
        assert_eq!(heard(&row, 0).unwrap(), told, "{word:?}");
    }

    /// A wish, made to both.
    async fn take(&mut self, one: usize, wish: &Wish, now_us: i64) -> Answer {
        self.follow(now_us);
        let others = self.places.iter().enumerate();
        let others = others.filter_map(|(place, held)| held.filter(|_| place != one));
        let others = others.map(|place| place.counts(now_us)).sum();
        let (expected, place) = self.purse.take(others, wish, now_us);
        self.places[one] = Some(place);
        let values: [&(dyn ToSql + Sync); 14] = [
            &NAMES[one],
            &letter(wish.purpose),
            &wish.slots,
            &wish.interval_us,
            &wish.tolerance_us,
            &wish.creates_interval_us,
            &wish.creates_tolerance_us,
            &wish.owed_us,
            &wish.creates_owed_us,
            &wish.in_flight,
            &wish.places,
            &wish.places_max,
            &wish.lasts_us,
            &now_us,
        ];
        let row = self
            .client
            .query_one(&self.asked[0], &values)
            .await
            .unwrap();
        assert_eq!(answer(&row).unwrap(), expected, "{wish:?}");
        expected
    }

    /// The server's row is the program's purse.
    async fn compare(&self, step: u32) {
        let row = self.client.query_one(&self.asked[2], &[]).await.unwrap();
        let column = |index: usize| row.get::<_, i64>(index);
        let kept = Purse {
            arrival_us: column(0),
            creates_us: column(1),
            paused_until_us: column(2),
            unreachable_until_us: column(3),
            create_wanted_us: column(4),
            longest_wanted_us: column(5),
            since_longest: column(6),
            slowed_to: column(7),
            slowed_full: column(8),
            slowed_us: column(9),
            seen_us: column(10),
        };
        assert_eq!(kept, self.purse, "at step {step}");
    }
}

fn flips(random: &mut StdRng, of: u32) -> i64 {
    i64::from(random.random_range(0..of) == 0)
}

fn word(random: &mut StdRng) -> Word {
    Word {
        paused_us: match random.random_range(0..40) {
            0 => random.random_range(0..5_000_000_000_i64),
            1..10 => random.random_range(0..2_000_000),
            _ => 0,
        },
        unreachable_us: flips(random, 2) * random.random_range(0..90_000_000),
        slowed_to: flips(random, 2) * random.random_range(1..90),
        slowed_full: random.random_range(90..300),
        in_flight: random.random_range(0..3),
        lasts_us: random.random_range(1..20_000_000),
    }
}

fn wish(random: &mut StdRng) -> Wish {
    let purpose = [Purpose::First, Purpose::Poll, Purpose::Other];
    let interval_us = [0, 100_000, 700_000, 700_000, 66_666_667][random.random_range(0..5)];
    let creates_interval_us = [0, 0, 10_000_000][random.random_range(0..3)];
    Wish {
        purpose: purpose[random.random_range(0..3)],
        slots: i64::from(interval_us > 0) * random.random_range(0..30),
        interval_us,
        tolerance_us: interval_us * random.random_range(0..30),
        creates_interval_us,
        creates_tolerance_us: creates_interval_us * random.random_range(0..3),
        owed_us: flips(random, 90) * 60_000_000,
        creates_owed_us: flips(random, 20) * 1_000_000,
        in_flight: random.random_range(0..3),
        places: random.random_range(0..6),
        places_max: random.random_range(1..6),
        lasts_us: random.random_range(1..20_000_000),
    }
}

#[tokio::test]
async fn the_servers_function_decides_as_the_programs_rules_do() {
    let database = Cluster::shared().database();
    server::open(&database.url(), 1).await.unwrap();
    let connected = tokio_postgres::connect(&database.url(), NoTls).await;
    let (client, connection) = connected.unwrap();
    let _driver = tokio::spawn(async move { drop(connection.await) });
    let asked = [
        client.prepare(TAKE).await.unwrap(),
        client.prepare(TELL).await.unwrap(),
        client.prepare(LOOK).await.unwrap(),
    ];
    let mut twins = Twins {
        client,
        asked,
        purse: Purse::default(),
        places: [None; 3],
    };
    let mut random = StdRng::seed_from_u64(11);
    let (mut now_us, mut met) = (1_800_000_000_000_000_i64, BTreeMap::<&str, u32>::new());
    for step in 0..700 {
        now_us += match random.random_range(0..90) {
            0 => -random.random_range(0..7_200_000_000_i64),
            1 => random.random_range(0..7_200_000_000_i64),
            _ => random.random_range(0..9_000_000),
        };
        let one = random.random_range(0..3);
        if random.random_range(0..8) == 0 {
            twins.tell(one, &word(&mut random), now_us).await;
        } else {
            let answer = twins.take(one, &wish(&mut random), now_us).await;
            let verdict = match answer.verdict {
                Verdict::Given => "given",
                Verdict::Later => "later",
                Verdict::Busy => "busy",
            };
            *met.entry(verdict).or_default() += 1;
        }
        twins.compare(step).await;
    }
    let is_met = met.len() == 3 && met.values().all(|times| *times > 20);
    assert!(is_met, "{met:?}");
}
