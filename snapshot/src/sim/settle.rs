//! What ends a migration at its source: a thaw, or what settles a doubt.

use std::cell::Cell;
use std::rc::Rc;

use super::controller::{Answer, Request};
use super::guest::Mode;
use super::outgoing::{Outgoing, session_id};
use super::world::{Address, Mark, World};
use crate::protocol::Standing;
use crate::protocol::source::{Outcome, Reclaim, Source, SourceEvent as Event};

impl World {
    /// A source whose daemon was ended.
    pub(super) fn resume_source(&mut self, host: usize, session: u64, incarnation: u64, mark: Mark) {
        let session = session_id(session);
        let source = match mark {
            Mark::Token => Source::in_doubt(session, self.setup.controlled, self.now_us),
            Mark::Claim | Mark::None => Source::back(session, self.now_us),
        };
        let mut outgoing = Outgoing::new(source, incarnation);
        outgoing.doubted = mark == Mark::Token;
        outgoing.claimed = mark != Mark::None;
        self.hosts[host].outgoing = Some(outgoing);
        self.wait_source(host);
    }

    /// The guest goes on at its source, with the frames that were taken from it.
    pub(super) fn do_thaw(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        let Some(outgoing) = &mut here.outgoing else { return };
        here.disk.record = None;
        outgoing.forwards = false;
        let back = std::mem::take(&mut outgoing.frames_back);
        let lost = outgoing.frames_sent.drain(..).filter(|frame| !back.contains(frame));
        let frames = back.iter().copied().chain(lost).collect();
        let claimed = outgoing.claimed;
        self.thaw(host, frames);
        if claimed {
            self.hosts[host].disk.address = Some(Address::TakeBack);
            self.keep_address(host);
        }
    }

    /// Asks the target, over a connection of its own.
    pub(super) fn ask(&mut self, host: usize) {
        let (session, epoch) = (self.attempt, self.hosts[host].epoch);
        let waits = Rc::new(Cell::new(true));
        let late = Rc::clone(&waits);
        self.after_at(host, ASK_US_MAX, move |world| {
            if late.take() {
                world.tell_source(host, Event::Answered(None));
            }
        });
        let way_us =
            if self.rng.percent(self.setup.late_percent) { self.rng.within(1, 3_000_000) } else { self.delay_us };
        self.after(way_us, move |world| {
            if !world.link_up || !world.hosts[1 - host].up {
                return;
            }
            world.asked(
                1 - host,
                session,
                Box::new(move |world: &mut World, standing: Standing| {
                    let back_us = world.delay_us;
                    world.after(back_us, move |world| {
                        let here = &world.hosts[host];
                        if world.link_up && here.up && here.epoch == epoch && waits.take() {
                            world.tell_source(host, Event::Answered(Some(standing)));
                        }
                    });
                }),
            );
        });
    }

    /// Asks the controller.
    pub(super) fn reclaim(&mut self, host: usize, never: bool) {
        let here = &self.hosts[host];
        let Some(outgoing) = &here.outgoing else { return };
        let then = move |world: &mut World, answer| {
            let reclaim = match answer {
                Answer::Granted(generation) => {
                    world.hosts[host].disk.generation = generation;
                    Reclaim::Granted
                }
                Answer::Denied => Reclaim::Denied,
                Answer::Unknown => Reclaim::Unknown,
            };
            world.tell_source(host, Event::Reclaimed(reclaim));
        };
        if never {
            return self.take_back(host, then);
        }
        let request = Request::Reclaim { from: here.disk.generation, incarnation: outgoing.incarnation };
        self.request(host, request, then);
    }

    pub(super) fn finish_source(&mut self, host: usize, outcome: &Outcome) {
        let Some(outgoing) = self.hosts[host].outgoing.take() else { return };
        self.hosts[host].disk.record = None;
        self.report.doubts += u32::from(outgoing.doubted);
        self.report.rounds += outgoing.machine.rounds().len() as u32;
        self.report.moved += u32::from(*outcome == Outcome::Moved);
        let mode = self.hosts[host].worker.as_ref().map(|worker| worker.mode);
        let fits = match outcome {
            Outcome::Moved | Outcome::Ended => mode.is_none(),
            // A worker that ended since is told of after this.
            Outcome::Stayed(_) => mode.is_none() || mode == Some(Mode::Polls),
            Outcome::Fenced(_) => false,
        };
        if !fits {
            self.broken(format!("{outcome:?}, and the worker is {mode:?}"));
        }
    }
}

/// How long an answer of the target is waited for.
const ASK_US_MAX: u64 = 1_000_000;
