//! HTTP client of one API server: connection pool and TLS.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, ResolveServerName};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::connection::{Connection, Identity};
use crate::{
    error::{Cause, Error, source_chain::source_chain},
    tls::{self, MinTlsVersion, TlsError},
};

pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Reads the TLS files and builds a client without connecting. The client does not follow redirects.
pub(super) fn build(connection: &Connection, min_tls_version: MinTlsVersion) -> Result<HttpClient, Error> {
    let https = connection.server.is_https();
    let config = if https { tls_config(connection, min_tls_version) } else { tls_config_without_roots() };
    let config = config.map_err(|e| e.with_subject(format_args!("TLS to API server {}", connection.server)))?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // A watch may be silent for minutes. TCP keepalive detects a dead peer within 60 s.
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(10)));
    tcp.set_keepalive_retries(Some(3));
    let connector = HttpsConnector::new(tcp, config, https, server_name(connection)?);
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_timer(TokioTimer::new())
        .build(connector))
}

fn tls_config(connection: &Connection, min_tls_version: MinTlsVersion) -> Result<ClientConfig, Error> {
    let mut config = tls::load_client_config(&connection.tls, min_tls_version).map_err(|e| tls_setup_error(&e))?;
    if let Some(identity) = &connection.identity {
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified_key(identity)?));
    }
    Ok(config)
}

/// Returns a configuration without trusted CAs, so that an `http://` address does not load the system's CAs.
fn tls_config_without_roots() -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| tls_setup_error(&TlsError::Setup(e)))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn tls_setup_error(error: &TlsError) -> Error {
    let message = error.source().map_or(String::new(), ToString::to_string);
    Error::new(Cause::KubernetesConfig, error.to_string()).with_server_message(message)
}

fn certified_key(identity: &Identity) -> Result<CertifiedKey, Error> {
    let error = |item: &str, reason: String| {
        Error::new(Cause::KubernetesConfig, format!("the client {item} is not usable")).with_server_message(reason)
    };
    let pem = identity.certificate.read()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|e| error("certificate", e.to_string()))?;
    if chain.is_empty() {
        return Err(error("certificate", "no certificate in the PEM".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&identity.key.read()?).map_err(|e| error("key", e.to_string()))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|e| error("certificate's key", e.to_string()))
}

fn server_name(connection: &Connection) -> Result<Arc<dyn ResolveServerName + Send + Sync>, Error> {
    let Some(name) = &connection.tls.server_name else { return Ok(Arc::new(DefaultServerNameResolver::default())) };
    let parsed = ServerName::try_from(name.clone());
    let parsed = parsed
        .map_err(|_| Error::new(Cause::KubernetesConfig, format!("the TLS server name {name:?} is not valid")))?;
    Ok(Arc::new(FixedServerNameResolver::new(parsed)))
}

/// Returns the cause and message of a failed request: `KubernetesConfig` with the TLS error's message if TLS failed,
/// `KubernetesApi` with the innermost error's message otherwise.
pub(super) fn classify_error(error: &(dyn StdError + 'static)) -> (Cause, String) {
    match source_chain(error).find(|source| source.is::<rustls::Error>()) {
        Some(tls_error) => (Cause::KubernetesConfig, tls_error.to_string()),
        None => (Cause::KubernetesApi, source_chain(error).last().unwrap_or(error).to_string()),
    }
}
