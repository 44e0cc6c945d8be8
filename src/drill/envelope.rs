//! DSSE envelopes: what is signed, by whom, so that a public key is all it takes to believe it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::report::Entry;
use crate::error::{Error, Result};
use crate::postgres::PgTime;
use crate::signing::{DrillKey, PublicKey, hex_digest};

/// Of in-toto's statements, and of ours.
pub(super) const STATEMENT: &str = "application/vnd.in-toto+json";
pub(super) const HEAD: &str = "application/vnd.walproof.head+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "urn:walproof:drill:1";

/// A signed payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct EnvelopeSignature {
    keyid: String,
    sig: String,
}

/// A report or note with its place in the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The repository in whose chain it stands, as cluster and system identifier with a slash between.
    pub repository: String,
    /// Its number, from 1.
    pub sequence: u32,
    /// SHA-256 of the envelope before it.
    pub previous_digest: Option<String>,
    /// When that one was made.
    pub previous_at: Option<PgTime>,
    /// What is said.
    #[serde(flatten)]
    pub entry: Entry,
}

impl Link {
    /// When it was made.
    pub fn at(&self) -> PgTime {
        match &self.entry {
            Entry::Drill(report) => report.finished_at,
            Entry::Note(note) => note.at,
        }
    }
}

/// Which entry is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The cluster's name.
    pub cluster: String,
    /// A decimal text.
    pub system_identifier: String,
    /// The number of the newest.
    pub sequence: u32,
    /// SHA-256 of its envelope.
    pub digest: String,
    /// When it was put.
    pub at: PgTime,
}

/// DSSE's pre-authentication encoding.
fn encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Sign `payload`.
pub(super) fn seal(key: &DrillKey, payload_type: &str, payload: &impl Serialize) -> Result<Vec<u8>> {
    let failed = |cause: serde_json::Error| Error::corrupt(format!("write evidence: {cause}"));
    let payload = serde_json::to_vec(payload).map_err(failed)?;
    let signature = EnvelopeSignature {
        keyid: key.public().id(),
        sig: STANDARD.encode(key.sign(&encoding(payload_type, &payload))),
    };
    let payload = STANDARD.encode(payload);
    let envelope = Envelope { payload_type: payload_type.to_owned(), payload, signatures: vec![signature] };
    serde_json::to_vec(&envelope).map_err(failed)
}

/// Sign a link, as an in-toto statement about the backup that was restored.
pub(super) fn sign(key: &DrillKey, link: &Link) -> Result<Vec<u8>> {
    let (name, digest) = match &link.entry {
        Entry::Drill(report) => (report.backup.as_deref().unwrap_or("none"), report.backup_digest.clone()),
        Entry::Note(note) => (note.drill.as_str(), None),
    };
    // A statement needs a subject with a digest; where nothing was restored it is that of the name.
    let digest = digest.unwrap_or_else(|| hex_digest(name.as_bytes()));
    let statement = json!({
        "_type": STATEMENT_TYPE,
        "subject": [{ "name": name, "digest": { "sha256": digest } }],
        "predicateType": PREDICATE_TYPE,
        "predicate": link,
    });
    seal(key, STATEMENT, &statement)
}

/// The payload of an envelope that one of `keys` signed.
pub(super) fn open(bytes: &[u8], payload_type: &str, keys: &[PublicKey]) -> Result<Vec<u8>> {
    let wrong = |what: &str| Error::corrupt(format!("the envelope {what}"));
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| wrong("is malformed"))?;
    if envelope.payload_type != payload_type {
        return Err(wrong("holds something else"));
    }
    let payload = STANDARD.decode(&envelope.payload).map_err(|_| wrong("is malformed"))?;
    let [signature] = envelope.signatures.as_slice() else {
        return Err(wrong("does not have exactly one signature"));
    };
    let Some(key) = keys.iter().find(|key| key.id() == signature.keyid) else {
        return Err(Error::corrupt(format!(
            "the envelope was signed with another key ({})",
            short(&signature.keyid)
        )));
    };
    let sig = STANDARD.decode(&signature.sig).map_err(|_| wrong("is malformed"))?;
    if !key.verifies(&encoding(payload_type, &payload), &sig) {
        return Err(wrong("does not bear the signature of its key: it was changed"));
    }
    Ok(payload)
}

fn short(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

/// The link in an envelope that one of `keys` signed.
pub fn open_link(bytes: &[u8], keys: &[PublicKey]) -> Result<Link> {
    link_in(&open(bytes, STATEMENT, keys)?)
}

/// The link in an envelope whose signature is not looked at: for hosts that have no public key, where the repository's own
/// encryption says enough.
pub fn read_unproven(bytes: &[u8]) -> Result<Link> {
    let malformed = || Error::corrupt("the envelope is malformed");
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| malformed())?;
    link_in(&STANDARD.decode(&envelope.payload).map_err(|_| malformed())?)
}

fn link_in(payload: &[u8]) -> Result<Link> {
    let mut statement: Value =
        serde_json::from_slice(payload).map_err(|_| Error::corrupt("the statement is malformed"))?;
    if statement["_type"] != STATEMENT_TYPE || statement["predicateType"] != PREDICATE_TYPE {
        return Err(Error::corrupt("the statement is not about a drill"));
    }
    serde_json::from_value(statement["predicate"].take())
        .map_err(|cause| Error::corrupt(format!("read the report: {cause}")))
}

/// The ids of the keys that an envelope says it was signed with, whether or not it was.
pub(super) fn key_ids(bytes: &[u8]) -> Vec<String> {
    let envelope: Option<Envelope> = serde_json::from_slice(bytes).ok();
    envelope
        .map(|envelope| envelope.signatures.into_iter().map(|one| one.keyid).collect())
        .unwrap_or_default()
}
