//! Evidence that was tampered with is named, whatever was done to it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::postgres::Lsn;
use crate::repository::fixture;

fn report(number: u32, verdict: Verdict) -> Report {
    // Young: old reports expire.
    let at = PgTime::now().unix_micros() + (i64::from(number) - 30) * 86_400_000_000;
    let at = PgTime::from_unix_micros(at);
    Report {
        id: format!("drill-{number}"),
        cluster: "main".into(),
        system_identifier: fixture::SYSTEM.to_string(),
        started_at: at,
        finished_at: at,
        ran_by: "user postgres on staging".into(),
        target: "latest".into(),
        target_choice: "latest".into(),
        backup: Some("b".into()),
        backup_digest: None,
        timeline: None,
        branch: None,
        reached_lsn: Some(Lsn::new(7)),
        reached_time: None,
        rpo_seconds: Some(1.0),
        rto_seconds: 110.0,
        phases: Phases { lookup: 5.0, fetch: 50.0, replay: 40.0, open: 5.0, checks: 10.0 },
        bytes: 1000,
        wal_segments: 20,
        checks: vec![Check {
            name: "canary".into(),
            verdict: CheckVerdict::Pass,
            detail: "fresh <&>".into(),
            seconds: 1.0,
        }],
        objectives: Objectives { rpo_seconds: 900.0, rto_seconds: 3600.0, every_seconds: 86_400.0 },
        estimate_seconds: Some(100.0),
        verdict,
        reasons: Vec::new(),
        versions: Versions::default(),
        isolation: Vec::new(),
    }
}

struct Chain {
    repository: Repository,
    key: DrillKey,
    memory: Memory,
    _scratch: tempfile::TempDir,
}

impl Chain {
    /// Of so many drills.
    async fn of(count: u32) -> Self {
        let (_, repository) = fixture::memory().await;
        let scratch = tempfile::tempdir().unwrap();
        let memory = Memory::of(scratch.path(), &repository);
        let chain = Self { repository, key: DrillKey::generate().unwrap(), memory, _scratch: scratch };
        for number in 1..=count {
            chain.append(Entry::Drill(Box::new(report(number, Verdict::Pass)))).await;
        }
        chain
    }

    async fn append(&self, entry: Entry) -> Proven {
        let stored = self.stored().await;
        let newest = stored.envelopes.iter().map(|(sequence, ..)| *sequence).max().unwrap_or(0);
        let evidence = stored.judge(&self.keys(), None);
        append(&self.repository, &self.key, Some(&self.memory), &evidence, newest, entry).await.unwrap()
    }

    fn keys(&self) -> [PublicKey; 1] {
        [self.key.public()]
    }

    async fn stored(&self) -> Stored {
        Stored::read(&self.repository).await.unwrap()
    }

    /// What is said of `stored`, by a host that has no memory.
    fn said(&self, stored: &Stored) -> String {
        stored.judge(&self.keys(), None).tampered.join("\n")
    }
}

/// The envelope with another payload, and the old signature.
fn edited(envelope: &[u8]) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(envelope).unwrap();
    let payload = STANDARD.decode(value["payload"].as_str().unwrap()).unwrap();
    let text = String::from_utf8(payload).unwrap().replace("\"rto_seconds\":110.0", "\"rto_seconds\":10.0");
    value["payload"] = STANDARD.encode(text).into();
    serde_json::to_vec(&value).unwrap()
}

#[tokio::test]
async fn a_whole_chain_holds_with_notes_in_it() {
    let chain = Chain::of(3).await;
    let note = Note { drill: "drill-2".into(), text: "done".into(), at: PgTime::now(), by: "me".into() };
    chain.append(Entry::Note(note)).await;
    let evidence = chain.stored().await.judge(&chain.keys(), chain.memory.recall().as_ref());
    assert_eq!(evidence.tampered, [""; 0]);
    assert_eq!((evidence.entries.len(), evidence.drills().count()), (4, 3));
    assert_eq!(evidence.notes("drill-2").count(), 1);
    assert_eq!(chain.memory.recall().unwrap().sequence, 4);
}

