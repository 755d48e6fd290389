//! The `tillwatch-server` command: reads the settings, chooses the runtime and waits for signals.
//!
//! This is the only place that prints. Exit code 64 means a wrong command line or a bad
//! configuration, 1 a failed start or backup, or a journal that another process has taken over or that has lost commits.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    error::Error,
    future::Future,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, OnceLock},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
#[cfg(debug_assertions)]
use tillwatch_server::failpoint::{Failpoint, StandStill};
use tillwatch_server::{
    Ended, ProbeError, Reload, Supervisor,
    clock::Clock,
    config::{Config, ConfigError, Database, LogFormat},
    identity,
    journal::Loss,
    telemetry,
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};

/// Bad usage or configuration (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;
/// Cores up to which one thread does more than several: measured, a second worker costs 64 % more
/// per unary call and twice as much per pushed message.
const CORES_FOR_ONE_THREAD: usize = 2;
/// The longest delay of the exit by a task that still blocks a thread.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest delay of the exit by a collector of traces, if the drain has left so much time.
const TRACES_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest delay of the exit by a reader of the log that hangs.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// Creates purchases at payment providers and pushes their normalised status.
#[derive(Debug, Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Serves until SIGTERM or SIGINT, then drains.
    Serve(Settings),
    /// Checks the settings, prints errors and warnings, and exits.
    CheckConfig {
        #[command(flatten)]
        settings: Settings,
        /// Prints the settings in effect as TOML, without secrets; warnings go to standard error.
        #[arg(long)]
        print: bool,
    },
    /// Copies the journal and its fingerprint keys into a directory, also while a server runs.
    Backup {
        #[command(flatten)]
        settings: Settings,
        /// The directory to copy to; made if it does not exist. No file in it is overwritten.
        directory: PathBuf,
    },
    /// Moves the journal to another store, or goes on with a move that was cut off. No server may run on
    /// either of them. From then on the old store refuses to serve.
    Migrate {
        /// The store: sqlite:FILE or postgres://USER:PASSWORD@HOST:PORT/DATABASE. Others on this machine can
        /// read it in the list of processes.
        #[arg(long, value_name = "URL", required_unless_present = "from_file")]
        from: Option<String>,
        /// The file that holds the URL.
        #[arg(long, value_name = "FILE", conflicts_with = "from")]
        from_file: Option<PathBuf>,
        /// The new store, as `--from`.
        #[arg(long, value_name = "URL", required_unless_present = "to_file")]
        to: Option<String>,
        /// The file that holds its URL.
        #[arg(long, value_name = "FILE", conflicts_with = "to")]
        to_file: Option<PathBuf>,
    },
    /// Asks a running server for its health, in plain text, and exits with 0 if it serves.
    Health {
        /// The server's `listen.ops`, or another listener without TLS: host:port or unix:/path.
        #[arg(long, default_value = "127.0.0.1:9464")]
        address: String,
        /// The service to ask for; without one it is readiness.
        #[arg(default_value = "")]
        service: String,
    },
    /// Makes a token for a caller, and the SHA-256 that goes into the settings.
    Token,
}

#[derive(Debug, Args)]
struct Settings {
    /// The settings' TOML file. Without it the settings come from the environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The moment of a submit at which the process dies: for tests, and in debug builds alone.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "POINT", value_parser = failpoint)]
    failpoint: Option<Failpoint>,
    /// The loop that stands still from a SIGUSR1 on: for tests, and in debug builds alone.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "LOOP")]
    stand_still: Option<String>,
}

#[cfg(debug_assertions)]
fn failpoint(name: &str) -> Result<Failpoint, &'static str> {
    Failpoint::named(name).ok_or("no such point")
}

