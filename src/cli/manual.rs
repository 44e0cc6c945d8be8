//! What the manual pages say beyond the options: examples to copy, and the exit codes of each command.

/// Of one command.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) command: &'static str,
    /// What for, and the line to type.
    pub(crate) examples: &'static [(&'static str, &'static str)],
    /// What 0, 1 or 10 mean for this command, where that is not "done".
    pub(crate) verdicts: &'static [(u8, &'static str)],
    /// The other codes that it ends with.
    pub(crate) codes: &'static [u8],
}

/// The codes that mean the same for every command.
pub(crate) const COMMON: [(u8, &str); 8] = [
    (2, "usage or configuration"),
    (3, "conflict: other bytes are stored under that name"),
    (4, "the store cannot be reached or refuses us, after retries"),
    (5, "corrupt, tampered with, or sealed with a key that is not at hand"),
    (6, "PostgreSQL cannot be reached, or refuses, or is not the configured cluster"),
    (7, "another backup, expiry or restore holds the lease"),
    (8, "not possible as asked"),
    (9, "anything else: the local disk, the operating system"),
];

/// The page of a command.
pub(crate) fn page(command: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.command == command)
}

const READS: &[u8] = &[2, 4, 5, 9];
const WRONG: (u8, &str) = (1, "something is wrong: see the output");

