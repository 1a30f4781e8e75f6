//! TLS to the site: whom we believe, who we are to it, and the handshake.
//!
//! Always holds: a certificate is judged by the verifier of rustls, for the name that the server goes by, and by the authorities of one
//! file alone or else of the system. There is no verifier of our own, and nothing that switches it off.
//!
//! Absent: revocation lists, which few authorities within a company keep; an authority that can't be trusted any more is replaced.

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{FileError, certificates, certified, provider};
use crate::rules::policy::{CertificateFiles, UpstreamTls};

/// What of a policy is needed for TLS to every server of the site, read from the files that it names.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: ClientConfig,
    server_name: Option<String>,
    /// Of all that it was made from.
    fingerprint: u64,
}

/// TLS to one server.
#[derive(Debug)]
pub struct ServerTls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    name: String,
    fingerprint: u64,
}

/// What a server is offered to be spoken to in (ALPN), the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2, or else HTTP/1.1.
    Http2,
}

/// HTTP/2 over TLS, as ALPN calls it (RFC 9113, section 3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";

const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why a file of `upstream.tls` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// One of its files.
    #[error("upstream.tls.{key}: {fault}")]
    File {
        /// The key that names it.
        key: &'static str,
        /// What is wrong with it.
        fault: FileError,
    },
    /// No certificate of a server could be believed.
    #[error(
        "upstream.tls.ca: is not written, and the system trusts no certificates: write it, install them (ca-certificates), or name \
         them in SSL_CERT_FILE"
    )]
    NobodyTrusted,
    /// TLS itself can't be set up.
    #[error("upstream.tls: TLS can't be set up")]
    Setup(#[from] rustls::Error),
}

/// Why a handshake failed. The server has read nothing but what belongs to it.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Its certificate is not one that it should have.
    #[error("its certificate is not believed")]
    Certificate(#[source] rustls::Error),
    /// It has refused us, as who wants a certificate that we have not.
    #[error("it has refused TLS")]
    Alert(#[source] rustls::Error),
    /// It does not speak TLS, or none that we do.
    #[error("what came is not TLS that can be used")]
    Protocol(#[source] rustls::Error),
    /// The connection ended.
    #[error("the connection broke off in the TLS handshake")]
    Broken(#[source] io::Error),
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them can't be used, and why.
    pub fn load(policy: &UpstreamTls) -> Result<Self, ClientTlsError> {
        let UpstreamTls { ca, server_name, identity } = policy;
        let mut made_from = DefaultHasher::new();
        server_name.hash(&mut made_from);
        let authorities = match ca {
            Some(path) => certificates(path).map_err(of("ca"))?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        authorities.hash(&mut made_from);
        let roots = roots(ca.as_deref(), authorities)?;
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certified = certified_by(identity, &mut made_from)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        Ok(Self { config, server_name: server_name.clone(), fingerprint: made_from.finish() })
    }

    /// TLS to a server, by its name or address. Its sessions are kept apart from those of others, which could do nothing with them.
    #[must_use]
    pub fn towards(&self, host: &str) -> ServerTls {
        let mut http1 = self.config.clone();
        http1.resumption = Resumption::in_memory_sessions(SESSIONS);
        // a session can be resumed for either: what is spoken is agreed on anew
        let mut http2 = http1.clone();
        http1.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        http2.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        ServerTls { http1: Arc::new(http1), http2: Arc::new(http2), name, fingerprint: self.fingerprint }
    }
}

impl ServerTls {
    /// Whether it was made from the same settings and the same content of the same files.
    #[must_use]
    pub const fn is_of(&self, tls: &ClientTls) -> bool {
        self.fingerprint == tls.fingerprint
    }

    /// Begins TLS on a connection. It takes as long as the server likes.
    ///
    /// # Errors
    /// Why the server is not to be spoken to.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, offer: Offer) -> Result<TlsStream<S>, HandshakeError> {
        let name = ServerName::try_from(self.name.clone())
            // names in a policy are such
            .map_err(|error| HandshakeError::Broken(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let config = match offer {
            Offer::Http1 => &self.http1,
            Offer::Http2 => &self.http2,
        };
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(HandshakeError::of)
    }
}

impl HandshakeError {
    fn of(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => Self::Certificate(error),
            Ok(error @ rustls::Error::AlertReceived(_)) => Self::Alert(error),
            Ok(error) => Self::Protocol(error),
            Err(error) => Self::Broken(error),
        }
    }

    /// What an exchange has ended with, if it is that the server does not want us. In TLS 1.3 it looks at our certificate when for us the
    /// handshake is over, and before it looks at a request.
    #[must_use]
    pub fn late(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            // an error of I/O does not count what it holds among its sources
            let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(error @ rustls::Error::AlertReceived(alert)) = held.and_then(|held| held.downcast_ref()) {
                return OF_CERTIFICATES.contains(alert).then(|| Self::Alert(error.clone()));
            }
            next = error.source();
        }
        None
    }
}

/// Alerts with which a certificate is refused, or the lack of one (RFC 8446, 6.2; the last is what some say for all of them).
const OF_CERTIFICATES: &[AlertDescription] = &[
    AlertDescription::CertificateRequired,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::DecryptError,
    AlertDescription::HandshakeFailure,
];

/// The authorities of the operator's file, each of which must be one; or of the system's, which hold some that are not.
fn roots(ca: Option<&Path>, authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let (taken, _) = roots.add_parsable_certificates(authorities);
        return if taken > 0 { Ok(roots) } else { Err(ClientTlsError::NobodyTrusted) };
    };
    for (at, certificate) in authorities.into_iter().enumerate() {
        roots.add(certificate).map_err(|_| unreadable("ca", path, at))?;
    }
    Ok(roots)
}

/// Who we are.
fn certified_by(files: &CertificateFiles, made_from: &mut impl Hasher) -> Result<CertifiedKey, ClientTlsError> {
    let chain = certificates(&files.certificate).map_err(of("certificate"))?;
    chain.hash(made_from);
    for (at, certificate) in chain.iter().enumerate() {
        ParsedCertificate::try_from(certificate).map_err(|_| unreadable("certificate", &files.certificate, at))?;
    }
    // of the key, it is enough that it is the one to this certificate
    certified(chain, files).map_err(of("key"))
}

const fn of(key: &'static str) -> impl Fn(FileError) -> ClientTlsError {
    move |fault| ClientTlsError::File { key, fault }
}

fn unreadable(key: &'static str, path: &Path, at: usize) -> ClientTlsError {
    ClientTlsError::File { key, fault: FileError::new(path, format!("holds a certificate that can't be read: number {}", at + 1)) }
}

/// Sessions kept of one server, for what would else be full handshakes. rustls keeps eight tickets under one name, however many it may.
const SESSIONS: usize = 8;