#[tokio::test]
async fn every_kind_of_tampering_is_named() {
    let chain = Chain::of(4).await;
    let whole = chain.stored().await;
    assert_eq!(chain.said(&whole), "");
    let bytes = |number: usize| whole.envelopes[number - 1].2.clone().unwrap();

    let mut changed = whole.clone();
    changed.envelopes[1].2 = Ok(edited(&bytes(2)));
    assert!(
        chain.said(&changed).contains("report 2: the envelope does not bear the signature"),
        "{}",
        chain.said(&changed)
    );

    let mut removed = whole.clone();
    drop(removed.envelopes.remove(1));
    assert!(chain.said(&removed).contains("report 2 was removed"));
    drop(removed.envelopes.remove(1));
    assert!(chain.said(&removed).contains("reports 2 to 3 were removed"));
    let mut first = whole.clone();
    drop(first.envelopes.remove(0));
    assert!(chain.said(&first).contains("report 1 was removed"));

    let mut swapped = whole.clone();
    (swapped.envelopes[1].2, swapped.envelopes[2].2) = (Ok(bytes(3)), Ok(bytes(2)));
    let said = chain.said(&swapped);
    assert!(said.contains("report 2: it is report 3") && said.contains("report 3: it is report 2"), "{said}");

    let stranger = Chain::of(4).await;
    let mut signed = whole.clone();
    signed.envelopes[2] = stranger.stored().await.envelopes[2].clone();
    assert!(chain.said(&signed).contains("report 3: the envelope was signed with another key"));

    let mut newest = whole.clone();
    newest.envelopes.pop();
    assert!(chain.said(&newest).contains("report 4 was removed"));
    newest.head = None;
    assert!(chain.said(&newest).contains("the head"));
    let mut none = whole.clone();
    none.envelopes.clear();
    assert!(chain.said(&none).contains("reports 1 to 4 were removed"));

    // A second version under the same number, made by the key's owner: one of them is not the chain's.
    let mut doubled = whole.clone();
    let other = Chain { key: DrillKey::parse(&chain.key.to_pem()).unwrap(), ..Chain::of(0).await };
    other.append(Entry::Drill(Box::new(report(9, Verdict::Pass)))).await;
    doubled.envelopes.insert(1, other.stored().await.envelopes[0].clone());
    assert!(chain.said(&doubled).contains("there are 2 with this number"));
}

#[tokio::test]
async fn what_the_same_key_signed_for_another_repository_proves_nothing() {
    let chain = Chain::of(2).await;
    let note = Note { drill: "drill-2".into(), text: "done".into(), at: PgTime::now(), by: "me".into() };
    chain.append(Entry::Note(note)).await;
    let own = chain.stored().await;
    assert_eq!(chain.said(&own), "");
    for other in [format!("other/{}", fixture::SYSTEM), "main/7".to_owned()] {
        let copied = Stored { repository: other.clone(), ..own.clone() };
        let evidence = copied.judge(&chain.keys(), None);
        assert_eq!(evidence.entries, []);
        for of in ["report 1", "report 2", "report 3", "the head, which names the newest report"] {
            let told = format!("{of}: it was made for main/{}, and this is", fixture::SYSTEM);
            assert!(evidence.tampered.iter().any(|said| said.starts_with(&told)), "{of}: {evidence:?}");
        }
    }
    // A report that names another one than its place in the chain does.
    let strange = Report { cluster: "other".into(), ..report(3, Verdict::Pass) };
    chain.append(Entry::Drill(Box::new(strange))).await;
    let said = chain.said(&chain.stored().await);
    assert!(said.contains("report 4: it was made for other/"), "{said}");
}

