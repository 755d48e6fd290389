//! Lines on their way to a file or to standard error, through a bounded queue to a thread of their own.
//!
//! Nobody waits for a disk that is full or for a reader that hangs. If the queue is full, newer lines are
//! left out and counted, and a notice stands in their place once there is room again. The writer tries a
//! line again until it is written whole.

use std::{
    collections::VecDeque,
    fmt, fs, io,
    io::Write as _,
    mem,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// The most bytes that wait, each line's own cost included.
const WAITING_BYTES: usize = 1 << 20;
/// The memory that a waiting line takes besides its text, in bytes.
const LINE_COST: usize = 64;
/// The time between two tries to write a line.
const TRIED_EVERY: Duration = Duration::from_secs(1);
/// The mode of a new file: its owner writes, and its group reads.
const MODE: u32 = 0o640;

/// The place where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This process's standard error.
    Stderr,
    /// The end of a file.
    File(PathBuf),
}

impl Target {
    /// Opens it; a new file can be read by its owner and group alone. This blocks on the disk.
    ///
    /// # Errors
    /// The system's own.
    pub fn open(&self) -> io::Result<fs::File> {
        match self {
            // Lines go past the standard library's lock: whoever holds it may wait for a reader.
            Self::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
            Self::File(path) => append(path),
        }
    }
}

fn append(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true).mode(MODE).open(path)
}

/// Makes the notice that stands for so many lines that were left out.
pub type Notice = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// The way of lines to one target at a time. Clones are the same.
#[derive(Clone)]
pub struct Outlet(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    wake: Condvar,
    notice: Notice,
    written: AtomicU64,
    left_out: AtomicU64,
    failures: AtomicU64,
    /// True once the writer has ended.
    ended: CancellationToken,
    /// Wakes whoever blocks until then.
    drained: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that were left out since the last that was taken.
    left_out: u64,
    /// The target that takes the place of the present one.
    next: Option<fs::File>,
    is_closed: bool,
}

/// The next deed of the writer.
enum Task {
    Write(Vec<u8>),
    Turn(fs::File),
    End,
}

/// The number of lines since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Lines that were written.
    pub written: u64,
    /// Lines that were left out, since too many waited.
    pub left_out: u64,
    /// Tries to write that failed.
    pub failures: u64,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Outlet")
    }
}

impl Outlet {
    /// An outlet to this file from now on, by a thread of this name.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn begin(name: &str, file: fs::File, notice: Notice) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            notice,
            written: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ended: CancellationToken::new(),
            drained: Condvar::new(),
        });
        let writing = Arc::clone(&shared);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                writing.write_all(file);
                writing.end();
            })?;
        Ok(Self(shared))
    }

    /// Takes a line, its end included. False if there is no room for it.
    pub fn push(&self, line: Vec<u8>) -> bool {
        let mut queue = self.0.queue();
        let cost = line.len() + LINE_COST;
        if queue.is_closed || queue.bytes + cost > WAITING_BYTES {
            queue.left_out += 1;
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if queue.left_out > 0 {
            let notice = (self.0.notice)(mem::take(&mut queue.left_out));
            queue.bytes += notice.len() + LINE_COST;
            queue.lines.push_back(notice);
        }
        queue.bytes += cost;
        queue.lines.push_back(line);
        self.0.wake.notify_one();
        true
    }

    /// Sends all later lines to another file. The line under way goes there whole.
    pub fn turn_to(&self, file: fs::File) {
        self.0.queue().next = Some(file);
        self.0.wake.notify_one();
    }

    /// Takes no more lines. The rest is written.
    pub fn end(&self) {
        self.0.queue().is_closed = true;
        self.0.wake.notify_one();
    }

    /// Does as [`Outlet::end`] does, and waits for so long at the most. False if lines were left.
    pub async fn close(&self, within: Duration) -> bool {
        self.end();
        let ended = tokio::time::timeout(within, self.0.ended.cancelled()).await;
        ended.is_ok() && self.0.queue().lines.is_empty()
    }

    /// Does as [`Outlet::close`] does, and blocks this thread meanwhile.
    pub fn finish(&self, within: Duration) -> bool {
        self.end();
        let is_open = |_: &mut Queue| !self.0.ended.is_cancelled();
        let waited = self
            .0
            .drained
            .wait_timeout_while(self.0.queue(), within, is_open);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        self.0.ended.is_cancelled() && queue.lines.is_empty()
    }

    /// The number of lines since the beginning.
    pub fn figures(&self) -> Figures {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Figures {
            written: read(&self.0.written),
            left_out: read(&self.0.left_out),
            failures: read(&self.0.failures),
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that the writer has ended.
    fn end(&self) {
        // Under the lock: a thread that is about to block must not miss it.
        let _queue = self.queue();
        self.ended.cancel();
        self.drained.notify_all();
    }

    /// Writes until the end.
    fn write_all(&self, mut file: fs::File) {
        loop {
            match self.next() {
                Task::Turn(next) => file = next,
                Task::End => return,
                Task::Write(line) => {
                    if !self.write(&mut file, &line) {
                        self.queue().lines.push_front(line);
                        return;
                    }
                }
            }
        }
    }

    /// Waits for the next deed.
    fn next(&self) -> Task {
        let mut queue = self.queue();
        loop {
            if let Some(next) = queue.next.take() {
                return Task::Turn(next);
            }
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes = queue.bytes.saturating_sub(line.len() + LINE_COST);
                return Task::Write(line);
            }
            if queue.left_out > 0 {
                return Task::Write((self.notice)(mem::take(&mut queue.left_out)));
            }
            if queue.is_closed {
                return Task::End;
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes a line whole, if need be over many tries. False if the lines were closed meanwhile.
    fn write(&self, file: &mut fs::File, line: &[u8]) -> bool {
        let mut rest = line;
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(taken) if taken > 0 => rest = rest.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    match self.rest() {
                        Rested::Again => {}
                        Rested::Turned(next) => {
                            *file = next;
                            rest = line;
                        }
                        Rested::Closed => return false,
                    }
                }
            }
        }
        self.written.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Rests after a try that failed.
    fn rest(&self) -> Rested {
        let is_quiet = |queue: &mut Queue| queue.next.is_none() && !queue.is_closed;
        let waited = self
            .wake
            .wait_timeout_while(self.queue(), TRIED_EVERY, is_quiet);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match queue.next.take() {
            Some(next) => Rested::Turned(next),
            None if queue.is_closed => Rested::Closed,
            None => Rested::Again,
        }
    }
}

/// The circumstances of the next try.
enum Rested {
    Again,
    Turned(fs::File),
    Closed,
}

#[cfg(test)]
mod tests;
