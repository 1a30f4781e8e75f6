//! Certificates for tests, and those who believe them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::Scratch;

/// Who vouches for certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One that nobody knows yet, and that is called as no other.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed)));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes `NAME.pem` and `NAME.key` for these hosts, and returns the certificate.
    pub(crate) fn issue(&self, directory: &Path, name: &str, hosts: &[&str]) -> CertificateDer<'static> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(hosts).unwrap().signed_by(&key, &self.0).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem() + &self.0.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate of a site, or of the gate to a site, for these names and addresses.
    pub(crate) fn sign(&self, names: &[&str]) -> Signed {
        self.sign_until(names, 4000)
    }

    /// One that holds until a year begins.
    pub(crate) fn sign_until(&self, names: &[&str], year: i32) -> Signed {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Signed { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    /// A certificate for 127.0.0.1 that nobody but itself has signed, and that calls itself an authority or does not.
    pub(crate) fn signed_by_itself(is_authority: bool) -> Signed {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = if is_authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        let key = KeyPair::generate().unwrap();
        Signed { certificate: params.self_signed(&key).unwrap(), key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    /// A visitor who believes it, and speaks these protocols (ALPN).
    pub(crate) fn visitor(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        visitor(self, rustls::ALL_VERSIONS, protocols)
    }
}

/// A visitor who believes an authority, and speaks these versions and protocols.
pub(crate) fn visitor(authority: &Authority, versions: &[&'static SupportedProtocolVersion], protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let mut config = config.with_protocol_versions(versions).unwrap().with_root_certificates(authority.roots()).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// A certificate, and the key to it.
pub(crate) struct Signed {
    certificate: Certificate,
    key: KeyPair,
}

impl Signed {
    pub(crate) fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// Writes both, as `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, scratch: &Scratch, name: &str) -> (PathBuf, PathBuf) {
        let certificate = scratch.write(&format!("{name}.pem"), &self.certificate.pem());
        (certificate, scratch.write(&format!("{name}.key"), &self.key.serialize_pem()))
    }

    /// TLS of a site that shows it.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server_by(rustls::ALL_VERSIONS, None)
    }

    /// TLS of a site that shows it, and speaks HTTP/2 with who wants to.
    pub(crate) fn server_http2(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.server());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// TLS of a site that shows it, speaks these versions, and if there is an authority for clients wants a certificate of that one.
    pub(crate) fn server_by(&self, versions: &[&'static SupportedProtocolVersion], clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![self.certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}
