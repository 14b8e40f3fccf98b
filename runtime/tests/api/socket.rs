//! The socket as a file.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use nix::unistd::{Gid, Uid, getegid};
use roam_runtime::serve::{Limits, Listen, ListenError, Server};

use crate::stand::{Directory, Shared, Stand};

fn listen(directory: &Directory) -> Listen {
    Listen { socket: directory.path().join("api.sock"), socket_group: None, tcp: None }
}

#[test]
fn only_its_owner_may_use_it_and_it_goes_with_the_server() {
    let mut stand = Stand::new(Limits::default());
    let metadata = std::fs::metadata(&stand.socket).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    stand.go_down();
    stand.wait_down();
    assert!(!stand.socket.exists());
}

#[test]
fn a_group_may_use_it_when_it_is_named() {
    let (shared, directory) = (Shared::new(), Directory::new());
    // Any group will do for root; others can only give what is theirs.
    let group = if Uid::effective().is_root() { Gid::from_raw(4242) } else { getegid() };
    let listen = Listen { socket_group: Some(group), ..listen(&directory) };
    let server = shared.run(Server::bind(listen, Limits::default())).unwrap();
    let metadata = std::fs::metadata(server.socket()).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o660, group.as_raw()));
    let metadata = std::fs::metadata(directory.path()).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o710, group.as_raw()));
}

#[test]
fn what_a_killed_daemon_left_is_replaced() {
    let (shared, directory) = (Shared::new(), Directory::new());
    let path = directory.path().join("api.sock");
    // A listener's file stays when it is closed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = shared.run(Server::bind(listen(&directory), Limits::default())).unwrap();
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_living_daemon_is_not_pushed_aside() {
    let stand = Stand::new(Limits::default());
    let error = stand.shared.run(Server::bind(listen(&stand.directory), Limits::default())).err();
    assert!(matches!(error, Some(ListenError::Live(_))), "{error:?}");
    stand.assert_serves();
}

#[test]
fn what_is_no_socket_stays() {
    let (shared, directory) = (Shared::new(), Directory::new());
    let path = directory.path().join("api.sock");
    std::fs::write(&path, "mine").unwrap();
    let error = shared.run(Server::bind(listen(&directory), Limits::default())).err();
    assert!(matches!(error, Some(ListenError::NoSocket(_))), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    let long = Listen { socket: directory.path().join("x".repeat(100)), ..listen(&directory) };
    let error = shared.run(Server::bind(long, Limits::default())).err();
    assert!(matches!(error, Some(ListenError::Long(_))), "{error:?}");
}
