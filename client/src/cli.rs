//! The command line's parts: its arguments, its commands and their output.
//!
//! They write to the writers of an [`Output`] alone. Only `main` owns the real ones.

mod args;
mod commands;
mod details;
mod failure;
mod live;
mod output;
mod table;

pub(crate) use args::Args;
pub(crate) use commands::run;
pub(crate) use failure::Ended;
pub(crate) use output::Output;
