//! Pure: turns among the places that are due, if the budget does not suffice for all.
//!
//! Turns go to the callers in turn, and within a caller to the place that is most worth asking about.
//! But of ten requests of an account, whatever they are for, one goes to the place that has been due
//! for longest: the account counts them. So nothing starves: with *n* places due, none waits for more
//! than 10 *n* requests. At *r* requests a minute the longest gap between two requests about one of *n*
//! open purchases is therefore at most
//!
//! > 1.1 × its interval + 10 *n* / *r* minutes + the time that a request takes,
//!
//! whatever the values are; 1.1 for the jitter.

use std::collections::VecDeque;

use super::shelf::Shelf;

/// Of so many requests of an account, one is for what has been due for longest.
pub const LONGEST_DUE_EVERY: u32 = 10;
/// No place.
const NONE: u32 = u32::MAX;

/// One place that is due: 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// Neighbours in the order of falling due.
    before: u32,
    after: u32,
    /// Its caller; [`NONE`] if it is not due.
    caller: u32,
    /// Its position among its caller's.
    at: u32,
}

const IDLE: Node = Node {
    before: NONE,
    after: NONE,
    caller: NONE,
    at: NONE,
};

/// One caller's places that are due, in no order.
#[derive(Debug, Default)]
struct Caller {
    places: Vec<u32>,
    /// The position from which the next turn compares.
    cursor: usize,
    /// It stands in the round; it leaves when its turn comes and it has nothing.
    in_round: bool,
}

/// The places that are due.
#[derive(Debug)]
pub struct Turns {
    nodes: Shelf<Node>,
    first: u32,
    last: u32,
    callers: Vec<Caller>,
    /// Callers with something due, the next first, and some that have nothing left.
    round: VecDeque<u32>,
    len: usize,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            nodes: Shelf::default(),
            first: NONE,
            last: NONE,
            callers: Vec::new(),
            round: VecDeque::new(),
            len: 0,
        }
    }
}

impl Turns {
    /// The number of places that are due.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says whether nothing is due.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Says whether a place is due.
    pub fn contains(&self, place: u32) -> bool {
        (self.nodes.get(place)).is_some_and(|node| node.caller != NONE)
    }

    /// A place of a caller (a small number) falls due.
    pub fn push(&mut self, place: u32, caller: u32) {
        if self.contains(place) {
            return;
        }
        self.nodes.reach(place, IDLE);
        let Ok(index) = usize::try_from(caller) else {
            return;
        };
        if self.callers.len() <= index {
            self.callers.resize_with(index + 1, Caller::default);
        }
        let Some(own) = self.callers.get_mut(index) else {
            return;
        };
        let Ok(at) = u32::try_from(own.places.len()) else {
            return;
        };
        if !own.in_round {
            own.in_round = true;
            self.round.push_back(caller);
        }
        own.places.push(place);
        if let Some(node) = self.nodes.get_mut(place) {
            *node = Node {
                before: self.last,
                after: NONE,
                caller,
                at,
            };
        }
        match self.nodes.get_mut(self.last) {
            Some(last) => last.after = place,
            None => self.first = place,
        }
        self.last = place;
        self.len += 1;
    }

    /// A place is due no more. Returns whether it was.
    pub fn remove(&mut self, place: u32) -> bool {
        if !self.contains(place) {
            return false;
        }
        let Some(node) = self.nodes.get_mut(place) else {
            return false;
        };
        let gone = std::mem::replace(node, IDLE);
        match self.nodes.get_mut(gone.before) {
            Some(before) => before.after = gone.after,
            None => self.first = gone.after,
        }
        match self.nodes.get_mut(gone.after) {
            Some(after) => after.before = gone.before,
            None => self.last = gone.before,
        }
        self.len -= 1;
        let own = usize::try_from(gone.caller).ok();
        let Some(own) = own.and_then(|index| self.callers.get_mut(index)) else {
            return true;
        };
        let at = usize::try_from(gone.at).unwrap_or(usize::MAX);
        if at < own.places.len() {
            own.places.swap_remove(at);
        }
        if let Some(node) = (own.places.get(at)).and_then(|moved| self.nodes.get_mut(*moved)) {
            node.at = gone.at;
        }
        if own.places.is_empty() {
            // The memory that a burst of due places took is given back.
            own.places = Vec::new();
        }
        true
    }

