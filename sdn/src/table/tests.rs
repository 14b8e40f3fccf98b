use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::model::{Placement, Presence, Protocol};
use crate::plane::{Hop, Ports, State};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

fn vtep(number: u8) -> IpAddr {
    Ipv4Addr::new(172, 30, 0, number).into()
}

fn address(number: u8, ip: u8) -> Address {
    Address { mac: mac(number), ip: Some(Ipv4Addr::new(10, 90, 1, ip)), ip6: None, name: Some(name("kv")) }
}

fn joined(host: &str, number: u8) -> Event {
    Event::Joined { host: name(host), kind: Kind::Host, vtep: vtep(number), migrate: None }
}

fn claimed(number: u8, host: &str, held: Option<u64>) -> Event {
    let address = address(number, number);
    Event::Claimed { address, host: name(host), held: held.map(Generation), at_ms: 1 }
}

fn moved(number: u8, from: u64, to: &str) -> Event {
    Event::Moved { mac: mac(number), from: Generation(from), to: name(to), drain: false, at_ms: 2 }
}

fn released(number: u8, generation: u64) -> Event {
    Event::Released { mac: mac(number), generation: Generation(generation) }
}

fn table(events: &[Event]) -> Table {
    let mut table = Table::default();
    for event in events {
        table.step(event).unwrap_or_else(|refused| panic!("{event:?}: {refused}"));
    }
    table
}

fn owner(table: &Table, number: u8) -> (String, u64) {
    let placement = &table.route(mac(number)).unwrap().placement;
    (placement.host.to_string(), placement.generation.0)
}

#[test]
fn of_two_who_claim_the_first_has_it() {
    let mut table = table(&[joined("a", 1), joined("b", 2), claimed(1, "a", None)]);
    let refused = table.step(&claimed(1, "b", None)).unwrap_err();
    assert!(matches!(&refused, Refused::Fenced { owner, .. } if *owner == name("a")), "{refused}");
    assert_eq!(refused.to_string(), "02:00:00:00:00:01 (kv) is a's since generation 1");
    assert_eq!(owner(&table, 1), ("a".into(), 1));
    // The same once more is no change, and no error.
    assert_eq!(table.step(&claimed(1, "a", None)), Ok(Vec::new()));
}

#[test]
fn a_move_fences_the_owner_before() {
    let mut table = table(&[joined("a", 1), joined("b", 2), claimed(1, "a", None), moved(1, 1, "b")]);
    assert_eq!(owner(&table, 1), ("b".into(), 2));
    assert!(matches!(table.step(&claimed(1, "a", Some(1))), Err(Refused::Fenced { .. })));
    assert!(matches!(table.step(&released(1, 1)), Err(Refused::Fenced { .. })));
    assert!(matches!(table.step(&moved(1, 1, "a")), Err(Refused::Fenced { .. })));
    // Who asks again because the answer was lost is told yes.
    assert_eq!(table.step(&moved(1, 1, "b")), Ok(Vec::new()));
}

#[test]
fn who_moves_to_itself_has_the_next_generation_and_no_frame_goes_another_way() {
    let mut table = table(&[joined("a", 1), joined("b", 2), claimed(1, "a", None)]);
    let before = table.clone();
    // A host that is taken for lost can say what is its own.
    table.step(&Event::Lost { host: name("a") }).unwrap();
    let commands = table.step(&moved(1, 1, "a")).unwrap();
    assert!(matches!(&commands[..], [Command::Keep(_)]), "{commands:?}");
    assert_eq!(owner(&table, 1), ("a".into(), 2));
    // The one that it was to go to is too late, and who asks again is told the same.
    assert!(matches!(table.step(&moved(1, 1, "b")), Err(Refused::Fenced { .. })));
    assert_eq!(table.step(&moved(1, 1, "a")), Ok(Vec::new()));
    assert_eq!(owner(&table, 1), ("a".into(), 2));

    let mut table = before;
    table.step(&moved(1, 1, "b")).unwrap();
    assert!(matches!(table.step(&moved(1, 1, "a")), Err(Refused::Fenced { .. })));
    // Nor is what came back to it later what it asks for.
    table.step(&moved(1, 2, "a")).unwrap();
    assert!(matches!(table.step(&moved(1, 1, "a")), Err(Refused::Fenced { .. })));
}

