//! What every plane must do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use roam_sdn::model::{Address, Kind};
use roam_sdn::plane::{Ends, Entry, Hop, Keeper, Order, State, kernel};
use roam_sdn::table::{Event, Table};
use roam_sdn::{Mac, Name};

use crate::rig::{Build, GUEST, GUEST_IP, GUEST_IP6, LIMIT, Rig, SILENCE, Underlay, until};

/// Has a plane pass all of them.
macro_rules! conformance {
    ($build:expr) => {
        $crate::conformance::conformance!(
            $build;
            reaches_the_owner_only,
            broadcast_reaches_all,
            unknown_goes_to_its_ends,
            passes_on,
            counts,
            removes,
            goes_by_ipv6_tunnels,
            state_reads_back,
            disturbances_are_found_and_mended,
            a_keeper_mends,
            no_packet_is_lost_by_switching,
            any_state_is_reached,
        );
    };
    ($build:expr; $($test:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                $crate::conformance::$test($build);
            }
        )+
    };
}
pub(crate) use conformance;

/// Frames go to the owner, and after a switch to the next one.
pub(crate) fn reaches_the_owner_only(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, _)| {
        let (asker, asker6) = (rig.asker(GUEST_IP), rig.asker(GUEST_IP6));
        for (host, name) in [(&rig.a, "a"), (&rig.b, "b"), (&rig.a, "a")] {
            plane.apply(&[Order::Set(rig.at(host))]).unwrap();
            for asker in [&asker, &asker6] {
                assert_eq!(asker.who().as_deref(), Some(name));
                (0..20).for_each(|number| asker.send(number));
                let answers: Vec<_> = std::iter::from_fn(|| asker.receive()).collect();
                assert!(answers.len() >= 20 && answers.iter().all(|(_, who)| who == name), "{answers:?}");
            }
        }
    });
}

/// Who asks for an address that nobody has claimed is heard by all hosts.
pub(crate) fn broadcast_reaches_all(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, _)| {
        for host in [&rig.a, &rig.b] {
            let all = BTreeSet::from([host.end]);
            plane.apply(&[Order::Ends(Ends { all, unknown: BTreeSet::new() })]).unwrap();
            rig.client.shell("ip neighbour flush dev eth0");
            let asker = rig.asker(GUEST_IP);
            until("the guest answers ARP", || {
                asker.send(0);
                rig.client.shell("ip neighbour show dev eth0").contains(&GUEST.to_string())
            });
        }
    });
}

/// Frames to an address that nobody has claimed go to the ends for that.
pub(crate) fn unknown_goes_to_its_ends(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, mut reader)| {
        rig.client.shell(&format!("ip neighbour replace {GUEST_IP} lladdr {GUEST} dev eth0"));
        let asker = rig.asker(GUEST_IP);
        assert!(asker.is_silent());
        for (host, name) in [(&rig.a, "a"), (&rig.b, "b")] {
            let ends = Ends { all: rig.ends().all, unknown: BTreeSet::from([host.end]) };
            plane.apply(&[Order::Ends(ends.clone())]).unwrap();
            assert_eq!(asker.who().as_deref(), Some(name));
            assert_eq!(reader.found().unwrap().state.ends, ends);
        }
    });
}

/// A host that had the address passes frames on to the one that has it now.
pub(crate) fn passes_on(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, _)| {
        plane.apply(&[Order::Set(rig.at(&rig.a))]).unwrap();
        assert_eq!(rig.who(), "a");
        rig.a.inside.run(|| {
            let gateways = BTreeSet::from([rig.underlay.end(254)]);
            let ends = Order::Ends(Ends { all: gateways.clone(), unknown: gateways });
            let (mut host, mut reader) = kernel::open(kernel::Config {
                tunnel: "vx0".into(),
                bridge: "br0".into(),
                kind: roam_sdn::model::Kind::Host,
            })
            .unwrap();
            host.prepare().unwrap();
            let mut entry = rig.at(&rig.b);
            entry.relay = true;
            host.apply(&[ends, Order::Set(entry.clone())]).unwrap();
            assert_eq!(reader.found().unwrap().state.entries[&GUEST], entry);
            assert_eq!(rig.who(), "b");
            let before = reader.counters().unwrap()[&GUEST].to_packets;
            let asker = rig.asker(GUEST_IP);
            (0..20).for_each(|number| asker.send(number));
            let answers: Vec<_> = std::iter::from_fn(|| asker.receive()).collect();
            assert!(answers.len() == 20 && answers.iter().all(|(_, who)| who == "b"), "{answers:?}");
            assert_eq!(reader.counters().unwrap()[&GUEST].to_packets, before + 20);
            // Back home.
            host.apply(&[Order::Set(rig.entry(Hop::Here(None)))]).unwrap();
            assert_eq!(rig.who(), "a");
        });
    });
}

