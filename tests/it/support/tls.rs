//! Authorities, and what they sign; and a site's side of TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::Scratch;

/// Who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate, and the key to it.
pub(crate) struct Signed {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// One that nobody knows yet, and that is called as no other.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed)));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", self.0.der())
    }

    /// Signs a certificate for these names and addresses.
    pub(crate) fn sign(&self, names: &[&str]) -> Signed {
        self.sign_until(names, 4000)
    }

    /// Signs a certificate that holds until a year begins.
    pub(crate) fn sign_until(&self, names: &[&str], year: i32) -> Signed {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Signed { certificate: params.signed_by(&key, &self.0).unwrap().der().clone(), key }
    }

    /// A certificate for 127.0.0.1 that nobody but itself has signed, and that calls itself an authority or does not.
    pub(crate) fn signed_by_itself(is_authority: bool) -> Signed {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = if is_authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        let key = KeyPair::generate().unwrap();
        Signed { certificate: params.self_signed(&key).unwrap().der().clone(), key }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }
}

impl Signed {
    pub(crate) fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    pub(crate) fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.key.serialized_der())
    }

    /// Writes both, as `NAME.pem` and `NAME-key.pem`.
    pub(crate) fn write(&self, scratch: &Scratch, name: &str) -> (PathBuf, PathBuf) {
        let certificate = scratch.write(&format!("{name}.pem"), &self.certificate_pem());
        (certificate, scratch.write(&format!("{name}-key.pem"), &self.key_pem()))
    }

    /// TLS of a server that shows it.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server_by(rustls::ALL_VERSIONS, None)
    }

    /// TLS of a server that shows it, speaks these versions, and if there is an authority for clients wants a certificate of that one.
    pub(crate) fn server_by(&self, versions: &[&'static SupportedProtocolVersion], clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![self.certificate.clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