#[test]
fn frames_that_go_by_the_owner_before_do_so_in_its_next_generation() {
    let drain = Event::Moved { mac: mac(1), from: Generation(1), to: name("b"), drain: true, at_ms: 2 };
    let mut table = table(&[joined("a", 1), joined("b", 2), claimed(1, "a", None), drain, moved(1, 2, "b")]);
    assert_eq!(table.route(mac(1)).unwrap().placement.via, Some(name("a")));
    table.step(&Event::Settled { mac: mac(1), generation: Generation(3) }).unwrap();
    assert_eq!(table.route(mac(1)).unwrap().placement.via, None);
}

#[test]
fn a_host_says_where_it_takes_migrations() {
    let joined = |migrate: Option<&str>| Event::Joined {
        host: name("a"),
        kind: Kind::Host,
        vtep: vtep(1),
        migrate: migrate.map(|at| at.parse().unwrap()),
    };
    let mut table = table(&[joined(None)]);
    for at in [Some("172.30.0.1:7445"), Some("[fd00::1]:7445"), None] {
        let commands = table.step(&joined(at)).unwrap();
        assert!(matches!(&commands[..], [Command::Keep(_)]), "no plane follows: {commands:?}");
        assert_eq!(table.host(&name("a")).unwrap().migrate, at.map(|at| at.parse().unwrap()));
        assert_eq!(table.step(&joined(at)), Ok(Vec::new()));
    }
    for at in ["0.0.0.0:7445", "127.0.0.1:7445", "224.0.0.1:7445", "172.30.0.1:0"] {
        assert_eq!(table.step(&joined(Some(at))), Err(Refused::MigrateAddress(at.parse().unwrap())));
    }
}

#[test]
fn generations_go_on_after_a_release() {
    let mut table = table(&[joined("a", 1), joined("b", 2), claimed(1, "a", None), moved(1, 1, "b"), released(1, 2)]);
    assert!(matches!(table.step(&claimed(1, "a", Some(1))), Err(Refused::Released { .. })));
    table.step(&claimed(1, "a", None)).unwrap();
    assert_eq!(owner(&table, 1), ("a".into(), 3));
}

#[test]
fn hosts_fill_a_lost_table_with_what_they_hold() {
    let mut table = table(&[joined("a", 1), joined("b", 2), claimed(1, "a", Some(7))]);
    assert_eq!(owner(&table, 1), ("a".into(), 7));
    assert!(matches!(table.step(&claimed(1, "b", Some(6))), Err(Refused::Fenced { .. })));
    let absurd = claimed(2, "b", Some(u64::MAX));
    assert!(matches!(table.step(&absurd), Err(Refused::Released { .. })));
}

#[test]
fn an_ip_belongs_to_one_address() {
    let mut table = table(&[joined("a", 1), claimed(1, "a", None)]);
    let other = Event::Claimed { address: address(2, 1), host: name("a"), held: None, at_ms: 1 };
    let refused = table.step(&other).unwrap_err();
    assert!(matches!(refused, Refused::Taken { .. }), "{refused}");
    // Its own may change.
    let changed = Event::Claimed { address: address(1, 9), host: name("a"), held: Some(Generation(1)), at_ms: 1 };
    table.step(&changed).unwrap();
    assert!(table.route_of_ip(Ipv4Addr::new(10, 90, 1, 1).into()).is_none());
    assert_eq!(table.route_of_ip(Ipv4Addr::new(10, 90, 1, 9).into()).unwrap().address.mac, mac(1));
    for ip in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::LOCALHOST] {
        let address = Address { ip: Some(ip), ..address(3, 3) };
        let refused = table.step(&Event::Claimed { address, host: name("a"), held: None, at_ms: 1 });
        assert_eq!(refused, Err(Refused::NoHostAddress(ip.into())));
    }
}

