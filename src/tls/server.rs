//! TLS towards visitors: which certificate is shown to whom, and changed while connections go on.
//!
//! One configuration for the life of the process, whose certificates are swapped beneath it: so the tickets of resumption hold across
//! a change of certificates. A visitor is shown the certificate that names the host asked for (SNI), else the first.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{FileError, certificates, certified, provider};
use crate::rules::policy::CertificateFiles;
use crate::rules::time::UnixTime;

/// What is agreed with visitors.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
}

impl Server {
    /// Shows these certificates.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(certificates: Certificates) -> Result<Self, rustls::Error> {
        let shown = Arc::new(Shown(ArcSwap::from_pointee(certificates)));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Shown>::clone(&shown));
        config.ticketer = Ticketer::new()?;
        config.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { config: Arc::new(config), shown })
    }

    /// The configuration of a connection.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Shows these from now on; connections that are open go on.
    pub fn show(&self, certificates: Certificates) {
        self.shown.0.store(Arc::new(certificates));
    }

    /// When the first of the certificates expires.
    #[must_use]
    pub fn expires(&self) -> UnixTime {
        self.shown.0.load().expires
    }
}

/// What is spoken within TLS, the first that both sides know.
const ALPN: &[&[u8]] = &[HTTP2, b"http/1.1"];

/// HTTP/2, as ALPN names it.
pub const HTTP2: &[u8] = b"h2";

/// Certificates with their keys, each of which fits.
#[derive(Debug)]
pub struct Certificates {
    /// Shown to who names no host, or one that is on no certificate.
    first: Arc<CertifiedKey>,
    /// By host. Several for one host are of several algorithms: the first is shown that the client can verify.
    hosts: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`
    wildcards: HashMap<String, Vec<Arc<CertifiedKey>>>,
    expires: UnixTime,
}

impl Certificates {
    /// Reads the files of a policy: the first pair and the further ones.
    ///
    /// # Errors
    /// The first file that can't be used, or whose key belongs to another certificate.
    pub fn load(first: &CertificateFiles, further: &[CertificateFiles]) -> Result<Self, FileError> {
        let (key, facts) = pair(first)?;
        let mut all = Self { first: Arc::clone(&key), hosts: HashMap::new(), wildcards: HashMap::new(), expires: facts.expires };
        all.add(&key, facts);
        for files in further {
            let (key, facts) = pair(files)?;
            all.add(&key, facts);
        }
        Ok(all)
    }

    fn add(&mut self, key: &Arc<CertifiedKey>, facts: Facts) {
        self.expires = self.expires.min(facts.expires);
        for name in facts.names {
            let (names, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcards, parent.to_owned()),
                None => (&mut self.hosts, name),
            };
            names.entry(name).or_default().push(Arc::clone(key));
        }
    }

    /// Those that name a host; `host` is in lower case, as rustls gives it.
    fn of(&self, host: &str) -> Option<&[Arc<CertifiedKey>]> {
        let wildcard = || host.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent));
        self.hosts.get(host).or_else(wildcard).map(Vec::as_slice)
    }
}

/// What of a certificate is looked at here.
struct Facts {
    names: Vec<String>,
    expires: UnixTime,
}

fn pair(files: &CertificateFiles) -> Result<(Arc<CertifiedKey>, Facts), FileError> {
    let chain = certificates(&files.certificate)?;
    let facts = facts(&files.certificate, chain.first().map_or(&[], |leaf| leaf.as_ref()))?;
    Ok((Arc::new(certified(chain, files)?), facts))
}

fn facts(path: &Path, leaf: &[u8]) -> Result<Facts, FileError> {
    let invalid = |error: &dyn std::fmt::Display| FileError::new(path, format!("holds a certificate that can't be read: {error}"));
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| invalid(&error))?;
    let names = certificate.subject_alternative_name().map_err(|error| invalid(&error))?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| if let GeneralName::DNSName(name) = name { Some(name.to_ascii_lowercase()) } else { None });
    let expires = certificate.validity().not_after.timestamp();
    Ok(Facts { names: names.collect(), expires: UnixTime::from_secs(u64::try_from(expires).unwrap_or(0)) })
}

/// The certificates that are shown now.
#[derive(Debug)]
struct Shown(ArcSwap<Certificates>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.load();
        let candidates = hello.server_name().and_then(|host| shown.of(host)).unwrap_or_else(|| std::slice::from_ref(&shown.first));
        let can_verify = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(can_verify).or_else(|| candidates.first()).cloned()
    }
}
