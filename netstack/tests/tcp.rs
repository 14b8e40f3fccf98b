//! TCP between two stacks.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::*;
use roam_abi::{Errno, Event, SocketOption};
use roam_netstack::{SocketInfo, SocketKind};

#[test]
fn bytes_go_both_ways_and_each_side_ends_its_own() {
    for ip in [std::net::IpAddr::from(B4), B6.into()] {
        let mut net = Net::new(1);
        let (_, client, server) = net.connect(ip, 80);
        assert_eq!(net.stacks[0].peer_addr(client), Ok(at(ip, 80)));
        assert_eq!(net.stacks[1].local_addr(server), Ok(at(ip, 80)));
        assert_eq!(net.stacks[0].local_addr(client).unwrap(), net.stacks[1].peer_addr(server).unwrap());
        assert_eq!(send_some(&mut net.stacks[0], client, b"question"), Ok(8));
        net.stacks[0].shutdown(client).unwrap();
        assert_eq!(net.stacks[0].send(client, 1).unwrap_err(), Errno::PIPE);
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        net.until(SECOND, |net| recv_all(&mut net.stacks[1], server, &mut asked) == Ok(true));
        assert_eq!(asked, b"question");
        // The other direction is still open.
        assert_eq!(send_some(&mut net.stacks[1], server, b"answer"), Ok(6));
        net.stacks[1].close(server).unwrap();
        net.until(SECOND, |net| recv_all(&mut net.stacks[0], client, &mut answered) == Ok(true));
        assert_eq!(answered, b"answer");
        net.stacks[0].close(client).unwrap();
        net.run(30 * SECOND);
        assert_eq!((net.stacks[0].stats().sockets, net.stacks[1].stats().sockets), (0, 1), "only the listener stays");
        assert_eq!(net.stacks[0].deadline(), None, "nothing is left to do");
    }
}

#[test]
fn a_closed_port_refuses_and_an_abort_resets() {
    let mut net = Net::new(2);
    let refused = net.stacks[0].tcp_connect(at(B4, 81), 0, 0).unwrap();
    net.run(SECOND);
    assert_eq!(net.stacks[0].send(refused, 1).unwrap_err(), Errno::CONNREFUSED);
    assert_eq!(net.stacks[0].recv(refused, 1).unwrap_err(), Errno::CONNREFUSED);
    let event = net.events[0].iter().find(|event| event.socket == refused.0).unwrap();
    assert_ne!(event.flags & Event::CLOSED, 0);
    let (_, client, server) = net.connect(B4, 80);
    send_some(&mut net.stacks[1], server, b"last words").unwrap();
    net.run(SECOND);
    net.stacks[1].abort(server).unwrap();
    net.run(SECOND);
    let mut words = Vec::new();
    assert_eq!(recv_all(&mut net.stacks[0], client, &mut words), Err(Errno::CONNRESET));
    assert_eq!(words, b"last words", "what had arrived is still there");
    assert_eq!(net.stacks[0].send(client, 1).unwrap_err(), Errno::CONNRESET);
    assert_eq!(net.stacks[0].stats().tcp_resets, 2);
}

#[test]
fn who_waits_to_send_hears_of_a_reset_though_there_is_something_to_read() {
    let mut net = Net::new(16);
    let (_, client, server) = net.connect(B4, 80);
    send_some(&mut net.stacks[0], client, b"unread").unwrap();
    net.run(SECOND);
    while send_some(&mut net.stacks[1], server, &[7; 65_536]).unwrap() > 0 {
        net.run(10 * SECOND);
    }
    net.events[1].clear();
    net.stacks[0].abort(client).unwrap();
    net.run(SECOND);
    let event = net.events[1].iter().find(|event| event.socket == server.0).unwrap();
    assert_eq!(event.flags, Event::READABLE | Event::WRITABLE);
    assert_eq!(net.stacks[1].send(server, 1).unwrap_err(), Errno::CONNRESET);
    assert_eq!(net.stacks[1].recv(server, 100).unwrap(), b"unread");
}