#[test]
fn hosts_come_and_go() {
    let mut table = table(&[joined("a", 1), joined("b", 2), claimed(1, "a", None)]);
    assert!(matches!(table.step(&joined("c", 2)), Err(Refused::Vtep { .. })));
    assert!(matches!(table.step(&Event::Left { host: name("a") }), Err(Refused::Owns { addresses: 1, .. })));
    assert!(matches!(table.step(&Event::Left { host: name("x") }), Err(Refused::NoHost(_))));
    table.step(&Event::Lost { host: name("b") }).unwrap();
    assert_eq!(table.host(&name("b")).unwrap().presence, Presence::Lost);
    assert!(matches!(table.step(&moved(1, 1, "b")), Err(Refused::Lost(_))));
    table.step(&Event::Heard { host: name("b") }).unwrap();
    table.step(&moved(1, 1, "b")).unwrap();
    table.step(&Event::Left { host: name("a") }).unwrap();
    // The lost keep what they have.
    table.step(&Event::Lost { host: name("b") }).unwrap();
    assert_eq!(owner(&table, 1), ("b".into(), 2));
}

#[test]
fn while_draining_frames_go_by_the_owner_before() {
    let drain = Event::Moved { mac: mac(1), from: Generation(1), to: name("b"), drain: true, at_ms: 2 };
    let mut table = table(&[joined("a", 1), joined("b", 2), joined("c", 3), claimed(1, "a", None), drain]);
    let hop = |table: &Table, node: &str| {
        let entry = State::of(table, &name(node), &Ports::new()).entries[&mac(1)].clone();
        (entry.hop, entry.relay)
    };
    assert_eq!(hop(&table, "c"), (Hop::Tunnel(vtep(1)), false));
    assert_eq!(hop(&table, "a"), (Hop::Tunnel(vtep(2)), true));
    assert_eq!(hop(&table, "b"), (Hop::Here(None), false));
    table.step(&Event::Settled { mac: mac(1), generation: Generation(2) }).unwrap();
    assert_eq!(hop(&table, "c"), (Hop::Tunnel(vtep(2)), false));
    assert_eq!(hop(&table, "a"), (Hop::Tunnel(vtep(2)), false));
}

#[test]
fn a_front_needs_one_family_and_ports() {
    let front = |listen: &str, to: &str| Event::Opened {
        front: Front { protocol: Protocol::Tcp, listen: listen.parse().unwrap(), to: to.parse().unwrap() },
    };
    let mut table = table(&[front("192.0.2.1:80", "10.90.1.2:80")]);
    assert!(matches!(table.step(&front("192.0.2.1:80", "[fd90::1]:80")), Err(Refused::Families(_))));
    assert!(matches!(table.step(&front("192.0.2.1:0", "10.90.1.2:80")), Err(Refused::FrontAddress(_))));
    assert!(matches!(table.step(&front("0.0.0.0:80", "10.90.1.2:80")), Err(Refused::FrontAddress(_))));
    let key: FrontKey = "tcp/192.0.2.1:80".parse().unwrap();
    table.step(&Event::Closed { front: key }).unwrap();
    assert_eq!(table.step(&Event::Closed { front: key }), Err(Refused::NoFront(key)));
}

