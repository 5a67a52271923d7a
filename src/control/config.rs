//! Settings: the `<ixp>` block of ixpmanager.conf, as a struct.
//!
//! [`KEYS`] and [`AGENT_KEYS`] are the only list of settings: what is read, what is suggested for
//! a misspelt key, what `--print-config` shows, and what ixpmanager.conf.example and
//! docs/settings.md must say. Keys of other programs, and whatever is outside of `<ixp>`, are left
//! alone; a key that starts with `sflow_` is ours, and must be known.
//!
//! A key without a value counts as absent, for the file that IXP Manager ships has several.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;
use subtle::ConstantTimeEq as _;

use super::api::{MacTableKind, Portal};
use super::general::{self, Body, Entry, Place};
use crate::agent::{DEFAULT_AGENTS_MAX, DEFAULT_DATA_SOURCES_MAX};
use crate::ixp::{InfrastructureId, IpPrefix, VlanTag};
use crate::receive::Spread;
use crate::resolve::{AgentPolicy, CorePorts, ScalingBy, VlanAlias};
use crate::sink::rrdcached::Address;
use crate::sink::{Aggregates, Create};
use crate::state::WRITERS_MAX;

/// The name of the file.
pub const FILE_NAME: &str = "ixpmanager.conf";

/// `sflow_rrddir`: where IXP Manager's documentation puts the files.
pub const DEFAULT_RRD_DIR: &str = "/data/ixpmatrix";
/// `sflow_rrdcached_socket`: what the incumbent has built in.
pub const DEFAULT_RRDCACHED_SOCKET: &str = "unix:/var/run/rrdcached.sock";
/// The port of `sflow_listen`: sFlow's, by IANA.
pub const DEFAULT_PORT: u16 = 6343;
/// `sflow_create_per_sec`: a sixth of what rrdcached writes to disk, and 30 MB of headers and inodes
/// a second; a fifth of the pairs of 1,000 members take less than three minutes.
pub const DEFAULT_CREATE_PER_SEC: u32 = 5_000;
/// `sflow_flush_secs`: one update per step of the files.
pub const DEFAULT_FLUSH_SECS: u32 = 300;
/// `sflow_statedir`.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/ixflow";
/// `sflow_api_interval_secs`: as often as the incumbent.
pub const DEFAULT_API_INTERVAL_SECS: u64 = 60;
/// `sflow_receive_buffer_bytes`: half a second of 100,000 datagrams a second of 1,300 bytes.
pub const DEFAULT_RECEIVE_BUFFER_BYTES: usize = 64 << 20;
/// `sflow_http_listen`: the TCP port of the number that sFlow has on UDP, on the loopback only.
pub const DEFAULT_HTTP_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);
/// Addresses in `sflow_http_listen` at the most.
pub const HTTP_LISTEN_MAX: usize = 16;
/// `sflow_metrics_pairs` at the most.
pub const METRICS_PAIRS_MAX: usize = 1_000;
/// `sflow_rrdcached_timeout_secs`: a journal of millions of files on cold disks takes minutes.
pub const DEFAULT_RRDCACHED_TIMEOUT_SECS: u64 = 600;
/// `sflow_memory_intervals`: a short restart of rrdcached needs no disk.
pub const DEFAULT_MEMORY_INTERVALS: usize = 4;
/// `sflow_spool_hours`.
pub const DEFAULT_SPOOL_HOURS: u64 = 24;
/// `sflow_spool_bytes`: 24 hours of 150,000 pairs.
pub const DEFAULT_SPOOL_BYTES: usize = 2 << 30;
/// `sflow_resend_secs`: more than what the rrdcached of the documentation holds back.
pub const DEFAULT_RESEND_SECS: u64 = 900;
/// `sflow_state_save_secs`: what a kill may cost.
pub const DEFAULT_STATE_SAVE_SECS: u64 = 60;
/// `sflow_workers` at the most.
pub const WORKERS_MAX: usize = 256;
/// Addresses in `sflow_listen` at the most.
pub const LISTEN_MAX: usize = 64;

/// Aliases in the `vlan_alias` of an agent at the most.
pub const VLAN_ALIASES_MAX: usize = 1_024;
/// Ports in the `core_ports` of an agent at the most.
pub const CORE_PORTS_MAX: usize = 4_096;

/// The settings of the daemon.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The file that was read; none for [`Config::default`].
    pub file: Option<PathBuf>,
    /// `apikey`: the key of IXP Manager's API. [`Config::portal`] demands it.
    pub api_key: Option<ApiKey>,
    /// `apibaseurl`: the address of the API. [`Config::portal`] demands it.
    pub api_base_url: Option<BaseUrl>,
    /// `macdbtype`: which MAC table.
    pub mac_table: MacTableKind,
    /// `sflow_infraid`: the only infrastructure to count; none for all.
    pub infrastructure: Option<InfrastructureId>,
    /// `sflow_api_interval_secs`: seconds between two fetches of the table.
    pub api_interval_secs: u64,
    /// `sflow_statedir`: where state is kept over a restart.
    pub state_dir: PathBuf,
    /// `sflow_rrddir`: the root of the RRD files.
    pub rrd_dir: PathBuf,
    /// `sflow_rrdcached`: who writes the files.
    pub rrdcached: RrdcachedUse,
    /// `sflow_rrdcached_socket`: where rrdcached listens; of several, each has a share of the files.
    pub rrdcached_sockets: Vec<Address>,
    /// `sflow_rrdcached_timeout_secs`: how long an answer of rrdcached is waited for.
    pub rrdcached_timeout_secs: u64,
    /// `sflow_flush_secs`: seconds between two updates of a file, a divisor of 300.
    pub flush_secs: u32,
    /// `sflow_memory_intervals`: waiting intervals that are held in memory too.
    pub memory_intervals: usize,
    /// `sflow_spool_hours`: age at which a waiting interval is given up.
    pub spool_hours: u64,
    /// `sflow_spool_bytes`: bytes of all intervals on disk.
    pub spool_bytes: usize,
    /// `sflow_resend_secs`: seconds for which a written interval is kept, to be given again.
    pub resend_secs: u64,
    /// `sflow_state_save_secs`: seconds between two savings of the open step.
    pub state_save_secs: u64,
    /// `sflow_create`: which files are made.
    pub create: Create,
    /// `sflow_aggregates`: whose aggregates have files.
    pub aggregates: Aggregates,
    /// `sflow_create_per_sec`: files that are made in a second, at the most.
    pub create_per_sec: u32,
    /// `sflow_listen`: addresses and UDP ports, each once. The default has both families, one
    /// socket each.
    pub listen: Vec<SocketAddr>,
    /// `sflow_workers`: receiving threads, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// `sflow_spread`: which worker reads a datagram.
    pub spread: Spread,
    /// `sflow_receive_buffer_bytes`: the receive buffer asked of the kernel for each socket, in
    /// bytes.
    pub receive_buffer_bytes: usize,
    /// `sflow_agents_allow`: source addresses whose datagrams are read; none: all.
    pub agents_allow: Vec<IpPrefix>,
    /// `sflow_scaling`: what a sample stands for.
    pub scaling: ScalingBy,
    /// `sflow_agents_max`: agents that are remembered.
    pub agents_max: usize,
    /// `sflow_data_sources_max`: data sources, of all agents, that are remembered.
    pub data_sources_max: usize,
    /// `sflow_http_listen`: addresses and TCP ports of the page, the metrics and the files; none:
    /// off.
    pub http_listen: Vec<SocketAddr>,
    /// `sflow_http_token`: what a request must carry.
    pub http_token: Option<HttpToken>,
    /// `sflow_metrics_pairs`: how many pairs the metrics have, those with most traffic.
    pub metrics_pairs: usize,
    /// `<sflow_agent ADDRESS>`: what is said of single agents, by agent address.
    pub agents: BTreeMap<IpAddr, AgentPolicy>,
    /// `debug`: whether to log more.
    pub debug: bool,
    /// What the owner of the file should be told: each a whole sentence, for a warning in the log.
    pub notices: Vec<String>,
}

