//! The contract suite: what every backend must do, as tests that a backend calls by name.
//!
//! `contract_tests!(fixture)` makes one test of each function here, where `fixture` is an async function that
//! gives a [`Fixture`] over an empty store. A backend that cannot be opened fails.

#![expect(
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "these are tests; panicking is their verdict"
)]

mod data;
mod faults;
mod listing;
mod small;

use std::any::Any;
use std::sync::Arc;

pub use data::*;
pub use faults::*;
pub use listing::*;
pub use small::*;

use crate::{Key, Store};

/// A store for one test, and what has to live as long.
#[derive(Debug)]
pub struct Fixture {
    /// The store, empty.
    pub store: Arc<dyn Store>,
    /// A temporary directory, a server process.
    pub keep: Box<dyn Any + Send>,
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// Makes a test of each rule of the contract for the backend that `$fixture` opens.
#[macro_export]
macro_rules! contract_tests {
    ($fixture:path) => {
        $crate::contract_tests! { @each $fixture;
            a_put_object_is_read_back_whole,
            an_unknown_object_is_not_found,
            of_racing_creations_exactly_one_wins,
            of_racing_replacements_of_one_version_exactly_one_wins,
            a_stale_version_replaces_nothing,
            a_deleted_object_is_replaced_by_no_version,
            deleting_twice_succeeds,
            a_folder_lists_in_byte_order,
            a_listing_starts_after_any_key,
            a_listing_is_of_a_folder_not_of_a_prefix,
            a_listing_tells_sizes,
            a_listing_of_thousands_is_complete,
            written_data_is_read_back_by_any_range,
            a_range_past_the_end_fails,
            an_empty_data_object_seals_at_zero,
            a_paused_writer_goes_on_where_it_stopped,
            bytes_after_a_checkpoint_are_dropped_by_a_resumed_writer,
            a_discarded_writer_leaves_nothing,
            a_discarded_state_leaves_nothing,
            a_lost_data_object_is_reported_when_it_is_resumed,
            a_write_that_fails_half_way_publishes_nothing,
            a_listing_page_that_fails_is_an_error_not_an_end,
            a_read_that_fails_is_an_error_not_an_end,
            a_lost_reply_to_a_creation_shows_the_callers_own_object,
            a_lost_reply_to_a_delete_is_repaired_by_repeating_it
        }
    };
    (@each $fixture:path; $($rule:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $rule() {
                let fixture = $fixture().await;
                $crate::contract::$rule(&fixture).await;
            }
        )*
    };
}