#[tokio::test]
async fn a_head_that_was_put_back_is_known_to_the_host_that_signed() {
    let chain = Chain::of(3).await;
    let earlier = chain.stored().await;
    chain.append(Entry::Drill(Box::new(report(4, Verdict::Fail)))).await;
    // The failed drill is gone, and the head is the one from before it.
    let said = earlier.judge(&chain.keys(), chain.memory.recall().as_ref()).tampered.join("\n");
    assert!(said.contains("put back to an older one") && said.contains("report 4 was removed"), "{said}");
    let unknown = Stored::default().judge(&chain.keys(), chain.memory.recall().as_ref());
    assert!(unknown.tampered.iter().any(|told| told.contains("reports 1 to 4 were removed")), "{unknown:?}");
}

#[tokio::test]
async fn missed_runs_show_and_inconclusive_ones_do_not_count() {
    let chain = Chain::of(2).await;
    chain.append(Entry::Drill(Box::new(report(3, Verdict::Inconclusive)))).await;
    chain.append(Entry::Drill(Box::new(report(4, Verdict::Fail)))).await;
    let evidence = chain.stored().await.judge(&chain.keys(), None);
    let day = Duration::from_hours(24);
    let now = report(4, Verdict::Pass).started_at;
    assert_eq!(evidence.missed(day, now).len(), 1, "two days between the second and the fourth");
    assert_eq!(evidence.missed(day * 3, now).len(), 0);
}

#[tokio::test]
async fn an_envelope_is_what_dsse_says_and_not_after_one_changed_byte() {
    let chain = Chain::of(1).await;
    let envelope = chain.stored().await.envelopes[0].2.clone().unwrap();
    open_link(&envelope, &chain.keys()).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&envelope).unwrap();
    let text = |at: &serde_json::Value| STANDARD.decode(at.as_str().unwrap()).unwrap();
    let (payload, signature) = (text(&value["payload"]), text(&value["signatures"][0]["sig"]));
    // By the specification, with the library alone.
    let signed = format!(
        "DSSEv1 28 application/vnd.in-toto+json {} {}",
        payload.len(),
        String::from_utf8_lossy(&payload)
    );
    let pem = chain.key.public().to_pem();
    let der = STANDARD.decode(pem.lines().nth(1).unwrap()).unwrap();
    let key = ed25519_dalek::VerifyingKey::from_bytes(der[12..].try_into().unwrap()).unwrap();
    key.verify_strict(signed.as_bytes(), &signature.as_slice().try_into().unwrap()).unwrap();
    for at in 0..envelope.len() {
        let mut changed = envelope.clone();
        changed[at] ^= 1;
        // A byte of what says nothing, such as base64's last bits, may differ only where it is refused, too.
        assert!(open_link(&changed, &chain.keys()).is_err(), "byte {at}");
    }
}

#[test]
fn an_estimate_follows_from_the_rates_of_passed_drills() {
    let one = report(1, Verdict::Pass);
    let failed = Report { bytes: 1, ..report(2, Verdict::Fail) };
    assert_eq!(estimate([&failed].into_iter(), 1000, 20), None);
    let same = estimate([&failed, &one].into_iter(), 1000, 20).unwrap();
    assert!((same - 110.0).abs() < 1e-9);
    let twice = estimate([&one].into_iter(), 2000, 40).unwrap();
    assert!((twice - 210.0).abs() < 1e-9, "{twice}");
}

#[tokio::test]
async fn pages_escape_what_they_show_and_ask_for_nothing_else() {
    let chain = Chain::of(3).await;
    let evidence = chain.stored().await.judge(&chain.keys(), None);
    let (proven, report) = evidence.drills().next_back().unwrap();
    let page = html::page(&evidence, proven, report);
    assert!(page.contains("fresh &lt;&amp;&gt;") && !page.contains("http") && !page.contains("<script"));
    assert!(page.contains("The backup restores") && page.contains(&proven.digest));
    let told = text::report(&evidence, proven, report);
    assert!(told.contains("PASS") && told.contains("canary"), "{told}");
}