impl Default for Config {
    /// The defaults, without a portal.
    fn default() -> Config {
        Config {
            file: None,
            api_key: None,
            api_base_url: None,
            mac_table: MacTableKind::Learned,
            infrastructure: None,
            api_interval_secs: DEFAULT_API_INTERVAL_SECS,
            state_dir: DEFAULT_STATE_DIR.into(),
            rrd_dir: DEFAULT_RRD_DIR.into(),
            rrdcached: RrdcachedUse::Auto,
            rrdcached_sockets: vec![Address::Unix(
                DEFAULT_RRDCACHED_SOCKET.trim_start_matches("unix:").into(),
            )],
            rrdcached_timeout_secs: DEFAULT_RRDCACHED_TIMEOUT_SECS,
            flush_secs: DEFAULT_FLUSH_SECS,
            memory_intervals: DEFAULT_MEMORY_INTERVALS,
            spool_hours: DEFAULT_SPOOL_HOURS,
            spool_bytes: DEFAULT_SPOOL_BYTES,
            resend_secs: DEFAULT_RESEND_SECS,
            state_save_secs: DEFAULT_STATE_SAVE_SECS,
            create: Create::OnTraffic,
            aggregates: Aggregates::Vlan,
            create_per_sec: DEFAULT_CREATE_PER_SEC,
            listen: vec![every_address(DEFAULT_PORT)],
            workers: std::thread::available_parallelism()
                .map_or(1, |cores| cores.get().min(WORKERS_MAX)),
            spread: Spread::Agent,
            receive_buffer_bytes: DEFAULT_RECEIVE_BUFFER_BYTES,
            agents_allow: Vec::new(),
            scaling: ScalingBy::default(),
            agents_max: DEFAULT_AGENTS_MAX,
            data_sources_max: DEFAULT_DATA_SOURCES_MAX,
            http_listen: vec![DEFAULT_HTTP_LISTEN],
            http_token: None,
            metrics_pairs: 0,
            agents: BTreeMap::new(),
            debug: false,
            notices: Vec::new(),
        }
    }
}

impl Config {
    /// Whether every rrdcached is on TCP, so that the tree may be on another host.
    pub fn rrdcached_is_elsewhere(&self) -> bool {
        self.rrdcached_sockets.iter().all(|address| matches!(address, Address::Tcp(..)))
    }

    /// Reads `path`, or without one the first that exists of `../etc/ixpmanager.conf` beside the
    /// program, `/usr/local/etc/ixpmanager.conf` and `/etc/ixpmanager.conf`, as IXP Manager's
    /// scripts do (IXPManager/Config.pm). `overrides` are texts `key=value`: each takes the place
    /// of what the file says for that key; a setting of one agent is named
    /// `sflow_agent.ADDRESS.KEY`.
    ///
    /// # Errors
    ///
    /// Every fault of the settings at once, or why there are none.
    pub fn load(path: Option<&Path>, overrides: &[String]) -> Result<Config, ConfigError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => {
                let searched = search_path();
                match searched.iter().find(|path| path.is_file()) {
                    Some(path) => path.clone(),
                    None => return Err(ConfigError::NotFound { searched }),
                }
            }
        };
        let bytes = read_limited(&path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let name = path.display().to_string();
        let mut config = Config::from_tree(
            &name,
            general::parse(&name, &bytes, &mut |path| read_limited(path))?,
            overrides,
        )?;
        config.file = Some(path);
        Ok(config)
    }

    /// Reads `text`, which messages call `name`. It cannot include files.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn from_text(name: &str, text: &str, overrides: &[String]) -> Result<Config, ConfigError> {
        let mut none = |_: &Path| Err(io::Error::other("files cannot be included here"));
        let tree = general::parse(name, text.as_bytes(), &mut none)?;
        Config::from_tree(name, tree, overrides)
    }

    fn from_tree(
        name: &str,
        tree: general::Tree,
        overrides: &[String],
    ) -> Result<Config, ConfigError> {
        let mut given = Given::default();
        let mut found = false;
        for entry in &tree.entries {
            if let Entry { name, body: Body::Block { label: None, entries }, .. } = entry
                && name == "ixp"
            {
                found = true;
                given.take_block(entries);
            }
        }
        if !found {
            return Err(ConfigError::NoBlock { file: name.to_owned() });
        }
        given.take_overrides(overrides);

        let mut config = Config { notices: tree.notices, ..Config::default() };
        given.apply(&mut config);
        if given.faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid(Faults(given.faults)))
        }
    }

    /// What it takes to fetch the MAC table.
    ///
    /// # Errors
    ///
    /// `apikey` or `apibaseurl` is missing.
    pub fn portal(&self) -> Result<Portal, ConfigError> {
        let missing = |key: &str| Fault::Missing {
            origin: self.file.as_ref().map_or("the settings".into(), |f| f.display().to_string()),
            key: key.to_owned(),
            expected: key_named(key).map_or("", |key| key.expected),
        };
        match (&self.api_key, &self.api_base_url) {
            (Some(key), Some(base_url)) => Ok(Portal {
                base_url: base_url.clone(),
                key: key.clone(),
                table: self.mac_table,
                infrastructure: self.infrastructure,
            }),
            (key, base_url) => {
                let key = key.is_none().then(|| missing("apikey"));
                let base_url = base_url.is_none().then(|| missing("apibaseurl"));
                Err(ConfigError::Invalid(Faults(key.into_iter().chain(base_url).collect())))
            }
        }
    }

    /// Names of the settings in which `new` differs, and which a running daemon cannot change.
    pub fn fixed_changes(&self, new: &Config) -> Vec<&'static str> {
        KEYS.iter()
            .filter(|key| !RELOADED.contains(&key.name) && (key.show)(self) != (key.show)(new))
            .map(|key| key.name)
            .collect()
    }

    /// The settings in force, for `--print-config`, as TOML. The API key, and a password in
    /// `apibaseurl`, are masked.
    pub fn to_toml(&self) -> String {
        let mut table = toml::Table::new();
        for key in KEYS {
            if let Some(value) = (key.show)(self) {
                table.insert(key.name.to_owned(), value);
            }
        }
        let mut agents = toml::Table::new();
        for (agent, policy) in &self.agents {
            let mut table = toml::Table::new();
            for key in AGENT_KEYS {
                if let Some(value) = (key.show)(policy) {
                    table.insert(key.name.to_owned(), value);
                }
            }
            agents.insert(agent.to_string(), table.into());
        }
        if !agents.is_empty() {
            table.insert(AGENT_BLOCK.to_owned(), agents.into());
        }
        table.to_string()
    }
}

/// Where the file is looked for, in this order.
fn search_path() -> Vec<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.parent()?.join("etc")));
    let directories = ["/usr/local/etc", "/etc"].map(PathBuf::from);
    beside.into_iter().chain(directories).map(|directory| directory.join(FILE_NAME)).collect()
}

/// Reads one byte more than the parser accepts, so that it can say so.
fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = general::FILE_BYTES_MAX as u64 + 1;
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no file.
    #[error("no {FILE_NAME}: looked for {}; name one with --config", Paths(.searched))]
    NotFound {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not whole.
    #[error(transparent)]
    Syntax(#[from] general::SyntaxError),
    /// The file is of another program.
    #[error("{file}: no <ixp> block: expected the file that IXP Manager's scripts use")]
    NoBlock {
        /// The file.
        file: String,
    },
    /// Settings are wrong or missing.
    #[error("{0}")]
    Invalid(Faults),
}

struct Paths<'a>(&'a [PathBuf]);