/// Both ways, and a switch does not forget.
pub(crate) fn counts(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, mut reader)| {
        plane.apply(&[Order::Set(rig.at(&rig.a))]).unwrap();
        rig.who();
        let asker = rig.asker(GUEST_IP);
        let before = reader.counters().unwrap()[&GUEST];
        for number in 0..100 {
            if number == 50 {
                plane.apply(&[Order::Set(rig.at(&rig.b))]).unwrap();
                rig.who();
            }
            asker.send(number);
            assert!(asker.receive().is_some());
        }
        until("all is counted", || {
            let now = reader.counters().unwrap()[&GUEST];
            now.to_packets >= before.to_packets + 100
                && now.from_packets >= before.from_packets + 100
                && now.to_bytes >= before.to_bytes + 100 * 43
        });
        assert!(reader.counters().unwrap()[&GUEST].to_packets < before.to_packets + 150);
    });
}

/// Nothing is left of an address that was removed.
pub(crate) fn removes(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, mut reader)| {
        plane.apply(&[Order::Set(rig.at(&rig.a))]).unwrap();
        assert_eq!(rig.who(), "a");
        // Who asked while ARP was under way may have more answers to come.
        let asker = rig.asker(GUEST_IP);
        plane.apply(&[Order::Remove(GUEST)]).unwrap();
        assert!(asker.is_silent());
        let found = reader.found().unwrap();
        assert_eq!(found.state, State { ends: rig.ends(), entries: BTreeMap::new() });
        plane.apply(&[Order::Remove(GUEST)]).unwrap();
        plane.apply(&[Order::Set(rig.at(&rig.b))]).unwrap();
        assert_eq!(rig.who(), "b");
    });
}

/// The same with tunnels over IPv6.
pub(crate) fn goes_by_ipv6_tunnels(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V6) else { return };
    rig.run(|(mut plane, mut reader)| {
        for (host, name) in [(&rig.a, "a"), (&rig.b, "b")] {
            plane.apply(&[Order::Set(rig.at(host))]).unwrap();
            assert_eq!(rig.who(), name);
        }
        let found = reader.found().unwrap();
        let entries = BTreeMap::from([(GUEST, rig.at(&rig.b))]);
        assert_eq!(found.state, State { ends: rig.ends(), entries });
    });
}

/// What was ordered is found, in every form that an entry has.
pub(crate) fn state_reads_back(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, mut reader)| {
        let a = Hop::Tunnel(rig.a.end);
        let hops = [
            a.clone(),
            Hop::Here(None),
            Hop::Here(Some("client".into())),
            a.clone(),
            Hop::Here(Some("client".into())),
            Hop::Here(None),
            a,
        ];
        let mut wanted = State { ends: rig.ends(), entries: BTreeMap::new() };
        for hop in hops {
            for (ip, ip6, relay) in [(true, true, false), (false, true, true), (true, false, false)] {
                let mut entry = rig.entry(hop.clone());
                entry.ip = entry.ip.filter(|_| ip);
                entry.ip6 = entry.ip6.filter(|_| ip6);
                entry.relay = relay && matches!(hop, Hop::Tunnel(_));
                let order = Order::Set(entry);
                plane.apply(std::slice::from_ref(&order)).unwrap();
                wanted.obey(&order);
                let found = reader.found().unwrap();
                assert_eq!(wanted.orders(&found.state, &BTreeSet::new()), [], "found {found:?}");
                assert!(found.unprepared.is_empty(), "{found:?}");
            }
        }
    });
}

/// What somebody changes by hand is found, and one mending is enough.
pub(crate) fn disturbances_are_found_and_mended(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, mut reader)| {
        let wanted = State { ends: rig.ends(), entries: BTreeMap::from([(GUEST, rig.at(&rig.a))]) };
        plane.apply(&[Order::Set(rig.at(&rig.a))]).unwrap();
        for (what, commands) in rig.gateway.disturbances() {
            rig.inside.shell(&commands);
            let found = reader.found().unwrap();
            let orders = wanted.orders(&found.state, &BTreeSet::new());
            assert!(!orders.is_empty() || !found.unprepared.is_empty(), "not found: {what}");
            if !found.unprepared.is_empty() {
                plane.prepare().unwrap();
            }
            let orders: Vec<_> = orders.into_iter().map(|(_, order)| order).collect();
            plane.apply(&orders).unwrap();
            let found = reader.found().unwrap();
            assert!(found.unprepared.is_empty(), "{what}: {found:?}");
            assert_eq!(found.state, wanted, "{what}");
            assert_eq!(rig.who(), "a", "{what}");
        }
    });
}

/// The same with a keeper, which is not asked.
pub(crate) fn a_keeper_mends(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.inside.run(|| {
        let table = table(&rig);
        let keeper = Keeper::start("gateway".parse().unwrap(), rig.gateway.planes().unwrap(), &table).unwrap();
        assert_eq!(rig.who(), "a");
        for (what, commands) in rig.gateway.disturbances() {
            let before = keeper.status().drifts_mended;
            rig.inside.shell(&commands);
            until(what, || keeper.status().drifts_mended > before);
            assert_eq!(rig.who(), "a", "{what}");
        }
        assert_eq!(keeper.status().trouble, None);
        until("nothing is left to mend", || keeper.audit().unwrap().is_empty());
    });
}

