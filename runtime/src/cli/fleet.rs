//! Asking several hosts at once, and finding the one that has a guest.

use std::future::Future;

use anyhow::Result;
use tokio::task::JoinSet;

use super::config::Config;
use super::exit::{self, Unknown, Usage};
use super::target::{HostFlags, Target, Targets};
use crate::api::{GuestName, GuestState};

/// What each host answers, in their order. One that does not is complained about, and its exit code kept.
pub(super) struct Answers<T> {
    pub(super) answers: Vec<(String, T)>,
    worst: Option<u8>,
}

/// Asks all of them the same.
pub(super) async fn ask<T, F>(targets: &[Target], question: impl Fn(Target) -> F) -> Result<Answers<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for (index, target) in targets.iter().enumerate() {
        let answer = question(target.clone());
        asked.spawn(async move { (index, answer.await) });
    }
    let mut all = asked.join_all().await;
    all.sort_by_key(|(index, _)| *index);
    let (mut answers, mut worst) = (Vec::new(), None);
    for (index, answer) in all {
        let name = &targets[index].name;
        match answer {
            Ok(answer) => answers.push((name.clone(), answer)),
            Err(error) if targets.len() == 1 => return Err(error),
            Err(error) => {
                worst = worst.max(Some(exit::of(&error)));
                exit::complain(&error.context(format!("host {name}")));
            }
        }
    }
    Ok(Answers { answers, worst })
}

impl<T> Answers<T> {
    /// After the answers have been shown: whether some are missing.
    pub(super) fn complete(&self) -> Result<()> {
        self.worst.map_or(Ok(()), |code| Err(exit::Reported(code).into()))
    }
}

/// The host a guest is on: the one that was named, by a flag that is called so, else the one of all that has it.
pub(super) async fn holder(flags: &HostFlags, config: &Config, name: &GuestName, flag: &str) -> Result<Target> {
    let targets = Targets::new(flags, config);
    if flags.host.is_some() || config.default_host.is_some() {
        return targets.one();
    }
    let all = targets.all()?;
    if let [only] = all.as_slice() {
        return Ok(only.clone());
    }
    let asked = ask(&all, async |target| Ok(target.client.list().await?)).await?;
    let mut here = Vec::new();
    for (host, guests) in &asked.answers {
        let found = guests.iter().filter(|guest| guest.spec.name == *name);
        here.extend(found.map(|guest| (guest.state == GuestState::Running, host)));
    }
    // One that was moved before may have been left behind elsewhere, stopped.
    let runs = here.iter().any(|(runs, _)| *runs);
    here.retain(|(running, _)| *running == runs);
    match here.as_slice() {
        [(_, host)] => Ok(all.into_iter().find(|target| target.name == **host).expect("it was asked")),
        [] => {
            asked.complete()?;
            Err(Unknown(format!("no host that is known here has a guest `{name}`; name its host with {flag}")).into())
        }
        several => {
            let hosts: Vec<_> = several.iter().map(|(_, host)| host.as_str()).collect();
            Err(Usage(format!("there is a guest `{name}` on {}; say which with {flag}", hosts.join(", "))).into())
        }
    }
}
