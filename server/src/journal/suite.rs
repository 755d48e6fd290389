//! The behaviours that every journal has: one set, run against each of them.
//!
//! `file` has the abilities that only a file has, `strain` the burdens that a file has to bear, `server`,
//! `outcome`, `loss`, `replicas`, `hints` and `upgrade` what only a server has and does, and `model` random histories.

mod agreement;
mod board;
pub mod bound;
mod budgets;
mod fences;
mod file;
mod guards;
mod health;
mod hints;
mod leases;
mod loss;
mod model;
mod open;
mod outcome;
mod reads;
mod replicas;
mod server;
mod shared;
mod strain;
mod texts;
mod upgrade;
pub mod values;

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tillwatch_cluster::Cluster;

use super::{
    Journal, LEASE_LASTS, Ownership,
    memory::{Chances, MemoryJournal, MemoryOwnership},
    sqlite::SqliteJournal,
};
use crate::clock::Clock;
use values::at;

/// A journal to test, with a way to make its commits fail.
pub struct Subject {
    pub journal: Arc<dyn Journal>,
    pub fail_writes: Box<dyn Fn(bool) + Send + Sync>,
    /// The file or database, kept for as long as it is used.
    _kept: Box<dyn Any + Send + Sync>,
}

/// Two openings of one store that processes can share, each with its view of the leases.
pub struct Shared {
    pub journals: [Arc<dyn Journal>; 2],
    pub ownerships: [Arc<dyn Ownership>; 2],
    /// Lets the store's clock go on by as long as a lease lasts.
    pub lapse: Box<dyn Fn() -> BoxFuture<'static, ()>>,
    /// The store's clock.
    pub clock: Clock,
    /// The database, kept for as long as it is used.
    _kept: Box<dyn Any>,
}

pub fn shared_memory() -> Shared {
    let store = MemoryJournal::new("epoch");
    let opened = |seed| {
        store.shared(Chances {
            seed,
            delay_max: Duration::from_millis(20),
            read_every: Duration::from_millis(100),
            hints_lost: 300,
            answers_lost: 0,
        })
    };
    let (first, second) = (opened(1), opened(2));
    let clock = Clock::simulated(at(0), 1);
    let ownership = |journal, name| MemoryOwnership::new(journal, &clock, name);
    Shared {
        ownerships: [
            Arc::new(ownership(&first, "first")),
            Arc::new(ownership(&second, "second")),
        ],
        journals: [Arc::new(first), Arc::new(second)],
        lapse: Box::new(|| Box::pin(tokio::time::sleep(LEASE_LASTS))),
        clock,
        _kept: Box::new(()),
    }
}

pub async fn shared_postgres() -> Shared {
    let database = Arc::new(Cluster::shared().database());
    let url = database.url();
    let first = server::open_shared(&url, 1).await.unwrap();
    let second = server::open_shared(&url, 2).await.unwrap();
    let aged = Arc::clone(&database);
    let lapse = move || -> BoxFuture<'static, ()> {
        let millis = LEASE_LASTS.as_millis();
        aged.run(&format!("UPDATE lease SET expires = expires - {millis}"));
        Box::pin(std::future::ready(()))
    };
    Shared {
        ownerships: [first.ownership(), second.ownership()],
        journals: [Arc::new(first), Arc::new(second)],
        lapse: Box::new(lapse),
        // The server is on this machine.
        clock: Clock::system(),
        _kept: Box::new(database),
    }
}

pub fn memory() -> Subject {
    let journal = Arc::new(MemoryJournal::new("epoch"));
    let faulty = Arc::clone(&journal);
    Subject {
        journal,
        fail_writes: Box::new(move |fail| faulty.fail_writes(fail)),
        _kept: Box::new(()),
    }
}

pub async fn sqlite() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let journal = SqliteJournal::open(&path, &Clock::simulated(at(0), 1))
        .await
        .unwrap();
    Subject {
        journal: Arc::new(journal),
        fail_writes: Box::new(move |fail| file::fail_commits(&path, fail)),
        _kept: Box::new(folder),
    }
}

pub async fn postgres() -> Subject {
    let database = Arc::new(Cluster::shared().database());
    let journal = server::open(&database.url(), 1).await.unwrap();
    let faulty = Arc::clone(&database);
    Subject {
        journal: Arc::new(journal),
        fail_writes: Box::new(move |fail| server::fail_commits(&faulty, fail)),
        _kept: Box::new(database),
    }
}

/// Waits for a condition that the machine, not the test, brings about.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::task::yield_now().await;
    }
}

/// Runs each behaviour against each journal, as a test of its own. Time is paused where it can be: a
/// journal's work on other threads must hold it still. A wait for a server's socket does not.
macro_rules! behaviours {
    ($($area:ident :: $behaviour:ident,)+) => {
        mod on_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $behaviour() {
                super::$area::$behaviour(super::memory()).await;
            })+
        }
        mod on_sqlite {
            $(#[tokio::test(start_paused = true)]
            async fn $behaviour() {
                super::$area::$behaviour(super::sqlite().await).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$area::$behaviour(super::postgres().await).await;
            })+
        }
    };
}

/// Runs each behaviour against each store that processes can share.
macro_rules! shared_behaviours {
    ($($area:ident :: $behaviour:ident,)+) => {
        mod on_shared_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $behaviour() {
                super::$area::$behaviour(super::shared_memory()).await;
            })+
        }
        mod on_shared_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$area::$behaviour(super::shared_postgres().await).await;
            })+
        }
    };
}