impl fmt::Display for Paths<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", path.display())?;
        }
        Ok(())
    }
}

/// Faults of the settings, each on a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// What is wrong with a setting.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A value that cannot be.
    #[error("{origin}: {key} = {value}: expected {expected}")]
    Value {
        /// File and line, or the option.
        origin: String,
        /// The key.
        key: String,
        /// The value, masked if it is secret.
        value: String,
        /// What can be.
        expected: &'static str,
    },
    /// A key that does not exist.
    #[error("{origin}: {key} is no setting of ixflow{}", DidYouMean(*.suggestion))]
    Unknown {
        /// File and line, or the option.
        origin: String,
        /// The key.
        key: String,
        /// The setting that has nearly that name.
        suggestion: Option<&'static str>,
    },
    /// A second value for a key that has one.
    #[error("{origin}: {key} has a value already, at {first}: expected one")]
    Repeated {
        /// File and line, or the option.
        origin: String,
        /// The key.
        key: String,
        /// Where the first one is.
        first: String,
    },
    /// A block where a value belongs, a value where a block belongs, or an override without `=`.
    #[error("{origin}: {found}: expected {expected}")]
    Form {
        /// File and line, or the option.
        origin: String,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// A setting without which it does not work.
    #[error("{origin}: {key} is missing in <ixp>: expected {expected}")]
    Missing {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// What it means.
        expected: &'static str,
    },
}

struct DidYouMean(Option<&'static str>);

impl fmt::Display for DidYouMean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, ": did you mean {name}?"),
            None => f.write_str("; docs/settings.md lists all"),
        }
    }
}

/// The key of the API. It shows itself to nobody but the one who asks for it by name.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// From its text, if it can be sent in a header: visible ASCII.
    pub fn new(text: &str) -> Option<ApiKey> {
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| ApiKey(text.to_owned()))
    }

    /// The secret itself, for the request only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// What a request to ixflow's own HTTP server must carry. It shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpToken(String);

