//! Evidence: the chain of signed reports in the repository, and everything that can be wrong with it. Reading is apart from
//! judging: what was read is a value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::envelope::{HEAD, Head, Link, key_ids, open, open_link, seal, sign};
use super::report::Entry;
use crate::disk::durable;
use crate::error::{Error, Kind, Result};
use crate::postgres::PgTime;
use crate::repository::{REPORTS_KEPT, Repository};
use crate::signing::{DrillKey, PublicKey, hex_digest};

/// Objects that are read at a time.
const CONCURRENT: usize = 8;

/// What is stored.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Where: cluster and system identifier with a slash between.
    pub repository: String,
    /// Envelopes by number and the digest in their key; an error is damage.
    pub envelopes: Vec<(u32, u64, Result<Vec<u8>>)>,
    /// The head's envelope.
    pub head: Option<Result<Vec<u8>>>,
}

/// An entry of the chain that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Proven {
    /// What it says.
    pub link: Link,
    /// SHA-256 of its envelope.
    pub digest: String,
    /// The envelope.
    pub envelope: Vec<u8>,
}

/// What the chain proves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// Entries that hold, by number.
    pub entries: Vec<Proven>,
    /// What was tampered with, in words.
    pub tampered: Vec<String>,
}

impl Stored {
    /// Read all reports.
    pub async fn read(repository: &Repository) -> Result<Self> {
        let (listed, has_head) = repository.list_reports().await?;
        let requests = listed.into_iter().map(|report| async move {
            (report.sequence, report.digest, repository.get_report(&report).await)
        });
        let mut reading = stream::iter(requests).buffered(CONCURRENT);
        let mut envelopes = Vec::new();
        while let Some((sequence, digest, envelope)) = reading.next().await {
            envelopes.push((sequence, digest, damage(envelope)?));
        }
        let head = if has_head { damage(repository.get_report_head().await)?.transpose() } else { None };
        Ok(Self { repository: repository.name().to_owned(), envelopes, head })
    }

    /// The key ids that the envelopes name, each once.
    pub fn key_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .envelopes
            .iter()
            .filter_map(|(_, _, bytes)| bytes.as_ref().ok())
            .flat_map(|bytes| key_ids(bytes))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// What it proves to anyone who trusts `keys`. `remembered` is the newest head that this host
    /// has seen.
    pub fn judge(&self, keys: &[PublicKey], remembered: Option<&Head>) -> Evidence {
        let mut evidence = Evidence::default();
        let mut by_number: BTreeMap<u32, Vec<Proven>> = BTreeMap::new();
        for (sequence, digest, envelope) in &self.envelopes {
            match self.prove(*sequence, *digest, envelope, keys) {
                Ok(proven) => by_number.entry(*sequence).or_default().push(proven),
                Err(error) => evidence.tampered.push(format!("report {sequence}: {error}")),
            }
        }
        let mut named: Vec<u32> = self.envelopes.iter().map(|(sequence, ..)| *sequence).collect();
        named.dedup();
        for (sequence, proven) in by_number {
            if proven.len() > 1 {
                evidence
                    .tampered
                    .push(format!("report {sequence}: there are {} with this number", proven.len()));
            }
            evidence.entries.extend(proven.into_iter().take(1));
        }
        evidence.check_order(&named);
        let head = self.head.as_ref().map(|envelope| self.open_head(envelope, keys));
        evidence.check_head(head, &named, remembered);
        evidence
    }

    fn prove(
        &self,
        sequence: u32,
        digest: u64,
        envelope: &Result<Vec<u8>>,
        keys: &[PublicKey],
    ) -> Result<Proven> {
        let envelope = envelope.clone()?;
        let whole = hex_digest(&envelope);
        let link = open_link(&envelope, keys)?;
        self.check_own(&link.repository)?;
        if let Entry::Drill(report) = &link.entry {
            self.check_own(&format!("{}/{}", report.cluster, report.system_identifier))?;
        }
        if link.sequence != sequence {
            return Err(Error::corrupt(format!("it is report {} under another number", link.sequence)));
        }
        if !whole.starts_with(&format!("{digest:016x}")) {
            return Err(Error::corrupt("its content is not what its key promises"));
        }
        Ok(Proven { link, digest: whole, envelope })
    }

