//! The client of IXP Manager's API against a real server, with the answers of a real portal.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use ixflow::control::api::{
    ApiError, ApiFault, Client, Fetched, Limits, MacTableKind, Portal, load_table, save_table,
};
use ixflow::control::config::ApiKey;
use rustls::pki_types::pem::PemObject as _;

const KEY: &str = "s3cr3t-k3y";
const TABLE: &str = r#"{"1":{"10":{"001122334455":3,"001122334466":"4"}}}"#;

/// What the server does with a connection, after it read the request.
enum Reply {
    /// Sends this, and closes.
    Send(Vec<u8>),
    /// Sends this, and then keeps silent until the client hangs up.
    Stall(Vec<u8>),
}

fn answer(status: &str, headers: &[&str], body: &str) -> Reply {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for header in headers {
        write!(text, "{header}\r\n").unwrap();
    }
    if !status.starts_with("304") {
        write!(text, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    Reply::Send(format!("{text}\r\n{body}").into())
}

fn json(body: &str) -> Reply {
    answer("200 OK", &["Content-Type: application/json"], body)
}

/// Serves one connection for each reply; the requests can be had from the receiver.
fn serve(replies: impl Into<Vec<Reply>>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel();
    let replies = replies.into();
    thread::spawn(move || {
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            let request = head(&stream);
            // A test that does not look at requests has dropped the receiver.
            let _ = sender.send(request);
            // The client may hang up in the middle of what it does not want.
            match reply {
                Reply::Send(bytes) => drop(stream.write_all(&bytes)),
                Reply::Stall(bytes) => {
                    let _ = stream.write_all(&bytes);
                    let _ = stream.read(&mut [0]);
                }
            }
        }
    });
    (format!("http://{address}/api/v4"), requests)
}

/// The request, in lower case, up to the empty line.
fn head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    lines.join("\n").to_lowercase()
}

fn portal(base_url: &str) -> Portal {
    Portal {
        base_url: base_url.parse().unwrap(),
        key: ApiKey::new(KEY).unwrap(),
        table: MacTableKind::Learned,
        infrastructure: None,
    }
}

fn fetch(client: &mut Client) -> Result<Fetched, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.fetch())
}

fn fetch_once(reply: Reply) -> Result<Fetched, ApiError> {
    let (url, _) = serve([reply]);
    fetch(&mut Client::new(&portal(&url), Limits::default()).unwrap())
}

/// The error of one answer, without the address.
fn fault(reply: Reply) -> String {
    let error = fetch_once(reply).unwrap_err();
    assert!(error.url.ends_with("/api/v4/sflow-db-mapper/learned-macs"), "{}", error.url);
    let text = error.to_string();
    assert!(!text.contains(KEY) && !format!("{error:?}").contains(KEY), "{text}");
    text.strip_prefix(&format!("{}: ", error.url)).unwrap().to_owned()
}

#[test]
fn both_tables_are_asked_for_with_the_key() {
    for (table, name) in
        [(MacTableKind::Learned, "learned"), (MacTableKind::Configured, "configured")]
    {
        let (url, requests) = serve([json(TABLE)]);
        let portal = Portal { table, ..portal(&format!("{url}/")) };
        let mut client = Client::new(&portal, Limits::default()).unwrap();
        let Fetched::Table { table, body } = fetch(&mut client).unwrap() else { panic!("a table") };
        assert_eq!((table.records.len(), body.as_slice()), (2, TABLE.as_bytes()));
        let request = requests.recv().unwrap();
        let line = format!("get /api/v4/sflow-db-mapper/{name}-macs http/1.1");
        assert!(request.starts_with(&line), "{request}");
        assert!(request.contains(&format!("x-ixp-manager-api-key: {KEY}")), "{request}");
        assert!(request.contains("user-agent: ixflow/"), "{request}");
        assert!(!request.contains("if-none-match"), "{request}");
        assert!(!format!("{client:?}").contains(KEY));
    }
}

#[test]
fn an_empty_table_is_a_table() {
    let Ok(Fetched::Table { table, .. }) = fetch_once(json("[]")) else { panic!("a table") };
    assert_eq!(table.records, []);
}

