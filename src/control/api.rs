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

use super::config::{ApiKey, BaseUrl};
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
    pub base_url: BaseUrl,
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
    #[error("the API is not there: apibaseurl must end in /api/v4 or /admin/api/v4")]
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
pub struct Client {
    http: reqwest::Client,
    url: Url,
    shown_url: String,
    key: ApiKey,
    infrastructure: Option<InfrastructureId>,
    limits: Limits,
    etag: Option<HeaderValue>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing of the rest is fit to be seen: it has the key, and perhaps a password.
        f.debug_tuple("Client").field(&self.shown_url).finish()
    }
}

impl Client {
    /// A client for `portal`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// The address is https, and the system has no certificates of authorities.
    pub fn new(portal: &Portal, limits: Limits) -> Result<Client, ApiError> {
        let base = portal.base_url.expose().as_str().trim_end_matches('/');
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
pub(crate) fn causes(error: &reqwest::Error) -> String {
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

/// An address as it may be shown: without user and password.
pub(crate) fn without_userinfo(address: &str) -> String {
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
    /// The file is not a table that ixflow wrote, or is damaged.
    #[error("{}: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The same, and it is out of the way now.
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
    let reason = match read_table(state_dir, infrastructure) {
        Ok(table) => return Ok(table),
        Err(StateError::Damaged { reason, .. }) => reason,
        Err(error) => return Err(error),
    };
    let set_aside = path.with_extension("json.bad");
    match fs::rename(&path, &set_aside) {
        Ok(()) => Err(StateError::Refused { path, set_aside, reason }),
        Err(source) => Err(StateError::Io { path, doing: "be set aside", source }),
    }
}

/// As [`load_table`], but leaves a file that is not a whole table where it is.
///
/// # Errors
///
/// The system refuses, or the file is not a whole table.
pub fn read_table(
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
    if bytes.len() > limit {
        return Err(StateError::Damaged { path, reason: format!("longer than {limit} bytes") });
    }
    parse_state(&bytes, infrastructure)
        .map(Some)
        .map_err(|reason| StateError::Damaged { path, reason })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(infrastructure: u32, vlan: u32, mac: &str, vli: u32) -> MacRecord {
        MacRecord {
            infrastructure: InfrastructureId(infrastructure),
            vlan: VlanTag::new(vlan),
            mac: mac.parse().unwrap(),
            vli: VliId(vli),
        }
    }

    fn parse(json: &str) -> MacTableRecords {
        parse_mac_table(json.as_bytes(), None).unwrap()
    }

    fn fault(json: &str) -> String {
        parse_mac_table(json.as_bytes(), None).unwrap_err().to_string()
    }

    const TWO: &str = r#"{"2":{"10":{"0004ed123456":7}},"1":{"10":{"001122334455":3,
        "00:11:22:33:44:66":"3","0011.2233.44AA":4},"":{"02005E000001":5}}}"#;

    #[test]
    fn every_form_of_a_table_is_read() {
        let table = parse(TWO);
        assert_eq!(
            table.records,
            [
                record(1, 0, "02005e000001", 5),
                record(1, 10, "001122334455", 3),
                record(1, 10, "001122334466", 3),
                record(1, 10, "0011223344aa", 4),
                record(2, 10, "0004ed123456", 7),
            ]
        );
        assert_eq!(table.infrastructures, [InfrastructureId(1), InfrastructureId(2)]);
        assert_eq!(table.refused_count, 0);
    }

    #[test]
    fn the_filter_keeps_one_infrastructure() {
        let table = parse_mac_table(TWO.as_bytes(), Some(InfrastructureId(2))).unwrap();
        assert_eq!(table.records, [record(2, 10, "0004ed123456", 7)]);
        assert_eq!(table.infrastructures, [InfrastructureId(1), InfrastructureId(2)]);
        let table = parse_mac_table(TWO.as_bytes(), Some(InfrastructureId(3))).unwrap();
        assert_eq!((table.records.len(), table.infrastructures.len()), (0, 2));
    }

    #[test]
    fn empty_objects_are_arrays() {
        for json in ["[]", "{}", " [ ] ", r#"{"1":[]}"#, r#"{"1":{"10":[]}}"#, "\u{feff}[]"] {
            assert_eq!(parse(json).records, [], "{json}");
            assert_eq!(parse(json).refused, [], "{json}");
        }
    }