impl HttpToken {
    /// From its text, if it can be sent in a header and is not guessed at once: at least 8
    /// characters of visible ASCII.
    pub fn new(text: &str) -> Option<HttpToken> {
        let fits = text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| HttpToken(text.to_owned()))
    }

    /// Whether `given` is the token, in a time that does not tell how much of it is right.
    pub fn accepts(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// The secret itself, for a request.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HttpToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// The address of the API. A user and password in it are sent, but shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl BaseUrl {
    /// The address with what is secret in it, for the request only.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    /// A slash at the end makes no difference.
    fn from_str(text: &str) -> Result<BaseUrl, BaseUrlError> {
        let mut url = Url::parse(text).map_err(|_| BaseUrlError)?;
        let fits = matches!(url.scheme(), "http" | "https") && url.has_host();
        if !fits || url.query().is_some() || url.fragment().is_some() {
            return Err(BaseUrlError);
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(BaseUrl(url))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        // Only an address without a host refuses, and there is none here.
        let masked = url.password().is_none() || url.set_password(Some(MASK)).is_ok();
        f.write_str(if masked { url.as_str() } else { MASK })
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the address of an API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected an http or https address without ? and #")]
pub struct BaseUrlError;

/// What is shown of a secret.
const MASK: &str = "***";

/// Who writes the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RrdcachedUse {
    /// rrdcached if its socket is there at the start, else as `Direct`.
    Auto,
    /// rrdcached (`sflow_rrdcached = 1`).
    Rrdcached,
    /// ixflow itself (`sflow_rrdcached = 0`).
    Direct,
}

/// A setting, of `T`: all that is said about it in one place.
pub struct Key<T> {
    /// The name in the file.
    pub name: &'static str,
    /// What its value can be.
    pub expected: &'static str,
    /// The value in the absence of one, as it would be in the file; empty for none.
    pub default: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// Whether it may be given several times.
    pub list: bool,
    set: fn(&mut T, &str) -> bool,
    show: fn(&T) -> Option<toml::Value>,
}

/// The name of the blocks about one agent.
pub const AGENT_BLOCK: &str = "sflow_agent";

const SECRET: &str = "apikey";

/// Settings whose values are shown to nobody.
const SECRETS: &[&str] = &[SECRET, "sflow_http_token"];

/// Settings that a running daemon takes over when it is told to reload; those of agents too.
pub const RELOADED: &[&str] = &[
    SECRET,
    "apibaseurl",
    OLD_MAC_TABLE,
    "macdbtype",
    "sflow_infraid",
    "sflow_api_interval_secs",
    "sflow_agents_allow",
    "sflow_scaling",
];

/// The settings of `<ixp>` that ixflow reads, in the order of the documentation.
pub const KEYS: &[Key<Config>] = &[
    Key {
        name: SECRET,
        expected: "an API key of IXP Manager",
        default: "",
        meaning: "Key of IXP Manager's API (in the portal: My Account, API Keys). Required. \
                  Never logged.",
        list: false,
        set: |config, text| keep(&mut config.api_key, ApiKey::new(text).map(Some)),
        show: |config| config.api_key.as_ref().map(|_| MASK.into()),
    },
    Key {
        name: "apibaseurl",
        expected: "the http or https address of IXP Manager's API, ending in /api/v4",
        default: "",
        meaning: "Address of IXP Manager's API, ending in `/api/v4` or `/admin/api/v4`. Required.",
        list: false,
        set: |config, text| keep(&mut config.api_base_url, text.parse().ok().map(Some)),
        show: |config| config.api_base_url.as_ref().map(|url| url.to_string().into()),
    },
    Key {
        name: OLD_MAC_TABLE,
        expected: "configured or discovered",
        default: "",
        meaning: "Old name of `macdbtype`, which has the last word if both are there.",
        list: false,
        set: |config, text| keep(&mut config.mac_table, mac_table(text)),
        // Shown under its name of today.
        show: |_| None,
    },
    Key {
        name: "macdbtype",
        expected: "configured or discovered",
        default: "discovered",
        meaning: "Which MAC addresses IXP Manager answers with: those configured on VLAN \
                  interfaces, or those that it discovered on the switches.",
        list: false,
        set: |config, text| keep(&mut config.mac_table, mac_table(text)),
        show: |config| Some(shown_mac_table(config.mac_table).into()),
    },
    Key {
        name: "sflow_infraid",
        expected: "the number of an infrastructure in IXP Manager's database",
        default: "",
        meaning: "Count this infrastructure only (its number in IXP Manager's database); \
                  all if absent.",
        list: false,
        set: |config, text| {
            keep(&mut config.infrastructure, text.parse().ok().map(|id| Some(InfrastructureId(id))))
        },
        show: |config| config.infrastructure.map(|InfrastructureId(id)| i64::from(id).into()),
    },
    Key {
        name: "sflow_api_interval_secs",
        expected: "seconds, 10 to 86400",
        default: "60",
        meaning: "Seconds between two fetches of the MAC table.",
        list: false,
        set: |config, text| keep(&mut config.api_interval_secs, number(text, 10..=86_400)),
        show: |config| Some(shown_number(config.api_interval_secs)),
    },
    Key {
        name: "sflow_statedir",
        expected: "a directory",
        default: DEFAULT_STATE_DIR,
        meaning: "Directory for what must survive a restart: the last good MAC table, what is \
                  counted and not written yet, and what was written lately. One daemon at a time \
                  can use it.",
        list: false,
        set: |config, text| keep(&mut config.state_dir, Some(text.into())),
        show: |config| Some(config.state_dir.display().to_string().into()),
    },
    Key {
        name: "sflow_rrddir",
        expected: "a directory",
        default: DEFAULT_RRD_DIR,
        meaning: "Root of the RRD files; made at the start, unless every rrdcached is on TCP.",
        list: false,
        set: |config, text| keep(&mut config.rrd_dir, Some(text.into())),
        show: |config| Some(config.rrd_dir.display().to_string().into()),
    },
    Key {
        name: "sflow_rrdcached",
        expected: "1 (through rrdcached), 0 (directly) or auto",
        default: "auto",
        meaning: "Write through rrdcached (`1`) or directly to the files (`0`); `auto` is \
                  rrdcached if its socket is there at the start.",
        list: false,
        set: |config, text| {
            let value = match text {
                "1" => Some(RrdcachedUse::Rrdcached),
                "0" => Some(RrdcachedUse::Direct),
                "auto" => Some(RrdcachedUse::Auto),
                _ => None,
            };
            keep(&mut config.rrdcached, value)
        },
        show: |config| {
            Some(match config.rrdcached {
                RrdcachedUse::Rrdcached => 1.into(),
                RrdcachedUse::Direct => 0.into(),
                RrdcachedUse::Auto => "auto".into(),
            })
        },
    },
    Key {
        name: "sflow_rrdcached_socket",
        expected: "unix:/path, /path or host:port, at most 16",
        default: DEFAULT_RRDCACHED_SOCKET,
        meaning: "Where rrdcached listens: a Unix socket, or a host and TCP port; several with \
                  commas or spaces, or in several lines: each has a share of the files then.",
        list: true,
        set: |config, text| {
            every_word(text, |word| {
                word.parse().is_ok_and(|address| {
                    if !config.rrdcached_sockets.contains(&address) {
                        config.rrdcached_sockets.push(address);
                    }
                    config.rrdcached_sockets.len() <= WRITERS_MAX
                })
            })
        },
        show: |config| Some(shown_list(&config.rrdcached_sockets)),
    },
    Key {
        name: "sflow_rrdcached_timeout_secs",
        expected: "seconds, 1 to 86400",
        default: "600",
        meaning: "How long an answer of rrdcached is waited for, in seconds: longer than it needs \
                  to replay its journal.",
        list: false,
        set: |config, text| keep(&mut config.rrdcached_timeout_secs, number(text, 1..=86_400)),
        show: |config| Some(shown_number(config.rrdcached_timeout_secs)),
    },
    Key {
        name: "sflow_flush_secs",
        expected: "a divisor of 300, at least 10 (seconds)",
        default: "300",
        meaning: "Seconds between two updates of the files: a divisor of their step, 300, and \
                  at least 10.",
        list: false,
        set: |config, text| {
            keep(&mut config.flush_secs, number(text, 10..=300).filter(|secs| 300 % secs == 0))
        },
        show: |config| Some(shown_number(config.flush_secs)),
    },
    Key {
        name: "sflow_create",
        expected: "on-traffic or all",
        default: "on-traffic",
        meaning: "Make the files of a pair when it first speaks (`on-traffic`), or those of all \
                  pairs at once (`all`: 740 kB a pair).",
        list: false,
        set: |config, text| {
            let value = match text {
                "on-traffic" => Some(Create::OnTraffic),
                "all" => Some(Create::All),
                _ => None,
            };
            keep(&mut config.create, value)
        },
        show: |config| {
            Some(match config.create {
                Create::OnTraffic => "on-traffic".into(),
                Create::All => "all".into(),
            })
        },
    },
    Key {
        name: "sflow_aggregates",
        expected: "vlan or infrastructure",
        default: "vlan",
        meaning: "Keep one aggregate for each VLAN tag (`vlan`), or beside it one for each \
                  infrastructure on each of its VLANs (`infrastructure`), which two that use one \
                  tag do not share; the portal reads the first alone.",
        list: false,
        set: |config, text| {
            let value = match text {
                "vlan" => Some(Aggregates::Vlan),
                "infrastructure" => Some(Aggregates::Infrastructure),
                _ => None,
            };
            keep(&mut config.aggregates, value)
        },
        show: |config| {
            Some(match config.aggregates {
                Aggregates::Vlan => "vlan".into(),
                Aggregates::Infrastructure => "infrastructure".into(),
            })
        },
    },
    Key {
        name: "sflow_state_save_secs",
        expected: "seconds, 1 to 3600",
        default: "60",
        meaning: "Seconds between two savings of what is counted since the last boundary: what a \
                  kill can cost.",
        list: false,
        set: |config, text| keep(&mut config.state_save_secs, number(text, 1..=3_600)),
        show: |config| Some(shown_number(config.state_save_secs)),
    },
    Key {
        name: "sflow_memory_intervals",
        expected: "a number, 1 to 1000",
        default: "4",
        meaning: "While rrdcached or the disk is away, so many intervals wait in memory; further \
                  ones on disk alone.",
        list: false,
        set: |config, text| keep(&mut config.memory_intervals, number(text, 1..=1_000)),
        show: |config| Some(shown_number(config.memory_intervals)),
    },
    Key {
        name: "sflow_spool_hours",
        expected: "hours, 1 to 720",
        default: "24",
        meaning: "What waits for longer than so many hours is given up, oldest first.",
        list: false,
        set: |config, text| keep(&mut config.spool_hours, number(text, 1..=720)),
        show: |config| Some(shown_number(config.spool_hours)),
    },
    Key {
        name: "sflow_spool_bytes",
        expected: "bytes, 1M to 1024G, perhaps with k, M or G",
        default: "2G",
        meaning: "Bytes of all intervals on disk at the most; beyond, the oldest is given up.",
        list: false,
        set: |config, text| keep(&mut config.spool_bytes, bytes(text, 1 << 20..=1 << 40)),
        show: |config| Some(shown_number(config.spool_bytes)),
    },
    Key {
        name: "sflow_resend_secs",
        expected: "seconds, 0 to 86400",
        default: "900",
        meaning: "Seconds for which intervals are kept after they were written, to give them \
                  again to an rrdcached that was killed: with a journal the default, without one \
                  its `-w` plus `-z` and a step.",
        list: false,
        set: |config, text| keep(&mut config.resend_secs, number(text, 0..=86_400)),
        show: |config| Some(shown_number(config.resend_secs)),
    },
    Key {
        name: "sflow_create_per_sec",
        expected: "a number, 1 to 1000000",
        default: "5000",
        meaning: "Files that are made in a second, at the most, beside the updates; what new pairs \
                  exchange meanwhile waits.",
        list: false,
        set: |config, text| keep(&mut config.create_per_sec, number(text, 1..=1_000_000)),
        show: |config| Some(shown_number(config.create_per_sec)),
    },
    Key {
        name: "sflow_listen",
        expected: "addresses and ports as 192.0.2.1:6343 [::]:6343, at most 64",
        default: "[::]:6343",
        meaning: "Where sFlow comes in: address and UDP port, or one of them alone; several with \
                  commas or spaces, or in several lines. `[::]` takes IPv4 too, unless an IPv4 \
                  address with the same port is listed.",
        list: true,
        set: |config, text| {
            every_word(text, |word| {
                listen(word).into_iter().flatten().fold(false, |_, address| {
                    if !config.listen.contains(&address) {
                        config.listen.push(address);
                    }
                    config.listen.len() <= LISTEN_MAX
                })
            })
        },
        show: |config| Some(shown_list(&config.listen)),
    },
    Key {
        name: "sflow_workers",
        expected: "a number, 1 to 256",
        default: "",
        meaning: "Threads that receive and count; one for each core if absent.",
        list: false,
        set: |config, text| keep(&mut config.workers, number(text, 1..=WORKERS_MAX)),
        show: |config| Some(shown_number(config.workers)),
    },
    Key {
        name: "sflow_spread",
        expected: "agent or datagram",
        default: "agent",
        meaning: "Which thread reads what: all datagrams of an agent the same one (`agent`), or \
                  each the next one (`datagram`; Linux only), for fabrics with fewer agents than \
                  busy threads.",
        list: false,
        set: |config, text| {
            let value = match text {
                "agent" => Some(Spread::Agent),
                "datagram" => Some(Spread::Datagram),
                _ => None,
            };
            keep(&mut config.spread, value)
        },
        show: |config| {
            Some(match config.spread {
                Spread::Agent => "agent".into(),
                Spread::Datagram => "datagram".into(),
            })
        },
    },
    Key {
        name: "sflow_receive_buffer_bytes",
        expected: "bytes, 64k to 1G, perhaps with k, M or G",
        default: "64M",
        meaning: "Receive buffer of each socket in bytes; `k`, `M` and `G` are powers of 1024.",
        list: false,
        set: |config, text| keep(&mut config.receive_buffer_bytes, bytes(text, 64 << 10..=1 << 30)),
        show: |config| Some(shown_number(config.receive_buffer_bytes)),
    },
    Key {
        name: "sflow_agents_allow",
        expected: "IP prefixes as 192.0.2.0/24 2001:db8::/32, without host bits",
        default: "",
        meaning: "Source addresses that may send sFlow: prefixes or addresses, several with \
                  commas or spaces, or in several lines; everyone if absent.",
        list: true,
        set: |config, text| {
            every_word(text, |word| {
                word.parse().is_ok_and(|prefix| {
                    config.agents_allow.push(prefix);
                    true
                })
            })
        },
        show: |config| Some(shown_list(&config.agents_allow)),
    },
    Key {
        name: "sflow_scaling",
        expected: "rate or pool",
        default: "rate",
        meaning: "What a sample stands for: its sampling rate (`rate`), or as many packets as its \
                  data source's `sample_pool` has grown by (`pool`), which repairs what is dropped \
                  and lost, where the pool proves itself.",
        list: false,
        set: |config, text| keep(&mut config.scaling, text.parse().ok()),
        show: |config| Some(config.scaling.name().into()),
    },
    Key {
        name: "sflow_agents_max",
        expected: "a number, 1 to 1000000",
        default: "4096",
        meaning: "Agents that are remembered at the most; the samples of others count, but \
                  nothing is said about them. Where all places are taken, an agent that was silent \
                  for an hour gives its place to another one.",
        list: false,
        set: |config, text| keep(&mut config.agents_max, number(text, 1..=1_000_000)),
        show: |config| Some(shown_number(config.agents_max)),
    },
    Key {
        name: "sflow_data_sources_max",
        expected: "a number, 1 to 16000000",
        default: "65536",
        meaning: "Data sources, of all agents together, that are remembered at the most.",
        list: false,
        set: |config, text| keep(&mut config.data_sources_max, number(text, 1..=16_000_000)),
        show: |config| Some(shown_number(config.data_sources_max)),
    },
    Key {
        name: "sflow_http_listen",
        expected: "addresses and ports as 127.0.0.1:6343 [::1]:6343, at most 16, or off",
        default: "127.0.0.1:6343",
        meaning: "Where the live page, the metrics and the RRD files are served over HTTP: IP \
                  address and TCP port; several with commas or spaces, or in several lines; \
                  `off` for nowhere. There is no TLS: leave it on the loopback behind a reverse \
                  proxy.",
        list: true,
        set: |config, text| {
            if text == "off" {
                // That it stands alone is seen to where all values are at hand.
                return true;
            }
            every_word(text, |word| {
                word.parse().is_ok_and(|address| {
                    if !config.http_listen.contains(&address) {
                        config.http_listen.push(address);
                    }
                    config.http_listen.len() <= HTTP_LISTEN_MAX
                })
            })
        },
        show: |config| {
            Some(match config.http_listen.as_slice() {
                [] => "off".into(),
                listen => shown_list(listen),
            })
        },
    },
    Key {
        name: "sflow_http_token",
        expected: "at least 8 characters of visible ASCII",
        default: "",
        meaning: "What requests to `sflow_http_listen` must carry as `Authorization: Bearer ...`; \
                  all are answered if absent. `/`, `/healthz` and `/readyz` hold no figures and \
                  need none. Never logged.",
        list: false,
        set: |config, text| keep(&mut config.http_token, HttpToken::new(text).map(Some)),
        show: |config| config.http_token.as_ref().map(|_| MASK.into()),
    },
    Key {
        name: "sflow_metrics_pairs",
        expected: "top:N with N from 1 to 1000, or none",
        default: "none",
        meaning: "Rates of the N pairs with most traffic in `/metrics` (`top:N`), or of `none`: \
                  every pair that was ever among them is a series in Prometheus.",
        list: false,
        set: |config, text| {
            let value = match text {
                "none" => Some(0),
                text => {
                    text.strip_prefix("top:").and_then(|top| number(top, 1..=METRICS_PAIRS_MAX))
                }
            };
            keep(&mut config.metrics_pairs, value)
        },
        show: |config| {
            Some(match config.metrics_pairs {
                0 => "none".into(),
                pairs => format!("top:{pairs}").into(),
            })
        },
    },
    Key {
        name: "debug",
        expected: "0 or 1",
        default: "0",
        meaning: "Log more (`1`).",
        list: false,
        set: |config, text| keep(&mut config.debug, number::<u8>(text, 0..=1).map(|on| on == 1)),
        show: |config| Some(i64::from(config.debug).into()),
    },
    Key {
        name: "sflowtool",
        expected: "anything",
        default: "",
        meaning: "Ignored: ixflow needs no sflowtool.",
        list: false,
        set: |_, _| true,
        show: |_| None,
    },
    Key {
        name: "sflowtool_opts",
        expected: "options of sflowtool, with a port behind -p",
        default: "",
        meaning: "Ignored, but for `-p PORT`, `-4` and `-6`, which stand in for an absent \
                  `sflow_listen`.",
        list: false,
        set: |_, text| sflowtool_listen(text).is_some(),
        show: |_| None,
    },
];

/// The settings of a block `<sflow_agent ADDRESS>`.
pub const AGENT_KEYS: &[Key<AgentPolicy>] = &[
    Key {
        name: "sampling_rate",
        expected: "a number, 1 to 4294967295",
        default: "",
        meaning: "One packet in so many is sampled, whatever the agent's samples say.",
        list: false,
        set: |policy, text| keep(&mut policy.sampling_rate, number(text, 1..=u32::MAX).map(Some)),
        show: |policy| policy.sampling_rate.map(|rate| i64::from(rate).into()),
    },
    Key {
        name: "scaling",
        expected: "rate or pool",
        default: "",
        meaning: "As `sflow_scaling`, which holds if absent.",
        list: false,
        set: |policy, text| keep(&mut policy.scaling, text.parse().ok().map(Some)),
        show: |policy| policy.scaling.map(|scaling| scaling.name().into()),
    },
    Key {
        name: "direction",
        expected: "ingress, egress, both or none",
        default: "ingress",
        meaning: "Which samples count: those taken where packets come in, those where they go \
                  out, or `both` for an agent whose samples do not say; `none` for an agent that \
                  another one repeats.",
        list: false,
        set: |policy, text| keep(&mut policy.direction, text.parse().ok()),
        show: |policy| Some(policy.direction.name().into()),
    },
    Key {
        name: "vlan_alias",
        expected: "FROM=TO or IFINDEX:FROM=TO, VLANs from 1 to 4094, each port and FROM once",
        default: "",
        meaning: "VLANs that ports translate: what a frame calls FROM is the peering VLAN TO, at \
                  one port (its ifIndex) or at all; several with commas or spaces, or in several \
                  lines.",
        list: true,
        set: |policy, text| {
            every_word(text, |word| {
                word.parse::<VlanAlias>().is_ok_and(|alias| {
                    let same = |a: &VlanAlias| (a.if_index, a.from) == (alias.if_index, alias.from);
                    let fits = !policy.vlan_aliases.iter().any(same)
                        && policy.vlan_aliases.len() < VLAN_ALIASES_MAX;
                    policy.vlan_aliases.push(alias);
                    fits
                })
            })
        },
        show: |policy| shown_some(&policy.vlan_aliases),
    },
    Key {
        name: "untagged_vlan",
        expected: "a VLAN, 1 to 4094",
        default: "",
        meaning: "VLAN of the frames of which neither a tag nor the switch says one; if absent, \
                  the one VLAN on which both ends are known.",
        list: false,
        set: |policy, text| {
            keep(&mut policy.untagged_vlan, number(text, 1..=4_094).map(|n| Some(VlanTag::new(n))))
        },
        show: |policy| policy.untagged_vlan.map(|vlan| i64::from(vlan.as_u16()).into()),
    },
    Key {
        name: "infrastructure",
        expected: "the number of an infrastructure in IXP Manager's database",
        default: "",
        meaning: "The infrastructure that the agent belongs to: settles VLANs and MAC addresses \
                  that several have.",
        list: false,
        set: |policy, text| {
            keep(&mut policy.infrastructure, text.parse().ok().map(|id| Some(InfrastructureId(id))))
        },
        show: |policy| policy.infrastructure.map(|InfrastructureId(id)| i64::from(id).into()),
    },
    Key {
        name: "decapsulate",
        expected: "vxlan, vxlan:PORT, mpls or pbb, several with spaces",
        default: "",
        meaning: "Count the Ethernet frame inside of VXLAN (UDP port 4789 or PORT), MPLS or \
                  802.1ah, unless the outer one is between members itself; several with commas \
                  or spaces.",
        list: true,
        set: |policy, text| every_word(text, |word| policy.decapsulate.add(word)),
        show: |policy| shown_some(&policy.decapsulate.words()),
    },
    Key {
        name: "core_ports",
        expected: "report, auto, off, or ifIndexes",
        default: "report",
        meaning: "Links between switches, whose samples count packets a second time: find and \
                  `report` them; find them and leave their samples out (`auto`); do not look for \
                  them (`off`); or leave out those of the ports listed, with commas or spaces.",
        list: false,
        set: |policy, text| {
            let value = match text {
                "report" => Some(CorePorts::Report),
                "auto" => Some(CorePorts::Auto),
                "off" => Some(CorePorts::Off),
                _ => {
                    let mut ports = Vec::new();
                    let fits = every_word(text, |word| {
                        word.parse().is_ok_and(|port: u32| {
                            ports.push(port);
                            ports.len() <= CORE_PORTS_MAX
                        })
                    });
                    ports.sort_unstable();
                    ports.dedup();
                    fits.then(|| CorePorts::List(ports.into()))
                }
            };
            keep(&mut policy.core_ports, value)
        },
        show: |policy| {
            Some(match &policy.core_ports {
                CorePorts::Report => "report".into(),
                CorePorts::Auto => "auto".into(),
                CorePorts::Off => "off".into(),
                CorePorts::List(ports) => shown_list(ports),
            })
        },
    },
];

const OLD_MAC_TABLE: &str = "sflow_macdbtype";

fn key_named(name: &str) -> Option<&'static Key<Config>> {
    KEYS.iter().find(|key| key.name == name)
}

/// Characters of a name that may be a misspelt one of ours: the comparison takes time for every
/// pair of characters, and a longer name is too far from any of ours.
const MISSPELT_MAX: usize = 64;

/// The name that `name` was probably meant to be.
fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    if name.chars().nth(MISSPELT_MAX).is_some() {
        return None;
    }
    let similarity = |candidate: &str| strsim::normalized_damerau_levenshtein(name, candidate);
    names
        .map(|candidate| (similarity(candidate), candidate))
        .filter(|&(similarity, _)| similarity >= 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

fn keep<V>(place: &mut V, value: Option<V>) -> bool {
    value.map(|value| *place = value).is_some()
}

fn number<N: FromStr + PartialOrd>(text: &str, range: RangeInclusive<N>) -> Option<N> {
    text.parse().ok().filter(|number| range.contains(number))
}

fn bytes(text: &str, range: RangeInclusive<usize>) -> Option<usize> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<usize>().ok()?.checked_mul(1 << shift)?;
    range.contains(&number).then_some(number)
}

/// Whether `take` takes every word of a list, and there is one: a list of separators alone is no
/// absent value, and must not stand for "nowhere" or "everyone".
fn every_word(text: &str, take: impl FnMut(&str) -> bool) -> bool {
    let mut words = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty()).peekable();
    words.peek().is_some() && words.all(take)
}

