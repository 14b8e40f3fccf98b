use proptest::collection::vec;
use proptest::prelude::*;

use super::{Grant, Target, TargetCommand as Command, TargetEvent as Event};
use crate::page::Shape;
use crate::plan::PlanName;
use crate::protocol::{
    Encoding, Greeting, Message, Offer, Phase, Reason, ReasonCode, SessionId, Standing, Timings, Token,
};

fn heard(message: Message) -> Event {
    Event::Received(message)
}

fn why(code: ReasonCode) -> Reason {
    Reason::new(code, "a test")
}

fn hello(versions: (u16, u16), greeting: Greeting) -> Event {
    heard(Message::Hello { versions, session: SessionId([7; 16]), greeting })
}

fn offer() -> Message {
    Message::Offer(Offer {
        guest: vec![1],
        module: [1; 32],
        module_bytes: 10,
        netstack: [2; 32],
        abi: 1,
        shape: Shape(vec![64, 32]),
        plan: PlanName::PreCopy,
        encoding: Encoding::Raw,
    })
}

fn token() -> Token {
    Token { state: vec![1], digest: [0; 16], stopped_ns: 0 }
}

/// Up to a worker that waits.
fn prepared() -> Target {
    let mut target = Target::new(0);
    assert_eq!(target.on(hello((1, 9), Greeting::Migrate), 1), [Command::Send(Message::Welcome { version: 1 })]);
    assert_eq!(target.session(), Some(SessionId([7; 16])));
    assert!(matches!(target.on(heard(offer()), 2)[..], [Command::Check(_)]));
    let accepted = Command::Send(Message::Accepted { needs_module: true });
    assert_eq!(target.on(Event::Checked { needs_module: true }, 3), [accepted]);
    assert_eq!(target.on(heard(Message::Module(vec![0; 4])), 4), [Command::KeepModule(vec![0; 4])]);
    assert_eq!(target.on(heard(Message::Module(vec![1; 6])), 5), [Command::KeepModule(vec![1; 6]), Command::Prepare]);
    let ready = Event::Ready { shape: Shape(vec![16, 32]), base: Vec::new() };
    assert!(matches!(target.on(ready, 6)[..], [Command::Send(Message::Prepared { .. })]));
    target
}

/// Up to the token.
fn tokened() -> Target {
    let mut target = prepared();
    let shape = Shape(vec![64, 32]);
    assert_eq!(target.on(heard(Message::Last { shape: shape.clone() }), 7), [Command::Grow(shape)]);
    assert_eq!(target.on(heard(Message::Frame(vec![1])), 8), [Command::Inject(vec![1])]);
    let commands = target.on(heard(Message::Token(token())), 9);
    assert_eq!(commands, [Command::Claim, Command::Install(Box::new(token()))]);
    target
}

/// Up to the claim that a source with a controller says before it stops the guest.
fn claimed() -> Target {
    let mut target = prepared();
    assert_eq!(target.on(heard(Message::Claim), 7), [Command::Claim]);
    target
}

/// Told to go on.
fn resuming() -> Target {
    let mut target = tokened();
    assert_eq!(target.on(Event::Installed, 10), []);
    assert_eq!(target.on(Event::Claimed(Grant::Granted), 11), [Command::Resume]);
    target
}

fn finish(commands: &[Command]) -> &Result<(), Reason> {
    match commands {
        [.., Command::Finish(outcome)] => outcome,
        other => panic!("not over: {other:?}"),
    }
}

#[test]
fn a_guest_comes() {
    let mut target = resuming();
    let taken = Command::Send(Message::Taken(Timings::default()));
    assert_eq!(target.on(Event::Resumed(Timings::default()), 12), [taken, Command::AwaitRoute]);
    assert_eq!(target.phase(), Phase::Complete);
    assert_eq!(target.on(heard(Message::Frame(vec![2])), 13), [Command::Inject(vec![2])]);
    let switched = Command::Send(Message::Switched { route_us: 5 });
    assert_eq!(target.on(Event::Switched { route_us: 5 }, 14), [switched]);
    assert_eq!(target.on(heard(Message::Bye), 15), [Command::Close, Command::Finish(Ok(()))]);
    assert_eq!(target.on(Event::Asked, 16), [Command::Tell(Standing::Taken)]);
}

#[test]
fn an_address_that_is_granted_before_the_token_is_not_waited_for() {
    for granted_first in [true, false] {
        let mut target = claimed();
        let grant = Event::Claimed(Grant::Granted);
        let shape = Shape(vec![64, 32]);
        target.on(heard(Message::Last { shape }), 8);
        if granted_first {
            assert_eq!(target.on(grant.clone(), 8), []);
        }
        assert_eq!(target.on(heard(Message::Token(token())), 9), [Command::Install(Box::new(token()))]);
        assert!(!target.awaits_grant());
        let commands = target.on(Event::Installed, 10);
        if granted_first {
            assert_eq!(commands, [Command::Resume]);
        } else {
            assert!(commands.is_empty() && target.awaits_grant());
            assert_eq!(target.on(grant, 11), [Command::Resume]);
        }
    }
}

