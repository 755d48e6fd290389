//! The service of the demo: one server within this process, or several processes on one database.

use std::{io, path::PathBuf, process::ExitStatus};

use tillwatch_sandbox::Sandbox;
use tillwatch_server::{StartError, config::ConfigError};
use tokio::task::JoinError;

use super::{Options, replicas::Replicas, within::Within};

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The folder or a file in it could not be made.
    #[error("cannot make a temporary folder for the demo")]
    Folder(#[source] io::Error),
    /// The settings are refused.
    #[error("the demo's settings are refused")]
    Settings(#[from] ConfigError),
    /// It could not start, or failed while serving.
    #[error("the server does not serve")]
    Start(#[from] StartError),
    /// It broke off.
    #[error("the server broke off")]
    Broken(#[from] JoinError),
    /// It ended without having served.
    #[error("the server ended before it served")]
    Silent,
    /// Nobody can call a service of several processes.
    #[error("cannot listen at {address}")]
    Listen {
        address: String,
        #[source]
        source: io::Error,
    },
    /// The processes' executable is not where this one is.
    #[error("{} is needed for replicas: build it first (cargo build --bins)", .0.display())]
    Executable(PathBuf),
    /// A process could not be started or ended.
    #[error("cannot run a process of the server")]
    Process(#[source] io::Error),
    /// A process ended before it served; its own words are on standard error.
    #[error("replica {replica} ended before it served: {status}")]
    Ended { replica: usize, status: ExitStatus },
    /// A process did not serve in time.
    #[error("replica {replica} does not serve")]
    Late { replica: usize },
}

/// A replica that was killed.
#[derive(Debug)]
pub(crate) struct Killed {
    /// Its number, from 1.
    pub(crate) replica: usize,
    /// The id of its process.
    pub(crate) process: u32,
    /// The connections that callers had to it.
    pub(crate) connections: usize,
}

/// A service that runs. [`Service::stop`] ends it well; if it is dropped, nothing is waited for.
#[derive(Debug)]
pub(crate) enum Service {
    Within(Within),
    Replicas(Replicas),
}

impl Service {
    /// Starts it in front of a sandbox, at the first of the wished addresses that is free.
    pub(crate) async fn start(sandbox: &Sandbox, options: &Options) -> Result<Self, ServiceError> {
        let (addresses, speed) = (&options.listen, options.speed);
        Ok(match &options.replicas {
            None => Self::Within(Within::start(sandbox, addresses, speed).await?),
            Some(wish) => Self::Replicas(Replicas::start(sandbox, wish, addresses, speed).await?),
        })
    }

    /// The address at which callers reach it.
    pub(crate) fn address(&self) -> &str {
        match self {
            Self::Within(within) => within.address(),
            Self::Replicas(replicas) => replicas.address(),
        }
    }

    /// The number of processes behind that address, if there are several.
    pub(crate) fn replicas(&self) -> Option<usize> {
        match self {
            Self::Within(_) => None,
            Self::Replicas(replicas) => Some(replicas.count()),
        }
    }

    /// Kills the replica that most callers are connected to, if there are several.
    pub(crate) async fn kill_one(&mut self) -> Result<Option<Killed>, ServiceError> {
        match self {
            Self::Within(_) => Ok(None),
            Self::Replicas(replicas) => replicas.kill_busiest().await.map(Some),
        }
    }

    /// Drains it and removes its folder.
    pub(crate) async fn stop(self) -> Result<(), ServiceError> {
        match self {
            Self::Within(within) => within.stop().await,
            Self::Replicas(replicas) => replicas.stop().await,
        }
    }
}
