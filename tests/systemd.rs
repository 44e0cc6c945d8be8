//! What operators install besides the program: the systemd units.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const UNITS: [&str; 11] = [
    "walproof.service",
    "walproof-backup.service",
    "walproof-backup.timer",
    "walproof-drill.service",
    "walproof-drill.timer",
    "walproof-expire.service",
    "walproof-expire.timer",
    "walproof-verify.service",
    "walproof-verify.timer",
    "walproof-verify-content.service",
    "walproof-verify-content.timer",
];
const SERVICES: [&str; 6] = [
    "walproof.service",
    "walproof-backup.service",
    "walproof-drill.service",
    "walproof-expire.service",
    "walproof-verify.service",
    "walproof-verify-content.service",
];
/// Where the README installs the program.
const INSTALLED: &str = "/usr/local/bin/walproof";
/// systemd's own figure, 0 to 10; its "OK" ends at 5.
const MOST_EXPOSURE: f64 = 2.0;

fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn unit(name: &str) -> String {
    fs::read_to_string(checkout().join("systemd").join(name)).unwrap()
}

/// Settings as `Name=value`, without comments.
fn settings(name: &str) -> Vec<String> {
    unit(name)
        .lines()
        .filter(|line| line.contains('=') && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// The units in a folder of their own, starting the program just built: systemd looks whether it exists.
fn scratch() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = UNITS.map(|name| {
        let text = unit(name);
        assert!(!name.ends_with(".service") || text.contains(&format!("\nExecStart={INSTALLED} ")), "{name}");
        let path = folder.path().join(name);
        fs::write(&path, text.replace(INSTALLED, env!("CARGO_BIN_EXE_walproof"))).unwrap();
        path
    });
    (folder, paths.to_vec())
}

fn run(program: &str, package: &str, arguments: &[&str], paths: &[PathBuf]) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(paths)
        .env("LC_ALL", "C")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "");
    command.output().unwrap_or_else(|cause| {
        panic!("{program} cannot be run: {cause}: apt-get install {package} (scripts/test does)")
    })
}

/// Both streams.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|stream| String::from_utf8_lossy(stream).into_owned()).concat()
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let (folder, paths) = scratch();
    let output = run("systemd-analyze", "systemd", &["verify", "--man=no", "--recursive-errors=no"], &paths);
    // It also reads the units of the host that ours name; what is wrong with those is not ours to tell.
    let folder = folder.path().to_str().unwrap();
    let text = said(&output);
    let ours: Vec<&str> =
        text.lines().filter(|line| line.contains(folder) || line.contains("walproof")).collect();
    assert!(ours.is_empty(), "{text}");
    assert!(output.status.success(), "{}: {text}", output.status);
}

#[test]
fn services_expose_little() {
    let (_folder, paths) = scratch();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|kind| kind == "service")) {
        let arguments = ["security", "--offline=true", "--no-pager"];
        let text = said(&run("systemd-analyze", "systemd", &arguments, std::slice::from_ref(path)));
        let (_, rest) = text.split_once("Overall exposure level for ").unwrap_or_else(|| panic!("{text}"));
        let figure = rest.split_once(": ").unwrap().1.split_whitespace().next().unwrap();
        assert!(figure.parse::<f64>().unwrap() <= MOST_EXPOSURE, "{text}");
    }
}

#[test]
fn r24_keys_reach_the_services_as_credentials_and_no_core_dump_holds_them() {
    for name in SERVICES {
        let settings = settings(name);
        for credential in ["key", "access_key_id", "secret_access_key"] {
            let load = format!("LoadCredential={credential}:/etc/walproof/{credential}");
            assert!(settings.contains(&load), "{name}: {load}");
            // systemd refuses to start a service whose credential has no file, and a local repository has none.
            let missing = format!("SetCredential={credential}:\\n");
            assert!(settings.contains(&missing), "{name}: {missing}");
        }
        assert!(settings.contains(&"LimitCORE=0".to_owned()), "{name}");
    }
}

/// The services run as the server's user beside it, and must do the server no harm.
#[test]
fn services_leave_the_server_and_each_other_alone() {
    for name in SERVICES {
        let settings = settings(name);
        let has = |setting: &str| settings.iter().any(|line| line == setting);
        assert!(has("User=postgres") && has("UMask=0077"), "{name}");
        assert!(has("RemoveIPC=no"), "{name}: the server's shared memory would go away with the service");
        assert!(
            has("RuntimeDirectoryPreserve=yes") || !has("RuntimeDirectory=walproof"),
            "{name}: the daemon's socket would go away with a backup"
        );
        assert!(
            !settings.iter().any(|line| line.starts_with("PrivateUsers=")),
            "{name}: peer authentication"
        );
        for word in ["Requires=", "BindsTo=", "PartOf=", "Requisite="] {
            assert!(
                !settings.iter().any(|line| line.starts_with(word)),
                "{name}: {word}: it outlives the server"
            );
        }
    }
}

#[test]
fn the_readme_installs_what_is_there() {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    for name in UNITS {
        assert!(readme.contains(name), "{name}");
    }
    assert!(
        readme.contains("systemd/") && readme.contains("config/monitoring/prometheus/walproof-rules.yml")
    );
    assert!(Path::new(INSTALLED).is_absolute() && readme.contains(INSTALLED));
}
