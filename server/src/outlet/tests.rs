use std::{
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use super::*;

fn begin(file: fs::File) -> Outlet {
    let notice = |left_out: u64| format!("{left_out} left out\n").into_bytes();
    Outlet::begin("test", file, Arc::new(notice)).unwrap()
}

fn line(number: usize) -> Vec<u8> {
    format!("{number:0>99}\n").into_bytes()
}

#[tokio::test]
async fn lines_are_written_in_order_and_whole_when_they_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    fs::write(&path, "an older line\n").unwrap();
    let outlet = begin(Target::File(path.clone()).open().unwrap());
    for number in 0..1_000 {
        assert!(outlet.push(line(number)));
    }
    assert!(outlet.close(Duration::from_secs(20)).await);
    let told: Vec<u8> = (0..1_000).flat_map(line).collect();
    let told = ["an older line\n".as_bytes(), &told].concat();
    assert_eq!(fs::read(&path).unwrap(), told);
    assert!(!outlet.push(line(0)), "it is closed");
    let figures = outlet.figures();
    assert_eq!((figures.written, figures.left_out), (1_000, 1));
}

#[test]
fn a_new_file_is_for_its_owner_and_group_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    Target::File(path.clone()).open().unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[tokio::test]
async fn a_reader_that_hangs_keeps_nobody_waiting_and_takes_little_memory() {
    let (mut reader, writer) = io::pipe().unwrap();
    let outlet = begin(std::os::fd::OwnedFd::from(writer).into());
    let (mut taken, mut refused) = (0_usize, 0);
    for number in 0..100_000 {
        match outlet.push(line(number)) {
            true => taken += 1,
            false => refused += 1,
        }
    }
    // 1 MiB waits, and the pipe has what a pipe takes.
    let bound = ((1 << 20) + (1 << 17)) / 100;
    assert!((1_000..bound).contains(&taken), "{taken}");
    assert_eq!(taken + refused, 100_000);
    assert_eq!(outlet.figures().left_out, u64::try_from(refused).unwrap());
    assert!(
        !outlet.close(Duration::from_millis(50)).await,
        "nobody reads"
    );
    // Somebody reads again: the lines that were taken come, and the gap is told.
    let mut text = String::new();
    let reading = tokio::task::spawn_blocking(move || {
        let mut byte = [0; 4_096];
        while !text.contains("left out\n") {
            let read = reader.read(&mut byte).unwrap();
            assert!(read > 0, "{}", text.len());
            text.push_str(std::str::from_utf8(&byte[..read]).unwrap());
        }
        text
    });
    let text = tokio::time::timeout(Duration::from_secs(20), reading);
    let text = text.await.unwrap().unwrap();
    assert_eq!(text.lines().count(), taken + 1);
    assert!(text.contains(&format!("{refused} left out\n")));
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_left_for_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("lines"), folder.path().join("lines.1"));
    let target = Target::File(path.clone());
    let outlet = begin(target.open().unwrap());
    outlet.push(b"one\n".to_vec());
    while outlet.figures().written < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fs::rename(&path, &old).unwrap();
    outlet.turn_to(target.open().unwrap());
    outlet.push(b"two\n".to_vec());
    assert!(outlet.close(Duration::from_secs(20)).await);
    assert_eq!(fs::read_to_string(&old).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    assert_eq!(path.metadata().unwrap().size(), 4);
}

#[tokio::test]
async fn a_full_disk_keeps_lines_waiting_until_another_file_takes_them() {
    // Every write to this device fails with ENOSPC.
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let outlet = begin(full);
    outlet.push(b"one\n".to_vec());
    outlet.push(b"two\n".to_vec());
    while outlet.figures().failures < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(outlet.figures().written, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    outlet.turn_to(Target::File(path.clone()).open().unwrap());
    assert!(outlet.close(Duration::from_secs(20)).await);
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
}
