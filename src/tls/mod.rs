//! TLS: the files it takes, and what is agreed with the other side. Certificates and keys are read here and nowhere else.
//!
//! The cryptography is passed explicitly: a default that is chosen by what else is linked would change with a dependency.

pub mod client;
pub mod server;

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::rules::policy::CertificateFiles;

/// Why a file of certificates or keys can't be used. Nothing of its content is part of it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FileError {
    path: String,
    reason: String,
}

impl FileError {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.display().to_string(), reason: reason.into() }
    }
}

/// The cryptography of both sides.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Every certificate of a file, in its order.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| FileError::new(path, pem_fault(&error)))?;
    if found.is_empty() { Err(FileError::new(path, "holds no certificate in PEM")) } else { Ok(found) }
}

/// The first private key of a file.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| {
        let is_missing = matches!(error, PemError::NoItemsFound);
        let reason = if is_missing { "holds no private key in PEM that can be read without a passphrase" } else { pem_fault(&error) };
        FileError::new(path, reason)
    })
}

/// Certificates that were read, with the key of the first.
fn certified(chain: Vec<CertificateDer<'static>>, files: &CertificateFiles) -> Result<CertifiedKey, FileError> {
    let key = private_key(&files.key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        let reason = if matches!(error, rustls::Error::InconsistentKeys(_)) {
            format!("is not the key of the first certificate in {}", files.certificate.display())
        } else {
            format!("can't be used: {error}")
        };
        FileError::new(&files.key, reason)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|error| FileError::new(path, format!("can't be read: {error}")))
}

/// The parser's own words may hold a line of the file, which may be a key.
fn pem_fault(error: &PemError) -> &'static str {
    if matches!(error, PemError::MissingSectionEnd { .. }) { "is cut off: a -----BEGIN has no -----END" } else { "is not PEM" }
}