fn mac_table(text: &str) -> Option<MacTableKind> {
    match text {
        "configured" => Some(MacTableKind::Configured),
        "discovered" => Some(MacTableKind::Learned),
        _ => None,
    }
}

fn shown_mac_table(table: MacTableKind) -> &'static str {
    match table {
        MacTableKind::Configured => "configured",
        MacTableKind::Learned => "discovered",
    }
}

/// What hears everything: an IPv6 socket that takes IPv4 too.
fn every_address(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
}

fn listen(word: &str) -> Option<Vec<SocketAddr>> {
    if let Ok(address) = word.parse() {
        return Some(vec![address]);
    }
    if let Ok(port) = word.strip_prefix("*:").unwrap_or(word).parse() {
        return Some(vec![every_address(port)]);
    }
    let address = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
    match address.parse() {
        Ok(address) => Some(vec![SocketAddr::new(address, DEFAULT_PORT)]),
        Err(_) => (word == "*").then(|| vec![every_address(DEFAULT_PORT)]),
    }
}

/// Where sflowtool would listen with these options: -p, and one of -4 and -6 for one family.
fn sflowtool_listen(options: &str) -> Option<Vec<SocketAddr>> {
    let (mut port, mut v4, mut v6) = (DEFAULT_PORT, false, false);
    let mut words = options.split_ascii_whitespace();
    while let Some(word) = words.next() {
        match word {
            "-4" => v4 = true,
            "-6" => v6 = true,
            "-p" => port = number(words.next()?, 1..=u16::MAX)?,
            _ => {
                if let Some(digits) = word.strip_prefix("-p") {
                    port = number(digits, 1..=u16::MAX)?;
                }
            }
        }
    }
    let v4_alone = v4 && !v6;
    Some(vec![if v4_alone {
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
    } else {
        every_address(port)
    }])
}

