//! Packs the program's relative relocations where the C library it is built with can read them.
//!
//! PostgreSQL starts `wal-push` for every segment, and the loader reads every relocation of the program each time: as
//! RELA they are 24 bytes each (370 kB in all), packed (DT_RELR) a few kB. glibc reads those from 2.36 on; the linker
//! notes that need in the program, so an older loader refuses it with a clear word.

use std::process::Command;

const FIRST_GLIBC_WITH_RELR: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Runbooks are compiled in: a new one is seen.
    println!("cargo:rerun-if-changed=config/monitoring/runbooks");
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let is_native_glibc = of("HOST") == of("TARGET") && of("CARGO_CFG_TARGET_ENV") == "gnu";
    if is_native_glibc && glibc_version().is_some_and(|version| version >= FIRST_GLIBC_WITH_RELR) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// What `getconf GNU_LIBC_VERSION` answers ("glibc 2.36"); `None` without a glibc.
fn glibc_version() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
