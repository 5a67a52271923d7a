//! IXP Manager's API: the MAC table, fetched, parsed and kept.
//!
//! `GET {apibaseurl}/sflow-db-mapper/learned-macs` or `/configured-macs` answers
//!
//! ```json
//! { "infrastructure id": { "vlan tag": { "mac": VLI } } }
//! ```
//!
//! as PHP writes it: whatever is empty is `[]`, an object with the keys 0..n is an array, a VLI may
//! be a number or a string, and a VLI without a VLAN has the key `""`. Nothing in it is chosen by
//! accident: keys that occur twice are all returned, and an entry that cannot be is refused alone.
//!
//! The last good table is `mac-table.json` in the state directory, an object with the members
//! `format` ([`STATE_FORMAT`]), `url`, `fetched_at_secs` and `table`, the answer as it was.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{ACCEPT, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, LOCATION};
use reqwest::{StatusCode, Url, redirect};
use serde::de::{
    self, Deserialize as _, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};

use super::config::ApiKey;
use crate::ixp::{InfrastructureId, Mac, MacRecord, VlanTag, VliId};

/// Bytes of an answer, decompressed, at the most.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Keys of a table at the most, of all its objects.
pub const ENTRIES_MAX: usize = 1_000_000;

/// Refused entries that are described; the others are counted.
pub const REFUSED_MAX: usize = 20;

/// How long a connection may take.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a fetch may take in all.
pub const DEFAULT_TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an answer that an error shows.
const EXCERPT_BYTES_MAX: usize = 200;

/// The header that carries the key.
const KEY_HEADER: &str = "x-ixp-manager-api-key";

/// Which MAC addresses of its members IXP Manager is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MacTableKind {
    /// Those that it discovered on the switches.
    Learned,
    /// Those that are configured on VLAN interfaces.
    Configured,
}

impl MacTableKind {
    /// The last part of the address.
    pub const fn endpoint(self) -> &'static str {
        match self {
            MacTableKind::Learned => "learned-macs",
            MacTableKind::Configured => "configured-macs",
        }
    }
}

/// Where the table comes from.
#[derive(Clone, PartialEq, Debug)]
pub struct Portal {
    /// The address of the API.
    pub base_url: Url,
    /// Its key.
    pub key: ApiKey,
    /// Which table.
    pub table: MacTableKind,
    /// The only infrastructure to keep; none for all.
    pub infrastructure: Option<InfrastructureId>,
}

/// The entries of a table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MacTableRecords {
    /// Every distinct line, sorted. The same address on the same VLAN may be there with several
    /// VLIs: that is for the reader to decide.
    pub records: Vec<MacRecord>,
    /// The infrastructures of the answer, sorted, also those that the filter took out: a filter
    /// that names none of these is probably wrong.
    pub infrastructures: Vec<InfrastructureId>,
    /// Entries that cannot be, the first [`REFUSED_MAX`] of them.
    pub refused: Vec<Refused>,
    /// How many entries were refused.
    pub refused_count: usize,
}

/// An entry of the table that cannot be, and was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Where in the table.
    pub path: String,
    /// What it should have been.
    pub expected: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}", self.path, self.expected)
    }
}

/// No table, and why. The one before stays good, and the next fetch may bring another.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{fault}{}", Request(.url, *.status), Answer(.answer))]
pub struct ApiError {
    /// What was asked for; empty where a table was parsed that nobody fetched.
    pub url: String,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// What is wrong, with the likely cause.
    pub fault: ApiFault,
    /// The first bytes of the answer, made fit for a log.
    pub answer: String,
}

struct Request<'a>(&'a str, Option<u16>);

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() {
            write!(f, "{}: ", self.0)?;
        }
        match self.1.map(StatusCode::from_u16) {
            Some(Ok(status)) => write!(f, "HTTP {status}: "),
            _ => Ok(()),
        }
    }
}