/// The failure of a command.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("bad configuration")]
    Config(#[source] ConfigError),
    #[error("the backup failed")]
    Backup(#[source] Box<dyn Error + Send + Sync>),
    #[error("{0} {1}")]
    Url(&'static str, String),
    #[error("the journal was not moved")]
    Migrate(#[source] Box<dyn Error + Send + Sync>),
    #[error("could not start")]
    Start(#[source] Box<dyn Error + Send + Sync>),
    #[error("{0}")]
    JournalLost(Loss),
    #[error("not healthy")]
    Health(#[source] ProbeError),
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => {
            let _ = error.print();
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            return ExitCode::from(code);
        }
    };
    let done = match command.action {
        Action::Serve(settings) => {
            #[cfg(debug_assertions)]
            settings.failpoint.inspect(|point| point.arm());
            serve(&settings)
        }
        Action::CheckConfig { settings, print } => check_config(settings.config.as_deref(), print),
        Action::Backup {
            settings,
            directory,
        } => backup(settings.config.as_deref(), &directory),
        Action::Migrate {
            from,
            from_file,
            to,
            to_file,
        } => migrate((from, from_file), (to, to_file)),
        Action::Health { address, service } => health(&address, &service),
        Action::Token => token(),
    };
    let Err(failure) = done else {
        return ExitCode::SUCCESS;
    };
    let mut cause: Option<&dyn Error> = Some(&failure);
    while let Some(error) = cause {
        let _ = writeln!(io::stderr(), "{error}");
        cause = error.source();
    }
    match failure {
        Failure::Config(_) | Failure::Url(..) => ExitCode::from(EXIT_USAGE),
        Failure::Backup(_)
        | Failure::Migrate(_)
        | Failure::Start(_)
        | Failure::JournalLost(_)
        | Failure::Health(_) => ExitCode::FAILURE,
    }
}

fn load(file: Option<&Path>) -> Result<Config, Failure> {
    read(file).map_err(Failure::Config)
}

fn read(file: Option<&Path>) -> Result<Config, ConfigError> {
    // If a variable is not Unicode, it is not ours, or its replacement characters are refused.
    let variables = env::vars_os().map(|(name, value)| {
        let text = |raw: std::ffi::OsString| raw.to_string_lossy().into_owned();
        (text(name), text(value))
    });
    Config::load(file, variables)
}

fn check_config(file: Option<&Path>, prints: bool) -> Result<(), Failure> {
    let config = load(file)?;
    let warnings = config.warnings().iter();
    let warnings: String = warnings
        .map(|warning| format!("warning: {warning}\n"))
        .collect();
    if !prints {
        return print(&format!("{warnings}the configuration can be used\n"));
    }
    let _ = io::stderr().write_all(warnings.as_bytes());
    print(&config.print())
}

fn backup(file: Option<&Path>, directory: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    let written = tillwatch_server::back_up(&config, directory)
        .map_err(|error| Failure::Backup(error.into()))?;
    let lines = written.map(|path| format!("{}\n", path.display()));
    print(&lines.concat())
}

/// A URL as it was given, or the file that holds it.
type Given = (Option<String>, Option<PathBuf>);

fn migrate(from: Given, to: Given) -> Result<(), Failure> {
    let (from, to) = (database("--from", from)?, database("--to", to)?);
    let failed = |error: Box<dyn Error + Send + Sync>| Failure::Migrate(error);
    let runtime = runtime(2).map_err(|error| failed(error.into()))?;
    let moved = runtime.block_on(tillwatch_server::migrate(&from, &to));
    let moved = moved.map_err(|error| failed(error.into()))?;
    print(&format!(
        "{} purchases with {} transitions, up to position {}\n",
        moved.purchases, moved.transitions, moved.head
    ))
}

fn database(option: &'static str, (url, file): Given) -> Result<Database, Failure> {
    let refused = |why: String| Failure::Url(option, why);
    let url = match (url, file) {
        (Some(url), _) => url,
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file);
            text.map_err(|error| refused(error.to_string()))?
        }
        (None, None) => String::new(),
    };
    Database::parse(url.trim_end()).map_err(|rule| refused(rule.to_owned()))
}

fn health(address: &str, service: &str) -> Result<(), Failure> {
    let runtime = runtime(1).map_err(|error| Failure::Start(error.into()))?;
    let asked = runtime.block_on(tillwatch_server::probe(address, service));
    asked.map_err(Failure::Health)
}

fn token() -> Result<(), Failure> {
    let (token, sha256) = identity::new_token(Clock::system().bytes());
    print(&format!(
        "token        {}\ntoken_sha256 {sha256}\n",
        token.expose()
    ))
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::Start(error.into()))
}

fn serve(settings: &Settings) -> Result<(), Failure> {
    let file = settings.config.as_deref();
    let config = load(file)?;
    let start = || -> Result<Ended, Box<dyn Error + Send + Sync>> {
        let json = config.telemetry.log_format == LogFormat::Json;
        let traces = config.telemetry.traces.as_ref();
        let (log, filter, traces) = telemetry::init(&config.telemetry.log, json, traces)?;
        log_panics();
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let runtime = runtime(config.listen.threads)?;
        let drain = config.listen.drain;
        let told = Arc::<OnceLock<Instant>>::default();
        let ends = Arc::clone(&told);
        let served = runtime.block_on(async {
            let shutdown = shutdown(told)?;
            let reload = Arc::<Notify>::default();
            let hangup = signal(SignalKind::hangup())?;
            tokio::spawn(pass_on(hangup, Arc::clone(&reload)));
            #[cfg(debug_assertions)]
            if let Some(stands) = settings.stand_still.as_deref().map(StandStill::named) {
                tokio::spawn(stand_still(stands));
            }
            let file = file.map(Path::to_owned);
            let reload = Reload {
                asked: reload,
                read: Arc::new(move || read(file.as_deref())),
                log: Arc::new(move |directives| {
                    if let Err(error) = filter.set(directives) {
                        tracing::error!(%error, "the log's filter stays");
                    }
                }),
            };
            let supervisor = Supervisor::of(|name| env::var_os(name)).unwrap_or_else(|error| {
                tracing::warn!(%error, "the service manager is not told anything");
                Supervisor::default()
            });
            tillwatch_server::run(config, shutdown, reload, supervisor)
                .await
                .map_err(Box::<dyn Error + Send + Sync>::from)
        });
        runtime.shutdown_timeout(EXIT_TIMEOUT);
        let spent = ends.get().map_or(Duration::ZERO, Instant::elapsed);
        traces.finish(drain.saturating_sub(spent).min(TRACES_TIMEOUT));
        // Lines that were left are lost with their reader.
        let _ = log.finish(LOG_TIMEOUT);
        served
    };
    match start().map_err(Failure::Start)? {
        Ended::AsAsked => Ok(()),
        Ended::JournalLost(loss) => Err(Failure::JournalLost(loss)),
    }
}

/// Lets panics be told by the log from now on: whoever reads standard error may hang, and a thread that
/// panics must not wait for that.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(tracing::field::display);
        let words = panic.payload_as_str().unwrap_or_default();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured)
            .then(|| tracing::field::display(&backtrace));
        tracing::error!(place, words, backtrace, "panicked");
    }));
}

/// The runtime for this many threads; with 0, the number of cores decides.
fn runtime(threads: u32) -> io::Result<Runtime> {
    let threads = match usize::try_from(threads).unwrap_or(1) {
        0 => match available_parallelism().map_or(1, usize::from) {
            cores if cores <= CORES_FOR_ONE_THREAD => 1,
            cores => cores,
        },
        threads => threads,
    };
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build()
}

/// Ends with the first SIGTERM or SIGINT from now on, and tells its time.
fn shutdown(told: Arc<OnceLock<Instant>>) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
        told.get_or_init(Instant::now);
    })
}

/// Lets a loop stand still from the first SIGUSR1 on.
#[cfg(debug_assertions)]
async fn stand_still(stands: StandStill) {
    if let Ok(mut told) = signal(SignalKind::user_defined1()) {
        told.recv().await;
        stands.arm();
    }
}

/// Passes each SIGHUP on, without end: an unhandled SIGHUP would kill the process.
async fn pass_on(mut hangup: Signal, reload: Arc<Notify>) {
    while hangup.recv().await.is_some() {
        reload.notify_one();
    }
}
