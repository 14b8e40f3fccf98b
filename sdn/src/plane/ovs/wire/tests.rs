use std::net::IpAddr;

use proptest::prelude::*;

use super::read::Malformed;
use super::*;

fn flow(matching: Match, steps: &[Step]) -> Flow {
    Flow { table: 1, priority: 100, matching, steps: steps.into() }
}

/// What the switch would say of a flow-mod: the same match and instructions in a reply of flow statistics.
fn echoed(change: &Change) -> Message {
    let mut sent = Vec::new();
    flow_mod(&mut sent, 7, change).unwrap();
    let (cookie, table, priority) = (&sent[8..16], sent[24], &sent[30..32]);
    let mut body = vec![table, 0, 0, 0, 0, 9, 0, 0, 0, 9];
    body.extend(priority);
    body.extend([0; 10]);
    body.extend(cookie);
    body.extend(5_u64.to_be_bytes());
    body.extend(500_u64.to_be_bytes());
    body.extend(&sent[48..]);
    let mut reply = [&part::FLOWS.to_be_bytes()[..], &[0, 1, 0, 0, 0, 0]].concat();
    reply.extend(((body.len() + 2) as u16).to_be_bytes());
    reply.extend(body);
    let mut received = Vec::new();
    short(&mut received, kind::MULTIPART_REPLY, 7, &reply);
    let (number, message, bytes) = decode(&received).unwrap().unwrap();
    assert_eq!((number, bytes), (7, received.len()));
    message
}

#[test]
fn a_flow_mod_as_the_switch_takes_it() {
    let matching = Match { target: Some(([2, 0, 0, 0, 0, 0x99], [0xff; 6])), ..Match::default() };
    let steps = [Step::End("172.30.0.1".parse().unwrap()), Step::Output(1)];
    let mut bytes = Vec::new();
    flow_mod(&mut bytes, 3, &Change::Add { flow: flow(matching, &steps), cookie: 0x0102 }).unwrap();
    #[rustfmt::skip]
    let expected = [
        4, 14, 0, 104, 0, 0, 0, 3,
        0, 0, 0, 0, 0, 0, 1, 2,  0, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 100,  255, 255, 255, 255, 255, 255, 255, 255,
        255, 255, 255, 255, 0, 0, 0, 0,
        0, 1, 0, 14, 0x80, 0, 6, 6, 2, 0, 0, 0, 0, 0x99, 0, 0,
        0, 4, 0, 40, 0, 0, 0, 0,
        0, 25, 0, 16, 0, 1, 64, 4, 172, 30, 0, 1, 0, 0, 0, 0,
        0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn hellos_name_their_versions() {
    for (bytes, fits) in [
        (vec![4, 0, 0, 16, 0, 0, 0, 1, 0, 1, 0, 8, 0, 0, 0, 0x10], true),
        (vec![6, 0, 0, 16, 0, 0, 0, 1, 0, 1, 0, 8, 0, 0, 0, 0x52], true),
        (vec![6, 0, 0, 16, 0, 0, 0, 1, 0, 1, 0, 8, 0, 0, 0, 0x42], false),
        (vec![1, 0, 0, 8, 0, 0, 0, 1], false),
        (vec![5, 0, 0, 8, 0, 0, 0, 1], true),
    ] {
        assert_eq!(decode(&bytes), Ok(Some((1, Message::Hello { fits }, bytes.len()))));
    }
}

#[test]
fn what_is_no_message() {
    assert_eq!(decode(&[]), Ok(None));
    assert_eq!(decode(&[4, 0, 0, 9, 0, 0, 0, 1]), Ok(None));
    assert_eq!(decode(&[4, 0, 0, 7, 0, 0, 0, 1]), Err(Malformed { what: "the length of a message" }));
    assert_eq!(decode(&[1, 21, 0, 8, 0, 0, 0, 1]), Err(Malformed { what: "the version of a message" }));
    // A flow whose length does not count itself would never end.
    let endless = [4, 19, 0, 18, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode(&endless), Err(Malformed { what: "the length of a flow" }));
}

#[test]
fn a_flow_too_long_is_refused_and_leaves_nothing() {
    let steps = vec![Step::Output(1); 5_000];
    let mut bytes = vec![1, 2, 3];
    let change = Change::Add { flow: flow(Match::default(), &steps), cookie: 0 };
    assert!(flow_mod(&mut bytes, 1, &change).is_err());
    assert_eq!(bytes, [1, 2, 3]);
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![any::<IpAddr>().prop_map(Step::End), any::<u32>().prop_map(Step::Output)];
    (proptest::collection::vec(step, 0..20), proptest::option::of(any::<u8>()))
        .prop_map(|(steps, table)| steps.into_iter().chain(table.map(Step::Table)).collect())
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn any_reply_is_a_message_or_an_error(
        kind in prop_oneof![Just(part::FLOWS), Just(part::PORTS)],
        length in 0..120_u16,
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let head = [&kind.to_be_bytes()[..], &[0; 6], &length.to_be_bytes()].concat();
        let mut bytes = Vec::new();
        short(&mut bytes, kind::MULTIPART_REPLY, 1, &[head, body].concat());
        let _ = decode(&bytes);
    }

    #[test]
    fn a_damaged_reply_is_a_message_or_an_error(at in 0..200_usize, byte in any::<u8>(), cut in 0..200_usize) {
        let matching = Match { port: Some(1), target: Some(([1; 6], [1; 6])), source: Some([2; 6]) };
        let mut sent = Vec::new();
        let steps = [Step::End(IpAddr::from([0; 16])), Step::Output(1), Step::Table(1)];
        flow_mod(&mut sent, 1, &Change::Add { flow: flow(matching, &steps), cookie: 1 }).unwrap();
        let mut body = sent[8..].to_vec();
        if let Some(target) = body.get_mut(at) {
            *target = byte;
        }
        body.truncate(body.len().saturating_sub(cut));
        let _ = FlowStats::decode(&body);
    }

    #[test]
    fn what_is_sent_reads_back(
        port in proptest::option::of(any::<u32>()),
        target in proptest::option::of(any::<([u8; 6], [u8; 6])>()),
        source in proptest::option::of(any::<[u8; 6]>()),
        steps in steps(),
        cookie in any::<u64>(),
    ) {
        let matching = Match { port, target, source };
        let message = echoed(&Change::Add { flow: flow(matching, &steps), cookie });
        let Message::Flows { flows, more: true } = message else { panic!("{message:?}") };
        prop_assert_eq!(flows.len(), 1);
        let read = &flows[0];
        prop_assert_eq!((read.table, read.priority, read.cookie, read.packets), (1, 100, cookie, 5));
        prop_assert!(read.plain);
        prop_assert_eq!(read.matching, Some(matching));
        prop_assert_eq!(read.steps.as_ref(), Some(&steps));
    }
}
