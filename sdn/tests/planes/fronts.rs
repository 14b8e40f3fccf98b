//! Fronts: a client outside the overlay reaches the guest at the gateway's public address.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use roam_sdn::controller::FrontPlane;
use roam_sdn::front::Nftables;
use roam_sdn::model::{Front, Protocol};
use roam_sdn::plane::Order;

use crate::kernel::build;
use crate::namespace::Namespace;
use crate::rig::{Asker, GUEST_IP, GUEST_IP6, LIMIT, PORT, Rig, Underlay, until};

const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PUBLIC_PORT: u16 = 8007;

/// A rig with the guest at host a, an overlay address of the gateway's, and a client outside.
fn stage() -> Option<(Rig, Namespace)> {
    let rig = Rig::new(build, Underlay::V4)?;
    let outside = Namespace::new("out");
    rig.inside.shell(&format!(
        "ip address add 10.90.0.254/16 dev br0\n\
         ip address add fd90::254/64 dev br0 nodad\n\
         ip link add public type veth peer name eth0 netns {}\n\
         ip link set public up\n\
         ip address add {PUBLIC}/24 dev public\n\
         ip address add {PUBLIC6}/64 dev public nodad",
        outside.name
    ));
    outside.shell(
        "ip link set eth0 up\n\
         ip address add 192.0.2.9/24 dev eth0\n\
         ip address add 2001:db8::9/64 dev eth0 nodad\n\
         ethtool -K eth0 tx off tso off gso off",
    );
    Some((rig, outside))
}

fn fronts(port: u16) -> Vec<Front> {
    let ips: [(IpAddr, IpAddr); 2] = [(PUBLIC.into(), GUEST_IP.into()), (PUBLIC6.into(), GUEST_IP6.into())];
    let front = |protocol, (public, to)| Front {
        protocol,
        listen: SocketAddr::new(public, port),
        to: SocketAddr::new(to, PORT),
    };
    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|protocol| ips.map(|ips| front(protocol, ips))).collect()
}

fn same(mut found: Vec<Front>, mut wanted: Vec<Front>) {
    found.sort_by_key(Front::key);
    wanted.sort_by_key(Front::key);
    assert_eq!(found, wanted);
}

fn publics() -> [SocketAddr; 2] {
    [SocketAddr::new(PUBLIC.into(), PUBLIC_PORT), SocketAddr::new(PUBLIC6.into(), PUBLIC_PORT)]
}

/// A TCP echo at the guest's address.
fn echo(inside: &Namespace) {
    let listener = inside.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap());
    // Ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn connect(from: &Namespace, to: SocketAddr) -> Option<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, LIMIT / 5)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    Some(stream)
}

fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn flows_pass_and_live_on() {
    let Some((rig, outside)) = stage() else { return };
    echo(&rig.a.inside);
    rig.run(|(mut plane, _)| {
        plane.apply(&[Order::Set(rig.at(&rig.a))]).unwrap();
        let mut front = Nftables::new("br0");
        assert_eq!(front.found().unwrap(), []);
        assert!(connect(&outside, publics()[0]).is_none());
        front.apply(&fronts(PUBLIC_PORT)).unwrap();
        same(front.found().unwrap(), fronts(PUBLIC_PORT));
        let mut streams: Vec<_> = publics().into_iter().map(|to| connect(&outside, to).unwrap()).collect();
        streams.push(connect(&rig.inside, publics()[0]).expect("the gateway's own clients pass as well"));
        streams.iter_mut().for_each(echoes);
        let askers = publics().map(|to| Asker::new(&outside, to));
        assert!(askers.iter().all(|asker| asker.who().as_deref() == Some("a")));

        // Others come and go, thousands at once.
        let others: Vec<_> = (10_000..13_000).flat_map(fronts).chain(fronts(PUBLIC_PORT)).collect();
        front.apply(&others).unwrap();
        same(front.found().unwrap(), others);
        streams.iter_mut().for_each(echoes);

        // The guest moves; UDP follows, and the stream's other end is where it was.
        plane.apply(&[Order::Set(rig.at(&rig.b))]).unwrap();
        assert!(askers.iter().all(|asker| asker.who().as_deref() == Some("b")));
        plane.apply(&[Order::Set(rig.at(&rig.a))]).unwrap();
        streams.iter_mut().for_each(echoes);

        // Closed: to those who come now.
        front.apply(&[]).unwrap();
        assert_eq!(front.found().unwrap(), []);
        streams.iter_mut().for_each(echoes);
        assert!(connect(&outside, publics()[0]).is_none());
    });
}

#[test]
fn what_is_changed_by_hand_is_found() {
    let Some((rig, outside)) = stage() else { return };
    echo(&rig.a.inside);
    rig.run(|(mut plane, _)| {
        plane.apply(&[Order::Set(rig.at(&rig.a))]).unwrap();
        let mut front = Nftables::new("br0");
        let by_hand = [
            format!("nft delete element inet roam_fronts_br0 tcp4 '{{ {PUBLIC} . {PUBLIC_PORT} }}'"),
            format!("nft add element inet roam_fronts_br0 udp4 '{{ {PUBLIC} . 9 : {GUEST_IP} . 9 }}'"),
            "nft flush chain inet roam_fronts_br0 away".into(),
            "nft flush chain inet roam_fronts_br0 outside".into(),
            "nft flush ruleset".into(),
            "echo 0 > /proc/sys/net/ipv4/ip_forward".into(),
        ];
        for commands in by_hand {
            front.apply(&fronts(PUBLIC_PORT)).unwrap();
            same(front.found().unwrap(), fronts(PUBLIC_PORT));
            until("the front is open", || connect(&outside, publics()[0]).is_some());
            rig.inside.shell(&commands);
            assert_ne!(front.found().unwrap().len(), 4, "not found: {commands}");
        }
    });
}