struct Answer<'a>(&'a str);

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; the answer begins with: {}", self.0) }
    }
}

/// What is wrong with an answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApiFault {
    /// The request cannot be made.
    #[error("cannot make requests: {0}")]
    Client(String),
    /// No answer.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// No whole answer in time.
    #[error("no whole answer within {0:?}: the portal is overloaded or unreachable")]
    Timeout(Duration),
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    BrokenOff(String),
    /// 401 or 403.
    #[error("the API key is refused: check apikey, and that its owner may use the API")]
    KeyRefused,
    /// 404.
    #[error(
        "the API is not there: apibaseurl must end in /api/v4 or /admin/api/v4, and IXP Manager \
         must be at least version 5"
    )]
    NotFound,
    /// A redirection, which is not followed, for the key would go along.
    #[error(
        "redirected to {0}, which is not followed: set apibaseurl to where the API is; a login \
         page means that the API key was not accepted"
    )]
    Redirected(String),
    /// 503, as IXP Manager answers in maintenance mode.
    #[error("the portal is down for maintenance, or overloaded")]
    Unavailable,
    /// 500 and others from there.
    #[error("the portal failed: its log says why (storage/logs/laravel.log)")]
    PortalFailed,
    /// Any other status.
    #[error("expected status 200")]
    Status,
    /// More than the limit, in bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// More than [`ENTRIES_MAX`].
    #[error("the table has more than {ENTRIES_MAX} keys")]
    TooMany,
    /// A web page.
    #[error("expected JSON, but this is HTML: apibaseurl does not point to the API")]
    Html,
    /// Not JSON.
    #[error("expected JSON: {0}")]
    NotJson(String),
    /// JSON, but nothing in it is an entry.
    #[error("expected a MAC table, but no entry is good; the first is {0}")]
    NotTable(String),
}

impl ApiError {
    fn of(fault: ApiFault) -> ApiError {
        ApiError { url: String::new(), status: None, fault, answer: String::new() }
    }
}

/// Parses an answer, and keeps the entries of one infrastructure or of all.
///
/// An entry that cannot be (a bad MAC, VLI, VLAN or infrastructure) costs itself alone, and is
/// told in [`MacTableRecords::refused`]. An empty table is a table.
///
/// # Errors
///
/// The text is not JSON, not a table at all, has more than [`ENTRIES_MAX`] keys, or entries of
/// which none is good.
pub fn parse_mac_table(
    json: &[u8],
    infrastructure: Option<InfrastructureId>,
) -> Result<MacTableRecords, ApiError> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let mut table = Table::new(infrastructure);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = Reader { table: &mut table, at: Position::Top }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    table.finish(parsed, json).map_err(ApiError::of)
}

/// A table while it is read.
struct Table {
    filter: Option<InfrastructureId>,
    found: MacTableRecords,
    good: usize,
    keys: usize,
}

impl Table {
    fn new(filter: Option<InfrastructureId>) -> Table {
        Table { filter, found: MacTableRecords::default(), good: 0, keys: 0 }
    }

    fn refuse(&mut self, path: impl FnOnce() -> String, expected: &'static str) {
        self.found.refused_count += 1;
        if self.found.refused.len() < REFUSED_MAX {
            self.found.refused.push(Refused { path: path(), expected });
        }
    }

    fn finish(
        mut self,
        parsed: serde_json::Result<()>,
        json: &[u8],
    ) -> Result<MacTableRecords, ApiFault> {
        match parsed {
            Err(_) if self.keys > ENTRIES_MAX => return Err(ApiFault::TooMany),
            Err(_) if json.trim_ascii_start().starts_with(b"<") => return Err(ApiFault::Html),
            Err(error) => return Err(ApiFault::NotJson(error.to_string())),
            Ok(()) => {}
        }
        if let Some(first) = self.found.refused.first().filter(|_| self.good == 0) {
            return Err(ApiFault::NotTable(first.to_string()));
        }
        self.found.records.sort_unstable();
        self.found.records.dedup();
        self.found.infrastructures.sort_unstable();
        self.found.infrastructures.dedup();
        Ok(self.found)
    }
}