fn shown_number<N: TryInto<i64>>(number: N) -> toml::Value {
    // Every number of the settings has a limit far below 2^63.
    toml::Value::Integer(number.try_into().unwrap_or(i64::MAX))
}

/// A list, unless it is empty.
fn shown_some<T: fmt::Display>(list: &[T]) -> Option<toml::Value> {
    (!list.is_empty()).then(|| shown_list(list))
}

fn shown_list<T: fmt::Display>(list: &[T]) -> toml::Value {
    toml::Value::Array(list.iter().map(|item| item.to_string().into()).collect())
}

/// One value as it was given.
struct GivenValue {
    origin: String,
    text: String,
}

/// Everything that was given, before it is a [`Config`], and what is wrong with it.
#[derive(Default)]
struct Given {
    values: BTreeMap<&'static str, Vec<GivenValue>>,
    agents: BTreeMap<IpAddr, BTreeMap<&'static str, Vec<GivenValue>>>,
    /// Keys of others that look like ours.
    strangers: Vec<(String, String)>,
    notices: Vec<String>,
    faults: Vec<Fault>,
}

impl Given {
    fn take_block(&mut self, entries: &[Entry]) {
        for Entry { name, place, body } in entries {
            match (key_named(name), body) {
                (Some(key), Body::Value { text, cut }) => {
                    self.notice_cut(place, key.name, *cut);
                    let value = GivenValue { origin: place.to_string(), text: text.clone() };
                    self.values.entry(key.name).or_default().push(value);
                }
                (Some(key), Body::Block { .. }) => self.faults.push(Fault::Form {
                    origin: place.to_string(),
                    found: format!("<{name}>"),
                    expected: format!("{name} = {}", key.expected),
                }),
                (None, Body::Block { label, entries }) if name == AGENT_BLOCK => {
                    self.take_agent(place, label.as_deref(), entries);
                }
                (None, Body::Value { .. }) if name == AGENT_BLOCK => {
                    self.faults.push(Fault::Form {
                        origin: place.to_string(),
                        found: format!("{name} without a block"),
                        expected: format!("<{AGENT_BLOCK} ADDRESS> ... </{AGENT_BLOCK}>"),
                    });
                }
                (None, _) if name.starts_with("sflow_") => {
                    self.faults.push(unknown(&place.to_string(), name));
                }
                (None, _) => self.strangers.push((name.clone(), place.to_string())),
            }
        }
    }