    /// Takes the worthiest place of the caller whose turn it is. `value` says what asking about one is
    /// worth now; at most `compared_max` of a caller's places are compared. A caller with more has its
    /// next ones compared in its next turn: the best of some hundred is worth nearly as much as the
    /// best of all.
    pub fn take(&mut self, compared_max: usize, mut value: impl FnMut(u32) -> f64) -> Option<u32> {
        let place = self.best(compared_max, &mut value)?;
        self.remove(place).then_some(place)
    }

    /// The worthiest place of the caller whose turn it is.
    fn best(&mut self, compared_max: usize, value: &mut impl FnMut(u32) -> f64) -> Option<u32> {
        while let Some(caller) = self.round.pop_front() {
            let index = usize::try_from(caller).ok()?;
            let own = self.callers.get_mut(index)?;
            match own.best(compared_max, value) {
                Some(place) => {
                    self.round.push_back(caller);
                    return Some(place);
                }
                None => own.in_round = false,
            }
        }
        None
    }

    /// The place that has been due for longest.
    pub fn longest_due(&self) -> Option<u32> {
        Some(self.first).filter(|place| *place != NONE)
    }

    /// Takes the place that has been due for longest.
    pub fn take_longest_due(&mut self) -> Option<u32> {
        let place = self.first;
        self.remove(place).then_some(place)
    }
}

impl Caller {
    fn best(&mut self, compared_max: usize, value: &mut impl FnMut(u32) -> f64) -> Option<u32> {
        let count = self.places.len();
        let compared = count.min(compared_max.max(1));
        let from = if self.cursor < count { self.cursor } else { 0 };
        self.cursor = from + compared;
        if compared == 1 {
            return self.places.get(from).copied();
        }
        let round = self.places.iter().cycle().skip(from).take(compared);
        let best = round
            .map(|place| (value(*place), *place))
            .max_by(|left, right| left.0.total_cmp(&right.0));
        best.map(|(_, place)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise P6: none starves, whatever the values say.
    #[test]
    fn no_place_waits_for_more_than_ten_times_as_many_turns_as_there_are_places() {
        const PLACES: u32 = 60;
        let mut turns = Turns::default();
        let mut waits = vec![0_u32; PLACES as usize];
        for place in 0..PLACES {
            turns.push(place, place % 3);
        }
        let mut longest = 0;
        for turn in 0..50_000 {
            // A few are always worth more than all others, and fall due again at once.
            let place = if u32::is_multiple_of(turn, LONGEST_DUE_EVERY) {
                turns.take_longest_due()
            } else {
                turns.take(512, |place| f64::from(u8::from(place < 6)))
            };
            let place = place.unwrap();
            for wait in &mut waits {
                *wait += 1;
            }
            longest = longest.max(std::mem::take(&mut waits[place as usize]));
            turns.push(place, place % 3);
        }
        assert!(longest <= 10 * PLACES, "{longest} turns");
        assert!(longest > 2 * PLACES, "the values count: {longest} turns");
    }

    #[test]
    fn callers_take_turns_however_much_they_have() {
        // Whichever comes first: the caller with five places, or the caller with all others.
        for few in [0..5, 995..1_000] {
            let mut turns = Turns::default();
            for place in 0..1_000 {
                turns.push(place, u32::from(few.contains(&place)));
            }
            let taken: Vec<u32> = (0..9).filter_map(|_| turns.take(512, |_| 1.0)).collect();
            let of_few = taken.iter().filter(|place| few.contains(place)).count();
            assert!((4..=5).contains(&of_few), "{taken:?}");
        }
    }

    #[test]
    fn the_worthiest_of_a_caller_comes_first() {
        let mut turns = Turns::default();
        for place in 0..100 {
            turns.push(place, 0);
        }
        let worth = |place: u32| f64::from((place * 37) % 101);
        let first = turns.take(512, worth).unwrap();
        let second = turns.take(512, worth).unwrap();
        assert!(worth(first) > worth(second));
        assert_eq!(worth(first), (0..100).map(worth).fold(0.0, f64::max));
    }

    #[test]
    fn what_is_removed_is_not_taken() {
        let mut turns = Turns::default();
        for place in 0..10 {
            turns.push(place, place % 2);
        }
        for place in (0..10).step_by(3) {
            assert!(turns.remove(place));
            assert!(!turns.remove(place));
        }
        let mut left = Vec::new();
        while let Some(place) = turns.take(512, f64::from) {
            left.push(place);
        }
        left.sort_unstable();
        assert_eq!(left, [1, 2, 4, 5, 7, 8]);
        assert!(turns.is_empty());
        assert_eq!(turns.take_longest_due(), None);
    }
}
