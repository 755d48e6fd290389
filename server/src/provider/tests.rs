//! All providers against what holds for each of them, and the parts of their own tests.

pub(super) mod fixture;
mod harmless;
pub(super) mod reading;
mod rules;
mod samples;
mod table;
mod told;
mod unread_id;