#[test]
fn a_claim_for_nothing_ends_with_the_address_and_its_frames_given_back() {
    for event in [Event::Claimed(Grant::Denied), Event::Claimed(Grant::Unknown), Event::WorkerEnded] {
        let over = claimed().on(event, 8);
        assert!(over.starts_with(&[Command::ReturnFrames, Command::Discard]) && finish(&over).is_err(), "{over:?}");
    }
    let over = claimed().on(Event::Lost, 8);
    assert!(over.starts_with(&[Command::Discard]), "{over:?}");
    for message in [Message::Claim, Message::Round { number: 1, shape: Shape(vec![64, 32]) }] {
        assert!(finish(&claimed().on(heard(message), 8)).is_err());
    }
}

#[test]
fn rounds_come_in_order_and_pages_within_them() {
    let mut target = prepared();
    assert_eq!(target.expects_pages(), None);
    let shape = Shape(vec![20, 32]);
    assert_eq!(target.on(heard(Message::Round { number: 1, shape: shape.clone() }), 7), [Command::Grow(shape.clone())]);
    assert_eq!(target.expects_pages(), Some(&shape));
    assert_eq!(target.on(heard(Message::Log(vec![1])), 7), [Command::AddLog(vec![1])]);
    let applied = Command::Send(Message::Applied { number: 1 });
    assert_eq!(target.on(heard(Message::RoundEnd { number: 1 }), 8), [applied]);
    assert_eq!(target.expects_pages(), None);
}

#[test]
fn what_is_out_of_order_ends_it() {
    let shape = || Shape(vec![64, 32]);
    let wrong = [
        Message::Round { number: 2, shape: shape() },
        Message::Round { number: 1, shape: Shape(vec![15, 32]) },
        Message::Round { number: 1, shape: Shape(vec![16]) },
        Message::RoundEnd { number: 1 },
        Message::Frame(vec![1]),
        Message::Token(token()),
        Message::Bye,
        offer(),
    ];
    for message in wrong {
        let name = message.name();
        let over = prepared().on(heard(message), 7);
        let expected = matches!(&over[..], [Command::Discard, Command::Send(Message::Cancel(_)), Command::Close, _]);
        assert!(expected && finish(&over).is_err(), "{name}: {over:?}");
    }
    let mut target = prepared();
    target.on(heard(Message::Round { number: 1, shape: shape() }), 7);
    assert!(finish(&target.on(heard(Message::Last { shape: shape() }), 8)).is_err());
}

#[test]
fn a_source_that_cannot_be_served_is_refused() {
    let refused = |commands: &[Command]| match commands {
        [.., Command::Send(Message::Refused(why)), Command::Close, Command::Finish(Err(_))] => why.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&Target::new(0).on(hello((2, 9), Greeting::Migrate), 1)), ReasonCode::Version);
    assert_eq!(refused(&Target::new(0).on(hello((1, 1), Greeting::Settle), 1)), ReasonCode::Protocol);
    assert_eq!(refused(&Target::new(0).on(Event::Tick, 5_000_000)), ReasonCode::Timeout);
    let mut target = Target::new(0);
    target.on(hello((1, 1), Greeting::Migrate), 1);
    target.on(heard(offer()), 2);
    assert_eq!(refused(&target.on(Event::Failed(why(ReasonCode::Room)), 3)), ReasonCode::Room);
    let mut target = Target::new(0);
    target.on(hello((1, 1), Greeting::Migrate), 1);
    target.on(heard(offer()), 2);
    target.on(Event::Checked { needs_module: true }, 3);
    assert_eq!(refused(&target.on(heard(Message::Module(vec![0; 11])), 4)), ReasonCode::Protocol);
}

#[test]
fn a_token_that_does_not_fit_is_handed_back() {
    let wrong = [
        Event::Failed(why(ReasonCode::Digest)),
        Event::Claimed(Grant::Denied),
        Event::Claimed(Grant::Unknown),
        Event::WorkerEnded,
        heard(Message::Bye),
    ];
    for event in wrong {
        let over = tokened().on(event, 10);
        let back = [Command::ReturnFrames, Command::Discard];
        assert!(over.starts_with(&back) && finish(&over).is_err(), "{over:?}");
        assert!(matches!(over[2], Command::Send(Message::HandedBack(_))), "{over:?}");
    }
}

#[test]
fn a_target_whose_source_is_lost_goes_on_with_what_it_has() {
    let mut target = tokened();
    assert_eq!(target.on(Event::Lost, 10), []);
    assert_eq!(target.on(Event::Claimed(Grant::Unknown), 20), []);
    assert_eq!(target.deadline_us(), Some(200_020));
    assert_eq!(target.on(Event::Tick, 200_020), [Command::Claim]);
    assert_eq!(target.on(Event::Installed, 200_030), []);
    assert_eq!(target.on(Event::Claimed(Grant::Granted), 200_040), [Command::Resume]);
    assert_eq!(target.on(Event::Resumed(Timings::default()), 200_050), [Command::Close, Command::Finish(Ok(()))]);
}

