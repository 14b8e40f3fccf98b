use proptest::collection::vec;
use proptest::prelude::*;

use super::{Outcome, Reclaim, Source, SourceCommand as Command, SourceConfig, SourceEvent as Event};
use crate::page::Shape;
use crate::plan::{Divergence, Limits, PlanName};
use crate::protocol::{
    Encoding, Greeting, Message, Offer, Phase, Reason, ReasonCode, SessionId, Standing, Timings, VERSION_MAX,
    VERSION_MIN,
};

const SESSION: SessionId = SessionId([7; 16]);

fn source(plan: PlanName, controlled: bool) -> Source {
    let limits =
        Limits { downtime_us: 2_000, rounds_max: 30, timeout_us: 60_000_000, divergence: Divergence::Throttle };
    let offer = Offer {
        guest: vec![1],
        module: [1; 32],
        module_bytes: 10,
        netstack: [2; 32],
        abi: 1,
        shape: Shape(vec![64, 32]),
        plan,
        encoding: Encoding::Raw,
    };
    Source::new(SourceConfig { session: SESSION, offer, plan: plan.plan(limits), limits, controlled }, 0)
}

fn heard(message: Message) -> Event {
    Event::Received(message)
}

fn why(code: ReasonCode) -> Reason {
    Reason::new(code, "a test")
}

fn prepared() -> Message {
    Message::Prepared { shape: Shape(vec![16, 32]), base: Vec::new() }
}

/// Up to a worker that waits, and what is on disk before that matters; the last commands.
fn met(plan: PlanName, controlled: bool) -> (Source, Vec<Command>) {
    let mut source = source(plan, controlled);
    let versions = (VERSION_MIN, VERSION_MAX);
    let hello = Message::Hello { versions, session: SESSION, greeting: Greeting::Migrate };
    assert_eq!(source.on(Event::Connected, 10), [Command::Send(hello)]);
    let offer = source.on(heard(Message::Welcome { version: 1 }), 110);
    assert!(matches!(&offer[..], [Command::Send(Message::Offer(_))]), "{offer:?}");
    assert_eq!(source.phase(), Phase::Validate);
    assert_eq!(source.on(heard(Message::Accepted { needs_module: true }), 410), [Command::SendModule]);
    assert_eq!((source.phase(), source.progress().round_trip_us), (Phase::Prepare, 100));
    assert_eq!(source.on(heard(prepared()), 900), [Command::Record]);
    assert_eq!(source.phase(), Phase::Execute);
    let commands = source.on(Event::Recorded, 1_000);
    (source, commands)
}

/// Up to the token.
fn sent(controlled: bool) -> Source {
    let (mut source, commands) = met(PlanName::StopAndCopy, controlled);
    let claim = controlled.then_some(Command::Send(Message::Claim));
    assert_eq!(commands, claim.into_iter().chain([Command::Freeze]).collect::<Vec<_>>());
    assert_eq!(source.on(Event::Frozen, 1_200), [Command::SendLast]);
    assert_eq!(source.on(Event::Sent { pages: 96, bytes: 1 }, 1_300), [Command::Forward]);
    source
}

/// In doubt, since the link was lost.
fn doubting(controlled: bool) -> Source {
    let mut source = sent(controlled);
    assert_eq!(source.on(Event::Lost, 2_000), [Command::Close, Command::Ask]);
    assert!(source.is_in_doubt());
    source
}

fn finish(commands: &[Command]) -> &Outcome {
    match commands {
        [.., Command::Finish(outcome)] => outcome,
        other => panic!("not over: {other:?}"),
    }
}

#[test]
fn a_guest_moves_in_one_go() {
    let mut source = sent(true);
    assert_eq!(source.on(heard(Message::Taken(Timings::default())), 2_000), []);
    assert_eq!(source.phase(), Phase::Complete);
    let over = source.on(heard(Message::Switched { route_us: 1 }), 3_000);
    assert_eq!(over, [Command::Send(Message::Bye), Command::LetGo, Command::Close, Command::Finish(Outcome::Moved)]);
    assert_eq!((source.deadline_us(), source.on(Event::Lost, 4_000)), (None, vec![]));
}

#[test]
fn rounds_are_counted_when_they_were_applied() {
    let (mut source, commands) = met(PlanName::PreCopy, true);
    assert_eq!(commands, [Command::Arm, Command::SendRound(1)]);
    assert_eq!(source.on(Event::Sent { pages: 96, bytes: 400_000 }, 2_000), []);
    assert_eq!(source.rounds(), []);
    let applied = source.on(heard(Message::Applied { number: 1 }), 2_050);
    assert_eq!(applied, [Command::Commit, Command::Count]);
    assert_eq!(source.on(Event::Counted(3), 2_060), [Command::Send(Message::Claim), Command::Freeze]);
    let round = source.rounds()[0];
    assert_eq!((round.number, round.pages, round.took_us, round.dirty_after), (1, 96, 1_050, 3));
    assert_eq!(source.progress().round_trip_us, 50);
}

