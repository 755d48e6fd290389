//! Pure: the purchases that are likely to have changed, learned from earlier answers.
//!
//! Of each state it is known how often purchases left it at which age, in buckets that double: the
//! *hazard*, changes per second of waiting. From it follows what asking about a purchase is worth
//! now ([`Hazards::value`]).
//!
//! Polls see that a change happened between two looks, never when. So each look's evidence is laid
//! over the ages between the looks as the hazards known so far have it most likely (expectation
//! maximisation, one look at a time), and it fades: a state remembers some hundred changes.
//!
//! While there is little evidence a state's hazard is the account's, the same at every age. Then
//! what was asked longest ago is worth the most, which is taking turns within the schedule.

use std::time::Duration;

use crate::purchase::Moment;

/// Buckets of age: below 1 s, 2 s, 4 s … and everything from 3 days on.
const BUCKETS: usize = 20;
/// Changes that a state remembers; beyond, its evidence is halved.
const REMEMBERED: f64 = 512.0;
/// Seconds of waiting without a change that a bucket remembers.
const WAITED_MAX: f64 = 1e8;
/// The changes that the account's experience counts for in a state's.
const PRIOR_OF_STATE: f64 = 2.0;
/// The changes that the state's experience counts for in a bucket's. Of 1, 3, 8 and 16 this makes news
/// least late if all purchases are alive (benchmark `freshness`).
const PRIOR_OF_BUCKET: f64 = 8.0;
/// Before anything is known: a change in ten minutes. Any figure would do, since it is the same for
/// all.
const FIRST_GUESS_S: f64 = 600.0;
/// Looks after which the estimates are made anew, and changes, which tell more.
const LOOKS_TO_FIT: u32 = 1_024;
const CHANGES_TO_FIT: u32 = 32;
/// Steps of the sums that stand for integrals.
const VALUE_STEPS: u32 = 12;
const AHEAD_STEPS: u32 = 16;
/// The number of changes ahead that are foreseen.
const CHAIN: usize = 3;

/// One purchase's stay in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stayed {
    state: u8,
    /// When it is thought to have entered it.
    entered: Moment,
    /// When it was last looked at.
    looked: Moment,
    /// The time from then until it was last asked about, whatever was answered, in milliseconds.
    asked_later_ms: u32,
}

impl Stayed {
    /// A stay that begins now, in a state with this number, with a look.
    pub fn new(state: u8, now: Moment) -> Self {
        Self {
            state,
            entered: now,
            looked: now,
            asked_later_ms: 0,
        }
    }

    /// The state's number.
    pub fn state(&self) -> usize {
        usize::from(self.state)
    }

    /// From the last look until `now`.
    pub fn span(&self, now: Moment) -> Span {
        Span {
            from_s: self.looked.since(self.entered).as_secs_f64(),
            to_s: now.since(self.entered).as_secs_f64(),
        }
    }

    /// It is asked about now.
    pub fn asked(&mut self, now: Moment) {
        self.asked_later_ms = u32::try_from(now.since(self.looked).as_millis()).unwrap_or(u32::MAX);
    }

    /// When it was last asked about, or entered if it never was.
    pub fn last_asked(&self) -> Moment {
        let later = Duration::from_millis(self.asked_later_ms.into());
        self.looked.plus(later)
    }

    /// From when it was last asked about until `now`: what asking again is worth.
    pub fn waited(&self, now: Moment) -> Span {
        let asked = self.last_asked();
        Span {
            from_s: asked.since(self.entered).as_secs_f64(),
            to_s: now.since(self.entered).as_secs_f64(),
        }
    }

    /// A look found it as it was.
    pub fn unchanged(&mut self, now: Moment) {
        self.looked = self.looked.max(now);
        self.asked_later_ms = 0;
    }

    /// A look found it in another state, or changed within it: it entered that between the looks.
    pub fn changed(&mut self, state: u8, now: Moment) {
        self.state = state;
        self.entered = self.looked.plus(now.since(self.looked) / 2);
        self.looked = now.max(self.entered);
        self.asked_later_ms = 0;
    }
}

