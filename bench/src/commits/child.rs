//! A process that commits, as this program starts it: it says that it is ready, waits for the word to go, and
//! tells the number of its transitions.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use crate::Failure;

/// The part of each round that does not count.
pub const WARM_UP: Duration = Duration::from_millis(500);
const READY: &str = "ready";

/// The work of one process.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The database's address.
    #[arg(long)]
    pub url: String,
    /// The number of the process, which gives it an account and purchases of its own.
    #[arg(long)]
    pub number: u32,
    /// The purchases that move at the same time.
    #[arg(long)]
    pub writers: u32,
    /// The transitions of each bare call.
    #[arg(long)]
    pub per_call: u32,
    /// The seconds that count.
    #[arg(long)]
    pub seconds: u64,
    /// Hear of other processes' commits.
    #[arg(long)]
    pub follow: bool,
}

impl Arguments {
    /// The account of the process.
    pub fn account(&self) -> String {
        format!("account-{}", self.number)
    }
}

/// A process of the round. Dropping it kills it.
pub struct Child {
    child: std::process::Child,
    said: BufReader<ChildStdout>,
    told: ChildStdin,
}

impl Child {
    /// Starts this program with a subcommand.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, arguments: &Arguments) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(name)
            .args(["--url", &arguments.url])
            .args(["--number", &arguments.number.to_string()])
            .args(["--writers", &arguments.writers.to_string()])
            .args(["--per-call", &arguments.per_call.to_string()])
            .args(["--seconds", &arguments.seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if arguments.follow {
            command.arg("--follow");
        }
        let mut child = command.spawn()?;
        let (said, told) = (child.stdout.take(), child.stdin.take());
        Ok(Self {
            said: BufReader::new(said.ok_or("no output")?),
            told: told.ok_or("no input")?,
            child,
        })
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Waits until it could go.
    ///
    /// # Errors
    /// It has ended.
    pub fn is_ready(&mut self) -> Result<(), Failure> {
        let line = self.line()?;
        (line == READY)
            .then_some(())
            .ok_or("a process failed".into())
    }

    /// Lets it go.
    ///
    /// # Errors
    /// It has ended.
    pub fn go(&mut self) -> Result<(), Failure> {
        Ok(self.told.write_all(b"go\n")?)
    }

    /// The number of its transitions that counted, once it has ended.
    ///
    /// # Errors
    /// It has failed.
    pub fn transitions(mut self) -> Result<u64, Failure> {
        let line = self.line()?;
        self.child.wait()?;
        Ok(line.parse()?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the child: says that it is ready, and waits for the word to go. Returns the beginning and the end of
/// the time that counts.
///
/// # Errors
/// Nobody is there any more.
#[expect(clippy::print_stdout, reason = "the starter reads it there")]
pub fn begin(arguments: &Arguments) -> Result<(Instant, Instant), Failure> {
    println!("{READY}");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let from = Instant::now() + WARM_UP;
    Ok((from, from + Duration::from_secs(arguments.seconds)))
}

/// In the child: tells the number of transitions that counted.
#[expect(clippy::print_stdout, reason = "the starter reads it there")]
pub fn tell(transitions: u64) {
    println!("{transitions}");
}
