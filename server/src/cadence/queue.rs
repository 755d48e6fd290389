//! Pure: the caller whose create is next, if callers want more than there is.
//!
//! The caller that was served longest ago goes first, among those whose calls wait and those that were
//! told to come back about now. However many calls one caller makes, another's waits for one of them.

use std::{collections::BTreeMap, time::Duration};

use crate::purchase::{CallerName, Moment};

/// When to look again whether a call that waits has had its turn.
const GLANCE: Duration = Duration::from_millis(50);

/// Callers who want to create. As many as are configured, at the most.
#[derive(Debug, Default)]
pub struct Queue {
    callers: BTreeMap<CallerName, Wish>,
    /// Turns so far.
    turns: u64,
}

#[derive(Debug, Default)]
struct Wish {
    /// The number of its last turn.
    served: u64,
    /// The number of its calls that wait.
    waiting: u32,
    /// From when until when its turn is kept, since it was told to come back then.
    promised: Option<(Moment, Moment)>,
}

impl Wish {
    /// Until when its turn is kept, as far as is known now.
    fn holds_until(&self, now: Moment) -> Option<Moment> {
        let promised = self
            .promised
            .filter(|(from, until)| *from <= now && now < *until);
        let waiting = (self.waiting > 0).then(|| now.plus(GLANCE));
        promised.map(|(_, until)| until).max(waiting)
    }
}

impl Queue {
    /// A call of this caller waits.
    pub fn enters(&mut self, caller: &CallerName) {
        let wish = self.callers.entry(caller.clone()).or_default();
        wish.waiting = wish.waiting.saturating_add(1);
    }

    /// A call waits no longer.
    pub fn leaves(&mut self, caller: &CallerName) {
        if let Some(wish) = self.callers.get_mut(caller) {
            wish.waiting = wish.waiting.saturating_sub(1);
        }
    }

    /// A call was told to come back: its turn is kept from then until another time.
    pub fn promised(&mut self, caller: &CallerName, from: Moment, until: Moment) {
        self.callers.entry(caller.clone()).or_default().promised = Some((from, until));
    }

    /// The earliest time for this caller, if another goes first.
    pub fn behind(&self, caller: &CallerName, now: Moment) -> Option<Moment> {
        let served = self.callers.get(caller).map_or(0, |wish| wish.served);
        let earlier = |(other, wish): (&CallerName, &Wish)| {
            let is_earlier = wish.served < served && other != caller;
            is_earlier.then(|| wish.holds_until(now)).flatten()
        };
        self.callers.iter().filter_map(earlier).max()
    }

    /// It was this caller's turn.
    pub fn served(&mut self, caller: &CallerName) {
        self.turns += 1;
        let wish = self.callers.entry(caller.clone()).or_default();
        wish.served = self.turns;
        wish.promised = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Moment {
        Moment::from_millis(1_800_000_000_000 + seconds * 1_000)
    }

    #[test]
    fn callers_take_turns_however_many_calls_they_have() {
        let [many, few] = ["many", "few"].map(CallerName::new);
        let mut queue = Queue::default();
        for _ in 0..100 {
            queue.enters(&many);
        }
        queue.enters(&few);
        let mut turns = Vec::new();
        for _ in 0..6 {
            let next = [&many, &few]
                .into_iter()
                .find(|caller| queue.behind(caller, at(0)).is_none());
            let next = next.unwrap().clone();
            queue.served(&next);
            turns.push(next.to_string());
        }
        assert_eq!(turns, ["many", "few", "many", "few", "many", "few"]);
        queue.leaves(&few);
        queue.served(&many);
        assert!(queue.behind(&many, at(0)).is_none(), "nobody else waits");
    }

    #[test]
    fn a_turn_is_kept_for_who_was_told_to_come_back_and_not_for_longer() {
        let [here, away] = ["here", "away"].map(CallerName::new);
        let mut queue = Queue::default();
        queue.served(&here);
        queue.promised(&away, at(10), at(12));
        for (second, expected) in [(9, true), (10, false), (11, false), (12, true)] {
            assert_eq!(
                queue.behind(&here, at(second)).is_none(),
                expected,
                "{second}"
            );
        }
        assert!(
            queue.behind(&away, at(9)).is_none(),
            "it may come earlier, too"
        );
        queue.served(&away);
        assert!(queue.behind(&here, at(10)).is_none(), "it has had its turn");
    }
}
