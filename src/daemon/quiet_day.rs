//! A quiet day: what a day brings that is not a fault — load that comes and goes, timers, restarts,
//! a failover, a slow store — and the alert rules as shipped say nothing. Two hosts, and one
//! repository; every scrape is what the daemon's own state says then, and promtool runs the rules
//! over a day of them.

mod agent;
mod series;
mod server;
mod vault;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use agent::Agent;
use series::{INTERVAL, Series};
use server::Server;
use vault::Vault;

use crate::ledger::Now;
use crate::postgres::PgTime;
use crate::repository::ExpiryRecord;
use crate::status::Verifications;
use crate::world::{Commit, SIZE, World};

/// Midnight, by Unix time.
const START: i64 = 1_800_057_600;
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Everything runs for so long before the first scrape.
const BEFORE: i64 = 30 * MINUTE;

/// Both clocks, by the second of the day.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn at(self, ms: i64) -> Now {
        let passed = u64::try_from(ms + DAY * 1000).unwrap();
        let time = PgTime::from_unix_micros(START * 1_000_000 + ms * 1000);
        Now { instant: self.0 + Duration::from_millis(passed), time }
    }
}

/// What happens at a second of the day. Hosts by their number.
#[derive(Debug, Clone, Copy)]
enum Happening {
    DaemonStops(usize),
    DaemonDies(usize),
    DaemonStarts(usize),
    ServerStops(usize),
    /// What it wrote last the standby never receives.
    ServerDies(usize),
    ServerStarts(usize),
    /// A standby ends its recovery: it writes the history of a new timeline, and then WAL.
    Promotes(usize),
    Promoted(usize),
    /// The old primary follows the new one, after pg_rewind.
    Rewound(usize),
    BackupBegins(usize),
    BackupEnds,
    Verified(&'static str),
    Rehearsed,
    Expired,
    /// The store answers so many times slower.
    StoreAnswers(i64),
    StoreAway,
}

/// What a day brings that is no fault: the timers as shipped, with what they are delayed by; unattended upgrades; a primary
/// that dies in the busiest hour; an hour of a store twenty times slower.
fn quiet() -> Vec<(i64, Happening)> {
    let mut all: Vec<_> =
        (0..24).map(|hour| (hour * HOUR + 7 * MINUTE, Happening::Verified("listing"))).collect();
    all.extend([
        (2 * HOUR + 37 * MINUTE, Happening::BackupBegins(0)),
        (2 * HOUR + 49 * MINUTE, Happening::BackupEnds),
        (4 * HOUR + 11 * MINUTE, Happening::Verified("content")),
        (5 * HOUR + 20 * MINUTE, Happening::Rehearsed),
        (5 * HOUR + 38 * MINUTE, Happening::Expired),
        (6 * HOUR + 10, Happening::DaemonStops(0)),
        (6 * HOUR + 40, Happening::DaemonStarts(0)),
        (6 * HOUR + 5 * MINUTE, Happening::DaemonStops(1)),
        (6 * HOUR + 5 * MINUTE + 20, Happening::DaemonStarts(1)),
        (8 * HOUR + 30 * MINUTE, Happening::ServerStops(0)),
        (8 * HOUR + 31 * MINUTE, Happening::ServerStarts(0)),
        (10 * HOUR, Happening::StoreAnswers(20)),
        (11 * HOUR, Happening::StoreAnswers(1)),
        (14 * HOUR, Happening::ServerDies(0)),
        (14 * HOUR + 29, Happening::Promotes(1)),
        (14 * HOUR + 30, Happening::Promoted(1)),
        (14 * HOUR + 2 * MINUTE, Happening::Rewound(0)),
    ]);
    all.sort_by_key(|(at, _)| *at);
    all
}

struct Host {
    name: &'static str,
    server: Server,
    agent: Option<Agent>,
}

struct Day {
    clock: Clock,
    vault: Vault,
    hosts: [Host; 2],
    /// What the standby has yet to receive.
    sent: VecDeque<Commit>,
    /// When the backup that is under way began, and where its WAL begins and ends.
    backup: Option<(i64, u64, Option<u64>)>,
    series: Series,
}

impl Day {
    /// The evening before: a week of nights is stored.
    fn new(rules: &str) -> Self {
        let mut world = World::grow(1, 0);
        (world.commits, world.segments, world.tails) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        world.commits.insert(1, Vec::new());
        (world.backups, world.packs) = (Vec::new(), BTreeMap::new());
        world.unreadable.clear();
        let slower = 1;
        let (expiry, verifications) = (ExpiryRecord::default(), Verifications::default());
        let mut vault = Vault { world, expiry, verifications, drills: Vec::new(), slower, away: false };
        let mut server = Server::new(1, 4 * u64::from(SIZE) + 40, false);
        for day in -9..0 {
            for segment in 0..24 {
                let at = day * DAY + segment * HOUR;
                server.grow((server.lsn + u64::from(SIZE) - 8, START + at), at);
                vault.world.now = START + at;
                server.archive_all(&mut vault.world);
                if segment == 2 {
                    let from = server.lsn;
                    switch(&mut server, at + 30 * MINUTE);
                    vault.world.now += 40 * MINUTE;
                    server.archive_all(&mut vault.world);
                    assert!(vault.backup(at + 30 * MINUTE, from, from + 8, 1));
                }
            }
        }
        vault.expire(5 * HOUR + 36 * MINUTE - DAY);
        vault.verify("content", 4 * HOUR + 3 * MINUTE - DAY);
        vault.verify("listing", -HOUR);
        vault.verifications.verifications_read = true;
        vault.rehearse(5 * HOUR + 10 * MINUTE - 31 * DAY);
        let mut standby = Server::new(1, server.lsn, true);
        (standby.here, standby.open) = (server.here.clone(), server.open.clone());
        let host = |name, server| Host { name, server, agent: None };
        Self {
            clock: Clock(Instant::now()),
            vault,
            hosts: [host("a", server), host("b", standby)],
            sent: VecDeque::new(),
            backup: None,
            series: Series::for_rules(rules),
        }
    }

