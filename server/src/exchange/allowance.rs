//! Pure: the purchases that may pass in one direction now.

use crate::{journal::BOARD_ROWS_MAX, purchase::Moment};

/// So many in a second, and in a call. The rest waits.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// The number that has passed since `since`.
    spent: usize,
    since: Option<Moment>,
}

impl Allowance {
    /// The number that may pass now.
    pub(super) fn left(&mut self, now: Moment) -> usize {
        let is_over = |since: Moment| now.since(since).as_secs() >= 1;
        if self.since.is_none_or(is_over) {
            *self = Self {
                spent: 0,
                since: Some(now),
            };
        }
        BOARD_ROWS_MAX - self.spent
    }

    /// So many pass now.
    pub(super) fn spend(&mut self, passed: usize) {
        self.spent = (self.spent + passed).min(BOARD_ROWS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_in_a_second_and_no_more() {
        let mut allowance = Allowance::default();
        let at = Moment::from_millis;
        assert_eq!(allowance.left(at(10)), BOARD_ROWS_MAX);
        allowance.spend(BOARD_ROWS_MAX - 1);
        assert_eq!(allowance.left(at(1_009)), 1);
        allowance.spend(7);
        assert_eq!(allowance.left(at(1_009)), 0);
        assert_eq!(allowance.left(at(1_010)), BOARD_ROWS_MAX);
    }
}
