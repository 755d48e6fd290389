//! The figures of the process and its runtime, read as they are asked for.

use std::{fs, path::Path, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;

use crate::telemetry::metrics::ProcessPicture;

/// The figures of this moment. What the system does not tell is 0.
pub(super) fn picture(started_s: i64) -> ProcessPicture {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let runtime = Handle::try_current().ok().map(|runtime| runtime.metrics());
    let busy = runtime.iter().flat_map(|runtime| {
        (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker))
    });
    ProcessPicture {
        cpu: Duration::new(
            u64::try_from(cpu.tv_sec).unwrap_or(0),
            u32::try_from(cpu.tv_nsec).unwrap_or(0),
        ),
        resident_bytes: number(&status, "VmRSS:") * 1_024,
        threads: number(&status, "Threads:"),
        open_files: open_files(Path::new("/proc/self/fd")),
        open_files_max: number(&limits, "Max open files"),
        started_s,
        busy: busy.sum(),
        workers: runtime.as_ref().map_or(0, |runtime| runtime.num_workers()),
        tasks: runtime
            .as_ref()
            .map_or(0, |runtime| runtime.num_alive_tasks()),
        queued: runtime.map_or(0, |runtime| runtime.global_queue_depth()),
    }
}

/// The first number after a word that begins a line; 0 if there is none.
fn number(text: &str, word: &str) -> u64 {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix(word));
    let first = rest.and_then(|rest| rest.split_whitespace().next());
    first.and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// The number of open files. Newer systems tell it without a list of them.
fn open_files(folder: &Path) -> u64 {
    let told = fs::metadata(folder).map_or(0, |folder| folder.len());
    if told > 0 {
        return told;
    }
    fs::read_dir(folder).map_or(0, |files| files.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_tells_of_itself() {
        let picture = picture(7);
        assert_eq!(picture.started_s, 7);
        assert!(picture.resident_bytes > 1 << 20, "{picture:?}");
        assert!(picture.open_files >= 3 && picture.open_files <= picture.open_files_max);
        assert!(picture.threads >= 1 && picture.workers == 1, "{picture:?}");
        assert!(!picture.cpu.is_zero());
    }

    #[test]
    fn a_number_is_read_by_the_word_before_it() {
        let text = "VmRSS:\t  5120 kB\nMax open files            1024                 4096 files\n";
        assert_eq!(number(text, "VmRSS:"), 5_120);
        assert_eq!(number(text, "Max open files"), 1_024);
        assert_eq!(number(text, "Threads:"), 0);
    }
}
