//! The `tillwatch-sandbox` command.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tillwatch_sandbox::{Options, PROVIDERS, Sandbox};
use tokio::signal::unix::{SignalKind, signal};

/// Bad arguments, as `sysexits.h` numbers them.
const EXIT_USAGE: u8 = 64;

/// Five payment providers, simulated over HTTP for trying and for tests.
#[derive(Debug, Parser)]
#[command(name = "tillwatch-sandbox", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the providers until SIGTERM or Ctrl-C.
    Serve(Serve),
}

#[derive(Debug, Args)]
struct Serve {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:4010")]
    listen: SocketAddr,
    /// Listen beyond this machine, although any credential is accepted.
    #[arg(long)]
    expose: bool,
    /// How many times faster than written purchases live, 0.001 to 10000.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// What ids and random errors follow from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Creates per window and key at Phygitals, 0 for no limit (the real one: 1).
    #[arg(long, default_value_t = 0)]
    phygitals_creates: u32,
    /// Requests per window and client key at Devdraft, 0 for no limit.
    #[arg(long, default_value_t = 100)]
    devdraft_calls: u32,
    /// Length of those windows in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    rate_window: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let result = match cli.command {
        Command::Serve(arguments) => serve(arguments).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the command's own output")]
fn complain(error: &io::Error) -> ExitCode {
    eprintln!("tillwatch-sandbox: {error}");
    match error.kind() {
        io::ErrorKind::InvalidInput => ExitCode::from(EXIT_USAGE),
        _ => ExitCode::FAILURE,
    }
}

#[expect(clippy::print_stdout, reason = "the command's own output")]
async fn serve(arguments: Serve) -> io::Result<()> {
    // Before the first connection, so that no signal finds the default handler.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sandbox = Sandbox::start(Options {
        listen: arguments.listen,
        expose: arguments.expose,
        speed: arguments.speed,
        seed: arguments.seed,
        rate_window: Duration::from_secs(arguments.rate_window),
        phygitals_creates_per_window: arguments.phygitals_creates,
        devdraft_calls_per_window: arguments.devdraft_calls,
        ..Options::default()
    })
    .await?;
    for provider in PROVIDERS {
        println!("{provider:<10} {}", sandbox.base_url(provider));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    sandbox.stop().await;
    Ok(())
}