#[test]
fn an_unchanged_table_is_not_sent_again() {
    let tagged = |tag: &str| answer("200 OK", &[&format!("ETag: {tag}")], TABLE);
    let unchanged = || answer("304 Not Modified", &[], "");
    let (url, requests) = serve([
        tagged("W/\"one\""),
        unchanged(),
        answer("200 OK", &["ETag: \"bad\""], "oops"),
        unchanged(),
        tagged("\"two\""),
        json(TABLE),
        json(TABLE),
        tagged("\"three\""),
        json(TABLE),
    ]);
    let mut client = Client::new(&portal(&url), Limits::default()).unwrap();
    let mut next = || {
        let fetched = fetch(&mut client);
        let request = requests.recv().unwrap();
        let sent = request.lines().find_map(|line| line.strip_prefix("if-none-match: "));
        (fetched.map(|fetched| fetched == Fetched::NotModified).ok(), sent.map(str::to_owned))
    };
    assert_eq!(next(), (Some(false), None));
    assert_eq!(next(), (Some(true), Some("w/\"one\"".into())));
    // An answer that is no table does not take the place of the last good one.
    assert_eq!(next(), (None, Some("w/\"one\"".into())));
    assert_eq!(next(), (Some(true), Some("w/\"one\"".into())));
    assert_eq!(next(), (Some(false), Some("w/\"one\"".into())));
    assert_eq!(next(), (Some(false), Some("\"two\"".into())));
    // The last one had no tag.
    assert_eq!(next(), (Some(false), None));
    assert_eq!(next(), (Some(false), None));
    client.forget();
    fetch(&mut client).unwrap();
    assert!(!requests.recv().unwrap().contains("if-none-match"));
}

#[test]
fn a_304_that_nobody_asked_for_is_an_error() {
    assert_eq!(
        fault(answer("304 Not Modified", &[], "")),
        "HTTP 304 Not Modified: expected status 200"
    );
}

#[test]
fn a_bad_status_names_its_likely_cause() {
    for (status, body, expected) in [
        (
            "401 Unauthorized",
            "Unauthorized.",
            "HTTP 401 Unauthorized: the API key is refused: check apikey, and that its owner may \
             use the API; the answer begins with: Unauthorized.",
        ),
        (
            "403 Forbidden",
            "",
            "HTTP 403 Forbidden: the API key is refused: check apikey, and that its owner may use \
             the API",
        ),
        (
            "404 Not Found",
            "<!DOCTYPE html>\n<html>\n  <title>Not Found</title>",
            "HTTP 404 Not Found: the API is not there: apibaseurl must end in /api/v4 or \
             /admin/api/v4; the answer begins with: \
             <!DOCTYPE html> <html> <title>Not Found</title>",
        ),
        (
            "500 Internal Server Error",
            "X-IXP-Manager-API-Key: s3cr3t-k3y",
            "HTTP 500 Internal Server Error: the portal failed: its log says why \
             (storage/logs/laravel.log); the answer begins with: X-IXP-Manager-API-Key: ***",
        ),
        (
            "503 Service Unavailable",
            "Be right back.",
            "HTTP 503 Service Unavailable: the portal is down for maintenance, or overloaded; the \
             answer begins with: Be right back.",
        ),
        ("429 Too Many Requests", "", "HTTP 429 Too Many Requests: expected status 200"),
    ] {
        assert_eq!(fault(answer(status, &[], body)), expected);
    }
}

#[test]
fn a_web_page_is_not_the_api() {
    assert_eq!(
        fault(answer("200 OK", &["Content-Type: text/html"], "\n<html><body>Login")),
        "HTTP 200 OK: expected JSON, but this is HTML: apibaseurl does not point to the API; the \
         answer begins with: <html><body>Login"
    );
    assert_eq!(
        fault(json("{\"1\":")),
        "HTTP 200 OK: expected JSON: EOF while parsing a value at line 1 column 5; the answer \
         begins with: {\"1\":"
    );
}

#[test]
fn redirections_are_not_followed() {
    // Another server would get the key.
    let (elsewhere, requests) = serve([json(TABLE)]);
    let location = format!("Location: {elsewhere}?key={KEY}");
    assert_eq!(
        fault(answer("302 Found", &[&location], "")),
        format!(
            "HTTP 302 Found: redirected to {elsewhere}?key=***, which is not followed: set \
             apibaseurl to where the API is; a login page means that the API key was not accepted"
        )
    );
    assert!(requests.try_recv().is_err());
}

#[test]
fn an_answer_that_breaks_off_is_an_error() {
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{TABLE}");
    let text = fault(Reply::Send(whole.into()));
    assert!(text.starts_with("HTTP 200 OK: the answer broke off: "), "{text}");
}

#[test]
fn no_answer_is_an_error() {
    let text = fault(Reply::Send(Vec::new()));
    assert!(text.starts_with("no answer: "), "{text}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let portal = portal(&format!("http://user:pass@{closed}/api/v4"));
    let error = fetch(&mut Client::new(&portal, Limits::default()).unwrap()).unwrap_err();
    let text = error.to_string();
    let start = format!("http://{closed}/api/v4/sflow-db-mapper/learned-macs: no answer: ");
    assert!(text.starts_with(&start) && text.contains("refused"), "{text}");
}

#[test]
fn a_slow_portal_is_given_up() {
    let limits = Limits { total_timeout: Duration::from_millis(200), ..Limits::default() };
    for sent in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"] {
        let (url, _) = serve([Reply::Stall(sent.into())]);
        let error = fetch(&mut Client::new(&portal(&url), limits).unwrap()).unwrap_err();
        assert_eq!(error.fault, ApiFault::Timeout(limits.total_timeout), "{sent}");
    }
}

