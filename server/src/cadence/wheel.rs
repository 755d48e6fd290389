//! Pure: when which place is due: a hierarchical timing wheel (Varghese and Lauck, 1987), so that
//! arming, firing and cancelling cost the same with one as with a million.
//!
//! Seven levels of 64 slots. A slot of the lowest level is one tick wide, one of the next 64, and so
//! on; a place goes to the lowest level whose turn it shares with the present, and moves down when
//! its slot comes, at most six times in its life. Places of one slot are linked through their nodes,
//! and a bitmap per level finds the next slot that is not empty.

use super::shelf::Shelf;
use crate::purchase::Moment;

/// The width of a tick, in milliseconds: how much later than wanted a place may be due.
pub const TICK_MS: i64 = 16;
/// Levels: seven reach more than two thousand years.
const LEVELS: usize = 7;
/// Bits of a slot's number within its level.
const SLOT_BITS: u32 = 6;
/// Slots of a level.
const SLOTS: usize = 1 << SLOT_BITS;
/// The list of places that are due already, after all slots.
const DUE: u16 = (LEVELS * SLOTS) as u16;
/// The list of a place that is not armed.
const NOWHERE: u16 = u16::MAX;
/// No place.
const NONE: u32 = u32::MAX;
/// The last tick: what is later waits there.
const LAST_TICK: u64 = (1 << (SLOT_BITS as usize * LEVELS)) - 1;

/// One place's timer: 24 bytes.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// The tick at which it is due.
    tick: u64,
    /// The neighbours in its list.
    next: u32,
    previous: u32,
    /// Its list.
    list: u16,
}

const IDLE: Node = Node {
    tick: 0,
    next: NONE,
    previous: NONE,
    list: NOWHERE,
};

/// Timers by place: small numbers that whoever owns the wheel gives out.
#[derive(Debug)]
pub struct Wheel {
    nodes: Shelf<Node>,
    /// The first place of each list: all slots, then those that are due.
    heads: Vec<u32>,
    /// The slots of each level that are not empty.
    occupied: [u64; LEVELS],
    /// The tick up to which everything has been taken.
    elapsed: u64,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            nodes: Shelf::default(),
            heads: vec![NONE; LEVELS * SLOTS + 1],
            occupied: [0; LEVELS],
            elapsed: 0,
        }
    }
}

impl Wheel {
    /// Arms a place; one that is armed already is due at the new time alone.
    pub fn arm(&mut self, place: u32, due: Moment) {
        self.cancel(place);
        self.nodes.reach(place, IDLE);
        // Rounded up: nothing is early.
        let tick = due
            .as_millis()
            .saturating_add(TICK_MS - 1)
            .div_euclid(TICK_MS);
        let tick = u64::try_from(tick).unwrap_or(0).min(LAST_TICK);
        self.link(place, tick);
    }

    /// Disarms a place.
    pub fn cancel(&mut self, place: u32) {
        let Some(node) = self.nodes.get(place).copied() else {
            return;
        };
        if node.list == NOWHERE {
            return;
        }
        match self.nodes.get_mut(node.previous) {
            Some(previous) => previous.next = node.next,
            None => self.set_head(node.list, node.next),
        }
        if let Some(next) = self.nodes.get_mut(node.next) {
            next.previous = node.previous;
        }
        if let Some(node) = self.nodes.get_mut(place) {
            *node = IDLE;
        }
    }

    /// Says whether a place is armed.
    pub fn is_armed(&self, place: u32) -> bool {
        (self.nodes.get(place)).is_some_and(|node| node.list != NOWHERE)
    }

    /// Disarms every place that is due by `now`, and hands it over.
    pub fn take(&mut self, now: Moment, mut due: impl FnMut(u32)) {
        let now = u64::try_from(now.as_millis().div_euclid(TICK_MS)).unwrap_or(0);
        loop {
            self.drain(DUE, |_, place| due(place));
            match self.next_slot() {
                Some((list, tick)) if tick <= now => {
                    self.elapsed = tick;
                    // The places of this tick join those that are due; the rest moves down.
                    self.drain(list, |wheel, place| {
                        let tick = wheel.nodes.get(place).map_or(0, |node| node.tick);
                        wheel.link(place, tick);
                    });
                }
                Some(_) | None => break,
            }
        }
        self.elapsed = self.elapsed.max(now.min(LAST_TICK));
    }

    /// When to take again: at the time of the next place that is due, or before.
    pub fn next(&self) -> Option<Moment> {
        let tick = if self.head(DUE) == NONE {
            self.next_slot()?.1
        } else {
            self.elapsed
        };
        let millis = i64::try_from(tick).ok()?.checked_mul(TICK_MS)?;
        Some(Moment::from_millis(millis))
    }

