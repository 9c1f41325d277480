//! Clients that shake hands and leave, as cheap as they can be: quinn, which shares no line with the relay.
//!
//!   relay-shaker HOST:PORT
//!
//! Standard input, a command a line; each is answered by one JSON object on standard output:
//!   shake COUNT AT_ONCE      so many complete handshakes (confirmed, then closed by us), so many under way
//!   hold COUNT AT_ONCE       the same, but nobody leaves
//!   leave                    those held leave
//!
//! The certificate is not verified: both ends stand on loopback, in one bench.
//! Must never live here: what is measured.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig};
use tokio::io::{AsyncBufReadExt, BufReader};

#[path = "../../../coexist/quinn/src/trust.rs"]
mod trust;

type Failure = Box<dyn Error + Send + Sync>;

/// How often a client looks whether its handshake is confirmed.
const LOOK: Duration = Duration::from_millis(1);
/// A handshake that takes longer failed.
const PATIENCE: Duration = Duration::from_secs(10);

fn client_config() -> Result<ClientConfig, Failure> {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust::Anyone))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"vrl/1".to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(Duration::from_secs(60).try_into()?));
    transport.mtu_discovery_config(None);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// A connection whose handshake the server has confirmed (RFC 9001 section 4.1.2).
async fn confirmed(endpoint: &Endpoint, server: SocketAddr) -> Result<Connection, Failure> {
    let connection = endpoint.connect(server, "localhost")?.await?;
    while connection.stats().frame_rx.handshake_done == 0 {
        if let Some(reason) = connection.close_reason() {
            return Err(reason.into());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(connection)
}

struct Crowd {
    endpoint: Endpoint,
    server: SocketAddr,
    left: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    reason: Mutex<String>,
    held: Mutex<Vec<Connection>>,
}

impl Crowd {
    fn take_one(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    async fn member(&self, holds: bool) {
        while self.take_one() {
            match tokio::time::timeout(PATIENCE, confirmed(&self.endpoint, self.server)).await {
                Ok(Ok(connection)) if holds => self.held.lock().unwrap().push(connection),
                Ok(Ok(connection)) => connection.close(0u32.into(), b""),
                other => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    *self.reason.lock().unwrap() = format!("{other:?}").replace(['"', '\\'], "'");
                    continue;
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn run(self: &Arc<Self>, count: u64, at_once: u64, holds: bool) {
        for counter in [&self.done, &self.failed] {
            counter.store(0, Ordering::Relaxed);
        }
        self.left.store(count, Ordering::Relaxed);
        let started = Instant::now();
        let members: Vec<_> = (0..at_once)
            .map(|_| {
                let crowd = self.clone();
                tokio::spawn(async move { crowd.member(holds).await })
            })
            .collect();
        for member in members {
            let _ = member.await;
        }
        println!(
            r#"{{"done":{},"failed":{},"seconds":{:.3},"reason":"{}"}}"#,
            self.done.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
            started.elapsed().as_secs_f64(),
            self.reason.lock().unwrap(),
        );
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let server = std::env::args().nth(1).ok_or("whose address?")?.parse()?;
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
    endpoint.set_default_client_config(client_config()?);
    let crowd = Arc::new(Crowd {
        endpoint,
        server,
        left: AtomicU64::new(0),
        done: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        reason: Mutex::default(),
        held: Mutex::default(),
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [kind @ ("shake" | "hold"), count, at_once] => {
                crowd.run(count.parse()?, at_once.parse()?, *kind == "hold").await;
            }
            ["leave"] => {
                for connection in crowd.held.lock().unwrap().drain(..) {
                    connection.close(0u32.into(), b"");
                }
                println!("{{}}");
            }
            _ => return Err(format!("unknown command {line}").into()),
        }
    }
    Ok(())
}