/// The stays of one account's purchases in each state.
#[derive(Debug, Clone, Default)]
pub struct Hazards {
    /// By the state's number; made when a state is first seen.
    stays: Vec<Stay>,
    looks: u32,
    changes: u32,
}

/// The lessons from the stays in one state.
#[derive(Debug, Clone)]
struct Stay {
    ages: [Age; BUCKETS],
    /// The states that followed, each with its number of times.
    followers: Vec<(usize, f64)>,
    /// The expected changes within each edge's time of entering.
    ahead: [Ahead; BUCKETS + 1],
}

/// One bucket of age.
#[derive(Debug, Clone, Copy, Default)]
struct Age {
    /// Changes at this age.
    changes: f64,
    /// Seconds that purchases waited at this age.
    waited: f64,
    /// The estimate: changes per second.
    rate: f64,
    /// The sum of rates over all younger ages.
    before: f64,
}

/// Changes that are expected within a time, and the sum of the times at which.
#[derive(Debug, Clone, Copy, Default)]
struct Ahead {
    changes: f64,
    moments: f64,
}

/// Two looks at a purchase in one state: its ages in that state, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// At the first look.
    pub from_s: f64,
    /// At the second.
    pub to_s: f64,
}

/// The weight of asking about a purchase: by its watchers, and by its failures in a row.
pub fn weight(watchers: usize, failures: u32) -> f64 {
    news(watchers) * chance(failures)
}

/// The weight of a purchase's news, by its watchers.
fn news(watchers: usize) -> f64 {
    // Ours: somebody waits for it, which is worth four that nobody waits for; more watchers count
    // more, though not as many times more, since their number is the callers' to choose.
    watchers
        .checked_ilog2()
        .map_or(1.0, |doublings| 4.0 + f64::from(doublings))
}

/// The chance of an answer that tells anything, after so many failures in a row. Ours: halved with each, as the waits between them double.
fn chance(failures: u32) -> f64 {
    0.5_f64.powi(i32::try_from(failures.min(64)).unwrap_or(64))
}

/// The beginning of a bucket, in seconds.
fn edge(bucket: usize) -> f64 {
    match bucket.checked_sub(1) {
        None => 0.0,
        Some(power) => (1_u64 << power) as f64,
    }
}

/// The bucket of an age: the length of its whole seconds in bits.
fn bucket(age_s: f64) -> usize {
    let bits = u64::BITS - (age_s as u64).leading_zeros();
    (bits as usize).min(BUCKETS - 1)
}

impl Default for Stay {
    fn default() -> Self {
        let mut stay = Self {
            ages: [Age::default(); BUCKETS],
            followers: Vec::new(),
            ahead: [Ahead::default(); BUCKETS + 1],
        };
        stay.fit(1.0 / FIRST_GUESS_S);
        stay
    }
}

impl Stay {
    /// The sum of rates from entering to an age.
    fn sum(&self, age_s: f64) -> f64 {
        let bucket = bucket(age_s);
        let age = self.ages.get(bucket).copied().unwrap_or_default();
        age.before + age.rate * (age_s - edge(bucket))
    }

    /// Estimates the rates; `account` is the account's.
    fn fit(&mut self, account: f64) {
        let changes: f64 = self.ages.iter().map(|age| age.changes).sum();
        let waited: f64 = self.ages.iter().map(|age| age.waited).sum();
        let mean = (changes + PRIOR_OF_STATE) / (waited + PRIOR_OF_STATE / account);
        let mut before = 0.0;
        for (bucket, age) in self.ages.iter_mut().enumerate() {
            age.rate = (age.changes + PRIOR_OF_BUCKET) / (age.waited + PRIOR_OF_BUCKET / mean);
            age.before = before;
            before += age.rate * (edge(bucket + 1) - edge(bucket));
        }
    }