/// A value in the table, by the keys that lead to it.
#[derive(Clone, Copy)]
enum Position {
    Top,
    Infrastructure(InfrastructureId),
    Vlan(InfrastructureId, VlanTag),
    Vli(InfrastructureId, VlanTag, Mac),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Top => f.write_str("the table"),
            Position::Infrastructure(id) => write!(f, "infrastructure {}", id.0),
            Position::Vlan(id, vlan) => write!(f, "infrastructure {}, VLAN {vlan}", id.0),
            Position::Vli(id, vlan, mac) => {
                write!(f, "infrastructure {}, VLAN {vlan}, {mac}", id.0)
            }
        }
    }
}

/// Reads the value at a position, whatever it is, and never fails for what it is.
struct Reader<'a> {
    table: &'a mut Table,
    at: Position,
}

impl Reader<'_> {
    fn vli(self, number: Option<u32>) {
        match (self.at, number) {
            (Position::Vli(infrastructure, vlan, mac), Some(number @ 1..)) => {
                let vli = VliId(number);
                self.table.found.records.push(MacRecord { infrastructure, vlan, mac, vli });
                self.table.good += 1;
            }
            _ => self.refuse(),
        }
    }

    fn refuse(self) {
        let expected = match self.at {
            Position::Vli(..) => "the number of a VLAN interface",
            _ => "an object",
        };
        let at = self.at;
        self.table.refuse(|| at.to_string(), expected);
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Position::Vli(..) = self.at {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            self.refuse();
            return Ok(());
        }
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Member { table: &mut *self.table, of: self.at, key: &key })?;
        }
        Ok(())
    }

    /// PHP's array: an object with the keys 0..n, or an empty one.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Position::Vli(..) = self.at {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            self.refuse();
            return Ok(());
        }
        for index in 0u32.. {
            let key = index.to_string();
            let member = Member { table: &mut *self.table, of: self.at, key: &key };
            if seq.next_element_seed(member)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.vli(u32::try_from(number).ok());
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.vli(text.parse().ok());
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.refuse();
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.refuse();
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.refuse();
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.refuse();
        Ok(())
    }
}

/// Reads what belongs to a key of an object at a position.
struct Member<'a> {
    table: &'a mut Table,
    of: Position,
    key: &'a str,
}

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Member { table, of, key } = self;
        table.keys += 1;
        if table.keys > ENTRIES_MAX {
            return Err(de::Error::custom("too many entries"));
        }
        let at = match of {
            Position::Top => match key.parse().map(InfrastructureId) {
                Ok(id) => {
                    table.found.infrastructures.push(id);
                    if table.filter.is_some_and(|filter| filter != id) {
                        // What the filter takes out is good.
                        table.good += 1;
                        IgnoredAny::deserialize(deserializer)?;
                        return Ok(());
                    }
                    Ok(Position::Infrastructure(id))
                }
                Err(_) => Err("the number of an infrastructure"),
            },
            Position::Infrastructure(id) => match key.parse().map(VlanTag::new) {
                _ if key.is_empty() => Ok(Position::Vlan(id, VlanTag::NONE)),
                Ok(vlan) if vlan.is_some() => Ok(Position::Vlan(id, vlan)),
                _ => Err("a VLAN tag, 1 to 4094"),
            },
            Position::Vlan(id, vlan) => match key.parse::<Mac>() {
                Ok(mac) if !mac.is_group() => Ok(Position::Vli(id, vlan, mac)),
                _ => Err("a MAC address, 12 hexadecimal digits, of one station"),
            },
            Position::Vli(..) => Err("the number of a VLAN interface"),
        };
        match at {
            Ok(at) => Reader { table, at }.deserialize(deserializer),
            Err(expected) => {
                table.refuse(|| format!("{of}, {:?}", excerpt(key.as_bytes())), expected);
                IgnoredAny::deserialize(deserializer).map(|_| ())
            }
        }
    }
}

