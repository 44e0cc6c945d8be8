//! The damage matrix: each kind of object deleted, cut, changed by a bit, swapped and stored twice. `verify --content`
//! names exactly what was harmed, `verify --restorable` calls lost exactly what is, and real restores agree.

use crate::damage_ground::{ALL, Ground, Kind, other_digest, wal_name};

#[test]
fn what_backups_lose_is_named_and_a_restore_gives_the_rest() {
    let ground = Ground::new();
    let repo = ground.repo();
    let [a, b] = &ground.ids;
    let shared = repo.key(&format!("/packs/{a}/00000000"));
    let own = repo.key(&format!("/packs/{b}/00000000"));
    let table = |id: &str| repo.key(&format!("/tables/{id}/files-00000000"));
    let list = |id: &str| repo.key(&format!("/tables/{id}/packs"));
    let manifest = |id: &str| repo.key(&format!("/watch/backups/{id}"));
    let forged = b.replace(&b[17..], "ffffffff");
    ground.check_all(&[
        Kind {
            name: "pack that both use",
            copy: shared.replace("/00000000", "/000000ff"),
            victim: shared.clone(),
            partner: own.clone(),
            cells: [("v", ""), ("v", ""), ("v", ""), ("v p", ""), ("", ALL)],
        },
        Kind {
            name: "pack that one uses",
            copy: own.replace("/00000000", "/000000ff"),
            victim: own,
            partner: shared,
            cells: [("v", "A<>"), ("v", "A<>"), ("v", "A<>"), ("v p", ""), ("", ALL)],
        },
        Kind {
            name: "file table",
            copy: table(b).replace("files-00000000", "files-000000ff"),
            victim: table(b),
            partner: table(a),
            cells: [("v", "A<>"), ("v", "A<>"), ("v", "A<>"), ("v p", ""), ("", ALL)],
        },
        Kind {
            name: "pack list",
            copy: list(b).replace(b, &forged),
            victim: list(b),
            partner: list(a),
            cells: [("v", ALL), ("v", ALL), ("v", ALL), ("v p", ALL), ("", ALL)],
        },
        Kind {
            name: "manifest",
            copy: manifest(b).replace(b, &forged),
            victim: manifest(b),
            partner: manifest(a),
            cells: [("", "A<>"), ("v", "A<>"), ("v", "A<>"), ("v p", ""), ("c", ALL)],
        },
        Kind {
            name: "manifest that is held",
            copy: manifest(a).replace(a, &forged),
            victim: manifest(a),
            partner: manifest(b),
            cells: [("v", "B>"), ("v", "B>"), ("v", "B>"), ("v p", ""), ("c", ALL)],
        },
    ]);
}

#[test]
fn what_wal_loses_is_named_and_a_restore_gives_the_rest() {
    let ground = Ground::new();
    let repo = ground.repo();
    let all = ground.segments();
    let (old, new): (Vec<_>, Vec<_>) = all.iter().partition(|key| wal_name(key).starts_with("00000001"));
    let (history, partial) = (repo.key("/00000002.history-"), repo.key(".partial-"));
    let backups = repo.keys(".backup-");
    ground.check_all(&[
        Kind {
            name: "segment between",
            victim: old[old.len() - 3].clone(),
            partner: old[old.len() - 2].clone(),
            copy: other_digest(old[old.len() - 3]),
            cells: [("n", "AB>"), ("v", "AB>"), ("v", "AB>"), ("v p", "AB>"), ("c n", ALL)],
        },
        Kind {
            name: "segment behind backups",
            victim: new[new.len() - 2].clone(),
            partner: new[new.len() - 1].clone(),
            copy: other_digest(new[new.len() - 2]),
            cells: [("n", "AB<"), ("v", "AB<"), ("v", "AB<"), ("v p", "AB<"), ("c n", ALL)],
        },
        Kind {
            name: "history",
            victim: history.clone(),
            partner: backups[0].clone(),
            copy: other_digest(&history),
            cells: [("timeline:2", "A"), ("v", "A"), ("v", "A"), ("v p", "A"), ("c n", ALL)],
        },
        Kind {
            name: "backup history",
            victim: backups[0].clone(),
            partner: backups[1].clone(),
            copy: other_digest(&backups[0]),
            cells: [("", ALL), ("v", ALL), ("v", ALL), ("v p", ALL), ("c n", ALL)],
        },
        Kind {
            name: "partial segment",
            victim: partial.clone(),
            partner: backups[1].clone(),
            copy: other_digest(&partial),
            cells: [("", ALL), ("v", ALL), ("v", ALL), ("v p", ALL), ("c", ALL)],
        },
        tail(&ground),
    ]);
}

/// The unfinished segment, and its copy as the beginning of a newer one.
fn tail(ground: &Ground) -> Kind {
    let victim = ground.repo().keys("/watch/tail/").remove(0);
    let (directory, name) = victim.rsplit_once('/').unwrap();
    Kind {
        name: "tail",
        partner: ground.repo().key("/watch/holds/"),
        copy: format!("{directory}/ffffffff{}", &name[8..]),
        cells: [("", ALL), ("v", "AB<"), ("v", "AB<"), ("v p", "AB<"), ("c", "AB<")],
        victim,
    }
}

