//! TLS at the listener: certificates from files, replaced while connections go on.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{InconsistentKeys, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};

/// Largest file that is read, in bytes: a chain of certificates has a few thousand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificate chain in PEM, the server's own first.
    pub cert: PathBuf,
    /// Private key in PEM (PKCS#8, PKCS#1 or SEC1), not encrypted.
    pub key: PathBuf,
}

/// Takes TLS handshakes with the certificate that was loaded last. Clones share it.
#[derive(Clone)]
pub(crate) struct TlsAcceptor {
    shared: Arc<Shared>,
}

/// Why certificates cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is larger than any certificate.
    #[error("{} has more than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        bytes_max: u64,
    },
    /// A section of a file is not PEM.
    #[error("malformed PEM in {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate file has no section `CERTIFICATE`.
    #[error("no certificate in {}", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The key file has no section with a private key that is not encrypted.
    #[error("no unencrypted private key in {}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error("key in {} does not belong to the certificate in {}", key.display(), cert.display())]
    Mismatch {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The certificate or its key is of a kind that cannot be used.
    #[error("unusable certificate in {} or key in {}", cert.display(), key.display())]
    Unusable {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What the TLS library says.
        #[source]
        source: rustls::Error,
    },
}

struct Shared {
    config: TlsConfig,
    provider: Arc<CryptoProvider>,
    /// Outlives reloads, so that clients resume their sessions after one.
    tickets: Arc<dyn ProducesTickets>,
    loaded: RwLock<Loaded>,
}

struct Loaded {
    files: Files,
    server: Arc<ServerConfig>,
}

/// What the two files hold.
#[derive(PartialEq)]
struct Files {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

// === impl TlsAcceptor ===

impl TlsAcceptor {
    /// Reads the files of `config`. Blocks on the disk, so call it at start-up.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let tickets = ring::Ticketer::new().map_err(|source| unusable(config, source))?;
        let files = Files::read(config)?;
        let server = build(config, &files, &provider, &tickets)?;
        let loaded = RwLock::new(Loaded { files, server });
        Ok(Self {
            shared: Arc::new(Shared {
                config: config.clone(),
                provider,
                tickets,
                loaded,
            }),
        })
    }

    /// Reads the files again and uses them for new connections; tells whether they had changed. Blocks on the disk,
    /// so call it where blocking is allowed.
    ///
    /// # Errors
    /// As for [`load`](Self::load). What was loaded before stays in use.
    pub(crate) fn reload(&self) -> Result<bool, TlsError> {
        let Shared {
            config,
            provider,
            tickets,
            loaded,
        } = &*self.shared;
        let files = Files::read(config)?;
        if loaded.read().unwrap_or_else(PoisonError::into_inner).files == files {
            return Ok(false);
        }
        let server = build(config, &files, provider, tickets)?;
        *loaded.write().unwrap_or_else(PoisonError::into_inner) = Loaded { files, server };
        Ok(true)
    }

    /// Begins the handshake on `stream`; the future has no time limit of its own.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> tokio_rustls::Accept<S> {
        let loaded = self.shared.loaded.read().unwrap_or_else(PoisonError::into_inner);
        tokio_rustls::TlsAcceptor::from(loaded.server.clone()).accept(stream)
    }
}

impl std::fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

fn build(
    config: &TlsConfig,
    files: &Files,
    provider: &Arc<CryptoProvider>,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|source| unusable(config, source))?
        .with_no_client_auth()
        .with_single_cert(files.chain.clone(), files.key.clone_key())
        .map_err(|source| unusable(config, source))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Tickets keep the state of sessions with the clients, so that thousands of reconnects need no memory here; one
    // is enough for a client that holds one connection.
    server.ticketer = tickets.clone();
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 1;
    Ok(Arc::new(server))
}

fn unusable(config: &TlsConfig, source: rustls::Error) -> TlsError {
    let (cert, key) = (config.cert.clone(), config.key.clone());
    match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch { cert, key },
        source => TlsError::Unusable { cert, key, source },
    }
}

// === impl Files ===

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self {
            chain: read_chain(&config.cert)?,
            key: read_key(&config.key)?,
        })
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| match source {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey {
            path: path.to_owned(),
        },
        source => TlsError::Pem {
            path: path.to_owned(),
            source,
        },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text));
    let n_bytes = read.map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    if n_bytes as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge {
            path: path.to_owned(),
            bytes_max: FILE_BYTES_MAX,
        });
    }
    Ok(text)
}

// === impl TlsError ===