/// What a fetch brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// The table is the one that the last [`Fetched::Table`] brought.
    NotModified,
    /// A table.
    Table {
        /// Its entries.
        table: MacTableRecords,
        /// The answer as it was, for [`save_table`].
        body: Vec<u8>,
    },
}

/// How long and how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// For the connection.
    pub connect_timeout: Duration,
    /// For the whole fetch.
    pub total_timeout: Duration,
    /// Bytes of the answer, decompressed.
    pub answer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            total_timeout: DEFAULT_TOTAL_TIMEOUT,
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }
}

/// Asks one portal for its table.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
    shown_url: String,
    key: ApiKey,
    infrastructure: Option<InfrastructureId>,
    limits: Limits,
    etag: Option<HeaderValue>,
}

impl Client {
    /// A client for `portal`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// The address is https, and the system has no certificates of authorities.
    pub fn new(portal: &Portal, limits: Limits) -> Result<Client, ApiError> {
        let base = portal.base_url.as_str().trim_end_matches('/');
        let address = format!("{base}/sflow-db-mapper/{}", portal.table.endpoint());
        let shown_url = without_userinfo(&address);
        let client_error = |reason: String| ApiError {
            url: shown_url.clone(),
            ..ApiError::of(ApiFault::Client(reason))
        };
        let url: Url = address.parse().map_err(|_| client_error("a bad address".to_owned()))?;

        // ring, because aws-lc does not build everywhere that ixflow runs. It fails only if a
        // provider is there already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut key = HeaderValue::from_str(portal.key.expose())
            .map_err(|_| client_error("the key does not fit into a header".to_owned()))?;
        key.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (KEY_HEADER.parse().map_err(|_| client_error("a bad header".to_owned()))?, key),
            (ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("ixflow/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(limits.connect_timeout)
            .timeout(limits.total_timeout)
            // The key would go along, perhaps to another host.
            .redirect(redirect::Policy::none());
        if url.scheme() == "http" {
            // Without TLS it must also work on a system that has no authorities.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| client_error(causes(&error)))?;
        Ok(Client {
            http,
            url,
            shown_url,
            key: portal.key.clone(),
            infrastructure: portal.infrastructure,
            limits,
            etag: None,
        })
    }

    /// The address that is fetched, without user and password: the `url` of [`save_table`].
    pub fn url(&self) -> &str {
        &self.shown_url
    }

    /// Makes the next fetch bring the whole table, changed or not. For a caller that did not
    /// want the last one.
    pub fn forget(&mut self) {
        self.etag = None;
    }

    /// Fetches the table.
    ///
    /// It may be empty although the one before was not: the answer of a portal that has just
    /// lost its switches, or of an exchange that closed. The caller decides, and has
    /// [`Client::forget`] if it prefers the old one.
    ///
    /// # Errors
    ///
    /// No answer, or none that is a table. The next call may succeed.
    pub async fn fetch(&mut self) -> Result<Fetched, ApiError> {
        let mut request = self.http.get(self.url.clone());
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let mut response =
            request.send().await.map_err(|error| self.transport_error(None, &error, false))?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && self.etag.is_some() {
            return Ok(Fetched::NotModified);
        }
        let is_good = status == StatusCode::OK;
        let etag = response.headers().get(ETAG).cloned();
        let location = response
            .headers()
            .get(LOCATION)
            .map(|location| self.redacted(&String::from_utf8_lossy(location.as_bytes())));

        // The page that comes with a bad status is only looked into.
        let limit = if is_good { self.limits.answer_bytes_max } else { EXCERPT_BYTES_MAX * 4 };
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(_) if !is_good => break,
                Err(error) => return Err(self.transport_error(Some(status), &error, true)),
            }
            if body.len() > limit {
                if !is_good {
                    break;
                }
                return Err(self.answer_error(status, ApiFault::TooLong(limit), &body));
            }
        }
        if !is_good {
            let fault = match status.as_u16() {
                401 | 403 => ApiFault::KeyRefused,
                404 => ApiFault::NotFound,
                300..=303 | 307 | 308 => {
                    ApiFault::Redirected(location.unwrap_or_else(|| "nowhere".to_owned()))
                }
                503 => ApiFault::Unavailable,
                500.. => ApiFault::PortalFailed,
                _ => ApiFault::Status,
            };
            return Err(self.answer_error(status, fault, &body));
        }
        let table = parse_mac_table(&body, self.infrastructure)
            .map_err(|error| self.answer_error(status, error.fault, &body))?;
        self.etag = etag;
        Ok(Fetched::Table { table, body })
    }

    fn answer_error(&self, status: StatusCode, fault: ApiFault, body: &[u8]) -> ApiError {
        // More than is shown, so that a key at the edge is still seen whole.
        let start = &body[..body.len().min(EXCERPT_BYTES_MAX * 4)];
        let answer = excerpt(self.redacted(&String::from_utf8_lossy(start)).as_bytes());
        ApiError { url: self.shown_url.clone(), status: Some(status.as_u16()), fault, answer }
    }

    fn transport_error(
        &self,
        status: Option<StatusCode>,
        error: &reqwest::Error,
        in_body: bool,
    ) -> ApiError {
        let fault = if error.is_timeout() {
            ApiFault::Timeout(if error.is_connect() {
                self.limits.connect_timeout
            } else {
                self.limits.total_timeout
            })
        } else if in_body {
            ApiFault::BrokenOff(causes(error))
        } else {
            ApiFault::NoAnswer(causes(error))
        };
        let status = status.map(|status| status.as_u16());
        ApiError { url: self.shown_url.clone(), status, ..ApiError::of(fault) }
    }

    /// An error page may repeat the headers of the request.
    fn redacted(&self, text: &str) -> String {
        text.replace(self.key.expose(), "***")
    }
}

/// What an error says, from its first cause on: reqwest's own text repeats the address.
fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let text = error.to_string();
        // Wrappers often repeat what they wrap.
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        source = error.source();
    }
    if texts.is_empty() { "unknown".to_owned() } else { texts.join(": ") }
}

