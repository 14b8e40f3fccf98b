//! A host that says what it likes, with a certificate or without.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use roam_runtime::cert::{Role, TlsFiles, migration_configs};
use roam_snapshot::protocol::wire::{self, Kind, PREFIX_BYTES, PagesHeader, Prefix};
use roam_snapshot::protocol::{Greeting, Message, Offer, SessionId, VERSION_MAX, VERSION_MIN};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::limited;
use super::overlay::Rig;

/// One end of a connection between hosts.
pub(crate) struct Rogue(Box<dyn Stream>);

pub(crate) trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// What it hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(Message),
    Pages,
    End,
}

impl Rogue {
    /// A connection to host-b's migration port, from the gateway.
    pub(crate) fn plain(rig: &Rig) -> TcpStream {
        limited(rig.gateway.run(|| TcpStream::connect("172.30.0.2:7445")).unwrap().unwrap())
    }

    /// The same with TLS, by these files.
    pub(crate) fn connect(rig: &Rig, files: &TlsFiles) -> Self {
        let (client, _) = migration_configs(files).unwrap();
        let name = ServerName::try_from("172.30.0.2").unwrap();
        Self(Box::new(StreamOwned::new(ClientConnection::new(client, name).unwrap(), Self::plain(rig))))
    }

    pub(crate) fn accept(stream: TcpStream, files: &TlsFiles) -> Self {
        let (_, server) = migration_configs(files).unwrap();
        Self(Box::new(StreamOwned::new(ServerConnection::new(server).unwrap(), limited(stream))))
    }

    /// What it says may find nobody any more.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).and_then(|()| self.0.flush());
    }

    pub(crate) fn say(&mut self, message: &Message) {
        self.raw(&wire::encode(message));
    }

    /// A message with that body, whatever it says of its length.
    pub(crate) fn body(&mut self, kind: u8, length: u32, body: &[u8]) {
        self.raw(&[&[kind], &length.to_le_bytes()[..], body].concat());
    }

    pub(crate) fn pages(&mut self, header: &PagesHeader, data: &[u8]) {
        self.raw(&[&wire::encode_pages(header, data.len()), data].concat());
    }

    pub(crate) fn hear(&mut self) -> Heard {
        let mut prefix = [0; PREFIX_BYTES];
        if self.0.read_exact(&mut prefix).is_err() {
            return Heard::End;
        }
        let prefix = Prefix::parse(prefix).unwrap();
        let mut body = vec![0; prefix.body_bytes];
        if self.0.read_exact(&mut body).is_err() {
            return Heard::End;
        }
        match prefix.kind {
            Kind::Message => Heard::Message(wire::decode(&body).unwrap()),
            Kind::Pages => Heard::Pages,
        }
    }

    /// The next message, pages left out; `None` at the end.
    pub(crate) fn hear_message(&mut self) -> Option<Message> {
        loop {
            match self.hear() {
                Heard::Message(message) => return Some(message),
                Heard::Pages => {}
                Heard::End => return None,
            }
        }
    }

    pub(crate) fn hello(&mut self, greeting: Greeting) -> SessionId {
        let session = session();
        self.say(&Message::Hello { versions: (VERSION_MIN, VERSION_MAX), session, greeting });
        session
    }

    /// As far as an offer, and what the answer is.
    pub(crate) fn offer(&mut self, offer: &Offer) -> Option<Message> {
        self.hello(Greeting::Migrate);
        let Some(Message::Welcome { .. }) = self.hear_message() else { panic!("no welcome") };
        self.say(&Message::Offer(offer.clone()));
        self.hear_message()
    }

    /// A target that does as it should until that is so of a message; what it was.
    pub(crate) fn obey(&mut self, until: impl Fn(&Message) -> bool) -> Option<Message> {
        loop {
            let message = self.hear_message()?;
            if until(&message) {
                return Some(message);
            }
            match message {
                Message::Hello { .. } => self.say(&Message::Welcome { version: VERSION_MAX }),
                Message::Offer(offer) => {
                    self.say(&Message::Accepted { needs_module: false });
                    self.say(&Message::Prepared { shape: offer.shape, base: Vec::new() });
                }
                Message::RoundEnd { number } => self.say(&Message::Applied { number }),
                _ => {}
            }
        }
    }
}

/// One that no other has.
pub(crate) fn session() -> SessionId {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    SessionId([COUNT.fetch_add(1, Ordering::Relaxed); 16])
}

/// Files of that holder, by the rig's authority.
pub(crate) fn files(rig: &Rig, name: &str, role: Role) -> TlsFiles {
    TlsFiles::in_dir(&rig.certify(name, role, 254), role)
}

/// A target on the gateway that does that with each connection, told how many came before.
pub(crate) fn target(rig: &Rig, serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = rig.gateway.run(|| TcpListener::bind("172.30.0.254:0")).unwrap().unwrap();
    let at = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    // Ends with the test's process.
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            thread::spawn(move || serve(stream, number));
        }
    });
    at
}