    /// Hands over all places of a list, which are disarmed when they are.
    fn drain(&mut self, list: u16, mut each: impl FnMut(&mut Self, u32)) {
        let mut place = self.head(list);
        self.set_head(list, NONE);
        while let Some(node) = self.nodes.get_mut(place) {
            let next = node.next;
            *node = Node {
                tick: node.tick,
                ..IDLE
            };
            each(self, place);
            place = next;
        }
    }

    /// Puts a place that is in no list into the one of its tick.
    fn link(&mut self, place: u32, tick: u64) {
        let list = self.list_of(tick);
        let next = self.head(list);
        if let Some(node) = self.nodes.get_mut(place) {
            *node = Node {
                tick,
                next,
                previous: NONE,
                list,
            };
        }
        if let Some(next) = self.nodes.get_mut(next) {
            next.previous = place;
        }
        self.set_head(list, place);
    }

    fn list_of(&self, tick: u64) -> u16 {
        if tick <= self.elapsed {
            return DUE;
        }
        // The highest group of bits in which it differs from the present.
        let level = (tick ^ self.elapsed).ilog2() / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) % SLOTS as u64;
        u16::try_from(u64::from(level) * SLOTS as u64 + slot).unwrap_or(DUE)
    }

    /// The next slot that is not empty, and the tick at which it comes. Slots of a lower level come
    /// before those of a higher.
    fn next_slot(&self) -> Option<(u16, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = u64::from(self.occupied.get(level)?.trailing_zeros());
        let shift = u32::try_from(level).ok()? * SLOT_BITS;
        let turn = self.elapsed >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        let list = u16::try_from(level * SLOTS).ok()? + u16::try_from(slot).ok()?;
        Some((list, turn + (slot << shift)))
    }

    fn head(&self, list: u16) -> u32 {
        self.heads.get(usize::from(list)).copied().unwrap_or(NONE)
    }

    fn set_head(&mut self, list: u16, place: u32) {
        let list = usize::from(list);
        if let Some(head) = self.heads.get_mut(list) {
            *head = place;
        }
        if let Some(occupied) = self.occupied.get_mut(list / SLOTS) {
            let bit = 1 << (list % SLOTS);
            if place == NONE {
                *occupied &= !bit;
            } else {
                *occupied |= bit;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn at(millis: i64) -> Moment {
        Moment::from_millis(1_800_000_000_000 + millis)
    }

    fn taken(wheel: &mut Wheel, now: Moment) -> Vec<u32> {
        let mut places = Vec::new();
        wheel.take(now, |place| places.push(place));
        places.sort_unstable();
        places
    }

    #[test]
    fn a_timer_is_24_bytes() {
        assert_eq!(size_of::<Node>(), 24);
    }

    #[test]
    fn places_are_due_when_their_time_has_passed_and_never_before() {
        let mut wheel = Wheel::default();
        for (place, millis) in [(1, 0), (2, 1), (3, 50), (4, 1_000)] {
            wheel.arm(place, at(millis));
        }
        assert_eq!(taken(&mut wheel, at(0)), [1]);
        assert_eq!(taken(&mut wheel, at(16)), [2]);
        assert_eq!(taken(&mut wheel, at(49)), [] as [u32; 0]);
        assert_eq!(wheel.next(), Some(at(64)));
        assert_eq!(taken(&mut wheel, at(64)), [3]);
        wheel.cancel(4);
        assert_eq!(wheel.next(), None);
        assert_eq!(taken(&mut wheel, at(5_000)), [] as [u32; 0]);
        wheel.arm(4, at(10));
        assert!(wheel.is_armed(4));
        assert_eq!(taken(&mut wheel, at(5_000)), [4], "a time long past");
    }

    /// Against a sorted map, over spans from a millisecond to years.
    #[test]
    fn it_agrees_with_a_sorted_map() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut wheel, mut model) = (Wheel::default(), BTreeMap::new());
        let mut now = 0;
        for _ in 0..20_000 {
            let place = random.random_range(0..300_u32);
            let bits = random.random_range(1..38);
            let ahead = random.random_range(0..1_i64 << bits);
            match random.random_range(0..4) {
                0 | 1 => {
                    wheel.arm(place, at(now + ahead));
                    model.insert(place, now + ahead);
                }
                2 => {
                    wheel.cancel(place);
                    model.remove(&place);
                }
                _ => {
                    now += ahead / 64;
                    // A place that is late by less than a tick may be taken or not; so now is a whole tick.
                    now -= now % TICK_MS;
                    let due: Vec<u32> = (model.iter())
                        .filter(|(_, due)| **due <= now)
                        .map(|(place, _)| *place)
                        .collect();
                    assert_eq!(taken(&mut wheel, at(now)), due);
                    model.retain(|_, due| *due > now);
                    let first = model.values().min().map(|due| at(due + TICK_MS - 1));
                    assert!(wheel.next() <= first, "it wakes in time");
                    assert_eq!(wheel.next().is_none(), first.is_none());
                }
            }
        }
    }
}
