//! PostgreSQL backups that prove they restore.
//!
//! The folders are ranks; imports go down only, and `tests/architecture.rs` says so:
//!
//! ```text
//! 15  main  lib
//! 14  commands                                    one file a command
//! 13  cli                                         arguments, output, how a command begins
//! 12  config                                      words from the operator become values
//! 11  daemon                                      time and process: the socket, HTTP, systemd
//! 10  archiver  status  drill                     one repository, continuously; what is known, shown; rehearsals
//!  9  ledger                                      what is known of a server and its repository, a pure value
//!  8  archive  backup  restore  retention         one room a flow; its mod.rs reads as the story
//!     rotation  verify
//!  7  window  snapshot                            what can be restored: branches, recovery window; all that is known
//!  6  catalog                                     what one listing says, and what the small objects that it names say
//!  5  records  arrivals  digest_reader  world     the small objects that a listing names, read once; WAL seen to arrive; page
//!                                                 digests; for tests: a repository made up
//!  4  repository                                  what is put, listed, read, deleted, and who may
//!  3  format  signing                             the only room that knows a key name or a byte of an object; keys of evidence
//!  2  seal  store  cluster                        bytes <-> sealed bytes, bytes <-> objects, a live PostgreSQL
//!  1  disk  encoding  present  wal  problem       durable writes, free space; numbers as bytes; units; what WAL says; codes
//!  0  postgres  error                             pure vocabulary: no I/O, no async, no configuration
//! ```
//!
//! # Glossary: one word, one thing
//!
//! | word | is | is never |
//! |---|---|---|
//! | cluster | one PGDATA with one system identifier | a set of machines; the *server* is the running process |
//! | segment | a WAL file of the size chosen at initdb | a 1 GB piece of a relation: that is a *relation file* |
//! | timeline, history | PostgreSQL's TLI and its `.history` | a schedule, a log |
//! | LSN roles | `start`, `stop`, `redo`, `flushed`, `archived` (contiguously durable), `target` | a bare `lsn`, `pos`, `offset` |
//! | backup | a finished base backup; it exists if and only if its manifest exists | an attempt in progress |
//! | extent | a run of pages (or bytes) of one file, and the part of a frame that it lies in | block, chunk, blob |
//! | pack | an object that holds extents | archive, bundle |
//! | manifest | the record that makes a backup exist; written last | index, info |
//! | seal, open | compress + encrypt + frame, and back | encode, process |
//! | store | five dumb verbs over objects | repository |
//! | repository | format and identity of one cluster's backups, in a store | bucket, remote, stanza |
//! | listing | one pass over the keys of a repository, parsed | a catalog (that is a pure function of a listing and its manifests) |
//! | catalog | what one listing of the repository says now | cache, state |
//! | branch | the lineage of one timeline that no other timeline continues | a backup chain (there is none) |
//! | links | of a segment: the record that its first one follows, and the last one that begins in it; neighbours on a path must agree | a digest (that is of the content) |
//! | span | WAL without a hole along a branch | run (that is on one timeline, by names alone) |
//! | destination | the repository that a configuration means: store, prefix, cluster | a bucket |
//! | hold | that a backup is kept past the window, and why | a lease (that is a process's, and ends) |
//! | run | a maximal contiguous range of archived WAL on a timeline | chain |
//! | tail | the flushed part of the segment that PostgreSQL has not finished yet | partial (that is PostgreSQL's `.partial` file) |
//! | recovery window | what can be restored: branches x backups x spans, as a value | retention (the *policy*) |
//! | RPO | seconds of flushed WAL that would be lost if the host vanished now | age of the last archived file |
//! | RTO | seconds from 'restore' to 'accepts queries and passes its checks' | download time |
//! | drill | a restore rehearsal that ends in a report | verify (reads bytes), check (asks configuration) |
//! | verdict | of a drill: pass, fail, inconclusive | exit code |
//! | evidence | the signed reports of drills, chained | a log |
//! | canary | what the daemon writes into WAL so that a drill knows whose WAL it replayed, and how fresh it is | a row in a table |
//! | push, fetch | WAL out, WAL in | upload/download, put/get (the store's words) |
//! | attempt | one restore into one directory, however often it is begun again; its *mark* proves what it wrote | a backup in progress |
//! | handover | what a restored server is told, and who it runs as | the target of recovery |
//! | sibling | another repository under the same cluster name | a branch (that is within one repository) |
//! | plan, execute | a pure value, then its effects | prepare, handle, manager |
//! | live bytes | of a pack: the frames that a backup uses | the bytes of files |
//! | verbatim | bytes that PostgreSQL or the operator chose, whatever they are: paths, configuration | text (that is UTF-8) |
//! | frame | the part of a sealed object that is compressed and authenticated as one | page (that is PostgreSQL's) |
//! | digest | a keyed fingerprint of plaintext; tells an outsider nothing | checksum (unkeyed, against accidents only) |
//! | summary | what a WAL object says about its segment without being read whole | metadata |
//! | spool | segments opened ahead of recovery by the *prefetcher*, outside PGDATA | a queue of WAL to push (there is none) |
//! | piece | a part of a tail, one object | chunk |
//! | generation | one attempt at the tail of one segment, whole by itself | version (that is the format's) |
//! | pin | the answer about a tail that one restore was given, and is given again | hold (that keeps a backup) |
//! | event, ledger | what a task found out; what is known from all events, a pure value | shared state with locks |
//! | problem | something that the operator must know, with a stable code | a log line |
//! | finding | what `verify` found about an object: a problem of a restore, or a remark | a problem (that has a code) |
//! | harm | damage that `verify` found and left in the repository, so that nothing counts on it | a finding (that is of one run) |
//! | snapshot | what the daemon knows at one instant, as plain values | a file system's snapshot |
//! | sum | of a file record: the digest of the page digests of 8 MiB | checksum |
//! | region | the part of a file that one backup worker reads and places at a time | extent (that is what is sealed) |
//! | base | the backup whose extents a new one may reuse | parent, full (every backup is full) |
//! | reused, rewritten | pages as in the base that stay where they lie; those that are stored again all the same | changed (that is what differs from the base) |
//! | placement | which pages of a region are reused and which are written, as a value | compaction |
//! | page filter | a rewriting of pages that makes them easier to compress, undone when they are opened | compression itself |

pub mod archive;
pub mod archiver;
pub mod arrivals;
pub mod backup;
pub mod catalog;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod digest_reader;
pub mod disk;
pub mod drill;
mod encoding;
pub mod error;
pub mod format;
pub mod ledger;
pub mod postgres;
pub mod present;
pub mod problem;
pub mod records;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod rotation;
pub mod seal;
pub mod signing;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod verify;
pub mod wal;
pub mod window;
#[cfg(test)]
mod world;
