//! The paths of the executables under test. A test refuses executables older than their sources.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The command that builds them all.
const BUILD: &str = "cargo build --workspace";

/// The path of an executable of this workspace, in the profile of this test.
pub fn executable(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running test has a path");
    let profile = own.parent().and_then(Path::parent);
    let profile = profile.expect("a test lies in target/PROFILE/deps");
    let path = profile.join(name);
    if let Err(problem) = check(&path, profile) {
        panic!("{}: {problem}; run `{BUILD}`", path.display());
    }
    path
}

/// Says what is wrong unless an executable is there and newer than each of its sources. The files
/// that build scripts made lie in `generated` and are as new as the build.
fn check(path: &Path, generated: &Path) -> Result<(), String> {
    let built = modified(path).ok_or("is missing")?;
    let list = path.with_extension("d");
    let sources = fs::read_to_string(&list).map_err(|_| "its list of sources is missing")?;
    for source in sources_of(&sources) {
        if source.starts_with(generated) {
            continue;
        }
        let changed =
            newest(&source).ok_or_else(|| format!("is stale: {} is gone", source.display()))?;
        if changed > built {
            return Err(format!("is stale: {} is newer", source.display()));
        }
    }
    Ok(())
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// The time of the last change of a file, or of anything in a folder.
fn newest(path: &Path) -> Option<SystemTime> {
    let own = modified(path)?;
    let Ok(inside) = fs::read_dir(path) else {
        return Some(own);
    };
    let inside = inside.filter_map(|entry| newest(&entry.ok()?.path()));
    inside.chain([own]).max()
}

/// The paths in a dependency file as cargo writes it: `target: source source …`, with a backslash
/// before each space within a path.
fn sources_of(text: &str) -> Vec<PathBuf> {
    let Some((_, sources)) = text.split_once(": ") else {
        return Vec::new();
    };
    let joined = sources.trim().replace("\\ ", "\0");
    let paths = joined.split_whitespace();
    paths
        .map(|path| PathBuf::from(path.replace('\0', " ")))
        .collect()
}

#[test]
fn every_executable_is_built_from_the_present_sources() {
    for name in ["tillwatch-server", "tillwatch-sandbox", "tillwatch"] {
        assert!(executable(name).is_file(), "{name}");
    }
}

#[test]
fn a_missing_or_stale_executable_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let generated = &folder.path().join("build");
    let (path, source) = (folder.path().join("it"), folder.path().join("a source.rs"));
    assert_eq!(check(&path, generated).unwrap_err(), "is missing");
    fs::write(&path, "").unwrap();
    assert!(
        check(&path, generated)
            .unwrap_err()
            .contains("list of sources")
    );
    let listed = source.display().to_string().replace(' ', "\\ ");
    fs::write(
        folder.path().join("it.d"),
        format!(
            "{}: {listed} {}/out.rs\n",
            path.display(),
            generated.display()
        ),
    )
    .unwrap();
    assert!(check(&path, generated).unwrap_err().contains("is gone"));
    fs::write(&source, "").unwrap();
    let later = SystemTime::now() + std::time::Duration::from_secs(60);
    let file = fs::File::options().write(true).open(&source).unwrap();
    file.set_modified(later).unwrap();
    assert!(check(&path, generated).unwrap_err().contains("is newer"));
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(later).unwrap();
    assert_eq!(check(&path, generated), Ok(()));
}