#[test]
fn what_fails_before_the_token_leaves_the_guest_here() {
    let (mut source, _) = met(PlanName::PreCopy, true);
    let over = source.on(Event::Cancel(why(ReasonCode::Cancelled)), 2_000);
    let cancel = Command::Send(Message::Cancel(why(ReasonCode::Cancelled)));
    assert_eq!(over[..4], [Command::RollBack, Command::Thaw, cancel, Command::Close]);
    assert_eq!(finish(&over), &Outcome::Stayed(why(ReasonCode::Cancelled)));

    let mut source = self::source(PlanName::PreCopy, true);
    let over = source.on(Event::Lost, 0);
    assert!(matches!(&over[..], [Command::Close, Command::Finish(Outcome::Stayed(_))]), "nothing to undo: {over:?}");

    let (mut source, _) = met(PlanName::StopAndCopy, true);
    assert_eq!(source.on(heard(Message::Frame(vec![1])), 1_100), [], "a target that will say no gives frames back");
    let over = source.on(Event::WorkerEnded, 1_200);
    assert_eq!(finish(&over), &Outcome::Ended);
}

#[test]
fn each_step_has_its_time() {
    let mut source = source(PlanName::PreCopy, true);
    assert_eq!(source.on(Event::Tick, 4_999_999), []);
    assert!(
        matches!(finish(&source.on(Event::Tick, 5_000_000)), Outcome::Stayed(why) if why.code == ReasonCode::Timeout)
    );
    let mut source = sent(true);
    let deadline_us = source.deadline_us().expect("an answer has its time");
    assert_eq!(source.on(Event::Tick, deadline_us), [Command::Close, Command::Ask]);
}

#[test]
fn memories_that_would_have_to_shrink_are_refused() {
    let (mut source, _) = (self::source(PlanName::StopAndCopy, true), ());
    source.on(Event::Connected, 0);
    source.on(heard(Message::Welcome { version: 1 }), 0);
    source.on(heard(Message::Accepted { needs_module: false }), 0);
    let over = source.on(heard(Message::Prepared { shape: Shape(vec![65, 32]), base: Vec::new() }), 0);
    assert!(matches!(finish(&over), Outcome::Stayed(why) if why.code == ReasonCode::Incompatible));
}

#[test]
fn a_token_that_was_not_written_or_is_handed_back_leaves_the_guest_here() {
    for event in [heard(Message::HandedBack(why(ReasonCode::Digest))), heard(Message::Cancel(why(ReasonCode::Worker)))]
    {
        let over = sent(true).on(event, 2_000);
        assert!(matches!(&over[..], [Command::Thaw, Command::Close, Command::Finish(Outcome::Stayed(_))]), "{over:?}");
    }
    let (mut source, _) = met(PlanName::StopAndCopy, true);
    source.on(Event::Frozen, 1_200);
    let over = source.on(Event::Failed(why(ReasonCode::Link)), 1_300);
    assert!(over.contains(&Command::Thaw) && matches!(finish(&over), Outcome::Stayed(_)), "{over:?}");
    let mut source = sent(true);
    source.on(Event::WorkerEnded, 1_400);
    let over = source.on(heard(Message::HandedBack(why(ReasonCode::Digest))), 2_000);
    assert_eq!(over, [Command::Close, Command::Finish(Outcome::Ended)]);
}

#[test]
fn nothing_but_a_word_thaws_a_guest_whose_token_was_sent() {
    for controlled in [true, false] {
        for event in
            [Event::Cancel(why(ReasonCode::Cancelled)), Event::WorkerEnded, Event::Failed(why(ReasonCode::Link))]
        {
            assert_eq!(sent(controlled).on(event, 2_000), []);
        }
        for event in
            [Event::Lost, heard(Message::Applied { number: 1 }), heard(Message::Refused(why(ReasonCode::Room)))]
        {
            let commands = sent(controlled).on(event, 2_000);
            assert_eq!(commands, [Command::Close, Command::Ask]);
        }
    }
}

#[test]
fn the_target_settles_a_doubt_where_nobody_else_can() {
    let over = doubting(false).on(Event::Answered(Some(Standing::Never)), 3_000);
    assert!(matches!(&over[..], [Command::Thaw, Command::Finish(Outcome::Stayed(_))]), "{over:?}");
    let over = doubting(false).on(Event::Answered(Some(Standing::Taken)), 3_000);
    assert_eq!(over, [Command::LetGo, Command::Finish(Outcome::Moved)]);
    let mut source = doubting(false);
    let mut now_us = 3_000;
    for rest_us in [200_000, 400_000, 800_000, 1_600_000, 2_000_000, 2_000_000] {
        assert_eq!(source.on(Event::Answered(None), now_us), []);
        assert_eq!(source.deadline_us(), Some(now_us + rest_us));
        now_us += rest_us;
        assert_eq!(source.on(Event::Tick, now_us), [Command::Ask]);
    }
}

