//! Deadlines and repetition: every request ends, and a passing fault is waited out.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::failure::{Failure, classify};
use super::observe::Outcome;
use super::waiting::{Waiting, Words};
use crate::error::{Error, Kind, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Silence of a store, for those in a hurry.
const BRIEF: Duration = Duration::from_secs(3);

/// How long requests may take.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// To reach the server.
    pub connect: Duration,
    /// Without a byte from the server.
    pub idle: Duration,
    /// One try of one request.
    pub attempt: Duration,
    /// One request with all its tries; of a listing, one page.
    pub total: Duration,
    /// After this no further try begins; one that goes on may still end well.
    pub patience: Duration,
    /// What is said meanwhile.
    pub(super) words: Words,
}

impl Policy {
    /// For requests that must be done with within `total`: a quick try is given up early enough for another one.
    pub fn within(total: Duration) -> Self {
        Self {
            connect: Duration::from_secs(5).min(total / 3),
            idle: Duration::from_mins(1).min(total / 3),
            attempt: total * 2 / 3,
            total,
            patience: total,
            words: Words::Nothing,
        }
    }

    /// For a server that asks again by itself and must not be kept: a store that says nothing is given up within
    /// seconds, one that delivers may take `total`.
    pub fn brief(total: Duration) -> Self {
        let brief = BRIEF.min(total);
        Self { connect: brief, idle: brief, attempt: total, total, patience: brief, words: Words::Nothing }
    }

    /// For a person who waits: small requests, given up after a minute, and what is waited for is said.
    pub fn interactive() -> Self {
        Self {
            idle: Duration::from_secs(20),
            attempt: Duration::from_secs(30),
            words: Words::Everything,
            ..Self::within(Duration::from_mins(1))
        }
    }

    /// For a person who waits while much is moved: one request may take long, a store that does not answer is given up
    /// after a minute.
    pub fn attended() -> Self {
        Self { patience: Duration::from_mins(1), ..Self::default() }
    }

    /// Call `request` until it succeeds, fails for good, or the time is over. `what` says what is done, `told` hears how
    /// each try ended.
    pub(super) async fn run<T, F, R>(
        &self,
        request: R,
        what: impl Fn() -> String,
        told: impl Fn(Outcome, Duration),
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
        R: Fn() -> F,
    {
        let waiting = Waiting::new(self.words);
        let tries = self.tries(request, told, &waiting);
        tokio::select! {
            biased;
            done = tries => done,
            () = waiting.speak(what) => Err(Error::new(Kind::Other, "the store was not waited for")),
        }
    }

    async fn tries<T, F, R>(
        &self,
        request: R,
        told: impl Fn(Outcome, Duration),
        waiting: &Waiting,
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
        R: Fn() -> F,
    {
        let end = Instant::now() + self.total;
        let last = Instant::now() + self.patience.min(self.total);
        let mut pause = FIRST_PAUSE;
        for tries in 1_u32.. {
            let begin = Instant::now();
            let remaining = end.saturating_duration_since(begin);
            let answer = timeout(self.attempt.min(remaining), request()).await;
            let elapsed = begin.elapsed();
            let failure = match answer {
                Ok(Ok(value)) => {
                    told(Outcome::Answered, elapsed);
                    return Ok(value);
                }
                Ok(Err(cause)) => classify(&cause),
                Err(_) => Failure::Passing(
                    Error::new(Kind::Unreachable, "no answer in time")
                        .hint("is the store slow, or the network down?"),
                ),
            };
            let (Failure::Final(error) | Failure::Passing(error)) = &failure;
            told(Outcome::of(error), elapsed);
            let error = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Passing(error) => error,
            };
            waiting.failed(&error);
            let wait = with_jitter(pause);
            if Instant::now() + wait >= last {
                return Err(gave_up(error, tries, self.patience.min(self.total)));
            }
            tracing::debug!(%error, tries, "will try again");
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(Error::new(Kind::Unreachable, "gave up"))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Duration::from_mins(1),
            attempt: Duration::from_mins(5),
            total: Duration::from_mins(10),
            patience: Duration::from_mins(10),
            words: Words::Failures,
        }
    }
}

fn gave_up(error: Error, tries: u32, total: Duration) -> Error {
    let times = if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") };
    // What is left of a deadline: its nanoseconds tell nobody anything.
    let tenths = (total.as_millis() + 50) / 100;
    let within = humantime::format_duration(Duration::from_millis(
        u64::try_from(tenths).unwrap_or(u64::MAX / 100) * 100,
    ));
    error.context(format!("gave up after {times} within {within}"))
}

/// Between half of `pause` and all of it, so that many hosts do not come back in step.
fn with_jitter(pause: Duration) -> Duration {
    let mut byte = [0];
    // Jitter needs no secrecy: without randomness the pause is simply whole.
    let share = getrandom::fill(&mut byte).map_or(255, |()| byte[0]);
    pause / 2 + pause / 2 * u32::from(share) / 255
}
