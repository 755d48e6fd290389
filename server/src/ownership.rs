//! The accounts that this process owns. Nobody else asks their providers about their purchases, and what
//! it decides about them is committed under the fence of its take.
//!
//! A store of one process gives it all accounts, for as long as it lives. In a store that others share,
//! leases are renewed, judged by change, taken and given away, so that each living replica owns its share.

mod limits;
mod owner;
mod share;
mod sight;
mod tenure;

pub use limits::AccountLimits;
pub use owner::{Follower, Owner};
pub use tenure::{Tenure, Tenures};

#[cfg(test)]
mod tests;
