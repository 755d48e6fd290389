//! Several processes on one store, and the storm over them.

use std::{sync::Arc, time::Duration};

use tillwatch_server::clock::Clock;
use tokio::time::Instant;

use crate::{World, fences::Fences, process::Process};

/// The time in which everything goes wrong. Each process looks at the leases twice a second, so that a
/// second of several costs more than one of a single process.
const STORM: Duration = Duration::from_secs(1_500);

/// The times that something happened to processes in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Processes that were stopped and went on.
    pub stops: u64,
    /// Processes that were cut off from the store alone.
    pub cuts: u64,
    /// Times that the store was away.
    pub outages: u64,
    /// Times that everything on the store's board was lost.
    pub emptied: u64,
}

/// The processes of a run.
pub struct Replicas {
    /// The machines, each with its process, if that lives.
    machines: Vec<(Clock, Option<Process>)>,
    fences: Fences,
    started: u64,
    faults: Faults,
}

impl Replicas {
    /// Starts two to four.
    pub async fn start(world: &World, fences: &Fences) -> Self {
        let count = 2 + world.number(3);
        let machine = |number| {
            let machine = world.new_clock(number);
            if world.sets_clock() {
                world.set_clock(&machine);
            }
            (machine, None)
        };
        let mut replicas = Self {
            machines: (0..count).map(machine).collect(),
            fences: fences.clone(),
            started: 0,
            faults: Faults::default(),
        };
        replicas.start_all(world).await;
        replicas
    }

    async fn start_all(&mut self, world: &World) {
        for place in 0..self.machines.len() {
            self.start_at(world, place).await;
        }
    }

    /// Starts a process on a machine that has none.
    async fn start_at(&mut self, world: &World, place: usize) {
        let (machine, process) = &mut self.machines[place];
        while process.is_none() {
            let number = self.started;
            self.started += 1;
            match Process::join(world, &self.fences, machine, number).await {
                Ok(joined) => *process = Some(joined),
                // A supervisor starts it again.
                Err(_away) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
            world.network.disturbed_now();
        }
    }

    fn living(&self) -> impl Iterator<Item = &Process> {
        self.machines.iter().filter_map(|(_, one)| one.as_ref())
    }

    /// One of the living, if any.
    fn any(&self, world: &World) -> Option<usize> {
        let living = (0..self.machines.len()).filter(|place| self.machines[*place].1.is_some());
        let living: Vec<_> = living.collect();
        (!living.is_empty()).then(|| living[world.number(living.len() as u64) as usize])
    }

    fn take(&mut self, world: &World) -> Option<Process> {
        let place = self.any(world)?;
        self.machines[place].1.take()
    }

    /// Everything that can go wrong, goes wrong.
    pub async fn storm(&mut self, world: &World) {
        let ends = Instant::now() + STORM;
        while Instant::now() < ends {
            tokio::time::sleep(world.millis(120_000)).await;
            for place in 0..self.machines.len() {
                if self.machines[place].1.is_none() && world.number(2) == 0 {
                    self.start_at(world, place).await;
                }
            }
            if world.sets_clock() && world.number(2) == 0 {
                let place = world.number(self.machines.len() as u64) as usize;
                world.set_clock(&self.machines[place].0);
            }
            self.trouble(world).await;
        }
        for process in self.living() {
            process.opened().cut(false);
        }
        self.start_all(world).await;
        // One is enough to end what they have begun. The others give it their accounts.
        for (_, process) in self.machines.iter_mut().skip(1) {
            if let Some(process) = process.take() {
                process.drain(world).await;
            }
        }
    }

    async fn trouble(&mut self, world: &World) {
        match world.number(15) {
            0 => world.network.part(world.millis(45_000)),
            1 => world.network.cut(0.5),
            2 if world.number(2) == 0 => {
                world.journal.stall_writes(true);
                tokio::time::sleep(world.millis(30_000)).await;
                world.journal.stall_writes(false);
            }
            2 => {
                world.journal.fail_writes(true);
                tokio::time::sleep(world.millis(15_000)).await;
                world.journal.fail_writes(false);
            }
            3 => self.lose_store(world).await,
            4 | 5 => {
                if let Some(process) = self.take(world) {
                    process.drain(world).await;
                }
            }
            6 | 7 => {
                if let Some(process) = self.take(world) {
                    process.kill(world);
                }
            }
            8 => {
                for (_, process) in &mut self.machines {
                    if let Some(process) = process.take() {
                        process.kill(world);
                    }
                }
                tokio::time::sleep(world.millis(40_000)).await;
                self.start_all(world).await;
            }
            9 | 10 => self.cut_off(world),
            11 => self.stop(world),
            12 | 13 => {
                self.faults.emptied += 1;
                world.journal.empty_board();
            }
            _ => world.set_store_clock(),
        }
    }

    /// The store is away for everybody.
    async fn lose_store(&mut self, world: &World) {
        self.faults.outages += 1;
        for process in self.living() {
            process.opened().cut(true);
        }
        tokio::time::sleep(Duration::from_secs(1) + world.millis(89_000)).await;
        for process in self.living() {
            process.opened().cut(false);
        }
    }

    /// One process is cut off from the store; the others go on.
    fn cut_off(&mut self, world: &World) {
        let Some(place) = self.any(world) else { return };
        let process = self.machines[place].1.as_ref();
        let Some(process) = process.filter(|one| !one.is_stopped()) else {
            return;
        };
        self.faults.cuts += 1;
        let opened = Arc::clone(process.opened());
        opened.cut(true);
        let lasts = world.millis(40_000);
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            opened.cut(false);
        });
    }

    /// One process is stopped, often for longer than its leases last.
    fn stop(&mut self, world: &World) {
        let Some(place) = self.any(world) else { return };
        let process = self.machines[place].1.as_ref();
        let Some(process) = process.filter(|one| !one.is_stopped()) else {
            return;
        };
        self.faults.stops += 1;
        let lasts = Duration::from_millis(500) + world.millis(40_000);
        match world.number(2) {
            0 => process.stop(world, lasts),
            _ => process.stop_in_write(world, lasts),
        }
    }

    /// The end of the run. Returns the number of starts beyond the first ones.
    pub fn end(self, world: &World) -> (u64, Faults) {
        let again = self.started.saturating_sub(self.machines.len() as u64);
        for (_, process) in self.machines {
            if let Some(process) = process {
                process.kill(world);
            }
        }
        (again, self.faults)
    }
}