fn without_userinfo(address: &str) -> String {
    match Url::parse(address) {
        Ok(mut url) => {
            let removed = url.set_username("").is_ok() && url.set_password(None).is_ok();
            if removed { url.to_string() } else { String::new() }
        }
        Err(_) => String::new(),
    }
}

/// The start of a text on one line, white space folded, fit for a log.
fn excerpt(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(EXCERPT_BYTES_MAX)];
    let text = String::from_utf8_lossy(start).replace(char::is_control, " ");
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if bytes.len() > start.len() {
        words.push_str("...");
    }
    words
}

/// The name of the last good table in the state directory.
pub const STATE_FILE: &str = "mac-table.json";

/// What its member `format` says.
pub const STATE_FORMAT: &str = "ixflow MAC table 1";

/// A table that was good once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastGood {
    /// Its entries.
    pub table: MacTableRecords,
    /// Where it came from; another portal or another kind of table than what is set now is for
    /// the caller to weigh.
    pub url: String,
    /// When, in seconds since 1970.
    pub fetched_at_secs: u64,
}

/// The last good table cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refuses.
    #[error("{}: cannot {doing}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not a table that ixflow wrote, or is damaged. It is out of the way now.
    #[error("{}: {reason}; set aside as {}", .path.display(), .set_aside.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        set_aside: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Keeps `body`, an answer that [`parse_mac_table`] accepted, as the last good table of `url`.
