//! The `tillwatch` command: the purchase service from a terminal or a script.

mod cli;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser as _;

use crate::cli::{Args, Ended, Output};

fn main() -> ExitCode {
    let args = Args::parse();
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let terminal = out.is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    let mut output = Output {
        out: &mut out,
        err: &mut err,
        json: args.json(),
        terminal: terminal && !dumb,
        color: terminal && !dumb && !no_color,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let follows = args.follows();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(cli::run(args, &mut output)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(ended) => ended.code().into(),
        // The exit code tells a purchase's end, and this one has not ended yet.
        Err(failure) if failure.is_closed_pipe() && follows => Ended::Unread.code().into(),
        // The reader of the output has seen enough.
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // If standard error is gone as well, only the exit code is left to say it.
            let _ = write!(err, "{}", failure.report());
            failure.code().into()
        }
    }
}