/// Switches under load: each question has one answer.
pub(crate) fn no_packet_is_lost_by_switching(build: Build) {
    const SWITCHES: usize = 500;
    const QUESTIONS: usize = 10_000;
    const BETWEEN: Duration = Duration::from_micros(200);
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, _)| {
        // Both hosts know their client before.
        for host in [&rig.b, &rig.a] {
            plane.apply(&[Order::Set(rig.at(host))]).unwrap();
            rig.who();
        }
        let asker = rig.asker(GUEST_IP);
        let answers = thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let (mut answers, mut silent) = (Vec::new(), Duration::ZERO);
                while answers.len() < QUESTIONS && silent < LIMIT || silent < SILENCE {
                    match asker.receive() {
                        Some((number, _)) => (answers.push(number), silent = Duration::ZERO).1,
                        None => silent += Duration::from_millis(100),
                    }
                }
                answers
            });
            let switcher = scope.spawn(|| {
                for switch in 0..SWITCHES {
                    let host = if switch % 2 == 0 { &rig.b } else { &rig.a };
                    plane.apply(&[Order::Set(rig.at(host))]).unwrap();
                    thread::sleep(Duration::from_millis(4));
                }
            });
            for number in 0..QUESTIONS {
                asker.send(number);
                thread::sleep(BETWEEN);
            }
            switcher.join().unwrap();
            receiver.join().unwrap()
        });
        let distinct: BTreeSet<_> = answers.iter().collect();
        assert_eq!((distinct.len(), answers.len()), (QUESTIONS, QUESTIONS), "distinct answers, and answers");
    });
}

/// From any state to any other, by the orders that the difference makes.
pub(crate) fn any_state_is_reached(build: Build) {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, mut reader)| {
        let plane = std::cell::RefCell::new(&mut plane);
        let reader = std::cell::RefCell::new(&mut reader);
        let config = Config { cases: 24, failure_persistence: None, max_shrink_iters: 20, ..Config::default() };
        let result = TestRunner::new(config).run(&states(&rig), |wanted| {
            let (mut plane, mut reader) = (plane.borrow_mut(), reader.borrow_mut());
            let found = reader.found().unwrap();
            let orders: Vec<_> =
                wanted.orders(&found.state, &BTreeSet::new()).into_iter().map(|(_, order)| order).collect();
            let mut obeyed = found.state.clone();
            orders.iter().for_each(|order| obeyed.obey(order));
            assert_eq!(obeyed, wanted);
            plane.apply(&orders).unwrap();
            assert_eq!(reader.found().unwrap().state, wanted);
            Ok(())
        });
        result.unwrap();
    });
}

fn table(rig: &Rig) -> Table {
    table_of(rig.underlay)
}

/// The gateway, both hosts, and the guest at host a.
pub(crate) fn table_of(underlay: Underlay) -> Table {
    let name = |name: &str| name.parse::<Name>().unwrap();
    let mut table = Table::default();
    let nodes = [
        ("gateway", Kind::Gateway, underlay.end(254)),
        ("a", Kind::Host, underlay.end(1)),
        ("b", Kind::Host, underlay.end(2)),
    ];
    for (host, kind, vtep) in nodes {
        table.step(&Event::Joined { host: name(host), kind, vtep, migrate: None }).unwrap();
    }
    let address = Address { mac: GUEST, ip: Some(GUEST_IP), ip6: Some(GUEST_IP6), name: None };
    table.step(&Event::Claimed { address, host: name("a"), held: None, at_ms: 0 }).unwrap();
    table
}

/// States of a few addresses, of which some share their IP addresses' pool, so that these change hands.
fn states(rig: &Rig) -> impl Strategy<Value = State> + use<> {
    let ends = [rig.a.end, rig.b.end];
    let set = move || proptest::sample::subsequence(ends.to_vec(), 0..=2).prop_map(|ends| ends.into_iter().collect());
    let ends_of = (set(), set()).prop_map(|(all, unknown)| Ends { all, unknown });
    let hop = prop_oneof![
        4 => proptest::sample::select(ends.to_vec()).prop_map(Hop::Tunnel),
        1 => Just(Hop::Here(None)),
        1 => Just(Hop::Here(Some("client".into()))),
    ];
    let ips = Just((0..6u8).collect::<Vec<_>>()).prop_shuffle();
    let entries = proptest::collection::vec((any::<bool>(), hop, any::<bool>(), any::<bool>(), any::<bool>()), 6);
    (ends_of, ips, entries).prop_map(|(ends, ips, entries)| {
        let entries = entries.into_iter().zip(ips).enumerate().filter(|(_, ((there, ..), _))| *there);
        let entries = entries.map(|(number, ((_, hop, four, six, relay), ip))| {
            let mac = Mac([2, 0, 0, 0, 7, number as u8]);
            let relay = relay && matches!(hop, Hop::Tunnel(_));
            let ip6 = Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 7, ip.into());
            let ip = Ipv4Addr::new(10, 90, 7, ip);
            (mac, Entry { mac, ip: four.then_some(ip), ip6: six.then_some(ip6), hop, relay })
        });
        State { ends, entries: entries.collect() }
    })
}
