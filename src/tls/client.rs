//! TLS to the site: whom we believe, who we are to it, and the handshake.
//!
//! Always holds: a certificate is judged by the verifier of rustls, for the name that the server goes by, and by the authorities of one
//! file alone or else of the system. There is no verifier of our own, and nothing that switches it off.
//!
//! Absent: revocation lists, which few authorities within a company keep; an authority that can't be trusted any more is replaced.

use std::error::Error;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::{Error as PemError, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::rules::policy::{Identity, UpstreamTls};

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
    config: Arc<ClientConfig>,
    name: String,
    fingerprint: u64,
}

/// Why a file of `upstream.tls` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// It can't be read, or not be understood.
    #[error("upstream.tls.{key}: {}: {reason}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it; not what is in it.
        reason: String,
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

/// Why a handshake failed. Nothing was sent to the server but what belongs to it.
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
        let provider = Arc::new(aws_lc_rs::default_provider());
        let authorities = match ca {
            Some(path) => certificates("ca", path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        authorities.iter().for_each(|certificate| certificate.as_ref().hash(&mut made_from));
        let roots = roots(ca.as_deref(), authorities)?;
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certified = certified(identity, &provider, &mut made_from)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config, server_name: server_name.clone(), fingerprint: made_from.finish() })
    }

    /// TLS to a server, by its name or address. Its sessions are kept apart from those of others, which could do nothing with them.
    #[must_use]
    pub fn towards(&self, host: &str) -> ServerTls {
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        ServerTls { config: Arc::new(config), name, fingerprint: self.fingerprint }
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
    pub async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let name = ServerName::try_from(self.name.clone())
            // names in a policy are such
            .map_err(|error| HandshakeError::Broken(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await.map_err(HandshakeError::of)
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

    /// The alert that an exchange has ended with. In TLS 1.3 a server judges our certificate when for us the handshake is over already.
    #[must_use]
    pub fn late(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            // an error of I/O does not count what it holds among its sources
            let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(alert @ rustls::Error::AlertReceived(_)) = held.and_then(|held| held.downcast_ref()) {
                return Some(Self::Alert(alert.clone()));
            }
            next = error.source();
        }
        None
    }
}

/// What of `upstream.tls` is read from files: changes whenever the content of one does.
#[must_use]
pub fn fingerprint(policy: &UpstreamTls) -> u64 {
    let identity = policy.identity.as_ref().map(|Identity { certificate, key }| [certificate, key]);
    let mut hasher = DefaultHasher::new();
    for path in policy.ca.iter().chain(identity.into_iter().flatten()) {
        read(path).ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// The authorities of the operator's file, each of which must be one; or of the system's, which hold some that are not.
fn roots(ca: Option<&Path>, authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let (taken, _) = roots.add_parsable_certificates(authorities);
        return if taken > 0 { Ok(roots) } else { Err(ClientTlsError::NobodyTrusted) };
    };
    for (at, certificate) in authorities.into_iter().enumerate() {
        roots.add(certificate).map_err(|_| fault("ca", path, format!("certificate {} of it can't be understood", at + 1)))?;
    }
    Ok(roots)
}

fn certified(identity: &Identity, provider: &CryptoProvider, made_from: &mut impl Hasher) -> Result<CertifiedKey, ClientTlsError> {
    let Identity { certificate, key } = identity;
    let chain = certificates("certificate", certificate)?;
    let private = content("key", key)?;
    chain.iter().for_each(|certificate| certificate.as_ref().hash(made_from));
    private.hash(made_from);
    let private = PrivateKeyDer::from_pem_slice(&private).map_err(|error| {
        let none = matches!(error, PemError::NoItemsFound);
        // what is quoted of a key could be the key
        fault("key", key, if none { "holds no unencrypted private key in PEM" } else { "is not PEM" }.to_owned())
    })?;
    let signing =
        provider.key_provider.load_private_key(private).map_err(|_| fault("key", key, "is of no kind that is known".to_owned()))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(fault("key", key, format!("is not the key to upstream.tls.certificate: {}", certificate.display())))
        }
        Err(_) => Err(fault("certificate", certificate, "the first certificate of it can't be understood".to_owned())),
    }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let content = content(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.map_err(|_| fault(key, path, "is not PEM".to_owned()))?;
    if found.is_empty() { Err(fault(key, path, "holds no certificate in PEM".to_owned())) } else { Ok(found) }
}

fn content(key: &'static str, path: &Path) -> Result<Vec<u8>, ClientTlsError> {
    let content = read(path).map_err(|error| fault(key, path, error.to_string()))?;
    if content.len() > FILE_BYTES_MAX { Err(fault(key, path, format!("is larger than {FILE_BYTES_MAX} bytes"))) } else { Ok(content) }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // one byte more than is taken, so that a file that is too large is seen to be
    let most = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    File::open(path)?.take(most).read_to_end(&mut content)?;
    Ok(content)
}

fn fault(key: &'static str, path: &Path, reason: String) -> ClientTlsError {
    ClientTlsError::File { key, path: path.to_owned(), reason }
}

/// Bytes of a file: four times what every authority of the world takes.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Sessions kept of one server, for what would else be full handshakes. rustls keeps eight tickets under one name, however many it may.
const SESSIONS: usize = 8;