/// Runs each behaviour of budgets against each store that processes can share.
macro_rules! spending_behaviours {
    ($($behaviour:ident,)+) => {
        mod budgets_in_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $behaviour() {
                super::budgets::$behaviour(super::budgets::memory_spenders().await).await;
            })+
        }
        mod budgets_on_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::budgets::$behaviour(super::budgets::postgres_spenders().await).await;
            })+
        }
    };
}

/// Runs each behaviour of the board against each store that processes can share.
macro_rules! board_behaviours {
    ($($behaviour:ident,)+) => {
        mod board_in_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $behaviour() {
                super::board::$behaviour(super::board::memory_boards().await).await;
            })+
        }
        mod board_on_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::board::$behaviour(super::board::postgres_boards().await).await;
            })+
        }
    };
}

board_behaviours! {
    wishes_are_read_by_others_in_order_after_a_number_and_by_account,
    wishes_under_a_passed_mark_are_over_and_no_more_are_put,
    an_emptied_board_is_noticed_and_numbers_go_on,
    words_are_read_as_they_were_told_and_the_end_of_a_later_refresh_stays,
    snapshots_are_shown_for_half_a_minute_and_have_a_bound,
    what_nobody_needs_is_tidied_after_a_minute_and_nothing_else,
    no_wish_is_stepped_over_under_hammering,
}

spending_behaviours! {
    no_slot_is_given_twice_under_hammering,
    places_of_all_processes_never_exceed_the_most_under_hammering,
    a_lesson_of_one_process_is_heard_by_all_with_their_next_take,
    a_create_that_waits_anywhere_has_the_next_slot,
    places_of_a_process_that_is_gone_come_back,
}

shared_behaviours! {
    fences::fences_of_a_passed_take_are_refused_and_change_nothing,
    fences::fences_are_looked_at_before_any_other_guard,
    fences::fences_are_given_only_for_a_lease_that_is_as_it_was_seen,
    fences::fences_of_a_released_lease_are_passed,
    fences::fences_of_housekeeping_let_one_replica_retire,
    fences::fences_never_go_back_under_hammering,
    leases::leases_that_were_taken_since_are_not_taken,
    leases::leases_expire_by_the_stores_clock_unless_their_owner_renews_them,
    leases::leases_are_renewed_by_a_look_alone_that_names_them,
    leases::replicas_show_that_they_look_and_that_they_leave,
    leases::a_look_tells_the_stores_time,
    leases::replicas_show_the_limits_that_they_are_configured_with,
    shared::everybody_hears_everything_once_and_in_order_whoever_commits,
    shared::own_commits_are_heard_before_their_writers_and_others_soon,
    shared::others_commits_are_heard_with_their_buyer_actions,
    shared::transitions_that_are_gone_before_they_are_read_hold_nobody_up,
    shared::a_tail_ends_where_everything_was_heard_and_the_newest_is_the_stores,
}

behaviours! {
    bound::a_further_key_names_the_purchase_with_its_own_fingerprints,
    bound::a_further_key_and_its_purchase_live_as_long_as_a_key_from_its_binding_on,
    fences::fences_of_a_store_without_leases_are_all_zero,
    guards::a_purchase_that_was_begun_is_read_back_whole,
    guards::an_adopted_purchase_begins_with_two_transitions,
    guards::a_key_is_taken_once_per_caller,
    guards::a_reference_is_tracked_once_per_account,
    guards::keys_and_references_that_collide_within_a_group_are_given_once,
    guards::a_reference_that_was_left_is_free_again,
    guards::an_append_needs_the_newest_revision,
    guards::revisions_are_dense,
    guards::a_beginning_with_gaps_is_refused_and_changes_nothing,
    guards::nothing_is_appended_after_final,
    guards::one_of_many_rivals_wins_each_revision,
    guards::an_attempt_begins_and_ends,
    guards::a_change_needs_the_attempt_and_the_sends_that_it_rests_on,
    guards::one_of_many_rivals_begins_each_send,
    guards::a_note_is_kept,
    guards::a_stale_attention_does_not_move_the_change_time,
    guards::a_text_is_kept_by_its_key,
    reads::leaving_a_state_wipes_its_buyer_actions,
    reads::buyer_actions_are_wiped_up_to_a_revision,
    reads::lists_and_tails_have_no_buyer_actions,
    reads::a_tail_is_in_commit_order_and_resumes,
    reads::a_tail_of_one_caller_searches_through_those_of_others,
    reads::a_tail_shows_each_step_with_its_own_status,
    reads::a_tail_from_beyond_the_head_stays_there,
    reads::transitions_are_read_in_pages,
    reads::a_list_is_filtered_as_the_filter_says,
    reads::pages_neither_skip_nor_repeat_while_others_insert,
    reads::labels_are_searched_to_the_end,
    reads::a_page_looks_at_a_bounded_number_and_says_where_to_go_on,
    open::open_records_are_read_in_pages_without_finals,
    open::open_records_of_an_account_are_its_own,
    reads::a_final_purchase_becomes_a_remnant,
    reads::retention_is_bounded_by_rows,
    reads::a_remnant_keeps_its_key_and_frees_its_reference,
    reads::remnants_end_with_their_time,
    reads::what_ends_while_the_wall_clock_is_years_behind_is_kept_as_long_as_anything,
    reads::positions_are_not_given_again_after_retirement,
    health::observers_hear_in_commit_order_before_the_writer,
    health::an_observer_that_panics_stops_nobody,
    health::a_failing_commit_is_refused_and_turns_available_off,
    health::a_closed_journal_refuses,
    texts::a_reference_may_be_as_long_as_any_provider_s,
    texts::a_label_and_a_filter_may_have_any_character,
}
