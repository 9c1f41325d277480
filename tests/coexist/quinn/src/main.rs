//! A vrl/1 client on quinn: a QUIC stack that shares no line with the relay, driven by the test over pipes.
//!
//!   coexist-quinn HOST:PORT [--zero-length] [--id-lifetime-ms N]
//!
//! Standard input, a command a line:
//!   stream HEX                                  bytes of the control stream, made by the test
//!   media PREFIX_HEX FIRST COUNT INTERVAL_US SIZE
//!                                               datagrams: prefix, counter from FIRST on (4 bytes), filling
//!   rebind | update | stats | close             a new local port; the next key phase; count; leave
//! Standard output, a JSON object a line: connected, stream, sent, rebound, updated, stats, closed.
//!
//! The certificate is not verified: both ends stand on loopback, in one test.
//! Must never live here: what a control message means.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, SendStream};
use quinn_proto::RandomConnectionIdGenerator;
use tokio::io::{AsyncBufReadExt, BufReader};

mod trust;

type Failure = Box<dyn Error + Send + Sync>;

/// Where the counter stands in a media datagram: behind flow, H and the SFrame config byte.
const COUNTER_AT: usize = 3;

/// What came by DATAGRAM frames.
#[derive(Default)]
struct Tally {
    seen: BTreeSet<u32>,
    repeated: u64,
    wrong: u64,
    control: u64,
    sent: u64,
}

struct Options {
    server: SocketAddr,
    id_length: usize,
    id_lifetime: Option<Duration>,
}

fn options() -> Result<Options, Failure> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().ok_or("whose address?")?.parse()?;
    let mut options = Options { server, id_length: 8, id_lifetime: None };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--zero-length" => options.id_length = 0,
            "--id-lifetime-ms" => {
                let value = arguments.next().ok_or("how many ms?")?.parse()?;
                options.id_lifetime = Some(Duration::from_millis(value));
            }
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
}

fn endpoint(options: &Options) -> Result<Endpoint, Failure> {
    let (length, lifetime) = (options.id_length, options.id_lifetime);
    let mut config = EndpointConfig::default();
    config.cid_generator(move || {
        let mut ids = RandomConnectionIdGenerator::new(length);
        if let Some(lifetime) = lifetime {
            ids.set_lifetime(lifetime);
        }
        Box::new(ids)
    });
    let runtime = quinn::default_runtime().ok_or("no runtime")?;
    Ok(Endpoint::new(config, None, local_socket()?, runtime)?)
}

fn local_socket() -> std::io::Result<UdpSocket> {
    UdpSocket::bind("127.0.0.1:0")
}

