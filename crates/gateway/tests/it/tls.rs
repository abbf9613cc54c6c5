//! The gateway under TLS: the same protocol, and a certificate that changes while it runs.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tidegate_gateway::TlsConfig;
use tidegate_vitals::Id as Metric;
use tokio::net::TcpStream;

use crate::{
    client::{Client, Opening, raw_http},
    house::{House, open_house},
};

const ONE: [&str; 2] = [
    include_str!("fixtures/one.cert.pem"),
    include_str!("fixtures/one.key.pem"),
];
const TWO: [&str; 2] = [
    include_str!("fixtures/two.cert.pem"),
    include_str!("fixtures/two.key.pem"),
];

/// Certificate and key in a folder of this test.
struct Files(PathBuf);

impl Files {
    fn new(files: [&str; 2]) -> Self {
        let folder = std::env::temp_dir().join(format!("tidegate-it-tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files_at = Self(folder);
        files_at.write(files);
        files_at
    }

    fn write(&self, [cert, key]: [&str; 2]) {
        let config = self.config();
        std::fs::write(config.cert, cert).unwrap();
        std::fs::write(config.key, key).unwrap();
    }

    fn config(&self) -> TlsConfig {
        TlsConfig {
            cert: self.0.join("cert.pem"),
            key: self.0.join("key.pem"),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A folder left behind harms nobody.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// A session with a server that must show this certificate.
async fn connect(house: &House, cert: &str) -> Option<Client> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(cert.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let socket = TcpStream::connect(house.at).await.unwrap();
    let stream = connector
        .connect(ServerName::try_from("localhost").unwrap(), socket)
        .await
        .ok()?;
    let mut client = Client::over(Box::new(stream), &Opening::default())
        .await
        .unwrap_or_else(|answer| {
            panic!("refused: {answer:?}");
        });
    client.enter("").await;
    Some(client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_speak_over_tls_and_a_reload_changes_the_certificate() {
    let files = Files::new(ONE);
    let house = House::start(open_house().tls(files.config())).await;
    let mut first = connect(&house, ONE[0])
        .await
        .expect("the first certificate is served");
    assert_eq!(first.ask("echo", "1").await, 1);
    // More than the session takes ahead of its socket, both ways.
    let long = format!(r#""{}""#, "tide".repeat(150_000));
    assert_eq!(first.ask("echo", &long).await.as_str().unwrap().len(), 600_000);
    assert!(
        connect(&house, TWO[0]).await.is_none(),
        "the other certificate is not served"
    );

    files.write(TWO);
    assert!(house.gateway.reload_tls().unwrap());
    assert!(!house.gateway.reload_tls().unwrap());
    let mut second = connect(&house, TWO[0])
        .await
        .expect("the new certificate is served");
    assert_eq!(second.ask("echo", "2").await, 2);
    assert_eq!(first.ask("echo", "3").await, 3);

    files.write([TWO[0], ONE[1]]);
    assert!(house.gateway.reload_tls().is_err());
    assert!(
        connect(&house, TWO[0]).await.is_some(),
        "the old certificate stays in force"
    );
    assert!(
        raw_http(house.at, b"GET / HTTP/1.1\r\n\r\n").await.len() < 20,
        "plain HTTP gets an alert"
    );
    house
        .eventually("failed handshakes are counted", || {
            house.count(Metric::GatewayTlsHandshakeErrors) == 2
        })
        .await;
    drop((first, second));
    house.end().await;
}
