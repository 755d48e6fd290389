//! The command line's parts: its arguments, its commands and their output.
//!
//! Everything is written to the writers of an [`Output`]; `main` alone owns the real ones.

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