    /// Bytes of WAL that are written in this second of the day.
    fn load(&mut self, second: i64) -> u64 {
        let base = match second.rem_euclid(DAY) / HOUR {
            _ if (20 * HOUR..20 * HOUR + 10 * MINUTE).contains(&second) => 200_000,
            _ if (10 * HOUR + 20 * MINUTE..10 * HOUR + 23 * MINUTE).contains(&second) => 500_000,
            9..=11 | 13..=16 => 10_000,
            7..=8 | 17..=22 => 3000,
            _ => 0,
        };
        // The daemon's heartbeats.
        let beat = if second % 10 == 0 { 120 } else { 0 };
        base / 2 + self.vault.world.random.below(base) + beat
    }

    /// The primary writes, and what it wrote a second ago reaches the standby.
    fn write(&mut self, second: i64) {
        let bytes = self.load(second);
        let due = std::mem::take(&mut self.sent);
        for host in self.hosts.iter_mut().filter(|host| host.server.up && host.server.standby) {
            for commit in &due {
                host.server.grow(*commit, second);
            }
        }
        let Some(host) = self.hosts.iter_mut().find(|host| host.server.up && !host.server.standby) else {
            return;
        };
        if bytes > 0 {
            let end = host.server.lsn + bytes;
            // No commit ends where a segment does.
            let commit = (if end.is_multiple_of(SIZE.into()) { end + 8 } else { end }, START + second);
            host.server.grow(commit, second);
            self.sent.push_back(commit);
        }
    }

