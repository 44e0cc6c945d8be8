//! What is stored as a chain of objects and shows by their names that one of them is gone: reports of drills, and tails.

use std::collections::BTreeSet;

use super::findings::{Findings, RESTORE_OBJECT};
use crate::format::{ObjectKey, TailPieceName};
use crate::repository::Listing;
use crate::window::Catalog;

/// Reports are numbered without a gap; retention removes them from the first one on. The head names the newest.
pub(super) fn reports(listing: &Listing, findings: &mut Findings) {
    let advice = "`walproof drill-list` tells what of the evidence still holds; was it deleted by hand?";
    let loses = "the evidence of a drill";
    let number = |key: &ObjectKey| match key {
        ObjectKey::Report(number, _) => Some(*number),
        _ => None,
    };
    let numbers: BTreeSet<u32> = listing.objects.iter().filter_map(|listed| number(&listed.key)).collect();
    for (before, after) in numbers.iter().zip(numbers.iter().skip(1)) {
        for missing in before + 1..*after {
            let text = format!("is missing, and reports {before} and {after} are there");
            findings.problem(ObjectKey::report_named(missing), text, loses, advice);
        }
    }
    if !numbers.is_empty() && listing.get(&ObjectKey::ReportHead).is_none() {
        let text = "is missing: whether a newer report was removed cannot be told";
        findings.problem(ObjectKey::ReportHead.to_string(), text, loses, advice);
    }
}

/// A tail is served up to the first byte that is missing. What lies behind it was there as a whole once.
pub(super) fn tails(catalog: &Catalog, listing: &Listing, findings: &mut Findings) {
    let pieces = || {
        listing.objects.iter().filter_map(|listed| match &listed.key {
            ObjectKey::Tail(piece) => Some(piece),
            _ => None,
        })
    };
    let mut told = BTreeSet::new();
    for piece in pieces() {
        let Some(tail) = catalog.tail(&piece.segment) else { continue };
        let behind = |other: &&TailPieceName| {
            other.segment == piece.segment && other.generation == tail.generation && other.start > tail.len
        };
        // A generation that begins anew is put from behind, and is not the one that counts until it is whole.
        let Some(next) = pieces().filter(behind).map(|other| other.start).min() else { continue };
        if told.insert(piece.segment) {
            let text = format!("bytes {} to {next} are missing, and later ones are there", tail.len);
            let object = ObjectKey::tail_of(&piece.segment);
            findings.problem(object, text, "the newest commits, if the host is lost now", RESTORE_OBJECT);
        }
    }
}