    /// Lays the evidence of two looks over the ages between them.
    fn learn(&mut self, span: Span, changed: bool) {
        let unchanged_at_end = (self.sum(span.from_s) - self.sum(span.to_s)).exp();
        let likely = (1.0 - unchanged_at_end).max(f64::MIN_POSITIVE);
        let mut unchanged = 1.0;
        let last = self.ages.len() - 1;
        for (bucket, age) in self.ages.iter_mut().enumerate() {
            let ends = if bucket == last {
                span.to_s
            } else {
                edge(bucket + 1).min(span.to_s)
            };
            let length = ends - edge(bucket).max(span.from_s);
            if length <= 0.0 {
                continue;
            }
            if !changed {
                age.waited += length;
                continue;
            }
            let expected = age.rate * length;
            let after = unchanged * (-expected).exp();
            // The chance that it changed here, and that it changed later, given that it did.
            let here = (unchanged - after) / likely;
            let later = ((after - unchanged_at_end) / likely).max(0.0);
            let mean = if expected > 1e-6 {
                1.0 / age.rate - length / expected.exp_m1()
            } else {
                length / 2.0
            };
            age.changes += here;
            age.waited += here * mean + later * length;
            unchanged = after;
        }
        // All ages of a state fade together: one that is thought to see no change would else never
        // forget why.
        let changes: f64 = self.ages.iter().map(|age| age.changes).sum();
        for age in &mut self.ages {
            if changes > REMEMBERED || age.waited > WAITED_MAX {
                age.changes /= 2.0;
                age.waited /= 2.0;
            }
        }
    }

    fn followed_by(&mut self, state: usize) {
        match self.followers.iter_mut().find(|(known, _)| *known == state) {
            Some((_, times)) => *times += 1.0,
            None => self.followers.push((state, 1.0)),
        }
        let times: f64 = self.followers.iter().map(|(_, times)| times).sum();
        if times > REMEMBERED {
            self.followers
                .iter_mut()
                .for_each(|(_, times)| *times /= 2.0);
        }
    }

    /// The expected changes within a time of entering.
    fn within(&self, time_s: f64) -> Ahead {
        let lower = bucket(time_s);
        let at = |edge: usize| self.ahead.get(edge).copied().unwrap_or_default();
        let (low, high) = (at(lower), at(lower + 1));
        let part = ((time_s - edge(lower)) / (edge(lower + 1) - edge(lower))).min(1.0);
        Ahead {
            changes: low.changes + part * (high.changes - low.changes),
            moments: low.moments + part * (high.moments - low.moments),
        }
    }
}

impl Hazards {
    /// Learns from two looks at a purchase that was in `state` at the first: its state at the
    /// second, if that is another, or if anything else of it has changed.
    pub fn learn(&mut self, state: usize, span: Span, changed_to: Option<usize>) {
        let known = state.max(changed_to.unwrap_or(0));
        if self.stays.len() <= known {
            self.stays.resize_with(known + 1, Stay::default);
            self.fit();
        }
        let Some(stay) = self.stays.get_mut(state) else {
            return;
        };
        let span = Span {
            from_s: span.from_s.max(0.0),
            to_s: span.to_s.max(0.0),
        };
        if span.to_s > span.from_s {
            stay.learn(span, changed_to.is_some());
        }
        self.looks += 1;
        if let Some(next) = changed_to {
            stay.followed_by(next);
            self.changes += 1;
        }
        if self.changes >= CHANGES_TO_FIT || self.looks >= LOOKS_TO_FIT {
            self.fit();
        }
    }