    fn open_head(&self, envelope: &Result<Vec<u8>>, keys: &[PublicKey]) -> Result<Head> {
        let opened = open(envelope.as_ref().map_err(Clone::clone)?, HEAD, keys)?;
        let head: Head = serde_json::from_slice(&opened).map_err(|_| Error::corrupt("it is malformed"))?;
        self.check_own(&format!("{}/{}", head.cluster, head.system_identifier))?;
        Ok(head)
    }

    /// One key may sign for several repositories: what it signed for another one proves nothing of this one.
    fn check_own(&self, named: &str) -> Result<()> {
        if named == self.repository {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "it was made for {named}, and this is the repository of {}",
            self.repository
        )))
    }
}

/// An error that an object is to blame for is an answer; any other is not.
fn damage<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error) if !matches!(error.kind(), Kind::Corrupt | Kind::NotFound) => Err(error),
        result => Ok(result),
    }
}

impl Evidence {
    /// Numbers without a gap, each naming the one before.
    fn check_order(&mut self, named: &[u32]) {
        if let Some(first) = self.entries.first()
            && named.first() == Some(&first.link.sequence)
            && first.link.sequence > 1
        {
            let expired = first
                .link
                .previous_at
                .is_some_and(|at| PgTime::now().seconds_since(at) > REPORTS_KEPT.as_secs_f64());
            if !expired {
                let gone = missing(1, first.link.sequence - 1);
                self.tampered.push(format!("{gone}, before it was due"));
            }
        }
        for pair in named.windows(2) {
            if pair[1] > pair[0] + 1 {
                self.tampered.push(missing(pair[0] + 1, pair[1] - 1));
            }
        }
        let mut broken = Vec::new();
        for pair in self.entries.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let follows = after.link.sequence == before.link.sequence + 1;
            if follows && after.link.previous_digest.as_ref() != Some(&before.digest) {
                broken.push(format!(
                    "report {}: it is not the one that report {} was made after",
                    before.link.sequence, after.link.sequence
                ));
            }
        }
        self.tampered.extend(broken);
    }

    fn check_head(&mut self, head: Option<Result<Head>>, named: &[u32], remembered: Option<&Head>) {
        let newest = named.last().copied().unwrap_or(0);
        let head = match head {
            None if newest == 0 && remembered.is_none() => return,
            None => {
                self.tampered.push("the head, which names the newest report, was removed".to_owned());
                None
            }
            Some(Ok(head)) => Some(head),
            Some(Err(error)) => {
                self.tampered.push(format!("the head, which names the newest report: {error}"));
                None
            }
        };
        // One put right before the head is not tampering: a drill that was killed there left it.
        if let Some(head) = &head
            && remembered.is_some_and(|known| known.sequence > head.sequence)
        {
            self.tampered
                .push("the head, which names the newest report, was put back to an older one".to_owned());
        }
        for known in head.iter().chain(remembered) {
            let found = self.entries.iter().find(|entry| entry.link.sequence == known.sequence);
            if known.sequence > newest {
                self.tampered.push(missing(newest + 1, known.sequence));
            } else if found.is_some_and(|entry| entry.digest != known.digest) {
                self.tampered.push(format!("report {}: it is not the one that was put", known.sequence));
            }
        }
        self.tampered.dedup();
    }

    /// The newest entry.
    pub fn last(&self) -> Option<&Proven> {
        self.entries.last()
    }

    /// The drills among them, oldest first.
    pub fn drills(&self) -> impl DoubleEndedIterator<Item = (&Proven, &super::report::Report)> {
        self.entries.iter().filter_map(|proven| match &proven.link.entry {
            Entry::Drill(report) => Some((proven, report.as_ref())),
            Entry::Note(_) => None,
        })
    }

    /// The notes on a drill.
    pub fn notes<'a>(&'a self, drill: &'a str) -> impl Iterator<Item = &'a super::report::Note> {
        self.entries.iter().filter_map(move |proven| match &proven.link.entry {
            Entry::Note(note) if note.drill == drill => Some(note),
            _ => None,
        })
    }

    /// How many drills were missed before `now`, with `every` as promised: an eighth late is still in time.
    pub fn missed(&self, every: Duration, now: PgTime) -> Vec<(PgTime, PgTime)> {
        let done = |report: &&super::report::Report| report.verdict != super::report::Verdict::Inconclusive;
        let mut at: Vec<PgTime> =
            self.drills().map(|(_, report)| report).filter(done).map(|report| report.started_at).collect();
        at.push(now);
        let allowed = every.as_secs_f64() * 1.125;
        let late = at.windows(2).filter(|pair| pair[1].seconds_since(pair[0]) > allowed);
        late.map(|pair| (pair[0], pair[1])).collect()
    }
}

