//! Streams between hosts that are spoiled on their way, and hosts that follow the protocol wrongly.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use common::LIMIT;
use common::crooked::{Blow, Harm, Proxy, Way};
use common::migration::{PAUSE, Talk, chosen, names, plain, remains, settled, to, view};
use common::overlay::{Rig, name};
use common::rogue::{Rogue, files, target};
use roam_runtime::api::{GuestView, MigrateRequest, MigrationState, MigrationView};
use roam_runtime::cert::{Authority, Issue, Role, TlsFiles};
use roam_runtime::engine::ModuleHash;
use roam_snapshot::digest::{Digest, PageDigest};
use roam_snapshot::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, Shape};
use roam_snapshot::plan::PlanName;
use roam_snapshot::protocol::wire::PagesHeader;
use roam_snapshot::protocol::{
    BasePage, Encoding, Greeting, Message, Offer, Reason, ReasonCode, Standing, Timings, Token,
};

/// Moves the guest through a proxy, whatever comes of it, and says what its source says.
async fn through(rig: &Rig, proxies: &[Proxy; 2], blow: Option<Blow>) -> (usize, String, [u64; 2]) {
    let at = settled(rig).await;
    let proxy = &proxies[1 - at];
    if let Some(blow) = blow {
        proxy.strike(blow);
    }
    let request = MigrateRequest { at: Some(proxy.at), timeout_ms: 10_000, ..to(&rig.hosts[1 - at]) };
    let begun = rig.hosts[at].client().migrate(&name("guest"), &request).await.unwrap();
    let now = settled(rig).await;
    let view = view(&rig.hosts[at], &begun.id).await.unwrap();
    assert_eq!(view.state == MigrationState::Done, now != at, "{view:?}");
    assert!(now != at || view.reason.is_some(), "{view:?}");
    assert!(proxy.struck(), "nothing was spoiled");
    (now, format!("{:?} {:?}", view.state, view.reason), proxy.passed())
}

/// Each of these, twice in a row, then a move as always.
fn spoiled(title: &'static str, blows: impl FnOnce([u64; 2]) -> Vec<Blow>) {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let proxies = rig.hosts.each_ref().map(Proxy::before);
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talk = Talk::begin(rig);
        let (_, said, passed) = through(rig, &proxies, None).await;
        println!("{title}: {passed:?} bytes: {said}");
        for blow in blows(passed) {
            for _ in 0..2 {
                let began = Instant::now();
                let (_, said, _) = through(rig, &proxies, Some(blow)).await;
                println!("{title}: {blow:?}: {said} after {:?}", began.elapsed());
                assert!(talk.goes_on().await, "the connection fails");
            }
            plain(rig, &talk).await;
        }
        talk.end();
        for (proxy, host) in proxies.into_iter().zip(&rig.hosts) {
            proxy.end(host);
        }
    });
}

#[test]
fn a_spoiled_stream_costs_the_migration_and_no_more() {
    spoiled("spoiled", |passed| {
        let mut blows = Vec::new();
        for (way, bytes) in [(Way::ToTarget, passed[0]), (Way::ToSource, passed[1])] {
            // In the handshake, in the rounds, and about the token and its answer.
            for at in [3, 700, bytes / 3, bytes * 2 / 3, bytes - 400, bytes - 100] {
                blows.extend([Harm::Flip, Harm::Swap, Harm::Cut, Harm::HalfClose].map(|harm| Blow { way, at, harm }));
            }
        }
        chosen(blows, 8)
    });
}

#[test]
fn a_stream_that_stands_still_is_given_up() {
    spoiled("stalled", |passed| {
        let harm = Harm::Stall(Duration::from_secs(20));
        let ways = [
            Blow { way: Way::ToTarget, at: passed[0] / 2, harm },
            Blow { way: Way::ToSource, at: passed[1] - 150, harm },
        ];
        chosen(ways.into(), 1)
    });
}