#[test]
fn an_attempt_nobody_answers_times_out() {
    let mut net = Net::new(3);
    let nobody = net.stacks[0].tcp_connect(at([10, 0, 0, 77], 80), 0, 0).unwrap();
    assert_eq!(net.stacks[0].peer_addr(nobody), Err(Errno::NOTCONN));
    net.run(59 * SECOND);
    assert_eq!(net.stacks[0].send(nobody, 1).unwrap_err(), Errno::AGAIN);
    net.run(3 * SECOND);
    assert_eq!(net.stacks[0].send(nobody, 1).unwrap_err(), Errno::TIMEDOUT);
    assert!(net.stacks[0].stats().neighbor_unreachable > 0);
}

#[test]
fn a_silent_peer_times_out_where_the_guest_asks_for_it() {
    let mut net = Net::new(4);
    let (_, client, _) = net.connect(B4, 80);
    net.stacks[0].set_option(client, SocketOption::Timeout, 3 * SECOND).unwrap();
    net.stacks[0].set_option(client, SocketOption::KeepAlive, SECOND).unwrap();
    net.run(20 * SECOND);
    assert!(net.stacks[0].send(client, 1).is_ok(), "keep-alives are answered");
    net.conditions.lost = 1000;
    net.run(10 * SECOND);
    assert_eq!(net.stacks[0].send(client, 1).unwrap_err(), Errno::TIMEDOUT);
    assert_eq!(net.stacks[0].stats().tcp_timeouts, 1);
}

#[test]
fn a_burst_of_connections_is_served_by_one_listener() {
    let mut net = Net::new(5);
    let listener = net.stacks[1].tcp_listen(at(std::net::Ipv6Addr::UNSPECIFIED, 80), 256, 4096, 4096).unwrap();
    let clients: Vec<_> = (0..200)
        .map(|index| {
            let to = if index % 2 == 0 { at(B4, 80) } else { at(B6, 80) };
            net.stacks[0].tcp_connect(to, 4096, 4096).unwrap()
        })
        .collect();
    let start_ns = net.now_ns;
    let mut servers = Vec::new();
    net.until(20 * SECOND, |net| {
        while let Ok((server, peer)) = net.stacks[1].accept(listener) {
            servers.push((server, peer));
        }
        servers.len() == clients.len()
    });
    assert!(net.now_ns - start_ns < SECOND, "no SYN was lost: {} ns", net.now_ns - start_ns);
    for (index, client) in clients.iter().enumerate() {
        assert_eq!(send_some(&mut net.stacks[0], *client, &[index as u8; 100]), Ok(100), "{index}");
    }
    net.run(SECOND);
    for (server, peer) in servers {
        let index = clients.iter().position(|client| net.stacks[0].local_addr(*client) == Ok(peer)).unwrap();
        let mut bytes = Vec::new();
        assert_eq!(recv_all(&mut net.stacks[1], server, &mut bytes), Ok(false));
        assert_eq!(bytes, [index as u8; 100]);
        net.stacks[1].close(server).unwrap();
    }
    for client in clients {
        net.stacks[0].close(client).unwrap();
    }
    net.run(60 * SECOND);
    assert_eq!((net.stacks[0].stats().sockets, net.stacks[1].stats().sockets), (0, 1));
}

#[test]
fn a_full_backlog_lets_clients_wait_not_fail() {
    let mut net = Net::new(6);
    let listener = net.stacks[1].tcp_listen(at(B4, 80), 2, 0, 0).unwrap();
    let clients: Vec<_> = (0..5).map(|_| net.stacks[0].tcp_connect(at(B4, 80), 0, 0).unwrap()).collect();
    net.run(3 * SECOND);
    assert!(net.stacks[1].stats().syn_dropped > 0 || net.stacks[1].stats().half_open_evicted > 0);
    let mut accepted = 0;
    net.until(60 * SECOND, |net| {
        accepted += usize::from(net.stacks[1].accept(listener).is_ok());
        accepted == clients.len()
    });
}