#[test]
fn a_long_answer_is_not_read_to_its_end() {
    let limits = Limits { answer_bytes_max: TABLE.len(), ..Limits::default() };
    let try_with = |body: &str| {
        let (url, _) = serve([json(body)]);
        fetch(&mut Client::new(&portal(&url), limits).unwrap())
    };
    assert!(try_with(TABLE).is_ok());
    let error = try_with(&format!("{TABLE} ")).unwrap_err();
    assert_eq!(error.fault, ApiFault::TooLong(TABLE.len()));
    // The limit is on what comes out, not on what is sent: 2 MB of blanks in 13 kB.
    let (url, _) = serve([gzip_of_blanks()]);
    let limits = Limits { answer_bytes_max: 1 << 20, ..Limits::default() };
    let error = fetch(&mut Client::new(&portal(&url), limits).unwrap()).unwrap_err();
    assert_eq!(error.fault, ApiFault::TooLong(1 << 20));
}

/// An answer whose body is 2 MB of blanks in gzip (RFC 1952) with one fixed block (RFC 1951): a
/// blank, and matches of length 258 at distance 1.
fn gzip_of_blanks() -> Reply {
    let mut bits: Vec<u8> = Vec::new();
    let mut push = |value: u32, count: u32, huffman: bool| {
        for at in 0..count {
            let shift = if huffman { count - 1 - at } else { at };
            bits.push(u8::from(value >> shift & 1 == 1));
        }
    };
    push(1, 1, false); // the last block
    push(1, 2, false); // with fixed codes
    push(0x30 + 0x20, 8, true); // ' '
    for _ in 0..8192 {
        push(0b1100_0101, 8, true); // 285: length 258
        push(0, 5, true); // distance 1
    }
    push(0, 7, true); // the end
    let mut body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    body.extend(bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit)));
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: {}\r\n\
         \r\n",
        body.len() + 8
    )
    .into_bytes();
    bytes.extend(body);
    // The sums at the end are never reached.
    bytes.extend([0; 8]);
    Reply::Send(bytes)
}

#[test]
fn what_was_fetched_can_be_kept() {
    let (url, _) = serve([json(TABLE)]);
    let mut client = Client::new(&portal(&url), Limits::default()).unwrap();
    let Ok(Fetched::Table { table, body }) = fetch(&mut client) else { panic!("a table") };
    let directory = tempfile::tempdir().unwrap();
    save_table(directory.path(), &body, client.url(), 1_800_000_000).unwrap();
    let last = load_table(directory.path(), None).unwrap().unwrap();
    assert_eq!((last.table, last.url.as_str()), (table, client.url()));
}

const CHILD_URL: &str = "IXFLOW_TEST_HTTPS_URL";

/// https with a certificate that the system trusts, and without: the authorities of the system
/// are those of SSL_CERT_FILE, which only another process can be given.
#[test]
fn https_is_verified_against_the_authorities_of_the_system() {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
    let read = |name: &str| std::fs::read(format!("{directory}/{name}")).unwrap();
    let certificate = rustls::pki_types::CertificateDer::from_pem_slice(&read("server.pem"));
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&read("server.key"));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.unwrap()], key.unwrap())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            // A client that does not trust the certificate hangs up here.
            let Ok(1..) = tls.read(&mut [0; 4096]) else { continue };
            let length = TABLE.len();
            write!(tls, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{TABLE}").unwrap();
            tls.flush().unwrap();
        }
    });

    let child = |authorities: &str| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "api::https_child", "--ignored", "--nocapture"]);
        child.env(CHILD_URL, format!("https://localhost:{port}/api/v4"));
        child.env("SSL_CERT_FILE", authorities).env_remove("SSL_CERT_DIR");
        String::from_utf8(child.output().unwrap().stdout).unwrap()
    };
    let trusted = child(&format!("{directory}/ca.pem"));
    assert!(trusted.contains("https brought 2 records"), "{trusted}");
    // The certificate of the server itself as the only authority: it signed nothing.
    let other = child(&format!("{directory}/other.pem"));
    assert!(other.contains("no answer: ") && other.contains("UnknownIssuer"), "{other}");
    let none = child("/dev/null");
    assert!(none.contains("cannot make requests: ") && none.contains("No CA cert"), "{none}");
}

#[test]
#[ignore = "run in a process of its own by https_is_verified_against_the_authorities_of_the_system"]
fn https_child() {
    let url = std::env::var(CHILD_URL).unwrap();
    let fetched = Client::new(&portal(&url), Limits::default()).and_then(|mut c| fetch(&mut c));
    match fetched {
        Ok(Fetched::Table { table, .. }) => {
            println!("https brought {} records", table.records.len())
        }
        other => println!("{}", other.unwrap_err()),
    }
}