    #[test]
    fn keys_that_count_from_0_are_arrays() {
        let table = parse(r#"[{"5":{"001122334455":1}},[[],{"001122334466":2}]]"#);
        assert_eq!(
            table.records,
            [record(0, 5, "001122334455", 1), record(1, 1, "001122334466", 2)]
        );
        // VLAN 0 is none that a switch could name.
        assert_eq!(table.refused_count, 1);
        assert_eq!(
            table.refused[0].to_string(),
            "infrastructure 1, \"0\": expected a VLAN tag, 1 to 4094"
        );
    }

    #[test]
    fn repeated_keys_are_all_returned() {
        let table = parse(
            r#"{"1":{"10":{"001122334455":1,"001122334455":2,"00-11-22-33-44-55":1}},
                "1":{"10":{"001122334466":3}}}"#,
        );
        let expected = [
            record(1, 10, "001122334455", 1),
            record(1, 10, "001122334455", 2),
            record(1, 10, "001122334466", 3),
        ];
        assert_eq!(table.records, expected);
    }

    #[test]
    fn a_bad_entry_costs_itself_alone() {
        for (bad, expected) in [
            (r#""x":{"10":{"001122334466":1}}"#, "the table, \"x\": expected the number of an inf"),
            (r#""-1":[]"#, "the table, \"-1\": expected the number of an infrastructure"),
            (r#""2":7"#, "infrastructure 2: expected an object"),
            (r#""2":null"#, "infrastructure 2: expected an object"),
            (r#""2":"x""#, "infrastructure 2: expected an object"),
            (r#""2":{"4095":{"001122334466":1}}"#, "infrastructure 2, \"4095\": expected a VLAN"),
            (r#""2":{"65546":{"001122334466":1}}"#, "infrastructure 2, \"65546\": expected a VL"),
            (r#""2":{"9":true}"#, "infrastructure 2, VLAN 9: expected an object"),
            (r#""2":{"9":[1]}"#, "infrastructure 2, VLAN 9, \"0\": expected a MAC address"),
            (r#""2":{"9":{"00112233445":1}}"#, "infrastructure 2, VLAN 9, \"00112233445\": ex"),
            (r#""2":{"9":{"01005e000001":1}}"#, "infrastructure 2, VLAN 9, \"01005e000001\": e"),
            (r#""2":{"9":{"001122334466":0}}"#, "infrastructure 2, VLAN 9, 00:11:22:33:44:66: e"),
            (r#""2":{"9":{"001122334466":-1}}"#, "infrastructure 2, VLAN 9, 00:11:22:33:44:66"),
            (r#""2":{"9":{"001122334466":1.5}}"#, "infrastructure 2, VLAN 9, 00:11:22:33:44:66"),
            (r#""2":{"9":{"001122334466":4294967296}}"#, "infrastructure 2, VLAN 9, 00:11:22:33"),
            (r#""2":{"9":{"001122334466":"1x"}}"#, "infrastructure 2, VLAN 9, 00:11:22:33:44:66"),
            (r#""2":{"9":{"001122334466":null}}"#, "infrastructure 2, VLAN 9, 00:11:22:33:44:66"),
            (r#""2":{"9":{"001122334466":[1]}}"#, "infrastructure 2, VLAN 9, 00:11:22:33:44:66"),
            (r#""2":{"9":{"001122334466":{"a":1}}}"#, "infrastructure 2, VLAN 9, 00:11:22:33:44"),
        ] {
            let table = parse(&format!(r#"{{{bad},"1":{{"10":{{"001122334455":3}}}}}}"#));
            assert_eq!(table.records, [record(1, 10, "001122334455", 3)], "{bad}");
            assert_eq!(table.refused_count, 1, "{bad}");
            let refused = table.refused[0].to_string();
            assert!(refused.starts_with(expected), "{bad}: {refused}");
        }
    }

    #[test]
    fn refusals_are_described_up_to_a_limit() {
        let bad: Vec<_> = (0..100).map(|n| format!(r#""x{n}":1"#)).collect();
        let json = format!(r#"{{"1":{{"10":{{"001122334455":3,{}}}}}}}"#, bad.join(","));
        let table = parse(&json);
        assert_eq!((table.refused.len(), table.refused_count), (REFUSED_MAX, 100));
    }

    #[test]
    fn what_is_no_table_is_an_error() {
        assert!(fault("").starts_with("expected JSON: EOF"));
        assert!(fault(r#"{"1":{"10":{"001122334455":3}"#).starts_with("expected JSON: EOF"));
        assert!(fault("[] []").starts_with("expected JSON: trailing"));
        assert!(fault(" <!DOCTYPE html>").starts_with("expected JSON, but this is HTML"));
        assert_eq!(
            fault(r#"{"message":"Unauthenticated."}"#),
            "expected a MAC table, but no entry is good; the first is the table, \"message\": \
             expected the number of an infrastructure"
        );
        for json in ["null", "7", "\"x\"", "true"] {
            assert!(fault(json).ends_with("the first is the table: expected an object"), "{json}");
        }
        assert!(fault(&"[".repeat(100_000)).starts_with("expected JSON: EOF"));
    }

    #[test]
    fn tables_have_a_limit() {
        let macs = |count| {
            let macs: Vec<_> = (0..count).map(|n| format!("\"{n:012x}\":1")).collect();
            format!(r#"{{"1":{{"10":{{{}}}}}}}"#, macs.join(","))
        };
        // Two keys lead to the innermost object.
        assert_eq!(parse(&macs(ENTRIES_MAX - 2)).records.len(), ENTRIES_MAX - 2);
        assert!(fault(&macs(ENTRIES_MAX - 1)).contains("more than 1000000 keys"));
    }

    #[test]
    fn the_last_good_table_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("made/by/it");
        assert_eq!(load_table(&state, None).unwrap(), None);
        for (body, vli) in [(TWO.to_owned(), 7), (TWO.replace(":7", ":8"), 8)] {
            let url = "http://\"portal\"/x";
            save_table(&state, body.as_bytes(), url, 1_800_000_000).unwrap();
            let last = load_table(&state, Some(InfrastructureId(2))).unwrap().unwrap();
            assert_eq!(last.table.records, [record(2, 10, "0004ed123456", vli)]);
            assert_eq!((last.url.as_str(), last.fetched_at_secs), (url, 1_800_000_000));
        }
        let files: Vec<_> = fs::read_dir(&state).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(files, [STATE_FILE]);
    }

    #[test]
    fn damaged_and_foreign_files_are_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(STATE_FILE);
        save_table(directory.path(), TWO.as_bytes(), "u", 1).unwrap();
        let whole = fs::read(&path).unwrap();
        let later = String::from_utf8(whole.clone()).unwrap().replace("table 1", "table 2");
        for (bytes, expected) in [
            (&whole[..whole.len() - 3], "expected JSON: EOF"),
            (&whole[..10], "not a file of ixflow"),
            (b"", "not a file of ixflow"),
            (TWO.as_bytes(), "not a file of ixflow"),
            (later.as_bytes(), "not a file of ixflow"),
            (br#"{"format":"ixflow MAC table 1","table":[]}"#, "not whole"),
            (br#"{"format":"ixflow MAC table 1","url":"","fetched_at_secs":1}"#, "not whole"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = load_table(directory.path(), None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.ends_with("mac-table.json.bad"), "{error}");
            assert_eq!(fs::read(path.with_extension("json.bad")).unwrap(), bytes);
            assert_eq!(load_table(directory.path(), None).unwrap(), None);
        }
    }

    #[test]
    fn a_state_directory_that_is_none_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = save_table(&file, b"[]", "u", 1).unwrap_err().to_string();
        assert!(error.contains("file/mac-table.json: cannot make its directory: "), "{error}");
        let error = load_table(&file, None).unwrap_err().to_string();
        assert!(error.contains("mac-table.json: cannot be read: "), "{error}");
    }

    #[test]
    fn excerpts_fit_into_a_line() {
        assert_eq!(excerpt(b"<html>\r\n\t<p>\x1b[31m"), "<html> <p> [31m");
        assert_eq!(excerpt(&[b'a'; 201]), "a".repeat(200) + "...");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_mac_table(&bytes, None);
        }

        #[test]
        fn arbitrary_json_never_panics(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"1\"", "\"\"", "\"10\"", "1", "null", "-1",
                    "\"001122334455\"", "1e99", "true", "\"\\ud800\"", "\"\\u00e9\"",
                ]),
                0..40,
            ),
        ) {
            let _ = parse_mac_table(parts.concat().as_bytes(), None);
        }

        #[test]
        fn what_is_printed_parses_back(
            lines in proptest::collection::vec((0u32..4, 0u32..4095, 0u64..1 << 40, 1u32..), 0..40),
        ) {
            let mut expected = Vec::new();
            let mut text = Vec::new();
            for (infrastructure, vlan, mac, vli) in lines {
                let mac = format!("{mac:012x}");
                let tag = if vlan == 0 { String::new() } else { vlan.to_string() };
                text.push(format!(r#""{infrastructure}":{{"{tag}":{{"{mac}":{vli}}}}}"#));
                expected.push(record(infrastructure, vlan, &mac, vli));
            }
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(parse(&format!("{{{}}}", text.join(","))).records, expected);
        }
    }
}