    /// The worth of asking about a purchase now, as a number to be compared: `span` begins with its last
    /// look and ends now, `weight` is that of its news.
    ///
    /// With *c(s)* the changes that are expected within *s* of the last look, asking at *t* is worth
    /// ∫₀ᵗ *s* d*c(s)* / P(no change within *t*): the price of a request at which now is the best
    /// time for the next one. The integral is the Whittle index of a process that each look starts
    /// anew, the division accounts for the request that a change makes necessary anyhow. With a
    /// small constant rate λ it is λ*t*²/2, so that requests go by the square root of the rate.
    /// Returned is its logarithm, which has no bounds to meet.
    pub fn value(&self, state: usize, span: Span, weight: f64) -> f64 {
        let time = (span.to_s - span.from_s).max(0.0);
        let Some(stay) = self.stays.get(state) else {
            // Nothing is known: what was asked longest ago first.
            return (weight * time * time / (2.0 * FIRST_GUESS_S)).ln() + time / FIRST_GUESS_S;
        };
        let from = span.from_s.max(0.0);
        let at_look = stay.sum(from);
        let sum_at = |time: f64| stay.sum(from + time) - at_look;
        let worth = self
            .moments(stay, time, VALUE_STEPS, sum_at, f64::from)
            .moments;
        (weight * worth).ln() + sum_at(time)
    }

    /// The changes that are expected within a time, and the sum of the times at which: of the first
    /// by its own rates, of those that follow as from entering. `steps` cut the time, at `place` of
    /// it each.
    fn moments(
        &self,
        stay: &Stay,
        time: f64,
        steps: u32,
        sum_at: impl Fn(f64) -> f64,
        place: impl Fn(u32) -> f64,
    ) -> Ahead {
        let times: f64 = stay.followers.iter().map(|(_, times)| times).sum();
        let mut total = Ahead::default();
        let (mut began, mut unchanged) = (0.0, 1.0);
        for step in 1..=steps {
            let ends = time * place(step) / place(steps);
            let after = (-sum_at(ends)).exp();
            let (here, at) = (unchanged - after, (began + ends) / 2.0);
            let mut changes = 1.0;
            let mut moments = at;
            for (state, often) in &stay.followers {
                let Some(next) = self.stays.get(*state) else {
                    continue;
                };
                let (ahead, part) = (next.within(time - at), often / times);
                changes += part * ahead.changes;
                moments += part * (at * ahead.changes + ahead.moments);
            }
            total.changes += here * changes;
            total.moments += here * moments;
            (began, unchanged) = (ends, after);
        }
        total
    }

    /// Makes the estimates anew.
    fn fit(&mut self) {
        (self.looks, self.changes) = (0, 0);
        let ages = || self.stays.iter().flat_map(|stay| stay.ages.iter());
        let changes: f64 = ages().map(|age| age.changes).sum();
        let waited: f64 = ages().map(|age| age.waited).sum();
        let account = (changes + 1.0) / (waited + FIRST_GUESS_S);
        for stay in &mut self.stays {
            stay.fit(account);
            stay.ahead = Default::default();
        }
        for _ in 0..CHAIN {
            let ahead: Vec<_> = self.stays.iter().map(|stay| self.ahead(stay)).collect();
            for (stay, ahead) in self.stays.iter_mut().zip(ahead) {
                stay.ahead = ahead;
            }
        }
    }

