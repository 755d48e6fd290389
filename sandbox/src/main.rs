//! The `tillwatch-sandbox` command.

mod demo;

use std::{
    env,
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use tillwatch_sandbox::{Options, PROVIDERS, Sandbox, Scenario};
use tokio::signal::unix::{SignalKind, signal};

use crate::demo::{Page, SCENARIOS, Stop, Wish};

/// Bad arguments, as `sysexits.h` numbers them.
const EXIT_USAGE: u8 = 64;

/// The address at which clients look for a server by default, and any free port.
const USUAL: &str = "127.0.0.1:50051";
const ANY: &str = "127.0.0.1:0";
/// The longest delay of the exit by a reader of the log that hangs.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Create a purchase at each provider through a Tillwatch server, and watch all five to their end.
    Demo(Demo),
}

#[derive(Debug, Args)]
struct Serve {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:4010")]
    listen: SocketAddr,
    /// Listen beyond this machine, although any credential is accepted.
    #[arg(long)]
    expose: bool,
    /// The speed of purchases' lives: 2 is twice as fast as written; 0.001 to 10000.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// The seed of ids and random errors.
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

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:
  0    all five purchases reached their end, and nothing was lost
  1    something was lost, as the output says, or the demo could not start
  64   the command line is wrong
  130  interrupted (Ctrl-C) before the end; 143 terminated")]
struct Demo {
    /// The server's address on this machine. Without it: 127.0.0.1:50051, or any free port if that
    /// is taken.
    #[arg(long, value_parser = loopback)]
    listen: Option<SocketAddr>,
    /// The speed of purchases' lives: 2 is twice as fast as written; 0.001 to 10000.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// The scenario of all five purchases. Without it: three are paid, one refunded, one reviewed.
    #[arg(long, value_parser = scenario)]
    scenario: Option<Scenario>,
    /// Several processes of the server on one PostgreSQL database, of which the demo kills one in the
    /// middle: 2 to 9.
    #[arg(long, requires = "store", value_parser = clap::value_parser!(u8).range(2..=9))]
    replicas: Option<u8>,
    /// Their database, such as postgres://user@127.0.0.1/tillwatch: one for trying, that nobody else uses. The
    /// purchases stay in it.
    #[arg(long, requires = "replicas", value_parser = postgresql)]
    store: Option<String>,
    /// Go on serving after the demo, until Ctrl-C, for grpcurl and the tillwatch command.
    #[arg(long)]
    keep: bool,
}

/// The demo's caller needs no token, so nobody else may reach it.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: Option<SocketAddr> = text.parse().ok();
    let address = address.filter(|address| address.ip().is_loopback());
    address.ok_or_else(|| "expected a loopback address such as 127.0.0.1:50051".to_owned())
}

/// The server's own settings say what else is wrong with a URL.
fn postgresql(text: &str) -> Result<String, String> {
    match text.starts_with("postgres://") || text.starts_with("postgresql://") {
        true => Ok(text.to_owned()),
        false => Err("expected a URL that begins with postgres://".to_owned()),
    }
}

fn scenario(name: &str) -> Result<Scenario, String> {
    let named = Scenario::named(name).filter(|scenario| SCENARIOS.contains(scenario));
    named.ok_or_else(|| {
        let names = SCENARIOS.map(Scenario::name).join(", ");
        format!("must be a scenario that ends at every provider: {names}")
    })
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
    let done = match cli.command {
        Command::Serve(arguments) => serve(arguments).await.map(|()| ExitCode::SUCCESS),
        Command::Demo(arguments) => demo(arguments).await,
    };
    done.unwrap_or_else(|error| complain(error.as_ref()))
}

/// Tells an error with its causes, and answers its exit code.
fn complain(error: &(dyn Error + 'static)) -> ExitCode {
    let mut text = "tillwatch-sandbox".to_owned();
    let mut code = ExitCode::FAILURE;
    let mut cause = Some(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::InvalidInput)
        {
            code = ExitCode::from(EXIT_USAGE);
        }
        cause = error.source();
    }
    // If standard error is gone as well, the exit code alone is left to say it.
    let _ = writeln!(io::stderr(), "{text}");
    code
}

#[expect(clippy::print_stdout, reason = "the command's own output")]
async fn serve(arguments: Serve) -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
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

async fn demo(arguments: Demo) -> Result<ExitCode, Box<dyn Error>> {
    let (log, ..) = tillwatch_server::telemetry::init("warn", false, None)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => Stop::Terminate,
            _ = interrupt.recv() => Stop::Interrupt,
        }
    };
    let mut out = io::stdout();
    let color = is_colorful(&out);
    let options = demo::Options {
        listen: match arguments.listen {
            Some(address) => vec![address.to_string()],
            None => vec![USUAL.to_owned(), ANY.to_owned()],
        },
        speed: arguments.speed,
        scenario: arguments.scenario,
        replicas: arguments
            .replicas
            .zip(arguments.store)
            .map(|(count, store)| Wish {
                count: count.into(),
                store,
            }),
        keep: arguments.keep,
        command: tillwatch_command(),
    };
    let ended = demo::run(&options, &mut Page::new(&mut out, color), stop).await;
    // Lines that are left are lost with their reader.
    let _ = log.finish(LOG_TIMEOUT);
    let ended = ended?;
    Ok(ExitCode::from(ended.code()))
}

fn is_colorful(out: &io::Stdout) -> bool {
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
    out.is_terminal() && !no_color && !dumb
}

/// The call of the `tillwatch` command from here: if it lies beside this executable, by its path,
/// under cargo by cargo, and else by its name.
fn tillwatch_command() -> String {
    let beside = env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("tillwatch")))
        .filter(|path| path.is_file());
    if let Some(path) = beside {
        let here = env::current_dir().unwrap_or_default();
        let short: &Path = path.strip_prefix(here).unwrap_or(&path);
        return short.display().to_string();
    }
    match env::var_os("CARGO") {
        Some(_) if cfg!(debug_assertions) => "cargo run --bin tillwatch --".to_owned(),
        Some(_) => "cargo run --release --bin tillwatch --".to_owned(),
        None => "tillwatch".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_names_what_can_be_chosen() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for line in [
            "x demo",
            "x demo --keep --speed 5 --scenario disputed --listen 127.0.0.1:0",
            "x demo --replicas 3 --store postgres://u@127.0.0.1/d",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for (line, rule) in [
            ("x demo --replicas 3", "--store"),
            ("x demo --store postgres://u@127.0.0.1/d", "--replicas"),
            (
                "x demo --replicas 1 --store postgres://u@127.0.0.1/d",
                "2..=9",
            ),
            ("x demo --replicas 3 --store sqlite:a", "postgres://"),
        ] {
            let refused = parse(line).unwrap_err().to_string();
            assert!(refused.contains(rule), "{line}: {refused}");
        }
        let abroad = parse("x demo --listen 0.0.0.0:50051").unwrap_err();
        assert!(abroad.to_string().contains("loopback"), "{abroad}");
        let endless = parse("x demo --scenario stuck").unwrap_err();
        let told = endless.to_string();
        assert!(told.contains("paid, declined, refunded"), "{told}");
        let readme = include_str!("../README.md");
        for scenario in SCENARIOS {
            assert!(readme.contains(&format!("`{}`", scenario.name())));
        }
    }
}
