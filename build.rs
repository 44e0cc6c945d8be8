//! Tells the program which commit it is built from, and packs its relative relocations where the C library it is built
//! with can read them.
//!
//! PostgreSQL starts `wal-push` for every segment, and the loader reads every relocation of the program each time: as
//! RELA they are 24 bytes each (370 kB in all), packed (DT_RELR) a few kB. glibc reads those from 2.36 on; the linker
//! notes that need in the program, so an older loader refuses it with a clear word.
//!
//! For the same reason the functions that such a call runs lie side by side, and behind them those that the daemon runs
//! (order.ld, from scripts/order-functions): 2.5 MB less of the program is mapped, and 4 MB less for the daemon. And GCC's
//! unwinder is linked in where the compiler has it as an archive: one library less to find, map and relocate.

use std::path::Path;
use std::process::Command;

const FIRST_GLIBC_WITH_RELR: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Runbooks are compiled in: a new one is seen.
    println!("cargo:rerun-if-changed=config/monitoring/runbooks");
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    println!("cargo:rustc-env=WALPROOF_REVISION={}", revision(&of("PROFILE")));
    println!("cargo:rustc-env=WALPROOF_TARGET={}", of("TARGET"));
    println!("cargo:rustc-env=WALPROOF_PROFILE={}", of("PROFILE"));
    println!("cargo:rustc-env=WALPROOF_FEATURES={}", features());
    let is_native_glibc = of("HOST") == of("TARGET") && of("CARGO_CFG_TARGET_ENV") == "gnu";
    let has_relr = || glibc_version().is_some_and(|version| version >= FIRST_GLIBC_WITH_RELR);
    if is_native_glibc && is_linker_usual() && has_relr() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    println!("cargo:rerun-if-changed=order.ld");
    if is_native_glibc && of("PROFILE") == "release" {
        link_unwinder();
        if is_linker_usual() {
            println!("cargo:rustc-link-arg-bins=-Wl,-T,{}/order.ld", of("CARGO_MANIFEST_DIR"));
        }
    }
}

/// Before std asks for the shared one, so that this one answers; the linker leaves the shared one out then, as unneeded.
fn link_unwinder() {
    const ARCHIVE: &str = "libgcc_eh.a";
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    println!("cargo:rerun-if-env-changed=CC");
    let Ok(output) = Command::new(compiler).arg(format!("-print-file-name={ARCHIVE}")).output() else {
        return;
    };
    let Ok(text) = String::from_utf8(output.stdout) else { return };
    // What it does not find it prints as it was asked.
    if let Some(dir) = Path::new(text.trim()).parent().filter(|dir| dir.is_absolute()) {
        println!("cargo:rustc-link-search=native={}", dir.display());
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// Whether nobody asked for another linker than rustc's own. mold does not read a script like order.ld, and Debian 12's packs
/// relocations without noting the need: the loader refuses such a program.
fn is_linker_usual() -> bool {
    let is_chosen = |flags: String| flags.contains("-fuse-ld=") || flags.contains("linker=");
    std::env::var_os("RUSTC_LINKER").is_none()
        && !std::env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(is_chosen)
}

/// What `getconf GNU_LIBC_VERSION` answers ("glibc 2.36"); `None` without a glibc.
fn glibc_version() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The commit: what the environment says (a package is built where there is no git), else what git says, else "unknown".
/// Git is asked for release builds only: otherwise each commit would compile the whole crate again for its tests.
fn revision(profile: &str) -> String {
    println!("cargo:rerun-if-env-changed=WALPROOF_REVISION");
    let unknown = || "unknown".to_owned();
    match std::env::var("WALPROOF_REVISION") {
        Ok(given) if !given.trim().is_empty() => given.trim().to_owned(),
        _ if profile != "release" => unknown(),
        _ => described_by_git().unwrap_or_else(unknown),
    }
}

/// Twelve digits, and "-dirty" where files differ from the commit; `None` where this folder is not a checkout of its own.
fn described_by_git() -> Option<String> {
    // A source package below somebody else's checkout must not take that one's commit.
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        // Cargo would run this each time for a file that is not there.
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    for name in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={name}");
    }
    git(&["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The features that Cargo was asked for, in its spelling, separated by commas.
fn features() -> String {
    let mut names: Vec<String> = std::env::vars()
        .filter_map(|(name, _)| {
            name.strip_prefix("CARGO_FEATURE_").map(|name| name.to_lowercase().replace('_', "-"))
        })
        .filter(|name| name != "default")
        .collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