fn client_config() -> Result<ClientConfig, Failure> {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust::Anyone))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"vrl/1".to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(Some(Duration::from_secs(30).try_into()?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Byte `i` behind the counter: the receiver knows it from the counter alone.
fn filling(counter: u32, i: usize) -> u8 {
    (counter.wrapping_mul(31) as usize).wrapping_add(i * 7) as u8
}

fn packet(prefix: &[u8], counter: u32, size: usize) -> Vec<u8> {
    let mut packet = prefix.to_vec();
    packet.extend_from_slice(&counter.to_be_bytes());
    packet.extend((0..size.saturating_sub(packet.len())).map(|i| filling(counter, i)));
    packet
}

fn note(tally: &mut Tally, datagram: &[u8]) {
    if datagram.first() == Some(&0) {
        tally.control += 1;
        return;
    }
    let Some(counter) = datagram.get(COUNTER_AT..COUNTER_AT + 4) else {
        tally.wrong += 1;
        return;
    };
    let counter = u32::from_be_bytes([counter[0], counter[1], counter[2], counter[3]]);
    let rest = &datagram[COUNTER_AT + 4..];
    if !rest.iter().enumerate().all(|(i, byte)| *byte == filling(counter, i)) {
        tally.wrong += 1;
    } else if !tally.seen.insert(counter) {
        tally.repeated += 1;
    }
}

/// Half-open ranges, ascending, as JSON.
fn ranges(seen: &BTreeSet<u32>) -> String {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for counter in seen.iter().map(|counter| u64::from(*counter)) {
        match found.last_mut() {
            Some((_, stop)) if *stop == counter => *stop += 1,
            _ => found.push((counter, counter + 1)),
        }
    }
    let texts: Vec<String> = found.iter().map(|(start, stop)| format!("[{start},{stop}]")).collect();
    format!("[{}]", texts.join(","))
}

fn stats(connection: &Connection, tally: &Tally) -> String {
    let all = connection.stats();
    let (path, tx, rx) = (&all.path, &all.frame_tx, &all.frame_rx);
    format!(
        concat!(
            r#"{{"event":"stats","lost":{},"sent_packets":{},"congestion_events":{},"black_holes":{},"#,
            r#""probes_lost":{},"mtu":{},"rtt_us":{},"cwnd":{},"udp_rx":{},"udp_tx":{},"#,
            r#""challenges":{},"responses":{},"new_ids":{},"retired_ids":{},"issued_ids":{},"#,
            r#""media_sent":{},"control":{},"repeated":{},"wrong":{},"ranges":{}}}"#
        ),
        path.lost_packets,
        path.sent_packets,
        path.congestion_events,
        path.black_holes_detected,
        path.lost_plpmtud_probes,
        path.current_mtu,
        path.rtt.as_micros(),
        path.cwnd,
        all.udp_rx.datagrams,
        all.udp_tx.datagrams,
        rx.path_challenge,
        tx.path_response,
        rx.new_connection_id,
        tx.retire_connection_id,
        tx.new_connection_id,
        tally.sent,
        tally.control,
        tally.repeated,
        tally.wrong,
        ranges(&tally.seen),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, Failure> {
    if !text.is_ascii() || text.len() & 1 == 1 {
        return Err("not hexadecimal".into());
    }
    (0..text.len()).step_by(2).map(|i| Ok(u8::from_str_radix(&text[i..i + 2], 16)?)).collect()
}

/// Send `count` datagrams, the counter rising by one, at an even pace.
async fn speak(connection: Connection, tally: Arc<Mutex<Tally>>, prefix: Vec<u8>, numbers: [u64; 4]) {
    let [first, count, interval_us, size] = numbers;
    let mut clock = tokio::time::interval(Duration::from_micros(interval_us.max(1)));
    for counter in first..first + count {
        clock.tick().await;
        if connection.send_datagram(packet(&prefix, counter as u32, size as usize).into()).is_err() {
            break;
        }
        tally.lock().unwrap().sent += 1;
    }
    println!(r#"{{"event":"sent","count":{}}}"#, tally.lock().unwrap().sent);
}

struct Client {
    endpoint: Endpoint,
    connection: Connection,
    control: SendStream,
    tally: Arc<Mutex<Tally>>,
}

impl Client {
    /// Do one command; false: it was the last one.
    async fn obey(&mut self, line: &str) -> Result<bool, Failure> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["stream", data] => self.control.write_all(&unhex(data)?).await?,
            ["media", prefix, numbers @ ..] => {
                let numbers: Vec<u64> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
                let numbers: [u64; 4] = numbers.try_into().map_err(|_| "four numbers")?;
                tokio::spawn(speak(self.connection.clone(), self.tally.clone(), unhex(prefix)?, numbers));
            }
            ["rebind"] => {
                self.endpoint.rebind(local_socket()?)?;
                println!(r#"{{"event":"rebound","port":{}}}"#, self.endpoint.local_addr()?.port());
            }
            ["update"] => {
                self.connection.force_key_update();
                println!(r#"{{"event":"updated"}}"#);
            }
            ["stats"] => println!("{}", stats(&self.connection, &self.tally.lock().unwrap())),
            ["close"] => return Ok(false),
            [] => {}
            _ => return Err(format!("unknown command {line}").into()),
        }
        Ok(true)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let options = options()?;
    let endpoint = endpoint(&options)?;
    let connection = endpoint.connect_with(client_config()?, options.server, "localhost")?.await?;
    let (control, mut incoming) = connection.open_bi().await?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    println!(r#"{{"event":"connected","port":{}}}"#, endpoint.local_addr()?.port());
    tokio::spawn(async move {
        while let Ok(Some(chunk)) = incoming.read_chunk(usize::MAX, true).await {
            println!(r#"{{"event":"stream","data":"{}"}}"#, hex(&chunk.bytes));
        }
    });
    let (hearing, heard) = (connection.clone(), tally.clone());
    tokio::spawn(async move {
        while let Ok(datagram) = hearing.read_datagram().await {
            note(&mut heard.lock().unwrap(), &datagram);
        }
    });
    let ended = connection.clone();
    tokio::spawn(async move {
        let reason = format!("{:?}", ended.closed().await).replace(['"', '\\'], "'");
        println!(r#"{{"event":"closed","reason":"{reason}"}}"#);
    });
    let mut client = Client { endpoint, connection, control, tally };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match client.obey(&line).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) if client.connection.close_reason().is_none() => return Err(error),
            Err(_) => {} // the connection is gone, which was told as `closed`; counting goes on
        }
    }
    client.connection.close(0u32.into(), b"");
    // A peer that does not answer must not keep us: what a test waits for is bounded.
    let _ = tokio::time::timeout(Duration::from_secs(2), client.endpoint.wait_idle()).await;
    std::process::exit(0) // standard input is read on a thread that nothing can interrupt
}