    fn take_agent(&mut self, place: &Place, label: Option<&str>, entries: &[Entry]) {
        let Some(agent) = label.and_then(|label| label.parse::<IpAddr>().ok()) else {
            self.faults.push(Fault::Form {
                origin: place.to_string(),
                found: format!("<{AGENT_BLOCK} {}>", excerpt(label.unwrap_or_default())),
                expected: format!("<{AGENT_BLOCK} ADDRESS>, an IPv4 or IPv6 agent address"),
            });
            return;
        };
        self.agents.entry(agent).or_default();
        for Entry { name, place, body } in entries {
            match body {
                Body::Value { text, cut } => {
                    let value = GivenValue { origin: place.to_string(), text: text.clone() };
                    if let Some(key) = self.agent_value(agent, name, value, false) {
                        self.notice_cut(place, key, *cut);
                    }
                }
                Body::Block { .. } => self.faults.push(Fault::Form {
                    origin: place.to_string(),
                    found: format!("<{name}>"),
                    expected: "no block here".to_owned(),
                }),
            }
        }
    }

    fn agent_value(
        &mut self,
        agent: IpAddr,
        name: &str,
        value: GivenValue,
        replace: bool,
    ) -> Option<&'static str> {
        let Some(key) = AGENT_KEYS.iter().find(|key| key.name == name) else {
            self.faults.push(Fault::Unknown {
                origin: value.origin,
                key: name.to_owned(),
                suggestion: nearest(name, AGENT_KEYS.iter().map(|key| key.name)),
            });
            return None;
        };
        let values = self.agents.entry(agent).or_default().entry(key.name).or_default();
        if replace {
            values.clear();
        }
        values.push(value);
        Some(key.name)
    }

    fn take_overrides(&mut self, overrides: &[String]) {
        let mut replaced = Vec::new();
        for text in overrides {
            let Some((name, text)) = text.split_once('=') else {
                self.faults.push(Fault::Form {
                    origin: "--set".to_owned(),
                    found: excerpt(text),
                    expected: "key=value".to_owned(),
                });
                continue;
            };
            let name = name.trim().to_lowercase();
            let value = GivenValue { origin: "--set".to_owned(), text: text.trim().to_owned() };
            if let Some(key) = key_named(&name) {
                let values = self.values.entry(key.name).or_default();
                // The first takes the place of the file's; a list may go on.
                if !replaced.contains(&key.name) {
                    replaced.push(key.name);
                    values.clear();
                }
                values.push(value);
                continue;
            }
            let agent = name.strip_prefix(AGENT_BLOCK).and_then(|rest| {
                let (agent, key) = rest.strip_prefix('.')?.rsplit_once('.')?;
                Some((agent.parse::<IpAddr>().ok()?, key))
            });
            match agent {
                Some((agent, key)) => {
                    self.agent_value(agent, key, value, true);
                }
                None if name.starts_with(AGENT_BLOCK) => self.faults.push(Fault::Form {
                    origin: "--set".to_owned(),
                    found: excerpt(&name),
                    expected: format!("{AGENT_BLOCK}.ADDRESS.KEY=VALUE"),
                }),
                None => self.faults.push(unknown("--set", &name)),
            }
        }
    }

    /// What was behind the `#` may have been meant as part of the value; it is not shown, for it
    /// may be half a password.
    fn notice_cut(&mut self, place: &Place, key: &str, cut: bool) {
        if cut {
            self.notices.push(format!(
                "{place}: the value of {key} ends at the #, as IXP Manager's scripts read it: \
                 write \\# if it belongs to the value"
            ));
        }
    }

    fn apply(&mut self, config: &mut Config) {
        for values in self
            .values
            .values_mut()
            .chain(self.agents.values_mut().flat_map(|agent| agent.values_mut()))
        {
            values.retain(|value| !value.text.is_empty());
        }
        self.values.retain(|_, values| !values.is_empty());
        self.apply_notices(config);

        if let Some(values) = self.values.get_mut("sflow_http_listen") {
            config.http_listen.clear();
            // Before an address or behind it: one of the two is not meant.
            if values.iter().any(|value| value.text != "off") {
                let faults = &mut self.faults;
                values.retain(|GivenValue { origin, text }| {
                    if text == "off" {
                        faults.push(Fault::Value {
                            origin: origin.clone(),
                            key: "sflow_http_listen".into(),
                            value: text.clone(),
                            expected: "off alone, or addresses without it",
                        });
                    }
                    text != "off"
                });
            }
        }
        if self.values.contains_key("sflow_rrdcached_socket") {
            config.rrdcached_sockets.clear();
        }
        if self.values.contains_key("sflow_listen") {
            config.listen.clear();
        } else if let Some(listen) =
            self.values.get("sflowtool_opts").and_then(|given| sflowtool_listen(&given[0].text))
        {
            config.listen = listen;
        }
        // In the order of KEYS, where the old name of a key is before the new one, which so has the
        // last word.
        for key in KEYS {
            if let Some(values) = self.values.get(key.name) {
                set(key, values, config, &mut self.faults);
            }
        }
        for (agent, values) in &self.agents {
            let mut policy = AgentPolicy::default();
            for key in AGENT_KEYS {
                if let Some(values) = values.get(key.name) {
                    set(key, values, &mut policy, &mut self.faults);
                }
            }
            config.agents.insert(*agent, policy);
        }
    }

    fn apply_notices(&mut self, config: &mut Config) {
        config.notices.append(&mut self.notices);
        if let Some(given) = self.values.get(OLD_MAC_TABLE) {
            let origin = &given[0].origin;
            let goes = match self.values.get("macdbtype") {
                Some(new) => format!("macdbtype at {} has the last word", new[0].origin),
                None => "it is read, but rename it".to_owned(),
            };
            let notice = format!("{origin}: {OLD_MAC_TABLE} is the old name of macdbtype: {goes}");
            config.notices.push(notice);
        }
        let sflowtool = self.values.get("sflowtool").or(self.values.get("sflowtool_opts"));
        if let Some(given) = sflowtool {
            config.notices.push(format!(
                "{}: sflowtool and sflowtool_opts are ignored, for ixflow receives sFlow itself; \
                 only -p, -4 and -6 are honoured, where sflow_listen is absent",
                given[0].origin
            ));
        }
        for (name, origin) in &self.strangers {
            // Keys of ours without our prefix: a misspelling is nobody's error, but worth a word.
            let ours = KEYS.iter().map(|key| key.name).filter(|name| !name.starts_with("sflow_"));
            let ours = ours.filter(|name| !self.values.contains_key(name));
            if let Some(meant) = nearest(name, ours)
                && strsim::damerau_levenshtein(name, meant) <= 2
            {
                config.notices.push(format!("{origin}: did you mean {meant} by {name}?"));
            }
        }
    }
}