#[test]
fn the_controller_settles_a_doubt_about_a_target_that_is_silent() {
    let mut source = doubting(true);
    assert_eq!(source.on(Event::Answered(None), 3_000), [Command::Reclaim { never: false }]);
    let over = source.on(Event::Reclaimed(Reclaim::Granted), 4_000);
    assert!(matches!(&over[..], [Command::Thaw, Command::Finish(Outcome::Stayed(_))]), "{over:?}");
    for refusal in [Reclaim::Denied, Reclaim::Unknown] {
        let mut source = doubting(true);
        source.on(Event::Answered(Some(Standing::Open)), 3_000);
        assert_eq!(source.on(Event::Reclaimed(refusal), 4_000), []);
        assert_eq!(source.on(Event::Tick, 204_000), [Command::Ask]);
    }
}

#[test]
fn a_guest_that_is_a_third_ones_is_fenced() {
    let mut source = doubting(true);
    assert_eq!(source.on(Event::Answered(Some(Standing::Never)), 3_000), [Command::Reclaim { never: true }]);
    assert_eq!(source.on(Event::Reclaimed(Reclaim::Denied), 4_000), []);
    assert_eq!(source.on(Event::Tick, 204_000), [Command::Ask]);
    source.on(Event::Answered(Some(Standing::Never)), 205_000);
    let over = source.on(Event::Reclaimed(Reclaim::Denied), 206_000);
    assert!(matches!(&over[..], [Command::LetGo, Command::Finish(Outcome::Fenced(_))]), "{over:?}");
}

#[test]
fn a_source_that_was_restarted_asks_at_once() {
    let mut source = Source::in_doubt(SESSION, true, 50);
    assert!(source.is_in_doubt());
    assert_eq!((source.session(), source.deadline_us()), (SESSION, Some(50)));
    assert_eq!(source.on(Event::Tick, 50), [Command::Ask]);
    source.on(Event::WorkerEnded, 60);
    source.on(Event::Answered(None), 70);
    assert_eq!(source.on(Event::Reclaimed(Reclaim::Granted), 80), [Command::Finish(Outcome::Ended)]);
}

#[test]
fn a_source_that_was_restarted_before_the_token_goes_on() {
    let mut source = Source::back(SESSION, 50);
    assert_eq!((source.deadline_us(), source.on(Event::Lost, 50)), (Some(50), vec![]));
    let over = source.on(Event::Tick, 50);
    assert!(matches!(&over[..], [Command::Thaw, Command::Finish(Outcome::Stayed(_))]), "{over:?}");
    let over = Source::back(SESSION, 50).on(Event::WorkerEnded, 50);
    assert_eq!(over, [Command::Finish(Outcome::Ended)]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let messages = [
        Message::Welcome { version: 1 },
        Message::Accepted { needs_module: true },
        prepared(),
        Message::Applied { number: 1 },
        Message::Taken(Timings::default()),
        Message::HandedBack(why(ReasonCode::Digest)),
        Message::Switched { route_us: 1 },
        Message::Frame(vec![1]),
        Message::Bye,
    ];
    let answers = [None, Some(Standing::Taken), Some(Standing::Never), Some(Standing::Open)];
    let events: Vec<_> = messages
        .into_iter()
        .map(Event::Received)
        .chain(answers.map(Event::Answered))
        .chain([Reclaim::Granted, Reclaim::Denied, Reclaim::Unknown].map(Event::Reclaimed))
        .chain([Event::Connected, Event::Lost, Event::WorkerEnded, Event::Counted(3), Event::Recorded, Event::Frozen])
        .chain([Event::Sent { pages: 1, bytes: 1 }, Event::Tick, Event::Failed(why(ReasonCode::Internal))])
        .collect();
    proptest::sample::select(events)
}

proptest! {
    /// Whatever comes in whatever order: the guest goes on here after the token only by somebody's word.
    #[test]
    fn events_in_any_order(sent in any::<bool>(), events in vec((any_event(), 0u64..3_000_000), 0..40)) {
        let mut source = if sent { self::sent(true) } else { met(PlanName::PreCopy, true).0 };
        let (mut token, mut over) = (sent, false);
        let mut now_us = 2_000;
        for (event, later_us) in events {
            now_us += later_us;
            let commands = source.on(event.clone(), now_us);
            prop_assert!(!over || commands.is_empty(), "{event:?} after the end: {commands:?}");
            let word = matches!(
                event,
                Event::Received(Message::HandedBack(_)) | Event::Failed(_) | Event::Reclaimed(Reclaim::Granted)
            );
            prop_assert!(!token || word || !commands.contains(&Command::Thaw), "{event:?}: {commands:?}");
            let gone = matches!(
                event,
                Event::Received(_) | Event::Lost | Event::Tick | Event::Answered(Some(Standing::Taken)) | Event::Reclaimed(_)
            );
            prop_assert!(token && gone || !commands.contains(&Command::LetGo), "{event:?}: {commands:?}");
            token |= commands.contains(&Command::SendLast);
            over |= matches!(commands.last(), Some(Command::Finish(_)));
            prop_assert_eq!(over, source.deadline_us().is_none() && !source.is_in_doubt());
        }
    }
}