    async fn happens(&mut self, second: i64, what: Happening) {
        let ms = second * 1000;
        self.vault.world.now = START + second;
        match what {
            Happening::DaemonStops(host) => {
                let Host { server, agent, .. } = &mut self.hosts[host];
                agent.take().unwrap().stop(ms, server, &mut self.vault);
            }
            Happening::DaemonDies(host) => self.hosts[host].agent = None,
            Happening::DaemonStarts(host) => {
                self.hosts[host].agent = Some(Agent::start(self.clock, ms, self.vault.slower).await);
            }
            Happening::ServerStops(host) => self.hosts[host].server.up = false,
            Happening::ServerDies(host) => {
                self.hosts[host].server.up = false;
                self.sent.clear();
            }
            Happening::ServerStarts(host) => {
                let server = &mut self.hosts[host].server;
                (server.up, server.started) = (true, second);
            }
            Happening::Promotes(host) => {
                self.sent.clear();
                let server = &mut self.hosts[host].server;
                server.timeline = self.vault.world.fork(server.timeline, server.lsn);
                self.vault.world.hidden.insert(server.timeline);
                server.history_ready = true;
            }
            Happening::Promoted(host) => self.hosts[host].server.standby = false,
            Happening::Rewound(host) => {
                let new = &self.hosts[1 - host].server;
                let mut server = Server::new(new.timeline, new.lsn, true);
                (server.here, server.open) = (new.here.clone(), new.open.clone());
                server.started = second;
                self.hosts[host].server = server;
            }
            Happening::BackupBegins(host) => self.backup = Some((second, self.hosts[host].server.lsn, None)),
            Happening::BackupEnds => {
                let host = self.hosts.iter_mut().find(|host| !host.server.standby).unwrap();
                let stop = host.server.lsn;
                self.sent.push_back(switch(&mut host.server, second));
                self.backup.as_mut().unwrap().2 = Some(stop);
            }
            Happening::Verified(level) => self.vault.verify(level, second),
            Happening::Rehearsed => self.vault.rehearse(second),
            Happening::Expired => self.vault.expire(second),
            Happening::StoreAnswers(slower) => (self.vault.slower, self.vault.away) = (slower, false),
            Happening::StoreAway => self.vault.away = true,
        }
    }

    /// From midnight on.
    async fn pass(&mut self, until: i64, mut happenings: Vec<(i64, Happening)>) {
        happenings.sort_by_key(|(at, _)| *at);
        let mut happenings = VecDeque::from(happenings);
        for host in 0..2 {
            self.happens(-BEFORE, Happening::DaemonStarts(host)).await;
        }
        for second in -BEFORE..until {
            while let Some((_, what)) = happenings.pop_front_if(|(at, _)| *at <= second) {
                self.happens(second, what).await;
            }
            self.write(second);
            for Host { server, agent, .. } in &mut self.hosts {
                match agent {
                    Some(agent) => agent.step(second * 1000, server, &mut self.vault),
                    // archive_command asks no daemon then.
                    None if server.up && !self.vault.away => {
                        self.vault.world.now = START + second;
                        server.archive_all(&mut self.vault.world);
                    }
                    None => {}
                }
            }
            self.end_backup(second);
            if second >= 0 && second % INTERVAL == 0 {
                for host in &self.hosts {
                    let text = host.agent.as_ref().map(|agent| agent.metrics(second * 1000));
                    self.series.scraped(host.name, text.as_deref());
                }
                self.series.scrapes += 1;
            }
        }
    }

    fn end_backup(&mut self, second: i64) {
        let Some((begun, from, Some(to))) = self.backup else { return };
        self.vault.world.now = START + second;
        let host = self.hosts.iter_mut().find(|host| !host.server.standby).unwrap();
        if self.vault.backup(begun, from, to, host.server.timeline) {
            self.backup = None;
            if let Some(agent) = &mut host.agent {
                agent.backup_made(second * 1000);
            }
        }
    }
}

/// The end of a backup switches to a new segment.
fn switch(server: &mut Server, second: i64) -> Commit {
    let next = (server.lsn / u64::from(SIZE) + 1) * u64::from(SIZE) + 40;
    server.grow((next, START + second), second);
    (next, START + second)
}

fn rules() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/monitoring/prometheus/walproof-rules.yml");
    std::fs::read_to_string(path).unwrap()
}

