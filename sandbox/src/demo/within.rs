//! The demo's server within this process, configured as a user would: by a TOML file. It lies in a
//! temporary folder together with the journal, and both go when the server stops.

use tempfile::TempDir;
use tillwatch_sandbox::Sandbox;
use tillwatch_server::{StartError, Supervisor, config::Config, run_with};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    service::ServiceError,
    settings::{self, Settings},
};

/// A running server. It drains when this is dropped; [`Within::stop`] also waits for that.
#[derive(Debug)]
pub(super) struct Within {
    address: String,
    task: JoinHandle<Result<(), StartError>>,
    shutdown: CancellationToken,
    /// Removed when it is dropped, which is after the drain in [`Within::stop`].
    _folder: TempDir,
}

impl Within {
    /// Starts a server in front of a sandbox, at the first of these addresses that is free.
    pub(super) async fn start(
        sandbox: &Sandbox,
        addresses: &[String],
        speed: f64,
    ) -> Result<Self, ServiceError> {
        let mut started = Err(ServiceError::Silent);
        for address in addresses {
            started = Self::start_at(sandbox, address, speed).await;
            if !matches!(started, Err(ServiceError::Start(StartError::Listen { .. }))) {
                break;
            }
        }
        started
    }

    async fn start_at(sandbox: &Sandbox, listen: &str, speed: f64) -> Result<Self, ServiceError> {
        let folder = settings::folder()?;
        let file = folder.path().join("tillwatch.toml");
        let database = folder.path().join("tillwatch.db");
        let settings = Settings {
            listen,
            store: &format!("sqlite:{}", database.display()),
            fingerprint_keys: None,
            audit_log: None,
            speed,
        };
        settings.write(&file, sandbox)?;
        // The environment stays out: it may name a real server's settings and accounts.
        let config = Config::load(Some(&file), std::iter::empty())?;
        let shutdown = CancellationToken::new();
        let (bound, address) = oneshot::channel();
        let task = tokio::spawn({
            let stop = shutdown.clone();
            async move {
                run_with(
                    config,
                    stop.cancelled_owned(),
                    None,
                    Supervisor::default(),
                    |address| {
                        // Nobody listens if the demo was interrupted while it started.
                        let _ = bound.send(address.to_owned());
                    },
                )
                .await
                .map(|_| ())
            }
        });
        match address.await {
            Ok(address) => Ok(Self {
                address,
                task,
                shutdown,
                _folder: folder,
            }),
            Err(_) => {
                task.await??;
                Err(ServiceError::Silent)
            }
        }
    }

    /// The address at which it listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Drains it and removes its folder.
    pub(super) async fn stop(mut self) -> Result<(), ServiceError> {
        self.shutdown.cancel();
        (&mut self.task).await??;
        Ok(())
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[cfg(test)]
mod tests {
    use tillwatch_sandbox::Options;

    use super::*;

    #[tokio::test]
    async fn a_taken_address_is_passed_over_and_nothing_is_left_behind() {
        let sandbox = Sandbox::start(Options::default()).await.unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken
            .local_addr()
            .map(|address| (taken, address.to_string()));
        let (_held, taken) = taken.unwrap();
        let alone = Within::start(&sandbox, std::slice::from_ref(&taken), 1.0).await;
        assert!(matches!(
            alone.unwrap_err(),
            ServiceError::Start(StartError::Listen { .. })
        ));
        let addresses = [taken.clone(), "127.0.0.1:0".to_owned()];
        let service = Within::start(&sandbox, &addresses, 1.0).await.unwrap();
        assert_ne!(service.address(), taken);
        let address = service.address().to_owned();
        assert!(std::net::TcpStream::connect(&address).is_ok());
        let folder = service._folder.path().to_owned();
        assert!(folder.join("tillwatch.db").is_file());
        service.stop().await.unwrap();
        assert!(!folder.exists());
        assert!(std::net::TcpStream::connect(&address).is_err());
        sandbox.stop().await;
    }
}
