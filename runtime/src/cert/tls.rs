//! TLS as roam uses it: version 1.3, certificates on both sides, each with its role.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};

use super::{CertError, Identity, Role, TlsFiles};

/// For who connects to hosts: takes hosts' certificates only, and only of the name asked for.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, CertError> {
    client_config_with(files, provider())
}

fn client_config_with(files: &TlsFiles, provider: Arc<CryptoProvider>) -> Result<Arc<ClientConfig>, CertError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(files)?, provider.clone());
    let inner = verifier.build().map_err(|source| CertError::Verifier { path: files.ca.clone(), source })?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(HostsOnly { inner }))
        .with_client_auth_cert(files.chain()?, files.private_key()?)?;
    Ok(Arc::new(config))
}

/// For a host: a peer needs a certificate with a role.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, CertError> {
    server_config_with(files, provider())
}

fn server_config_with(files: &TlsFiles, provider: Arc<CryptoProvider>) -> Result<Arc<ServerConfig>, CertError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(files)?, provider.clone());
    let inner = verifier.build().map_err(|source| CertError::Verifier { path: files.ca.clone(), source })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(RolesOnly { inner }))
        .with_single_cert(files.chain()?, files.private_key()?)?;
    // Each connection proves itself anew: a resumed one would outlive its certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// For migrations between hosts, both sides: bulk data, so the fastest of the good ciphers alone.
pub fn migration_configs(files: &TlsFiles) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), CertError> {
    let fast = CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    };
    let fast = Arc::new(fast);
    Ok((client_config_with(files, fast.clone())?, server_config_with(files, fast)?))
}

fn roots(files: &TlsFiles) -> Result<Arc<RootCertStore>, CertError> {
    let mut roots = RootCertStore::empty();
    for authority in files.authorities()? {
        roots.add(authority)?;
    }
    Ok(Arc::new(roots))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate without the role that is needed.
#[derive(Debug, thiserror::Error)]
enum RoleError {
    #[error("its certificate is `{0}`'s, which is no host's")]
    NoHost(String),
    #[error("the certificate of `{0}` has no role; issue one with `roam cert issue --role`")]
    NoRole(String),
}

fn identity(certificate: &CertificateDer<'_>) -> Result<Identity, Error> {
    Identity::from_der(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn refused(error: RoleError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// The client's check of a server.
#[derive(Debug)]
struct HostsOnly {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for HostsOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        match identity(end_entity)? {
            Identity { role: Some(Role::Host), .. } => Ok(verified),
            Identity { name, .. } => Err(refused(RoleError::NoHost(name))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The server's check of a client.
#[derive(Debug)]
struct RolesOnly {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for RolesOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        match identity(end_entity)? {
            Identity { role: Some(_), .. } => Ok(verified),
            Identity { name, .. } => Err(refused(RoleError::NoRole(name))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
