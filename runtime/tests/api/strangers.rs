//! TCP peers that cannot prove who they are, and servers that cannot.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use roam_runtime::api::ErrorCode;
use roam_runtime::api::client::{Client, ClientError, Endpoint};
use roam_runtime::cert::{Authority, Role, TlsFiles, server_config};
use roam_runtime::serve::{Limits, Listen, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::stand::{Stand, eventually, issue};

const DAY: Duration = Duration::from_secs(86_400);
const VERSION: &str = "GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n";

/// What a certificate of that role says.
fn params(role: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "mallory");
    params.distinguished_name.push(DnType::OrganizationalUnitName, role);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    params
}

/// Certificate and key, PEM, signed by the authority of that directory.
fn signed(directory: &Path, params: &CertificateParams) -> (String, String) {
    let read = |name: &str| std::fs::read_to_string(directory.join("ca").join(name)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

fn expired(role: &str) -> CertificateParams {
    let mut params = params(role);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    params
}

/// Writes them as a `--tls-dir` beside the stand's own.
fn write(directory: &Path, name: &str, role: Role, (certificate, key): &(String, String)) {
    let target = directory.join(name);
    std::fs::create_dir(&target).unwrap();
    std::fs::copy(directory.join("ca/ca.pem"), target.join("ca.pem")).unwrap();
    std::fs::write(target.join(format!("{role}.pem")), certificate).unwrap();
    std::fs::write(target.join(format!("{role}.key")), key).unwrap();
}

/// A TLS connection that trusts the stand and shows these, or nothing.
fn tls(stand: &Stand, proof: Option<&(String, String)>) -> StreamOwned<ClientConnection, std::net::TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(stand.directory.path().join("ca/ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match proof {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, stand.connect_tcp().0)
}

/// Says a request and hears nothing that looks like an answer.
fn hears_nothing(mut stream: impl std::io::Read + std::io::Write, who: &str) {
    let _ = stream.write_all(VERSION.as_bytes()).and_then(|()| stream.flush());
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    assert!(!heard.starts_with(b"HTTP"), "{who} is answered: {}", heard.escape_ascii());
}

#[test]
fn who_cannot_prove_a_role_reaches_no_handler() {
    let stand = Stand::with_tls(Limits::default());
    let directory = stand.directory.path();
    Authority::create(&directory.join("foreign/ca"), "foreign", DAY).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut not_yet = params("operator");
    not_yet.not_before = date_time_ymd(2090, 1, 1);
    not_yet.not_after = date_time_ymd(2091, 1, 1);
    let mut for_servers = params("operator");
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let strangers = [
        ("nobody", None),
        ("a foreign operator", Some(signed(&directory.join("foreign"), &params("operator")))),
        ("one signed by itself", Some((params("operator").self_signed(&key).unwrap().pem(), key.serialize_pem()))),
        ("one expired", Some(signed(directory, &expired("operator")))),
        ("one of the future", Some(signed(directory, &not_yet))),
        ("a server", Some(signed(directory, &for_servers))),
        ("one without a role", Some(signed(directory, &params("root")))),
    ];
    hears_nothing(stand.connect_tcp().0, "plain HTTP");
    for (who, proof) in &strangers {
        hears_nothing(tls(&stand, proof.as_ref()), who);
    }
    let refused = strangers.len() as f64 + 1.0;
    eventually("each is counted", || stand.metric(r#"roam_api_rejected_total{reason="Tls"}"#) == Some(refused));
    assert_eq!(stand.metric(r#"roam_api_requests_total{method="GET",route="/v1/version",status="200"}"#), None);
    // Not the way they came is what keeps them out.
    let proof = signed(directory, &params("operator"));
    let mut known = crate::stand::Raw(tls(&stand, Some(&proof)));
    assert_eq!(known.say(VERSION).hear().status, 200);
}

#[test]
fn strangers_that_say_nothing_keep_nobody_out_for_long() {
    let limits = Limits { handshake: Duration::from_millis(500), handshakes_address_max: 4, ..Limits::default() };
    let stand = Stand::with_tls(limits);
    let mut silent: Vec<_> = (0..4).map(|_| stand.connect_tcp()).collect();
    // The fifth is closed unheard as long as they are there; the socket is not theirs to block.
    stand.assert_serves();
    silent.iter_mut().for_each(|peer| peer.expect_end());
    let client = stand.tls_client("operator", Role::Operator, "127.0.0.1");
    eventually("the operator gets in", || stand.shared.run(client.about()).is_ok());
    assert_eq!(stand.metric(r#"roam_api_rejected_total{reason="Tls"}"#), Some(4.0));
}

#[test]
fn roles() {
    let stand = Stand::with_tls(Limits::default());
    let operator = stand.tls_client("operator", Role::Operator, "127.0.0.1");
    let host = stand.tls_client("host", Role::Host, "127.0.0.1");
    stand.shared.run(async {
        assert_eq!(operator.about().await.unwrap().name, "host-a");
        assert!(operator.list().await.is_ok());
        assert!(operator.metrics().await.is_ok());
        assert_eq!(host.about().await.unwrap().name, "host-a");
        assert!(host.health().await.is_ok());
        let name = "nobody".parse().unwrap();
        let refused = [
            host.list().await.err(),
            host.metrics().await.err(),
            host.delete(&name, true).await.err(),
            host.start(&name).await.err(),
            host.modules().await.err(),
        ];
        for error in refused {
            assert_eq!(error.as_ref().and_then(ClientError::code), Some(ErrorCode::Forbidden), "{error:?}");
        }
    });
}

#[test]
fn a_server_must_be_a_host_of_the_right_name() {
    let stand = Stand::with_tls(Limits::default());
    let directory = stand.directory.path();
    let mut good_for_servers = params("operator");
    good_for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut elsewhere = params("host");
    elsewhere.subject_alt_names = vec![SanType::DnsName("elsewhere".try_into().unwrap())];
    Authority::create(&directory.join("foreign/ca"), "foreign", DAY).unwrap();
    let operator = (
        std::fs::read_to_string(directory.join("operator/operator.pem")).unwrap(),
        std::fs::read_to_string(directory.join("operator/operator.key")).unwrap(),
    );
    let servers = [
        ("an operator", operator, "--role host"),
        ("an operator that may be a server", signed(directory, &good_for_servers), "no host's"),
        ("one of another name", signed(directory, &elsewhere), "--san"),
        ("one of another authority", signed(&directory.join("foreign"), &params("host")), "another authority"),
        ("one expired", signed(directory, &expired("host")), "expired"),
    ];
    for (index, (who, proof, expected)) in servers.iter().enumerate() {
        write(directory, &format!("server-{index}"), Role::Host, proof);
        let files = TlsFiles::in_dir(&directory.join(format!("server-{index}")), Role::Host);
        let listen = Listen {
            socket: directory.join(format!("{index}.sock")),
            socket_group: None,
            tcp: Some(("127.0.0.1:0".parse().unwrap(), server_config(&files).unwrap())),
        };
        let error = stand.shared.run(async {
            let server = Server::bind(listen, Limits::default()).await.unwrap();
            let url = format!("https://{}", server.tcp().unwrap());
            let files = TlsFiles::in_dir(&directory.join("operator"), Role::Operator);
            let client = Client::new(Endpoint::parse(&url, Some(&files)).unwrap());
            let serving = server.run(stand.shared.host.clone(), std::future::pending());
            tokio::select! {
                () = serving => unreachable!("it serves for ever"),
                answer = client.about() => answer.err(),
            }
        });
        let Some(ClientError::Tls { explanation, .. }) = error else { panic!("{who}: {error:?}") };
        assert!(explanation.contains(expected), "{who}: {explanation}");
    }
}

#[test]
fn the_client_says_what_is_wrong_with_its_own_certificate() {
    let stand = Stand::with_tls(Limits::default());
    let directory = stand.directory.path();
    Authority::create(&directory.join("foreign/ca"), "foreign", DAY).unwrap();
    let foreign = signed(&directory.join("foreign"), &params("operator"));
    for (name, proof, expected) in
        [("late", signed(directory, &expired("operator")), "expired"), ("foreign-proof", foreign, "authority")]
    {
        write(directory, name, Role::Operator, &proof);
        let client = stand.tls_client(name, Role::Operator, "127.0.0.1");
        let error = stand.shared.run(client.about()).err();
        let Some(ClientError::Tls { explanation, .. }) = error else { panic!("{name}: {error:?}") };
        assert!(explanation.contains(expected), "{name}: {explanation}");
    }
    issue(&Authority::open(&directory.join("ca")).unwrap(), &directory.join("second"), Role::Operator, "bob");
    let bob = stand.tls_client("second/operator", Role::Operator, "127.0.0.1");
    assert!(stand.shared.run(bob.about()).is_ok());
}