/// Whatever happens meanwhile, there is a whole file: the old one or the new one. The directory is
/// made if it is missing.
///
/// # Errors
///
/// The system refuses to write.
pub fn save_table(
    state_dir: &Path,
    body: &[u8],
    url: &str,
    fetched_at_secs: u64,
) -> Result<(), StateError> {
    let path = state_dir.join(STATE_FILE);
    let io_error = |doing| {
        let path = path.clone();
        move |source| StateError::Io { path, doing, source }
    };
    fs::create_dir_all(state_dir).map_err(io_error("make its directory"))?;
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let format = serde_json::Value::from(STATE_FORMAT);
    let url = serde_json::Value::from(url);
    let temporary = path.with_extension("json.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        write!(
            file,
            "{{\"format\":{format},\"url\":{url},\"fetched_at_secs\":{fetched_at_secs},\n\
             \"table\":"
        )?;
        file.write_all(body)?;
        file.write_all(b"}\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        // The rename is on the disk when the directory is.
        File::open(state_dir)?.sync_all()
    };
    write().map_err(io_error("be written"))
}

/// Reads the last good table, and keeps the entries of one infrastructure or of all; none if
/// there is no file.
///
/// # Errors
///
/// The system refuses, or the file is not a whole table: it is then renamed to `*.bad`, so that
/// the next good table takes its place and somebody can look at it.
pub fn load_table(
    state_dir: &Path,
    infrastructure: Option<InfrastructureId>,
) -> Result<Option<LastGood>, StateError> {
    let path = state_dir.join(STATE_FILE);
    let mut bytes = Vec::new();
    // Room for what is around the answer.
    let limit = ANSWER_BYTES_MAX + 64 * 1024;
    match File::open(&path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Io { path, doing: "be read", source }),
    }
    let reason = if bytes.len() > limit {
        format!("longer than {limit} bytes")
    } else {
        match parse_state(&bytes, infrastructure) {
            Ok(last) => return Ok(Some(last)),
            Err(reason) => reason,
        }
    };
    let set_aside = path.with_extension("json.bad");
    match fs::rename(&path, &set_aside) {
        Ok(()) => Err(StateError::Refused { path, set_aside, reason }),
        Err(source) => Err(StateError::Io { path, doing: "be set aside", source }),
    }
}

fn parse_state(bytes: &[u8], infrastructure: Option<InfrastructureId>) -> Result<LastGood, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut table = Table::new(infrastructure);
    let mut state = State { format: None, url: None, fetched_at_secs: None, has_table: false };
    let parsed = deserializer
        .deserialize_map(StateReader { table: &mut table, state: &mut state })
        .and_then(|()| deserializer.end());
    let table = match (parsed, &state.format) {
        (Ok(()), Some(format)) if format == STATE_FORMAT => table.finish(Ok(()), bytes),
        (Err(error), Some(format)) if format == STATE_FORMAT => table.finish(Err(error), bytes),
        _ => return Err(format!("not a file of ixflow: expected the format {STATE_FORMAT:?}")),
    };
    let table = table.map_err(|fault| fault.to_string())?;
    match state {
        State {
            url: Some(url), fetched_at_secs: Some(fetched_at_secs), has_table: true, ..
        } => Ok(LastGood { table, url, fetched_at_secs }),
        _ => Err("not whole: expected url, fetched_at_secs and table".to_owned()),
    }
}

/// The members of the file around the table.
struct State {
    format: Option<String>,
    url: Option<String>,
    fetched_at_secs: Option<u64>,
    has_table: bool,
}

struct StateReader<'a> {
    table: &'a mut Table,
    state: &'a mut State,
}

impl<'de> Visitor<'de> for StateReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "format" => self.state.format = Some(map.next_value()?),
                "url" => self.state.url = Some(map.next_value()?),
                "fetched_at_secs" => self.state.fetched_at_secs = Some(map.next_value()?),
                "table" => {
                    self.state.has_table = true;
                    let table = &mut *self.table;
                    map.next_value_seed(Reader { table, at: Position::Top })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