fn missing(first: u32, last: u32) -> String {
    if first == last {
        format!("report {first} was removed")
    } else {
        format!("reports {first} to {last} were removed")
    }
}

/// What this host remembers of the newest report that it has put or seen, so that nobody can put it back.
#[derive(Debug, Clone)]
pub struct Memory(PathBuf);

impl Memory {
    /// In `directory`, of one repository.
    pub fn of(directory: &Path, repository: &Repository) -> Self {
        let name = repository.name().replace('/', "-");
        Self(directory.join(format!("newest-{name}.json")))
    }

    /// What is remembered; nothing where there is none, or where it cannot be read.
    pub fn recall(&self) -> Option<Head> {
        serde_json::from_slice(&std::fs::read(&self.0).ok()?).ok()
    }

    /// Remember `head`.
    pub fn keep(&self, head: &Head) -> Result<()> {
        let text =
            serde_json::to_vec(head).map_err(|cause| Error::corrupt(format!("write memory: {cause}")))?;
        let new = self.0.with_extension("new");
        durable::write_file(&new, &text, 0o600)?;
        durable::rename(&new, &self.0)
    }
}

/// Append an entry: sign it, put it, then the head. The caller holds the lease of a drill.
pub async fn append(
    repository: &Repository,
    key: &DrillKey,
    memory: Option<&Memory>,
    evidence: &Evidence,
    named_last: u32,
    entry: Entry,
) -> Result<Proven> {
    let remembered = memory.and_then(Memory::recall);
    let last = evidence.last();
    // A number is never used twice, even if its report was removed.
    let newest = named_last.max(remembered.as_ref().map_or(0, |head| head.sequence));
    let (previous_digest, previous_at) = match (last, &remembered) {
        (Some(last), _) if last.link.sequence == newest => (Some(last.digest.clone()), Some(last.link.at())),
        (_, Some(head)) if head.sequence == newest => (Some(head.digest.clone()), Some(head.at)),
        (Some(last), _) => (Some(last.digest.clone()), Some(last.link.at())),
        (None, _) => (None, None),
    };
    let link = Link {
        repository: repository.name().to_owned(),
        sequence: newest + 1,
        previous_digest,
        previous_at,
        entry,
    };
    let envelope = sign(key, &link)?;
    let digest = hex_digest(&envelope);
    let short = u64::from_str_radix(&digest[..16], 16).unwrap_or_default();
    // The commit point.
    repository.put_report(link.sequence, short, &envelope).await?;
    let identity = repository.identity();
    let head = Head {
        cluster: identity.cluster.to_string(),
        system_identifier: identity.system_identifier.to_string(),
        sequence: link.sequence,
        digest: digest.clone(),
        at: PgTime::now(),
    };
    repository.put_report_head(&seal(key, HEAD, &head)?).await?;
    if let Some(memory) = memory {
        memory.keep(&head)?;
    }
    Ok(Proven { link, digest, envelope })
}
