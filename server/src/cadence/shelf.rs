//! A growing list whose growth neither copies nor reserves much: what doubles when it is full can
//! hold twice the memory that it uses.

/// The number of values that one board holds.
const BOARD: usize = 1024;

/// Values by place, on boards of equal length.
#[derive(Debug)]
pub struct Shelf<T>(Vec<Vec<T>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Shelf<T> {
    /// The value at a place.
    pub fn get(&self, place: u32) -> Option<&T> {
        let place = usize::try_from(place).ok()?;
        self.0.get(place / BOARD)?.get(place % BOARD)
    }

    /// The value at a place, to change.
    pub fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let place = usize::try_from(place).ok()?;
        self.0.get_mut(place / BOARD)?.get_mut(place % BOARD)
    }

    /// Puts a value behind all others, and returns its place; `None` if four billion are there.
    pub fn push(&mut self, value: T) -> Option<u32> {
        let place = u32::try_from(self.len()).ok()?;
        if self.0.last().is_none_or(|board| board.len() == BOARD) {
            self.0.push(Vec::with_capacity(BOARD));
        }
        self.0.last_mut()?.push(value);
        Some(place)
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        let last = self.0.last().map_or(0, Vec::len);
        self.0.len().saturating_sub(1) * BOARD + last
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes a place exist, filled up with a value's copies.
    pub fn reach(&mut self, place: u32, value: T)
    where
        T: Copy,
    {
        while usize::try_from(place).is_ok_and(|place| self.len() <= place) {
            self.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_where_they_were_put() {
        let mut shelf = Shelf::default();
        for value in 0..3_000_u32 {
            assert_eq!(shelf.push(value), Some(value));
        }
        assert_eq!(shelf.len(), 3_000);
        for place in [0, 1_023, 1_024, 2_999] {
            assert_eq!(shelf.get(place), Some(&place));
        }
        assert_eq!(shelf.get(3_000), None);
        shelf.reach(5_000, 7);
        assert_eq!((shelf.len(), shelf.get(5_000)), (5_001, Some(&7)));
    }
}
