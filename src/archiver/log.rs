//! Which events are logged: each outage once, whichever task meets it, and failures of files.

use std::time::Instant;

use super::outage::{Outage, StoreOutage, Task};
use crate::error::Error;
use crate::ledger::Event;
use crate::postgres::WalName;

/// The outages that are under way.
#[derive(Debug)]
pub(super) struct Log {
    server: Outage,
    store: StoreOutage,
    tail: Outage,
    survey: Outage,
}

impl Log {
    pub(super) const fn new() -> Self {
        Self {
            server: Outage::new("the server cannot be asked"),
            store: StoreOutage::new(),
            tail: Outage::new("the tail cannot be stored"),
            survey: Outage::new("the repository cannot be read"),
        }
    }

    /// Tell what is worth telling of `event`.
    pub(super) fn tell(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Sampled(_) => self.server.succeeded(now),
            Event::ServerFailed(error) | Event::WrongServer(error) => self.server.failed(now, error),
            Event::Pushed { file, took } => {
                self.store.succeeded(Task::Push, now);
                tracing::debug!(name = %file.name, already_there = file.already_there, ?took, "archived");
            }
            Event::PushFailed { name, error, .. } => {
                let told = self.store.failed(Task::Push, now, error);
                Self::push_failed(name, error, told);
            }
            Event::TailCurrent => {
                self.tail.succeeded(now);
                self.store.succeeded(Task::Tail, now);
            }
            Event::TailFailed(error) => {
                Self::failed(&mut self.store, &mut self.tail, Task::Tail, error, now);
            }
            Event::Surveyed(_) => {
                self.survey.succeeded(now);
                self.store.succeeded(Task::Survey, now);
            }
            Event::SurveyFailed { error, .. } => {
                Self::failed(&mut self.store, &mut self.survey, Task::Survey, error, now);
            }
            _ => {}
        }
    }

    fn push_failed(name: &WalName, error: &Error, told: bool) {
        if !told {
            tracing::error!(%name, %error, hint = error.hint_text(), "cannot archive");
        }
    }

    /// The store's outage, or else the task's own.
    fn failed(store: &mut StoreOutage, own: &mut Outage, task: Task, error: &Error, now: Instant) {
        if !store.failed(task, now, error) {
            own.failed(now, error);
        }
    }
}
