//! Asking several hosts at once.

use std::future::Future;

use anyhow::Result;
use tokio::task::JoinSet;

use super::exit;
use super::target::Target;

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
