//! The client of this crate.

use std::os::unix::net::UnixListener;

use roam_runtime::api::ErrorCode;
use roam_runtime::api::client::{Client, ClientError, Endpoint};
use roam_runtime::serve::{Limits, Listen, Server};

use crate::stand::{Directory, Shared, Stand};

#[test]
fn connections_are_used_again() {
    let stand = Stand::new(Limits { connections_peer_max: 1, ..Limits::default() });
    let client = stand.client();
    stand.shared.run(async {
        for _ in 0..10 {
            assert!(client.health().await.is_ok());
            assert!(client.list().await.is_ok());
            assert_eq!(
                client.inspect(&"nobody".parse().unwrap()).await.err().and_then(|error| error.code()),
                Some(ErrorCode::NotFound)
            );
        }
    });
}

#[test]
fn a_daemon_that_was_restarted_is_found_again() {
    let (shared, directory) = (Shared::new(), Directory::new());
    let socket = directory.path().join("api.sock");
    let client = Client::new(Endpoint::Unix(socket.clone()));
    for _ in 0..3 {
        let listen = Listen { socket: socket.clone(), socket_group: None, tcp: None };
        shared.run(async {
            let server = Server::bind(listen, Limits::default()).await.unwrap();
            let asked = async { assert!(client.about().await.is_ok()) };
            server.run(shared.host.clone(), asked).await;
        });
        let error = shared.run(client.health()).err();
        assert!(matches!(error, Some(ClientError::Unreachable { .. })), "{error:?}");
    }
}

#[test]
fn who_is_not_there_is_named_with_what_to_do() {
    let (shared, directory) = (Shared::new(), Directory::new());
    let client = Client::new(Endpoint::Unix(directory.path().join("api.sock")));
    let error = shared.run(client.about()).unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("roam host"), "{error}");
    let url = "https://127.0.0.1:1";
    let stand = Stand::with_tls(Limits::default());
    let files = roam_runtime::cert::TlsFiles::in_dir(
        &stand.directory.path().join("operator"),
        roam_runtime::cert::Role::Operator,
    );
    let client = Client::new(Endpoint::parse(url, Some(&files)).unwrap());
    let error = shared.run(client.about()).unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains(url), "{error}");
}

/// A server that answers each connection with these bytes and closes it.
fn parrot(directory: &Directory, answer: Vec<u8>) -> Client {
    let path = directory.path().join("parrot.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = std::io::Read::read(&mut stream, &mut request);
        let _ = std::io::Write::write_all(&mut stream, &answer);
    });
    Client::new(Endpoint::Unix(path))
}

#[test]
fn a_server_that_is_no_host_is_an_error() {
    let (shared, directory) = (Shared::new(), Directory::new());
    let answer = |head: &str, body: &str| {
        format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let about = |bytes| shared.run(parrot(&directory, bytes).about()).unwrap_err();
    for (bytes, what) in [(answer("200 OK", "{}"), "fields that are missing"), (answer("200 OK", "<html>"), "no JSON")]
    {
        let error = about(bytes);
        assert!(matches!(error, ClientError::Protocol { .. }), "{what}: {error:?}");
    }
    for (bytes, what) in [
        (b"220 smtp.example.org\r\n".to_vec(), "no HTTP"),
        (Vec::new(), "nothing"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{".to_vec(), "half an answer"),
    ] {
        let error = about(bytes);
        assert!(matches!(error, ClientError::Lost { .. }), "{what}: {error:?}");
    }
    let error = about(answer("502 Bad Gateway", "<html>"));
    assert!(matches!(error, ClientError::Refused { status: 502, .. }), "{error:?}");
}

#[test]
fn a_log_that_breaks_off_is_an_error() {
    use futures_util::StreamExt;
    let (shared, directory) = (Shared::new(), Directory::new());
    let line = r#"{"at_ms":1,"level":"info","text":"one"}"#;
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let read = |answer: String| {
        shared.run(async {
            let client = parrot(&directory, answer.into_bytes());
            let lines = client.logs(&"kv".parse().unwrap(), Default::default()).await.unwrap();
            lines.map(|line| line.map(|entry| entry.text).map_err(|_| ())).collect::<Vec<_>>().await
        })
    };
    let split = chunk(&line[..10]) + &chunk(&format!("{}\n{line}\n", &line[10..]));
    assert_eq!(read(format!("{head}{split}0\r\n\r\n")), [Ok("one".to_owned()), Ok("one".to_owned())]);
    assert_eq!(read(format!("{head}{split}")), [Ok("one".to_owned()), Ok("one".to_owned()), Err(())]);
    assert_eq!(read(format!("{head}{}0\r\n\r\n", chunk(line))), [Err(())]);
}