#[rustfmt::skip] // one line for a line of the page
const PAGES: &[Page] = &[
    Page {
        command: "init",
        examples: &[("Once, before PostgreSQL archives:", "sudo -u postgres walproof init")],
        verdicts: &[(0, "the repository is there, made now or before")],
        codes: &[2, 4, 5, 6, 8, 9],
    },
    Page {
        command: "check",
        examples: &[
            ("Everything, one line each:", "sudo -u postgres walproof check"),
            ("For a script:", "walproof check --json"),
        ],
        verdicts: &[(0, "no line says FAIL"), (1, "a line says FAIL: see its hint")],
        codes: &[2, 9],
    },
    Page {
        command: "wal-push",
        examples: &[
            ("In postgresql.conf:", "archive_command = 'walproof wal-push %p'"),
            ("By hand, in the data directory; repeating it does no harm:", "walproof wal-push pg_wal/000000010000000000000042"),
        ],
        verdicts: &[(0, "the file is stored durably, now or before")],
        codes: &[2, 3, 4, 5, 6, 8, 9],
    },
    Page {
        command: "wal-fetch",
        examples: &[
            ("What restore writes into postgresql.auto.conf:", "restore_command = 'walproof wal-fetch --tail %f %p'"),
            ("On a standby:", "restore_command = 'walproof wal-fetch --standby %f %p'"),
        ],
        verdicts: &[
            (0, "the file is in place, authenticated"),
            (1, "the repository answered that the file is not there. Any other failure adds 200 to the codes below, \
                 because PostgreSQL takes up to 125 for the end of the WAL; with --standby it does not"),
        ],
        codes: &[2, 3, 4, 5, 6, 9],
    },
    Page {
        command: "wal-list",
        examples: &[("Runs, gaps and tail:", "walproof wal-list"), ("Only the gaps:", "walproof wal-list --json | jq .gaps")],
        verdicts: &[],
        codes: READS,
    },
    Page {
        command: "backup-push",
        examples: &[
            ("A backup now, then retention:", "sudo -u postgres walproof backup-push"),
            ("The same under the limits of the timer's service:", "sudo systemctl start walproof-backup"),
        ],
        verdicts: &[(0, "the backup is listed, and no page failed its checksum")],
        codes: &[2, 3, 4, 5, 6, 7, 8, 9],
    },
    Page {
        command: "backup-list",
        examples: &[
            ("Newest last:", "walproof backup-list"),
            ("The id of the newest:", "walproof backup-list --json | jq -r '.[-1].id'"),
        ],
        verdicts: &[],
        codes: READS,
    },
    Page {
        command: "backup-show",
        examples: &[("With copies of the configuration files that it holds:", "walproof backup-show 20261122T023000Z-1a2b3c4d --json")],
        verdicts: &[],
        codes: &[2, 4, 5, 8, 9],
    },
    Page {
        command: "backup-hold",
        examples: &[
            ("Keep the state before a migration:", "walproof backup-hold 20261122T023000Z-1a2b3c4d --reason 'before the migration'"),
            ("And any time from it until now:", "walproof backup-hold 20261122T023000Z-1a2b3c4d --until-now --reason audit"),
        ],
        verdicts: &[],
        codes: &[2, 4, 5, 7, 8, 9],
    },
    Page {
        command: "backup-unhold",
        examples: &[("", "walproof backup-unhold 20261122T023000Z-1a2b3c4d")],
        verdicts: &[],
        codes: &[2, 4, 5, 8, 9],
    },
    Page {
        command: "expire",
        examples: &[
            ("Look first:", "walproof expire --dry-run"),
            ("Where backups do not enforce retention themselves:", "sudo systemctl enable --now walproof-expire.timer"),
        ],
        verdicts: &[],
        codes: &[2, 4, 5, 7, 9],
    },
    Page {
        command: "verify",
        examples: &[
            ("By names and sizes, in seconds:", "walproof verify"),
            ("For each backup and each day, whether it can be restored:", "walproof verify --restorable"),
            ("Open what was not opened within the window, gently:", "walproof verify --content --max-rate 50MiB --max-bytes 200GiB"),
        ],
        verdicts: &[(0, "nothing is missing or damaged"), (1, "a restore would trip over something: see the output")],
        codes: READS,
    },
    Page {
        command: "restore",
        examples: &[
            ("Look first; nothing is touched:", "walproof restore --to /var/lib/postgresql/15/main --dry-run"),
            ("The newest state, after the host died:", "walproof restore --to /var/lib/postgresql/15/main"),
            ("Just before a mistake:", "walproof restore --to /var/lib/postgresql/15/main --target-time '2026-11-22 02:41:00+01'"),
            ("A rehearsal beside production:", "walproof restore --to /srv/rehearsal --archive-mode off"),
            ("A standby:", "walproof restore --to /var/lib/postgresql/15/main --standby"),
        ],
        verdicts: &[(0, "the data directory is complete and durable: start the server")],
        codes: &[2, 4, 5, 7, 8, 9],
    },
    Page {
        command: "drill",
        examples: &[
            ("As configured, now:", "sudo -u postgres walproof drill"),
            ("The state a minute ago, and the results for node_exporter:",
             "walproof drill --target-time 'now - 1 min' --textfile /var/lib/prometheus/node-exporter/walproof-drill.prom"),
        ],
        verdicts: &[
            (0, "pass"),
            (1, "fail: a restore would not have kept what was promised"),
            (10, "inconclusive: could not verify, so neither passed nor failed"),
        ],
        codes: &[2, 4, 5, 7, 8, 9],
    },
    Page {
        command: "drill-list",
        examples: &[
            ("On the host that signs:", "walproof drill-list"),
            ("Anywhere, with the public key:", "walproof drill-list --public-key /etc/walproof/drill.pub"),
        ],
        verdicts: &[(0, "the evidence is whole"), WRONG],
        codes: READS,
    },
    Page {
        command: "drill-report",
        examples: &[
            ("The newest:", "walproof drill-report"),
            ("A page to send to an auditor:", "walproof drill-report --format html"),
        ],
        verdicts: &[(0, "the evidence is whole"), (1, "evidence was tampered with: it is named on stderr")],
        codes: &[2, 4, 5, 8, 9],
    },
    Page {
        command: "drill-note",
        examples: &[("", "walproof drill-note 20261101T050000Z-5e6f7a8b 'index rebuilt, drilled again: pass'")],
        verdicts: &[],
        codes: &[2, 4, 5, 7, 8, 9],
    },
    Page {
        command: "drill-export",
        examples: &[("The newest, for somebody without access:", "walproof drill-export --to drill.dsse.json")],
        verdicts: &[],
        codes: &[2, 4, 5, 8, 9],
    },
    Page {
        command: "drill-verify",
        examples: &[("Needs neither repository nor secrets:", "walproof drill-verify drill.dsse.json --public-key drill.pub")],
        verdicts: &[(0, "the signature is genuine")],
        codes: &[2, 5, 9],
    },
    Page {
        command: "drill-keygen",
        examples: &[("", "sudo walproof drill-keygen --to /etc/walproof/drill.key | sudo tee /etc/walproof/drill.pub")],
        verdicts: &[],
        codes: &[2, 8, 9],
    },
    Page {
        command: "status",
        examples: &[
            ("In words:", "sudo -u postgres walproof status"),
            ("How many seconds of commits would be lost now:", "walproof status --json | jq .rpo_seconds"),
        ],
        verdicts: &[(0, "nothing critical"), (1, "there is a critical problem: see the output, and walproof-explain(1)")],
        codes: READS,
    },
    Page {
        command: "explain",
        examples: &[("What to do about a gap:", "walproof explain wal_gap"), ("All runbooks:", "walproof explain")],
        verdicts: &[],
        codes: &[2, 9],
    },
    Page {
        command: "daemon",
        examples: &[
            ("By systemd:", "sudo systemctl enable --now walproof"),
            ("In the foreground, to see what it does:", "sudo -u postgres walproof daemon -v"),
        ],
        verdicts: &[(0, "it was asked to stop, and did")],
        codes: &[2, 4, 5, 6, 9],
    },
    Page {
        command: "keygen",
        examples: &[("Keep a copy elsewhere: without it nothing can be restored.", "sudo walproof keygen --to /etc/walproof/key")],
        verdicts: &[],
        codes: &[8, 9],
    },
    Page {
        command: "key-rotate",
        examples: &[
            ("The new key on the first line, the old one behind it, on every host; restart the daemons; then:",
             "sudo -u postgres walproof key-rotate"),
        ],
        verdicts: &[],
        codes: &[2, 4, 5, 7, 9],
    },
    Page {
        command: "completions",
        examples: &[
            ("bash:", "walproof completions bash | sudo tee /usr/share/bash-completion/completions/walproof"),
            ("zsh:", "walproof completions zsh | sudo tee /usr/local/share/zsh/site-functions/_walproof"),
            ("fish:", "walproof completions fish | sudo tee /etc/fish/completions/walproof.fish"),
        ],
        verdicts: &[],
        codes: &[2, 9],
    },
    Page {
        command: "man",
        examples: &[
            ("Read one:", "walproof man restore | man -l -"),
            ("For a package:", "walproof man --to debian/walproof/usr/share/man/man1"),
        ],
        verdicts: &[],
        codes: &[2, 9],
    },
];

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::args::Cli;
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_page_a_command() {
        let mut commands: Vec<String> = Cli::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(|command| command.get_name().to_owned())
            .collect();
        let mut pages: Vec<String> = PAGES.iter().map(|page| page.command.to_owned()).collect();
        commands.sort();
        pages.sort();
        assert_eq!(pages, commands);
        assert!(PAGES.iter().all(|page| !page.examples.is_empty()));
    }

    /// Words as a shell splits them, as far as the examples need.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for letter in line.chars() {
            match letter {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                other => words.last_mut().unwrap().push(other),
            }
        }
        words
    }

    #[test]
    fn every_example_is_a_command_line_that_parses() {
        let mut tried = 0;
        for (page, example) in
            PAGES.iter().flat_map(|page| page.examples.iter().map(move |(_, line)| (page, line)))
        {
            // A setting of PostgreSQL holds the command in quotes; what another program does with the output is its own.
            let line =
                example.split_once("_command = ").map_or(*example, |(_, value)| value.trim_matches('\''));
            let line = line.split(" | ").next().unwrap();
            let all = words(line);
            let Some(from) = all.iter().position(|word| word == "walproof") else {
                assert!(line.starts_with("sudo systemctl "), "{line}");
                continue;
            };
            let ours = &all[from..];
            if !line.contains("systemctl") {
                assert_eq!(ours[1], page.command, "{line}");
                assert!(Cli::try_parse_from(ours).is_ok(), "{line}: {:?}", Cli::try_parse_from(ours).err());
                tried += 1;
            }
        }
        assert!(tried > PAGES.len(), "{tried}");
    }

    #[test]
    fn codes_are_known() {
        for page in PAGES {
            assert!(page.codes.iter().all(|code| COMMON.iter().any(|(known, _)| known == code)), "{page:?}");
            assert!(page.verdicts.iter().all(|(code, _)| [0, 1, 10].contains(code)), "{page:?}");
        }
    }
}