/// An alert's name, once for each that was ever in this state.
fn ever(state: &str, more: &str) -> String {
    format!("max by (alertname) (max_over_time(ALERTS{{alertstate=\"{state}\",alertname{more}}}[25h]))")
}

fn fired() -> String {
    ever("firing", "!=\"Watchdog\"")
}

#[tokio::test]
async fn a_quiet_day_fires_nothing() {
    let rules = rules();
    let mut day = Day::new(&rules);
    day.pass(DAY, quiet()).await;
    let saw = |series: &str| day.series.values(series).count() > 0;
    let most = |series: &str| day.series.values(series).fold(0.0, f64::max);
    // It was a day, and what happened in it was seen.
    assert!(day.series.values("up{instance=\"a\"").any(|up| up == 0.0));
    for (timeline, role) in [(1, "primary"), (1, "down"), (2, "standby")] {
        let of_a = "walproof_cluster_info{instance=\"a\",job=\"walproof\",cluster=\"main\",system_identifier=\"7300000000000000001\"";
        assert!(
            saw(&format!("{of_a},pg_version=\"15.18\",timeline=\"{timeline}\",role=\"{role}\"")),
            "{timeline} {role}"
        );
    }
    let (slow, backups) = (most("walproof_rpo_seconds{instance=\"a\""), most("walproof_backups"));
    assert!(slow > 10.0, "an hour of a slow store shows: {slow}");
    assert!(backups > 7.0, "{backups}");
    // No restart is taken for anything else; and only the server that was replaced sees that somebody else writes.
    let told = ["a foreign_timeline", "a rpo_unknown", "a server_down", "b rpo_unknown"];
    assert_eq!(day.series.problems(), told.map(str::to_owned).into());
    let waiting = ever("pending", "=~\"WalproofDaemonDown|WalproofServerDown\"");
    let waited = ["{alertname=\"WalproofDaemonDown\"}", "{alertname=\"WalproofServerDown\"}"];
    day.series.judge(&rules, &[(&fired(), &[]), (&waiting, &waited)]).unwrap();
}

/// What the first hours of such a day fire if this happens in them, too.
async fn fires(rules: &str, faults: &[(i64, Happening)]) -> String {
    let mut day = Day::new(rules);
    let mut happenings = quiet();
    happenings.extend(faults);
    day.pass(2 * HOUR, happenings).await;
    day.series.judge(rules, &[(&fired(), &[])]).expect_err("something fires")
}

#[tokio::test]
async fn a_day_that_is_not_quiet_fires() {
    let rules = rules();
    let dead = [(HOUR / 2, Happening::DaemonDies(0)), (HOUR + HOUR / 2, Happening::DaemonStarts(0))];
    let said = fires(&rules, &dead).await;
    assert!(said.contains("WalproofDaemonDown") && !said.contains("WalproofStoreDown"), "{said}");
    let away = [(HOUR / 2, Happening::StoreAway), (HOUR + HOUR / 2, Happening::StoreAnswers(1))];
    let said = fires(&rules, &away).await;
    for alert in ["WalproofStoreDown", "WalproofRpoExceeded", "WalproofStoreUnsteady"] {
        assert!(said.contains(alert), "{alert}: {said}");
    }
    let restart = [(HOUR, Happening::DaemonStops(0)), (HOUR + 20, Happening::DaemonStarts(0))];
    let hasty = rules.replace("for: 2m", "for: 0m");
    let said = fires(&hasty, &restart).await;
    assert!(said.contains("WalproofDaemonDown"), "{said}");
}
