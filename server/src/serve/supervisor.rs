//! Tells the service manager above this process (systemd's `sd_notify`) when it serves, reloads and
//! drains, and that it is alive.
//!
//! A message is one datagram to the socket that the manager names. The crates for it read the
//! environment themselves, and wait for a manager that does not read.

use std::{
    ffi::OsString,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use tillwatch_proto::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_server::Health as _,
};
use tokio::net::UnixDatagram;
use tonic::Request;

use crate::{
    clock,
    health::{HealthService, Readiness},
};

/// The longest that a reload or a drain waits for a manager that does not read.
const TELL_MAX: Duration = Duration::from_millis(100);

/// The service manager, if there is one. Clones are the same.
#[derive(Clone, Default)]
pub struct Supervisor(Option<Arc<Manager>>);

struct Manager {
    socket: UnixDatagram,
    /// The time within which the manager wants a sign of life; `None` if it wants none.
    watchdog: Option<Duration>,
    /// Each use of the lock is short.
    stage: Mutex<Stage>,
}

/// The last word that the manager has heard about the service's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Ready,
    Reloading,
    Stopping,
}

/// The reason why the manager that the environment names cannot be told anything.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The socket cannot be used.
    #[error("NOTIFY_SOCKET cannot be used")]
    Socket(#[source] io::Error),
    /// The time is no number.
    #[error("WATCHDOG_USEC must be a whole number of microseconds above 0")]
    Watchdog,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Supervisor")
    }
}

impl Supervisor {
    /// The manager that these variables name: `NOTIFY_SOCKET`, and for signs of life `WATCHDOG_USEC`
    /// and `WATCHDOG_PID`. Without the first there is none. To be called within a runtime.
    ///
    /// # Errors
    /// A variable cannot be used.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, SupervisorError> {
        let Some(path) = variable("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(Self::default());
        };
        let socket = UnixDatagram::unbound().map_err(SupervisorError::Socket)?;
        socket.connect(path).map_err(SupervisorError::Socket)?;
        let watchdog = watchdog(&variable)?;
        Ok(Self(Some(Arc::new(Manager {
            socket,
            watchdog,
            stage: Mutex::new(Stage::Starting),
        }))))
    }

    /// Follows health without end: the manager hears once that the service is ready, then each change
    /// of readiness, and signs of life as long as the process is alive.
    pub(super) async fn follow(self, readiness: Readiness, health: Arc<HealthService>) {
        if let Some(manager) = self.0 {
            tokio::join!(manager.tell_readiness(health), manager.show_life(readiness));
        }
    }

    /// Says that new settings are being read. Before the first READY and in a drain a reload is nothing
    /// to a manager.
    pub(super) async fn reloading(&self) {
        if let Some(manager) = self.passes(Stage::Ready, Stage::Reloading) {
            let now = clock::kernel_microseconds();
            let message = format!("RELOADING=1\nMONOTONIC_USEC={now}");
            manager.tell_soon(&message).await;
        }
    }

    /// Says that the reload has ended, if one is under way; `status` tells the outcome to people.
    pub(super) async fn reloaded(&self, status: &str) {
        if let Some(manager) = self.passes(Stage::Reloading, Stage::Ready) {
            manager
                .tell_soon(&format!("READY=1\nSTATUS={status}"))
                .await;
        }
    }

    /// Says that the service drains, for good.
    pub(super) async fn stopping(&self) {
        if let Some(manager) = &self.0 {
            manager.enter(Stage::Stopping);
            manager.tell_soon("STOPPING=1\nSTATUS=draining").await;
        }
    }

    /// The manager, if the stage was the first, and now is the second.
    fn passes(&self, from: Stage, to: Stage) -> Option<&Manager> {
        let manager = self.0.as_deref()?;
        manager.passes(from, to).then_some(manager)
    }
}