/// Of small worlds, so that events meet.
fn event() -> impl Strategy<Value = Event> {
    let host = || prop::sample::select(vec!["a", "b", "c", "gate"]).prop_map(name);
    let kind = prop::sample::select(vec![Kind::Host, Kind::Host, Kind::Host, Kind::Gateway]);
    let number = || 1..5_u8;
    let generation = || (0..8_u64).prop_map(Generation);
    let held = prop::option::of(generation());
    prop_oneof![
        2 => (host(), kind, 1..6_u8, prop::option::of(1..3_u16)).prop_map(|(host, kind, end, port)| {
            let migrate = port.map(|port| (vtep(end), port).into());
            Event::Joined { host, kind, vtep: vtep(end), migrate }
        }),
        1 => host().prop_map(|host| Event::Left { host }),
        1 => host().prop_map(|host| Event::Lost { host }),
        1 => host().prop_map(|host| Event::Heard { host }),
        6 => (number(), number(), host(), held).prop_map(|(mac, ip, host, held)| {
            Event::Claimed { address: address(mac, ip), host, held, at_ms: 1 }
        }),
        8 => (number(), generation(), host(), any::<bool>()).prop_map(|(number, from, to, drain)| {
            Event::Moved { mac: mac(number), from, to, drain, at_ms: 2 }
        }),
        2 => (number(), generation()).prop_map(|(number, generation)| Event::Settled { mac: mac(number), generation }),
        2 => (number(), generation()).prop_map(|(number, generation)| released(number, generation.0)),
    ]
}