impl TlsError {
    /// Whether another attempt may succeed by itself: a renewal may be half-way between its two files.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Mismatch { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Self-signed certificates made for these tests, with their keys; they protect nothing.
    const ONE: [&str; 2] = [
        "-----BEGIN CERTIFICATE-----\n\
         MIIBlDCCATmgAwIBAgIUSTFxRfIZuGC7QuuOpw7VIDSjWlowCgYIKoZIzj0EAwIw\n\
         EzERMA8GA1UEAwwIb25lLnRlc3QwIBcNMjYxMTIxMDEzNzQ5WhgPMjEyNjEwMjgw\n\
         MTM3NDlaMBMxETAPBgNVBAMMCG9uZS50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D\n\
         AQcDQgAEe9ljQt5Z0Y8HelU/5w4GA04q6BoTIVetp9RaQs0+CArLFnqd7mdxBjFC\n\
         5LmDs36J1t+hx4pJUVGLENup93W0r6NpMGcwHQYDVR0OBBYEFCL7a3aDYq281l2I\n\
         K6HULyDJ3kk7MB8GA1UdIwQYMBaAFCL7a3aDYq281l2IK6HULyDJ3kk7MA8GA1Ud\n\
         EwEB/wQFMAMBAf8wFAYDVR0RBA0wC4IJbG9jYWxob3N0MAoGCCqGSM49BAMCA0kA\n\
         MEYCIQDyJSrJyglDOs07mbnkvIdHXDAXzIBMraaGa/hb4lYsvQIhALDtEsmeyCih\n\
         IWbTQtT7UvwaoCfyOrODGws8IShcmFVx\n\
         -----END CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----\n\
         MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgY78iEbzTPuo/Ahjx\n\
         0j5ZxE1tX5VO7aHVrJAw4qEZ/72hRANCAAR72WNC3lnRjwd6VT/nDgYDTiroGhMh\n\
         V62n1FpCzT4ICssWep3uZ3EGMULkuYOzfonW36HHiklRUYsQ26n3dbSv\n\
         -----END PRIVATE KEY-----",
    ];
    const TWO: [&str; 2] = [
        "-----BEGIN CERTIFICATE-----\n\
         MIIBkjCCATmgAwIBAgIUcS+cjVKmXgUIYa8+P58BHJ1GqR0wCgYIKoZIzj0EAwIw\n\
         EzERMA8GA1UEAwwIdHdvLnRlc3QwIBcNMjYxMTIxMDEzNzUwWhgPMjEyNjEwMjgw\n\
         MTM3NTBaMBMxETAPBgNVBAMMCHR3by50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D\n\
         AQcDQgAEsuWbH/aFWzWC2VibCkhiFSvt1sO83zha3x3IuabK51A6/v/RAUvo7w7V\n\
         Oi226cR56rAO4/CoIU7JlGwwzahh2qNpMGcwHQYDVR0OBBYEFPDpT/xWgDB+2Rmw\n\
         8yst5PXEQ0gDMB8GA1UdIwQYMBaAFPDpT/xWgDB+2Rmw8yst5PXEQ0gDMA8GA1Ud\n\
         EwEB/wQFMAMBAf8wFAYDVR0RBA0wC4IJbG9jYWxob3N0MAoGCCqGSM49BAMCA0cA\n\
         MEQCIDPJgfJc4g9t6yNlxXQ82eFjWu2lJwW2l9VxsIC8ZOarAiA0CvGA11jUWRMt\n\
         CA0RxC6RFbUkz1GGsbywSzX+bGf84Q==\n\
         -----END CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----\n\
         MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdEgXzOKQqcRiBmki\n\
         Ja92Gj2TWt0Dhy9bX+yduERf0lehRANCAASy5Zsf9oVbNYLZWJsKSGIVK+3Ww7zf\n\
         OFrfHci5psrnUDr+/9EBS+jvDtU6LbbpxHnqsA7j8KghTsmUbDDNqGHa\n\
         -----END PRIVATE KEY-----",
    ];

