//! Saying what is being waited for, to a person who would otherwise look at a silent screen.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;

/// A request may be silent for so long.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// Between two words about the store.
const AGAIN: Duration = Duration::from_secs(30);

/// What is said while a request is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// Nothing: the caller says it, or nobody reads it.
    Nothing,
    /// That tries fail. A request that is merely on its way may move much.
    Failures,
    /// That too which is merely slow: requests are small.
    Everything,
}

/// When something was said last: many requests wait at once, and one word is enough.
static SAID: Mutex<Option<Instant>> = Mutex::new(None);

/// One request that is not done.
#[derive(Debug)]
pub(super) struct Waiting {
    words: Words,
    begin: Instant,
    /// Why the last try failed.
    failure: Mutex<Option<Error>>,
}

impl Waiting {
    pub(super) fn new(words: Words) -> Self {
        Self { words, begin: Instant::now(), failure: Mutex::new(None) }
    }

    pub(super) fn failed(&self, error: &Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }

    /// Speak whenever it is time, for ever.
    pub(super) async fn speak(&self, what: impl Fn() -> String) {
        if self.words == Words::Nothing {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(SILENCE).await;
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if (failure.is_some() || self.words == Words::Everything) && first_to_speak() {
                self.say(&what(), failure.as_ref());
            }
        }
    }

    fn say(&self, what: &str, failure: Option<&Error>) {
        let seconds = self.begin.elapsed().as_secs();
        if let Some(error) = failure {
            tracing::warn!(%error, hint = error.hint_text(), seconds, "waiting for the store to {what}");
        } else {
            tracing::warn!(seconds, "waiting for the store to {what}: no answer yet");
        }
    }
}

fn first_to_speak() -> bool {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let due = said.is_none_or(|said| said.elapsed() >= AGAIN);
    if due {
        *said = Some(Instant::now());
    }
    due
}