/// What must hold of any table.
fn check(table: &Table) {
    let mut ips = BTreeMap::new();
    for route in table.routes() {
        let owner = table.host(&route.placement.host).expect("an owner is known");
        assert_eq!(owner.kind, Kind::Host, "{route:?}");
        assert!(route.placement.generation > Generation(0), "{route:?}");
        assert_ne!(route.placement.via.as_ref(), Some(&route.placement.host), "{route:?}");
        assert!(route.placement.revision <= table.revision(), "{route:?}");
        for ip in route.address.ips() {
            assert_eq!(ips.insert(ip, route.address.mac), None, "{ip} twice");
            assert_eq!(table.route_of_ip(ip), Some(route));
        }
    }
    assert_eq!(table.ips, ips);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn one_owner_and_generations_rise(events in prop::collection::vec(event(), 1..120)) {
        let mut table = Table::default();
        // The highest generation that each address ever had, and whose it was.
        let mut highest: BTreeMap<Mac, (Generation, Name)> = BTreeMap::new();
        for event in &events {
            let before = table.clone();
            match table.step(event) {
                Err(_) => prop_assert_eq!(&table, &before),
                Ok(commands) => prop_assert_eq!(commands.is_empty(), table == before),
            }
            check(&table);
            for route in table.routes() {
                let Placement { host, generation, .. } = &route.placement;
                match highest.get(&route.address.mac) {
                    // A generation has one owner for ever.
                    Some((known, owner)) if known == generation => prop_assert_eq!(owner, host),
                    Some((known, _)) => prop_assert!(known < generation, "{} after {known}", generation),
                    None => {}
                }
                highest.insert(route.address.mac, (*generation, host.clone()));
            }
        }
    }

    /// Source and target, each as often as it likes: whoever was first has the generation, and nobody hears otherwise.
    #[test]
    fn of_source_and_target_one_has_the_next_generation(asked in prop::collection::vec(any::<bool>(), 1..12)) {
        let mut table = table(&[joined("a", 1), joined("b", 2), claimed(1, "a", None)]);
        for target in &asked {
            let granted = table.step(&moved(1, 1, if *target { "b" } else { "a" })).is_ok();
            prop_assert_eq!(granted, target == &asked[0]);
        }
        prop_assert_eq!(owner(&table, 1), (if asked[0] { "b" } else { "a" }.to_owned(), 2));
    }

    #[test]
    fn whoever_is_not_the_owner_is_refused(events in prop::collection::vec(event(), 1..80)) {
        let mut table = Table::default();
        for event in &events {
            let _ = table.step(event);
        }
        let routes: Vec<Route> = table.routes().cloned().collect();
        for route in routes {
            let Placement { host, generation, .. } = &route.placement;
            let mac = route.address.mac;
            for other in ["a", "b", "c"].into_iter().map(name).filter(|other| other != host) {
                for held in [None, Some(*generation), Some(generation.next())] {
                    let claim = Event::Claimed { address: route.address.clone(), host: other.clone(), held, at_ms: 3 };
                    prop_assert!(table.clone().step(&claim).is_err());
                }
            }
            for old in 0..generation.0 {
                prop_assert!(table.clone().step(&released(mac.0[5], old)).is_err());
                let claim = Event::Claimed {
                    address: route.address.clone(), host: host.clone(), held: Some(Generation(old)), at_ms: 3,
                };
                prop_assert!(table.clone().step(&claim).is_err());
            }
        }
    }

    #[test]
    fn replaying_gives_the_same(events in prop::collection::vec(event(), 1..120)) {
        let (mut first, mut again, mut follower) = (Table::default(), Table::default(), Table::default());
        for event in &events {
            let commands = first.step(event);
            prop_assert_eq!(&commands, &again.step(event));
            for command in commands.unwrap_or_default() {
                if let Command::Keep(update) = command {
                    follower.apply(&update);
                }
            }
        }
        prop_assert_eq!(&first, &again);
        prop_assert_eq!(&first, &follower);
        prop_assert_eq!(&first, &Table::from_rows(first.revision(), first.rows()));
    }

    /// What is touched is enough: planes that follow step by step are where one is that is made anew.
    #[test]
    fn planes_that_follow_are_right(events in prop::collection::vec(event(), 1..120)) {
        let mut table = Table::default();
        let nodes = ["a", "b", "c", "gate"].map(name);
        let ports: Ports = [(mac(1), "tap1".to_owned())].into();
        let mut states = nodes.clone().map(|_| State::default());
        for event in &events {
            for command in table.step(event).unwrap_or_default() {
                let Command::Program(touched) = command else { continue };
                for (node, state) in nodes.iter().zip(&mut states) {
                    table.orders(node, &ports, &touched).iter().for_each(|order| state.obey(order));
                    prop_assert_eq!(&*state, &State::of(&table, node, &ports), "{} after {:?}", node, event);
                }
            }
        }
        let skip = BTreeSet::new();
        for (node, state) in nodes.iter().zip(&states) {
            prop_assert!(State::of(&table, node, &ports).orders(state, &skip).is_empty());
        }
    }

    /// Whatever a plane was found to hold, what is ordered makes it what it should be.
    #[test]
    fn a_plane_is_mended(
        events in prop::collection::vec(event(), 1..60),
        others in prop::collection::vec(event(), 1..60),
    ) {
        let run = |events: &[Event]| {
            let mut table = Table::default();
            events.iter().for_each(|event| drop(table.step(event)));
            State::of(&table, &name("a"), &Ports::new())
        };
        let (wanted, mut found) = (run(&events), run(&others));
        for (_, order) in wanted.orders(&found, &BTreeSet::new()) {
            found.obey(&order);
        }
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn the_highest_generation_ends_no_claims() {
    let mut table = Table::default();
    table.step(&Event::Joined { host: name("a"), kind: Kind::Host, vtep: vtep(1), migrate: None }).unwrap();
    let claim = |number: u8, held| Event::Claimed { address: address(number, number), host: name("a"), held, at_ms: 0 };
    let highest = Generation(1 << 52);
    let too_high = table.step(&claim(1, Some(highest.next())));
    assert!(matches!(too_high, Err(Refused::Released { .. })), "{too_high:?}");
    table.step(&claim(1, Some(highest))).unwrap();
    table.step(&Event::Released { mac: mac(1), generation: highest }).unwrap();
    table.step(&claim(1, None)).unwrap();
    table.step(&claim(2, None)).unwrap();
    assert_eq!(table.route(mac(2)).unwrap().placement.generation, highest.next());
}