fn set<T>(key: &Key<T>, values: &[GivenValue], target: &mut T, faults: &mut Vec<Fault>) {
    for (index, GivenValue { origin, text }) in values.iter().enumerate() {
        if index > 0 && !key.list {
            faults.push(Fault::Repeated {
                origin: origin.clone(),
                key: key.name.to_owned(),
                first: values[0].origin.clone(),
            });
        } else if !(key.set)(target, text) {
            faults.push(Fault::Value {
                origin: origin.clone(),
                key: key.name.to_owned(),
                value: if SECRETS.contains(&key.name) { MASK.to_owned() } else { excerpt(text) },
                expected: key.expected,
            });
        }
    }
}

fn unknown(origin: &str, name: &str) -> Fault {
    let names = KEYS.iter().map(|key| key.name).chain([AGENT_BLOCK]);
    Fault::Unknown {
        origin: origin.to_owned(),
        key: excerpt(name),
        suggestion: nearest(name, names),
    }
}

/// The start of a text, on one line, without the user and password of an address.
fn excerpt(text: &str) -> String {
    let secret = match (text.find("//"), text.rfind('@')) {
        (Some(start), Some(end)) if start < end => Some((start + 2, end)),
        _ => None,
    };
    let text = match secret {
        Some((start, end)) => [&text[..start], MASK, &text[end..]].concat(),
        None => text.to_owned(),
    };
    let mut start: String = text.chars().take(80).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start.replace(|character: char| character.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documented_defaults_are_the_defaults() {
        let empty = Config::from_text("t.conf", "<ixp>\n</ixp>", &[]).unwrap();
        assert_eq!(empty, Config::default());
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            let text = format!("<ixp>\n{} = {}\n</ixp>", key.name, key.default);
            let config = Config::from_text("t.conf", &text, &[]).unwrap();
            assert_eq!(config, Config::default(), "{}", key.name);
        }
        for key in AGENT_KEYS {
            let text = format!("<ixp>\n<sflow_agent ::1>\n{} {}", key.name, key.default);
            let text = text + "\n</sflow_agent>\n</ixp>";
            let config = Config::from_text("t.conf", &text, &[]).unwrap();
            assert_eq!(config.agents[&Ipv6Addr::LOCALHOST.into()], AgentPolicy::default());
        }
    }

    #[test]
    fn the_file_is_looked_for_where_the_incumbent_looks() {
        let etc = std::env::current_exe().unwrap().parent().unwrap().with_file_name("etc");
        let searched = search_path();
        assert_eq!(searched[0], etc.join("ixpmanager.conf"));
        let fixed = ["/usr/local/etc/ixpmanager.conf", "/etc/ixpmanager.conf"];
        assert_eq!(searched[1..], fixed.map(PathBuf::from));
        let error = ConfigError::NotFound { searched: fixed.map(PathBuf::from).into() };
        assert_eq!(
            error.to_string(),
            "no ixpmanager.conf: looked for /usr/local/etc/ixpmanager.conf, \
             /etc/ixpmanager.conf; name one with --config"
        );
    }

    #[test]
    fn listen_words() {
        let one = |text: &str| vec![text.parse().unwrap()];
        for (word, expected) in [
            ("192.0.2.1:7000", one("192.0.2.1:7000")),
            ("[::]:6343", one("[::]:6343")),
            ("[2001:db8::1]", one("[2001:db8::1]:6343")),
            ("2001:db8::1", one("[2001:db8::1]:6343")),
            ("192.0.2.1", one("192.0.2.1:6343")),
            ("7000", vec![every_address(7000)]),
            ("*:7000", vec![every_address(7000)]),
            ("*", vec![every_address(6343)]),
        ] {
            assert_eq!(listen(word), Some(expected), "{word}");
        }
        for word in ["", "localhost", "65536", "192.0.2.1:", "192.0.2", ":6343", "[::]6343"] {
            assert_eq!(listen(word), None, "{word}");
        }
    }

    #[test]
    fn names_are_compared_up_to_a_length() {
        let names = || KEYS.iter().map(|key| key.name);
        assert_eq!(nearest("sflow_rrdirs", names()), Some("sflow_rrddir"));
        assert_eq!(nearest(&"sflow_".repeat(100_000), names()), None);
        for name in names() {
            let padding = "x".repeat(MISSPELT_MAX - name.len() + 1);
            let similarity = strsim::normalized_damerau_levenshtein(&(padding + name), name);
            assert!(similarity < 0.6, "{name}: no suggestion is lost");
        }
    }

    #[test]
    fn a_list_of_separators_is_no_list() {
        for key in KEYS.iter().filter(|key| key.list) {
            for value in [",", "\" \"", ", ,"] {
                let text = format!("<ixp>\n{} = {value}\n</ixp>", key.name);
                let error = Config::from_text("t.conf", &text, &[]).unwrap_err().to_string();
                assert!(error.contains(key.expected), "{error}");
            }
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("65536", Some(65_536)),
            ("64k", Some(65_536)),
            ("8M", Some(8 << 20)),
            ("1G", Some(1 << 30)),
            ("65535", None),
            ("2G", None),
            ("M", None),
            ("", None),
            ("-1", None),
            ("99999999999999999999G", None),
            ("18446744073709551615G", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(bytes(text, 64 << 10..=1 << 30), expected, "{text}");
        }
    }

    #[test]
    fn options_of_sflowtool() {
        let v4 = "0.0.0.0:7000".parse().unwrap();
        let v6 = "[::]:7000".parse().unwrap();
        let every = vec![every_address(6343)];
        for (options, expected) in [
            ("-l", Some(every.clone())),
            ("-4 -p 7000 -l", Some(vec![v4])),
            ("-6 -p7000", Some(vec![v6])),
            ("-4 -6", Some(every)),
            ("-p", None),
            ("-p x", None),
            ("-p 0", None),
            ("-p 65536", None),
        ] {
            assert_eq!(sflowtool_listen(options), expected, "{options}");
        }
    }

    #[test]
    fn excerpts_hide_users_and_passwords() {
        assert_eq!(excerpt("htp://u:p@h/x"), "htp://***@h/x");
        assert_eq!(excerpt(&"\u{e9}".repeat(81)), "\u{e9}".repeat(80) + "...");
        assert_eq!(excerpt("a\nb"), "a b");
        assert_eq!(excerpt("a@b//c"), "a@b//c");
    }

    proptest! {
        #[test]
        fn arbitrary_values_never_panic(
            key in 0..KEYS.len(),
            value in "[ -~]{0,20}|[0-9a-f:./ ,kMG\\[\\]]{0,20}",
        ) {
            let key = KEYS[key].name;
            let text = format!("<ixp>\n{key} = {value}\n</ixp>");
            match Config::from_text("t.conf", &text, &[]) {
                Ok(config) => drop(config.to_toml().parse::<toml::Table>().unwrap()),
                Err(error) => prop_assert!(error.to_string().starts_with("t.conf:"), "{error}"),
            }
            let set = format!("{key}={value}");
            if let Err(error) = Config::from_text("t.conf", "<ixp>\n</ixp>", &[set]) {
                prop_assert!(error.to_string().starts_with("--set: "), "{error}");
            }
        }
    }
}
