//! The figures of the process, under the names that all exporters use, and of its runtime.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{count, whole};

/// The figures of the process and its runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessPicture {
    /// The processor time that it has used.
    pub cpu: Duration,
    /// Its memory.
    pub resident_bytes: u64,
    /// Its threads, the runtime's and others.
    pub threads: u64,
    /// Its open files and connections.
    pub open_files: u64,
    /// The most files that it may have open.
    pub open_files_max: u64,
    /// The time of its start, in seconds since 1970.
    pub started_s: i64,
    /// The time for which the runtime's threads have worked.
    pub busy: Duration,
    /// The runtime's threads.
    pub workers: usize,
    /// Tasks of the runtime that have not ended.
    pub tasks: usize,
    /// Tasks that wait for a thread, as far as all threads share them.
    pub queued: usize,
}

/// The figures of the runtime.
pub(super) fn runtime(registry: &mut Registry, picture: &ProcessPicture) {
    let busy = Counter::<f64, AtomicU64>::default();
    busy.inc_by(picture.busy.as_secs_f64());
    let words = "The time for which the runtime's threads have worked";
    registry.register_with_unit("runtime_busy", words, Unit::Seconds, busy);
    let words = "Tasks of the runtime that have not ended";
    for (name, words, number) in [
        ("runtime_workers", "Threads of the runtime", picture.workers),
        ("runtime_tasks", words, picture.tasks),
        (
            "runtime_queued",
            "Tasks that wait for a thread",
            picture.queued,
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(count(number));
        registry.register(name, words, gauge);
    }
}

/// The figures that every exporter has, without this program's prefix.
pub(super) fn common(picture: &ProcessPicture) -> Registry {
    let mut registry = Registry::with_prefix("process");
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by(picture.cpu.as_secs_f64());
    let words = "Processor time that the process has used";
    registry.register_with_unit("cpu", words, Unit::Seconds, cpu);
    let memory = Gauge::<i64>::default();
    memory.set(whole(picture.resident_bytes));
    let words = "Memory of the process";
    registry.register_with_unit("resident_memory", words, Unit::Bytes, memory);
    let start = Gauge::<i64>::default();
    start.set(picture.started_s);
    let words = "The time of the start, in seconds since 1970";
    registry.register_with_unit("start_time", words, Unit::Seconds, start);
    let words = "The most files that may be open";
    for (name, words, number) in [
        ("open_fds", "Open files and connections", picture.open_files),
        ("max_fds", words, picture.open_files_max),
        ("threads", "Threads of the process", picture.threads),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(whole(number));
        registry.register(name, words, gauge);
    }
    registry
}