impl Manager {
    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a stage. Nothing follows a drain.
    fn enter(&self, next: Stage) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage != Stage::Stopping {
            *stage = next;
        }
    }

    /// Goes from one stage to another. Says if it was at the first.
    fn passes(&self, from: Stage, to: Stage) -> bool {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = *stage == from;
        if is_there {
            *stage = to;
        }
        is_there
    }

    async fn tell_readiness(&self, health: Arc<HealthService>) {
        self.tell("STATUS=reading the journal").await;
        let Ok(watch) = health
            .watch(Request::new(HealthCheckRequest::default()))
            .await
        else {
            return;
        };
        let mut states = watch.into_inner();
        while let Some(Ok(state)) = states.next().await {
            let is_serving = state.status() == ServingStatus::Serving;
            match (self.stage(), is_serving) {
                (Stage::Starting, true) => {
                    self.tell("READY=1\nSTATUS=serving").await;
                    self.enter(Stage::Ready);
                }
                (Stage::Ready | Stage::Reloading, true) => self.tell("STATUS=serving").await,
                (Stage::Ready | Stage::Reloading, false) => {
                    self.tell("STATUS=not serving: the journal is away").await
                }
                (Stage::Starting, false) | (Stage::Stopping, _) => {}
            }
        }
    }

    async fn show_life(&self, readiness: Readiness) {
        let Some(within) = self.watchdog else { return };
        loop {
            if readiness.is_alive() {
                self.tell("WATCHDOG=1").await;
            }
            tokio::time::sleep(within / 2).await;
        }
    }

    /// Sends a message, however long the manager takes to read others.
    async fn tell(&self, message: &str) {
        if let Err(error) = self.socket.send(message.as_bytes()).await {
            tracing::warn!(%error, "the service manager was not told");
        }
    }

    async fn tell_soon(&self, message: &str) {
        if tokio::time::timeout(TELL_MAX, self.tell(message))
            .await
            .is_err()
        {
            tracing::warn!("the service manager does not read");
        }
    }
}