    /// The expected changes after entering a state, given those of its followers.
    fn ahead(&self, stay: &Stay) -> [Ahead; BUCKETS + 1] {
        if stay.followers.is_empty() {
            // It was never seen to be left: an end, for all that is known.
            return Default::default();
        }
        let square = |step: u32| f64::from(step * step);
        std::array::from_fn(|place| {
            let sum_at = |time: f64| stay.sum(time);
            self.moments(stay, edge(place), AHEAD_STEPS, sum_at, square)
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn span(from_s: f64, to_s: f64) -> Span {
        Span { from_s, to_s }
    }

    /// Looks every `every` seconds at stays of exponential length.
    fn watch(hazards: &mut Hazards, random: &mut StdRng, mean_s: f64, every: f64) {
        let ends = -mean_s * random.random_range(f64::MIN_POSITIVE..1.0_f64).ln();
        let mut from = 0.0;
        while from + every < ends {
            hazards.learn(0, span(from, from + every), None);
            from += every;
        }
        hazards.learn(0, span(from, from + every), Some(1));
    }

    #[test]
    fn a_rate_is_learned_from_looks_that_only_bracket_the_changes() {
        let mut random = StdRng::seed_from_u64(7);
        for (mean_s, every) in [(20.0, 5.0), (20.0, 30.0), (300.0, 60.0)] {
            let mut hazards = Hazards::default();
            for _ in 0..3_000 {
                watch(&mut hazards, &mut random, mean_s, every);
            }
            let learned = 60.0 / hazards.stays[0].sum(60.0);
            let ratio = learned / mean_s;
            assert!(
                (0.8..1.25).contains(&ratio),
                "{mean_s} {every}: {learned:.1}"
            );
        }
    }

    #[test]
    fn without_evidence_the_longest_wait_is_worth_the_most() {
        let mut hazards = Hazards::default();
        let worth = |hazards: &Hazards, from, to| hazards.value(3, span(from, to), 1.0);
        for _ in 0..2 {
            assert!(worth(&hazards, 0.0, 30.0) > worth(&hazards, 500.0, 529.0));
            assert!(worth(&hazards, 9e6, 9e6 + 2e6) > worth(&hazards, 0.0, 1e6));
            hazards.learn(9, span(0.0, 1.0), Some(9));
        }
        assert!(worth(&hazards, 0.0, 0.0).is_infinite());
        assert!(!worth(&hazards, 5.0, 4.0).is_nan());
    }

    #[test]
    fn an_age_at_which_nothing_ever_happens_is_worth_little() {
        let mut hazards = Hazards::default();
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..500 {
            watch(&mut hazards, &mut random, 60.0, 20.0);
            hazards.learn(0, span(50_000.0, 50_600.0), None);
        }
        let young = hazards.value(0, span(30.0, 90.0), 1.0);
        let old = hazards.value(0, span(50_000.0, 50_600.0), 1.0);
        assert!(young > old, "{young} {old}");
    }

    #[test]
    fn a_purchase_that_counts_more_is_worth_more() {
        let hazards = Hazards::default();
        let value = |weight| hazards.value(0, span(0.0, 60.0), weight);
        assert!(value(4.0) > value(1.0));
    }

    #[test]
    fn what_was_just_asked_in_vain_is_worth_little_and_each_failure_halves_it() {
        let mut hazards = Hazards::default();
        hazards.learn(0, span(0.0, 60.0), Some(1));
        let start = Moment::from_millis(1_800_000_000_000);
        let at = |seconds: u64| start.plus(Duration::from_secs(seconds));
        let (mut vain, good) = (Stayed::new(0, at(0)), Stayed::new(0, at(0)));
        vain.asked(at(600));
        let value = |stayed: &Stayed, now, failures| {
            hazards.value(0, stayed.waited(at(now)), chance(failures))
        };
        assert!(
            value(&vain, 610, 0) < value(&good, 610, 0),
            "asked just now"
        );
        assert!(value(&good, 610, 0) > value(&good, 610, 1));
        assert!(value(&good, 610, 64).is_finite());
        // Its stay still counts from its last answer.
        assert!(vain.span(at(610)).from_s < 1.0);
    }

    #[test]
    fn evidence_is_bounded_and_fades() {
        let mut hazards = Hazards::default();
        let mut random = StdRng::seed_from_u64(7);
        for mean_s in [1_000.0, 10.0] {
            for _ in 0..16_000 {
                watch(&mut hazards, &mut random, mean_s, mean_s / 4.0);
            }
            let learned = 8.0 / hazards.stays[0].sum(8.0);
            assert!((0.7..1.5).contains(&(learned / mean_s)), "{learned}");
        }
        let changes = hazards.stays[0].ages.iter().map(|age| age.changes);
        assert!(changes.sum::<f64>() <= REMEMBERED);
    }
}
