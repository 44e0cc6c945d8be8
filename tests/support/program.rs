//! Where the compiled binary lies so that the unprivileged account can start it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// The walproof that cargo built for this test. Used in place where every user may reach it; where the clone
/// lies in a closed directory (/root), once linked or copied into the temporary directory, one directory per
/// build and shared by all test processes. `WALPROOF_TEST_PROGRAM` names another one to be used instead.
pub fn walproof() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let given = std::env::var_os("WALPROOF_TEST_PROGRAM");
        let built = PathBuf::from(given.unwrap_or_else(|| env!("CARGO_BIN_EXE_walproof").into()));
        if reachable_by_all(&built) { built } else { published(&built) }
    })
}

fn reachable_by_all(program: &Path) -> bool {
    let executable =
        |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
    program.ancestors().all(executable)
}

fn published(built: &Path) -> PathBuf {
    let meta = fs::metadata(built).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    let user = rustix::process::geteuid().as_raw();
    let shelf = std::env::temp_dir().join(format!("walproof-rig-{user}"));
    make_dir(&shelf);
    let owner = fs::symlink_metadata(&shelf).map(|meta| (meta.is_dir(), meta.uid()));
    assert_eq!(owner.ok(), Some((true, user)), "{} is not ours: remove it", shelf.display());
    drop_old_builds(&shelf);

    let dir = shelf.join(format!("{}-{}-{}", meta.ino(), meta.mtime(), meta.mtime_nsec()));
    make_dir(&dir);
    let program = dir.join("walproof");
    if !program.exists() {
        // Another test process may be doing the same: whoever renames last wins, with the same bytes.
        let staged = dir.join(format!("walproof.{}", std::process::id()));
        fs::hard_link(built, &staged)
            .or_else(|_| fs::copy(built, &staged).map(drop))
            .expect("publish the binary");
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o755)).expect("chmod the binary");
        fs::rename(&staged, &program).expect("publish the binary");
        // Renaming one hard link over another of the same file leaves both.
        let _ = fs::remove_file(&staged);
    }
    program
}

fn make_dir(path: &Path) {
    if fs::create_dir(path).is_ok() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod directory");
    }
}

fn drop_old_builds(shelf: &Path) {
    let old = SystemTime::now() - Duration::from_hours(24);
    for entry in fs::read_dir(shelf).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        if modified.is_ok_and(|time| time < old) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