    /// Two files in a folder of their own, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new([cert, key]: [&str; 2]) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("tidegate-tls-{}-{count}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            let folder = Self(folder);
            folder.write([cert, key]);
            folder
        }

        fn write(&self, [cert, key]: [&str; 2]) {
            std::fs::write(self.config().cert, cert).unwrap();
            std::fs::write(self.config().key, key).unwrap();
        }

        fn config(&self) -> TlsConfig {
            TlsConfig {
                cert: self.0.join("cert.pem"),
                key: self.0.join("key.pem"),
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // A folder left behind harms nobody.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Accepts every certificate: the tests look at which one came.
    #[derive(Debug)]
    struct AcceptAll(Arc<CryptoProvider>);

    impl ServerCertVerifier for AcceptAll {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    fn client(alpn: &[&str]) -> Arc<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAll(provider)))
            .with_no_client_auth();
        client.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(client)
    }

    /// One echo over TLS: the certificate that came, the protocol that was agreed, and whether the session resumed.
    async fn visit(
        acceptor: &TlsAcceptor,
        client: Arc<ClientConfig>,
    ) -> io::Result<(Vec<u8>, Option<Vec<u8>>, bool)> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("localhost").unwrap();
        let serve = async {
            let mut stream = acceptor.accept(far).await?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await?;
            stream.write_all(&word).await?;
            stream.flush().await
        };
        let ask = async {
            let mut stream = tokio_rustls::TlsConnector::from(client)
                .connect(name, near)
                .await?;
            stream.write_all(b"tide").await?;
            stream.flush().await?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await?;
            assert_eq!(&word, b"tide");
            let session = stream.get_ref().1;
            let cert = session.peer_certificates().unwrap()[0].to_vec();
            let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            Ok((cert, session.alpn_protocol().map(<[u8]>::to_vec), resumed))
        };
        let (served, answer): (io::Result<()>, _) = tokio::join!(serve, ask);
        served.and(answer)
    }

    fn der([cert, _]: [&str; 2]) -> Vec<u8> {
        CertificateDer::from_pem_slice(cert.as_bytes()).unwrap().to_vec()
    }

    #[tokio::test]
    async fn a_client_gets_the_certificate_and_http_1() {
        let folder = Folder::new(ONE);
        let acceptor = TlsAcceptor::load(&folder.config()).unwrap();
        let (cert, alpn, resumed) = visit(&acceptor, client(&["h2", "http/1.1"])).await.unwrap();
        assert_eq!(
            (cert, alpn, resumed),
            (der(ONE), Some(b"http/1.1".to_vec()), false)
        );
        let (_, alpn, _) = visit(&acceptor, client(&[])).await.unwrap();
        assert_eq!(alpn, None);
        assert!(visit(&acceptor, client(&["h2"])).await.is_err());
    }

    #[tokio::test]
    async fn sessions_resume_also_after_a_reload() {
        let folder = Folder::new(ONE);
        let acceptor = TlsAcceptor::load(&folder.config()).unwrap();
        let client = client(&["http/1.1"]);
        assert!(!visit(&acceptor, client.clone()).await.unwrap().2);
        assert!(visit(&acceptor, client.clone()).await.unwrap().2);
        folder.write(TWO);
        assert!(acceptor.reload().unwrap());
        assert!(visit(&acceptor, client).await.unwrap().2);
    }

    #[tokio::test]
    async fn a_reload_serves_the_new_certificate_to_every_clone() {
        let folder = Folder::new(ONE);
        let acceptor = TlsAcceptor::load(&folder.config()).unwrap();
        let clone = acceptor.clone();
        assert!(!acceptor.reload().unwrap());
        folder.write(TWO);
        assert!(acceptor.reload().unwrap());
        assert_eq!(visit(&clone, client(&[])).await.unwrap().0, der(TWO));
        assert!(!clone.reload().unwrap());
    }

    #[tokio::test]
    async fn a_bad_reload_keeps_the_old_certificate() {
        let folder = Folder::new(ONE);
        let acceptor = TlsAcceptor::load(&folder.config()).unwrap();
        for files in [["", ""], [TWO[0], ONE[1]], [TWO[0], ""]] {
            folder.write(files);
            assert!(acceptor.reload().is_err());
            assert_eq!(visit(&acceptor, client(&[])).await.unwrap().0, der(ONE));
        }
    }

    fn check_error(files: [&str; 2], expected: &str) {
        let folder = Folder::new(files);
        let error = TlsAcceptor::load(&folder.config()).unwrap_err();
        let place = format!("{}{}", folder.0.display(), std::path::MAIN_SEPARATOR);
        assert_eq!(error.to_string().replace(&place, ""), expected);
    }

    #[test]
    fn errors_name_the_file() {
        check_error(["", ONE[1]], "no certificate in cert.pem");
        check_error([ONE[1], ONE[1]], "no certificate in cert.pem");
        check_error([ONE[0], ""], "no unencrypted private key in key.pem");
        check_error([ONE[0], ONE[0]], "no unencrypted private key in key.pem");
        check_error(
            [&ONE[0].replace("END", "DNE"), ONE[1]],
            "malformed PEM in cert.pem",
        );
        check_error(
            [ONE[0], TWO[1]],
            "key in key.pem does not belong to the certificate in cert.pem",
        );
        let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        check_error(
            [ONE[0], nonsense],
            "unusable certificate in cert.pem or key in key.pem",
        );
        check_error(
            [&"x".repeat(1024 * 1024 + 1), ONE[1]],
            "cert.pem has more than 1048576 bytes",
        );
    }

    #[test]
    fn a_missing_file_is_named_and_worth_another_try() {
        let folder = Folder::new(ONE);
        std::fs::remove_file(folder.config().key).unwrap();
        let error = TlsAcceptor::load(&folder.config()).unwrap_err();
        assert!(
            error.to_string().ends_with("key.pem") && error.is_retryable(),
            "{error}"
        );
    }
}
