//! Starting.

use std::time::Duration;

use super::{Actor, State, resting};
use crate::ambient::now_ms;
use crate::api::{End, EndKind, GuestState, GuestView};
use crate::host::HostError;
use crate::host::error::in_full;
use crate::host::record::Standing;
use crate::host::supervisor::{Answer, Order, clear, start, start_failed};

impl Actor {
    /// Starts it; an operator who waits for it is told how that went.
    pub(super) async fn start(&mut self, mut answer: Option<Answer<GuestView>>) -> State {
        let operator = answer.is_some();
        match self.settle(&mut answer).await {
            Ok(None) => {}
            Ok(Some(state)) => return state,
            Err(error) => return self.not_started(error, answer.into_iter().collect(), operator).await,
        }
        self.show(GuestState::Starting, None);
        if let Some(reason) = self.is_anothers().await {
            let refused = HostError::Fenced { guest: self.record.spec.name.clone(), reason: reason.clone() };
            let state = self.fence(None, reason).await;
            if let Some(answer) = answer {
                let _ = answer.send(Err(refused));
            }
            return state;
        }
        let (shared, record) = (self.shared.clone(), self.record.clone());
        let mut starting = Box::pin(start(&shared, &record));
        let mut answers: Vec<_> = answer.into_iter().collect();
        let started = loop {
            tokio::select! {
                started = &mut starting => break Some(started),
                order = self.mailbox.recv() => match order {
                    // The daemon goes: what is half started is finished, so that the next one finds it serving.
                    None => break Some(starting.as_mut().await),
                    Some(Order::Start(answer)) => answers.push(answer),
                    Some(Order::Delete { force: false, answer }) => {
                        let _ = answer.send(Err(HostError::Running(record.spec.name.clone())));
                    }
                    // Only who serves can leave.
                    Some(Order::Depart(leave)) => drop(leave),
                    Some(order) => {
                        let goes_on = matches!(order, Order::Owner) && !self.is_fenced();
                        self.later.push_back(order);
                        if !goes_on {
                            break None;
                        }
                    }
                },
            }
        };
        drop(starting);
        match started {
            Some(Ok(worker)) => {
                tracing::info!(guest = %record.spec.name, pid = worker.pid(), "serves");
                self.show(GuestState::Running, Some(&worker));
                answers.into_iter().for_each(|answer| drop(answer.send(Ok(self.view()))));
                State::Serving(worker)
            }
            Some(Err(error)) => self.not_started(error, answers, operator).await,
            None => {
                clear(&shared, record.id).await;
                let overtaken = || HostError::Overtaken(record.spec.name.clone());
                answers.into_iter().for_each(|answer| drop(answer.send(Err(overtaken()))));
                State::Resting
            }
        }
    }

    async fn not_started(&mut self, error: HostError, answers: Vec<Answer<GuestView>>, operator: bool) -> State {
        let error = start_failed(&self.record, error);
        let end = End { kind: EndKind::Failed, exit_code: None, reason: in_full(&error), at_ms: now_ms() };
        let state = if operator {
            // He is told, and it is his to try again.
            let next = self.record.changed(|record| {
                record.standing = Standing::Parked;
                record.last_end = Some(end);
            });
            self.keep_if_possible(next).await;
            State::Resting
        } else {
            self.account(end, Duration::ZERO).await
        };
        self.show(resting(self.record.standing), None);
        let mut error = Some(error);
        for answer in answers {
            let reason = || HostError::Overtaken(self.record.spec.name.clone());
            let _ = answer.send(Err(error.take().unwrap_or_else(reason)));
        }
        state
    }
}