#[test]
fn what_is_no_part_of_a_restore_is_named_and_loses_none() {
    let ground = Ground::new();
    let repo = ground.repo();
    let one = |part: &str| repo.key(part);
    let hold = one("/watch/holds/");
    let lease = repo.keys("/watch/leases/").remove(0);
    let reports = repo.keys("/watch/reports/0");
    let head = one("/watch/reports/head");
    let seen = repo.keys("/watch/verify/seen-").remove(0);
    let kind = |name, victim: &str, partner: &str, copy: String, deleted, copied| Kind {
        name,
        victim: victim.to_owned(),
        partner: partner.to_owned(),
        copy,
        cells: [(deleted, ALL), ("v", ALL), ("v", ALL), ("v p", ALL), (copied, ALL)],
    };
    let foreign = |key: &str| format!("{key}-2");
    let (attempt, expiry, harm) = (one("/watch/attempt"), one("/watch/expiry"), one("/watch/verify/harm"));
    let (content, listing) = (one("/watch/verify/content"), one("/watch/verify/listing"));
    let next = reports[2].replace("00000003-", "00000004-");
    let other_lease = format!("{}0123456789abcdef", &lease[..lease.len() - 16]);
    let other_seen = format!("{}0123456789abcdef", &seen[..seen.len() - 16]);
    ground.check_all(&[
        kind("lease", &lease, &hold, other_lease, "", "c"),
        kind("hold", &hold, &expiry, hold.replace(&ground.ids[0], &ground.ids[1]), "", "c"),
        kind("record of the last backup", &attempt, &hold, foreign(&attempt), "", ""),
        kind("record of retention", &expiry, &hold, foreign(&expiry), "", ""),
        kind("report of a drill", &reports[1], &reports[0], next, "watch/reports/00000002", "c"),
        kind("head of the reports", &head, &reports[0], foreign(&head), "watch/reports/head", ""),
        kind("what was found by content", &content, &listing, foreign(&content), "", ""),
        kind("what was found by a listing", &listing, &harm, foreign(&listing), "", ""),
        kind("harm", &harm, &listing, foreign(&harm), "", ""),
        // A run puts its own in their place.
        Kind {
            name: "what was opened",
            victim: seen,
            partner: harm,
            copy: other_seen,
            cells: [("", ALL), ("", ALL), ("", ALL), ("p", ALL), ("", ALL)],
        },
        Kind {
            name: "probe",
            victim: one("/probes/"),
            partner: hold.clone(),
            copy: foreign(&one("/probes/")),
            cells: [("", ALL), ("", ALL), ("", ALL), ("p", ALL), ("", ALL)],
        },
    ]);
}

#[test]
fn what_runs_write_again_is_not_damaged_for_ever() {
    let ground = Ground::new();
    for part in ["/verify/harm", "/verify/listing", "/verify/content", "/verify/seen-", "/watch/expiry"] {
        let key = ground.repo().keys(part).remove(0);
        ground.repo().flip_bit(&key, 60);
    }
    assert_eq!(ground.verify().1, 1);
    ground.archived.walproof.run(["expire"]).success();
    ground.archived.walproof.run(["verify"]).success();
    let (found, code) = ground.verify();
    assert_eq!(code, 0, "{found:#}");
}

/// Without it nothing opens: it is named, and neither a verification nor a restore pretends to anything.
#[test]
fn an_identity_that_is_harmed_is_named_by_verify_and_by_a_restore() {
    let ground = Ground::new();
    let (repo, walproof) = (ground.repo(), &ground.archived.walproof);
    let (identity, hold) = (repo.key("/identity"), repo.key("/watch/holds/"));
    let content = repo.read(&identity);
    let to = ground.archived.target("restored");
    for harm in ["delete", "truncate", "flip", "swap"] {
        match harm {
            "delete" => repo.delete(&identity),
            "truncate" => repo.truncate(&identity, content.len() / 2),
            "flip" => repo.flip_bit(&identity, content.len() / 2),
            _ => repo.write(&identity, &repo.read(&hold)),
        }
        for arguments in [&["verify"][..], &["verify", "--content", "--restorable"]] {
            walproof.run(arguments).complains_with(5).stderr_contains("identity");
        }
        ground
            .archived
            .try_restore(&to, ["--target-immediate"])
            .complains_with(5)
            .stderr_contains("identity");
        assert!(!to.exists());
        repo.write(&identity, &content);
    }
    // A copy beside it is nobody's.
    repo.copy(&identity, &format!("{identity}-2"));
    let (found, code) = ground.verify();
    let remarks = found["remarks"].as_array().unwrap();
    assert!(
        code == 0 && remarks.iter().any(|remark| remark["object"] == format!("{identity}-2")),
        "{found:#}"
    );
}