#[test]
fn who_takes_a_connection_and_speaks_no_tls_is_given_up() {
    let blow = |harm| Blow { way: Way::ToTarget, at: 0, harm };
    spoiled("no TLS", |_| vec![blow(Harm::Silence), blow(Harm::Noise)]);
}

#[test]
fn after_a_cut_the_next_attempt_succeeds_at_once() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let proxies = rig.hosts.each_ref().map(Proxy::before);
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talk = Talk::begin(rig);
        let (_, _, passed) = through(rig, &proxies, None).await;
        for at in [passed[0] / 4, passed[0] / 2, passed[0] * 3 / 4] {
            let host = settled(rig).await;
            let (source, proxy) = (&rig.hosts[host], &proxies[1 - host]);
            let request = MigrateRequest { at: Some(proxy.at), ..to(&rig.hosts[1 - host]) };
            for _ in 0..2 {
                proxy.strike(Blow { way: Way::ToTarget, at, harm: Harm::Cut });
                let begun = source.client().migrate(&name("guest"), &request).await.unwrap();
                let view = ended(rig, host, &begun.id).await;
                assert_eq!(view.reason.unwrap().code, "link");
            }
            let begun = source.client().migrate(&name("guest"), &request).await.unwrap();
            let view = ended(rig, host, &begun.id).await;
            assert_eq!(view.state, MigrationState::Done, "{view:?}");
            // And back as soon as the target says that it came.
            let back = rig.hosts[1 - host].client();
            let begun = loop {
                if let Ok(begun) = back.migrate(&name("guest"), &to(source)).await {
                    break begun;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            let view = ended(rig, 1 - host, &begun.id).await;
            assert_eq!(view.state, MigrationState::Done, "{view:?}");
            assert!(talk.goes_on().await, "the connection fails");
        }
        talk.end();
        for (proxy, host) in proxies.into_iter().zip(&rig.hosts) {
            proxy.end(host);
        }
    });
}

