//! The rules that hold for every provider, and the parts of each provider's own tests.

pub(super) mod fixture;
mod harmless;
pub(super) mod reading;
mod rules;
mod samples;
mod table;
mod told;
mod unread_id;
