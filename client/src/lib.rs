//! Client library of Tillwatch: one purchase service in front of many payment providers.
//!
//! [`Client`] creates purchases with safe repeats and follows them with streams that resume by
//! themselves, exactly once per revision. [`timeline`] turns a stream's events into lines for
//! people, and [`json`] turns contract messages into proto JSON and back.
//!
//! ```no_run
//! # async fn example() -> Result<(), tillwatch::Error> {
//! use tillwatch::{Client, Config, WatchEvent, WatchOptions};
//!
//! let client = Client::connect(Config::new("127.0.0.1:50051"))?;
//! let mut watch = client.watch("pur_0123", WatchOptions::default());
//! while let Some(event) = watch.next().await {
//!     if let WatchEvent::Transition(transition) = event? {
//!         // Store `transition.status.revision` together with its effect.
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod backoff;
mod calls;
mod client;
mod config;
mod create;
mod error;
mod feed;
mod follow;
mod gateway;
pub mod json;
mod pages;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;
pub mod timeline;
mod watch;

pub use client::Client;
pub use config::{Config, SecretToken, TlsIdentity};
pub use error::{Error, Refusal, Violation};
pub use feed::{Feed, FeedEvent, FeedOptions, FeedStart};
pub use pages::Pages;
pub use tillwatch_proto as proto;
pub use watch::{Watch, WatchEvent, WatchOptions};