/// What a host says of a migration that is over there, whatever the other one is doing still.
async fn ended(rig: &Rig, at: usize, id: &str) -> MigrationView {
    let deadline = Instant::now() + LIMIT;
    loop {
        let view = view(&rig.hosts[at], id).await.unwrap();
        if view.is_over() {
            return view;
        }
        assert!(Instant::now() < deadline, "{view:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// An offer of a guest that is nowhere.
fn ghost(like: &GuestView) -> Offer {
    let mut guest = serde_json::json!({
        "spec": like.spec, "network": like.network, "generation": 7, "created_ms": 1, "restarts": 0,
    });
    guest["spec"]["name"] = "ghost".into();
    for part in ["spec", "network"] {
        guest[part]["ip"] = "10.90.7.99/16".into();
    }
    guest["network"]["mac"] = "02:00:00:00:00:99".into();
    Offer {
        guest: serde_json::to_vec(&guest).unwrap(),
        module: like.spec.module.0,
        module_bytes: 1000,
        netstack: ModuleHash::of(roam_runtime::modules::NETSTACK).0,
        abi: roam_abi::VERSION,
        shape: Shape(vec![4096, 4096]),
        plan: PlanName::PreCopy,
        encoding: Encoding::Raw,
    }
}

fn reason(message: Option<Message>) -> Reason {
    match message {
        Some(Message::Refused(reason) | Message::Cancel(reason) | Message::HandedBack(reason)) => reason,
        other => panic!("no refusal: {other:?}"),
    }
}

/// An offer that was accepted and prepared; what there is at the target.
fn prepared(rogue: &mut Rogue, offer: &Offer) -> (Shape, Vec<BasePage>) {
    let Some(Message::Accepted { needs_module: false }) = rogue.offer(offer) else { panic!("not accepted") };
    let Some(Message::Prepared { shape, base }) = rogue.hear_message() else { panic!("not prepared") };
    (shape, base)
}

/// What is wrong with an offer, and what its source is told.
type Refusal = (&'static str, fn(&mut Offer), ReasonCode);

/// What a source does after its offer was prepared.
type Misdeed = (&'static str, fn(&mut Rogue, Shape, Vec<BasePage>));

const ONE: PageRange = PageRange { memory: MemoryIndex(0), first: PageIndex(0), count: 1 };

fn one_page(rogue: &mut Rogue, range: PageRange) {
    rogue.pages(&PagesHeader { ranges: vec![range], encoding: Encoding::Raw }, &[7; PAGE_BYTES]);
}

/// The target refuses, hands back, or ends the connection: it does not go on.
fn no_more(rogue: &mut Rogue) {
    while let Some(message) = rogue.hear_message() {
        match message {
            Message::Refused(reason) | Message::Cancel(reason) | Message::HandedBack(reason) => {
                println!("    {:?}: {}", reason.code, reason.message);
            }
            Message::Applied { .. } | Message::Frame(_) => {}
            other => panic!("the target goes on: {other:?}"),
        }
    }
}

const MISDEEDS: [Misdeed; 15] = [
    ("pages that were not announced", |rogue, _, _| one_page(rogue, ONE)),
    ("pages outside", |rogue, shape, _| {
        rogue.say(&Message::Round { number: 1, shape: shape.clone() });
        one_page(rogue, PageRange { first: PageIndex(shape.0[0]), ..ONE });
    }),
    ("pages of no memory", |rogue, shape, _| {
        rogue.say(&Message::Round { number: 1, shape });
        one_page(rogue, PageRange { memory: MemoryIndex(2), ..ONE });
    }),
    ("pages that do not unpack", |rogue, shape, _| {
        rogue.say(&Message::Round { number: 1, shape });
        rogue.pages(&PagesHeader { ranges: vec![ONE], encoding: Encoding::Lz4 }, &[0xFF; 300]);
    }),
    ("too few bytes of a page", |rogue, shape, _| {
        rogue.say(&Message::Round { number: 1, shape });
        rogue.pages(&PagesHeader { ranges: vec![ONE], encoding: Encoding::Raw }, &[1; 100]);
    }),
    ("the second round first", |rogue, shape, _| rogue.say(&Message::Round { number: 2, shape })),
    ("a memory that shrinks", |rogue, mut shape, _| {
        shape.0[0] -= 1;
        rogue.say(&Message::Round { number: 1, shape });
    }),
    ("more memory than it may have", |rogue, mut shape, _| {
        shape.0[0] = 1 << 20;
        rogue.say(&Message::Round { number: 1, shape });
    }),
    ("a length beyond all limits", |rogue, _, _| rogue.body(2, u32::MAX, b"")),
    ("a body of a kind there is not", |rogue, _, _| rogue.body(77, 3, b"abc")),
    ("a message that is none", |rogue, _, _| rogue.body(1, 8, &[0xFF; 8])),
    ("a token too early", |rogue, _, _| {
        rogue.say(&Message::Token(Token { state: Vec::new(), digest: [0; 16], stopped_ns: 0 }));
    }),
    ("a token without pages", |rogue, shape, _| {
        rogue.say(&Message::Last { shape });
        rogue.say(&Message::Frame(vec![0; 3]));
        rogue.say(&Message::Log(b"not a line of a log\n{}\n".to_vec()));
        rogue.say(&Message::Token(Token { state: vec![1; 1000], digest: [0; 16], stopped_ns: u64::MAX }));
    }),
    ("a token with a state that is none", |rogue, shape, base| {
        rogue.say(&Message::Last { shape: shape.clone() });
        let (mut digest, state) = (Digest::default(), vec![1; 1000]);
        digest.grow(&shape);
        base.iter().for_each(|page| digest.set(page.memory, page.page, PageDigest(page.digest)));
        rogue.say(&Message::Token(Token { digest: digest.seal(&shape, &state), state, stopped_ns: u64::MAX }));
    }),
    ("what only a target says", |rogue, _, _| rogue.say(&Message::Taken(Timings::default()))),
];

/// Waits until nothing of a ghost is left at host-b, whose daemon is the same as before.
async fn nothing_left(rig: &Rig, pid: u32) {
    let (host, deadline) = (&rig.hosts[1], Instant::now() + LIMIT);
    loop {
        let underway = host.client().migrations(None).await.unwrap().iter().any(|view| !view.is_over());
        let (remains, guests) = (remains(host), host.client().list().await.unwrap());
        if !underway && remains.is_empty() && guests.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{remains:?} {guests:?}");
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(host.daemon.as_ref().unwrap().id(), pid);
    assert!(common::host::lives(pid), "its daemon has ended");
    assert_eq!(host.problems().await, [""; 0]);
}

#[test]
fn a_target_survives_any_source() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let guest = rig.hosts[0].deploy("guest").await.unwrap();
        rig.hosts[1].put_echo().await;
        rig.answers();
        let talk = Talk::begin(rig);
        let pid = rig.hosts[1].daemon.as_ref().unwrap().id();
        let rogue = files(rig, "host-c", Role::Host);
        let offer = ghost(&guest);
        strangers(rig);
        nothing_left(rig, pid).await;
        let refusals: [Refusal; 5] = [
            ("another netstack", |offer| offer.netstack[0] ^= 1, ReasonCode::Incompatible),
            ("another ABI", |offer| offer.abi += 1, ReasonCode::Incompatible),
            ("no guest", |offer| offer.guest = b"{}".to_vec(), ReasonCode::Incompatible),
            ("other memories", |offer| offer.shape = Shape(vec![1]), ReasonCode::Incompatible),
            ("a module of no bytes", |offer| offer.module_bytes = 0, ReasonCode::Module),
        ];
        for (what, spoil, code) in refusals {
            let mut offered = offer.clone();
            spoil(&mut offered);
            let mut peer = Rogue::connect(rig, &rogue);
            let answer = match peer.offer(&offered) {
                Some(Message::Accepted { .. }) => peer.hear_message(),
                answer => answer,
            };
            let reason = reason(answer);
            println!("{what}: {:?}: {}", reason.code, reason.message);
            assert_eq!(reason.code, code, "{what}");
            nothing_left(rig, pid).await;
        }
        modules(rig, &rogue, &offer);
        nothing_left(rig, pid).await;
        for (what, misdeed) in MISDEEDS {
            for _ in 0..2 {
                println!("{what}");
                let mut peer = Rogue::connect(rig, &rogue);
                let (shape, base) = prepared(&mut peer, &offer);
                misdeed(&mut peer, shape, base);
                no_more(&mut peer);
            }
            nothing_left(rig, pid).await;
        }
        // Gone without a word, after each step.
        for steps in 0..4 {
            let mut peer = Rogue::connect(rig, &rogue);
            match steps {
                0 => peer.raw(b""),
                1 => drop(peer.hello(Greeting::Migrate)),
                2 => drop(peer.offer(&offer)),
                _ => drop(prepared(&mut peer, &offer)),
            }
        }
        let mut peer = Rogue::connect(rig, &rogue);
        peer.hello(Greeting::Settle);
        assert_eq!(peer.hear_message(), Some(Message::Settled(Standing::Never)));
        nothing_left(rig, pid).await;
        assert!(talk.goes_on().await, "the connection fails");
        assert_eq!(rig.owner().await.0, "host-a");
        plain(rig, &talk).await;
        talk.end();
    });
}

/// Those that never get to say anything.
fn strangers(rig: &Rig) {
    let mut noise = Rogue::plain(rig);
    noise.write_all(&b"GET / HTTP/1.1\r\n\r\n".repeat(1000)).unwrap();
    let _ = noise.read_to_end(&mut Vec::new());
    let other = Authority::create(&rig.dir.0.join("other-ca"), "other", Duration::from_secs(3600)).unwrap();
    let issue = Issue { name: "host-c".into(), role: Role::Host, sans: Vec::new(), valid: Duration::from_secs(3600) };
    let dir = rig.dir.0.join("other-tls");
    fs::create_dir(&dir).unwrap();
    other.issue(&issue).unwrap().write(&dir, "host").unwrap();
    // It knows whom it speaks to, but is not known.
    let unknown = TlsFiles { ca: rig.hosts[0].dir.join("tls/ca.pem"), ..TlsFiles::in_dir(&dir, Role::Host) };
    for files in [unknown, files(rig, "somebody", Role::Operator)] {
        let mut peer = Rogue::connect(rig, &files);
        peer.hello(Greeting::Migrate);
        assert_eq!(peer.hear_message(), None, "{files:?}");
    }
    // More at once than are taken, a byte now and then each: they are gone when their time is over.
    let slow: Vec<_> = (0..40).map(|_| Rogue::plain(rig)).collect();
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        slow.iter().for_each(|mut stream| drop(stream.write_all(b"\x16")));
        thread::sleep(Duration::from_millis(500));
    }
}

/// Modules that are not what they are called.
fn modules(rig: &Rig, rogue: &TlsFiles, offer: &Offer) {
    let bytes = b"\0asm this is none".to_vec();
    let claims = [
        ("other bytes", [9; 32], bytes.len() as u64),
        ("more bytes than were offered", [9; 32], 5),
        ("no module", ModuleHash::of(&bytes).0, bytes.len() as u64),
    ];
    for (what, module, module_bytes) in claims {
        let mut peer = Rogue::connect(rig, rogue);
        let answer = peer.offer(&Offer { module, module_bytes, ..offer.clone() });
        assert_eq!(answer, Some(Message::Accepted { needs_module: true }));
        peer.say(&Message::Module(bytes.clone()));
        let reason = reason(peer.hear_message());
        println!("{what}: {:?}: {}", reason.code, reason.message);
        assert!(matches!(reason.code, ReasonCode::Module | ReasonCode::Protocol));
    }
    let kept = names(&rig.hosts[1].dir.join("state/modules"));
    assert_eq!(kept.len(), 1, "{kept:?}");
}

/// What a target does when a message comes for which that holds.
type Turn = (&'static str, fn(&Message) -> bool, fn(&mut Rogue), &'static str);

fn is_hello(message: &Message) -> bool {
    matches!(message, Message::Hello { .. })
}

fn is_offer(message: &Message) -> bool {
    matches!(message, Message::Offer(_))
}

fn is_round(message: &Message) -> bool {
    matches!(message, Message::RoundEnd { .. })
}

fn is_token(message: &Message) -> bool {
    matches!(message, Message::Token(_))
}

const TURNS: [Turn; 15] = [
    ("nothing", is_hello, |_| {}, "link"),
    ("noise", is_hello, |rogue| rogue.raw(&[0xFF; 1000]), "link"),
    ("a version there is not", is_hello, |rogue| rogue.say(&Message::Welcome { version: 9 }), "protocol"),
    ("a length beyond all limits", is_hello, |rogue| rogue.body(1, u32::MAX, b""), "link"),
    ("taken, at once", is_hello, |rogue| rogue.say(&Message::Taken(Timings::default())), "protocol"),
    ("pages", is_offer, |rogue| one_page(rogue, ONE), "link"),
    (
        "other memories",
        is_offer,
        |rogue| {
            rogue.say(&Message::Accepted { needs_module: false });
            rogue.say(&Message::Prepared { shape: Shape(vec![1; 7]), base: Vec::new() });
        },
        "incompatible",
    ),
    ("another round", is_round, |rogue| rogue.say(&Message::Applied { number: 7 }), "protocol"),
    ("taken, too early", is_round, |rogue| rogue.say(&Message::Taken(Timings::default())), "protocol"),
    ("handed back, too early", is_round, |rogue| rogue.say(&Message::HandedBack(why())), "protocol"),
    ("gone in a round", is_round, |_| {}, "link"),
    ("gone with the token", is_token, |_| {}, "link"),
    ("noise for the token", is_token, |rogue| rogue.raw(&[0xFF; 1000]), "link"),
    ("a round for the token", is_token, |rogue| rogue.say(&Message::Applied { number: 1 }), "protocol"),
    (
        "frames that are none, and handed back",
        is_token,
        |rogue| {
            for bytes in [1, 9, 10, 11, 2000, 60_000] {
                rogue.say(&Message::Frame(vec![0xAA; bytes]));
                rogue.say(&Message::Frame(vec![0; bytes]));
            }
            // More than are kept.
            (0..10_000).for_each(|_| rogue.say(&Message::Frame(vec![0; 60])));
            rogue.say(&Message::HandedBack(why()));
            // With something unread, what was said last might be lost with the connection.
            while rogue.hear_message().is_some() {}
        },
        "room",
    ),
];

fn why() -> Reason {
    Reason::new(ReasonCode::Room, "so it says")
}

#[test]
fn a_source_survives_any_target() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talk = Talk::begin(rig);
        let rogue = files(rig, "host-c", Role::Host);
        let pid = rig.hosts[0].daemon.as_ref().unwrap().id();
        // What it says when it is asked what became of the guest: nothing, that it never was polled, or that it is open.
        for answer in [None, Some(Standing::Never), Some(Standing::Open)] {
            for (what, when, deed, code) in TURNS {
                if answer.is_some() && !when(&Message::Token(Token { state: vec![], digest: [0; 16], stopped_ns: 0 })) {
                    continue;
                }
                let rogue = rogue.clone();
                let at = target(rig, move |stream, number| {
                    let mut peer = Rogue::accept(stream, &rogue);
                    if number == 0 && peer.obey(when).is_some() {
                        deed(&mut peer);
                    } else if let (Some(standing), Some(_)) = (answer, peer.hear_message()) {
                        peer.say(&Message::Settled(standing));
                    }
                });
                let request =
                    MigrateRequest { at: Some(at), downtime_us: 2_000_000, ..MigrateRequest::new(name("host-c")) };
                let began = Instant::now();
                let begun = rig.hosts[0].client().migrate(&name("guest"), &request).await.unwrap();
                let view = ended(rig, 0, &begun.id).await;
                println!("{what}, {answer:?}: {:?} after {:?}", view.reason, began.elapsed());
                assert_eq!(view.state, MigrationState::Failed, "{view:?}");
                assert_eq!(view.reason.unwrap().code, code, "{what}");
                assert!(talk.goes_on().await, "the connection fails");
                assert_eq!(settled(rig).await, 0);
            }
        }
        for (files, to) in
            [(files(rig, "host-d", Role::Host), "host-c"), (files(rig, "nobody", Role::Operator), "nobody")]
        {
            let at = target(rig, move |stream, _| drop(Rogue::accept(stream, &files).hear_message()));
            let request = MigrateRequest { at: Some(at), ..MigrateRequest::new(name(to)) };
            let begun = rig.hosts[0].client().migrate(&name("guest"), &request).await.unwrap();
            let view = ended(rig, 0, &begun.id).await;
            println!("{to}: {:?}", view.reason);
            assert_eq!((view.state, view.reason.unwrap().code.as_str()), (MigrationState::Failed, "link"));
            assert_eq!(settled(rig).await, 0);
        }
        assert_eq!(rig.hosts[0].daemon.as_ref().unwrap().id(), pid);
        plain(rig, &talk).await;
        talk.end();
    });
}