/// The time within which the manager wants a sign of life of this process.
fn watchdog(
    variable: &impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Duration>, SupervisorError> {
    let own = std::process::id().to_string();
    let is_ours = variable("WATCHDOG_PID").is_none_or(|id| id.to_str() == Some(&own));
    let Some(text) = variable("WATCHDOG_USEC").filter(|_| is_ours) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    match number.filter(|number| *number > 0) {
        Some(microseconds) => Ok(Some(Duration::from_micros(microseconds))),
        None => Err(SupervisorError::Watchdog),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram as Heard;

    use super::*;

    /// [`TELL_MAX`] and the millisecond to which tokio's timer rounds up.
    const HELD_UP_MAX: Duration = Duration::from_millis(101);

    fn of(variables: &[(&str, &str)]) -> Result<Supervisor, SupervisorError> {
        Supervisor::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    /// A manager's socket, with its path.
    fn manager() -> (tempfile::TempDir, Heard, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = Heard::bind(&path).unwrap();
        let path = path.display().to_string();
        (folder, socket, path)
    }

    fn wanted(supervisor: &Supervisor) -> Option<Duration> {
        supervisor.0.as_ref().unwrap().watchdog
    }

    #[tokio::test]
    async fn without_a_socket_there_is_no_manager_and_a_bad_variable_is_named() {
        assert!(of(&[]).unwrap().0.is_none());
        assert!(of(&[("NOTIFY_SOCKET", "")]).unwrap().0.is_none());
        let (_folder, _socket, path) = manager();
        let own = std::process::id().to_string();
        let with = |usec, pid| {
            of(&[
                ("NOTIFY_SOCKET", &path),
                ("WATCHDOG_USEC", usec),
                ("WATCHDOG_PID", pid),
            ])
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(wanted(&with("1000000", &own).unwrap()), second);
        assert_eq!(wanted(&with("1000000", "1").unwrap()), None);
        let without_id = of(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "1000000")]);
        assert_eq!(wanted(&without_id.unwrap()), second);
        for bad in ["0", "-1", "1s", ""] {
            let refused = with(bad, &own).unwrap_err().to_string();
            assert!(
                refused.contains("WATCHDOG_USEC must be"),
                "{bad}: {refused}"
            );
        }
        let refused = of(&[("NOTIFY_SOCKET", "/nowhere/at/all")]).unwrap_err();
        assert!(refused.to_string().contains("NOTIFY_SOCKET"), "{refused}");
    }

    #[tokio::test]
    async fn a_manager_that_does_not_read_delays_a_reload_and_a_drain_by_little() {
        let (_folder, socket, path) = manager();
        let supervisor = of(&[("NOTIFY_SOCKET", &path)]).unwrap();
        supervisor.0.as_ref().unwrap().enter(Stage::Ready);
        // The kernel holds some datagrams for a socket that nobody reads. Waiting is free here.
        tokio::time::pause();
        let mut is_full = false;
        for _ in 0..2_000 {
            let begun = tokio::time::Instant::now();
            supervisor.reloading().await;
            supervisor.reloaded("serving").await;
            is_full = !begun.elapsed().is_zero();
            if is_full {
                assert!(begun.elapsed() <= HELD_UP_MAX * 2);
                break;
            }
        }
        assert!(is_full, "nothing was ever held up");
        let begun = tokio::time::Instant::now();
        supervisor.stopping().await;
        let held_up = begun.elapsed();
        assert!((TELL_MAX..=HELD_UP_MAX).contains(&held_up), "{held_up:?}");
        drop(socket);
    }

    /// Waits for the next message.
    async fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let length = socket.recv(&mut buffer).await.unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[tokio::test]
    async fn the_manager_hears_that_the_service_is_ready_with_the_first_serving() {
        let (_folder, socket, path) = manager();
        socket.set_nonblocking(true).unwrap();
        let socket = UnixDatagram::from_std(socket).unwrap();
        let (readiness, health) = crate::health::health().await;
        let supervisor = of(&[("NOTIFY_SOCKET", &path)]).unwrap();
        let following = supervisor
            .clone()
            .follow(readiness.clone(), Arc::new(health));
        let _following = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(following));
        assert_eq!(next(&socket).await, "STATUS=reading the journal");
        readiness.set_ready(true).await;
        assert_eq!(next(&socket).await, "READY=1\nSTATUS=serving");
        readiness.set_ready(false).await;
        let away = "STATUS=not serving: the journal is away";
        assert_eq!(next(&socket).await, away);
        readiness.set_ready(true).await;
        assert_eq!(next(&socket).await, "STATUS=serving");
        supervisor.stopping().await;
        readiness.drain().await;
        let stopping = "STOPPING=1\nSTATUS=draining";
        assert_eq!(next(&socket).await, stopping);
    }

    #[tokio::test]
    async fn signs_of_life_end_if_the_process_is_not_alive() {
        let (_folder, socket, path) = manager();
        socket.set_nonblocking(true).unwrap();
        let (readiness, health) = crate::health::health().await;
        let variables = [
            ("NOTIFY_SOCKET", path.as_str()),
            ("WATCHDOG_USEC", "2000000"),
        ];
        let following = of(&variables)
            .unwrap()
            .follow(readiness.clone(), Arc::new(health));
        let _following = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(following));
        tokio::time::pause();
        let signs_within = async |time| {
            tokio::time::sleep(time).await;
            let mut signs = 0;
            let mut buffer = [0; 200];
            while let Ok(length) = socket.recv(&mut buffer) {
                signs += usize::from(&buffer[..length] == b"WATCHDOG=1");
            }
            signs
        };
        let few = Duration::from_millis(4_500);
        assert_eq!(signs_within(few).await, 5, "one at once, then each second");
        readiness.set_alive(false).await;
        assert_eq!(signs_within(few).await, 0);
        readiness.set_alive(true).await;
        assert!(signs_within(few).await >= 4);
    }

    #[tokio::test]
    async fn a_reload_says_nothing_before_the_service_is_ready_and_after_its_end() {
        let (_folder, socket, path) = manager();
        socket.set_nonblocking(true).unwrap();
        let heard = || {
            let mut buffer = [0; 200];
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let supervisor = of(&[("NOTIFY_SOCKET", &path)]).unwrap();
        supervisor.reloading().await;
        supervisor.reloaded("serving").await;
        assert_eq!(heard(), None);
        supervisor.0.as_ref().unwrap().enter(Stage::Ready);
        supervisor.reloading().await;
        let reloading = heard().unwrap();
        let microseconds = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(
            microseconds.is_some_and(|text| text.parse::<u64>().is_ok()),
            "{reloading}"
        );
        supervisor.reloaded("serving").await;
        assert_eq!(heard().as_deref(), Some("READY=1\nSTATUS=serving"));
        supervisor.stopping().await;
        assert_eq!(heard().as_deref(), Some("STOPPING=1\nSTATUS=draining"));
        supervisor.reloaded("serving").await;
        assert_eq!(heard(), None);
    }
}