#[test]
fn a_source_that_asks_before_the_guest_goes_on_gets_it_back() {
    let mut targets = [Target::new(0), prepared(), tokened()];
    for target in &mut targets {
        let over = target.on(Event::Asked, 20);
        assert!(over.starts_with(&[Command::Discard, Command::Tell(Standing::Never)]), "{over:?}");
        assert!(finish(&over).is_err());
        assert_eq!(target.on(Event::Claimed(Grant::Granted), 21), [], "too late");
        assert_eq!(target.on(Event::Asked, 22), [Command::Tell(Standing::Never)]);
    }
}

#[test]
fn a_guest_that_was_told_to_go_on_is_not_given_back() {
    let mut target = resuming();
    assert_eq!(target.on(Event::Asked, 12), [Command::Tell(Standing::Open)]);
    assert_eq!(target.on(heard(Message::Bye), 12), [Command::Close]);
    assert_eq!(target.on(Event::Cancel(why(ReasonCode::Cancelled)), 12), []);
    assert_eq!(target.on(Event::Resumed(Timings::default()), 13), [Command::Close, Command::Finish(Ok(()))]);
    assert_eq!(target.on(Event::Asked, 14), [Command::Tell(Standing::Taken)]);

    let mut target = resuming();
    assert_eq!(target.on(Event::WorkerEnded, 12), [], "it may have been told");
    let deadline_us = target.deadline_us().expect("that is not waited for for ever");
    assert_eq!(target.on(Event::WorkerEnded, 1000), [], "told once more");
    assert_eq!(target.deadline_us(), Some(deadline_us));
    assert_eq!(target.on(Event::Tick, deadline_us), [Command::Close, Command::Finish(Ok(()))]);
}

#[test]
fn a_guest_whose_worker_could_not_be_told_is_handed_back() {
    let mut target = resuming();
    target.on(Event::WorkerEnded, 12);
    let over = target.on(Event::Failed(why(ReasonCode::Worker)), 13);
    assert!(over.starts_with(&[Command::ReturnFrames, Command::Discard]) && finish(&over).is_err(), "{over:?}");
    assert_eq!(target.on(Event::Asked, 14), [Command::Tell(Standing::Never)]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let shape = || Shape(vec![64, 32]);
    let messages = [
        Message::Round { number: 1, shape: shape() },
        Message::RoundEnd { number: 1 },
        Message::Claim,
        Message::Last { shape: shape() },
        Message::Frame(vec![1]),
        Message::Token(token()),
        Message::Bye,
        Message::Cancel(why(ReasonCode::Cancelled)),
    ];
    let events: Vec<_> = messages
        .into_iter()
        .map(Event::Received)
        .chain([Grant::Granted, Grant::Denied, Grant::Unknown].map(Event::Claimed))
        .chain([Event::Lost, Event::WorkerEnded, Event::Installed, Event::Asked, Event::Tick])
        .chain([Event::Resumed(Timings::default()), Event::Switched { route_us: 1 }])
        .chain([Event::Failed(why(ReasonCode::Internal)), Event::Cancel(why(ReasonCode::Cancelled))])
        .collect();
    proptest::sample::select(events)
}

proptest! {
    /// Whatever comes in whatever order: a guest goes on here only with all of it and the controller's word, and what
    /// was said of it stays so.
    #[test]
    fn events_in_any_order(tokened in any::<bool>(), events in vec((any_event(), 0u64..3_000_000), 0..40)) {
        let mut target = if tokened { self::tokened() } else { prepared() };
        let (mut granted, mut installed, mut outcome, mut said) = (false, false, None, None);
        let mut now_us = 20;
        for (event, later_us) in events {
            now_us += later_us;
            granted |= event == Event::Claimed(Grant::Granted);
            installed |= event == Event::Installed;
            for command in target.on(event.clone(), now_us) {
                match command {
                    Command::Resume => prop_assert!(granted && installed && said.is_none() && outcome.is_none()),
                    Command::Tell(Standing::Open) => prop_assert!(said.is_none()),
                    Command::Tell(standing) => {
                        prop_assert!(said.is_none_or(|said| said == standing), "{said:?}, then {standing:?}");
                        said = Some(standing);
                    }
                    Command::Finish(result) => {
                        prop_assert!(outcome.is_none(), "over twice");
                        outcome = Some(result.is_ok());
                    }
                    _ => {}
                }
            }
        }
        let (now, before) = (target.on(Event::Asked, now_us), said.is_some());
        prop_assert!(now.iter().any(|command| matches!(command, Command::Tell(_))), "no answer");
        if let (Some(taken), true) = (outcome, before) {
            prop_assert_eq!(said == Some(Standing::Taken), taken);
        }
    }
}