#[test]
fn stale_handles_are_refused() {
    let mut net = Net::new(7);
    let (listener, client, server) = net.connect(B4, 80);
    net.stacks[1].close(server).unwrap();
    net.stacks[1].close(listener).unwrap();
    assert_eq!(net.stacks[1].recv(server, 1).unwrap_err(), Errno::BADF);
    assert_eq!(net.stacks[1].accept(listener).unwrap_err(), Errno::BADF);
    assert_eq!(net.stacks[1].close(server), Err(Errno::BADF));
    let stack = &mut net.stacks[0];
    stack.abort(client).unwrap();
    stack.poll(0);
    let reused = stack.udp_open(at(A4, 9), 0, 0).unwrap();
    assert_ne!(reused, client);
    for id in [client.0, 0, u32::MAX, reused.0 ^ 1, reused.0 ^ 1 << 12] {
        assert_eq!(stack.local_addr(roam_netstack::SocketId(id)), Err(Errno::BADF));
    }
    assert_eq!(stack.send(reused, 1).unwrap_err(), Errno::NOTSUP);
    assert_eq!(stack.accept(reused).unwrap_err(), Errno::NOTSUP);
    assert_eq!(stack.set_option(reused, SocketOption::NoDelay, 1), Err(Errno::NOTSUP));
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_starts_it_again() {
    let mut net = Net::new(8);
    let (_, client, server) = net.connect(B4, 80);
    let data = pattern(1_000_000);
    let mut sent = 0;
    for _ in 0..200 {
        sent += send_some(&mut net.stacks[0], client, &data[sent..]).unwrap();
        net.run(MS);
    }
    assert!(sent < 300_000, "both buffers are full: {sent}");
    net.run(200 * SECOND);
    net.events[0].clear();
    let mut got = Vec::new();
    let mut woken = true;
    net.until(400 * SECOND, |net| {
        recv_all(&mut net.stacks[1], server, &mut got).unwrap();
        // Only write when told to, as a guest does.
        woken |= net.events[0].drain(..).any(|event| event.flags & Event::WRITABLE != 0);
        if woken {
            sent += send_some(&mut net.stacks[0], client, &data[sent..]).unwrap();
            woken = false;
        }
        got.len() == data.len()
    });
    assert_eq!(got, data);
}

#[test]
fn readers_and_writers_are_always_woken() {
    for seed in 0..20 {
        let mut net = Net::with(seed, |config| config.segmentation = seed % 2 == 0);
        net.conditions = Conditions { delay_ns: 200_000, jitter_ns: 100_000, lost: 5 * (seed % 3), doubled: 5 };
        let (_, client, server) = net.connect(B4, 80);
        let data = pattern(400_000);
        let (mut sent, mut got, mut finished) = (0, Vec::new(), false);
        // Start as if both had found nothing to do, then do only what events ask for.
        sent += send_some(&mut net.stacks[0], client, &data).unwrap();
        net.until(600 * SECOND, |net| {
            while let Some(event) = net.events[0].pop_front() {
                if event.flags & Event::WRITABLE != 0 && sent < data.len() {
                    sent += send_some(&mut net.stacks[0], client, &data[sent..]).unwrap();
                    if sent == data.len() {
                        net.stacks[0].shutdown(client).unwrap();
                    }
                }
            }
            while let Some(event) = net.events[1].pop_front() {
                if event.socket == server.0 && event.flags & Event::READABLE != 0 {
                    finished = recv_all(&mut net.stacks[1], server, &mut got).unwrap();
                }
            }
            finished
        });
        assert!(got == data, "seed {seed}");
    }
}

#[test]
fn options_have_ranges() {
    let mut net = Net::new(9);
    let (listener, client, _) = net.connect(B4, 80);
    let stack = &mut net.stacks[0];
    for (option, good, bad) in [
        (SocketOption::NoDelay, 1, 2),
        (SocketOption::KeepAlive, SECOND, -1),
        (SocketOption::Timeout, 0, i64::MAX),
        (SocketOption::HopLimit, 255, 0),
        (SocketOption::HopLimit, 1, 256),
    ] {
        assert_eq!(stack.set_option(client, option, good), Ok(()));
        assert_eq!(stack.set_option(client, option, bad), Err(Errno::INVAL), "{option:?}");
    }
    assert_eq!(net.stacks[1].set_option(listener, SocketOption::HopLimit, 7), Ok(()), "for those to come");
}

#[test]
fn impossible_peers_are_refused() {
    let stack = &mut Net::new(10).stacks[0];
    for (text, error) in [
        ("0.0.0.0:80", Errno::INVAL),
        ("[::]:80", Errno::INVAL),
        ("10.0.0.2:0", Errno::INVAL),
        ("10.0.0.255:80", Errno::INVAL),
        ("255.255.255.255:80", Errno::INVAL),
        ("224.0.0.1:80", Errno::INVAL),
        ("[ff02::1]:80", Errno::INVAL),
        ("10.0.0.1:80", Errno::ADDRNOTAVAIL),
        ("127.0.0.1:80", Errno::ADDRNOTAVAIL),
        ("[::1]:80", Errno::ADDRNOTAVAIL),
        ("8.8.8.8:80", Errno::ADDRNOTAVAIL),
        ("[::ffff:10.0.0.2]:80", Errno::ADDRNOTAVAIL),
    ] {
        assert_eq!(stack.tcp_connect(text.parse().unwrap(), 0, 0).unwrap_err(), error, "{text}");
    }
    assert_eq!(stack.tcp_connect(at(B4, 80), 5 << 20, 0).unwrap_err(), Errno::INVAL);
    assert_eq!(stack.tcp_listen(at(B4, 80), 1, 0, 0).unwrap_err(), Errno::ADDRNOTAVAIL, "the peer's address");
    let listener = stack.tcp_listen(at([0, 0, 0, 0], 80), 1, 0, 0).unwrap();
    assert_eq!(stack.tcp_listen(at(A4, 80), 1, 0, 0).unwrap_err(), Errno::ADDRINUSE);
    stack.close(listener).unwrap();
    assert!(stack.tcp_listen(at(A4, 80), 1, 0, 0).is_ok());
}

#[test]
fn handles_run_out_in_order() {
    let stack = &mut Net::new(11).stacks[0];
    let open = |stack: &mut roam_netstack::Netstack| stack.udp_open(at(A4, 0), 1, 1);
    let ids: Vec<_> = (0..4096).map(|_| open(stack).unwrap()).collect();
    assert_eq!(open(stack).unwrap_err(), Errno::MFILE);
    assert_eq!(stack.tcp_listen(at(A4, 1), 1, 0, 0).unwrap_err(), Errno::MFILE);
    stack.close(ids[9]).unwrap();
    stack.poll(0);
    assert!(open(stack).is_ok());
}

#[test]
fn buffers_have_a_limit_together() {
    let stack = &mut Net::new(13).stacks[0];
    let open = |stack: &mut roam_netstack::Netstack| stack.udp_open(at(A4, 0), 4 << 20, 4 << 20);
    let sockets = u64::from(roam_netstack::BUFFER_BYTES_MAX_DEFAULT) / (8 << 20);
    let ids: Vec<_> = (0..sockets).map(|_| open(stack).unwrap()).collect();
    assert_eq!(open(stack).unwrap_err(), Errno::NOMEM);
    assert_eq!(stack.tcp_connect(at(B4, 80), 0, 0).unwrap_err(), Errno::NOMEM);
    stack.abort(ids[0]).unwrap();
    assert!(stack.tcp_connect(at(B4, 80), 0, 0).is_ok());
    stack.poll(i64::MAX);
    assert!(stack.deadline().is_some());
}

#[test]
fn a_port_is_used_anew_during_time_wait() {
    let mut net = Net::new(12);
    let (listener, client, server) = net.connect(B4, 80);
    let peer = net.stacks[1].peer_addr(server).unwrap();
    // The server ends first, so it is the one in TIME-WAIT.
    net.stacks[1].close(server).unwrap();
    net.run(SECOND);
    net.stacks[0].close(client).unwrap();
    net.run(SECOND);
    assert_eq!(net.stacks[1].stats().sockets, 2, "one waits");
    let mut syn = tcp_frame(MAC_A, MAC_B, peer, at(B4, 80), 0x77, 0, 2);
    net.trace = Some(Vec::new());
    net.inject(1, &syn);
    net.settle();
    let reply = net.trace.as_ref().unwrap().iter().find(|(host, _)| *host == 1).expect("an answer").1.clone();
    assert_eq!(reply[47] & 0x17, 0x12, "SYN and ACK");
    syn.clear();
    assert_eq!(net.stacks[1].accept(listener).unwrap_err(), Errno::AGAIN);
}

#[test]
fn what_is_queued_at_the_close_leaves_though_the_window_closes_and_opens() {
    let mut net = Net::new(14);
    let listener = net.stacks[1].tcp_listen(at(B4, 80), 1, 0, 0).unwrap();
    let client = net.stacks[0].tcp_connect(at(B4, 80), 2048, 0).unwrap();
    net.run(SECOND);
    let (server, _) = net.stacks[1].accept(listener).unwrap();
    net.stacks[0].shutdown(client).unwrap();
    net.run(SECOND);
    let data = pattern(40_000);
    assert_eq!(send_some(&mut net.stacks[1], server, &data).unwrap(), data.len());
    net.stacks[1].close(server).unwrap();
    let (started_ns, mut got) = (net.now_ns, Vec::new());
    while got.len() < data.len() {
        net.run(3 * MS);
        recv_all(&mut net.stacks[0], client, &mut got).unwrap();
        assert!(net.now_ns - started_ns < SECOND, "{} bytes came: it waits for its own probes", got.len());
    }
    assert_eq!(got, data);
    net.run(SECOND);
    assert_eq!(net.stacks[0].recv(client, 1).unwrap(), b"", "the FIN follows");
}

#[test]
fn what_sockets_there_are_can_be_seen() {
    let mut net = Net::new(15);
    let (_, client, server) = net.connect(B4, 80);
    send_some(&mut net.stacks[0], client, b"unread").unwrap();
    net.run(SECOND);
    let udp = net.stacks[1].udp_open(at([0; 4], 7), 0, 0).unwrap();
    let seen = |net: &Net| {
        let mut found = Vec::new();
        while let Some((index, info)) = net.stacks[1].inspect(found.last().map_or(0, |(index, _)| index + 1)) {
            assert_eq!(SocketInfo::from_bytes(&info.to_bytes()), Some(info));
            found.push((index, info));
        }
        found.into_iter().map(|(_, info)| info).collect::<Vec<_>>()
    };
    let infos = seen(&net);
    let kinds: Vec<_> = infos.iter().map(|info| info.kind).collect();
    assert_eq!(kinds, [SocketKind::Listen, SocketKind::Established, SocketKind::Udp]);
    let connection = infos[1];
    assert_eq!((connection.local, connection.peer), (at(B4, 80), net.stacks[0].local_addr(client).unwrap()));
    assert_eq!((connection.rx_queued, connection.tx_queued), (6, 0));
    assert_eq!(infos[2].local, at([0; 4], 7));
    net.stacks[1].close(udp).unwrap();
    net.stacks[1].close(server).unwrap();
    net.run(SECOND);
    let kinds: Vec<_> = seen(&net).iter().map(|info| info.kind).collect();
    assert_eq!(kinds[..2], [SocketKind::Listen, SocketKind::FinWait2], "{kinds:?}");
}
