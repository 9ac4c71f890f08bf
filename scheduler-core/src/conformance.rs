//! The cases that every implementation of a port must pass, and the macros that run them.
//!
//! Who writes a port runs its suite with one line in an integration test. The line names a function
//! that gives a fresh, empty [`Home`], and makes one test of each case:
//!
//! ```
//! # mod doc {
//! use std::sync::Arc;
//!
//! use scheduler_core::{Timestamp, conformance::Home, memory, port::TaskStore};
//!
//! struct Memory(memory::Store);
//!
//! #[async_trait::async_trait]
//! impl Home<dyn TaskStore> for Memory {
//!     async fn open(&self) -> Arc<dyn TaskStore> {
//!         Arc::new(self.0.clone())
//!     }
//! }
//!
//! async fn empty_store() -> Memory {
//!     let clock = memory::ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
//!     Memory(memory::Store::new(Arc::new(clock)))
//! }
//!
//! scheduler_core::task_store_conformance!(empty_store);
//! # }
//! ```
//!
//! The cases use real time and sleep nowhere; they take the port's clock to show any time after 2001.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case fails by a panic, as a test does"
)]

pub mod catalog;
pub mod log;
mod sample;
pub mod store;

use std::sync::Arc;

use async_trait::async_trait;

/// Where a port keeps what must last: made empty for one case, and opened as often as the case asks.
#[async_trait]
pub trait Home<Port: ?Sized>: Send + Sync {
    /// Opens the port as a process does that has just started. What was opened before is not used
    /// any more, and some of its calls may have been dropped half done.
    async fn open(&self) -> Arc<Port>;
}

/// Makes a test of each case of [`conformance::log`](crate::conformance::log).
///
/// Takes the path of an `async fn()` that gives an empty `Home<dyn TaskLog>`.
#[macro_export]
macro_rules! task_log_conformance {
    ($open:path) => {
        $crate::conformance_cases! { log, $open:
            appended_records_are_fetched_in_order,
            records_come_back_as_they_were_appended,
            one_call_appends_to_many_partitions,
            concurrent_appends_all_land_exactly_once,
            a_dropped_append_lands_at_most_once,
            a_waiting_fetch_is_woken_by_an_append,
            a_fetch_without_news_ends_after_its_wait,
            a_fetch_keeps_its_limits_and_reads_on,
            a_fetch_leaves_out_partitions_without_news,
            a_record_is_read_at_its_offset,
            many_records_are_read_at_their_offsets,
            bounds_follow_the_records,
            trimmed_records_are_gone_and_the_others_stay,
            a_fetch_from_below_the_start_is_lost,
            a_trim_beyond_the_end_forgets_no_later_record,
            ensuring_again_changes_nothing,
            a_log_removed_and_made_again_is_another_one,
            an_append_without_a_log_is_refused,
            a_closed_log_takes_nothing_and_its_bounds_are_final,
            a_closed_log_stays_closed_for_who_opens_it,
            whatever_was_accepted_while_it_was_closed_is_below_its_end,
            a_closed_log_is_still_read_and_trimmed,
            a_closed_log_is_removed_and_then_there_is_none_to_close,
            a_log_being_deleted_is_not_made,
            a_reopened_log_has_kept_everything,
            a_large_batch_is_kept_whole,
        }
    };
}

/// Makes a test of each case of [`conformance::store`](crate::conformance::store).
///
/// Takes the path of an `async fn()` that gives an empty `Home<dyn TaskStore>`.
#[macro_export]
macro_rules! task_store_conformance {
    ($open:path) => {
        $crate::conformance_cases! { store, $open:
            a_first_claim_starts_at_epoch_1_and_watermark_0,
            every_claim_raises_the_epoch,
            every_claim_after_a_reopen_raises_the_epoch,
            a_claim_answers_in_the_order_asked,
            the_newest_owner_of_each_shard_is_known,
            the_incarnation_of_the_first_claim_stays,
            running_tasks_come_back_from_a_claim,
            the_next_due_time_comes_back_from_a_claim,
            a_release_is_told_once_to_the_next_claim,
            a_release_under_a_stale_epoch_is_ignored,
            done_chunks_come_back_from_a_claim,
            chunks_below_the_watermark_are_forgotten,
            saved_tasks_are_read_back_in_every_state,
            everything_a_task_has_is_read_back,
            a_task_saved_again_replaces_what_was_saved_before,
            forgotten_tasks_are_gone,
            a_stale_epoch_is_fenced_and_changes_nothing,
            a_shard_never_claimed_is_fenced,
            a_fenced_part_leaves_the_others_alone,
            a_repeated_part_is_saved_but_not_applied_again,
            a_flush_dropped_at_any_point_is_saved_whole_or_not_at_all,
            many_shards_flush_at_once,
            a_large_flush_is_saved_whole,
            due_tasks_are_paged_in_order_of_due_time_and_offset,
            due_keeps_to_its_byte_limit,
            due_tells_when_the_next_is_due,
            tasks_that_are_not_parked_are_not_due,
            tasks_due_at_the_epoch_are_due_first,
            tasks_of_a_key_are_paged_by_offset,
            tasks_of_a_key_that_have_ended_or_are_to_come_are_not_found,
            a_claim_tells_whether_tasks_with_a_key_are_stored,
            bulk_cancels_come_back_from_a_claim,
            bulk_cancels_are_replaced_by_those_of_a_later_part,
            bulk_cancels_of_a_stale_epoch_are_fenced,
            a_list_is_newest_first_and_paged_by_offset,
            a_list_is_cut_by_bytes, a_list_keeps_to_its_states_and_time,
            keys_are_found_until_their_time_is_over,
            ended_tasks_are_found_until_their_time_is_over,
            lookups_answer_in_the_order_asked,
            shards_do_not_see_each_other,
            a_forgotten_pipeline_leaves_nothing_and_touches_no_other,
        }
    };
}

/// Makes a test of each case of [`conformance::catalog`](crate::conformance::catalog).
///
/// Takes the path of an `async fn()` that gives an empty `Home<dyn Catalog>`.
#[macro_export]
macro_rules! catalog_conformance {
    ($open:path) => {
        $crate::conformance_cases! { catalog, $open:
            an_empty_catalogue_is_empty,
            a_created_application_is_in_the_snapshot,
            a_created_pipeline_is_in_the_snapshot_as_it_was_given,
            a_pipeline_brings_its_application,
            what_exists_is_not_created_again,
            what_is_missing_is_neither_changed_nor_deleted,
            an_application_with_pipelines_is_not_deleted,
            an_update_under_a_stale_revision_changes_nothing,
            an_update_raises_the_revision_and_keeps_number_and_partitions,
            a_delete_with_another_number_deletes_nothing,
            a_mode_is_kept_as_it_was_set,
            a_mode_leaves_the_spec_and_an_update_the_mode,
            a_mode_of_another_number_changes_nothing,
            there_is_no_way_back_from_deleting,
            numbers_are_never_given_again,
            tenants_with_equal_names_are_kept_apart,
            the_version_grows_with_every_change_and_only_then,
            a_change_wakes_who_waits_for_it,
            concurrent_creations_of_one_pipeline_make_one,
            a_reopened_catalogue_has_kept_everything,
        }
    };
}

/// Makes the tests of a list of cases; the suites' macros use it.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($suite:ident, $open:path: $($case:ident),+ $(,)?) => {$(
        #[tokio::test]
        async fn $case() {
            let home = $open().await;
            $crate::conformance::$suite::$case(&home).await;
        }
    )+};
}
