//! All guests of a host go to others.

use std::process::ExitCode;

use anyhow::Result;
use futures_util::{StreamExt, stream};

use super::super::config::Config;
use super::super::exit::{Refused, Reported};
use super::super::target::{Target, Targets};
use super::super::{exit, print, ps};
use super::travel::{self, End, Interrupts};
use super::view::{Json, Nothing, View};
use super::{Arguments, INTERRUPTED, report};
use crate::api::sdn::Presence;
use crate::api::{GuestName, GuestState, GuestView};

/// A host that guests go to, and how many it has.
type Room = (GuestName, u64);

pub(super) async fn run(arguments: &Arguments, config: &Config) -> Result<ExitCode> {
    let flags = arguments.host();
    let targets = Targets::new(&flags, config);
    let source = targets.one()?;
    let (name, guests) = (source.client.about().await?.name, source.client.list().await?);
    let mut rooms = match arguments.to.as_slice() {
        [] => others(arguments, &targets, &name).await?,
        named => named.iter().map(|host| (host.clone(), 0)).collect(),
    };
    // Checked before the first one leaves.
    arguments.request(rooms[0].0.clone())?;
    let (going, resting): (Vec<_>, Vec<_>) = guests.into_iter().partition(is_to_run);
    for guest in &resting {
        eprintln!("roam: {} is {} and stays", guest.spec.name, ps::state(guest));
    }
    let jobs = share(going.into_iter().map(|guest| guest.spec.name), &mut rooms);
    let interrupts = Interrupts::listen()?;
    let moves = jobs.into_iter().map(|(guest, to)| one(arguments, &source, guest, to, interrupts.clone()));
    let mut ends = stream::iter(moves).buffer_unordered(arguments.at_once.into());
    let mut worst = None;
    while let Some((guest, end)) = ends.next().await {
        let code = match end {
            Ok(code) => code,
            Err(error) => {
                let code = exit::of(&error);
                exit::complain(&error.context(guest.to_string()));
                Some(code)
            }
        };
        worst = worst.max(code);
    }
    drop(ends);
    match worst {
        _ if interrupts.any() => Ok(ExitCode::from(INTERRUPTED)),
        Some(code) => Err(Reported(code).into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Whether it is to serve: what an operator stopped, or what ended for good, can wait.
fn is_to_run(guest: &GuestView) -> bool {
    use GuestState::{Arriving, InDoubt, Running, Starting, Waiting};
    matches!(guest.state, Arriving | InDoubt | Running | Starting | Waiting)
}

/// All hosts but that one, by the controller's word.
async fn others(arguments: &Arguments, targets: &Targets<'_>, name: &str) -> Result<Vec<Room>> {
    let controller = targets.controller(arguments.controller.as_deref())?;
    let nodes = controller.hosts().await?.into_iter();
    let nodes = nodes.filter(|node| node.host.presence == Presence::Live && node.host.migrate.is_some());
    let rooms: Vec<_> = nodes.map(|node| (node.host.name, node.addresses)).collect();
    let rooms: Vec<_> = rooms.into_iter().filter(|(host, _)| host.as_str() != name).collect();
    if rooms.is_empty() {
        return Err(Refused(
            "the controller knows no other host that lives and takes migrations; name one with --to".into(),
        )
        .into());
    }
    Ok(rooms)
}

/// Each guest with the host that has the fewest by then.
fn share(guests: impl Iterator<Item = GuestName>, rooms: &mut [Room]) -> Vec<(GuestName, GuestName)> {
    let place = |guest| {
        let (host, count) = rooms.iter_mut().min_by_key(|(_, count)| *count).expect("there is a host");
        *count += 1;
        (guest, host.clone())
    };
    guests.map(place).collect()
}

/// Moves one, and says how it ended; the code of one that stays.
async fn one(
    arguments: &Arguments,
    source: &Target,
    guest: GuestName,
    to: GuestName,
    interrupts: Interrupts,
) -> (GuestName, Result<Option<u8>>) {
    let moved = async {
        if interrupts.any() {
            eprintln!("roam: {guest} was not begun with, and stays");
            return Ok(Some(exit::FAILED));
        }
        let begun = travel::begin(source, &guest, &arguments.request(to)?, &interrupts).await?;
        let mut view: Box<dyn View> = if arguments.json { Box::new(Json) } else { Box::new(Nothing) };
        match travel::follow(source, begun, view.as_mut(), &interrupts).await? {
            End::Moved(_) if arguments.json => Ok(None),
            End::Moved(view) => print::line(&report::brief(&view)).map(|()| None),
            End::Stayed { view, .. } => Err(report::Stayed::from(&view).into()),
            End::Left(view) => {
                eprintln!("roam: {guest} is left to the hosts: migration {}", view.id);
                Ok(Some(exit::UNSETTLED))
            }
        }
    };
    let end = moved.await;
    (guest, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_shared_by_how_many_a_host_has() {
        let names = |text: &str| text.split(' ').map(|name| name.parse().unwrap()).collect::<Vec<GuestName>>();
        let mut rooms: Vec<Room> = names("b c").into_iter().zip([0, 2]).collect();
        let shared = share(names("v w x y z").into_iter(), &mut rooms);
        let hosts: Vec<_> = shared.iter().map(|(_, host)| host.as_str()).collect();
        assert_eq!(hosts, ["b", "b", "b", "c", "b"]);
        assert_eq!(rooms.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [4, 3]);
    }
}
